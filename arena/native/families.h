/* families.h: a pool's quote, by its family. */
#ifndef PSA_FAMILIES_H
#define PSA_FAMILIES_H

#include "protocols.h"

/* Quotes call their family directly: through pointers a V2 quote takes 5 % longer. */

/* The state a swap starts from, with every field's range checked that a family has for itself. */
static inline int psa_load_family(const psa_line *line, const row_fields *row, uint32_t flags,
                                  uint32_t lp_fee, const psa_tick_arrays *arrays, pool_state *pool) {
    switch (psa_family_of(row->protocol)) {
    case PSA_FAMILY_PAIR: return psa_v2_load(line, row, flags, lp_fee, arrays, pool);
    case PSA_FAMILY_CONCENTRATED: return psa_cl_load(line, row, flags, lp_fee, arrays, pool);
    case PSA_FAMILY_SOLIDLY: return psa_solidly_load(line, row, flags, lp_fee, arrays, pool);
    default: return PSA_UNSUPPORTED_PROTOCOL;
    }
}

/* One swap on a loaded state. `limit` null: none. */
static inline int psa_quote_family(const pool_state *pool, const psa_u256 *amount, const psa_u256 *limit,
                                   int zero_for_one, int exact_in, psa_quote_result *result) {
    switch (psa_family_of(pool->protocol)) {
    case PSA_FAMILY_PAIR: return psa_v2_quote(pool, amount, limit, zero_for_one, exact_in, result);
    case PSA_FAMILY_CONCENTRATED:
        return psa_cl_quote(pool, amount, limit, zero_for_one, exact_in, result);
    case PSA_FAMILY_SOLIDLY:
        return psa_solidly_quote(pool, amount, limit, zero_for_one, exact_in, result);
    default: return PSA_UNSUPPORTED_PROTOCOL;
    }
}

#endif
