/* route_update.c: an index made from arrays of one commit, and brought up to later ones.
 *
 * Whatever changed since is read first, at one commit, and taken in when all of it is there: an index is of one
 * commit at any time.
 */
#include "route_index.h"

#include "ticks.h"
#include "versions.h"

#define UPDATE_TRIES 64

/* ---- its memory ---- */

static void free_pools(psa_route *route) {
    for (uint32_t i = 0; i < route->pool_count; i++) free(route->pools[i].prices);
    for (uint32_t t = 0; t < route->token_count; t++) {
        if (route->hot_out) free(route->hot_out[t].edges);
        if (route->hot_in) free(route->hot_in[t].edges);
    }
    free(route->hot_all.edges);
}

/* Everything but the scratch memory. */
static void clear(psa_route *route) {
    free_pools(route);
    void *blocks[] = {route->pools,      route->lines,      route->rows,       route->references,
                      route->pool_of_slot, route->pairs,    route->by_pair,    route->starts,
                      route->neighbours, route->neighbour_pairs, route->out,   route->in,
                      route->most_out,   route->most_in,    route->log_prices, route->worth,
                      route->tokens,     route->number_of,  route->keys,       route->values,
                      route->hot_out,    route->hot_in,     route->hot_weight, route->rank,
                      route->is_marked,  route->fresh};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) free(blocks[i]);
    route_market_free(route->market);
    psa_route kept = *route;
    memset(route, 0, sizeof *route);
    route->changed = kept.changed, route->changed_capacity = kept.changed_capacity;
    route->fresh_ticks = kept.fresh_ticks, route->fresh_net = kept.fresh_net;
    route->fresh_capacity = kept.fresh_capacity;
    route->paths = kept.paths, route->path_capacity = kept.path_capacity;
    route->cycles = kept.cycles, route->cycle_capacity = kept.cycle_capacity;
    route->answers = kept.answers, route->answer_capacity = kept.answer_capacity;
    route->split = kept.split, route->split_capacity = kept.split_capacity;
    route->heap = kept.heap, route->heap_capacity = kept.heap_capacity;
}

int psa_route_new(psa_route **route) {
    *route = calloc(1, sizeof **route);
    return *route ? PSA_OK : PSA_NO_MEMORY;
}

void psa_route_free(psa_route *route) {
    if (!route) return;
    clear(route);
    free(route->changed), free(route->fresh_ticks), free(route->fresh_net), free(route->paths);
    free(route->cycles), free(route->answers), free(route->split), free(route->heap), free(route);
}

/* ---- building ---- */

static int take_arrays(psa_route *route, const psa_line *lines, const psa_static *rows,
                       const uint64_t *references, const uint64_t *starts, const int32_t *ticks,
                       const uint64_t *net, const uint32_t *fees, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        if ((uint32_t)references[i] >= route->slot_count) route->slot_count = (uint32_t)references[i] + 1;
    route->pools = calloc(count, sizeof(route_pool));
    route->lines = malloc(count * sizeof(psa_line));
    route->rows = malloc(count * sizeof(psa_static));
    route->references = malloc(count * sizeof(uint64_t));
    route->pool_of_slot = malloc(route->slot_count * sizeof(uint32_t));
    if (!route->pools || !route->lines || !route->rows || !route->references || !route->pool_of_slot)
        return PSA_NO_MEMORY;
    route->pool_count = count;
    memcpy(route->lines, lines, count * sizeof(psa_line));
    memcpy(route->rows, rows, count * sizeof(psa_static));
    memcpy(route->references, references, count * sizeof(uint64_t));
    memset(route->pool_of_slot, 0xff, route->slot_count * sizeof(uint32_t));
    for (uint32_t i = 0; i < count; i++) {
        route_pool *pool = &route->pools[i];
        uint32_t *here = &route->pool_of_slot[(uint32_t)references[i]];
        if (*here != NONE || rows[i].token0 == rows[i].token1) return PSA_BAD_ARGUMENT;
        *here = i;
        pool->protocol = rows[i].protocol;
        pool->has_ticks = rows[i].protocol == PSA_UNISWAP_V3 || rows[i].protocol == PSA_UNISWAP_V4;
        pool->fee_given = fees[i];
        uint32_t length = (uint32_t)(starts[i + 1] - starts[i]);
        if (pool->has_ticks && !route_take_ticks(pool, ticks + starts[i], net + 2 * starts[i], length))
            return PSA_NO_MEMORY;
    }
    return PSA_OK;
}

static int build(psa_route *route, const psa_line *lines, const psa_static *rows,
                 const uint64_t *references, const uint64_t *starts, const int32_t *ticks,
                 const uint64_t *net, const uint32_t *fees, uint32_t count, uint32_t numeraire) {
    int status = take_arrays(route, lines, rows, references, starts, ticks, net, fees, count);
    if (status == PSA_OK) status = route_number_tokens(route, numeraire);
    if (status == PSA_OK) status = route_make_pairs(route);
    if (status == PSA_OK) status = route_join_tokens(route);
    if (status != PSA_OK) return status;
    for (uint32_t i = 0; i < count; i++) route_load(route, i);
    return PSA_OK;
}

int psa_route_build(psa_route *route, const psa_commit_record *record, const psa_line *lines,
                    const psa_static *rows, const uint64_t *references, const uint64_t *starts,
                    const int32_t *ticks, const uint64_t *net, const uint32_t *fees, uint32_t count,
                    uint32_t numeraire, int whole) {
    if (!route || !record || count == 0) return PSA_BAD_ARGUMENT;
    clear(route);
    int status =
        build(route, lines, rows, references, starts, ticks, net, fees, count, numeraire);
    if (status != PSA_OK) {
        clear(route);
        return status;
    }
    route->is_whole = whole != 0;
    route->commit = record->stamp;
    route->topology = record->topology;
    route->reused = record->reused;
    return PSA_OK;
}

int psa_route_reprice(psa_route *route, const double *log_prices, double floor) {
    if (!route || route->pool_count == 0 || !(floor >= 0)) return PSA_BAD_ARGUMENT;
    if (log_prices) memcpy(route->log_prices, log_prices, route->token_count * sizeof(double));
    else if (!route_widest(route, route->log_prices, 0)) return PSA_NO_MEMORY;
    for (uint32_t t = 0; t < route->token_count; t++) route->worth[t] = exp(route->log_prices[t]);
    route->floor = floor;
    return route_tell_all(route) ? PSA_OK : PSA_NO_MEMORY;
}

/* ---- bringing it up to date ---- */

static int has_same_ticks(const route_pool *pool, const psa_line *line, uint64_t serial) {
    return serial != 0 && pool->serial == serial && pool->slab == line->slab &&
           pool->tick_count == line->tick_count;
}

/* Read one pool at `commit` behind what was read. */
static int read_fresh(psa_route *route, const psa_arena *arena, uint32_t number, uint64_t commit,
                      route_fresh *fresh) {
    uint32_t slot = (uint32_t)route->references[number], which;
    const route_pool *pool = &route->pools[number];
    int status = psa_line_begin(arena, slot, commit, &fresh->line, &which);
    if (status != PSA_OK) return status;
    fresh->pool = number;
    fresh->first = NONE;
    fresh->serial = 0;
    psa_tick_arrays arrays = {0, 0, 0, 0};
    int is_sound = !pool->has_ticks || psa_line_ticks(arena, &fresh->line, &arrays);
    uint32_t count = fresh->line.tick_count;
    if (is_sound && pool->has_ticks && !has_same_ticks(pool, &fresh->line, arrays.serial)) {
        uint32_t room = route->fresh_capacity;
        if (!route_grow(&route->fresh_ticks, route->fresh_count + count, &room, sizeof(int32_t)))
            return PSA_NO_MEMORY;
        if (!route_grow(&route->fresh_net, route->fresh_count + count, &route->fresh_capacity,
                        2 * sizeof(uint64_t)))
            return PSA_NO_MEMORY;
        fresh->first = route->fresh_count;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t at = fresh->first + i;
            route->fresh_ticks[at] = PSA_LOAD(&arrays.ticks[i]);
            route->fresh_net[2 * at] = PSA_LOAD(&arrays.net[2 * i]);
            route->fresh_net[2 * at + 1] = PSA_LOAD(&arrays.net[2 * i + 1]);
        }
        route->fresh_count += count;
    }
    fresh->serial = arrays.serial;
    if (!psa_line_still(arena, slot, &fresh->line, which)) return PSA_SNAPSHOT_TOO_OLD;
    if (!is_sound) return PSA_TICK_DATA;
    return fresh->line.generation == route->references[number] >> 32 ? PSA_OK : PSA_POOL_REMOVED;
}

/* Memory of what changed is far apart, and nobody looked at it since the block before: all of it is asked for before
 * the first of it is needed. */
static void fetch(const void *memory, size_t nbytes) {
    for (size_t at = 0; at < nbytes; at += 64) __builtin_prefetch((const char *)memory + at);
}

static void fetch_changed(const psa_route *route, const psa_arena *arena, uint32_t changed) {
    for (uint32_t i = 0; i < changed; i++) {
        uint32_t slot = (uint32_t)route->changed[i];
        if (slot >= route->slot_count || slot >= arena->max_pools) continue;
        fetch(&arena->slots[slot], sizeof(psa_slot));
        __builtin_prefetch(&route->pool_of_slot[slot]);
    }
    for (uint32_t i = 0; i < changed; i++) {
        uint32_t slot = (uint32_t)route->changed[i];
        uint32_t number = slot < route->slot_count ? route->pool_of_slot[slot] : NONE;
        if (number == NONE) continue;
        fetch(&route->pools[number], sizeof(route_pool));
        fetch(&route->rows[number], sizeof(psa_static));
        __builtin_prefetch(&route->references[number]);
    }
}

/* The same of what follows from them. */
static void fetch_fresh(const psa_route *route, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const route_pool *pool = &route->pools[route->fresh[i].pool];
        __builtin_prefetch(&route->pairs[pool->pair]);
        for (int d = 0; d < 2; d++) __builtin_prefetch(&route->log_prices[pool->token[d]]);
        for (int d = 0; d < 2; d++) __builtin_prefetch(&route->worth[pool->token[d]]);
        uint32_t index = route->fresh[i].line.current_index;
        if (!pool->has_ticks || index > pool->tick_count) continue;
        __builtin_prefetch(&pool->ticks[index]);
        __builtin_prefetch(&pool->prices[index]);
        __builtin_prefetch(&pool->liquidity[index]);
    }
    for (uint32_t i = 0; i < count; i++) {
        const route_pair *pair = &route->pairs[route->pools[route->fresh[i].pool].pair];
        for (uint32_t j = pair->first; j < pair->first + pair->count; j++)
            __builtin_prefetch(&route->pools[route->by_pair[j]].weight);
        for (int d = 0; d < 2; d++) __builtin_prefetch(&route->out[pair->at[d]]);
        for (int d = 0; d < 2; d++) __builtin_prefetch(&route->in[pair->at[d]]);
    }
}

/* Everything changed since, at the commit of `record`. */
static int read_changed(psa_route *route, const psa_arena *arena, const psa_commit_record *record,
                        uint32_t *count) {
    uint32_t changed = 0;
    int status;
    for (;;) {
        status = psa_changed(arena, route->commit, record->stamp, 0, route->changed,
                             route->changed_capacity, &changed);
        if (status != PSA_BUFFER_TOO_SMALL) break;
        if (!route_grow(&route->changed, changed, &route->changed_capacity, sizeof(uint64_t)))
            return PSA_NO_MEMORY;
    }
    *count = 0;
    route->fresh_count = 0;
    if (status == PSA_OK) fetch_changed(route, arena, changed);
    for (uint32_t i = 0; status == PSA_OK && i < changed; i++) {
        uint32_t slot = (uint32_t)route->changed[i];
        uint32_t number = slot < route->slot_count ? route->pool_of_slot[slot] : NONE;
        if (number == NONE) {
            if (route->is_whole) status = PSA_POOL_REMOVED; /* it has its first values */
            continue;
        }
        status = read_fresh(route, arena, number, record->stamp, &route->fresh[*count]);
        if (status == PSA_OK) ++*count;
    }
    return status;
}

static int take_in(psa_route *route, uint32_t count) {
    fetch_fresh(route, count);
    for (uint32_t i = 0; i < count; i++) {
        const route_fresh *fresh = &route->fresh[i];
        route_pool *pool = &route->pools[fresh->pool];
        if (fresh->first != NONE &&
            !route_take_ticks(pool, route->fresh_ticks + fresh->first,
                              route->fresh_net + 2 * (size_t)fresh->first, fresh->line.tick_count))
            return 0;
        pool->slab = fresh->line.slab, pool->serial = fresh->serial;
        route->lines[fresh->pool] = fresh->line;
        route->usable -= pool->is_usable;
        route_load(route, fresh->pool);
        route->usable += pool->is_usable;
        route_weigh(route, pool);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!route_tell_pair(route, route->pools[route->fresh[i].pool].pair)) return 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t *tokens = route->pools[route->fresh[i].pool].token;
        for (int d = 0; d < 2; d++) {
            if (!route->is_marked[tokens[d]]) continue;
            route->is_marked[tokens[d]] = 0;
            route_tell_token(route, tokens[d]);
        }
    }
    return 1;
}

int psa_route_update(psa_route *route, const psa_arena *arena, psa_commit_record *record,
                     uint32_t *touched, uint32_t *count) {
    if (!route || route->pool_count == 0 || !arena || !record || !touched || !count)
        return PSA_BAD_ARGUMENT;
    *count = 0;
    if (!route_grow(&route->changed, route->pool_count + 1, &route->changed_capacity, sizeof(uint64_t)))
        return PSA_NO_MEMORY;
    for (int attempt = 0; attempt < UPDATE_TRIES; attempt++) {
        uint32_t found = 0;
        psa_commit_record newest;
        int status = psa_pin(arena, &newest);
        if (status != PSA_OK) return status;
        if (newest.stamp == route->commit) return PSA_OK;
        if (newest.topology != route->topology || newest.reused != route->reused)
            return PSA_POOL_REMOVED;
        status = read_changed(route, arena, &newest, &found);
        if (status == PSA_SNAPSHOT_TOO_OLD) continue;
        if (status != PSA_OK) return status;
        if (!take_in(route, found)) return PSA_NO_MEMORY;
        for (uint32_t i = 0; i < found; i++) touched[i] = route->fresh[i].pool;
        route->commit = newest.stamp;
        *record = newest;
        *count = found;
        return PSA_OK;
    }
    return PSA_CONTENDED;
}

/* ---- what it is ---- */

void psa_route_read_facts(const psa_route *route, psa_route_facts *facts) {
    *facts = (psa_route_facts){.commit = route->commit,
                               .topology = route->topology,
                               .pools = route->pool_count,
                               .usable = route->usable,
                               .tokens = route->token_count,
                               .pairs = route->pair_count,
                               .hot = route->hot_count,
                               .floor = route->floor};
    for (uint32_t t = 0; t < route->token_count; t++) facts->unpriced += isinf(route->log_prices[t]) != 0;
}

void psa_route_rates(const psa_route *route, double *log_rates) {
    for (uint32_t i = 0; i < route->pool_count; i++)
        for (int d = 0; d < 2; d++) log_rates[2 * i + (uint32_t)d] = route->pools[i].rate[d];
}

static int same_pool(const psa_route *one, const psa_route *other, uint32_t i) {
    route_pool a = one->pools[i], b = other->pools[i];
    uint32_t n = a.tick_count;
    if (n != b.tick_count || memcmp(&one->rows[i], &other->rows[i], sizeof(psa_static)) != 0 ||
        memcmp(&one->lines[i], &other->lines[i], sizeof(psa_line)) != 0)
        return 0;
    if (a.has_ticks &&
        (memcmp(a.prices, b.prices, n * sizeof(double)) != 0 ||
         memcmp(a.liquidity, b.liquidity, (n + 1) * sizeof(double)) != 0 ||
         memcmp(a.net, b.net, 2 * n * sizeof(uint64_t)) != 0 ||
         memcmp(a.ticks, b.ticks, n * sizeof(int32_t)) != 0))
        return 0;
    /* Where the ticks lie, and from which slab they were read, is not what they are. */
    a.prices = b.prices, a.liquidity = b.liquidity, a.net = b.net, a.ticks = b.ticks;
    a.tick_capacity = b.tick_capacity, a.slab = b.slab, a.serial = b.serial;
    return memcmp(&a, &b, sizeof a) == 0;
}

static int same_list(const hot_list *a, const hot_list *b) {
    return a->count == b->count &&
           (a->count == 0 || memcmp(a->edges, b->edges, a->count * sizeof(hot_edge)) == 0);
}

int psa_route_same(const psa_route *one, const psa_route *other) {
    uint32_t pairs = one->pair_count, tokens = one->token_count;
    if (one->pool_count != other->pool_count || tokens != other->token_count ||
        pairs != other->pair_count || one->hot_count != other->hot_count ||
        one->usable != other->usable || one->commit != other->commit || one->floor != other->floor)
        return 0;
    for (uint32_t i = 0; i < one->pool_count; i++)
        if (!same_pool(one, other, i)) return 0;
    for (uint32_t t = 0; t < tokens; t++)
        if (!same_list(&one->hot_out[t], &other->hot_out[t]) ||
            !same_list(&one->hot_in[t], &other->hot_in[t]))
            return 0;
    return same_list(&one->hot_all, &other->hot_all) &&
           memcmp(one->pairs, other->pairs, pairs * sizeof(route_pair)) == 0 &&
           memcmp(one->by_pair, other->by_pair, one->pool_count * sizeof(uint32_t)) == 0 &&
           memcmp(one->starts, other->starts, (tokens + 1) * sizeof(uint32_t)) == 0 &&
           memcmp(one->neighbours, other->neighbours, 2 * pairs * sizeof(uint32_t)) == 0 &&
           memcmp(one->out, other->out, 2 * pairs * sizeof(float)) == 0 &&
           memcmp(one->in, other->in, 2 * pairs * sizeof(float)) == 0 &&
           memcmp(one->most_out, other->most_out, tokens * sizeof(float)) == 0 &&
           memcmp(one->most_in, other->most_in, tokens * sizeof(float)) == 0 &&
           memcmp(one->log_prices, other->log_prices, tokens * sizeof(double)) == 0 &&
           memcmp(one->hot_weight, other->hot_weight, 2 * pairs * sizeof(float)) == 0;
}
