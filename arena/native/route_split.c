/* route_split.c: one amount over many pools at once, each swapped once.
 *
 * With prices for the tokens, in units of the token bought, amount * price(sold) + the sum of what each pool gives at
 * most against them is at least what any routing through these pools gives (weak duality), so its minimum is a bound,
 * and where flows balance they reach it. Newton's method on the logs of the prices: the gradient is the value of what
 * is left of each token, the Hessian a Laplacian with one edge a trading pool.
 *
 * The optimum may send tokens in circles between the middle ones. Where the amount fills them they are carried out;
 * else what is carried out may end below the bound. Then tokens are put into an order by what they pass on, only
 * directions along it are allowed, and all is solved again; then again with the tokens of the best path in their
 * order; at last, and where the bound is not of all tokens that would help, the amount goes over paths a part at a
 * time. The best of all that is the answer.
 */
#include "route_split.h"

#define TRIED_PATHS 96
#define FIRST_TOKENS 16 /* of the paths looked at first, as long as no other would help */
#define CLOSE 0.05 /* of the log of the best path's rate: what a split may draw on, too, at first */
#define PROBE 0.1  /* of the amount, at which paths are compared at first */
#define MOST_ROUNDS 4
#define NEAR 1e-7  /* of the bound: as good as it */
#define MOST_DROPS 8
#define MOST_HOLDINGS 4

enum { FREE, ORDERED, KEEPS_PATH };

/* ---- an order of the tokens ---- */

typedef double flows[MOST_TOKENS][MOST_TOKENS]; /* value from one token to another */

static void read_flows(const split *s, flows net) {
    memset(net, 0, sizeof(flows));
    for (uint32_t i = 0; i < s->count; i++) {
        const split_part *part = &s->parts[i];
        if (part->direction < 0) continue;
        uint32_t from = part->end[part->direction], to = part->end[!part->direction];
        net[from][to] += part->in * exp(s->price[from]);
    }
}

/* Move a token to where least flows against the order; whether that is elsewhere. */
static int move_token(uint32_t *order, uint32_t count, uint32_t at, flows net) {
    uint32_t token = order[at], best = at;
    double against = 0, least = 0; /* of what flowed against it where it was */
    for (int step = -1; step <= 1; step += 2) {
        against = 0;
        for (uint32_t to = at + (uint32_t)step; to >= 1 && to + 1 < count; to += (uint32_t)step) {
            double before = net[token][order[to]], behind = net[order[to]][token];
            against += step < 0 ? behind - before : before - behind;
            if (against < least - 1e-12) least = against, best = to;
        }
    }
    if (best == at) return 0;
    size_t moved = (best < at ? at - best : best - at) * sizeof(uint32_t);
    if (best < at) memmove(order + best + 1, order + best, moved);
    else memmove(order + at, order + at + 1, moved);
    order[best] = token;
    return 1;
}

static int is_kept(const split *s, uint32_t token, int mode) {
    for (uint32_t i = 0; mode == KEEPS_PATH && i < s->path_count; i++)
        if (s->path[i] == token) return 1;
    return 0;
}

/* From the one sold to the one bought, so that little flows against the order: each middle token in turn goes where
 * it is best. */
static void put_in_order(split *s, int mode) {
    flows net;
    uint32_t count = s->tokens, placed = 1;
    read_flows(s, net);
    s->order[0] = 0, s->order[count - 1] = 1;
    for (uint32_t i = 0; mode == KEEPS_PATH && i < s->path_count; i++) s->order[placed++] = s->path[i];
    for (uint32_t i = 2; i < count; i++)
        if (!is_kept(s, i, mode)) s->order[placed++] = i;
    for (int turn = 0; turn < MOST_TOKENS; turn++) {
        int has_moved = 0;
        for (uint32_t i = 1; i + 1 < count; i++)
            if (!is_kept(s, s->order[i], mode)) has_moved |= move_token(s->order, count, i, net);
        if (!has_moved) return;
    }
}

/* Allow only directions along the order; whether one was in use that is not. */
static int restrict_to_order(split *s) {
    uint32_t place[MOST_TOKENS];
    int has_changed = 0;
    for (uint32_t i = 0; i < s->tokens; i++) place[s->order[i]] = i;
    for (uint32_t i = 0; i < s->count; i++) {
        split_part *part = &s->parts[i];
        uint8_t along = place[part->end[0]] < place[part->end[1]] ? 1 : 2;
        if (part->direction >= 0 && !(along & 1u << part->direction)) has_changed = 1;
        part->allowed &= along;
    }
    return has_changed;
}

/* ---- which pools ---- */

static uint32_t place_of_token(const split *s, uint32_t token) {
    for (uint32_t i = 0; i < s->tokens; i++)
        if (s->token[i] == token) return i;
    return NONE;
}

/* All directions but into the token sold and out of the one bought. */
static uint8_t open_directions(const split_part *part) {
    uint32_t first = part->end[0], second = part->end[1];
    return (uint8_t)((second != 0 && first != 1) | (first != 0 && second != 1) << 1);
}

/* Whether some were not allowed. */
static int open_all(split *s) {
    int was_shut = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        uint8_t open = open_directions(&s->parts[i]);
        was_shut |= s->parts[i].allowed != open;
        s->parts[i].allowed = open;
    }
    return was_shut;
}

/* The tokens of a path, where there is room for all. */
static int take_tokens(split *s, const route_path *path, uint32_t room) {
    uint32_t fresh = 0;
    for (uint32_t j = 1; j < path->hops; j++) fresh += place_of_token(s, path->tokens[j]) == NONE;
    if (s->tokens + fresh > room) return 0;
    for (uint32_t j = 1; j < path->hops; j++)
        if (place_of_token(s, path->tokens[j]) == NONE) s->token[s->tokens++] = path->tokens[j];
    return 1;
}

/* All pools between the tokens. */
static void take_pools(split *s) {
    const psa_route *route = s->route;
    s->count = 0;
    for (uint32_t a = 0; a < s->tokens; a++) {
        for (uint32_t b = a + 1; b < s->tokens; b++) {
            uint32_t number = route_find_pair(route, s->token[a], s->token[b]);
            if (number == NONE) continue;
            const route_pair *pair = &route->pairs[number];
            for (uint32_t j = pair->first; j < pair->first + pair->count; j++) {
                const route_pool *pool = &route->pools[route->by_pair[j]];
                if (!pool->is_usable) continue;
                s->is_cut |= s->count == MOST_POOLS;
                if (s->count == MOST_POOLS) return;
                uint32_t first = place_of_token(s, pool->token[0]);
                uint32_t second = first == a ? b : a;
                split_part *part = &s->parts[s->count++];
                *part = (split_part){.pool = route->by_pair[j], .end = {(uint8_t)first, (uint8_t)second}};
                part->allowed = open_directions(part);
            }
        }
    }
}

/* The tokens of the paths that give most for a share of the amount, and all pools between them. *best: log of what
 * the first gives a unit, beside the market; *missed: of the first that there was no room for. */
static int choose_pools(split *s, uint32_t max_hops, double close, double probe, uint32_t room, double *best,
                        double *missed) {
    psa_route *route = s->route;
    uint32_t count = 0;
    s->tokens = 2, s->count = 0, s->path_count = 0, s->is_cut = 0;
    *missed = -INFINITY;
    int status = route_good_paths(route, s->token[0], s->token[1], s->amount * probe, max_hops, close,
                                  TRIED_PATHS, &count);
    if (status != PSA_OK) return status;
    if (count > 0) *best = route->paths[0].bound;
    if (count == TRIED_PATHS) *missed = route->paths[count - 1].bound;
    for (uint32_t i = 0; i < count; i++)
        if (!take_tokens(s, &route->paths[i], room)) *missed = fmax(*missed, route->paths[i].bound);
    for (uint32_t j = 1; count > 0 && j < route->paths[0].hops; j++)
        s->path[s->path_count++] = place_of_token(s, route->paths[0].tokens[j]);
    take_pools(s);
    return s->count ? PSA_OK : PSA_INSUFFICIENT_LIQUIDITY;
}

/* What is left of a pool's gain when its swap, and with `ticks` its ticks, are paid. */
static double left_of(const split *s, const psa_route_gas *gas, uint32_t i, int ticks) {
    const split_part *part = &s->parts[i];
    double left = part->gain * s->route->worth[s->token[1]];
    left -= gas->swaps[s->route->pools[part->pool].protocol % 24];
    return ticks ? left - gas->tick * s->asks[i].ticks : left;
}

/* Leave out the pools that give less than their swap costs; where there are none, of those that give less than their
 * swap and their ticks the ones that lose most. How many there were. */
static uint32_t drop_dear(split *s, const psa_route_gas *gas) {
    for (int ticks = 0; ticks < 2; ticks++) {
        uint32_t dropped = 0;
        double least = 0;
        for (uint32_t i = 0; i < s->count && ticks; i++)
            if (s->parts[i].direction >= 0) least = fmin(least, left_of(s, gas, i, ticks));
        for (uint32_t i = 0; i < s->count; i++) {
            if (s->parts[i].direction < 0 || left_of(s, gas, i, ticks) >= 0.5 * least) continue;
            s->parts[i].allowed = 0;
            dropped++;
        }
        if (dropped) return dropped;
    }
    return 0;
}

/* Prices and trades; but for FREE along an order of the tokens. */
static void optimise(split *s, int mode) {
    route_lower(s, 1e-12);
    for (int turn = 0; turn < 8 && mode != FREE; turn++) {
        put_in_order(s, mode);
        if (!restrict_to_order(s) && turn > 0) break;
        route_lower(s, 1e-12);
    }
}

/* Pools, prices and trades, in no order. Where the last of the amount is worth less than the paths looked at, worse
 * ones would have helped, and those that carry less: they are taken in, as are those that there was no room for at
 * first, and all is solved again. */
static int search_split(split *s, uint32_t max_hops) {
    const psa_route *route = s->route;
    double close = CLOSE, probe = PROBE, best = -INFINITY, missed;
    uint32_t room = FIRST_TOKENS;
    for (int round = 0; round < MOST_ROUNDS; round++, room = MOST_TOKENS) {
        int status = choose_pools(s, max_hops, close, probe, room, &best, &missed);
        probe *= 0.1;
        if (status == PSA_INSUFFICIENT_LIQUIDITY && round + 1 < MOST_ROUNDS) continue;
        if (status != PSA_OK) return status;
        for (uint32_t i = 0; i < s->tokens; i++)
            s->most[i] = INFINITY,
            s->price[i] = route->log_prices[s->token[i]] - route->log_prices[s->token[1]];
        double at_market = s->price[0];
        optimise(s, FREE);
        double last = s->price[0] - at_market;
        int is_short = missed > last;
        s->is_cut |= is_short && room == MOST_TOKENS;
        if (!(best - last > close) && !(is_short && room < MOST_TOKENS)) break;
        close = fmax(best - last, 0) + CLOSE;
    }
    return PSA_OK;
}

/* ---- the best of what can be carried out ---- */

typedef struct {
    const psa_route_gas *gas;
    psa_route_part *parts;
    uint32_t *count;
    psa_route_split_sum *sum;
    double net;              /* -INFINITY: there is none yet */
    double most;             /* that came out, gas aside */
} answer;

static void keep_best(const split *s, answer *best, const psa_route_split_sum *sum, uint32_t made,
                     double order_bound) {
    double out = route_amount(sum->amount_out), net = out * s->route->worth[s->token[1]] - sum->gas;
    if (out > best->most) best->most = out;
    if (!(net > best->net)) return;
    memcpy(best->parts, s->trial, made * sizeof *s->trial);
    *best->count = made, *best->sum = *sum, best->net = net;
    best->sum->order_bound = order_bound;
}

/* What the trades give, and what they give without pools that cost more than they give. */
static void try_trades(split *s, answer *best, int mode, int most_drops) {
    psa_route_split_sum sum = *best->sum;
    double order_bound = s->bound;
    uint32_t made;
    for (int turn = 0; turn <= most_drops; turn++) {
        if (route_carry_out(s, best->gas, s->trial, &made, &sum) == PSA_OK)
            keep_best(s, best, &sum, made, order_bound);
        else if (turn > 0) return;
        if (turn == most_drops || !drop_dear(s, best->gas)) return;
        optimise(s, mode);
    }
}

static int is_near(const answer *best) { return best->most > best->sum->bound * (1 - NEAR); }

/* Whatever was swapped, all that is held is worth no more than the bound at its prices, so no pool is given more of a
 * token than that buys: a circle by which others than the amount would gain is none of its. */
static void lower_by_holdings(split *s, answer *best) {
    if (open_all(s)) optimise(s, FREE); /* dear pools were left out */
    for (int turn = 0; turn < MOST_HOLDINGS && !is_near(best); turn++) {
        double former = best->sum->bound, held = s->bound * (1 + 1e-9);
        for (uint32_t i = 0; i < s->tokens; i++) s->most[i] = held / exp(s->price[i]);
        optimise(s, FREE);
        if (s->bound < former) best->sum->bound = s->bound;
        if (!(former - best->sum->bound > 1e-2 * (former - best->most))) return;
        try_trades(s, best, FREE, 0);
    }
}

static void try_all(split *s, answer *best, uint32_t max_hops) {
    try_trades(s, best, FREE, MOST_DROPS);
    if (!is_near(best)) {
        lower_by_holdings(s, best);
        try_trades(s, best, FREE, MOST_DROPS);
    }
    for (int mode = ORDERED; mode <= KEEPS_PATH && !is_near(best); mode++) {
        open_all(s);
        optimise(s, mode);
        try_trades(s, best, mode, MOST_DROPS);
    }
    psa_route_split_sum sum = *best->sum;
    uint32_t made;
    if ((!is_near(best) || s->is_cut) && route_in_parts(s, max_hops, best->gas, s->trial, &made, &sum) == PSA_OK)
        keep_best(s, best, &sum, made, sum.bound);
}

int psa_route_split(psa_route *route, uint32_t sell, uint32_t buy, const uint64_t *amount,
                    uint32_t max_hops, const psa_route_gas *gas, psa_route_part *parts, uint32_t *count,
                    psa_route_split_sum *sum) {
    if (!route || route->pool_count == 0 || !amount || !gas || !parts || !count || !sum ||
        max_hops < 1 || max_hops > PSA_ROUTE_HOPS || sell >= route->table_count ||
        buy >= route->table_count || sell == buy)
        return PSA_BAD_ARGUMENT;
    if (amount[2] || amount[3] || amount[1] >> 63) return PSA_AMOUNT_OUT_OF_RANGE;
    if (!route_grow(&route->split, 1, &route->split_capacity, sizeof(split))) return PSA_NO_MEMORY;
    split *s = route->split;
    *s = (split){.route = route, .tokens = 2};
    s->token[0] = route->number_of[sell], s->token[1] = route->number_of[buy];
    if (s->token[0] == NONE || s->token[1] == NONE) return PSA_BAD_ARGUMENT;
    s->amount = route_amount(amount);
    memset(sum, 0, sizeof *sum);
    memcpy(sum->amount_in, amount, sizeof sum->amount_in);
    int status = search_split(s, max_hops);
    if (status != PSA_OK) return status;
    sum->bound = s->bound;
    sum->token_count = s->tokens;
    for (uint32_t i = 0; i < s->tokens; i++) sum->tokens[i] = route->tokens[s->token[i]];
    answer best = {gas, parts, count, sum, -INFINITY, 0};
    try_all(s, &best, max_hops);
    return best.net > -INFINITY ? PSA_OK : PSA_INSUFFICIENT_LIQUIDITY;
}
