/* api.h: the functions of the core that the extension types call, as one table.
 *
 * Two modules are built of this folder: `_core`, which is all of the core behind cffi, and `_handle`, the
 * extension types of the files whose names begin with `_`. `_handle` contains nothing of the core; it is
 * handed this table when it is imported and checks that both were built from one api.h.
 */
#ifndef PSA_API_H
#define PSA_API_H

#include "depth.h"
#include "outcome.h"

/* Grows with every change of the table. */
#define PSA_API_VERSION 4

struct psa_api {
    uint32_t version; /* PSA_API_VERSION */
    uint32_t nbytes;  /* of this table */
    int (*quote_prepared)(const psa_quote_call *call, const uint8_t *amount, uint32_t flags,
                          psa_quote_result *result);
    int (*must_look)(const psa_quote_call *call);
    uint32_t (*find_many)(const psa_arena *arena, const uint8_t *keys, uint32_t count, uint64_t *pools);
    int (*pin)(const psa_arena *arena, psa_commit_record *record);
    int (*wait_commit)(const psa_arena *arena, uint64_t seen, uint64_t timeout_ns, uint64_t *committed);
    int (*pool_read)(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                     psa_line *line);
    int (*copy_read)(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                     psa_copy_head *head, uint64_t *arrays, uint32_t capacity);
    int (*quote_given)(const psa_quote_call *call, const uint8_t *amount, const uint8_t *limit,
                       uint32_t flags, uint32_t lp_fee, psa_quote_result *result);
    uint32_t (*quote_many)(const psa_quote_call *call, const uint64_t *amounts, uint32_t flags,
                           uint32_t count, psa_quote_result *results);
    int (*depth_read)(const psa_quote_call *call, uint32_t flags, uint32_t lp_fee, psa_rung *rungs,
                      uint32_t capacity, psa_depth *depth);
    int (*quote_price)(const psa_quote_result *result, uint32_t which, double *price);
};

#endif
