/*
 * NUMA scheduler: an order of nodes and groups that their numbers do not change
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "topology.h"
#include "order.h"

#define ROUNDS      3

/* The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint64_t first_of_pair(uint64_t a)
{
    return mix(a + 0x9e3779b97f4a7c15ull);
}

static uint64_t pair(uint64_t a, uint64_t b)
{
    return mix(first_of_pair(a) + b);
}

static uint64_t colour_of_node(const NsPlace *p)
{
    uint64_t c = pair(p->cpus, p->cores);

    return pair(pair(c, p->used), p->memory ? p->free + 1 : 0);
}

static uint64_t colour_of_group(const NsGroup *g)
{
    return pair(pair(g->cpu, g->intensity), g->pinned);
}

typedef struct Tie {
    uint64_t tie, first;        /* first: as the first of a pair */
} Tie;

static void tie_groups(const NsHost *h, const NsGroup *group, uint32_t n,
                       Tie *ties)
{
    for (uint32_t k = 0; k < n; k++) {
        const NsGroup *g = &group[k];

        for (uint32_t j = 0; j < h->n; j++) {
            Tie *t = &ties[(size_t)k * h->n + j];

            t->tie = pair(g->bytes[j], (g->home == j) * 2 +
                          (!g->allowed || g->allowed[j]));
            t->first = first_of_pair(t->tie);
        }
    }
}

static int by_colour(const void *a, const void *b, void *opaque)
{
    const uint64_t *colour = opaque;
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;

    if (colour[i] != colour[j]) {
        return colour[i] < colour[j] ? -1 : 1;
    }
    return i < j ? -1 : i > j;
}

static void sort(uint32_t *index, uint32_t n, uint64_t *colour)
{
    for (uint32_t i = 0; i < n; i++) {
        index[i] = i;
    }
    g_qsort_with_data(index, n, sizeof(*index), by_colour, colour);
}

void ns_order(const NsHost *h, const NsGroup *group, uint32_t n,
              uint32_t *nodes, uint32_t *groups)
{
    g_autofree uint64_t *node = g_new(uint64_t, h->n);
    g_autofree uint64_t *next = g_new(uint64_t, h->n);
    g_autofree uint64_t *member = g_new(uint64_t, MAX(n, 1));
    /* The same in each round: what a group has to do with a node */
    g_autofree Tie *ties = g_new(Tie, (size_t)n * h->n);

    for (uint32_t i = 0; i < h->n; i++) {
        node[i] = colour_of_node(&h->node[i]);
    }
    for (uint32_t k = 0; k < n; k++) {
        member[k] = colour_of_group(&group[k]);
    }
    tie_groups(h, group, n, ties);
    for (int round = 0; round < ROUNDS; round++) {
        /* Sums, because they do not depend on the order */
        for (uint32_t i = 0; i < h->n; i++) {
            uint64_t sum = 0;

            for (uint32_t j = 0; j < h->n; j++) {
                uint64_t both = pair(h->ratio[(size_t)i * h->n + j],
                                     h->ratio[(size_t)j * h->n + i]);

                sum += i == j ? mix(both) : pair(both, node[j]);
            }
            next[i] = pair(node[i], sum);
        }
        for (uint32_t k = 0; k < n; k++) {
            const Tie *t = &ties[(size_t)k * h->n];
            uint64_t before = member[k], sum = 0;
            uint64_t first = first_of_pair(before);

            for (uint32_t j = 0; j < h->n; j++) {
                sum += mix(t[j].first + node[j]);
                next[j] += mix(first + t[j].tie);
            }
            member[k] = pair(before, sum);
        }
        memcpy(node, next, h->n * sizeof(*node));
    }
    sort(nodes, h->n, node);
    sort(groups, n, member);
}
