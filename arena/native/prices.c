/* prices.c: the prices of a quote, as doubles: each is one quotient of exact integers, rounded once. */
#include <math.h>

#include "outcome.h"
#include "protocols.h"

#define LIMBS 11 /* amount_in * price * 10^6: 256, 384 and 20 bits */

typedef struct {
    uint64_t w[LIMBS];
} wide;

typedef struct {
    wide n, d;
} fraction;

static wide product(const wide *a, unsigned a_count, const uint64_t *b, unsigned b_count) {
    wide out = {{0}};
    psa_multiply(out.w, a->w, a_count, b, b_count);
    return out;
}

static wide from_limbs(const uint64_t *limbs, unsigned count) {
    wide out = {{0}};
    memcpy(out.w, limbs, count * sizeof *limbs);
    return out;
}

static int is_less(const uint64_t *a, const uint64_t *b, unsigned count) {
    while (count-- > 0)
        if (a[count] != b[count]) return a[count] < b[count];
    return 0;
}

/* a -= b; the caller knows b <= a. */
static void subtract(uint64_t *a, const uint64_t *b, unsigned count) {
    uint64_t borrow = 0;
    for (unsigned i = 0; i < count; i++) {
        psa_u128 taken = (psa_u128)b[i] + borrow;
        borrow = a[i] < taken;
        a[i] -= psa_low(taken);
    }
}

static unsigned bits_of(const wide *a) {
    for (unsigned i = LIMBS; i-- > 0;)
        if (a->w[i] != 0) return 64 * i + 64 - (unsigned)__builtin_clzll(a->w[i]);
    return 0;
}

static void shift_up(wide *a, unsigned bits) {
    for (unsigned i = LIMBS; i-- > 0;) {
        unsigned from = bits / 64, rest = bits % 64;
        uint64_t high = i >= from ? a->w[i - from] : 0, low = i > from ? a->w[i - from - 1] : 0;
        a->w[i] = psa_shifted(high, low, rest);
    }
}

/* n / d, d not 0, to the nearest double, ties to even. Both are below 2^(64 * LIMBS - 2). */
static double quotient(const fraction *f) {
    wide n = f->n, d = f->d;
    unsigned n_bits = bits_of(&n), d_bits = bits_of(&d);
    if (n_bits == 0) return 0.0;
    int exponent = (int)n_bits - (int)d_bits;
    if (exponent >= 0) shift_up(&d, (unsigned)exponent);
    else shift_up(&n, (unsigned)-exponent);
    /* Now 1/2 < n / d < 2: 64 bits of it, the first of which is the integer part. */
    unsigned count = (n_bits > d_bits ? n_bits : d_bits) / 64 + 1; /* limbs with one bit of room */
    uint64_t digits = 0;
    for (int i = 0; i < 64; i++) {
        int fits = !is_less(n.w, d.w, count);
        if (fits) subtract(n.w, d.w, count);
        digits = digits << 1 | (uint64_t)fits;
        psa_shift_left(n.w, n.w, count, 1);
    }
    /* At least 63 bits, of which a double has 53: what is left is as good as a bit at their end. */
    digits |= (uint64_t)psa_any(n.w, count);
    return ldexp((double)digits, exponent - 63);
}

/* The price sqrt^2 / 2^192 of token 0 in token 1, or its inverse. */
static fraction of_sqrt_price(const uint64_t sqrt_price_x96[3], int zero_for_one) {
    wide root = from_limbs(sqrt_price_x96, 3), square = product(&root, 3, root.w, 3);
    wide one = {{0, 0, 0, 1}};
    return zero_for_one ? (fraction){square, one} : (fraction){one, square};
}

static int has_price(const fraction *f) { return psa_any(f->n.w, LIMBS) && psa_any(f->d.w, LIMBS); }

static int spot(const psa_quote_result *result, fraction *out) {
    switch (psa_family_of(result->protocol)) {
    case PSA_FAMILY_CONCENTRATED: {
        const uint64_t price[3] = {result->a_before[0], result->a_before[1], result->sqrt_price_hi_before};
        *out = of_sqrt_price(price, result->zero_for_one);
        return has_price(out);
    }
    case PSA_FAMILY_PAIR:
    case PSA_FAMILY_SOLIDLY:
        out->n = from_limbs(result->zero_for_one ? result->b_before : result->a_before, 2);
        out->d = from_limbs(result->zero_for_one ? result->a_before : result->b_before, 2);
        return has_price(out);
    default: return 0;
    }
}

static int marginal(const psa_quote_result *result, fraction *out) {
    uint64_t reserve_in[5], reserve_out[2];
    switch (psa_family_of(result->protocol)) {
    case PSA_FAMILY_CONCENTRATED:
        *out = of_sqrt_price(result->sqrt_price_x96_after, result->zero_for_one);
        return has_price(out);
    case PSA_FAMILY_PAIR:
    case PSA_FAMILY_SOLIDLY:
        if (!psa_reserves_after(result, reserve_in, reserve_out)) return 0;
        out->n = from_limbs(reserve_out, 2);
        out->d = from_limbs(reserve_in, 5);
        return has_price(out);
    default: return 0;
    }
}

/* 1 - out / (in * spot) - fee, over one denominator: (in * N * (10^6 - fee) - out * D * 10^6) / (in * N *
 * 10^6) with spot = N / D. Negative where a contract rounds the fee down by more than the price moves. */
static int impact(const psa_quote_result *result, double *price) {
    const uint64_t million = PSA_PIPS, rest = million - result->fee_pips;
    fraction before, all;
    if (result->fee_pips > PSA_PIPS || !spot(result, &before)) return 0;
    wide at_spot = product(&before.n, 5, result->amount_in, 4);
    wide paid = product(&before.d, 5, result->amount_out, 4);
    wide most = product(&at_spot, 9, &rest, 1);
    paid = product(&paid, 9, &million, 1);
    all.d = product(&at_spot, 9, &million, 1);
    int is_negative = is_less(most.w, paid.w, LIMBS);
    all.n = is_negative ? paid : most;
    subtract(all.n.w, is_negative ? most.w : paid.w, LIMBS);
    *price = is_negative ? -quotient(&all) : quotient(&all);
    return 1;
}

int psa_quote_price(const psa_quote_result *result, uint32_t which, double *price) {
    fraction found;
    int there = 0;
    *price = NAN;
    if (result->status != PSA_OK) return 0;
    if (which == PSA_PRICE_SPOT) there = spot(result, &found);
    else if (which == PSA_PRICE_MARGINAL) there = marginal(result, &found);
    else if (which > PSA_PRICE_IMPACT || !psa_any(result->amount_in, 4)) return 0;
    else if (which == PSA_PRICE_IMPACT) return impact(result, price);
    else {
        found = (fraction){from_limbs(result->amount_out, 4), from_limbs(result->amount_in, 4)};
        there = 1;
    }
    if (there) *price = quotient(&found);
    return there;
}

void psa_quote_prices(const psa_quote_result *results, uint32_t count, uint32_t which, double *prices) {
    for (uint32_t i = 0; i < count; i++) psa_quote_price(&results[i], which, &prices[i]);
}
