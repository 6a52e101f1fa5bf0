/* swap_v2.c: quotes of Uniswap V2, as UniswapV2Library computes them, bit for bit. */
#include <string.h>

#include "protocols.h"

/* quotient = floor(a * b / d) when it fits 128 bits, else 0 is returned. d is not 0. */
static int divide_product(psa_u128 *quotient, psa_u128 a, psa_u128 b, psa_u128 d) {
    uint64_t al[2] = {psa_low(a), psa_high(a)}, bl[2] = {psa_low(b), psa_high(b)}, n[4];
    psa_multiply(n, al, 2, bl, 2);
    psa_u128 r = psa_join(n[3], n[2]);
    if (r >= d) return 0;
    if (psa_high(d) == 0) { /* then n[3] is 0 and n[2] < d */
        unsigned shift = (unsigned)__builtin_clzll(psa_low(d));
        uint64_t e = psa_low(d) << shift, v = psa_reciprocal(e), rest;
        uint64_t top = psa_shifted(n[2], n[1], shift);
        uint64_t middle = psa_shifted(n[1], n[0], shift);
        uint64_t high = psa_digit_1(top, middle, e, v, &rest);
        *quotient = psa_join(high, psa_digit_1(rest, n[0] << shift, e, v, &rest));
        return 1;
    }
    unsigned shift = (unsigned)__builtin_clzll(psa_high(d));
    uint64_t middle = psa_shifted(n[1], n[0], shift);
    r = psa_join(psa_shifted(n[3], n[2], shift), psa_shifted(n[2], n[1], shift));
    d = psa_join(psa_shifted(psa_high(d), psa_low(d), shift), psa_low(d) << shift);
    uint64_t v = psa_reciprocal_2(psa_high(d), psa_low(d)), high = 0;
    if (psa_high(r) == 0 && psa_join(psa_low(r), middle) < d) r = psa_join(psa_low(r), middle);
    else high = psa_digit_2(r, middle, d, v, &r);
    *quotient = psa_join(high, psa_digit_2(r, n[0] << shift, d, v, &r));
    return 1;
}

static void store_amount(uint64_t field[4], psa_u128 low, psa_u128 high) {
    field[0] = psa_low(low);
    field[1] = psa_high(low);
    field[2] = psa_low(high);
    field[3] = psa_high(high);
}

/* Every result field but status, commit and block; `given` is the amount asked for, the limbs of the other
 * one come in registers: a load of what was just stored in halves waits for it. */
static int store_v2(const psa_u256 *given, psa_u128 low, psa_u128 high, int exact_in,
                    psa_quote_result *result) {
    store_amount(exact_in ? result->amount_in : result->amount_out, psa_join(given->w[1], given->w[0]),
                 psa_join(given->w[3], given->w[2]));
    store_amount(exact_in ? result->amount_out : result->amount_in, low, high);
    for (int i = 0; i < 4; i++) result->sqrt_price_x96_after[i] = 0;
    result->liquidity_after[0] = 0;
    result->liquidity_after[1] = 0;
    result->tick_after = 0;
    result->ticks_crossed = 0;
    result->is_complete = 1;
    return PSA_OK;
}

/* UniswapV2Library.getAmountOut and getAmountIn. The fee is written as routers write it, over the
 * smallest power of ten from 1,000 on (3000 pips: 997 / 1000), because their uint256 intermediates
 * overflow at amounts that depend on it. */
int psa_v2_quote(const pool_state *pool, const psa_u256 *amount, const psa_u256 *limit,
                 int zero_for_one, int exact_in, psa_quote_result *result) {
    if (limit) return PSA_BAD_ARGUMENT;
    if (psa_is_zero_256(amount)) return PSA_AMOUNT_OUT_OF_RANGE;
    psa_u128 in = psa_reserve(pool, !zero_for_one), out = psa_reserve(pool, zero_for_one != 0);
    if (in == 0 || out == 0) return PSA_NOT_INITIALIZED;
    uint64_t rest = PSA_PIPS - pool->fee, base = PSA_PIPS;
    if (pool->fee == 3000) {
        rest = 997;
        base = 1000;
    } else if (pool->fee % 1000 == 0) {
        rest /= 1000;
        base = 1000;
    } else if (pool->fee % 100 == 0) {
        rest /= 100;
        base = 10000;
    } else if (pool->fee % 10 == 0) {
        rest /= 10;
        base = 100000;
    }
    /* What every real swap is: all intermediates fit two limbs but the numerator, and so does the
     * quotient. 112 bits of amount or reserve and 14 of the fraction's base leave room for the sum. */
    if ((amount->w[1] >> 48 | amount->w[2] | amount->w[3]) == 0 && base <= 10000) {
        psa_u128 given = psa_join(amount->w[1], amount->w[0]);
        psa_u128 d = exact_in ? in * base + given * rest : given < out ? (out - given) * rest : 0;
        psa_u128 factor = exact_in ? given * rest : given * base;
        psa_u128 quotient;
        if (d != 0 && divide_product(&quotient, factor, exact_in ? out : in, d)) {
            quotient += !exact_in;
            return store_v2(amount, quotient, !exact_in && quotient == 0, exact_in, result);
        }
    }
    uint64_t in_limbs[2] = {psa_low(in), psa_high(in)}, out_limbs[2] = {psa_low(out), psa_high(out)};
    uint64_t n[6];
    psa_u256 other;
    if (exact_in) {
        uint64_t paid[5], scaled[3];
        psa_multiply(paid, &rest, 1, amount->w, 4);
        if (paid[4] != 0) return PSA_SWAP_REVERTS;
        psa_u256 d = {{0}}, added;
        psa_multiply(scaled, &base, 1, in_limbs, 2);
        memcpy(d.w, scaled, sizeof scaled);
        memcpy(added.w, paid, sizeof added.w);
        psa_multiply(n, out_limbs, 2, paid, 4);
        if (n[4] | n[5]) return PSA_SWAP_REVERTS;
        if (psa_add_256(&d, &added)) return PSA_SWAP_REVERTS;
        psa_divide(other.w, 4, n, 4, 0, d.w, 4);
    } else {
        psa_multiply(n, in_limbs, 2, amount->w, 4);
        if (n[4] | n[5]) return PSA_SWAP_REVERTS;
        uint64_t scaled[5], d[3];
        psa_multiply(scaled, &base, 1, n, 4);
        if (scaled[4] != 0) return PSA_SWAP_REVERTS;
        psa_u128 wanted = psa_join(amount->w[1], amount->w[0]);
        if ((amount->w[2] | amount->w[3]) != 0 || wanted >= out) return PSA_INSUFFICIENT_LIQUIDITY;
        if (rest == 0) return PSA_SWAP_REVERTS;
        uint64_t remaining[2] = {psa_low(out - wanted), psa_high(out - wanted)};
        psa_multiply(d, &rest, 1, remaining, 2);
        psa_divide(other.w, 4, scaled, 4, 0, d, 3);
        psa_increment(other.w, 4);
    }
    return store_v2(amount, psa_join(other.w[1], other.w[0]), psa_join(other.w[3], other.w[2]), exact_in,
                    result);
}

int psa_v2_load(const psa_line *line, const row_fields *row, uint32_t flags, uint32_t lp_fee,
                const psa_tick_arrays *arrays, pool_state *pool) {
    (void)row, (void)lp_fee, (void)arrays;
    uint32_t fee = line->fee_status & 0xffffff;
    if (flags & PSA_FEE_GIVEN) return PSA_BAD_ARGUMENT;
    if (line->a[1] >> 48 || line->b[1] >> 48 || fee > PSA_PIPS) return PSA_TICK_DATA;
    psa_load_reserves(line, pool);
    pool->fee = fee;
    return PSA_OK;
}
