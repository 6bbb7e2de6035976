# SPDX-License-Identifier: GPL-2.0-or-later
"""
docs/devel/numa-sched.rst once more: what placements on NUMA nodes cost, the
cheapest of them, and how a host is read.  It shares nothing with the C code.
"""

import glob
import heapq
import os
import re

PAGE = 4096
MILLION = 1000000
SHARE = 500000                  # nano-CPU for 1/1000 CPU above the cores
CPU, INTENSITY = 1000, 500      # of a group that does not say
BANDWIDTH, HORIZON = 256 << 20, 60
# A group without a place costs more than all that have one.
NOWHERE = 1 << 90
# Of prices of memory, in nano-CPU per page
FINE = 1 << 20


class Option:
    """A node, and whether memory follows to it"""

    __slots__ = ('node', 'memory', 'run', 'copy', 'cold', 'pages', 'cost')

    def __init__(self, node, memory, run, copy, cold, pages):
        self.node, self.memory, self.pages = node, memory, pages
        self.run, self.copy, self.cold = run, copy, cold
        self.cost = run + copy + cold

    def printed(self):
        return {'node': self.node, 'memory': self.memory, 'run': self.run,
                'copy': self.copy, 'cold': self.cold,
                'bytes': self.pages * PAGE}


class Problem:
    """
    A workload on a host: `nodes` and `latency` as a NumaPlan has them.  Of
    `nodes` only id, cpus, cores and size are taken, and free as the topology
    has it; what others take comes from the workload.
    """

    def __init__(self, nodes, latency, workload):
        self.ids = [n['id'] for n in nodes]
        self.ratio = {(e['from'], e['to']): e['ratio'] for e in latency}
        self.cores = {n['id']: n['cores'] for n in nodes}
        self.cpus = {n['id']: n['cpus'] for n in nodes}
        self.size = {n['id']: n['size'] for n in nodes}
        self.free = {n['id']: n['free'] for n in nodes}
        self.others = dict.fromkeys(self.ids, 0)
        for use in workload.get('nodes', ()):
            self.others[use['node']] = use.get('cpu', 0)
            if 'free' in use:
                self.free[use['node']] = use['free']
        self.bandwidth = workload.get('bandwidth', BANDWIDTH)
        self.horizon = workload.get('horizon', HORIZON)
        self.groups = workload['groups']
        self.use = [g.get('cpu', CPU) for g in self.groups]
        self.home = [g.get('home') for g in self.groups]
        start = dict(self.others)
        for use, home in zip(self.use, self.home):
            if home is not None:
                start[home] += use
        self.limit = {i: max(1000 * self.cpus[i], start[i])
                      for i in self.ids}
        self.options = [self.options_of(g) for g in self.groups]

    def allowed(self, group):
        """Nodes that it may run on"""
        return [i for i in self.ids if self.cpus[i] and
                i in group.get('nodes', self.ids)]

    def waits(self, group, i, share):
        """`run`, with these shares of memory"""
        m = group.get('intensity', INTENSITY)
        mean = MILLION if not share else \
            sum(p * self.ratio[i, j] for j, p in share.items()) // MILLION
        return group.get('cpu', CPU) * ((1000 - m) * 1000 + m * mean // 1000)

    def options_of(self, group):
        """All of a group that are allowed; the cheapest first"""
        return self.options_on(group, self.allowed(group))

    def options_on(self, group, nodes):
        pages = {}
        for entry in group.get('working-set', ()):
            pages[entry['node']] = entry['bytes'] // PAGE
        whole = sum(pages.values())
        share = {j: w * MILLION // whole
                 for j, w in pages.items()} if whole else {}
        found = []
        for i in nodes:
            home, cold = group.get('home'), 0
            if home is not None and home != i:
                cold = 5000 * group.get('cpu', CPU) // self.horizon
            found.append(Option(i, 'stay', self.waits(group, i, share), 0,
                                cold, 0))
            if group.get('pinned') or not self.size[i]:
                continue
            # A node may have memory that no entry is known of.
            far = [j for j, w in pages.items()
                   if w and self.ratio[i, j] > self.ratio[i, i]]
            much = sum(pages[j] for j in far)
            if not much or PAGE * much > self.free[i]:
                continue
            can = self.bandwidth // PAGE * self.horizon
            if much <= can:
                rest = much * MILLION // (2 * can)
            else:
                rest = MILLION - can * MILLION // (2 * much)
            then = dict(share)
            for j in far:
                then[j] = share[j] * rest // MILLION
            then[i] = share.get(i, 0) + sum(share[j] - then[j] for j in far)
            found.append(Option(i, 'follow', self.waits(group, i, then),
                                much * 1500 // self.horizon, cold, much))
        return sorted(found, key=lambda o: o.cost)

    def lost(self, i, load):
        """share(i)"""
        if not self.cpus[i]:
            return 0
        return SHARE * max(0, load - 1000 * self.cores[i])

    def loads(self, choices):
        """{node: load}; a choice is an Option, or None"""
        load = dict(self.others)
        for use, home, o in zip(self.use, self.home, choices):
            at = home if o is None else o.node
            if at is not None:
                load[at] += use
        return load

    def total(self, choices):
        load = self.loads(choices)
        return sum(o.cost for o in choices if o) + \
            sum(self.lost(i, load[i]) for i in self.ids)

    def wrong(self, choices):
        """Why a placement is not valid, or None"""
        moved = dict.fromkeys(self.ids, 0)
        for g, o in zip(self.groups, choices):
            if o is None:
                continue
            if o.node not in self.allowed(g):
                return f"{g['name']} can not be on node {o.node}"
            moved[o.node] += o.pages * PAGE
        for i, load in self.loads(choices).items():
            if load > self.limit[i]:
                return f'node {i}: load {load} of {self.limit[i]}'
            if moved[i] and moved[i] > self.free[i]:
                return f'node {i}: {moved[i]} bytes for {self.free[i]}'
        return None

    def before(self):
        """The cost of no change, or None"""
        if None in self.home:
            return None
        choices = []
        for g, home in zip(self.groups, self.home):
            if not self.cpus[home]:
                return None
            choices += [o for o in self.options_on(g, [home])
                        if o.memory == 'stay']
        return self.total(choices)

    def improved(self, choices):
        """The total after moves and exchanges, as long as they save"""
        best, again = self.total(choices), True

        def attempt(changes):
            nonlocal best, choices
            new = list(choices)
            for g, o in changes:
                new[g] = o
            total = self.total(new)
            if total < best and self.wrong(new) is None:
                best, choices = total, new
                return True
            return False

        placed = [g for g, o in enumerate(choices) if o]
        while again:
            again = False
            for g in placed:
                for o in self.options[g]:
                    again |= attempt([(g, o)])
            for a in placed:
                for b in placed[:a]:
                    x, y = choices[a].node, choices[b].node
                    there = [o for o in self.options[a] if o.node == y][:1]
                    back = [o for o in self.options[b] if o.node == x][:1]
                    if x != y and there and back:
                        again |= attempt([(a, there[0]), (b, back[0])])
        return best

    def search(self, **kw):
        return Search(self, **kw)


class Search:
    """
    The cheapest placement, by branch and bound.

    Two bounds, both of them for what is decided (groups up to one in a fixed
    order) and the best that the others might do:

    - each of the others at what it adds to the nodes as they are by now; as
      share() is convex none adds less later,
    - prices for CPU time and memory of each node (Lagrange): the others pay
      these and nothing else, so each chooses for itself; nodes take the total
      that is best for them, of those that sums of groups can be.

    All in integers.  With steps=None it ends with the optimum.  Otherwise
    `bound` is what no placement is below, when the steps are used up.
    """

    def __init__(self, problem, known=None, steps=None, descents=60):
        self.p = p = problem
        self.best = known
        self.choices = None
        self.exact = True
        self.steps = steps
        self.taken = 0
        self.lists = []
        for g, options in enumerate(p.options):
            rows = [(o.cost, o.node, o.pages, o) for o in options
                    if p.others[o.node] + p.use[g] <= p.limit[o.node]]
            rows.append((NOWHERE, p.home[g], 0, None))
            self.lists.append(rows)
        # First the large ones: they decide most.
        self.order = sorted(
            range(len(self.lists)),
            key=lambda g: (-p.use[g] * MILLION
                           - self.spread(self.lists[g]), g))
        self.free = {i: max(0, p.free[i]) // PAGE for i in p.ids}
        self.sums = {i: self.reachable(i) for i in p.ids}
        self.price = dict.fromkeys(p.ids, 0)
        self.mem_price = dict.fromkeys(p.ids, 0)
        self.bound = self.run(descents)

    @staticmethod
    def spread(rows):
        costs = [r[0] for r in rows if r[3]]
        return max(costs) - costs[0] if costs else 0

    def reachable(self, i):
        """Loads that node i may have, or None for any"""
        found = {self.p.others[i]}
        for g, rows in enumerate(self.lists):
            if any(r[1] == i for r in rows):
                use = self.p.use[g]
                found |= {x + use for x in found
                          if x + use <= self.p.limit[i]}
                if len(found) > 3000:
                    return None
        return sorted(found)

    def node_terms(self, i, load, pages):
        """What node i pays at best, above what its load has paid, and where"""
        price, mem = self.price[i], self.mem_price[i]
        lost = self.p.lost
        if self.sums[i] is None:
            marks = {load, self.p.limit[i],
                     max(load, min(self.p.limit[i],
                                   1000 * self.p.cores[i]))}
        else:
            marks = [x for x in self.sums[i] if x >= load]
        least, at = min(((lost(i, x) - price * (x - load), x)
                         for x in marks), default=(0, load))
        # The price of memory that is left over, rounded up
        return least - -(-(self.free[i] - pages) * mem // FINE), at

    def priced(self, g):
        """(cost at the prices, row) that group g chooses"""
        use, price, mem = self.p.use[g], self.price, self.mem_price
        least = row = None
        for r in self.lists[g]:
            if r[1] is None:
                c = r[0]
            else:
                c = r[0] + use * price[r[1]] + r[2] * mem[r[1]] // FINE
            if least is None or c < least:
                least, row = c, r
        return least, row

    def descend(self, rounds):
        """Prices for a good bound (subgradients with Polyak's step)"""
        p, top = self.p, None
        kept = self.price, self.mem_price
        goal, scale, stale = self.best, 1.0, 0
        for _ in range(rounds):
            value, use, pages = 0, dict(p.others), dict.fromkeys(p.ids, 0)
            for g in range(len(self.lists)):
                c, r = self.priced(g)
                value += c
                if r[1] is not None:
                    use[r[1]] += p.use[g]
                    pages[r[1]] += r[2]
            over = {}
            for i in p.ids:
                v, at = self.node_terms(i, p.others[i], 0)
                value += v
                over[i] = use[i] - at
            if top is None or value > top:
                top, kept = value, (dict(self.price), dict(self.mem_price))
                stale = 0
            else:
                stale += 1
                if stale % 5 == 0:
                    scale *= 0.6
            room = {i: pages[i] - self.free[i] for i in p.ids}
            unit = {i: max(1, self.free[i]) for i in p.ids}
            norm = sum((x / 1000) ** 2 for x in over.values()) + \
                sum((room[i] / unit[i]) ** 2 for i in p.ids
                    if room[i] > 0 or self.mem_price[i])
            gap = (goal if goal is not None else top * 1.02 + 1) - value
            if norm == 0 or gap <= 0 or scale < 1e-3:
                break
            step = scale * min(gap, 1e18) / norm
            for i in p.ids:
                # A price below 0 is of use, too: with sums that are reached
                # a node may want a load.  It stays valid.
                self.price[i] += int(step * over[i] / 1e6)
                self.mem_price[i] = max(0, self.mem_price[i] + int(
                    step * room[i] / unit[i] / unit[i] * FINE))
        self.price, self.mem_price = kept
        return top

    def greedy(self):
        """Something to begin with"""
        p, load, used, choices = self.p, dict(self.p.others), {}, {}
        for g in self.order:
            best = None
            for c, i, pages, o in self.lists[g]:
                if i is None:
                    add = 0
                else:
                    new = load[i] + p.use[g]
                    if new > p.limit[i] or \
                            used.get(i, 0) + pages > self.free[i]:
                        continue
                    add = p.lost(i, new) - p.lost(i, load[i])
                if best is None or c + add < best[0]:
                    best = c + add, i, pages, o
            if best is None:
                return
            _, i, pages, o = best
            choices[g] = o
            if i is not None:
                load[i] += p.use[g]
                used[i] = used.get(i, 0) + pages
        choices = [choices[g] for g in range(len(self.lists))]
        if p.wrong(choices) is None:
            self.found(p.total(choices) +
                       NOWHERE * choices.count(None), choices)

    def found(self, cost, choices):
        if self.best is None or cost < self.best:
            self.best, self.choices = cost, choices

    def run(self, descents):
        if not self.lists:
            self.best = self.p.total([])
            return self.best
        self.greedy()
        self.descend(descents)
        tail = [0]
        for g in reversed(self.order):
            tail.append(tail[-1] + self.priced(g)[0])
        tail.reverse()
        terms = {}

        def term(i, load, pages):
            key = i, load, pages
            if key not in terms:
                terms[key] = self.node_terms(i, load, pages)[0]
            return terms[key]

        p, ids = self.p, self.p.ids
        load = tuple(p.others[i] for i in ids)
        at = {i: n for n, i in enumerate(ids)}
        lost = [p.lost(i, p.others[i]) for i in ids]
        base = sum(lost)
        dual = sum(term(i, p.others[i], 0) for i in ids)
        # (bound, -depth, number, depth, loads, pages, costs of groups, of
        #  sharing, sum of the terms of nodes, rows chosen)
        first = (max(tail[0] + dual, 0), 0, 0, 0, load, (0,) * len(ids), 0,
                 base, dual, ())
        heap, number = [first], 0
        bound = first[0]
        depth_end = len(self.order)
        # Best bound first, but dive where steps are not counted: the memory.
        while heap:
            if self.steps is None:
                state = heap.pop()
            else:
                state = heapq.heappop(heap)
                bound = max(bound, min(state[0], self.best
                                       if self.best is not None
                                       else state[0]))
            if self.best is not None and state[0] >= self.best:
                if self.steps is None:
                    continue
                return self.best
            if self.steps is not None and self.taken >= self.steps:
                self.exact = False
                return bound
            self.taken += 1
            _, _, _, depth, load, pages, paid, shared, dual, rows = state
            g = self.order[depth]
            new = []
            for row in self.lists[g]:
                c, i, much, o = row
                if i is None:
                    load2, pages2, shared2, dual2 = load, pages, shared, dual
                else:
                    n = at[i]
                    new_load = load[n] + p.use[g]
                    if new_load > p.limit[i] or \
                            much and pages[n] + much > self.free[i]:
                        continue
                    load2 = load[:n] + (new_load,) + load[n + 1:]
                    pages2 = pages[:n] + (pages[n] + much,) + pages[n + 1:] \
                        if much else pages
                    shared2 = shared + p.lost(i, new_load) - \
                        p.lost(i, load[n])
                    dual2 = dual - term(i, load[n], pages[n]) + \
                        term(i, new_load, pages2[n])
                paid2 = paid + c
                if depth + 1 == depth_end:
                    cost = paid2 + shared2
                    if self.best is None or cost < self.best:
                        chosen = dict(zip(self.order, rows + (o,)))
                        self.found(cost, [chosen[k]
                                          for k in range(depth_end)])
                    continue
                least = paid2 + tail[depth + 1] + dual2
                if self.best is not None and least >= self.best:
                    continue
                least = max(least, self.adds(depth + 1, load2, pages2, at) +
                            paid2 + shared2)
                if self.best is not None and least >= self.best:
                    continue
                number += 1
                new.append((least, -depth, number, depth + 1, load2, pages2,
                            paid2, shared2, dual2, rows + (o,)))
            if self.steps is None:
                heap += sorted(new, reverse=True)
            else:
                for state in new:
                    heapq.heappush(heap, state)
        return self.best

    def adds(self, depth, load, pages, at):
        """The least that the groups from depth on add"""
        p, total = self.p, 0
        for g in self.order[depth:]:
            least, use = None, p.use[g]
            for c, i, much, _ in self.lists[g]:
                # Sorted by cost, but for what nodes add
                if least is not None and c >= least:
                    break
                if i is not None:
                    n = at[i]
                    new = load[n] + use
                    if new > p.limit[i] or \
                            much and pages[n] + much > self.free[i]:
                        continue
                    full = 1000 * p.cores[i]
                    if new > full and p.cpus[i]:
                        c += SHARE * (new - max(full, load[n]))
                if least is None or c < least:
                    least = c
            if least is None:
                return NOWHERE * NOWHERE
            total += least
        return total


#
# The host
#

def cpus_of(text):
    """Ids of a list such as 0-3,8"""
    found = set()
    for part in text.replace('\0', '').strip().split(','):
        m = re.fullmatch(r'(\d+)(?:-(\d+))?(?::\d+/\d+)?', part.strip())
        if m:
            found |= set(range(int(m[1]), int(m[2] or m[1]) + 1))
    return found


def cpus_in(mask):
    """Ids of a mask such as 00000000,000000ff"""
    words = mask.replace('\0', '').strip().split(',')
    value = int(''.join(w.zfill(8) for w in words if w) or '0', 16)
    return {i for i in range(value.bit_length()) if value >> i & 1}


class Host:
    """A host as its sysfs has it"""

    def __init__(self, root):
        self.root = root
        self.base = os.path.join(root, 'sys/devices/system')
        online = self.read('cpu/online')
        self.online = cpus_of(online) if online else None
        self.nodes, self.own = {}, {}
        for path in glob.glob(glob.escape(self.base) + '/node/node*'):
            m = re.fullmatch(r'node(\d+)', os.path.basename(path))
            if m and os.path.isdir(path):
                self.own[int(m[1])] = self.cpus(int(m[1]))
        for i, cpus in self.own.items():
            cores = {self.core(c) for c in cpus}
            size, free = self.memory(i)
            self.nodes[i] = {'id': i, 'cpus': len(cpus), 'cores': len(cores),
                             'size': size, 'free': free}
        ids = sorted(self.nodes)
        self.slit = {}
        for i in ids:
            row = [int(x) for x in
                   (self.read(f'node/node{i}/distance') or '').split()
                   if x.isdigit()]
            if len(row) == len(ids):
                self.slit.update(((i, j), x) for j, x in zip(ids, row))
        # access1 is of CPUs only; the model does not tell them apart.
        self.access = {j: self.initiators(j, 'access1') or
                       self.initiators(j, 'access0') for j in ids}

    def read(self, name):
        try:
            with open(os.path.join(self.base, name), 'rb') as f:
                return f.read(1 << 20).decode(errors='replace')
        except OSError:
            return None

    def is_online(self, cpu):
        if self.online is not None and cpu not in self.online:
            return False
        return (self.read(f'cpu/cpu{cpu}/online') or '1').strip() != '0'

    def cpus(self, node):
        text = self.read(f'node/node{node}/cpulist')
        if text is not None and text.strip('\0\n '):
            found = cpus_of(text)
        else:
            found = cpus_in(self.read(f'node/node{node}/cpumap') or '')
        return {c for c in found if self.is_online(c)}

    def core(self, cpu):
        for name, parse in (('core_cpus_list', cpus_of),
                            ('thread_siblings_list', cpus_of),
                            ('core_cpus', cpus_in),
                            ('thread_siblings', cpus_in)):
            text = self.read(f'cpu/cpu{cpu}/topology/{name}')
            if text:
                siblings = parse(text)
                if cpu in siblings:
                    return tuple(sorted(siblings))
        return (cpu,)

    def memory(self, node):
        text = self.read(f'node/node{node}/meminfo') or ''
        found = []
        for key in ('MemTotal', 'MemFree'):
            m = re.search(rf'{key}:\s*(\d+) kB', text)
            found.append(int(m[1]) * 1024 if m else 0)
        return found

    def initiators(self, node, kind):
        """(ids, read latency), or None"""
        base = f'node/node{node}/{kind}/initiators'
        text = (self.read(f'{base}/read_latency') or '').strip()
        if not text.isdigit() or not 0 < int(text) <= 65535:
            return None
        found = {int(m[1]) for m in (
            re.fullmatch(r'node(\d+)', n)
            for n in os.listdir(os.path.join(self.base, base))) if m}
        return (found, int(text)) if found else None

    def shared(self):
        """Pairs of nodes that claim the same CPUs"""
        return [(i, j) for i in self.own for j in self.own
                if i < j and self.own[i] == self.own[j] != set()]

    def overlap(self):
        """Pairs of nodes that share CPUs, but not all"""
        return [(i, j) for i in self.own for j in self.own if i < j and
                self.own[i] & self.own[j] and self.own[i] != self.own[j]]

    def values(self, i, j):
        """{source: what L(i,j) may be}"""
        d = self.slit.get
        found = {}
        if 0 < d((i, j), 0) <= 254:
            found['slit'] = {d((i, j))}
        if self.access[j]:
            best, ns = self.access[j]
            if i in best:
                found['access'] = {ns}
            elif d((i, j)):
                found['access'] = {ns * d((i, j)) // d((b, j))
                                   for b in best if d((b, j))}
        return found
