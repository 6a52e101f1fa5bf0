/* solidly.c: volatile pairs of Solidly and its successors: Sync into two reserves, and quotes as the
 * pairs' getAmountOut computes them, bit for bit (Pool.sol of aerodrome-finance/contracts a5fae2e, Pair.sol
 * of velodrome-finance/v1 de6b2a1).
 *
 * Contracts keep reserves in 256 bits; a line has room for 128 of each.
 */
#include "apply.h"

#include <string.h>

#define FEE_DENOMINATOR 10000u /* the contracts' fees; a line's are in pips, a hundred to one of theirs */
#define PIPS_PER_FEE 100u

static int set_reserves(psa_line *line, const psa_event *event) {
    const uint64_t *words = event->words;
    if (words[2] | words[3] | words[6] | words[7]) return PSA_ARITHMETIC_OVERFLOW;
    memcpy(line->a, &words[0], sizeof(line->a));
    memcpy(line->b, &words[4], sizeof(line->b));
    return PSA_OK;
}

int psa_solidly_apply(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    (void)writer;
    /* Reserves above 128 bits come as a change, which holds words of any width. */
    if (event->kind != PSA_EVENT_V2_SYNC) return PSA_ARITHMETIC_OVERFLOW;
    int status = set_reserves(&edit->line, event);
    if (status == PSA_OK) psa_settle_price(&edit->line);
    return status;
}

int psa_solidly_settle(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    (void)writer;
    int status = set_reserves(&edit->line, event);
    if (status == PSA_OK) psa_settle_reserves(&edit->line);
    return status;
}

static int fee_fits(const psa_line *line) {
    uint32_t pips = psa_line_fee(line);
    return pips % PIPS_PER_FEE == 0 && pips <= FEE_DENOMINATOR * PIPS_PER_FEE;
}

int psa_solidly_fits(const psa_arena *arena, const psa_static *row, const psa_line *line) {
    (void)arena, (void)row;
    return line->slab == 0 && fee_fits(line);
}

int psa_solidly_admits(const psa_static *row, const psa_line *values, const int32_t *ticks,
                       const uint64_t *gross, const uint64_t *net, uint32_t count) {
    (void)row, (void)ticks, (void)gross, (void)net;
    return count == 0 && fee_fits(values) && values->sqrt_price_hi == 0;
}

int psa_solidly_load(const psa_line *line, const row_fields *row, uint32_t flags, uint32_t lp_fee,
                     const psa_tick_arrays *arrays, pool_state *pool) {
    (void)row, (void)lp_fee, (void)arrays;
    if (flags & PSA_FEE_GIVEN) return PSA_BAD_ARGUMENT;
    if (!fee_fits(line)) return PSA_TICK_DATA;
    psa_load_reserves(line, pool);
    pool->fee = psa_line_fee(line);
    return PSA_OK;
}

/* product = a * b of 256 and 128 bits; 0 when it exceeds uint256, where the contracts revert. */
static int multiply_checked(psa_u256 *product, const psa_u256 *a, psa_u128 b) {
    uint64_t factor[2] = {psa_low(b), psa_high(b)}, whole[6];
    psa_multiply(whole, a->w, 4, factor, 2);
    memcpy(product->w, whole, sizeof product->w);
    return (whole[4] | whole[5]) == 0;
}

int psa_solidly_quote(const pool_state *pool, const psa_u256 *amount, const psa_u256 *limit,
                      int zero_for_one, int exact_in, psa_quote_result *result) {
    if (limit || !exact_in) return PSA_BAD_ARGUMENT; /* the contracts have no exact output */
    psa_u128 in = psa_reserve(pool, !zero_for_one), out = psa_reserve(pool, zero_for_one != 0);
    const uint64_t denominator = FEE_DENOMINATOR;
    psa_u256 charged, fee, paid = *amount, product, sum = {{psa_low(in), psa_high(in), 0, 0}}, other;
    if (!multiply_checked(&charged, amount, pool->fee / PIPS_PER_FEE)) return PSA_SWAP_REVERTS;
    psa_divide(fee.w, 4, charged.w, 4, 0, &denominator, 1);
    psa_sub_256(&paid, &fee);
    if (!multiply_checked(&product, &paid, out)) return PSA_SWAP_REVERTS;
    if (psa_add_256(&sum, &paid) || psa_is_zero_256(&sum)) return PSA_SWAP_REVERTS;
    psa_divide(other.w, 4, product.w, 4, 0, sum.w, 4);
    memset(result, 0, sizeof *result);
    memcpy(result->amount_in, amount->w, sizeof amount->w);
    memcpy(result->amount_out, other.w, sizeof other.w);
    result->is_complete = 1;
    return PSA_OK;
}
