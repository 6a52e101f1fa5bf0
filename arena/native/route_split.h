/* What the search for a split works on; see route_split.c. */
#ifndef PSA_ROUTE_SPLIT_H
#define PSA_ROUTE_SPLIT_H

#include "route_index.h"

#define MOST_TOKENS PSA_ROUTE_TOKENS
#define MOST_POOLS PSA_ROUTE_PARTS

typedef unsigned __int128 u128;

typedef struct {
    uint32_t pool;
    uint8_t end[2];          /* places of its tokens */
    uint8_t allowed;         /* bit 0: zero for one */
    int8_t direction;        /* -1: no trade */
    uint8_t is_done;         /* carried out */
    double in, out;          /* of the trade, units */
    double gain, curve;      /* units of the token bought */
    double plan;             /* of what goes in */
} split_part;

/* What a pool said to an amount. */
typedef struct {
    u128 in, out;
    uint32_t ticks;
    uint8_t is_full;         /* it takes no more */
} split_ask;

typedef struct {
    psa_route *route;
    uint32_t count, tokens;
    uint32_t token[MOST_TOKENS]; /* sold, bought, then those in between */
    uint32_t order[MOST_TOKENS];
    split_part parts[MOST_POOLS];
    split_ask asks[MOST_POOLS];
    double price[MOST_TOKENS];   /* logs */
    double most[MOST_TOKENS];    /* of each that a pool is given, units */
    double gradient[MOST_TOKENS];
    double hessian[MOST_TOKENS * MOST_TOKENS];
    double amount, bound;
    uint32_t path[PSA_ROUTE_HOPS]; /* middle tokens of the best path */
    uint32_t path_count;
    uint8_t is_cut;                /* there was no room for tokens or pools that would have helped */
    psa_route_part trial[MOST_POOLS];
} split;

static inline uint32_t split_from(const split_part *part) { return part->end[part->direction]; }
static inline uint32_t split_to(const split_part *part) { return part->end[!part->direction]; }

/* A swap of a split in integers. */
static inline psa_route_part split_made(uint32_t pool, int direction, u128 in, u128 out) {
    return (psa_route_part){.pool = pool,
                            .zero_for_one = direction == 0,
                            .amount_in = {(uint64_t)in, (uint64_t)(in >> 64), 0, 0},
                            .amount_out = {(uint64_t)out, (uint64_t)(out >> 64), 0, 0}};
}

/* route_dual.c: lower the bound by the prices until nothing is left of any token, to `tolerance` of all. */
void route_lower(split *s, double tolerance);

/* route_carry.c: one swap in integers of all that a pool takes of `ask->in`. 0: of nothing. */
int route_ask_part(const psa_route *route, uint32_t pool, int direction, split_ask *ask);
/* What comes out and what it costs, from the swaps. */
void route_sum_up(const psa_route *route, const psa_route_gas *gas, const psa_route_part *parts,
                  uint32_t count, u128 out, psa_route_split_sum *sum);
/* The trades in integers, all of the amount. PSA_INSUFFICIENT_LIQUIDITY when they cannot be carried out. */
int route_carry_out(split *s, const psa_route_gas *gas, psa_route_part *parts, uint32_t *count,
                    psa_route_split_sum *sum);

/* route_parts.c: the amount over paths that share no pool, a part at a time. As route_carry_out. */
int route_in_parts(split *s, uint32_t max_hops, const psa_route_gas *gas, psa_route_part *parts,
                   uint32_t *count, psa_route_split_sum *sum);

#endif
