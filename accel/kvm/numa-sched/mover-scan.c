/*
 * NUMA scheduler: find the memory that may move
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Memory is looked at in slices, so that neither a step nor what has to be
 * remembered grows with the guest.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/lockable.h"
#include "mover-int.h"

#define SLICE           (1ull << 30)    /* bytes in one step */
#define SLICE_PAGES     65536           /* addresses asked for: some 20 ms */

int ns_mover_ask(NsMover *m, uint32_t n)
{
    long ret;

    for (uint32_t i = 0; i < n; i++) {
        m->status[i] = -ENOENT;
    }
    ret = m->sys->move_pages(m->sys_opaque, n, m->page, NULL, m->status);
    return MIN(ret, 0);
}

bool ns_mover_is_large(NsMover *m, uint64_t addr)
{
    bitmap_zero(m->bits, NS_MOVE_SUBPAGES);
    return m->page_size == NS_MOVE_HUGE ||
           (m->sys->huge && !m->sys->huge(m->sys_opaque, addr, NS_MOVE_HUGE,
                                          m->bits) && test_bit(0, m->bits));
}

/* Would it gain?  Where it is not present, or on an unknown node, it stays. */
static bool gains(const NsMover *m, int status, int *src)
{
    const uint32_t *row = m->ratio + (size_t)m->cpu * m->n_nodes;

    *src = status < 0 ? -1 : ns_mover_index(m, status);
    return *src >= 0 && row[*src] > row[m->target];
}

/* Each as one, or (@whole) those of one aligned 2 MiB together */
static void add_units(NsMover *m, uint32_t n, bool whole)
{
    for (uint32_t i = 0; i < n; ) {
        uint64_t addr = (uintptr_t)m->page[i];
        NsMoveUnit u = { .addr = addr, .bytes = m->size[i] };
        uint32_t last = i + 1;
        int src = -1;
        bool found = gains(m, m->status[i], &src);

        if (whole && u.bytes == NS_PAGE && !(addr % NS_MOVE_HUGE) &&
            n - i >= NS_MOVE_SUBPAGES) {
            u.bytes = NS_MOVE_HUGE;
            last = i + NS_MOVE_SUBPAGES;
            for (uint32_t k = i + 1; k < last && !found; k++) {
                found = gains(m, m->status[k], &src);
            }
        }
        if (found) {
            u.src = src;
            g_array_append_val(m->unit, u);
            g_array_append_val(m->origin, u.src);
        }
        i = last;
    }
}

/* At most NS_MOVER_PIECE bytes, which end where a large page may end */
static int scan_piece(NsMover *m, uint64_t addr, uint64_t bytes,
                      uint64_t page_size, uint32_t *asked)
{
    bool guess = false;
    uint32_t n = 0;
    int ret;

    bitmap_zero(m->bits, NS_MOVER_PAGES);
    if (page_size > NS_PAGE) {
        bitmap_set(m->bits, 0, bytes / NS_PAGE);
    } else {
        guess = !m->sys->huge ||
                m->sys->huge(m->sys_opaque, addr, bytes, m->bits);
        m->guess |= guess;
    }
    for (uint64_t at = 0; at < bytes; at += m->size[n++]) {
        bool large = !guess && (addr + at) % NS_MOVE_HUGE == 0 &&
                     bytes - at >= NS_MOVE_HUGE &&
                     test_bit(at / NS_PAGE, m->bits);

        ns_mover_put(m, n, addr + at, large ? NS_MOVE_HUGE : NS_PAGE);
    }
    ret = ns_mover_ask(m, n);
    if (!ret) {
        add_units(m, n, guess);
    }
    *asked = n;
    return ret;
}

int ns_mover_scan(NsMover *m)
{
    uint64_t bytes_left = SLICE;
    uint32_t pages_left = SLICE_PAGES;

    while (m->at_range < m->n_ranges) {
        const NsMoverRange *r = &m->range[m->at_range];
        uint64_t addr = r->addr + m->at_byte, bytes = r->bytes - m->at_byte;
        uint32_t asked;
        int ret;

        if (!bytes) {
            m->at_range++;
            m->at_byte = 0;
            continue;
        }
        /* Room differs by the kind of page, so a window has one only. */
        if (m->unit->len >= NS_MOVER_WINDOW ||
            (m->page_size && m->page_size != r->page)) {
            break;
        }
        if (!bytes_left || pages_left < NS_MOVER_PAGES) {
            return 0;
        }
        m->page_size = r->page;
        bytes = MIN(bytes, NS_MOVER_PIECE - addr % NS_MOVE_HUGE);
        bytes = MIN(bytes, QEMU_ALIGN_UP(bytes_left, NS_MOVE_HUGE));
        ret = scan_piece(m, addr, bytes, r->page, &asked);
        if (ret) {
            return ret;
        }
        m->at_byte += bytes;
        bytes_left -= MIN(bytes, bytes_left);
        pages_left -= asked;
    }
    m->scanning = false;
    return 0;
}

static void take_scores(NsMover *m)
{
    NsMoveUnit *unit = (NsMoveUnit *)m->unit->data;
    g_autofree uint32_t *score = g_new0(uint32_t, NS_MOVE_SUBPAGES);

    for (guint i = 0; m->scores && i < m->unit->len; ) {
        uint32_t pages = unit[i].bytes / NS_PAGE, n = 1;

        /* A large page, or small ones that touch */
        while (pages == 1 && n < NS_MOVE_SUBPAGES && i + n < m->unit->len &&
               unit[i + n].bytes == NS_PAGE &&
               unit[i + n].addr == unit[i].addr + (uint64_t)n * NS_PAGE) {
            n++;
        }
        m->scores(m->scores_opaque, unit[i].addr, MAX(pages, n), score);
        if (pages == 1) {
            for (uint32_t k = 0; k < n; k++) {
                unit[i + k].score = score[k];
            }
        } else {
            uint64_t sum = 0;

            for (uint32_t k = 0; k < pages; k++) {
                sum += score[k];
            }
            unit[i].score = MIN(sum, UINT32_MAX);
        }
        i += n;
    }
}

static uint64_t gain_from(const NsMover *m, guint i, uint32_t src)
{
    const uint32_t *row = m->ratio + (size_t)m->cpu * m->n_nodes;

    return (uint64_t)g_array_index(m->unit, NsMoveUnit, i).score *
           (row[src] - row[m->target]);
}

/*
 * What is worth it is so in comparison to the whole window, as it was found.
 * Once the best of it has moved, ever more would be in comparison to the rest.
 */
static uint64_t least_worth(const NsMover *m)
{
    uint64_t pages = 0, mean = 0, rest = 0;

    for (guint i = 0; i < m->unit->len; i++) {
        pages += g_array_index(m->unit, NsMoveUnit, i).bytes / NS_PAGE;
    }
    for (guint i = 0; i < m->unit->len; i++) {
        uint64_t gain = gain_from(m, i, g_array_index(m->origin, uint16_t, i));

        mean += gain / pages + (rest + gain % pages) / pages;
        rest = (rest + gain % pages) % pages;
    }
    return mean / 1000 * m->epsilon + mean % 1000 * m->epsilon / 1000;
}

static void cut(NsMover *m)
{
    const NsMoveUnit *unit = (NsMoveUnit *)m->unit->data;
    uint64_t least = least_worth(m);
    NsMoveOrder *o = m->order;

    while (o->stop) {
        uint32_t i = o->unit[o->stop - 1];
        const NsMoveUnit *u = &unit[i];

        if (u->score &&
            gain_from(m, i, u->src) / (u->bytes / NS_PAGE) >= least) {
            break;
        }
        o->stop--;
        o->stop_bytes -= u->bytes - u->done;
    }
}

void ns_mover_make_order(NsMover *m)
{
    NsMoveHost host = {
        .n = m->n_nodes, .ratio = m->ratio, .cpu = m->cpu, .target = m->target,
        .tries = m->tries,
    };
    bool first = !m->order;

    take_scores(m);
    ns_move_order_free(m->order);
    m->order = ns_move_order(&host, (NsMoveUnit *)m->unit->data, m->unit->len,
                             first ? m->epsilon : 0);
    if (first) {
        m->skewed = m->order->skewed;
    } else if (m->epsilon && m->skewed) {
        cut(m);
    }
    QEMU_LOCK_GUARD(&m->lock);
    m->progress.total = m->before_total + m->settled + m->order->bytes +
                        m->order->busy_bytes;
    m->progress.worth = m->before_worth + m->settled + m->order->stop_bytes +
                        m->order->busy_bytes;
    m->progress.scored |= m->order->scored;
}

void ns_mover_end_window(NsMover *m)
{
    m->before_total = m->progress.total;
    m->before_worth = m->progress.worth;
    m->settled = 0;
    m->tries = 0;
    m->pass_moved = 0;
    m->page_size = 0;
    m->guess = false;
    g_array_set_size(m->unit, 0);
    g_array_set_size(m->origin, 0);
    g_clear_pointer(&m->order, ns_move_order_free);
    m->scanning = true;
}
