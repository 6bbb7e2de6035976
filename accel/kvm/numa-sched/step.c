/*
 * NUMA scheduler: following a plan step by step, without haste
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "step.h"

#define CALM        4           /* residences without a move */

void ns_rest_init(NsRest *r)
{
    *r = (NsRest) { .residence = NS_RESIDENCE_MIN, .left = -1 };
}

static void calm_down(NsRest *r, int64_t now)
{
    while (r->residence > NS_RESIDENCE_MIN &&
           now - r->since >= (int64_t)r->residence * CALM) {
        r->since += (int64_t)r->residence * CALM;
        r->residence /= 2;
    }
}

void ns_rest_moved(NsRest *r, int64_t now, int from, int to)
{
    calm_down(r, now);
    if (to == r->left) {
        r->residence = MIN(r->residence * 2, NS_RESIDENCE_MAX);
    }
    r->left = from;
    r->since = now;
    r->until = now + r->residence;
}

bool ns_rests(NsRest *r, int64_t now)
{
    calm_down(r, now);
    return now < r->until;
}

/* The state that a step starts from */
typedef struct Now {
    const NsHost *host;
    const NsGroup *group;
    const NsPlan *plan;
    NsOption *option;           /* by group, where it has a home */
    bool *has_home;             /* one that is a target */
    uint64_t *load;             /* by node */
    uint64_t *coming;           /* bytes that follow, by node */
} Now;

static void now_clear(Now *now)
{
    g_free(now->option);
    g_free(now->has_home);
    g_free(now->load);
    g_free(now->coming);
}

G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Now, now_clear)

static bool is_target(const NsHost *h, const NsGroup *g, int node)
{
    return node >= 0 && h->node[node].cpus && (!g->allowed || g->allowed[node]);
}

static void look(Now *now, uint32_t n, const NsPhase *phase)
{
    uint32_t width = now->host->n;
    g_autofree bool *only = g_new0(bool, width);

    now->option = g_new0(NsOption, n);
    now->has_home = g_new0(bool, n);
    now->load = g_new(uint64_t, width);
    now->coming = g_new0(uint64_t, width);
    for (uint32_t i = 0; i < width; i++) {
        now->load[i] = now->host->node[i].used;
    }
    for (uint32_t k = 0; k < n; k++) {
        NsGroup g = now->group[k];
        NsOption at_home[2];

        if (g.home >= 0) {
            now->load[g.home] += g.cpu;
        }
        if (!is_target(now->host, &g, g.home)) {
            continue;
        }
        only[g.home] = true;
        g.allowed = only;
        now->has_home[k] = true;
        now->option[k] = at_home[ns_options(now->host, &g, at_home) == 2 &&
                                 phase[k].following];
        now->coming[g.home] += now->option[k].bytes;
        only[g.home] = false;
    }
}

/* Does the plan want something else of the group than what it does? */
static bool differs(const Now *now, uint32_t k)
{
    const NsOption *to = &now->plan->choice[k];

    return now->plan->placed[k] &&
           (!now->has_home[k] || to->node != now->option[k].node ||
            to->follow != now->option[k].follow);
}

/* What changes on at most four nodes */
typedef struct Change {
    uint32_t n;
    struct {
        uint32_t node;
        uint64_t load, coming;
    } at[4];
} Change;

static void change(Change *c, const Now *now, uint32_t node, int64_t load,
                   int64_t coming)
{
    uint32_t i = 0;

    while (i < c->n && c->at[i].node != node) {
        i++;
    }
    if (i == c->n) {
        c->at[c->n].node = node;
        c->at[c->n].load = now->load[node];
        c->at[c->n++].coming = now->coming[node];
    }
    c->at[i].load += load;
    c->at[i].coming += coming;
}

/* Fill in a step's figures; false: it is not valid now */
static bool weigh(const Now *now, NsStep *s)
{
    Change c = { };
    int64_t total = 0;

    s->cost = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t k = s->group[i];
        const NsGroup *g = &now->group[k];
        const NsOption *from = &now->option[k], *to = &now->plan->choice[k];

        s->to[i] = *to;
        if (g->home >= 0) {
            change(&c, now, g->home, -(int64_t)g->cpu, -(int64_t)from->bytes);
        }
        if (now->has_home[k]) {
            s->cost += ns_option_cost(from);
            total -= ns_option_cost(from);
        }
        change(&c, now, to->node, g->cpu, to->bytes);
        total += ns_option_cost(to);
    }
    for (uint32_t i = 0; i < c.n; i++) {
        uint32_t node = c.at[i].node;
        const NsPlace *p = &now->host->node[node];

        if (c.at[i].load > MAX(now->load[node], p->cpus * 1000ull) ||
            c.at[i].coming > MAX(now->coming[node], p->free)) {
            return false;
        }
        if (p->cpus) {
            total += ns_share(p, c.at[i].load) - ns_share(p, now->load[node]);
        }
    }
    s->gain = -total;
    return true;
}

static bool better(const NsStep *s, const NsStep *best)
{
    return !best->n || s->gain > best->gain;
}

/* The best so far of those that have to be, and of those that pay */
typedef struct Found {
    uint32_t hysteresis;
    NsStep urgent, best;
} Found;

static void judge(Found *f, const NsStep *s, bool urgent)
{
    if (urgent) {
        if (better(s, &f->urgent)) {
            f->urgent = *s;
        }
    } else if (s->gain > NS_MIN_GAIN &&
               s->gain > s->cost / 1000 * f->hysteresis &&
               better(s, &f->best)) {
        f->best = *s;
    }
}

static void try_one(const Now *now, uint32_t k, Found *f)
{
    NsStep s = { .n = 1, .group = { k } };

    if (weigh(now, &s)) {
        judge(f, &s, !now->has_home[k]);
    }
}

static void try_two(const Now *now, uint32_t k, uint32_t l, Found *f)
{
    NsStep s = { .n = 2, .group = { k, l } };

    if (((int)now->plan->choice[k].node == now->group[l].home ||
         (int)now->plan->choice[l].node == now->group[k].home) &&
        weigh(now, &s)) {
        judge(f, &s, !now->has_home[k] || !now->has_home[l]);
    }
}

NsPlan *ns_step(const NsHost *host, const NsGroup *group, uint32_t n,
                const NsPhase *phase, uint32_t hysteresis, NsStep *step)
{
    g_autofree NsGroup *held = g_memdup2(group, n * sizeof(*group));
    g_autofree bool *homes = g_new0(bool, (size_t)n * host->n);
    g_autofree uint32_t *wish = g_new(uint32_t, n);
    g_auto(Now) now = { .host = host, .group = group };
    Found found = { .hysteresis = hysteresis };
    uint32_t wishes = 0;
    NsPlan *plan;

    for (uint32_t k = 0; k < n; k++) {
        if (phase[k].resting && is_target(host, &group[k], group[k].home)) {
            bool *only = homes + (size_t)k * host->n;

            only[group[k].home] = true;
            held[k].allowed = only;
        }
    }
    now.plan = plan = ns_plan(host, held, n);
    look(&now, n, phase);

    for (uint32_t k = 0; k < n; k++) {
        if (differs(&now, k)) {
            wish[wishes++] = k;
            try_one(&now, k, &found);
        }
    }
    if (!found.urgent.n && !found.best.n) {
        for (uint32_t a = 0; a < wishes; a++) {
            for (uint32_t b = a + 1; b < wishes; b++) {
                try_two(&now, wish[a], wish[b], &found);
            }
        }
    }
    *step = found.urgent.n ? found.urgent : found.best;
    return plan;
}
