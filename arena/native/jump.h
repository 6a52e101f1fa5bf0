/* jump.h: what the walk of a quote asks of a depth table. */
#ifndef PSA_JUMP_H
#define PSA_JUMP_H

#include <string.h>

#include "cl_steps.h"
#include "depth.h"
#include "ticks.h"

/* What a table of `pool` depends on. `serial` 0: a private copy, whose owner keeps both together. */
static inline psa_depth_key psa_depth_key_of(const pool_state *pool, uint32_t slab, uint64_t serial,
                                             uint32_t generation, int zero_for_one) {
    psa_depth_key key = {serial, slab, generation, pool->tick_count, pool->fee, pool->spacing,
                         (uint32_t)zero_for_one};
    return key;
}

static inline int psa_depth_same(const psa_depth_key *a, const psa_depth_key *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

/* Walk from the range's end, or from the pool's own price, and store a rung at each boundary, the start
 * included, as far as there is room and the ticks make sense. Returns how many. */
uint32_t psa_depth_walk(const pool_state *pool, int zero_for_one, int from_price, psa_rung *rungs,
                        uint32_t capacity);

/* Rungs that psa_depth_walk stores at most when the pool's liquidity is that of its ticks. */
uint32_t psa_depth_rungs(const pool_state *pool);

/* Move a swap that stands on rung `from` over as many whole steps as leave something of `left` and `limit`
 * allows, as the walk would. Returns 0, and nothing happened, when it does not stand there. */
int psa_depth_jump(const psa_depth *depth, uint32_t from, const psa_u192 *limit, int exact_in,
                   position *at, psa_u256 *left, psa_u256 *in, psa_u256 *out);

/* The rung with the tick of `at`; when there is none, one at which the swap does not stand. */
uint32_t psa_depth_find(const psa_depth *depth, int32_t tick);

#endif
