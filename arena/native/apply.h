/* apply.h: what applying an event needs in every family. */
#ifndef PSA_APPLY_H
#define PSA_APPLY_H

#include "protocols.h"

/* Magnitude of a signed amount; PSA_ARITHMETIC_OVERFLOW for the one that has none. */
static inline int psa_magnitude(psa_i128 value, psa_u128 *magnitude) {
    if ((psa_u128)value == (psa_u128)1 << 127) return PSA_ARITHMETIC_OVERFLOW;
    *magnitude = value < 0 ? (psa_u128)-value : (psa_u128)value;
    return PSA_OK;
}

/* The signed change an event means: Mint adds and Burn takes |value|, all else is signed as sent. */
static inline int psa_signed_change(const psa_event *event, psa_i128 value, psa_i128 *change) {
    psa_u128 magnitude;
    int status = psa_magnitude(value, &magnitude);
    if (status != PSA_OK) return status;
    int by_type = event->protocol != PSA_UNISWAP_V4;
    if (by_type && event->update_type == PSA_UPDATE_MINT) *change = (psa_i128)magnitude;
    else if (by_type && event->update_type == PSA_UPDATE_BURN) *change = -(psa_i128)magnitude;
    else *change = value;
    return PSA_OK;
}

/* Price or reserves are known again; a pool stale for that reason alone is live again. */
static inline void psa_settle_price(psa_line *line) {
    if (!(line->unsure & PSA_UNSURE_PRICE)) return;
    line->unsure &= (uint8_t)~PSA_UNSURE_PRICE;
    if (line->unsure == 0 && psa_line_status(line) == PSA_STATUS_STALE)
        psa_line_set_status(line, PSA_STATUS_LIVE);
}

/* Reserves are those of the new branch now, and no block of it has touched the pool. */
static inline void psa_settle_reserves(psa_line *line) {
    if (line->scrape_block > line->base_block) line->scrape_block = line->base_block;
}

#endif
