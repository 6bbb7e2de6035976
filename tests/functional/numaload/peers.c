/*
 * A load with memory on the wrong node: what others do
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "numaload.h"

#define MOVE_MF_MOVE    2
#define TICK            50000000        /* ns */

void move(Load *l, uint32_t first, uint32_t n, int to, int *status)
{
    void **addr = calloc(n, sizeof(*addr));
    int *node = calloc(n, sizeof(*node));

    if (!addr || !node) {
        die("calloc");
    }
    for (uint32_t i = 0; i < n; i++) {
        addr[i] = (void *)(DATA + (uint64_t)(first + i) * PAGE);
        node[i] = to;
    }
    if (syscall(SYS_move_pages, 0, (unsigned long)n, addr,
                to < 0 ? NULL : node, status, MOVE_MF_MOVE) < 0) {
        die("move_pages");
    }
    l->calls += to >= 0;
    free(addr);
    free(node);
}

/* As numad, libvirt and cpusets do, but no faster than allowed */
static void in_order(Load *l, int64_t end)
{
    int *status = calloc(l->pages, sizeof(*status));
    int64_t start = now_ns(), t;
    uint32_t done = 0;

    if (!status) {
        die("calloc");
    }
    for (t = start + TICK; t < end && done < l->pages; t += TICK) {
        uint64_t due;

        sleep_until(t);
        due = (uint64_t)((now_ns() - start) / 1000000) * l->bandwidth /
              1000 / (PAGE / 1024);
        due = due < l->pages ? due : l->pages;
        if (due > done) {
            move(l, done, due - done, l->to, status);
            done = due;
        }
    }
    free(status);
}

static void at_once(Load *l, int64_t end)
{
    unsigned long from = 1ul << l->from, to = 1ul << l->to;

    l->calls++;
    if (syscall(SYS_migrate_pages, 0, 8 * sizeof(from), &from, &to) < 0) {
        die("migrate_pages");
    }
}

static void balancing(const char *value)
{
    FILE *f = fopen("/proc/sys/kernel/numa_balancing", "w");

    if (!f || fputs(value, f) < 0 || fclose(f)) {
        die("/proc/sys/kernel/numa_balancing");
    }
}

static void balance(Load *l)
{
    balancing("1");
}

static void still(Load *l)
{
    balancing("0");
}

const Peer peers[] = {
    { "none", still, NULL, NULL, NULL, NULL },
    { "autonuma", balance, NULL, NULL, NULL, NULL },
    { "order", still, NULL, in_order, NULL, NULL },
    { "migrate-pages", still, NULL, at_once, NULL, NULL },
    { NULL, NULL, NULL, NULL, NULL, NULL },
};
