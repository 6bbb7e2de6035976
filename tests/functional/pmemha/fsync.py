# SPDX-License-Identifier: GPL-2.0-or-later
"""Latency of fsync in a Debian guest: pmem-ha beside its peers.

All devices are in one guest and are measured in turn, so that the machine's
speed drifts for all of them alike; the plain nvdimm is measured twice in each
round, and the two against each other are the noise.
"""
import statistics

from .linux import PMEM_SIZE, LinuxGuest, latency
from .replica import Replica

ROUNDS = 5
CALLS = 200


def latencies(work, adopt, step):
    """{device: [p50, p99 of each round]} in us, in one guest, in turn"""
    replica = adopt(Replica(work, 'lat', size=PMEM_SIZE, image='lat.img'))
    replica.start()
    g = adopt(LinuxGuest(work, 'latency'))
    g.add('-object', replica.object('r0'))
    g.pmem('lat0.img', 0, device='pmem-ha',
           props='replica=r0,state-file=lat0.state')
    g.pmem('lat1.img', 1)
    g.add('-object', 'memory-backend-file,id=mem2,mem-path=lat2.img,'
          'size=256M,share=on', '-device',
          'virtio-pmem-pci,memdev=mem2,id=vp0')
    for name, size in (('lat0.img', PMEM_SIZE), ('lat1.img', PMEM_SIZE),
                       ('lat2.img', 256 << 20)):
        work.sparse(name, size)
    g.boot()
    disk = g.sh('for i in /sys/block/pmem*; do case $(readlink -f $i) in '
                '*/virtio*) basename $i;; esac; done')[0]
    g.sh(f'pmem-setup /vp /dev/{disk}', 120)
    g.sh('pmem-setup /ha region0', 120)
    g.sh('pmem-setup /nv region1', 120)
    g.qmp.poll('query-pmem-ha', lambda i: i[0]['state'] == 'in-sync', 60)
    order = (('pmem-ha', '/ha'), ('nvdimm', '/nv'), ('virtio-pmem', '/vp'),
             ('nvdimm again', '/nv'))
    found = {name: [] for name, _ in order}
    for n in range(ROUNDS + 1):
        step(f'measuring fsync, round {n} of {ROUNDS}')
        for name, path in order:
            lines = g.sh(f'fsyncer -q -m fsync -n {CALLS} -w 16 {path}/f', 120)
            lat = latency(lines)['fsync']
            if n:                       # the first round warms up
                found[name].append((lat['p50'] / 1000, lat['p99'] / 1000))
    g.kill()
    replica.kill()
    return found


def spread(values):
    return (f'{statistics.median(values):8.0f}  '
            f'({min(values):.0f} to {max(values):.0f})')


def report(lat):
    """Lines of a table, and ratios to the plain nvdimm"""
    yield ('fsync of 4 KiB, us: median of %d rounds of %d calls in turn, one '
           'guest, TCG' % (ROUNDS, CALLS))
    yield ''
    yield '%-16s %-28s %s' % ('', 'p50 (min to max)', 'p99 (min to max)')
    for name, rounds in lat.items():
        yield '%-16s %-28s %s' % (name, spread([r[0] for r in rounds]),
                                  spread([r[1] for r in rounds]))
    for peer in ('nvdimm', 'virtio-pmem'):
        ratios = [a[0] / b[0] for a, b in zip(lat['pmem-ha'], lat[peer])]
        yield '%-16s %s x %s (p50, round by round)' % (
            'pmem-ha', '%.2f (%.2f to %.2f)' % (
                statistics.median(ratios), min(ratios), max(ratios)), peer)
    noise = [a[0] / b[0] for a, b in zip(lat['nvdimm again'], lat['nvdimm'])]
    yield '%-16s %.2f (%.2f to %.2f) x nvdimm: the noise' % (
        'nvdimm again', statistics.median(noise), min(noise), max(noise))
