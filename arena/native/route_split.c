/* route_split.c: one amount over many pools at once, each swapped once.
 *
 * With prices for the tokens, in units of the token bought, amount * price(sold) + the sum of what each pool gives at
 * most against them is at least what any routing through these pools gives (weak duality), so its minimum is a bound,
 * and where flows balance they reach it. Newton's method on the logs of the prices: the gradient is the value of what
 * is left of each token, the Hessian a Laplacian with one edge a trading pool.
 *
 * The optimum may send tokens in circles between the middle ones, which no order of swaps can carry out. So tokens
 * are put into an order by what they pass on, only directions along it are allowed, and all is solved again. Then the
 * shares are carried out in integers, token after token, with what is really there; the largest part takes the rest.
 */
#include "route_split.h"

#define TRIED_PATHS 96
#define CLOSE 0.05 /* of the log of the best path's rate: what a split may draw on, too, at first */
#define MOST_ROUNDS 4
#define ORDER_COSTS 1e-4 /* of the bound without one: another order may be better */

typedef unsigned __int128 u128;

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

static int is_kept(const split *s, uint32_t token) {
    for (uint32_t i = 0; s->keeps_path && i < s->path_count; i++)
        if (s->path[i] == token) return 1;
    return 0;
}

/* From the one sold to the one bought, so that little flows against the order: each middle token in turn goes where
 * it is best. */
static void put_in_order(split *s) {
    flows net;
    uint32_t count = s->tokens, placed = 1;
    read_flows(s, net);
    s->order[0] = 0, s->order[count - 1] = 1;
    for (uint32_t i = 0; s->keeps_path && i < s->path_count; i++) s->order[placed++] = s->path[i];
    for (uint32_t i = 2; i < count; i++)
        if (!is_kept(s, i)) s->order[placed++] = i;
    for (int turn = 0; turn < MOST_TOKENS; turn++) {
        int has_moved = 0;
        for (uint32_t i = 1; i + 1 < count; i++)
            if (!is_kept(s, s->order[i])) has_moved |= move_token(s->order, count, i, net);
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

/* ---- integers ---- */

static double net_value(const split *s, const psa_route_split_sum *sum) {
    return route_amount(sum->amount_out) * s->route->worth[s->token[1]] - sum->gas;
}

/* Swap what is there of one token, by the shares of the trades. A status. */
static int swap_token(const split *s, uint32_t token, u128 *held, psa_route_part *parts, uint32_t *count,
                      uint32_t *ticks) {
    double all = 0, most = 0;
    uint32_t largest = NONE;
    for (uint32_t i = 0; i < s->count; i++) {
        const split_part *part = &s->parts[i];
        if (part->direction < 0 || part->end[part->direction] != token || !(part->in > 0)) continue;
        all += part->in;
        if (part->in > most) most = part->in, largest = i;
    }
    if (largest == NONE) return held[token] ? PSA_INSUFFICIENT_LIQUIDITY : PSA_OK;
    u128 left = held[token];
    double whole = (double)held[token];
    for (uint32_t n = 0; n <= s->count; n++) { /* the largest comes last */
        uint32_t i = n < s->count ? n : largest;
        const split_part *part = &s->parts[i];
        if (part->direction < 0 || part->end[part->direction] != token || !(part->in > 0)) continue;
        if (n < s->count && i == largest) continue;
        u128 amount = n < s->count ? (u128)(whole * (part->in / all)) : left;
        if (amount > left) amount = left;
        if (amount == 0) continue;
        uint64_t words[4] = {(uint64_t)amount, (uint64_t)(amount >> 64), 0, 0};
        psa_quote_result result;
        int status = route_ask(s->route, part->pool, part->direction, 0, words, &result);
        if (status != PSA_OK) {
            if (n < s->count) continue; /* the largest takes its share too */
            return status;
        }
        if (result.amount_out[2] || result.amount_out[3]) return PSA_AMOUNT_OUT_OF_RANGE;
        left -= amount;
        held[part->end[!part->direction]] +=
            (u128)result.amount_out[1] << 64 | result.amount_out[0];
        *ticks += result.ticks_crossed;
        psa_route_part *made = &parts[(*count)++];
        *made = (psa_route_part){.pool = part->pool, .zero_for_one = part->direction == 0};
        memcpy(made->amount_in, words, sizeof words);
        memcpy(made->amount_out, result.amount_out, sizeof made->amount_out);
    }
    held[token] = left;
    return left ? PSA_INSUFFICIENT_LIQUIDITY : PSA_OK;
}

/* A trickle into a token that nothing leaves: what the last step of the search did not balance. */
static void close_dead_ends(split *s) {
    for (uint32_t n = s->tokens - 1; n-- > 1;) {
        uint32_t token = s->order[n];
        int leaves = 0;
        for (uint32_t i = 0; i < s->count; i++) {
            const split_part *part = &s->parts[i];
            leaves |= part->direction >= 0 && part->in >= 1 && part->end[part->direction] == token;
        }
        for (uint32_t i = 0; i < s->count && !leaves; i++) {
            split_part *part = &s->parts[i];
            if (part->direction >= 0 && part->end[!part->direction] == token) part->direction = -1;
        }
    }
}

/* Carry the trades out. A status. */
static int carry_out(split *s, const psa_route_gas *gas, psa_route_part *parts, uint32_t *count,
                     psa_route_split_sum *sum) {
    u128 held[MOST_TOKENS] = {0};
    uint32_t pools[MOST_POOLS];
    held[0] = (u128)sum->amount_in[1] << 64 | sum->amount_in[0];
    *count = 0;
    sum->ticks_crossed = 0;
    close_dead_ends(s);
    for (uint32_t i = 0; i + 1 < s->tokens; i++) {
        if (i > 0 && held[s->order[i]] == 0) continue;
        int status = swap_token(s, s->order[i], held, parts, count, &sum->ticks_crossed);
        if (status != PSA_OK) return status;
    }
    if (held[1] == 0) return PSA_INSUFFICIENT_LIQUIDITY;
    sum->amount_out[0] = (uint64_t)held[1], sum->amount_out[1] = (uint64_t)(held[1] >> 64);
    sum->amount_out[2] = sum->amount_out[3] = 0;
    for (uint32_t i = 0; i < *count; i++) pools[i] = parts[i].pool;
    sum->gas = route_gas(gas, s->route, pools, *count) + gas->tick * sum->ticks_crossed;
    return PSA_OK;
}

/* ---- which pools ---- */

static uint32_t place_of_token(const split *s, uint32_t token) {
    for (uint32_t i = 0; i < s->tokens; i++)
        if (s->token[i] == token) return i;
    return NONE;
}

/* The tokens of the paths that give most for a tenth of the amount, and all pools between them. */
static int choose_pools(split *s, uint32_t max_hops, double close, double *best) {
    psa_route *route = s->route;
    uint32_t count = 0;
    s->tokens = 2, s->count = 0;
    int status = route_good_paths(route, s->token[0], s->token[1], s->amount * 0.1, max_hops, close,
                                  TRIED_PATHS, &count);
    if (status != PSA_OK) return status;
    if (count > 0) *best = route->paths[0].bound;
    for (uint32_t i = 0; i < count; i++) {
        const route_path *path = &route->paths[i];
        uint32_t fresh = 0;
        for (uint32_t j = 1; j < path->hops; j++) fresh += place_of_token(s, path->tokens[j]) == NONE;
        if (s->tokens + fresh > MOST_TOKENS) continue;
        for (uint32_t j = 1; j < path->hops; j++)
            if (place_of_token(s, path->tokens[j]) == NONE) s->token[s->tokens++] = path->tokens[j];
    }
    s->path_count = 0;
    for (uint32_t j = 1; count > 0 && j < route->paths[0].hops; j++)
        s->path[s->path_count++] = place_of_token(s, route->paths[0].tokens[j]);
    for (uint32_t a = 0; a < s->tokens; a++) {
        for (uint32_t b = a + 1; b < s->tokens; b++) {
            uint32_t number = route_find_pair(route, s->token[a], s->token[b]);
            if (number == NONE) continue;
            const route_pair *pair = &route->pairs[number];
            for (uint32_t j = pair->first; j < pair->first + pair->count; j++) {
                const route_pool *pool = &route->pools[route->by_pair[j]];
                if (!pool->is_usable || s->count == MOST_POOLS) continue;
                uint32_t first = place_of_token(s, pool->token[0]);
                uint32_t second = first == a ? b : a;
                uint8_t allowed = (uint8_t)((second != 0 && first != 1) | (first != 0 && second != 1) << 1);
                s->parts[s->count++] = (split_part){.pool = route->by_pair[j],
                                                    .end = {(uint8_t)first, (uint8_t)second},
                                                    .allowed = allowed};
            }
        }
    }
    return s->count ? PSA_OK : PSA_INSUFFICIENT_LIQUIDITY;
}

/* Leave out the pools that give less than their swap costs; how many there were. */
static uint32_t drop_dear(split *s, const psa_route_gas *gas) {
    uint32_t kept = 0, dropped = 0;
    double unit = s->route->worth[s->token[1]];
    for (uint32_t i = 0; i < s->count; i++) {
        const split_part *part = &s->parts[i];
        double cost = gas->swaps[s->route->pools[part->pool].protocol % 24];
        if (part->direction >= 0 && part->gain * unit < cost) {
            dropped++;
            continue;
        }
        s->parts[kept++] = s->parts[i];
    }
    s->count = kept;
    return dropped;
}

/* Along an order of the tokens. */
static void optimise(split *s) {
    route_lower(s, 1e-12);
    s->free_bound = s->bound;
    for (int turn = 0; turn < 8; turn++) {
        put_in_order(s);
        if (!restrict_to_order(s) && turn > 0) break;
        route_lower(s, 1e-12);
    }
}

/* Pools, prices and trades. Where the last of the amount is worth less than the paths looked at, worse ones would
 * have helped: they are taken in, and all is solved again. */
static int search_split(split *s, uint32_t max_hops) {
    const psa_route *route = s->route;
    double close = CLOSE, best = 0;
    for (int round = 0; round < MOST_ROUNDS; round++) {
        int status = choose_pools(s, max_hops, close, &best);
        if (status != PSA_OK) return status;
        for (uint32_t i = 0; i < s->tokens; i++)
            s->price[i] = route->log_prices[s->token[i]] - route->log_prices[s->token[1]];
        double at_market = s->price[0];
        optimise(s);
        double apart = best - (s->price[0] - at_market);
        if (!(apart > close)) break;
        close = apart + CLOSE;
    }
    return PSA_OK;
}

/* The best that one kind of order gives. A status. */
static int try_order(split *s, uint32_t max_hops, const psa_route_gas *gas, psa_route_part *parts,
                     uint32_t *count, psa_route_split_sum *sum) {
    int status = search_split(s, max_hops);
    if (status != PSA_OK) return status;
    sum->bound = s->bound;
    status = carry_out(s, gas, parts, count, sum);
    psa_route_split_sum trial = *sum;
    for (int turn = 0; turn < 8 && drop_dear(s, gas) && s->count; turn++) {
        uint32_t made;
        optimise(s);
        if (carry_out(s, gas, s->trial, &made, &trial) != PSA_OK) break;
        if (status == PSA_OK && net_value(s, &trial) <= net_value(s, sum)) continue;
        memcpy(parts, s->trial, made * sizeof *parts);
        *count = made, *sum = trial, status = PSA_OK;
    }
    return status;
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
    int status = try_order(s, max_hops, gas, parts, count, sum);
    if (status == PSA_OK && sum->bound > s->free_bound * (1 - ORDER_COSTS)) return PSA_OK;
    psa_route_split_sum other = *sum;
    uint32_t made;
    s->keeps_path = 1; /* what flows in circles may be most, and need not be what the amount takes part in */
    if (try_order(s, max_hops, gas, s->others, &made, &other) != PSA_OK) return status;
    if (status == PSA_OK && net_value(s, &other) <= net_value(s, sum)) return PSA_OK;
    memcpy(parts, s->others, made * sizeof *parts);
    *count = made, *sum = other;
    return PSA_OK;
}
