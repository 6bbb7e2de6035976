/*
 * NUMA scheduler: how far memory is, measured
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What is measured, and when that is believed, is in docs/devel/numa-sched.rst.
 */

#ifndef NUMA_SCHED_MEASURE_H
#define NUMA_SCHED_MEASURE_H

#include "topology.h"

#define NS_MEASURE_TIMES    7           /* samples of each pair */
#define NS_MEASURE_ACCESSES 10000       /* of one sample */
#define NS_MEASURE_PAIRS    1024        /* more take too long anywhere */
#define NS_MEASURE_MIN      (32ull << 20)   /* bytes of a buffer */
#define NS_MEASURE_MAX      (256ull << 20)
#define NS_MEASURE_CHUNK    (2ull << 20)    /* written without a look around */
#define NS_MEASURE_BUDGET   (2ull * 1000000000)     /* ns of CPU time */
#define NS_MEASURE_DUTY     25          /* percent of a CPU */

/*
 * The pure part
 */

/*
 * @ps: n * n * NS_MEASURE_TIMES, the samples of a pair side by side, in
 * picoseconds for one access; 0: there is none.  Returns nanoseconds, n * n by
 * index of nodes, 0 where no CPU asks for memory; or NULL with *@why set, which
 * the caller frees: this tells nothing of the host.
 */
uint32_t *ns_measure_clean(const NsTopology *t, const uint32_t *ps,
                           char **why);

/* Pairs of a node with CPUs and a node with memory */
uint32_t ns_measure_pairs(const NsTopology *t);

/*
 * Bytes in which @cache bytes (of the largest cache; 0: not known) hold little;
 * 0: there are not so many.  A power of two.
 */
uint64_t ns_measure_bytes(uint64_t cache);

/* What was measured, for hosts whose nodes come and go */
typedef struct NsMeasured {
    uint32_t n;
    uint32_t *id;               /* of the nodes then */
    uint32_t *ns;               /* n * n */
} NsMeasured;

void ns_measured_free(NsMeasured *m);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(NsMeasured, ns_measured_free)

/*
 * For the nodes as they are now, n * n by index; 0 for those that were not
 * there.  @m may be NULL, and so may be what is returned.
 */
uint32_t *ns_measured_now(const NsMeasured *m, const NsTopology *t);

/*
 * Measuring
 */

/* The kernel; tests have their own.  Errors are negative errno. */
typedef struct NsMeasureSys {
    /* CPUs that this process may use: sets @cpu[id] of NS_MAX_CPUS */
    int (*allowed)(void *opaque, bool *cpu);
    /* The calling thread runs on the CPUs with @cpu[id] from now on. */
    int (*bind)(void *opaque, const bool *cpu);
    int (*cpu)(void *opaque);           /* on which it runs */
    uint64_t (*cache)(void *opaque, uint32_t cpu);  /* bytes; 0: not known */
    /* Bytes of the node: free, size, high watermark; false: not online */
    bool (*node)(void *opaque, int node, uint64_t *free, uint64_t *size,
                 uint64_t *watermark);
    /* Bytes that this process may still take, whatever the nodes have */
    uint64_t (*room)(void *opaque);
    /* A buffer whose pages, which are not there yet, should be on the node */
    int (*map)(void *opaque, uint32_t node, uint64_t bytes, void **buf);
    void (*unmap)(void *opaque, void *buf, uint64_t bytes);
    /* Write the part of the chain that is in these bytes of the buffer. */
    void (*fill)(void *opaque, void *buf, uint64_t bytes, uint64_t from,
                 uint64_t to);
    /* Pages of the buffer that are not on the node */
    int64_t (*elsewhere)(void *opaque, uint32_t node, void *buf,
                         uint64_t bytes);
    /* Follow the chain from *@at on; ns that it took */
    uint64_t (*chase)(void *opaque, void **at, uint32_t accesses);
    uint64_t (*used)(void *opaque);     /* ns of CPU time of this thread */
} NsMeasureSys;

extern const NsMeasureSys ns_measure_linux;

typedef struct NsMeasureConfig {
    const NsMeasureSys *sys;
    void *sys_opaque;           /* NULL for ns_measure_linux */
    uint64_t budget;            /* ns of CPU time */
    uint32_t duty;              /* percent of a CPU, 1 to 100 */
    /*
     * Called between any two chunks of work, with the ns in which nothing
     * should be done; false: stop.  NULL: there is no need to.
     */
    bool (*rest)(void *opaque, uint64_t ns);
    void *rest_opaque;
} NsMeasureConfig;

/*
 * Measure each pair of @t.  In a thread of its own: it ends up bound to CPUs of
 * some node.  NULL with *@why set, which the caller frees: it was not possible,
 * or tells nothing; with *@why NULL: there is nothing to measure, or it was
 * told to stop.
 */
NsMeasured *ns_measure(const NsTopology *t, const NsMeasureConfig *config,
                       char **why);

#endif
