/* What the search for a split works on; see route_split.c. */
#ifndef PSA_ROUTE_SPLIT_H
#define PSA_ROUTE_SPLIT_H

#include "route_index.h"

#define MOST_TOKENS 16
#define MOST_POOLS PSA_ROUTE_PARTS

typedef struct {
    uint32_t pool;
    uint8_t end[2];          /* places of its tokens */
    uint8_t allowed;         /* bit 0: zero for one */
    int8_t direction;        /* -1: no trade */
    double in, out;          /* of the trade, units */
    double gain, curve;      /* units of the token bought */
} split_part;

typedef struct {
    psa_route *route;
    uint32_t count, tokens;
    uint32_t token[MOST_TOKENS]; /* sold, bought, then those in between */
    uint32_t order[MOST_TOKENS];
    split_part parts[MOST_POOLS];
    double price[MOST_TOKENS];   /* logs */
    double gradient[MOST_TOKENS];
    double hessian[MOST_TOKENS * MOST_TOKENS];
    double amount, bound;
    double free_bound;       /* of the last search before there was an order */
    uint32_t path[PSA_ROUTE_HOPS]; /* middle tokens of the best path */
    uint32_t path_count;
    int keeps_path;          /* they keep their order */
    psa_route_part trial[MOST_POOLS], others[MOST_POOLS];
} split;

/* route_dual.c: lower the bound by the prices until nothing is left of any token, to `tolerance` of all. */
void route_lower(split *s, double tolerance);

#endif
