/* route_prices.c: a price for every token, along the path that is widest where it is narrowest.
 *
 * The width of a pair is what its pools hold of the token nearer to the numeraire, at that token's price: virtual
 * reserves where there are ticks. The price along a pair is the mean of its pools' prices without fees, in logs and
 * by that width.
 */
#include "route_index.h"

typedef struct {
    double width, log_price;
    uint32_t token, by;
} candidate;

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

/* What a pair makes of a token's price for its other token; width 0: nothing. */
static candidate across(const psa_route *route, uint32_t number, uint32_t from, double log_price) {
    const route_pair *pair = &route->pairs[number];
    candidate found = {0, 0, pair->token[pair->token[0] == from], NONE};
    double widest = 0;
    for (uint32_t i = pair->first; i < pair->first + pair->count; i++) {
        const route_pool *pool = &route->pools[route->by_pair[i]];
        int d = route_direction(pool, from);
        double there = pool->reserve[d], other = pool->reserve[!d];
        if (!pool->is_usable || !(there > 0 && other > 0)) continue;
        found.width += there;
        found.log_price += there * (log(there) - log(other));
        if (there > widest) widest = there, found.by = route->by_pair[i];
    }
    if (found.width > 0) found.log_price = log_price + found.log_price / found.width;
    found.width *= exp(log_price);
    return found;
}

int route_widest(psa_route *route, double *log_prices, uint32_t *by) {
    uint32_t count = 0, most = 2 * route->pair_count + 1;
    if (!route_grow(&route->heap, most, &route->heap_capacity, sizeof(candidate))) return 0;
    candidate *heap = route->heap;
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
            candidate found = across(route, route->neighbour_pairs[i], token, next.log_price);
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
