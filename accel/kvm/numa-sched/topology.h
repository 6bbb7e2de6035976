/*
 * NUMA scheduler: the nodes of a host
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Read from sysfs below a root, which may be a copy of another host's: see
 * Documentation/ABI/stable/sysfs-devices-node and
 * Documentation/admin-guide/cputopology.rst of the kernel.  Nothing in those
 * files is trusted.  No function here keeps state: any thread may call them.
 */

#ifndef NUMA_SCHED_TOPOLOGY_H
#define NUMA_SCHED_TOPOLOGY_H

#define NS_MAX_NODES    1024    /* CONFIG_NODES_SHIFT is 10 at most */
#define NS_MAX_CPUS     65536   /* ids; CONFIG_NR_CPUS is 8192 at most */
#define NS_MAX_BYTES    (1ull << 50)            /* of one node */
#define NS_MAX_LATENCY  65535           /* ns; more is an error's mark */
#define NS_MAX_SLIT     254                     /* 255 is "cannot be reached" */

typedef struct NsNode {
    uint32_t id;                /* the host's number of it */
    uint32_t cpus;              /* online */
    uint32_t cores;             /* that these are threads of */
    uint32_t *cpu;              /* ids of the online CPUs, ascending */
    uint64_t size;              /* bytes of memory; 0: it has none */
    uint64_t free;              /* bytes, at most size */
    uint32_t access_ns;         /* reads by its best initiators; 0: unknown */
} NsNode;

typedef struct NsTopology {
    uint32_t n;                 /* at least 1 */
    NsNode *node;               /* by ascending id */
    /* n * n, [i * n + j]: the firmware's distance from i to j; 0: not known */
    uint8_t *slit;
    /* n * n: i has CPUs and is a best initiator of j, in class 1, or else 0 */
    bool *initiator;
    /* For people: what was missing, or was not believed; char * */
    GPtrArray *notes;
    /* By id: the index of the node that it is, or was made one with, or -1 */
    int16_t index[NS_MAX_NODES];
    /* What the files said that tell of a change; NULL: they do not tell */
    GBytes *mark;
} NsTopology;

/*
 * Read the topology below @root ("/" for this host).  A file that is missing or
 * malformed makes its figure unknown and adds a note; nodes are what
 * devices/system/node/nodeN is, online ones where `online` exists.  Without any
 * node all online CPUs and the memory of proc/meminfo are node 0.  Nodes that
 * claim the same CPUs are made one.  NULL with @errp set: there is no CPU, or a
 * number is out of the ranges above in a way that leaves no host to plan for.
 */
NsTopology *ns_topology_read(const char *root, Error **errp);

/*
 * What ns_topology_read() returns now, from what it returned before.  While
 * the nodes that are there, the online CPUs and the CPUs of each node are the
 * same, only the memory of the nodes is read again: cores, distances and
 * latencies are those of the last whole read.  Takes @t, which may be NULL, and
 * may return it; NULL with @errp set as above.  One thread at a time for a @t.
 */
NsTopology *ns_topology_refresh(NsTopology *t, const char *root, Error **errp);

void ns_topology_free(NsTopology *t);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsTopology, ns_topology_free)

/* The index of the node with that id; -1 if there is none */
int ns_topology_find(const NsTopology *t, uint64_t id);

#endif
