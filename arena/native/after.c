/* after.c: the pool that a swap leaves, of a private copy.
 *
 * Price, tick and liquidity are what the quote says. A pair's reserves are its balances: all that goes in
 * stays in a V2 pair, the fee as well; a Solidly pair sends the fee away (Pool.sol and Pair.sol, _update0), which
 * is floor(amount * fee / 10000) as in its quotes.
 */
#include "outcome.h"
#include "protocols.h"

#define PIPS_PER_FEE 100u /* of a Solidly pair's unit */
#define FEE_DENOMINATOR 10000u

static void fee_sent_away(const psa_quote_result *result, uint64_t fee[5]) {
    const uint64_t rate = result->fee_pips / PIPS_PER_FEE, denominator = FEE_DENOMINATOR;
    uint64_t charged[5];
    psa_multiply(charged, result->amount_in, 4, &rate, 1);
    psa_divide(fee, 5, charged, 5, 0, &denominator, 1);
}

int psa_reserves_after(const psa_quote_result *result, uint64_t in[5], uint64_t out[2]) {
    const uint64_t *before_in = result->zero_for_one ? result->a_before : result->b_before;
    const uint64_t *before_out = result->zero_for_one ? result->b_before : result->a_before;
    const uint64_t *taken = result->amount_out;
    psa_u256 sum = {{before_in[0], before_in[1], 0, 0}}, added;
    psa_u128 held = psa_join(before_out[1], before_out[0]), paid = psa_join(taken[1], taken[0]);
    if ((taken[2] | taken[3]) != 0 || paid > held || result->fee_pips > PSA_PIPS) return 0;
    memcpy(added.w, result->amount_in, sizeof added.w);
    if (psa_family_of(result->protocol) == PSA_FAMILY_SOLIDLY) {
        psa_u256 gone;
        uint64_t fee[5];
        fee_sent_away(result, fee);
        memcpy(gone.w, fee, sizeof gone.w); /* no more than the amount: the rate is at most 1 */
        psa_sub_256(&added, &gone);
    }
    in[4] = (uint64_t)psa_add_256(&sum, &added);
    memcpy(in, sum.w, sizeof sum.w);
    out[0] = psa_low(held - paid);
    out[1] = psa_high(held - paid);
    return 1;
}

static int is_from(const psa_copy_head *head, const psa_quote_result *result) {
    const psa_line *line = &head->line;
    return result->status == PSA_OK && result->protocol == head->row.protocol &&
           result->commit == line->stamp && result->slot == line->slab &&
           result->sqrt_price_hi_before == line->sqrt_price_hi && result->tick_before == line->tick &&
           memcmp(result->a_before, line->a, sizeof line->a) == 0 &&
           memcmp(result->b_before, line->b, sizeof line->b) == 0;
}

static int pair_after(psa_line *line, const psa_quote_result *result) {
    int is_v2 = psa_family_of(result->protocol) == PSA_FAMILY_PAIR;
    uint64_t in[5], out[2];
    if (!psa_reserves_after(result, in, out)) return PSA_BAD_ARGUMENT;
    if (!psa_any(result->amount_out, 4) || !psa_any(out, 2)) return PSA_SWAP_REVERTS;
    if (is_v2 && (in[1] >> 48 | in[2] | in[3] | in[4])) return PSA_SWAP_REVERTS;
    if (in[2] | in[3] | in[4]) return PSA_AMOUNT_OUT_OF_RANGE;
    memcpy(result->zero_for_one ? line->a : line->b, in, sizeof line->a);
    memcpy(result->zero_for_one ? line->b : line->a, out, sizeof line->b);
    return PSA_OK;
}

/* How many ticks are not above `tick`. */
static uint32_t ticks_up_to(const int32_t *ticks, uint32_t count, int32_t tick) {
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (ticks[middle] <= tick) low = middle + 1;
        else high = middle;
    }
    return low;
}

static int concentrated_after(psa_line *line, const int32_t *ticks, const psa_quote_result *result) {
    const uint64_t *price = result->sqrt_price_x96_after;
    if (price[2] >> 32 != 0 || price[3] != 0) return PSA_BAD_ARGUMENT;
    line->sqrt_price_hi = (uint32_t)price[2];
    memcpy(line->a, price, sizeof line->a);
    memcpy(line->b, result->liquidity_after, sizeof line->b);
    line->tick = result->tick_after;
    line->current_index = ticks_up_to(ticks, line->tick_count, line->tick);
    return PSA_OK;
}

int psa_copy_after(psa_copy_head *head, const int32_t *ticks, const psa_quote_result *result) {
    if (!head || !ticks || !result || !is_from(head, result)) return PSA_BAD_ARGUMENT;
    int status = psa_has_reserves(head->row.protocol) ? pair_after(&head->line, result)
                                                      : concentrated_after(&head->line, ticks, result);
    if (status == PSA_OK) head->line.reserved1++;
    return status;
}
