/* route_parts.c: an amount over a few paths that share no pool, part after part to the one that gives most for it.
 *
 * No prices, no order of tokens: it is what a split is measured by, and taken where it is better. Where all paths
 * have their parts, half a part and less is moved between them as long as that gives more.
 */
#include "route_split.h"

#define PARTS 20
#define MOST_WAYS 8
#define SEARCHED 256
#define FAR 3.0     /* of the log of the best path's rate */
#define FINEST 1e-6 /* of the amount */

typedef struct {
    uint32_t hops;
    uint32_t pools[PSA_ROUTE_HOPS];
    int direction[PSA_ROUTE_HOPS];
    double in, out;
} way;

/* What it gives; -INFINITY where it does not carry the amount. */
static double way_out(const psa_route *route, const way *w, double amount) {
    if (!(amount > 0)) return 0;
    for (uint32_t i = 0; i < w->hops && amount > 0; i++)
        amount = route_pool_out(&route->pools[w->pools[i]], w->direction[i], amount);
    return amount;
}

static int is_used(const way *ways, uint32_t count, uint32_t pool) {
    for (uint32_t n = 0; n < count; n++)
        for (uint32_t i = 0; i < ways[n].hops; i++)
            if (ways[n].pools[i] == pool) return 1;
    return 0;
}

/* The pools of a path from swap n on that give most for an amount, of those that are free; where that may be more than
 * what follows takes, *is_tight, of all. What they give, 0 where there are none. */
static double best_way(const psa_route *route, const route_path *path, const way *ways, uint32_t count,
                       uint32_t n, double amount, way *found, int *is_tight) {
    if (n >= path->hops || n == PSA_ROUTE_HOPS) return amount;
    const route_pair *pair = &route->pairs[path->pairs[n]];
    double most = 0;
    for (double limit = INFINITY;;) {
        double best = 0;
        way tried = {.hops = 0};
        int is_bound = 0;
        for (uint32_t j = pair->first; j < pair->first + pair->count; j++) {
            const route_pool *pool = &route->pools[route->by_pair[j]];
            int d = route_direction(pool, path->tokens[n]);
            if (pool->weight[d] <= SHUT) continue;
            double out = route_pool_out(pool, d, amount);
            if (!(out > best && out < limit) || is_used(ways, count, route->by_pair[j])) continue;
            best = out, tried.pools[n] = route->by_pair[j], tried.direction[n] = d;
        }
        if (!(best > 0)) return most;
        double given = best_way(route, path, ways, count, n + 1, best, &tried, &is_bound);
        if (given > most) {
            most = given;
            memcpy(found->pools + n, tried.pools + n, (PSA_ROUTE_HOPS - n) * sizeof *tried.pools);
            memcpy(found->direction + n, tried.direction + n, (PSA_ROUTE_HOPS - n) * sizeof *tried.direction);
        }
        if (given > 0 && !is_bound) return most;
        *is_tight = 1;
        limit = best;
    }
}

static uint32_t choose_ways(const psa_route *route, uint32_t paths, double amount, way *ways) {
    uint32_t count = 0;
    for (; count < MOST_WAYS; count++) {
        way best = {.out = 0}, found = {.out = 0};
        for (uint32_t i = 0; i < paths; i++) {
            if (exp(route->paths[i].bound - route->paths[0].bound) * ways[0].out < best.out && count > 0)
                break; /* no path gives more than with all pools free */
            int is_tight = 0;
            found.hops = route->paths[i].hops, found.in = 0;
            found.out = best_way(route, &route->paths[i], ways, count, 0, amount, &found, &is_tight);
            if (found.out > best.out) best = found;
        }
        if (!(best.out > 0)) break;
        ways[count] = best;
    }
    for (uint32_t n = 0; n < count; n++) ways[n].out = 0;
    return count;
}

/* Move steps between ways as long as that gives more. */
static void move_steps(const psa_route *route, way *ways, uint32_t count, double step) {
    for (int turn = 0; turn < 2 * PARTS; turn++) {
        uint32_t to = NONE, from = NONE;
        double most = -INFINITY, least = INFINITY;
        for (uint32_t n = 0; n < count; n++) {
            double more = way_out(route, &ways[n], ways[n].in + step) - ways[n].out;
            double less = ways[n].in < step ? INFINITY
                                            : ways[n].out - way_out(route, &ways[n], ways[n].in - step);
            if (more > most) most = more, to = n;
            if (less < least) least = less, from = n;
        }
        if (!(most > least) || from == to) return;
        ways[to].in += step, ways[to].out += most;
        ways[from].in -= step, ways[from].out -= least;
    }
}

/* Give every way its part. 0: they do not carry all. */
static int hand_out(const psa_route *route, way *ways, uint32_t count, double amount) {
    double step = amount / PARTS;
    for (int part = 0; part < PARTS; part++) {
        uint32_t best = NONE;
        double most = 0;
        for (uint32_t n = 0; n < count; n++) {
            double more = way_out(route, &ways[n], ways[n].in + step) - ways[n].out;
            if (more > most) most = more, best = n;
        }
        if (best == NONE) return 0;
        ways[best].in += step, ways[best].out += most;
    }
    for (; step > amount * FINEST; step *= 0.5) move_steps(route, ways, count, step);
    return 1;
}

/* The ways in integers, the largest with the rest. */
static int swap_ways(split *s, const way *ways, uint32_t count, psa_route_part *parts, uint32_t *made,
                     psa_route_split_sum *sum, u128 *out) {
    u128 left = (u128)sum->amount_in[1] << 64 | sum->amount_in[0];
    uint32_t largest = 0;
    for (uint32_t n = 1; n < count; n++)
        if (ways[n].in > ways[largest].in) largest = n;
    for (uint32_t n = 0; n <= count; n++) {
        const way *w = &ways[n < count ? n : largest];
        if (n == largest || w->in < 1) continue;
        split_ask ask = {.in = n < count ? (u128)w->in : left};
        if (ask.in > left) return PSA_INSUFFICIENT_LIQUIDITY;
        left -= ask.in;
        for (uint32_t i = 0; i < w->hops; i++) {
            if (!route_ask_part(s->route, w->pools[i], w->direction[i], &ask) || ask.is_full)
                return PSA_INSUFFICIENT_LIQUIDITY;
            parts[(*made)++] = split_made(w->pools[i], w->direction[i], ask.in, ask.out);
            sum->ticks_crossed += ask.ticks;
            ask.in = ask.out;
        }
        *out += ask.out;
    }
    return left == 0 && *out > 0 ? PSA_OK : PSA_INSUFFICIENT_LIQUIDITY;
}

int route_in_parts(split *s, uint32_t max_hops, const psa_route_gas *gas, psa_route_part *parts,
                   uint32_t *count, psa_route_split_sum *sum) {
    way ways[MOST_WAYS];
    uint32_t paths = 0, chosen;
    u128 out = 0;
    int status = route_good_paths(s->route, s->token[0], s->token[1], s->amount / PARTS, max_hops, FAR,
                                  SEARCHED, &paths);
    if (status != PSA_OK) return status;
    chosen = choose_ways(s->route, paths, s->amount / PARTS, ways);
    if (!hand_out(s->route, ways, chosen, s->amount)) return PSA_INSUFFICIENT_LIQUIDITY;
    *count = 0, sum->ticks_crossed = 0;
    status = swap_ways(s, ways, chosen, parts, count, sum, &out);
    if (status == PSA_OK) route_sum_up(s->route, gas, parts, *count, out, sum);
    return status;
}
