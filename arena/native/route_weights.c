/* route_weights.c: weights of pools, pairs and tokens, and the sorted lists of the hot ones.
 *
 * All of it follows from pools, prices and floor alone, whatever happened before: lists have one order, so an index
 * that was brought up to a commit equals one that was built there.
 */
#include "route_index.h"

#define FEW_STEPS 4096 /* segments looked at for one bound */

/* ---- hot edges ---- */

static int comes_before(const hot_edge *a, float weight, uint32_t edge) {
    return a->weight > weight || (a->weight == weight && a->edge < edge);
}

static uint32_t place_of(const hot_list *list, float weight, uint32_t edge) {
    uint32_t low = 0, high = list->count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (comes_before(&list->edges[middle], weight, edge)) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void remove_hot(hot_list *list, float weight, uint32_t edge) {
    uint32_t at = place_of(list, weight, edge);
    memmove(list->edges + at, list->edges + at + 1, (list->count - at - 1) * sizeof(hot_edge));
    list->count--;
}

static int insert_hot(hot_list *list, float weight, uint32_t edge) {
    if (!route_grow(&list->edges, list->count + 1, &list->capacity, sizeof(hot_edge))) return 0;
    uint32_t at = place_of(list, weight, edge);
    memmove(list->edges + at + 1, list->edges + at, (list->count - at) * sizeof(hot_edge));
    list->edges[at] = (hot_edge){weight, edge};
    list->count++;
    return 1;
}

static int set_hot(psa_route *route, uint32_t edge, float weight) {
    float former = route->hot_weight[edge];
    if (!(weight > 0)) weight = 0;
    if (former == weight) return 1;
    const route_pair *pair = &route->pairs[edge >> 1];
    uint32_t from = pair->token[edge & 1], to = pair->token[!(edge & 1)];
    if (former > 0) {
        remove_hot(&route->hot_out[from], former, edge);
        remove_hot(&route->hot_in[to], former, edge);
        remove_hot(&route->hot_all, former, edge);
        route->hot_count--;
    }
    route->hot_weight[edge] = 0;
    if (weight > 0) {
        if (!insert_hot(&route->hot_out[from], weight, edge) ||
            !insert_hot(&route->hot_in[to], weight, edge) || !insert_hot(&route->hot_all, weight, edge))
            return 0;
        route->hot_count++;
    }
    route->hot_weight[edge] = weight;
    return 1;
}

/* ---- weights ---- */

/* The most that a pool alone gives in that direction against the prices. */
static double bound_of(const psa_route *route, const route_pool *pool, int direction) {
    double paid = route->worth[pool->token[direction]], got = route->worth[pool->token[!direction]];
    double value = 0;
    route_hop hop;
    route_start(&hop, pool, direction);
    for (int step = 0; step < FEW_STEPS; step++) {
        double rate = hop.keep * hop.out / hop.in * got / paid;
        if (!(rate > 1)) return value;
        double best = (sqrt(rate) - 1) * hop.in / hop.keep;
        double input = best < hop.room ? best : hop.room;
        value += route_gives(&hop, input) * got - input * paid;
        if (best <= hop.room) return value;
        route_cross(&hop);
    }
    return INFINITY; /* no answer is no reason to leave it out */
}

void route_weigh(psa_route *route, route_pool *pool) {
    for (int d = 0; d < 2; d++) {
        double from = route->log_prices[pool->token[d]], to = route->log_prices[pool->token[!d]];
        double weight = pool->rate[d] + to - from;
        pool->bound[d] = pool->value[d] = 0;
        pool->reach[d] = INFINITY;
        pool->weight[d] = SHUT;
        if (!pool->is_usable || !(weight > SHUT)) continue;
        pool->weight[d] = route_up(weight);
        if (!(weight > 0)) continue;
        double bound = bound_of(route, pool, d);
        route_hop hop;
        route_start(&hop, pool, d);
        pool->bound[d] = route_up(bound);
        pool->value[d] = route_up(hop.in / hop.keep * route->worth[pool->token[d]]);
        if (hop.room < INFINITY) pool->reach[d] = (float)(2 * log1p(hop.room * hop.keep / hop.in));
        if (bound <= route->floor) pool->weight[d] = 0;
    }
}

/* Weights of a pair into both its tokens' neighbours. */
static void weigh_pair(psa_route *route, uint32_t number) {
    route_pair *pair = &route->pairs[number];
    float best[2] = {SHUT, SHUT}, bound[2] = {0, 0};
    for (uint32_t i = pair->first; i < pair->first + pair->count; i++) {
        const route_pool *pool = &route->pools[route->by_pair[i]];
        for (int d = 0; d < 2; d++) {
            int side = d ^ pool->side;
            if (pool->weight[side] > best[d]) best[d] = pool->weight[side];
            if (pool->bound[side] > bound[d]) bound[d] = pool->bound[side];
        }
    }
    pair->bound[0] = bound[0], pair->bound[1] = bound[1];
    route->out[pair->at[0]] = route->in[pair->at[1]] = best[0];
    route->in[pair->at[0]] = route->out[pair->at[1]] = best[1];
}

static float pair_weight(const psa_route *route, uint32_t edge) {
    const route_pair *pair = &route->pairs[edge >> 1];
    return edge & 1 ? route->in[pair->at[0]] : route->out[pair->at[0]];
}

/* The best of a token's weights, one of which was `former` and is `weight` now; 0: all have to be looked at. */
static int keep_most(float *most, float former, float weight) {
    if (weight >= *most) *most = weight;
    else if (former == *most) return 0;
    return 1;
}

int route_tell_pair(psa_route *route, uint32_t number) {
    const route_pair *pair = &route->pairs[number];
    const uint32_t *at = pair->at;
    float out[2] = {route->out[at[0]], route->out[at[1]]};
    weigh_pair(route, number);
    for (int side = 0; side < 2; side++) {
        uint32_t token = pair->token[side]; /* what goes out of one side comes in at the other */
        if (!keep_most(&route->most_out[token], out[side], route->out[at[side]]) ||
            !keep_most(&route->most_in[token], out[!side], route->in[at[side]]))
            route->is_marked[token] = 1;
    }
    return set_hot(route, 2 * number, pair_weight(route, 2 * number)) &&
           set_hot(route, 2 * number + 1, pair_weight(route, 2 * number + 1));
}

static float greatest(const float *values, uint32_t count) {
    float most[16];
    for (int j = 0; j < 16; j++) most[j] = SHUT;
    uint32_t i = 0;
    for (; i + 16 <= count; i += 16)
        for (int j = 0; j < 16; j++) most[j] = values[i + j] > most[j] ? values[i + j] : most[j];
    for (; i < count; i++) most[0] = values[i] > most[0] ? values[i] : most[0];
    for (int j = 1; j < 16; j++) most[0] = most[j] > most[0] ? most[j] : most[0];
    return most[0];
}

void route_tell_token(psa_route *route, uint32_t token) {
    uint32_t first = route->starts[token], count = route->starts[token + 1] - first;
    route->most_out[token] = greatest(route->out + first, count);
    route->most_in[token] = greatest(route->in + first, count);
}

static int compare_hot(const void *a, const void *b) {
    const hot_edge *one = a, *other = b;
    return comes_before(one, other->weight, other->edge) ? -1 : 1;
}

static int append_hot(hot_list *list, float weight, uint32_t edge) {
    if (!route_grow(&list->edges, list->count + 1, &list->capacity, sizeof(hot_edge))) return 0;
    list->edges[list->count++] = (hot_edge){weight, edge};
    return 1;
}

static void sort_hot(hot_list *list) {
    if (list->count > 1) qsort(list->edges, list->count, sizeof(hot_edge), compare_hot);
}

/* All lists from nothing: one by one it would take the square of their length. */
static int list_hot(psa_route *route) {
    route->hot_count = route->hot_all.count = 0;
    for (uint32_t t = 0; t < route->token_count; t++) route->hot_out[t].count = route->hot_in[t].count = 0;
    for (uint32_t edge = 0; edge < 2 * route->pair_count; edge++) {
        float weight = pair_weight(route, edge);
        const route_pair *pair = &route->pairs[edge >> 1];
        route->hot_weight[edge] = weight > 0 ? weight : 0;
        if (!(weight > 0)) continue;
        if (!append_hot(&route->hot_out[pair->token[edge & 1]], weight, edge) ||
            !append_hot(&route->hot_in[pair->token[!(edge & 1)]], weight, edge) ||
            !append_hot(&route->hot_all, weight, edge))
            return 0;
        route->hot_count++;
    }
    for (uint32_t t = 0; t < route->token_count; t++)
        sort_hot(&route->hot_out[t]), sort_hot(&route->hot_in[t]);
    sort_hot(&route->hot_all);
    return 1;
}

int route_tell_all(psa_route *route) {
    route->usable = 0;
    for (uint32_t i = 0; i < route->pool_count; i++) {
        route_weigh(route, &route->pools[i]);
        route->usable += route->pools[i].is_usable;
    }
    for (uint32_t i = 0; i < route->pair_count; i++) weigh_pair(route, i);
    for (uint32_t i = 0; i < route->token_count; i++) route_tell_token(route, i);
    return list_hot(route);
}
