/* route_index.c: the pools of the index as doubles, and the graph of their tokens. */
#include "route_index.h"

#include "swap.h"

int route_grow(void *items, uint32_t count, uint32_t *capacity, size_t nbytes) {
    if (count <= *capacity) return 1;
    uint32_t room = *capacity < 4 ? 4 : *capacity;
    while (room < count) room += room / 2 + 1;
    void *former, *fresh;
    memcpy(&former, items, sizeof former);
    fresh = realloc(former, (size_t)room * nbytes);
    if (!fresh) return 0;
    memcpy(items, &fresh, sizeof fresh);
    *capacity = room;
    return 1;
}

/* ---- pools ---- */

static double price_of_tick(int32_t tick) {
    uint64_t words[4];
    if (psa_sqrt_price_at_tick(tick, words) != PSA_OK) return NAN;
    return (route_double(words[0], words[1]) + (double)words[2] * 0x1p128) * 0x1p-96;
}

int route_take_ticks(route_pool *pool, const int32_t *ticks, const uint64_t *net, uint32_t count) {
    int is_priced = pool->prices && count == pool->tick_count &&
                    memcmp(pool->ticks, ticks, count * sizeof(int32_t)) == 0;
    if (is_priced && memcmp(pool->net, net, count * 2 * sizeof(uint64_t)) == 0) return 1;
    if (count > pool->tick_capacity || !pool->prices) {
        uint32_t room = count + count / 8 + 2;
        /* One block: prices, liquidity (one more), net, ticks. */
        double *block = realloc(pool->prices, ((size_t)room * 2 + 1) * sizeof(double) +
                                                  (size_t)room * (2 * sizeof(uint64_t) + sizeof(int32_t)));
        if (!block) return 0;
        pool->prices = block;
        pool->tick_capacity = room;
    }
    uint32_t room = pool->tick_capacity;
    pool->liquidity = pool->prices + room;
    pool->net = (uint64_t *)(void *)(pool->liquidity + room + 1);
    pool->ticks = (int32_t *)(void *)(pool->net + 2 * (size_t)room);
    pool->tick_count = count;
    pool->liquidity[0] = 0;
    __int128 sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        pool->ticks[i] = ticks[i];
        pool->net[2 * i] = net[2 * i], pool->net[2 * i + 1] = net[2 * i + 1];
        if (!is_priced) pool->prices[i] = price_of_tick(ticks[i]);
        sum += (__int128)((unsigned __int128)net[2 * i + 1] << 64 | net[2 * i]);
        pool->liquidity[i + 1] = (double)sum;
    }
    return 1;
}

static psa_pool_copy copy_of(const psa_route *route, uint32_t number) {
    const route_pool *pool = &route->pools[number];
    return (psa_pool_copy){route->lines[number], &route->rows[number], pool->ticks, pool->net, 0};
}

static uint32_t fee_flags(const route_pool *pool, const psa_static *row) {
    if (pool->fee_given == PSA_ROUTE_NONE || !(row->flags & (PSA_POOL_HOOKED | PSA_POOL_DYNAMIC_FEE)))
        return 0;
    return PSA_FEE_GIVEN | PSA_ALLOW_HOOKS;
}

int route_ask(const psa_route *route, uint32_t number, int direction, int exact_out,
              const uint64_t amount[4], psa_quote_result *result) {
    const route_pool *pool = &route->pools[number];
    psa_pool_copy copy = copy_of(route, number);
    uint32_t flags = fee_flags(pool, copy.row);
    uint32_t fee = flags ? pool->fee_given : 0;
    flags |= (direction == 0 ? PSA_ZERO_FOR_ONE : 0) | (exact_out ? PSA_EXACT_OUT : 0);
    int status = psa_quote_copy(&copy, (const uint8_t *)amount, 0, flags, fee, result);
    return status == PSA_OK && !result->is_complete ? PSA_INSUFFICIENT_LIQUIDITY : status;
}

void route_load(psa_route *route, uint32_t number) {
    route_pool *pool = &route->pools[number];
    psa_pool_copy copy = copy_of(route, number);
    const psa_line *line = &copy.line;
    uint32_t flags = fee_flags(pool, copy.row);
    pool->is_usable = 1;
    pool_state state;
    int status = PSA_OK;
    for (int d = 0; d < 2; d++) {
        if (d == 0 || line->protocol_fee != 0) /* by direction */
            status = psa_load_copy(&copy, flags | (d == 0 ? PSA_ZERO_FOR_ONE : 0),
                                   flags ? pool->fee_given : 0, &state);
        if (status != PSA_OK || state.fee >= PSA_PIPS) pool->is_usable = 0;
        else pool->keep[d] = 1 - state.fee * 1e-6;
    }
    double a = route_double(line->a[0], line->a[1]), b = route_double(line->b[0], line->b[1]);
    if (!pool->has_ticks && !(a > 0 && b > 0)) pool->is_usable = 0; /* 0 has no rate */
    pool->reserve[0] = pool->reserve[1] = 0;
    pool->price = 0;
    pool->rate[0] = pool->rate[1] = -INFINITY;
    if (!pool->is_usable) {
        pool->keep[0] = pool->keep[1] = 0;
        pool->index = 0;
        return;
    }
    if (pool->has_ticks) {
        pool->index = line->current_index;
        pool->price = (a + (double)line->sqrt_price_hi * 0x1p128) * 0x1p-96;
        a = b / pool->price, b *= pool->price;
    }
    pool->reserve[0] = a, pool->reserve[1] = b;
    for (int d = 0; d < 2; d++) { /* no liquidity here does not mean none behind the next tick */
        route_hop hop;
        route_start(&hop, pool, d);
        if (hop.out > 0) pool->rate[d] = log(hop.out / hop.in * pool->keep[d]);
    }
}

/* ---- one swap in doubles ---- */

/* Of an amount: so far beyond the end of liquidity may doubles see it where integers do not. */
#define BEYOND 1e-9

double route_pool_out(const route_pool *pool, int direction, double input) {
    double output = 0, left = input;
    route_hop hop;
    route_start(&hop, pool, direction);
    while (left > hop.room) {
        output += route_gives(&hop, hop.room);
        left -= hop.room;
        route_cross(&hop);
    }
    if (hop.out > 0) return output + route_gives(&hop, left);
    return left <= input * BEYOND ? output : -INFINITY;
}

double route_pool_in(const route_pool *pool, int direction, double output) {
    double input = 0, left = output;
    route_hop hop;
    route_start(&hop, pool, direction);
    for (;;) {
        if (!(hop.out > 0)) return left <= output * BEYOND ? input : INFINITY;
        if (hop.room < INFINITY) {
            double given = route_gives(&hop, hop.room);
            if (given < left) {
                left -= given, input += hop.room;
                route_cross(&hop);
                continue;
            }
        }
        if (left >= hop.out) return INFINITY;
        return input + hop.in * left / ((hop.out - left) * hop.keep);
    }
}

/* ---- the graph ---- */

int route_number_tokens(psa_route *route, uint32_t numeraire) {
    uint32_t highest = 0;
    for (uint32_t i = 0; i < route->pool_count; i++) {
        const psa_static *row = &route->rows[i];
        if (row->token0 > highest) highest = row->token0;
        if (row->token1 > highest) highest = row->token1;
    }
    route->table_count = highest + 1;
    route->number_of = malloc(route->table_count * sizeof(uint32_t));
    route->tokens = malloc((2 * (size_t)route->pool_count + 1) * sizeof(uint32_t));
    if (!route->number_of || !route->tokens) return PSA_NO_MEMORY;
    memset(route->number_of, 0xff, route->table_count * sizeof(uint32_t));
    for (uint32_t i = 0; i < route->pool_count; i++) {
        uint32_t named[2] = {route->rows[i].token0, route->rows[i].token1};
        for (int d = 0; d < 2; d++) {
            uint32_t *number = &route->number_of[named[d]];
            if (*number == NONE) route->tokens[*number = route->token_count++] = named[d];
            route->pools[i].token[d] = *number;
        }
    }
    route->numeraire = numeraire < route->table_count ? route->number_of[numeraire] : NONE;
    return route->numeraire == NONE ? PSA_BAD_ARGUMENT : PSA_OK;
}

static int compare_keys(const void *a, const void *b) {
    const uint64_t *one = a, *other = b; /* pair, then pool */
    if (one[0] != other[0]) return one[0] < other[0] ? -1 : 1;
    return one[1] < other[1] ? -1 : 1;
}

static void enter_key(psa_route *route, uint64_t key, uint32_t pair) {
    uint32_t at = (uint32_t)(key * 0x9E3779B97F4A7C15u >> 40) & route->key_mask;
    while (route->keys[at] != UINT64_MAX) at = (at + 1) & route->key_mask;
    route->keys[at] = key, route->values[at] = pair;
}

int route_make_pairs(psa_route *route) {
    uint32_t count = route->pool_count;
    uint64_t *sorted = malloc((size_t)count * 2 * sizeof(uint64_t));
    route->by_pair = malloc(count * sizeof(uint32_t));
    route->pairs = calloc(count, sizeof(route_pair));
    uint32_t size = 16;
    while (size < 4 * count) size *= 2;
    route->key_mask = size - 1;
    route->keys = malloc(size * sizeof(uint64_t));
    route->values = malloc(size * sizeof(uint32_t));
    if (!sorted || !route->by_pair || !route->pairs || !route->keys || !route->values) {
        free(sorted);
        return PSA_NO_MEMORY;
    }
    memset(route->keys, 0xff, size * sizeof(uint64_t));
    for (uint32_t i = 0; i < count; i++) {
        route_pool *pool = &route->pools[i];
        pool->side = pool->token[0] > pool->token[1];
        sorted[2 * i] = (uint64_t)pool->token[pool->side] << 32 | pool->token[!pool->side];
        sorted[2 * i + 1] = i;
    }
    qsort(sorted, count, 2 * sizeof(uint64_t), compare_keys);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t key = sorted[2 * i];
        uint32_t number = (uint32_t)sorted[2 * i + 1];
        if (i == 0 || key != sorted[2 * i - 2]) {
            enter_key(route, key, route->pair_count);
            route->pairs[route->pair_count++] =
                (route_pair){.token = {(uint32_t)(key >> 32), (uint32_t)key}, .first = i};
        }
        route->pairs[route->pair_count - 1].count++;
        route->pools[number].pair = route->pair_count - 1;
        route->by_pair[i] = number;
    }
    free(sorted);
    return PSA_OK;
}

int route_join_tokens(psa_route *route) {
    uint32_t tokens = route->token_count, edges = 2 * route->pair_count;
    route->starts = calloc(tokens + 2, sizeof(uint32_t));
    route->neighbours = malloc(edges * sizeof(uint32_t));
    route->neighbour_pairs = malloc(edges * sizeof(uint32_t));
    route->out = malloc(edges * sizeof(float)), route->in = malloc(edges * sizeof(float));
    route->most_out = malloc(tokens * sizeof(float)), route->most_in = malloc(tokens * sizeof(float));
    route->log_prices = malloc(tokens * sizeof(double));
    route->worth = malloc(tokens * sizeof(double));
    route->hot_out = calloc(tokens, sizeof(hot_list)), route->hot_in = calloc(tokens, sizeof(hot_list));
    route->hot_weight = calloc(edges, sizeof(float));
    route->rank = malloc(route->pool_count * sizeof(uint32_t));
    route->is_marked = calloc(tokens, 1);
    route->fresh = malloc(route->pool_count * sizeof(route_fresh));
    if (!route->starts || !route->neighbours || !route->neighbour_pairs || !route->out || !route->in ||
        !route->most_out || !route->most_in || !route->log_prices || !route->worth || !route->hot_out ||
        !route->hot_in || !route->hot_weight || !route->rank || !route->is_marked || !route->fresh)
        return PSA_NO_MEMORY;
    memset(route->rank, 0xff, route->pool_count * sizeof(uint32_t));
    for (uint32_t q = 0; q < route->pair_count; q++)
        for (int side = 0; side < 2; side++) route->starts[route->pairs[q].token[side] + 2]++;
    for (uint32_t t = 0; t < tokens; t++) route->starts[t + 2] += route->starts[t + 1];
    for (uint32_t q = 0; q < route->pair_count; q++)
        for (int side = 0; side < 2; side++) { /* starts[t + 1] runs from the first of t to the first of t + 1 */
            route_pair *pair = &route->pairs[q];
            uint32_t at = route->starts[pair->token[side] + 1]++;
            route->neighbours[at] = pair->token[!side];
            route->neighbour_pairs[at] = q;
            pair->at[side] = at;
        }
    return PSA_OK;
}
