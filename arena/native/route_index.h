/* What the parts of the routing index share; see route.h. */
#ifndef PSA_ROUTE_INDEX_H
#define PSA_ROUTE_INDEX_H

#include "route.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX
#define SHUT (-1e9f) /* weight of a direction that cannot be asked */

/* A pool as doubles. Direction 0 is token 0 to token 1. */
typedef struct {
    uint32_t token[2];       /* numbers in the index */
    uint32_t pair;
    uint32_t tick_count;
    uint32_t index;          /* number of ticks <= tick */
    uint32_t tick_capacity;
    uint32_t slab;           /* of the ticks, and its serial: the same content */
    uint32_t fee_given;      /* PSA_ROUTE_NONE: none */
    uint64_t serial;
    uint8_t has_ticks;
    uint8_t side;            /* token[0] is the pair's second */
    uint8_t is_usable;
    uint8_t protocol;
    uint8_t reserved[4];
    double reserve[2];       /* virtual ones, where there are ticks */
    double price;            /* square root; 0 without ticks */
    double keep[2];          /* 1 - fee, by direction */
    double rate[2];          /* log of the marginal rate after the fee */
    float weight[2];
    float bound[2];          /* units of the numeraire */
    float value[2];          /* of what the first segment holds of the token that goes in, over 1 - fee */
    float reach[2];          /* weight at which the first segment ends */
    double *prices;          /* square roots at the ticks */
    double *liquidity;       /* between tick i - 1 and i */
    int32_t *ticks;
    uint64_t *net;
} route_pool;

typedef struct {
    uint32_t token[2];       /* ascending */
    uint32_t first, count;   /* in by_pair */
    uint32_t at[2];          /* in the neighbours of each */
    float bound[2];
} route_pair;

typedef struct {
    float weight;
    uint32_t edge;           /* pair * 2 + direction */
} hot_edge;

/* Descending by weight, then ascending by edge. */
typedef struct {
    hot_edge *edges;
    uint32_t count, capacity;
} hot_list;

/* A path of pairs, and what it gives at most. */
typedef struct {
    float bound;             /* sum of the best weights of its pairs */
    uint32_t hops;
    uint32_t pairs[PSA_ROUTE_HOPS];
    uint32_t tokens[PSA_ROUTE_HOPS + 1];
} route_path;

/* A cycle as the search finds it. */
typedef struct {
    double input, profit;
    uint32_t hops;
    uint32_t pools[PSA_ROUTE_HOPS];
    uint8_t direction[PSA_ROUTE_HOPS];
} route_cycle;

/* A pool read and not taken in yet. */
typedef struct {
    psa_line line;
    uint64_t serial;
    uint32_t pool;
    uint32_t first;          /* in fresh_ticks; NONE: its ticks are the same */
} route_fresh;

struct psa_route {
    uint32_t pool_count, token_count, pair_count, table_count, slot_count;
    uint32_t hot_count, usable, numeraire;
    uint32_t is_whole;       /* all pools of the arena are in it */
    uint64_t commit, topology, reused;
    double floor;
    route_pool *pools;
    psa_line *lines;
    psa_static *rows;
    uint64_t *references;
    uint32_t *pool_of_slot;  /* (slot_count,) */
    route_pair *pairs;
    uint32_t *by_pair;       /* pools, pair after pair */
    uint32_t *starts;        /* (tokens + 1,) into the next four */
    uint32_t *neighbours;
    uint32_t *neighbour_pairs;
    float *out, *in;         /* best weight to and from the neighbour */
    float *most_out, *most_in; /* (tokens,) */
    double *log_prices;      /* (tokens,) -inf: none */
    double *worth;           /* (tokens,) the prices themselves */
    uint32_t *tokens;        /* (tokens,) index in the token table */
    uint32_t *number_of;     /* (table_count,) the other way */
    uint64_t *keys;          /* hash table of pairs */
    uint32_t *values;
    uint32_t key_mask;
    hot_list *hot_out, *hot_in, hot_all;
    float *hot_weight;       /* (pairs * 2,) 0: not hot */
    uint32_t *rank;          /* (pools,) of a search: order of the seeds; NONE else */
    uint8_t *is_marked;      /* (tokens,) scratch */
    uint64_t *changed;       /* (pools + 1,) scratch, as all below */
    uint32_t changed_capacity;
    route_fresh *fresh;      /* (pools,) */
    int32_t *fresh_ticks;
    uint64_t *fresh_net;
    uint32_t fresh_count, fresh_capacity;
    route_path *paths;
    uint32_t path_count, path_capacity;
    route_cycle *cycles;
    uint32_t cycle_count, cycle_capacity;
    psa_route_answer *answers;
    uint32_t answer_capacity;
    void *split;
    uint32_t split_capacity;
    void *heap;              /* of the prices */
    uint32_t heap_capacity;
    struct route_market *market; /* null till it is asked for */
};

/* One pool asked in one direction, moved along its segments. */
typedef struct {
    const route_pool *pool;
    int direction;
    uint32_t index;
    double in, out;          /* reserves of the segment */
    double room;             /* input to its end, fee included */
    double keep, price;
} route_hop;

static inline double route_double(uint64_t low, uint64_t high) {
    return (double)high * 0x1p64 + (double)low;
}

static inline double route_amount(const uint64_t amount[4]) {
    return route_double(amount[0], amount[1]) + route_double(amount[2], amount[3]) * 0x1p128;
}

static inline uint32_t route_find_pair(const psa_route *route, uint32_t a, uint32_t b) {
    uint64_t key = a < b ? (uint64_t)a << 32 | b : (uint64_t)b << 32 | a;
    uint32_t at = (uint32_t)(key * 0x9E3779B97F4A7C15u >> 40) & route->key_mask;
    while (route->keys[at] != key) {
        if (route->keys[at] == UINT64_MAX) return NONE;
        at = (at + 1) & route->key_mask;
    }
    return route->values[at];
}

/* Best weight of a pair out of one of its tokens. */
static inline float route_weight(const psa_route *route, uint32_t pair, uint32_t from) {
    const route_pair *p = &route->pairs[pair];
    return route->out[p->at[p->token[0] != from]];
}

static inline int route_direction(const route_pool *pool, uint32_t from) {
    return pool->token[0] != from;
}

/* Never below: what is pruned by it is below the threshold. */
static inline float route_up(double value) {
    float near = (float)value;
    return near < value ? nextafterf(near, INFINITY) : near;
}

static inline void route_segment(route_hop *hop) {
    const route_pool *pool = hop->pool;
    for (;;) {
        double liquidity = pool->liquidity[hop->index];
        int is_last = hop->direction == 0 ? hop->index == 0 : hop->index == pool->tick_count;
        if (is_last) { /* nothing behind the outermost tick */
            hop->in = INFINITY, hop->out = 0, hop->room = INFINITY;
            return;
        }
        double end = pool->prices[hop->direction == 0 ? hop->index - 1 : hop->index];
        if (liquidity > 0) {
            double low = liquidity / hop->price, high = liquidity * hop->price;
            hop->in = hop->direction == 0 ? low : high;
            hop->out = hop->direction == 0 ? high : low;
            double full = hop->direction == 0 ? liquidity / end : liquidity * end;
            hop->room = (full - hop->in) / hop->keep;
            if (hop->room > 0) return;
        }
        hop->price = end;
        if (hop->direction == 0) hop->index--;
        else hop->index++;
    }
}

static inline void route_start(route_hop *hop, const route_pool *pool, int direction) {
    hop->pool = pool;
    hop->direction = direction;
    hop->keep = pool->keep[direction];
    hop->index = pool->index;
    hop->price = pool->price;
    if (pool->has_ticks) {
        route_segment(hop);
        return;
    }
    hop->in = pool->reserve[direction], hop->out = pool->reserve[!direction], hop->room = INFINITY;
}

/* On to the next segment. */
static inline void route_cross(route_hop *hop) {
    if (hop->direction == 0) hop->price = hop->pool->prices[--hop->index];
    else hop->price = hop->pool->prices[hop->index++];
    route_segment(hop);
}

/* What an input that ends within the segment gives. */
static inline double route_gives(const route_hop *hop, double input) {
    double net = hop->keep * input;
    return hop->out * net / (hop->in + net);
}

/* Swap it: the segment goes on behind. */
static inline double route_take(route_hop *hop, double input) {
    double given = route_gives(hop, input);
    hop->in += hop->keep * input, hop->out -= given, hop->room -= input;
    if (hop->pool->has_ticks)
        hop->price = sqrt(hop->direction == 0 ? hop->out / hop->in : hop->in / hop->out);
    return given;
}

/* route_weights.c: what the search goes by. 0 when there is no memory. */
int route_tell_pair(psa_route *route, uint32_t pair);
void route_tell_token(psa_route *route, uint32_t token);
int route_tell_all(psa_route *route);
double route_pool_out(const route_pool *pool, int direction, double input);
double route_pool_in(const route_pool *pool, int direction, double output);
/* The graph, in this order. A status. */
int route_number_tokens(psa_route *route, uint32_t numeraire);
int route_make_pairs(psa_route *route);
int route_join_tokens(psa_route *route);
/* Room for `count` items; 0 when there is no memory. `items` is the address of the pointer. */
int route_grow(void *items, uint32_t count, uint32_t *capacity, size_t nbytes);
int route_take_ticks(route_pool *pool, const int32_t *ticks, const uint64_t *net, uint32_t count);
/* A pool's doubles from its line. */
void route_load(psa_route *route, uint32_t pool);
/* Its weights against the prices. */
void route_weigh(psa_route *route, route_pool *pool);

/* route_dual.c: what a pool trades at most against two prices, taking no more than `most`, and what that gains;
 * `curve` is how much of the token that goes in, at its price, it trades more for a change of the log of the prices. */
double route_trade(const route_pool *pool, int direction, double paid, double got, double most, double *in,
                   double *out, double *curve);

/* route_market.c */
void route_market_free(struct route_market *market);

/* route_prices.c: log prices of the widest paths, and the pools they came by (null: not wanted). */
int route_widest(psa_route *route, double *log_prices, uint32_t *by);

/* route_answers.c: gas of a transaction with these swaps, without that of ticks. */
double route_gas(const psa_route_gas *gas, const psa_route *route, const uint32_t *pools, uint32_t hops);

/* route_paths.c: into route->paths, the best first, those that give most for an amount: logs of rates against the
 * prices, as bounds, and none `close` below the best at marginal rates. A status. */
int route_good_paths(psa_route *route, uint32_t sell, uint32_t buy, double amount, uint32_t max_hops,
                     double close, uint32_t most, uint32_t *count);

/* route_index.c: one swap in integers. A status. */
int route_ask(const psa_route *route, uint32_t pool, int direction, int exact_out,
              const uint64_t amount[4], psa_quote_result *result);

/* route_answers.c: the amounts of an answer from the first pool on; with exact_out from the last. A status. */
int route_answer(const psa_route *route, psa_route_answer *answer, const uint64_t amount[4],
                 int exact_out);
/* The same for the first pool alone, or the cycle, of an input that may be a little too much for a range: then of a
 * little less. */
int route_ask_near(const psa_route *route, psa_route_answer *answer, double input);
/* What the search found, asked again in integers. A status. */
int route_settle(psa_route *route, const psa_route_gas *gas, double min_profit, int each,
                 psa_route_answer *answers, uint32_t capacity, uint32_t *count);

#endif
