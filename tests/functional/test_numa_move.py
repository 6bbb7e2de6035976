#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""
Memory that follows a load to another NUMA node: Debian's kernel as a host with
nodes, a load that goes from one to another, and those who move its memory: the
kernel, in the order of addresses, and the mover of numa-sched.  What is
compared is the share of accesses to another node, counted by a plugin, in a
window of the guest's time; the same guest runs all that is compared.
"""

import unittest

from pmemha import TestCase, main, skip_unless
from pmemha.linux import guest_dir
from pmemha.numaguest import NumaGuest, have_mover, have_sources
from pmemha.numakernel import NoKernel, debian_kernel
from pmemha.ranks import overlap, ranks, spearman

NO_SOURCES = 'the plugin is built with the sources of QEMU: run scripts/build'
NO_MOVER = 'accel/kvm/numa-sched/mover.c is not there'

MIB = 32                        # of the load
ALL = MIB * 256                 # pages
LARGE = MIB // 2                # large pages

# The first scans of AutoNUMA are over by then.
LONG = 3000

KDAMONDS = '/sys/kernel/mm/damon/admin/kdamonds'        # of the guest

DISTANCE = [[10, 16, 32, 33], [16, 10, 25, 32], [32, 25, 10, 16],
            [33, 32, 16, 10]]
LATENCY = [[100, 140, 350, 360], [140, 100, 250, 350], [350, 250, 100, 140],
           [360, 350, 140, 100]]


def setUpModule():
    guest_dir()                         # not within the time of a test


class Moves(TestCase):

    timeout = 300

    def host(self, **kw):
        guest = self.adopt(NumaGuest(self.work, **kw))
        return guest.boot()

    def runs(self, guest, *peers, **common):
        """{name: result}; a peer is (name, its peer, options)"""
        found = {}
        for name, peer, options in peers:
            found[name] = guest.run(peer, **{**common, **options})
            self.diag(f'{name}: {found[name]}')
            for note in found[name].notes:
                self.diag(note)
        return found

    def all_moved(self, *results):
        for r in results:
            self.assertGreaterEqual(r.moved, ALL * 97 // 100, r)

    def none_lost(self, *results):
        """No call failed, nothing moved twice, no large page was split."""
        for r in results:
            self.assertEqual((r.failed, r.again, r.split, r.kept),
                             (0, 0, 0, r.large), r)


class Ranks(unittest.TestCase):
    """Examples whose results are known"""

    def test_ties_share_a_rank(self):
        self.assertEqual(ranks([7, 3, 3, 9, 3]), [4, 2, 2, 5, 2])

    def test_correlation(self):
        # IQ and hours of television, the usual example: -29/165
        self.assertAlmostEqual(spearman(
            [106, 100, 86, 101, 99, 103, 97, 113, 112, 110],
            [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]), -29 / 165)
        # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5)
        self.assertAlmostEqual(spearman([1, 2, 2, 4], [10, 30, 20, 40]), .9**.5)
        self.assertEqual(spearman([5, 6, 7], [1, 10, 11]), 1)
        self.assertEqual(spearman([5, 6, 7], [3, 2, 1]), -1)
        self.assertEqual(spearman([5, 5, 5], [3, 2, 1]), 0)

    def test_overlap(self):
        self.assertEqual(overlap(range(10), range(10), .2), 1)
        self.assertEqual(overlap(range(10), range(10, 0, -1), .2), 0)
        self.assertEqual(overlap([0, 0, 0, 9], [1, 2, 3, 4], .5), 2 / 3)
        self.assertAlmostEqual(overlap([1] * 10, range(10), .2), .2)


class Peers(Moves):
    """The bed itself: what is known of the others is seen."""

    @skip_unless(have_sources, NO_SOURCES)
    def test_known(self):
        g = self.host()
        r = self.runs(
            g, ('static', 'none', {}), ('order', 'order', {}),
            ('migrate_pages', 'migrate-pages', {}),
            ('AutoNUMA', 'autonuma', {'warm': LONG}),
            ('AutoNUMA, bind', 'autonuma', {'warm': LONG, 'bind': 1}),
            ('order, large', 'order', {'huge': 1}),
            ('again', 'order', {}))
        self.assertEqual((r['static'].area, r['static'].moved), (1, 0))
        # Half of the window passes until half of the pages have moved.
        self.assertGreater(r['order'].area, .45)
        self.assertLess(r['order'].area, .65)
        self.all_moved(r['order'], r['migrate_pages'], r['order, large'])
        self.assertEqual(r['migrate_pages'].calls, 1)
        self.assertLess(r['migrate_pages'].area, r['order'].area)
        self.assertGreater(r['AutoNUMA'].moved, ALL // 2)
        self.assertLess(r['AutoNUMA'].area, 1)
        # Linux leaves memory with an explicit policy alone.
        self.assertEqual((r['AutoNUMA, bind'].area, r['AutoNUMA, bind'].moved),
                         (1, 0))
        self.assertEqual((r['order, large'].large, r['order, large'].kept),
                         (LARGE, LARGE))
        # The same run has the same result.
        self.assertAlmostEqual(r['again'].area, r['order'].area, delta=.02)

    @skip_unless(have_sources, NO_SOURCES)
    def test_four_nodes(self):
        g = self.host(nodes=4, cpus=1, mib=256, distance=DISTANCE,
                      hmat=LATENCY)
        node = '/sys/devices/system/node'
        self.assertEqual(
            [[int(d) for d in t.split()] for t in
             g.sh(f'cat {node}/node?/distance')], DISTANCE)
        # the best initiator of each alone
        self.assertEqual(
            g.sh(f'cat {node}/node?/access0/initiators/read_latency'),
            ['100'] * 4)
        far = {'from': 3, 'cpu_from': 3}
        near = {'from': 1, 'cpu_from': 1}
        r = self.runs(g, ('static, far', 'none', {**far, 'window': 1000}),
                      ('static, near', 'none', {**near, 'window': 1000}),
                      ('order, far', 'order', far))
        # Every access is one from node 0 to the node it was made on.
        self.assertEqual(r['static, far'].cost(LATENCY), LATENCY[0][3])
        self.assertEqual(r['static, near'].cost(LATENCY), LATENCY[0][1])
        self.all_moved(r['order, far'])
        self.assertLess(r['order, far'].remote[-1], .15)
        self.assertLess(r['order, far'].cost(LATENCY), 300)


class Ours(Moves):
    """QEMU's mover, told or finding out what is hot, against the others"""

    tells = False

    @skip_unless(have_mover, NO_MOVER)
    def test_exact_heat(self):
        g = self.host()
        r = self.runs(
            g, ('order', 'order', {}), ('blind', 'blind', {}),
            ('heat', 'heat', {}),
            ('heat, bind', 'heat', {'bind': 1}),
            ('stops', 'heat', {'epsilon': 250}),
            ('order, even', 'order', {'skew': 0}),
            ('heat, even', 'heat', {'skew': 0, 'epsilon': 250}),
            ('order, 0.7', 'order', {'skew': 70}),
            ('heat, 0.7', 'heat', {'skew': 70}),
            ('large', 'heat', {'huge': 1}),
            ('phases', 'heat', {'phase': 5000, 'window': 15000,
                                'interval': 100, 'epsilon': 250}))
        self.all_moved(r['order'], r['blind'], r['heat'], r['heat, bind'],
                       r['heat, even'], r['large'])
        self.none_lost(*(r[n] for n in ('blind', 'heat', 'heat, bind', 'stops',
                                        'heat, even', 'heat, 0.7', 'large',
                                        'phases')))
        self.assertLessEqual(r['heat'].area, .15)
        self.assertLess(r['heat'].area, r['order'].area / 3)
        # That is not because it takes more bandwidth than allowed.
        self.assertGreater(r['blind'].area, r['order'].area * .85)
        self.assertLess(r['heat, 0.7'].area, r['order, 0.7'].area * .7)
        self.assertAlmostEqual(r['heat, bind'].area, r['heat'].area,
                               delta=.02)
        # What is hardly used stays, and costs little.
        self.assertLess(r['stops'].moved, ALL // 2)
        self.assertLess(r['stops'].area, .2)
        # Where all are used the same, order gains nothing, and costs nothing.
        self.assertLess(r['heat, even'].area, r['order, even'].area + .02)
        # Large pages move whole; Linux 6.1 does not tell which are.
        self.assertEqual(r['large'].large, LARGE)
        self.assertEqual(r['large'].whole, LARGE if self.tells else 0)
        self.assertEqual(r['heat'].wasted, 0)
        # What the load draws from is what is counted.
        self.assertGreater(r['heat'].correlation, .9)
        self.assertLessEqual(r['phases'].wasted, 2)     # changes

    @skip_unless(have_mover, NO_MOVER)
    def test_four_nodes(self):
        """From the farthest node, and from one that is near"""
        g = self.host(nodes=4, cpus=1, mib=256, distance=DISTANCE,
                      hmat=LATENCY)
        far = {'from': 3, 'cpu_from': 3}
        near = {'from': 1, 'cpu_from': 1}
        r = self.runs(g, ('order, far', 'order', far),
                      ('heat, far', 'heat', far),
                      ('order, near', 'order', near),
                      ('heat, near', 'heat', near))
        for way, node in ('far', 3), ('near', 1):
            heat, order = r['heat, ' + way], r['order, ' + way]
            self.all_moved(heat)
            self.none_lost(heat)
            self.assertLessEqual(heat.area, .15)
            self.assertLess(heat.area, order.area / 3)
            # Nothing went by way of a third node.
            self.assertEqual({b for step in heat.steps for _, b in step},
                             {0, node})
            self.assertLess(heat.cost(LATENCY), order.cost(LATENCY))

    def knows(self, result):
        """
        What it knew of pages when the load left them.  By chance: 0 and 0.1; the
        least of five runs: 0.60 and 0.72.
        """
        self.assertGreater(result.correlation, .5)
        self.assertGreater(result.top, .6)

    def estimators(self, g, *names):
        # Windows are short: the load uses all pages within 0.1 s.
        found = {'warm': 1000, 'look': 20}
        r = self.runs(g, ('order', 'order', {'warm': found['warm']}),
                      ('AutoNUMA', 'autonuma', {'warm': LONG}),
                      *((name, name, found) for name in names))
        for name in names:
            self.diag(f'{name}: {r[name].costs(r["order"])}')
            self.assertLessEqual(r[name].area, r['order'].area / 2, name)
            self.assertLess(r[name].area, r['AutoNUMA'].area, name)
            self.knows(r[name])
            self.none_lost(r[name])
            if name != 'auto':
                self.assertEqual(r[name].estimator, name)
        return r

    @skip_unless(have_mover, NO_MOVER)
    def test_estimators(self):
        r = self.estimators(self.host(), 'soft-dirty', 'auto')
        self.assertNotEqual(r['auto'].estimator, 'none')


class Newer(Ours):
    """With the kernel of Debian 13, which tells more"""

    tells = True

    def host(self, **kw):
        try:
            kernel = debian_kernel()
        except NoKernel as e:
            raise unittest.SkipTest(str(e)) from e
        return super().host(kernel=kernel, **kw)

    @skip_unless(have_mover, NO_MOVER)
    def test_estimators(self):
        self.estimators(self.host(), 'soft-dirty', 'pagemap-scan', 'auto')

    @skip_unless(have_mover, NO_MOVER)
    def test_costs(self):
        """Of looks, by how often there is one"""
        g = self.host()
        warm = {'warm': 4000}
        r = self.runs(g, ('order', 'order', warm),
                      *((f'{name}, {ms} ms', name, {**warm, 'look': ms})
                        for name in ('pagemap-scan', 'soft-dirty')
                        for ms in (20, 50, 100, 500)))
        order = r.pop('order')
        for name, result in r.items():
            self.diag(f'{name}: {result.costs(order)}')
            self.none_lost(result)
            self.assertEqual(f'{result.estimator},', name.split()[0])
            if result.look <= 50:
                self.knows(result)
            # No more than is done by not looking at all, in order of address
            self.assertLess(result.area, order.area + .02)

    @skip_unless(have_mover, NO_MOVER)
    def test_damon(self):
        g = self.host()
        self.assertEqual(g.sh(f'cat {KDAMONDS}/nr_kdamonds'), ['0'])
        # The TLB is that of a real CPU, for all of them.
        tlb = {'tlb': 1000}
        found = {'warm': 4000, 'look': 500, **tlb}
        near = {'clustered': 256}               # 1 MiB
        tlb['warm'] = found['warm']
        r = self.runs(g, ('order', 'order', tlb), ('damon', 'damon', found),
                      ('order, near', 'order', {**near, **tlb}),
                      ('damon, near', 'damon', {**near, **found}))
        for name in ('damon', 'damon, near'):
            self.none_lost(r[name])
            self.assertEqual(r[name].estimator, 'damon')
            order = r[name.replace('damon', 'order')]
            self.diag(f'{name}: {r[name].area / order.area:.2f} of the area '
                      f'of address order, {r[name].work / order.work:.2f} of '
                      'its accesses')
            self.diag(f'{name}: {r[name].costs(order)}')
        self.assertGreater(r['damon, near'].correlation, .5)
        # It sees regions.  Where hot pages have cold neighbours, it does not
        # know more than that: at least, little is lost.
        self.assertLessEqual(r['damon, near'].area,
                             r['order, near'].area / 2)
        self.assertLess(r['damon'].area, r['order'].area * 1.4)
        self.assertEqual(g.sh(f'cat {KDAMONDS}/nr_kdamonds'), ['0'])

    @skip_unless(have_mover, NO_MOVER)
    def test_damon_is_shared(self):
        g = self.host()
        refused = f'cd {KDAMONDS}; numaload peer=damon run=0 && exit 1; ' \
            'cat nr_kdamonds'

        def state(is_on):
            return f'until [ $(cat {KDAMONDS}/0/state) = {is_on} ]; do ' \
                'sleep 0.1; done'
        # What another has prepared stays.
        g.sh(f'echo 1 > {KDAMONDS}/nr_kdamonds; '
             f'echo 1 > {KDAMONDS}/0/contexts/nr_contexts')
        *why, n = g.sh(f'({refused})')
        self.assertIn("nr_kdamonds is '1', not '0'", ' '.join(why))
        self.assertEqual(n, '1')
        self.assertEqual(g.sh(f'cat {KDAMONDS}/0/contexts/nr_contexts'),
                         ['1'])
        g.sh(f'echo 0 > {KDAMONDS}/nr_kdamonds')
        # One that is killed leaves it off, and taken.
        g.sh(f'(numaload peer=damon run=0 warm=60000 & {state("on")}; '
             f'kill -9 $!; wait $!; {state("off")})', timeout=60)
        *why, n = g.sh(f'({refused})')
        self.assertIn('write 0 there', ' '.join(why))
        self.assertEqual(n, '1')
        g.sh(f'echo 0 > {KDAMONDS}/nr_kdamonds')
        g.run('damon', warm=1000, window=500, look=200)
        self.assertEqual(g.sh(f'cat {KDAMONDS}/nr_kdamonds'), ['0'])


if __name__ == '__main__':
    main()
