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
        uint64_t top = psa_high(psa_join(n[2], n[1]) << shift);
        uint64_t middle = psa_high(psa_join(n[1], n[0]) << shift);
        uint64_t high = psa_digit_1(top, middle, e, v, &rest);
        *quotient = psa_join(high, psa_digit_1(rest, n[0] << shift, e, v, &rest));
        return 1;
    }
    unsigned shift = (unsigned)__builtin_clzll(psa_high(d));
    uint64_t middle = psa_high(psa_join(n[1], n[0]) << shift);
    r = r << shift | psa_high((psa_u128)n[1] << shift);
    d <<= shift;
    uint64_t v = psa_reciprocal_2(psa_high(d), psa_low(d)), high = 0;
    if (psa_high(r) == 0 && psa_join(psa_low(r), middle) < d) r = psa_join(psa_low(r), middle);
    else high = psa_digit_2(r, middle, d, v, &r);
    *quotient = psa_join(high, psa_digit_2(r, n[0] << shift, d, v, &r));
    return 1;
}

static int store_v2(const psa_u256 *in, const psa_u256 *out, psa_quote_result *result) {
    for (int i = 0; i < 4; i++) {
        result->amount_in[i] = in->w[i];
        result->amount_out[i] = out->w[i];
        result->sqrt_price_x96_after[i] = 0;
    }
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
    psa_u128 in = zero_for_one ? pool->reserve0 : pool->reserve1;
    psa_u128 out = zero_for_one ? pool->reserve1 : pool->reserve0;
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
            psa_u256 other = {{psa_low(quotient), psa_high(quotient), 0, 0}};
            if (!exact_in) psa_increment(other.w, 4);
            return store_v2(exact_in ? amount : &other, exact_in ? &other : amount, result);
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
    return store_v2(exact_in ? amount : &other, exact_in ? &other : amount, result);
}

int psa_v2_load(const psa_line *line, const row_fields *row, uint32_t flags, uint32_t lp_fee,
                const psa_tick_arrays *arrays, pool_state *pool) {
    (void)row, (void)lp_fee, (void)arrays;
    uint32_t fee = line->fee_status & 0xffffff;
    if (flags & PSA_FEE_GIVEN) return PSA_BAD_ARGUMENT;
    if (line->a[1] >> 48 || line->b[1] >> 48 || fee > PSA_PIPS) return PSA_TICK_DATA;
    pool->reserve0 = psa_join(line->a[1], line->a[0]);
    pool->reserve1 = psa_join(line->b[1], line->b[0]);
    pool->fee = fee;
    return PSA_OK;
}
