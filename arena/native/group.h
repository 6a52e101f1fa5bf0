/* group.h: pools that are read together again and again; part of the contract (arena.h). */
#ifndef PSA_GROUP_H
#define PSA_GROUP_H

#include "arena.h"

/* cffi: begin */

/* What a group keeps of each pool. */
#define PSA_GROUP_LINES 0     /* psa_line */
#define PSA_GROUP_RESERVES 1  /* psa_reserves */
#define PSA_GROUP_PRICES 2    /* psa_price */

typedef struct {
    uint64_t reserve0[2];
    uint64_t reserve1[2];
} psa_reserves;

typedef struct {
    uint64_t sqrt_price_x96[4];
    uint64_t liquidity[2];
    int32_t tick;
    uint32_t fee_pips;       /* V4: stored LP fee */
} psa_price;

/* The caller's arrays, (count,) each, zero to begin with but for `pools`. */
typedef struct {
    uint64_t *pools;         /* references, as psa_snapshot takes them; 2^32-1 once one leads to no pool */
    uint64_t *stamps;        /* version each value is of; 0 = none, it is copied whatever its version */
    void *values;            /* psa_line, psa_reserves or psa_price */
    uint8_t *statuses;       /* PSA_STATUS_* */
    uint32_t *touched;       /* members written since the read before, ascending; all after the first */
    uint32_t count;
    uint32_t fields;         /* PSA_GROUP_* */
    uint32_t touched_count;
    uint32_t reserved;
    uint64_t since;          /* commit of the last read; 0 = all count as touched in the next */
    psa_commit_record record; /* of the last read */
} psa_group;

/* Bring all values up to the newest commit; those written since the last read are copied. Where
 * psa_snapshot gives a zeroed line the value is zero and the status ABSENT. PSA_CONTENDED when every try was
 * overtaken: record and since stand, values are of no one commit until a read succeeds. */
int psa_group_read(const psa_arena *arena, psa_group *group);

/* cffi: end */

#endif
