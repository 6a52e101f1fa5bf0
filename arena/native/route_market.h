/* What the search over the whole market works on; see route_market.c. */
#ifndef PSA_ROUTE_MARKET_H
#define PSA_ROUTE_MARKET_H

#include "route_index.h"

/* A symmetric matrix with a row a token. */
typedef struct {
    uint32_t *order;         /* (tokens,) the first is eliminated first; the numeraire, which is fixed, is last */
    uint32_t *place;         /* (tokens,) in the order */
    uint32_t *starts;        /* (tokens + 1,) rows behind the diagonal, by place */
    uint32_t *columns;       /* places, ascending */
    double *values;
    double *diagonal;        /* (tokens,) by place, as the next */
    double *step;            /* what is on the right hand, then the solution */
    uint32_t *entry_of_pair; /* (pairs,) in values; NONE with the numeraire */
} route_laplacian;

/* 0: no memory; it is to be freed all the same. */
int route_laplacian_make(route_laplacian *matrix, const psa_route *route);
void route_laplacian_free(route_laplacian *matrix);
/* The matrix is used up. */
void route_laplacian_solve(route_laplacian *matrix, uint32_t tokens);

#endif
