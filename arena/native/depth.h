/* depth.h: depth tables: the part of the contract in arena.h that says how a quote over many ticks is prepared.
 *
 * Private memory of the caller throughout. build.py reads what stands between the two cffi markers.
 */
#ifndef PSA_DEPTH_H
#define PSA_DEPTH_H

#include "arena.h"

/* cffi: begin */

/* ---- depth.c, ladder.c: of a private copy ------------------------------------------------------ */

/* Depth of a pool in one direction: a rung for each place where a swap's steps can end. Between two of
 * them a swap costs and pays the difference of their sums, whatever price it comes from. */
typedef struct {
    uint64_t amount_in[4];   /* of whole steps from rung 0 on, fee included */
    uint64_t amount_out[4];
    uint64_t sqrt_price_x96[3];
    uint64_t liquidity[2];   /* beyond */
    int32_t tick;            /* slot0 tick there */
    uint32_t index;          /* number of ticks <= tick */
} psa_rung;

/* What rungs are made of; the same again means the same rungs. */
typedef struct {
    uint64_t serial;         /* of the content of the tick slab; 0: of a private copy, as the next one */
    uint32_t slab;
    uint32_t generation;
    uint32_t tick_count;
    uint32_t fee;            /* whole swap fee, pips */
    int32_t spacing;
    uint32_t zero_for_one;
} psa_depth_key;

typedef struct {
    psa_depth_key key;
    const psa_rung *rungs;
    uint32_t count;          /* a part from rung 0 on is as good, as far as it reaches */
} psa_depth;

#define PSA_FROM_PRICE 128    /* psa_depth_build: rung 0 is the pool's price, not the end of the range */

/* How many rungs a pool has at most whose liquidity is that of its ticks; of another pool the first ones
 * do. */
uint32_t psa_depth_capacity(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee);

/* Fill `rungs`, the last one at the end of the price range if there is room, and `depth`, which refers to
 * them. Of `flags` PSA_EXACT_OUT changes nothing. A pool of reserves has one rung without meaning. */
int psa_depth_build(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee, psa_rung *rungs,
                    uint32_t capacity, psa_depth *depth);

/* What psa_quote_copy answers to each of `amounts` ((count, 4) u64 words), bit for bit, with a binary
 * search in place of steps where `depth` was built from the same ticks, spacing, fee and direction. */
int psa_depth_quote(const psa_pool_copy *pool, const psa_depth *depth, const uint64_t *amounts,
                    const uint8_t *limit, uint32_t flags, uint32_t lp_fee, uint32_t count,
                    psa_quote_result *results);

/* cffi: end */

/* ---- quote.c: for the extension types, of a handle on shared memory ------------------------------- */

/* What a handle keeps of one direction. Without a fitting table a quote walks, and notes it. */
typedef struct {
    const psa_depth *depth;  /* null: none */
    psa_depth_key walked_of; /* what a table would have been made of */
    uint64_t walked;         /* ticks crossed one by one since */
    uint32_t wanted;         /* rungs of a table that costs no more than was walked; 0: not yet */
    uint32_t reserved;
} psa_depth_use;

typedef struct {
    const psa_arena *arena;
    const uint32_t *closed;  /* private word: not 0 once the handle may not be used any more */
    uint64_t commit;         /* 0: newest */
    uint32_t slot;
    uint32_t generation;
    psa_depth_use *uses;     /* (2,), the second of zero for one; null: walk */
} psa_quote_call;

/* Whether the caller must look first: the handle is closed, or reads the newest commit of a superseded
 * arena. */
int psa_must_look(const psa_quote_call *call);

/* psa_quote by a call, which looks at neither `closed` nor whether the arena is superseded. */
int psa_quote_given(const psa_quote_call *call, const uint8_t *amount, const uint8_t *limit,
                    uint32_t flags, uint32_t lp_fee, psa_quote_result *result);

/* psa_quote without limit and given fee. PSA_CLOSED, with `result` untouched, when the caller must look
 * first: the handle is closed, or reads the newest commit of a superseded arena. */
int psa_quote_prepared(const psa_quote_call *call, const uint8_t *amount, uint32_t flags,
                       psa_quote_result *result);

/* Build the table of a direction from shared memory, of the whole range. PSA_CONTENDED when the writer
 * overtook it, and what refuses a quote. */
int psa_depth_read(const psa_quote_call *call, uint32_t flags, uint32_t lp_fee, psa_rung *rungs,
                   uint32_t capacity, psa_depth *depth);

/* Many psa_quote_given of one direction without limit and given fee: item i on amounts[i], (count, 4) u64
 * words. Each result has its own status. Returns how many are answered: all, or less when a table of the
 * direction is wanted by then. */
uint32_t psa_quote_many(const psa_quote_call *call, const uint64_t *amounts, uint32_t flags,
                        uint32_t count, psa_quote_result *results);

#endif
