/* Quotes: Uniswap V2, V3 and V4 swaps as the deployed contracts compute them, bit for bit.
 *
 * One core serves the shared versions and private copies. It takes the fields of a copied line and two
 * pointers to tick arrays, which may be changing while they are read: nothing in here traps or loops
 * without a bound whatever those arrays hold, and the caller checks the stamp before it believes a
 * result or an error.
 *
 * V3 and V4 differ in which part of the input they call fee, in nothing that a quote shows, except at a
 * fee of 100 % and in the range of amounts. One step serves both. Three facts carry the shortcuts:
 *
 * F1  An exact-in step reaches its target exactly when the input left covers
 *     ceil(amount_in * 10^6 / (10^6 - fee)): the contract's floor(left * (10^6 - fee) / 10^6) >= amount_in
 *     says the same. That number is also what the step then consumes. A step that does not reach its
 *     target consumes all that is left.
 * F2  An exact-in step that does not reach its target ends strictly before it, and one that does would
 *     pass or hit it if the price were computed from the amount. So when the price computed from the
 *     amount lies before the target, no target price is needed.
 * F3  An exact-out step that does not reach its target pays exactly what is left; its price may still
 *     round onto the target, and then the tick there is crossed.
 */
#include <string.h>

#include "arena.h"
#include "atomics.h"
#include "tick_powers.h"
#include "ticks.h"
#include "u256.h"
#include "versions.h"

#define MIN_TICK (-887272)
#define MAX_TICK 887272
#define MAX_TICK_SPACING 32767
#define PIPS 1000000

/* TickMath.getSqrtRatioAtTick at MIN_TICK and MAX_TICK */
static const psa_u192 MIN_SQRT_PRICE = {{UINT64_C(4295128739), 0, 0}};
static const psa_u192 MAX_SQRT_PRICE = {
    {UINT64_C(0x5d951d5263988d26), UINT64_C(0xefd1fc6a50648849), UINT64_C(0xfffd8963)}};

/* ---- ticks and prices ------------------------------------------------------------------------------ */

/* TickMath.getSqrtRatioAtTick for a tick in range. */
static psa_u192 sqrt_price_at(int32_t tick) {
    uint32_t magnitude = (uint32_t)(tick < 0 ? -tick : tick);
    uint32_t low = magnitude & 1023, high = magnitude >> 10;
    psa_u128 ratio;
    if (low != 0) {
        ratio = psa_join(psa_tick_low[low][1], psa_tick_low[low][0]);
    } else if (high != 0) { /* 2^128 times the next factor */
        unsigned bit = (unsigned)__builtin_ctz(high);
        ratio = psa_join(psa_tick_high[bit][1], psa_tick_high[bit][0]);
        high &= high - 1;
    } else {
        psa_u192 one = {{0, UINT64_C(1) << 32, 0}};
        return one;
    }
    while (high != 0) {
        unsigned bit = (unsigned)__builtin_ctz(high);
        ratio = psa_multiply_high(ratio, psa_join(psa_tick_high[bit][1], psa_tick_high[bit][0]));
        high &= high - 1;
    }
    uint64_t w[4] = {psa_low(ratio), psa_high(ratio), 0, 0};
    if (tick > 0) {
        /* floor((2^256 - 1) / ratio); ratio lies in [2^63, 2^128), so three limbs hold it */
        unsigned shift = (unsigned)__builtin_clzll(w[1]);
        psa_u128 d = ratio << shift;
        uint64_t v = psa_reciprocal_2(psa_high(d), psa_low(d));
        /* numerator (2^256 - 1) * 2^shift: limbs top = 2^shift - 1, three of ones, 2^64 - 2^shift */
        psa_u128 r = psa_join((UINT64_C(1) << shift) - 1, UINT64_MAX);
        w[2] = psa_digit_2(r, UINT64_MAX, d, v, &r);
        w[1] = psa_digit_2(r, UINT64_MAX, d, v, &r);
        w[0] = psa_digit_2(r, UINT64_MAX << shift, d, v, &r);
    }
    /* Q128.128 to Q64.96, rounded up */
    uint64_t up = (w[0] & UINT32_MAX) != 0;
    psa_u128 bottom = psa_join(w[1] >> 32, w[1] << 32 | w[0] >> 32) + ((psa_u128)(uint32_t)w[2] << 96);
    psa_u128 sum = bottom + up;
    psa_u192 out = {{psa_low(sum), psa_high(sum), (w[2] >> 32) + (sum < bottom)}};
    return out;
}

/* Estimate of the tick of a price, as a real number; off by less than 2^-12.
 *
 * log(price / 2^96) / log(sqrt(1.0001)) from the top 53 bits by the series of artanh: the truncated
 * series is off by 2^-45, rounding by 2^-43 of at most 64 binary digits, which is 2^-23 ticks. What
 * remains is how far TickMath's prices are from true powers: at most one unit in 2^32, 2^-17 ticks. */
static double tick_estimate(const psa_u192 *price) {
    unsigned top = price->w[2] ? 2 : price->w[1] ? 1 : 0;
    if (price->w[top] == 0) return MIN_TICK;
    unsigned zeros = (unsigned)__builtin_clzll(price->w[top]);
    uint64_t bits = price->w[top] << zeros;
    if (zeros && top) bits |= price->w[top - 1] >> (64 - zeros);
    int exponent = (int)(top * 64 + 63 - zeros) - 96;
    double m = (double)(int64_t)(bits >> 11) * 0x1p-52; /* [1, 2) */
    int above = m > 1.4142135623730951;
    m = above ? m * 0.5 : m;
    exponent += above;
    double s = (m - 1.0) / (m + 1.0), z = s * s; /* |s| < 0.1716 */
    double z2 = z * z, z4 = z2 * z2;
    double series = (1.0 + z * (1.0 / 3)) + z2 * (1.0 / 5 + z * (1.0 / 7)) +
                    z4 * ((1.0 / 9 + z * (1.0 / 11)) + z2 * (1.0 / 13 + z * (1.0 / 15)));
    /* 2 / log(sqrt(1.0001)) and log(2) / log(sqrt(1.0001)) */
    return s * series * 40001.99996666833 + (double)exponent * 13863.636746827591;
}

/* TickMath.getTickAtSqrtRatio: the greatest tick whose price is at most `price`, which is in range. */
static int32_t tick_at(const psa_u192 *price) {
    double estimate = tick_estimate(price) + 1048576.0; /* positive, so conversion rounds down */
    int32_t whole = (int32_t)estimate;
    double part = estimate - (double)whole;
    whole -= 1048576;
    if (__builtin_expect(part > 0x1p-10 && part < 1.0 - 0x1p-10, 1)) return whole;
    int32_t nearest = part < 0.5 ? whole : whole + 1;
    if (nearest <= MIN_TICK) return MIN_TICK;
    if (nearest > MAX_TICK) nearest = MAX_TICK;
    psa_u192 exact = sqrt_price_at(nearest);
    return psa_less_192(price, &exact) ? nearest - 1 : nearest;
}

int psa_sqrt_price_at_tick(int32_t tick, uint64_t *sqrt_price_x96) {
    if (!sqrt_price_x96 || tick < MIN_TICK || tick > MAX_TICK) return PSA_BAD_ARGUMENT;
    psa_u256 wide;
    psa_u192 price = sqrt_price_at(tick);
    wide = psa_widen(&price);
    memcpy(sqrt_price_x96, wide.w, sizeof wide.w);
    return PSA_OK;
}

static int price_in_range(const psa_u192 *price) {
    return !psa_less_192(price, &MIN_SQRT_PRICE) && psa_less_192(price, &MAX_SQRT_PRICE);
}

int psa_tick_at_sqrt_price(const uint64_t *sqrt_price_x96, int32_t *tick) {
    if (!sqrt_price_x96 || !tick || sqrt_price_x96[3] != 0) return PSA_BAD_ARGUMENT;
    psa_u192 price;
    memcpy(price.w, sqrt_price_x96, sizeof price.w);
    if (!price_in_range(&price)) return PSA_BAD_ARGUMENT;
    *tick = tick_at(&price);
    return PSA_OK;
}

/* ---- amounts between prices, prices from amounts (SqrtPriceMath) ----------------------------------- */

/* w += 1; returns the carry. */
PSA_INLINE int increment(uint64_t *w, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (++w[i] != 0) return 0;
    return 1;
}

/* out = liquidity * x in as few limbs as x needs; returns their number. */
PSA_INLINE unsigned times_liquidity(uint64_t out[5], psa_u128 liquidity, const psa_u192 *x) {
    uint64_t l[2] = {psa_low(liquidity), psa_high(liquidity)};
    if (x->w[2] == 0) {
        psa_multiply(out, l, 2, x->w, 2);
        return 4;
    }
    psa_multiply(out, l, 2, x->w, 3);
    return 5;
}

/* token0 between two prices, low <= high: liquidity * 2^96 * (high - low) / (high * low). The contract
 * divides twice and rounds both times in one direction, which equals one division by the product. */
static psa_u192 amount0_between(const psa_u192 *low, const psa_u192 *high, psa_u128 liquidity,
                                int round_up) {
    psa_u192 difference = psa_sub_192(high, low), out;
    uint64_t n[5], d[6];
    unsigned n_count = times_liquidity(n, liquidity, &difference), d_count;
    if (high->w[2] == 0) {
        psa_multiply(d, low->w, 2, high->w, 2);
        d_count = 4;
    } else {
        psa_multiply(d, low->w, 3, high->w, 3);
        d_count = 6;
    }
    int more = psa_divide(out.w, 3, n, n_count, 96, d, d_count);
    if (round_up && more) increment(out.w, 3);
    return out;
}

/* token1 between two prices, low <= high: liquidity * (high - low) / 2^96. */
static psa_u192 amount1_between(const psa_u192 *low, const psa_u192 *high, psa_u128 liquidity,
                                int round_up) {
    psa_u192 difference = psa_sub_192(high, low);
    uint64_t n[5];
    n[4] = 0;
    times_liquidity(n, liquidity, &difference);
    psa_u192 out = {{n[1] >> 32 | n[2] << 32, n[2] >> 32 | n[3] << 32, n[3] >> 32 | n[4] << 32}};
    if (round_up && (n[0] | (n[1] & UINT32_MAX))) increment(out.w, 3);
    return out;
}

PSA_INLINE psa_u256 shift_96(psa_u128 liquidity) {
    uint64_t low = psa_low(liquidity), high = psa_high(liquidity);
    psa_u256 out = {{0, low << 32, high << 32 | low >> 32, high >> 32}};
    return out;
}

/* getNextSqrtPriceFromAmount0RoundingUp, amount added. 0 when the contract's product or sum would
 * overflow and it takes its second formula; `next` is then left alone. */
static int price_after_adding_0(const psa_u192 *price, psa_u128 liquidity, const psa_u192 *amount,
                                psa_u192 *next) {
    psa_u256 d;
    uint64_t product[6], n[5];
    psa_multiply(product, amount->w, 3, price->w, 3);
    if (product[4] | product[5]) return 0;
    memcpy(d.w, product, sizeof d.w);
    psa_u256 shifted = shift_96(liquidity);
    if (psa_add_256(&d, &shifted)) return 0;
    unsigned n_count = times_liquidity(n, liquidity, price);
    psa_u192 out;
    int more = psa_divide(out.w, 3, n, n_count, 96, d.w, 4);
    if (more) increment(out.w, 3);
    *next = out;
    return 1;
}

/* The second formula: ceil(2^96 * liquidity / (floor(2^96 * liquidity / price) + amount)). */
static psa_u192 price_after_adding_0_wide(const psa_u192 *price, psa_u128 liquidity,
                                          const psa_u192 *amount) {
    psa_u256 n = shift_96(liquidity), d, added = psa_widen(amount);
    psa_divide(d.w, 4, n.w, 4, 0, price->w, 3);
    psa_add_256(&d, &added); /* below 2^193 */
    psa_u192 out;
    if (psa_divide(out.w, 3, n.w, 4, 0, d.w, 4)) increment(out.w, 3);
    return out;
}

/* The same, amount removed. 0 when the contract would refuse: the amount is not there. */
static int price_after_removing_0(const psa_u192 *price, psa_u128 liquidity, const psa_u192 *amount,
                                  psa_u192 *next) {
    uint64_t product[6], n[5];
    psa_u256 d = shift_96(liquidity), taken;
    psa_multiply(product, amount->w, 3, price->w, 3);
    if (product[4] | product[5]) return 0;
    memcpy(taken.w, product, sizeof taken.w);
    if (!psa_less_256(&taken, &d)) return 0;
    psa_sub_256(&d, &taken);
    unsigned n_count = times_liquidity(n, liquidity, price);
    uint64_t q[4];
    int more = psa_divide(q, 4, n, n_count, 96, d.w, 4);
    if (more) increment(q, 4);
    if (q[3] != 0 || q[2] >> 32 != 0) return 0;
    memcpy(next->w, q, sizeof next->w);
    return 1;
}

/* getNextSqrtPriceFromAmount1RoundingDown, added or removed. 0 when the result leaves uint160. */
static int price_after_moving_1(const psa_u192 *price, psa_u128 liquidity, const psa_u192 *amount,
                                int add, psa_u192 *next) {
    uint64_t q[5];
    uint64_t d[2] = {psa_low(liquidity), psa_high(liquidity)};
    int more = psa_divide(q, 5, amount->w, 3, 96, d, 2);
    if (q[3] | q[4]) return 0;
    psa_u192 move = {{q[0], q[1], q[2]}};
    if (add) {
        int carry;
        *next = psa_sum_192(price, &move, &carry);
        return !carry && next->w[2] >> 32 == 0;
    }
    if (more && increment(move.w, 3)) return 0;
    if (!psa_less_192(&move, price)) return 0;
    *next = psa_sub_192(price, &move);
    return 1;
}

/* ---- one swap ----------------------------------------------------------------------------------------- */

/* What a swap starts from: fields of a line and a row, checked, and where the ticks are. */
typedef struct {
    psa_u192 price;
    psa_u128 liquidity;
    const int32_t *ticks;
    const uint64_t *net;
    uint32_t tick_count;
    uint32_t index;     /* number of ticks <= tick */
    int32_t tick;
    int32_t spacing;
    uint32_t fee;       /* whole swap fee, pips */
    uint32_t protocol;
    psa_u128 reserve0;
    psa_u128 reserve1;
    psa_divisor after_fee; /* 10^6 - fee */
} pool_state;

/* Where a swap has got to. */
typedef struct {
    psa_u192 price;
    psa_u128 liquidity;
    int32_t tick;
    int32_t edge;       /* word edge ahead, before clamping to the tick range */
    uint32_t index;     /* number of ticks <= tick */
    uint32_t crossed;
} position;

/* The end of the running step. */
typedef struct {
    int32_t tick;
    int32_t initialized;
    int32_t skips;      /* empty words were passed over */
} boundary;

static int32_t floor_divide(int32_t a, int32_t b) {
    int32_t q = a / b;
    return q - (a % b < 0);
}

/* Edge of the bitmap word a step from `tick` searches: 256 * spacing ticks a word. */
static int32_t word_edge(int32_t tick, int32_t spacing, int zero_for_one) {
    int32_t word = 256 * spacing;
    if (zero_for_one) return floor_divide(tick, word) * word;
    return (floor_divide(tick + spacing, word) + 1) * word - spacing;
}

static int next_boundary(const pool_state *pool, const position *at, int zero_for_one, boundary *out) {
    int32_t end = at->edge;
    int found = 0;
    out->initialized = 0;
    out->skips = 0;
    if (zero_for_one) {
        if (end < MIN_TICK) end = MIN_TICK;
        if (at->index > 0) {
            int32_t next = PSA_LOAD(&pool->ticks[at->index - 1]);
            if (next > at->tick || next < MIN_TICK) return PSA_TICK_DATA;
            found = next >= end;
            if (found) end = next;
            else if (at->liquidity == 0) {
                found = out->skips = 1;
                end = next;
            }
        } else if (at->liquidity == 0) {
            out->skips = end > MIN_TICK;
            end = MIN_TICK;
        }
    } else {
        if (end > MAX_TICK) end = MAX_TICK;
        if (at->index < pool->tick_count) {
            int32_t next = PSA_LOAD(&pool->ticks[at->index]);
            if (next <= at->tick || next > MAX_TICK) return PSA_TICK_DATA;
            found = next <= end;
            if (found) end = next;
            else if (at->liquidity == 0) {
                found = out->skips = 1;
                end = next;
            }
        } else if (at->liquidity == 0) {
            out->skips = end < MAX_TICK;
            end = MAX_TICK;
        }
    }
    out->tick = end;
    out->initialized = found;
    return PSA_OK;
}

/* Step over a boundary whose price has been reached. */
static int pass_boundary(const pool_state *pool, position *at, const boundary *to, int zero_for_one) {
    if (to->initialized) {
        uint32_t i = zero_for_one ? at->index - 1 : at->index;
        psa_u128 net = psa_join(PSA_LOAD(&pool->net[2 * (size_t)i + 1]), PSA_LOAD(&pool->net[2 * (size_t)i]));
        int negative = (int)(psa_high(net) >> 63);
        if (negative) net = -net;
        if (negative ^ zero_for_one) {
            if (net > at->liquidity) return PSA_TICK_DATA;
            at->liquidity -= net;
        } else {
            if (at->liquidity + net < net) return PSA_TICK_DATA;
            at->liquidity += net;
        }
        at->index = zero_for_one ? i : i + 1;
        at->crossed++;
    }
    at->tick = zero_for_one ? to->tick - 1 : to->tick;
    if (to->skips) {
        at->edge = word_edge(at->tick, pool->spacing, zero_for_one);
    } else if (to->tick == at->edge) {
        at->edge += zero_for_one ? -256 * pool->spacing : 256 * pool->spacing;
    }
    return PSA_OK;
}

/* What an exact-in step to the target consumes: amount_in and its fee (F1). Less than 2^213. */
PSA_INLINE psa_u256 with_fee(const pool_state *pool, const psa_u192 *amount_in) {
    psa_u256 out = psa_widen(amount_in);
    if (pool->fee == 0) return out;
    uint64_t million = PIPS, product[4];
    psa_multiply(product, &million, 1, amount_in->w, 3);
    if (psa_divide_small(product, 4, &pool->after_fee)) increment(product, 4);
    memcpy(out.w, product, sizeof out.w);
    return out;
}

/* floor(amount * (10^6 - fee) / 10^6). */
PSA_INLINE psa_u256 without_fee(const pool_state *pool, const psa_u256 *amount) {
    if (pool->fee == 0) return *amount;
    const psa_divisor million = {UINT64_C(1000000) << 44, UINT64_C(0x0c6f7a0b5ed8d36b), 44};
    uint64_t rest = PIPS - pool->fee, product[5];
    psa_multiply(product, &rest, 1, amount->w, 4);
    psa_divide_small(product, 5, &million);
    psa_u256 out;
    memcpy(out.w, product, sizeof out.w);
    return out;
}

static double to_double(const uint64_t *w, unsigned count) {
    double out = 0.0, unit = 1.0;
    for (unsigned i = 0; i < count; i++) {
        /* two halves: signed conversions are one instruction */
        if (w[i]) out += ((double)(int64_t)(w[i] >> 32) * 0x1p32 + (double)(int64_t)(w[i] & UINT32_MAX)) * unit;
        unit *= 0x1p64;
    }
    return out;
}

/* Guess whether the step stops before `ticks_ahead` ticks. Only picks the order of exact work: a wrong
 * guess costs time. */
static int stops_early(const pool_state *pool, const position *at, const psa_u256 *left,
                       int zero_for_one, int exact_in, int32_t ticks_ahead) {
    double amount = to_double(left->w, 4);
    double price = to_double(at->price.w, 3) * 0x1p-96;
    double liquidity = (double)psa_high(at->liquidity) * 0x1p64 + (double)psa_low(at->liquidity);
    double distance = (double)ticks_ahead * 4.99975e-5;
    /* relative move of the price (or of its inverse): exp(distance) - 1 reaches the end */
    double reach = distance * (1.0 + distance * (0.5 + distance * (1.0 / 6 + distance * (1.0 / 24))));
    if (exact_in) amount *= (double)(PIPS - pool->fee) * 1e-6;
    else reach /= 1.0 + reach;
    if (zero_for_one == exact_in) return amount * price < reach * liquidity;
    return amount < reach * liquidity * price;
}

/* Finish inside the running step without knowing the target's price, when that is certain to be right.
 * Gives the price after and its tick. */
static int finish_before(const pool_state *pool, const position *at, const psa_u256 *left,
                         const psa_u192 *limit, int limited, int zero_for_one, int exact_in,
                         int32_t target_tick, psa_u192 *next, int32_t *tick) {
    psa_u256 amount = exact_in ? without_fee(pool, left) : *left;
    if (amount.w[3] != 0) return 0;
    psa_u192 narrow = {{amount.w[0], amount.w[1], amount.w[2]}};
    if (zero_for_one == exact_in) {
        if (exact_in ? !price_after_adding_0(&at->price, at->liquidity, &narrow, next)
                     : !price_after_removing_0(&at->price, at->liquidity, &narrow, next))
            return 0;
    } else if (!price_after_moving_1(&at->price, at->liquidity, &narrow, exact_in, next)) {
        return 0;
    }
    if (zero_for_one ? !psa_less_192(limit, next) : !psa_less_192(next, limit)) return 0;
    int32_t found = tick_at(next);
    if (exact_in) {
        if (zero_for_one ? found <= target_tick : found >= target_tick) return 0; /* F2 */
    } else {
        /* The step is made whole when what is left equals its yield, rounded down, so the target has to
         * pay at least one unit more than the price at `next` shows. A whole tick between them, more
         * than 2^-15 of the price, is worth one when liquidity * price >= 2^111 (token1) or
         * liquidity * 2^81 >= price (token0). */
        if (zero_for_one ? found <= target_tick : found > target_tick - 2) return 0;
        unsigned price_bits = next->w[2]   ? 192 - (unsigned)__builtin_clzll(next->w[2])
                              : next->w[1] ? 128 - (unsigned)__builtin_clzll(next->w[1])
                                           : 64 - (unsigned)__builtin_clzll(next->w[0] | 1);
        unsigned liquidity_bits =
            psa_high(at->liquidity) ? 128 - (unsigned)__builtin_clzll(psa_high(at->liquidity))
                                    : 64 - (unsigned)__builtin_clzll(psa_low(at->liquidity) | 1);
        if (zero_for_one ? liquidity_bits + price_bits < 111 + 2 : liquidity_bits + 81 < price_bits + 1)
            return 0;
        if (limited) { /* the limit is a target too */
            psa_u192 most = zero_for_one ? amount1_between(limit, &at->price, at->liquidity, 0)
                                         : amount0_between(&at->price, limit, at->liquidity, 0);
            if (!psa_less_192(&narrow, &most)) return 0;
        }
    }
    *tick = psa_equal_192(next, &at->price) ? at->tick : found;
    return 1;
}

/* What one step does to amounts and price. */
typedef struct {
    psa_u192 price;     /* after the step */
    psa_u256 in;        /* fee included */
    psa_u192 out;
    int reached;        /* the whole step to its target was made */
} step_result;

/* The whole step from `from` to `target`, cost and yield. A fee of 100 % makes the cost of any input
 * infinite: `reached` is then 0. */
static void whole_step(const pool_state *pool, const psa_u192 *from, const psa_u192 *target,
                       psa_u128 liquidity, int zero_for_one, step_result *step) {
    const psa_u192 *low = zero_for_one ? target : from, *high = zero_for_one ? from : target;
    memset(step, 0, sizeof *step);
    step->price = *target;
    step->reached = 1;
    if (liquidity == 0) return;
    psa_u192 in = zero_for_one ? amount0_between(low, high, liquidity, 1)
                               : amount1_between(low, high, liquidity, 1);
    if (pool->fee == PIPS) {
        step->reached = (in.w[0] | in.w[1] | in.w[2]) == 0;
    } else {
        step->in = with_fee(pool, &in);
    }
    step->out = zero_for_one ? amount1_between(low, high, liquidity, 0)
                             : amount0_between(low, high, liquidity, 0);
}

/* Amounts of a step that ends at `step->price` because nothing is left to swap. */
static void last_step(const pool_state *pool, const psa_u192 *from, psa_u128 liquidity,
                      const psa_u256 *left, int zero_for_one, int exact_in, step_result *step) {
    const psa_u192 *low = zero_for_one ? &step->price : from;
    const psa_u192 *high = zero_for_one ? from : &step->price;
    if (exact_in) {
        step->in = *left;
        step->out = zero_for_one ? amount1_between(low, high, liquidity, 0)
                                 : amount0_between(low, high, liquidity, 0);
    } else {
        psa_u192 in = zero_for_one ? amount0_between(low, high, liquidity, 1)
                                   : amount1_between(low, high, liquidity, 1);
        step->in = with_fee(pool, &in);
        step->out = (psa_u192){{left->w[0], left->w[1], left->w[2]}};
    }
}

/* A step known not to reach its target: where `left` moves the price. */
static int partial_step(const pool_state *pool, const psa_u192 *from, psa_u128 liquidity,
                        const psa_u256 *left, int zero_for_one, int exact_in, step_result *step) {
    psa_u256 amount = exact_in ? without_fee(pool, left) : *left;
    psa_u192 narrow = {{amount.w[0], amount.w[1], amount.w[2]}};
    step->reached = 0;
    if (amount.w[3] != 0 || liquidity == 0) return PSA_TICK_DATA;
    if (zero_for_one != exact_in) {
        if (!price_after_moving_1(from, liquidity, &narrow, exact_in, &step->price))
            return PSA_SWAP_REVERTS;
    } else if (!exact_in) {
        if (!price_after_removing_0(from, liquidity, &narrow, &step->price)) return PSA_SWAP_REVERTS;
    } else if (!price_after_adding_0(from, liquidity, &narrow, &step->price)) {
        step->price = price_after_adding_0_wide(from, liquidity, &narrow);
    }
    last_step(pool, from, liquidity, left, zero_for_one, exact_in, step);
    return PSA_OK;
}

/* The tick at a limit that stopped the swap inside empty words. The contract walks them one by one, so
 * moving down onto a word edge leaves the tick one below it. */
static int32_t tick_in_empty_words(const pool_state *pool, const psa_u192 *price, int zero_for_one) {
    int32_t tick = tick_at(price);
    if (zero_for_one && tick % (256 * pool->spacing) == 0) {
        psa_u192 exact = sqrt_price_at(tick);
        tick -= psa_equal_192(&exact, price);
    }
    return tick;
}

static void position_start(const pool_state *pool, int zero_for_one, position *at) {
    at->price = pool->price;
    at->liquidity = pool->liquidity;
    at->tick = pool->tick;
    at->index = pool->index;
    at->crossed = 0;
    at->edge = word_edge(pool->tick, pool->spacing, zero_for_one);
}

/* The price a swap cannot pass: one inside the range's end unless the caller is stricter. */
static psa_u192 range_end(int zero_for_one) {
    psa_u192 end = zero_for_one ? MIN_SQRT_PRICE : MAX_SQRT_PRICE;
    end.w[0] += zero_for_one ? 1 : (uint64_t)-1;
    return end;
}

/* V4 pays and takes int128. The contract computes an input of 2^127, but nobody can pay it. */
static int amounts_fit(const pool_state *pool, const psa_u256 *in, const psa_u256 *out) {
    if (pool->protocol != PSA_UNISWAP_V4) return 1;
    return ((in->w[1] | out->w[1]) >> 63 | in->w[2] | in->w[3] | out->w[2] | out->w[3]) == 0;
}

/* Every result field but status, commit and block. */
static int store_swap(const pool_state *pool, const psa_u256 *in, const psa_u256 *out, int complete,
                      const psa_u192 *price, psa_u128 liquidity, int32_t tick, uint32_t crossed,
                      psa_quote_result *result) {
    if (!amounts_fit(pool, in, out)) return PSA_SWAP_REVERTS;
    for (int i = 0; i < 4; i++) {
        result->amount_in[i] = in->w[i];
        result->amount_out[i] = out->w[i];
        result->sqrt_price_x96_after[i] = i < 3 ? price->w[i] : 0;
    }
    result->liquidity_after[0] = psa_low(liquidity);
    result->liquidity_after[1] = psa_high(liquidity);
    result->tick_after = tick;
    result->ticks_crossed = crossed;
    result->is_complete = (uint32_t)complete;
    return PSA_OK;
}

/* Refusals that depend on the amount and fee alone, in the contracts' order. */
static int check_amount(const pool_state *pool, const psa_u256 *amount, int exact_in) {
    if (psa_is_zero_256(amount)) return PSA_AMOUNT_OUT_OF_RANGE;
    /* int256, whose minimum stands for 2^255 on the side that is negative: V3 out, V4 in */
    int top = amount->w[3] >> 63 != 0;
    int minimum = amount->w[3] == UINT64_C(1) << 63 && (amount->w[0] | amount->w[1] | amount->w[2]) == 0;
    int negative_in = pool->protocol == PSA_UNISWAP_V4;
    if (top && !(minimum && negative_in == exact_in)) return PSA_AMOUNT_OUT_OF_RANGE;
    if (pool->fee == PIPS && !exact_in) return PSA_FEE_TOO_HIGH;
    return PSA_OK;
}

static int concentrated_quote(const pool_state *pool, const psa_u256 *amount, const psa_u256 *limit_given,
                              int zero_for_one, int exact_in, psa_quote_result *result) {
    int status = check_amount(pool, amount, exact_in);
    if (status != PSA_OK) return status;
    psa_u192 limit = range_end(zero_for_one);
    if (limit_given) {
        psa_u192 given = {{limit_given->w[0], limit_given->w[1], limit_given->w[2]}};
        if (limit_given->w[3] != 0) return PSA_PRICE_LIMIT;
        if (zero_for_one ? psa_less_192(&given, &limit) : psa_less_192(&limit, &given))
            return PSA_PRICE_LIMIT;
        limit = given;
    }
    if (zero_for_one ? !psa_less_192(&limit, &pool->price) : !psa_less_192(&pool->price, &limit))
        return PSA_PRICE_LIMIT;

    position at;
    position_start(pool, zero_for_one, &at);
    psa_u256 left = *amount, in = {{0}}, out = {{0}};
    int complete;
    for (;;) {
        complete = psa_is_zero_256(&left);
        if (complete || psa_equal_192(&at.price, &limit)) break;
        boundary to;
        status = next_boundary(pool, &at, zero_for_one, &to);
        if (status != PSA_OK) return status;
        step_result step;
        int32_t ahead = zero_for_one ? at.tick - to.tick : to.tick - at.tick;
        if (at.liquidity != 0 && pool->fee < PIPS &&
            stops_early(pool, &at, &left, zero_for_one, exact_in, ahead)) {
            int32_t tick;
            if (finish_before(pool, &at, &left, &limit, limit_given != 0, zero_for_one, exact_in, to.tick,
                              &step.price, &tick)) {
                last_step(pool, &at.price, at.liquidity, &left, zero_for_one, exact_in, &step);
                psa_u256 paid = psa_widen(&step.out);
                psa_add_256(&in, &step.in);
                psa_add_256(&out, &paid);
                at.price = step.price;
                at.tick = tick;
                complete = 1;
                break;
            }
        }
        psa_u192 end = sqrt_price_at(to.tick);
        if (zero_for_one ? psa_less_192(&at.price, &end) : psa_less_192(&end, &at.price))
            return PSA_TICK_DATA;
        int stops = zero_for_one ? psa_less_192(&end, &limit) : psa_less_192(&limit, &end);
        whole_step(pool, &at.price, stops ? &limit : &end, at.liquidity, zero_for_one, &step);
        psa_u256 paid = psa_widen(&step.out);
        if (step.reached && exact_in ? !psa_less_256(&left, &step.in)
                                     : step.reached && !psa_less_256(&left, &paid)) {
            psa_sub_256(&left, exact_in ? &step.in : &paid);
        } else {
            status = partial_step(pool, &at.price, at.liquidity, &left, zero_for_one, exact_in, &step);
            if (status != PSA_OK) return status;
            paid = psa_widen(&step.out);
            left = (psa_u256){{0}};
        }
        psa_add_256(&in, &step.in);
        psa_add_256(&out, &paid);
        int moved = !psa_equal_192(&step.price, &at.price);
        at.price = step.price;
        if (psa_equal_192(&at.price, &end)) {
            status = pass_boundary(pool, &at, &to, zero_for_one);
            if (status != PSA_OK) return status;
        } else if (moved) {
            at.tick = to.skips ? tick_in_empty_words(pool, &at.price, zero_for_one) : tick_at(&at.price);
        }
    }
    return store_swap(pool, &in, &out, complete, &at.price, at.liquidity, at.tick, at.crossed, result);
}

/* ---- V2 ---------------------------------------------------------------------------------------------------- */

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
static int v2_quote(const pool_state *pool, const psa_u256 *amount, int zero_for_one, int exact_in,
                    psa_quote_result *result) {
    if (psa_is_zero_256(amount)) return PSA_AMOUNT_OUT_OF_RANGE;
    psa_u128 in = zero_for_one ? pool->reserve0 : pool->reserve1;
    psa_u128 out = zero_for_one ? pool->reserve1 : pool->reserve0;
    if (in == 0 || out == 0) return PSA_NOT_INITIALIZED;
    uint64_t rest = PIPS - pool->fee, base = PIPS;
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
            if (!exact_in) increment(other.w, 4);
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
        increment(other.w, 4);
    }
    return store_v2(exact_in ? amount : &other, exact_in ? &other : amount, result);
}

/* ---- from a line to a state -------------------------------------------------------------------------- */

typedef struct {
    int32_t tick_spacing;
    uint32_t generation;
    uint8_t protocol;
    uint8_t flags;
} row_fields;

static row_fields read_row(const psa_static *row) {
    row_fields out = {PSA_LOAD(&row->tick_spacing), PSA_LOAD(&row->generation), PSA_LOAD(&row->protocol),
                      PSA_LOAD(&row->flags)};
    return out;
}

/* Refuse what cannot be quoted and check the range of every field. `generation` 0: any. */
static int load_state(const psa_line *line, const row_fields *row, uint32_t generation, uint32_t flags,
                      uint32_t lp_fee, const psa_tick_arrays *arrays, pool_state *pool) {
    uint32_t status = line->fee_status >> 24;
    uint32_t fee = line->fee_status & 0xffffff;
    if (status == PSA_STATUS_REMOVED || (generation != 0 && generation != line->generation))
        return PSA_POOL_REMOVED;
    if (status == PSA_STATUS_ABSENT) return PSA_UNKNOWN_POOL;
    if (line->generation != row->generation) return PSA_POOL_REMOVED;
    if (status != PSA_STATUS_LIVE && (!(flags & PSA_ALLOW_STALE) || line->unsure & PSA_UNSURE_UNREAD))
        return PSA_POOL_STALE;
    pool->protocol = row->protocol;
    if (row->protocol == PSA_UNISWAP_V2) {
        if (flags & PSA_FEE_GIVEN) return PSA_BAD_ARGUMENT;
        if (line->a[1] >> 48 || line->b[1] >> 48 || fee > PIPS) return PSA_TICK_DATA;
        pool->reserve0 = psa_join(line->a[1], line->a[0]);
        pool->reserve1 = psa_join(line->b[1], line->b[0]);
        pool->fee = fee;
        return PSA_OK;
    }
    if (row->protocol != PSA_UNISWAP_V3 && row->protocol != PSA_UNISWAP_V4)
        return PSA_UNSUPPORTED_PROTOCOL;
    /* Whoever allows hooks says which fee they set, and that they do nothing else to the amounts. */
    const uint32_t by_curve = PSA_ALLOW_HOOKS | PSA_FEE_GIVEN;
    if (row->flags & PSA_POOL_HOOKED && (flags & by_curve) != by_curve) return PSA_HOOKED_POOL;
    if (flags & PSA_FEE_GIVEN) {
        if (!(row->flags & (PSA_POOL_DYNAMIC_FEE | PSA_POOL_HOOKED)) || lp_fee > PIPS)
            return PSA_BAD_ARGUMENT;
        fee = lp_fee;
    } else if (row->flags & PSA_POOL_DYNAMIC_FEE && !(flags & PSA_ALLOW_DYNAMIC)) {
        return PSA_DYNAMIC_FEE;
    }
    pool->price = (psa_u192){{line->a[0], line->a[1], line->sqrt_price_hi}};
    if ((line->a[0] | line->a[1] | line->sqrt_price_hi) == 0) return PSA_NOT_INITIALIZED;
    if (row->protocol == PSA_UNISWAP_V4) { /* ProtocolFeeLibrary.calculateSwapFee */
        uint32_t protocol_fee =
            flags & PSA_ZERO_FOR_ONE ? line->protocol_fee & 0xfff : line->protocol_fee >> 12 & 0xfff;
        fee += protocol_fee - (uint32_t)((uint64_t)protocol_fee * fee / PIPS);
    }
    if (!price_in_range(&pool->price) || line->tick < MIN_TICK || line->tick >= MAX_TICK ||
        row->tick_spacing < 1 || row->tick_spacing > MAX_TICK_SPACING || fee > PIPS ||
        (row->protocol == PSA_UNISWAP_V3 && fee == PIPS) || line->current_index > line->tick_count ||
        (line->tick_count != 0 && (!arrays->ticks || !arrays->net)))
        return PSA_TICK_DATA;
    pool->liquidity = psa_join(line->b[1], line->b[0]);
    pool->ticks = arrays->ticks;
    pool->net = arrays->net;
    pool->tick_count = line->tick_count;
    pool->index = line->current_index;
    pool->tick = line->tick;
    pool->spacing = row->tick_spacing;
    pool->fee = fee;
    pool->after_fee = psa_prepare(PIPS - fee);
    /* The index says where the current tick stands; a wrong one would skip liquidity. */
    if ((pool->index > 0 && PSA_LOAD(&pool->ticks[pool->index - 1]) > pool->tick) ||
        (pool->index < pool->tick_count && PSA_LOAD(&pool->ticks[pool->index]) <= pool->tick))
        return PSA_TICK_DATA;
    return PSA_OK;
}

static int quote_state(const pool_state *pool, const psa_u256 *amount, const psa_u256 *limit,
                       uint32_t flags, psa_quote_result *result) {
    int zero_for_one = (flags & PSA_ZERO_FOR_ONE) != 0, exact_in = !(flags & PSA_EXACT_OUT);
    if (pool->protocol == PSA_UNISWAP_V2) {
        if (limit) return PSA_BAD_ARGUMENT;
        return v2_quote(pool, amount, zero_for_one, exact_in, result);
    }
    return concentrated_quote(pool, amount, limit, zero_for_one, exact_in, result);
}

static int finish_result(const psa_line *line, int status, psa_quote_result *result) {
    if (status != PSA_OK) memset(result, 0, sizeof *result);
    result->status = (uint32_t)status;
    result->commit = line->stamp;
    result->block_number = line->block_number ? line->block_number : line->base_block;
    return status;
}

/* ---- the shared versions ------------------------------------------------------------------------------ */

#define QUOTE_ATTEMPTS 3

/* The static row may be rewritten for another pool while an old version of the first is still being
 * read: its generation is checked again behind the fence of psa_line_still. */
static int still_the_same(const psa_arena *arena, uint32_t slot, const psa_line *line, uint32_t which,
                          const row_fields *row) {
    return psa_line_still(arena, slot, line, which) &&
           PSA_LOAD(&arena->statics[slot].generation) == row->generation;
}

static int shared_quote(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                        const psa_u256 *amount, const psa_u256 *limit, uint32_t flags, uint32_t lp_fee,
                        psa_quote_result *result) {
    psa_line line;
    if (slot >= arena->max_pools) {
        memset(&line, 0, sizeof line);
        return finish_result(&line, generation ? PSA_POOL_REMOVED : PSA_UNKNOWN_POOL, result);
    }
    for (int attempt = 0; attempt < QUOTE_ATTEMPTS; attempt++) {
        uint32_t which;
        int status = psa_line_begin(arena, slot, commit, &line, &which);
        if (status == PSA_SNAPSHOT_TOO_OLD && commit == 0) continue;
        if (status != PSA_OK) {
            memset(&line, 0, sizeof line);
            return finish_result(&line, status, result);
        }
        row_fields row = read_row(&arena->statics[slot]);
        psa_tick_arrays arrays = {0, 0, 0};
        pool_state pool;
        status = row.protocol == PSA_UNISWAP_V2 || psa_line_ticks(arena, &line, &arrays) ? PSA_OK
                                                                                       : PSA_TICK_DATA;
        if (status == PSA_OK) status = load_state(&line, &row, generation, flags, lp_fee, &arrays, &pool);
        if (status == PSA_OK) status = quote_state(&pool, amount, limit, flags, result);
        if (still_the_same(arena, slot, &line, which, &row)) return finish_result(&line, status, result);
        if (commit != 0) {
            memset(&line, 0, sizeof line);
            return finish_result(&line, PSA_SNAPSHOT_TOO_OLD, result);
        }
    }
    memset(&line, 0, sizeof line);
    return finish_result(&line, PSA_CONTENDED, result);
}

#define CALLER_FLAGS                                                                        \
    (PSA_EXACT_OUT | PSA_ALLOW_STALE | PSA_ALLOW_DYNAMIC | PSA_FEE_GIVEN | PSA_ALLOW_HOOKS | \
     PSA_ZERO_FOR_ONE)

int psa_quote(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
              const uint8_t *amount, const uint8_t *limit, uint32_t flags, uint32_t lp_fee,
              psa_quote_result *result) {
    if (!arena || !amount || !result || flags & ~(uint32_t)CALLER_FLAGS) return PSA_BAD_ARGUMENT;
    psa_u256 wanted, bound;
    memcpy(wanted.w, amount, sizeof wanted.w);
    if (limit) memcpy(bound.w, limit, sizeof bound.w);
    return shared_quote(arena, slot, generation, commit, &wanted, limit ? &bound : 0, flags, lp_fee,
                        result);
}

int psa_quote_batch(const psa_arena *arena, const uint32_t *slots, const uint32_t *generations,
                    uint64_t commit, const uint64_t *amounts, const uint32_t *item_flags,
                    uint32_t flags, uint32_t count, psa_quote_result *results) {
    const uint32_t allowed = CALLER_FLAGS & ~(uint32_t)(PSA_FEE_GIVEN | PSA_ALLOW_HOOKS);
    int one = (flags & PSA_ONE_POOL) != 0;
    flags &= ~(uint32_t)PSA_ONE_POOL;
    if (!arena || !slots || !amounts || !results || flags & ~allowed) return PSA_BAD_ARGUMENT;
    for (uint32_t i = 0; i < count; i++) {
        psa_u256 amount;
        uint32_t pool = one ? 0 : i, all = flags | (item_flags ? item_flags[i] : 0);
        if (all & ~allowed) {
            psa_line none;
            memset(&none, 0, sizeof none);
            finish_result(&none, PSA_BAD_ARGUMENT, &results[i]);
            continue;
        }
        memcpy(amount.w, &amounts[4 * (size_t)i], sizeof amount.w);
        shared_quote(arena, slots[pool], generations ? generations[pool] : 0, commit, &amount, 0, all, 0,
                     &results[i]);
    }
    return PSA_OK;
}

/* ---- private copies and ladders ------------------------------------------------------------------------- */

static int load_copy(const psa_pool_copy *copy, uint32_t flags, uint32_t lp_fee, pool_state *pool) {
    row_fields row = read_row(copy->row);
    psa_tick_arrays arrays = {copy->ticks, copy->net, 0};
    return load_state(&copy->line, &row, 0, flags, lp_fee, &arrays, pool);
}

int psa_quote_copy(const psa_pool_copy *pool, const uint8_t *amount, const uint8_t *limit,
                   uint32_t flags, uint32_t lp_fee, psa_quote_result *result) {
    if (!pool || !pool->row || !amount || !result || flags & ~(uint32_t)CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    psa_u256 wanted, bound;
    pool_state state;
    memcpy(wanted.w, amount, sizeof wanted.w);
    if (limit) memcpy(bound.w, limit, sizeof bound.w);
    int status = load_copy(pool, flags, lp_fee, &state);
    if (status == PSA_OK) status = quote_state(&state, &wanted, limit ? &bound : 0, flags, result);
    return finish_result(&pool->line, status, result);
}

static void store_rung(const position *at, const psa_u256 *in, const psa_u256 *out, psa_rung *rung) {
    memset(rung, 0, sizeof *rung);
    memcpy(rung->amount_in, in->w, sizeof in->w);
    memcpy(rung->amount_out, out->w, sizeof out->w);
    memcpy(rung->sqrt_price_x96, at->price.w, sizeof at->price.w);
    rung->liquidity[0] = psa_low(at->liquidity);
    rung->liquidity[1] = psa_high(at->liquidity);
    rung->tick = at->tick;
    rung->ticks_crossed = at->crossed;
}

int psa_ladder_build(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee, psa_rung *rungs,
                     uint32_t capacity, uint32_t *count) {
    if (!pool || !pool->row || !count || (!rungs && capacity) || flags & ~(uint32_t)CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    *count = 0;
    pool_state state;
    int status = load_copy(pool, flags, lp_fee, &state);
    if (status != PSA_OK) return status;
    int zero_for_one = (flags & PSA_ZERO_FOR_ONE) != 0;
    position at;
    psa_u256 in = {{0}}, out = {{0}};
    uint32_t used = 1;
    if (state.protocol == PSA_UNISWAP_V2) {
        memset(&at, 0, sizeof at);
        if (capacity > 0) store_rung(&at, &in, &out, &rungs[0]);
        *count = 1;
        return capacity > 0 ? PSA_OK : PSA_BUFFER_TOO_SMALL;
    }
    psa_u192 limit = range_end(zero_for_one);
    position_start(&state, zero_for_one, &at);
    if (capacity > 0) store_rung(&at, &in, &out, &rungs[0]);
    while (zero_for_one ? psa_less_192(&limit, &at.price) : psa_less_192(&at.price, &limit)) {
        boundary to;
        step_result step;
        status = next_boundary(&state, &at, zero_for_one, &to);
        if (status != PSA_OK) return status;
        psa_u192 end = sqrt_price_at(to.tick);
        if (zero_for_one ? psa_less_192(&at.price, &end) : psa_less_192(&end, &at.price))
            return PSA_TICK_DATA;
        int stops = zero_for_one ? psa_less_192(&end, &limit) : psa_less_192(&limit, &end);
        whole_step(&state, &at.price, stops ? &limit : &end, at.liquidity, zero_for_one, &step);
        if (!step.reached) break; /* a fee of 100 %: no input moves the price further */
        psa_u256 paid = psa_widen(&step.out);
        psa_add_256(&in, &step.in);
        psa_add_256(&out, &paid);
        at.price = step.price;
        if (!stops) {
            status = pass_boundary(&state, &at, &to, zero_for_one);
            if (status != PSA_OK) return status;
        } else {
            at.tick = tick_at(&at.price);
        }
        if (used < capacity) store_rung(&at, &in, &out, &rungs[used]);
        used++;
    }
    *count = used;
    return used <= capacity ? PSA_OK : PSA_BUFFER_TOO_SMALL;
}

static int ladder_answer(const pool_state *pool, const psa_rung *rungs, uint32_t rung_count,
                         const psa_u256 *amount, int zero_for_one, int exact_in,
                         psa_quote_result *result) {
    int status = check_amount(pool, amount, exact_in);
    if (status != PSA_OK) return status;
    psa_u192 limit = range_end(zero_for_one);
    if (zero_for_one ? !psa_less_192(&limit, &pool->price) : !psa_less_192(&pool->price, &limit))
        return PSA_PRICE_LIMIT;
    /* the last rung whose total is below the amount; the first one's is 0 */
    uint32_t from = 0, to = rung_count;
    while (to - from > 1) {
        uint32_t middle = from + (to - from) / 2;
        psa_u256 total;
        memcpy(total.w, exact_in ? rungs[middle].amount_in : rungs[middle].amount_out, sizeof total.w);
        if (psa_less_256(&total, amount)) from = middle;
        else to = middle;
    }
    const psa_rung *rung = &rungs[from], *next = from + 1 < rung_count ? rung + 1 : 0;
    psa_u256 in, out, total, left = *amount;
    psa_u192 price;
    memcpy(in.w, rung->amount_in, sizeof in.w);
    memcpy(out.w, rung->amount_out, sizeof out.w);
    memcpy(price.w, rung->sqrt_price_x96, sizeof price.w);
    psa_u128 liquidity = psa_join(rung->liquidity[1], rung->liquidity[0]);
    int32_t tick = rung->tick;
    uint32_t crossed = rung->ticks_crossed;
    int complete = 0;
    if (next) {
        memcpy(total.w, exact_in ? next->amount_in : next->amount_out, sizeof total.w);
        if (memcmp(total.w, amount->w, sizeof total.w) == 0) {
            memcpy(in.w, next->amount_in, sizeof in.w);
            memcpy(out.w, next->amount_out, sizeof out.w);
            memcpy(price.w, next->sqrt_price_x96, sizeof price.w);
            return store_swap(pool, &in, &out, 1, &price, psa_join(next->liquidity[1], next->liquidity[0]),
                              next->tick, next->ticks_crossed, result);
        }
    }
    if (next || (pool->fee == PIPS && !psa_equal_192(&price, &limit))) {
        step_result step;
        psa_sub_256(&left, exact_in ? &in : &out);
        status = partial_step(pool, &price, liquidity, &left, zero_for_one, exact_in, &step);
        if (status != PSA_OK) return status;
        psa_u256 paid = psa_widen(&step.out);
        psa_add_256(&in, &step.in);
        psa_add_256(&out, &paid);
        complete = 1;
        int onto_next = 0;
        if (next) {
            psa_u192 end;
            memcpy(end.w, next->sqrt_price_x96, sizeof end.w);
            onto_next = psa_equal_192(&end, &step.price); /* F3 */
        }
        if (onto_next) {
            liquidity = psa_join(next->liquidity[1], next->liquidity[0]);
            tick = next->tick;
            crossed = next->ticks_crossed;
        } else if (!psa_equal_192(&price, &step.price)) {
            if (!price_in_range(&step.price)) return PSA_TICK_DATA;
            tick = tick_at(&step.price);
        }
        price = step.price;
    }
    return store_swap(pool, &in, &out, complete, &price, liquidity, tick, crossed, result);
}

int psa_ladder_quote(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee,
                     const psa_rung *rungs, uint32_t rung_count, const uint64_t *amounts,
                     uint32_t count, psa_quote_result *results) {
    if (!pool || !pool->row || !rungs || rung_count == 0 || !amounts || !results ||
        flags & ~(uint32_t)CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    pool_state state;
    int loaded = load_copy(pool, flags, lp_fee, &state);
    int zero_for_one = (flags & PSA_ZERO_FOR_ONE) != 0, exact_in = !(flags & PSA_EXACT_OUT);
    for (uint32_t i = 0; i < count; i++) {
        psa_u256 amount;
        int status = loaded;
        memcpy(amount.w, &amounts[4 * (size_t)i], sizeof amount.w);
        if (status == PSA_OK)
            status = state.protocol == PSA_UNISWAP_V2
                         ? v2_quote(&state, &amount, zero_for_one, exact_in, &results[i])
                         : ladder_answer(&state, rungs, rung_count, &amount, zero_for_one, exact_in,
                                         &results[i]);
        finish_result(&pool->line, status, &results[i]);
    }
    return PSA_OK;
}
