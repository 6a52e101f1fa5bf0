/* route_prices.c: a price for every token, along the path that is widest where it is narrowest.
 *
 * The width of a pool is what it really takes and gives of the token nearer to the numeraire until its price has moved
 * by two in a hundred, the lesser of both: virtual reserves can be had for nothing, and so can liquidity on the side
 * that nobody wants. Where there is none on one side, next to nothing is left of the other. The price of a pool
 * lies, in logs, between those at which it gives either token: with liquidity at its present price they are one.
 *
 * The price along a pair is the mean of its pools' prices without fees, in logs and by width, of those near the one
 * in the middle by width. A pool that holds little moves neither.
 */
#include "route_index.h"

typedef struct {
    double width, log_price;
    uint32_t token, by;
} candidate;

#define MOVED 1.02   /* of a price */
#define NEAR 0.02    /* of the log of the price in the middle */
#define ONE_SIDED 1e-6 /* what is left of a width with nothing on the other side */

static void push(candidate *heap, uint32_t *count, candidate item) {
    uint32_t at = (*count)++;
    while (at > 0 && heap[(at - 1) / 2].width < item.width) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = item;
}

static candidate pop(candidate *heap, uint32_t *count) {
    candidate top = heap[0], last = heap[--*count];
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= *count) break;
        if (child + 1 < *count && heap[child + 1].width > heap[child].width) child++;
        if (heap[child].width <= last.width) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return top;
}

/* What a pool takes and gives in one direction until the price has moved; the rate it begins at, 0: none. */
static double read_depth(const route_pool *pool, int direction, double *taken, double *given) {
    route_hop hop;
    route_start(&hop, pool, direction);
    *taken = *given = 0;
    if (!(hop.out > 0)) return 0;
    double first = hop.out / hop.in, last = first / MOVED;
    while (hop.out > last * hop.in) {
        double net = sqrt(hop.out * hop.in / last) - hop.in, room = hop.room * hop.keep;
        double input = net < room ? net : room;
        *taken += input, *given += hop.out * input / (hop.in + input);
        if (net <= room) break;
        route_cross(&hop);
    }
    return first;
}

/* Width and log price of a pool's other token in units of `from`. */
static candidate width_of(const route_pool *pool, uint32_t from) {
    int d = route_direction(pool, from);
    double taken, given, unused, price;
    double bought = read_depth(pool, d, &taken, &unused), sold = read_depth(pool, !d, &unused, &given);
    double least = taken < given ? taken : given, most = taken < given ? given : taken;
    if (bought > 0) price = sold > 0 && sold * bought < 0.999999 ? sqrt(sold / bought) : 1 / bought;
    else price = sold;
    return (candidate){least + ONE_SIDED * most, log(price), NONE, NONE};
}

static int compare_prices(const void *a, const void *b) {
    const candidate *one = a, *other = b;
    if (one->log_price != other->log_price) return one->log_price < other->log_price ? -1 : 1;
    return one->by < other->by ? -1 : one->by > other->by;
}

/* What a pair makes of a token's price for its other token; width 0: nothing. `pools` has room for them all. */
static candidate across(const psa_route *route, uint32_t number, uint32_t from, double log_price,
                        candidate *pools) {
    const route_pair *pair = &route->pairs[number];
    candidate found = {0, 0, pair->token[pair->token[0] == from], NONE};
    uint32_t count = 0, middle = 0;
    double widest = 0, all = 0, below = 0, near = 0;
    for (uint32_t i = pair->first; i < pair->first + pair->count; i++) {
        const route_pool *pool = &route->pools[route->by_pair[i]];
        if (!pool->is_usable) continue;
        candidate here = width_of(pool, from);
        if (!(here.width > 0)) continue;
        here.by = route->by_pair[i];
        all += here.width;
        pools[count++] = here;
    }
    if (count == 0) return found;
    if (count > 1) qsort(pools, count, sizeof *pools, compare_prices);
    while (middle + 1 < count && below + pools[middle].width < all / 2) below += pools[middle++].width;
    for (uint32_t i = 0; i < count; i++) {
        if (fabs(pools[i].log_price - pools[middle].log_price) > NEAR) continue;
        near += pools[i].width, found.log_price += pools[i].width * pools[i].log_price;
        if (pools[i].width > widest) widest = pools[i].width, found.by = pools[i].by;
    }
    found.log_price = log_price + found.log_price / near;
    found.width = near * exp(log_price);
    return found;
}

int route_widest(psa_route *route, double *log_prices, uint32_t *by) {
    uint32_t count = 0, most = 2 * route->pair_count + 1;
    if (!route_grow(&route->heap, most + route->pool_count, &route->heap_capacity, sizeof(candidate))) return 0;
    candidate *heap = route->heap, *pools = heap + most; /* of one pair */
    for (uint32_t t = 0; t < route->token_count; t++) {
        log_prices[t] = -INFINITY;
        if (by) by[t] = PSA_ROUTE_NONE;
    }
    push(heap, &count, (candidate){INFINITY, 0, route->numeraire, NONE});
    while (count > 0) {
        candidate next = pop(heap, &count);
        uint32_t token = next.token;
        if (route->is_marked[token]) continue;
        route->is_marked[token] = 1;
        log_prices[token] = next.log_price;
        if (by) by[token] = next.by;
        for (uint32_t i = route->starts[token]; i < route->starts[token + 1]; i++) {
            if (route->is_marked[route->neighbours[i]]) continue;
            candidate found = across(route, route->neighbour_pairs[i], token, next.log_price, pools);
            if (found.width > next.width) found.width = next.width;
            if (found.width > 0) push(heap, &count, found);
        }
    }
    memset(route->is_marked, 0, route->token_count);
    return 1;
}

int psa_route_prices(psa_route *route, uint32_t *tokens, double *log_prices, uint32_t *by) {
    if (!route || route->pool_count == 0) return PSA_BAD_ARGUMENT;
    memcpy(tokens, route->tokens, route->token_count * sizeof(uint32_t));
    return route_widest(route, log_prices, by) ? PSA_OK : PSA_NO_MEMORY;
}
