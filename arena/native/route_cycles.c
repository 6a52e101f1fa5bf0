/* route_cycles.c: every cycle of up to four pools that is worth more than a threshold.
 *
 * What is left out cannot be worth it:
 * - a cycle whose weights sum to 0 or less: the prices can be moved along it so that only pools whose weight was
 *   taken for 0 have any, and each of those gives at most the floor, which is never above the threshold a pool;
 * - one whose pools' bounds sum to less than the threshold, for it gives at most that sum;
 * - one whose bounds do so at other prices: with s = weight / sum of the positive weights, prices moved along the
 *   cycle leave each pool at s times its weight, where its bound is at most s times what it was (bounds are convex in
 *   the weight, and 0 at 0), and within the first segment value * (exp(s * weight / 2) - 1)^2.
 *
 * A path from the seed's end back to its begin has one edge at least of more than an equal share of what the weights
 * must sum to; where neither end has few neighbours only the lists of hot edges are looked at for it.
 */
#include "route_index.h"

#define FEW_NEIGHBOURS 48
#define MOST_STEPS 4096
#define SHORT (1 - 1e-9) /* of an input that ends before a tick and does not cross it */

typedef struct {
    psa_route *route;
    const psa_route_gas *gas;
    double min_profit;
    double sure_gas;         /* of any cycle of `hops` */
    double wanted;           /* profit; the best so far, where only the best is asked for */
    uint32_t best_at;
    uint32_t seed, rank;
    int direction;           /* of the seed */
    int each, is_out_of_memory;
    uint32_t hops;
    uint32_t tokens[PSA_ROUTE_HOPS + 1], pairs[PSA_ROUTE_HOPS]; /* the last token is the first */
    float weights[PSA_ROUTE_HOPS]; /* best of the pairs behind the seed */
    double rest_weight[PSA_ROUTE_HOPS + 1], rest_bound[PSA_ROUTE_HOPS + 1];
    uint32_t pools[PSA_ROUTE_HOPS];
    uint8_t directions[PSA_ROUTE_HOPS];
} search;

/* ---- the amount ---- */

static uint32_t ticks_behind(const route_hop *hops, uint32_t count) {
    uint32_t ticks = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t from = hops[i].pool->index, to = hops[i].index;
        ticks += from < to ? to - from : from - to;
    }
    return ticks;
}

/* The input that leaves most, and what it gives beyond itself and the ticks it crosses, `tick` each. In the segments
 * where all pools stand now the output is rate * x / (1 + sum * x), best at (sqrt(rate) - 1) / sum; a segment that
 * ends before that is passed, and all begins again from there. Concave but for the ticks, so it never turns back; what
 * lies behind a tick may not be worth crossing it, so the end of each segment may be the best. */
static double best_input(route_hop *hops, uint32_t count, double tick, double *input) {
    double into = 0, out = 0, best = 0;
    *input = 0;
    for (int step = 0; step < MOST_STEPS; step++) {
        double rate = 1, sum = 0, nearest = INFINITY, cost = tick * ticks_behind(hops, count);
        uint32_t first = count;
        for (uint32_t i = 0; i < count; i++) {
            if (hops[i].room < INFINITY) {
                double left = rate - sum * hops[i].room;
                if (left > 0 && hops[i].room < nearest * left) nearest = hops[i].room / left, first = i;
            }
            double share = hops[i].keep / hops[i].in;
            sum += rate * share;
            rate *= share * hops[i].out;
        }
        if (!(rate > 1)) return best;
        double peak = (sqrt(rate) - 1) / sum;
        if (peak <= nearest) {
            into += peak, out += rate * peak / (1 + sum * peak);
            if (out - into - cost > best) best = out - into - cost, *input = into;
            return best;
        }
        into += nearest;
        double amount = nearest;
        for (uint32_t i = 0; i < count; i++) {
            route_hop *hop = &hops[i];
            if (i == first) {
                amount = route_gives(hop, hop->room);
                route_cross(hop);
            } else amount = route_take(hop, amount < hop->room ? amount : hop->room);
        }
        out += amount;
        if (out - into - cost > best) best = out - into - cost, *input = tick > 0 ? into * SHORT : into;
    }
    return best;
}

/* Where a cycle begins: at the numeraire, else at the token with most neighbours. */
static uint32_t beginning(const search *s) {
    const psa_route *route = s->route;
    uint32_t best = 0;
    for (uint32_t i = 0; i < s->hops; i++) {
        uint32_t token = s->tokens[i], former = s->tokens[best];
        if (token == route->numeraire) return i;
        uint32_t degree = route->starts[token + 1] - route->starts[token];
        uint32_t most = route->starts[former + 1] - route->starts[former];
        if (degree > most || (degree == most && token < former)) best = i;
    }
    return best;
}

static void keep_cycle(search *s, uint32_t begin, double input, double profit) {
    psa_route *route = s->route;
    uint32_t at = route->cycle_count;
    if (!s->each && s->best_at != NONE) at = s->best_at;
    else if (!route_grow(&route->cycles, at + 1, &route->cycle_capacity, sizeof(route_cycle))) {
        s->is_out_of_memory = 1;
        return;
    } else route->cycle_count++;
    if (!s->each) s->wanted = profit, s->best_at = at;
    route_cycle *cycle = &route->cycles[at];
    *cycle = (route_cycle){.input = input, .profit = profit, .hops = s->hops};
    for (uint32_t i = 0; i < s->hops; i++) {
        cycle->pools[i] = s->pools[(begin + i) % s->hops];
        cycle->direction[i] = s->directions[(begin + i) % s->hops];
    }
}

/* At the prices at which all pools have the same share of their weight. */
static double shared_bound(const search *s, double share) {
    double bound = 0;
    for (uint32_t i = 0; i < s->hops; i++) {
        const route_pool *pool = &s->route->pools[s->pools[i]];
        int d = s->directions[i];
        double weight = pool->weight[d] * share, half = weight / 2;
        if (weight > 0 && weight < pool->reach[d] && weight < 0.2) {
            double rise = half * (1 + half * (0.5 + half * 0.2)); /* above exp(half) - 1 up to 0.1 */
            bound += pool->value[d] * rise * rise;
        } else bound += pool->bound[d] * (weight > 0 ? share : 1);
    }
    return bound * 1.001;
}

static void size_cycle(search *s, double weight, double positive) {
    psa_route *route = s->route;
    double share = weight < positive ? weight / positive : 1;
    if (shared_bound(s, share) <= s->sure_gas + s->wanted) return;
    uint32_t begin = beginning(s);
    route_hop hops[PSA_ROUTE_HOPS];
    for (uint32_t i = 0; i < s->hops; i++) {
        uint32_t at = (begin + i) % s->hops;
        route_start(&hops[i], &route->pools[s->pools[at]], s->directions[at]);
    }
    double worth = route->worth[s->tokens[begin]], tick = worth > 0 ? s->gas->tick / worth : 0;
    double input, value = best_input(hops, s->hops, tick, &input) * worth;
    double profit = value - route_gas(s->gas, route, s->pools, s->hops);
    if (profit > s->wanted) keep_cycle(s, begin, input, profit);
}

/* ---- the pools of a cycle of tokens ---- */

/* Choose the pool of pair `i` and of those behind it. */
static void choose(search *s, uint32_t i, double weight, double positive, double bound) {
    const psa_route *route = s->route;
    if (i == s->hops || i == PSA_ROUTE_HOPS) {
        size_cycle(s, weight, positive);
        return;
    }
    const route_pair *pair = &route->pairs[s->pairs[i]];
    for (uint32_t j = pair->first; j < pair->first + pair->count; j++) {
        uint32_t number = route->by_pair[j];
        const route_pool *pool = &route->pools[number];
        int d = route_direction(pool, s->tokens[i]);
        double all = weight + pool->weight[d], most = all + s->rest_weight[i + 1];
        if (most <= 0 || route->rank[number] < s->rank || number == s->seed) continue;
        double up = positive + (pool->weight[d] > 0 ? pool->weight[d] : 0);
        double limit = bound + pool->bound[d], share = most < up ? most / up : 1;
        double most_value = (limit + s->rest_bound[i + 1]) * share * 1.001;
        if (most_value <= s->sure_gas + s->wanted) continue;
        s->pools[i] = number, s->directions[i] = (uint8_t)d;
        choose(s, i + 1, all, up, limit);
    }
}

static void look_into(search *s) {
    const psa_route *route = s->route;
    s->rest_weight[s->hops] = s->rest_bound[s->hops] = 0;
    for (uint32_t i = s->hops - 1; i >= 1; i--) {
        const route_pair *pair = &route->pairs[s->pairs[i]];
        s->rest_weight[i] = s->rest_weight[i + 1] + s->weights[i];
        s->rest_bound[i] = s->rest_bound[i + 1] + pair->bound[pair->token[0] != s->tokens[i]];
    }
    s->wanted = s->min_profit, s->best_at = NONE;
    const route_pool *seed = &route->pools[s->seed];
    double weight = seed->weight[s->direction];
    choose(s, 1, weight, weight > 0 ? weight : 0, seed->bound[s->direction]);
}

/* ---- the tokens of a cycle ---- */

static void set_edge(search *s, uint32_t i, uint32_t to, uint32_t pair, float weight) {
    s->tokens[i + 1] = to;
    s->pairs[i] = pair, s->weights[i] = weight;
}

/* from -> x -> to at places i and i + 1: `pair` joins x to `from`, or to `to` with `is_in`, at that weight. That of the
 * other edge is looked up where the best at its ends would do. */
static void try_middle(search *s, uint32_t i, uint32_t from, uint32_t to, double weight, uint32_t x,
                       uint32_t pair, float here, int is_in, uint32_t other) {
    const psa_route *route = s->route;
    float out = route->most_out[is_in ? from : x], in = route->most_in[is_in ? x : to];
    float most = out < in ? out : in;
    if (weight + here + most <= 0 || x == from || x == to || x == other) return;
    uint32_t second = route_find_pair(route, x, is_in ? from : to);
    if (second == NONE) return;
    float there = route_weight(route, second, is_in ? from : x);
    if (weight + here + there <= 0) return;
    set_edge(s, i, x, is_in ? second : pair, is_in ? there : here);
    set_edge(s, i + 1, to, is_in ? pair : second, is_in ? here : there);
    look_into(s);
}

/* All paths of two edges whose weights and `weight` sum to more than 0; `other` is taken already. */
static void close_two(search *s, uint32_t i, uint32_t from, uint32_t to, double weight, uint32_t other) {
    const psa_route *route = s->route;
    if (route->most_out[from] + route->most_in[to] + weight <= 0) return;
    uint32_t a = route->starts[from], na = route->starts[from + 1] - a;
    uint32_t b = route->starts[to], nb = route->starts[to + 1] - b;
    if (na <= nb && (na <= FEW_NEIGHBOURS || weight >= 0)) {
        for (uint32_t j = a; j < a + na; j++)
            if (route->out[j] + route->most_in[to] + weight > 0)
                try_middle(s, i, from, to, weight, route->neighbours[j], route->neighbour_pairs[j],
                           route->out[j], 0, other);
        return;
    }
    if (nb < na && (nb <= FEW_NEIGHBOURS || weight >= 0)) {
        for (uint32_t j = b; j < b + nb; j++)
            if (route->in[j] + route->most_out[from] + weight > 0)
                try_middle(s, i, from, to, weight, route->neighbours[j], route->neighbour_pairs[j],
                           route->in[j], 1, other);
        return;
    }
    float share = (float)(-weight / 2); /* one of both is above it, and hot */
    share = nextafterf(share, 0);
    const hot_list *list = &route->hot_out[from];
    for (uint32_t j = 0; j < list->count && list->edges[j].weight > share; j++) {
        uint32_t edge = list->edges[j].edge, number = edge >> 1;
        uint32_t x = route->pairs[number].token[!(edge & 1)];
        try_middle(s, i, from, to, weight, x, number, list->edges[j].weight, 0, other);
    }
    list = &route->hot_in[to];
    for (uint32_t j = 0; j < list->count && list->edges[j].weight > share; j++) {
        uint32_t edge = list->edges[j].edge, number = edge >> 1, x = route->pairs[number].token[edge & 1];
        if (weight + list->edges[j].weight + route->most_in[x] <= 0) continue;
        uint32_t pair = route_find_pair(route, from, x);
        if (pair != NONE && route_weight(route, pair, from) <= share)
            try_middle(s, i, from, to, weight, x, number, list->edges[j].weight, 1, other);
    }
}

/* One of the three is above a third of what is wanted, so it is hot: the first, else the last, else the middle. */
static void close_three_hot(search *s, uint32_t from, uint32_t to, double weight) {
    const psa_route *route = s->route;
    float share = nextafterf((float)(-weight / 3), 0);
    for (uint32_t j = 0; j < route->hot_all.count && route->hot_all.edges[j].weight > share; j++) {
        uint32_t edge = route->hot_all.edges[j].edge, number = edge >> 1;
        float here = route->hot_all.edges[j].weight;
        const route_pair *pair = &route->pairs[number];
        uint32_t a = pair->token[edge & 1], b = pair->token[!(edge & 1)];
        if (a == from && b != to) {
            set_edge(s, 1, b, number, here);
            close_two(s, 2, b, to, weight + here, from);
        } else if (b == to && a != from) {
            s->tokens[3] = a;
            set_edge(s, 3, to, number, here);
            close_two(s, 1, from, a, weight + here, to);
        } else if (a != from && a != to && b != from && b != to) {
            uint32_t first = route_find_pair(route, from, a), last = route_find_pair(route, b, to);
            if (first == NONE || last == NONE) continue;
            float before = route_weight(route, first, from), behind = route_weight(route, last, b);
            if (before > share || behind > share || weight + before + here + behind <= 0) continue;
            set_edge(s, 1, a, first, before);
            set_edge(s, 2, b, number, here);
            set_edge(s, 3, to, last, behind);
            look_into(s);
        }
    }
}

/* All paths of three edges behind the seed. */
static void close_three(search *s, uint32_t from, uint32_t to, double weight) {
    const psa_route *route = s->route;
    uint32_t a = route->starts[from], na = route->starts[from + 1] - a;
    uint32_t b = route->starts[to], nb = route->starts[to + 1] - b;
    if (na <= nb && (na <= FEW_NEIGHBOURS / 2 || weight >= 0)) {
        for (uint32_t j = a; j < a + na; j++) {
            uint32_t x = route->neighbours[j];
            double sum = weight + route->out[j];
            if (x == to || sum + route->most_out[x] + route->most_in[to] <= 0) continue;
            set_edge(s, 1, x, route->neighbour_pairs[j], route->out[j]);
            close_two(s, 2, x, to, sum, from);
        }
        return;
    }
    if (nb < na && (nb <= FEW_NEIGHBOURS / 2 || weight >= 0)) {
        for (uint32_t j = b; j < b + nb; j++) {
            uint32_t y = route->neighbours[j];
            double sum = weight + route->in[j];
            if (y == from || sum + route->most_in[y] + route->most_out[from] <= 0) continue;
            s->tokens[3] = y;
            set_edge(s, 3, to, route->neighbour_pairs[j], route->in[j]);
            close_two(s, 1, from, y, sum, to);
        }
        return;
    }
    close_three_hot(s, from, to, weight);
}

/* ---- what the caller gets ---- */

static void search_from(search *s, uint32_t max_hops, double least_swap) {
    const psa_route *route = s->route;
    const route_pool *pool = &route->pools[s->seed];
    for (int d = 0; d < 2; d++) {
        uint32_t from = pool->token[!d], to = pool->token[d];
        double weight = pool->weight[d];
        if (weight <= SHUT) continue;
        s->direction = d;
        s->tokens[0] = to, s->tokens[1] = from, s->pairs[0] = pool->pair;
        s->pools[0] = s->seed, s->directions[0] = (uint8_t)d;
        for (s->hops = 2; s->hops <= max_hops; s->hops++) {
            s->sure_gas = s->gas->fixed + s->hops * least_swap;
            float back = route_weight(route, pool->pair, from);
            if (s->hops == 2 && weight + back > 0) {
                set_edge(s, 1, to, pool->pair, back);
                look_into(s);
            }
            if (s->hops == 3) close_two(s, 1, from, to, weight, NONE);
            if (s->hops == 4) close_three(s, from, to, weight);
        }
    }
}

/* The floor must not be above what a pool of a cycle must give. */
static int lower_floor(psa_route *route, uint32_t max_hops, double min_profit, double fixed, double swap) {
    double needed = INFINITY;
    for (uint32_t hops = 2; hops <= max_hops; hops++) {
        double share = (min_profit + fixed) / hops + swap;
        if (share < needed) needed = share;
    }
    if (route->floor <= needed) return 1;
    route->floor = needed;
    return route_tell_all(route);
}

int psa_route_cycles(psa_route *route, const uint32_t *seeds, uint32_t seed_count, uint32_t max_hops,
                     int each, const psa_route_gas *gas, double min_profit, psa_route_answer *answers,
                     uint32_t capacity, uint32_t *count) {
    if (!route || route->pool_count == 0 || !gas || !(min_profit >= 0) || max_hops < 2 ||
        max_hops > PSA_ROUTE_HOPS)
        return PSA_BAD_ARGUMENT;
    double least_swap = INFINITY;
    for (int i = 0; i < 24; i++)
        if (gas->swaps[i] < least_swap) least_swap = gas->swaps[i];
    if (!(least_swap >= 0) || !(gas->fixed >= 0) || !(gas->tick >= 0)) return PSA_BAD_ARGUMENT;
    if (!lower_floor(route, max_hops, min_profit, gas->fixed, least_swap)) return PSA_NO_MEMORY;
    search s = {.route = route, .gas = gas, .each = each, .min_profit = min_profit};
    route->cycle_count = 0;
    uint32_t known = 0;
    for (; known < seed_count && seeds[known] < route->pool_count; known++)
        if (route->rank[seeds[known]] == NONE) route->rank[seeds[known]] = known;
    for (uint32_t i = 0; known == seed_count && i < known; i++) {
        s.seed = seeds[i], s.rank = i;
        if (route->rank[s.seed] == i) search_from(&s, max_hops, least_swap);
    }
    for (uint32_t i = 0; i < known; i++) route->rank[seeds[i]] = NONE;
    if (known != seed_count) return PSA_BAD_ARGUMENT;
    if (s.is_out_of_memory) return PSA_NO_MEMORY;
    return route_settle(route, gas, min_profit, each, answers, capacity, count);
}
