/* Unsigned integers of up to 512 bits as little-endian arrays of 64-bit limbs.
 *
 * Every operation is total: a divisor of zero gives a quotient of zero, so torn operands cannot trap.
 * Division is schoolbook division by a normalised divisor with precomputed reciprocals of its top limbs
 * (Moeller and Granlund, "Improved division by invariant integers", 2011, algorithms 4 to 6).
 */
#ifndef PSA_U256_H
#define PSA_U256_H

#include <stdint.h>

typedef unsigned __int128 psa_u128;

#define PSA_INLINE static inline __attribute__((always_inline))

typedef struct {
    uint64_t w[3];
} psa_u192;

typedef struct {
    uint64_t w[4];
} psa_u256;

PSA_INLINE uint64_t psa_low(psa_u128 x) { return (uint64_t)x; }
PSA_INLINE uint64_t psa_high(psa_u128 x) { return (uint64_t)(x >> 64); }
PSA_INLINE psa_u128 psa_join(uint64_t high, uint64_t low) { return (psa_u128)high << 64 | low; }

/* ---- comparison, addition, subtraction ------------------------------------------------------- */

PSA_INLINE int psa_is_zero_256(const psa_u256 *a) { return (a->w[0] | a->w[1] | a->w[2] | a->w[3]) == 0; }

PSA_INLINE int psa_less_256(const psa_u256 *a, const psa_u256 *b) {
    psa_u128 ah = psa_join(a->w[3], a->w[2]), bh = psa_join(b->w[3], b->w[2]);
    if (ah != bh) return ah < bh;
    return psa_join(a->w[1], a->w[0]) < psa_join(b->w[1], b->w[0]);
}

PSA_INLINE int psa_less_192(const psa_u192 *a, const psa_u192 *b) {
    if (a->w[2] != b->w[2]) return a->w[2] < b->w[2];
    return psa_join(a->w[1], a->w[0]) < psa_join(b->w[1], b->w[0]);
}

PSA_INLINE int psa_equal_192(const psa_u192 *a, const psa_u192 *b) {
    return ((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2])) == 0;
}

/* a += b; returns the carry. */
PSA_INLINE int psa_add_256(psa_u256 *a, const psa_u256 *b) {
    psa_u128 x = psa_join(a->w[1], a->w[0]), y = psa_join(b->w[1], b->w[0]);
    psa_u128 low = x + y;
    psa_u128 carry = low < x;
    x = psa_join(a->w[3], a->w[2]);
    y = psa_join(b->w[3], b->w[2]);
    psa_u128 high = x + y;
    int out = high < x;
    high += carry;
    out |= high < carry;
    a->w[0] = psa_low(low);
    a->w[1] = psa_high(low);
    a->w[2] = psa_low(high);
    a->w[3] = psa_high(high);
    return out;
}

/* a -= b; the caller knows b <= a. */
PSA_INLINE void psa_sub_256(psa_u256 *a, const psa_u256 *b) {
    psa_u128 x = psa_join(a->w[1], a->w[0]), y = psa_join(b->w[1], b->w[0]);
    psa_u128 borrow = x < y;
    x -= y;
    psa_u128 high = psa_join(a->w[3], a->w[2]) - psa_join(b->w[3], b->w[2]) - borrow;
    a->w[0] = psa_low(x);
    a->w[1] = psa_high(x);
    a->w[2] = psa_low(high);
    a->w[3] = psa_high(high);
}

/* a - b modulo 2^192. */
PSA_INLINE psa_u192 psa_sub_192(const psa_u192 *a, const psa_u192 *b) {
    psa_u128 x = psa_join(a->w[1], a->w[0]), y = psa_join(b->w[1], b->w[0]);
    psa_u128 low = x - y;
    psa_u192 out = {{psa_low(low), psa_high(low), a->w[2] - b->w[2] - (x < y)}};
    return out;
}

/* a + b modulo 2^192; `carry` is set when it wrapped. */
PSA_INLINE psa_u192 psa_sum_192(const psa_u192 *a, const psa_u192 *b, int *carry) {
    psa_u128 x = psa_join(a->w[1], a->w[0]);
    psa_u128 low = x + psa_join(b->w[1], b->w[0]);
    psa_u128 high = (psa_u128)a->w[2] + b->w[2] + (low < x);
    psa_u192 out = {{psa_low(low), psa_high(low), psa_low(high)}};
    *carry = psa_high(high) != 0;
    return out;
}

/* w += 1; returns the carry. */
PSA_INLINE int psa_increment(uint64_t *w, unsigned count) {
    for (unsigned i = 0; i < count; i++)
        if (++w[i] != 0) return 0;
    return 1;
}

PSA_INLINE psa_u256 psa_widen(const psa_u192 *a) {
    psa_u256 out = {{a->w[0], a->w[1], a->w[2], 0}};
    return out;
}

/* ---- multiplication ----------------------------------------------------------------------------- */

/* out (a_count + b_count limbs) = a * b. The counts are constants wherever speed matters. */
PSA_INLINE void psa_multiply(uint64_t *out, const uint64_t *a, unsigned a_count, const uint64_t *b,
                             unsigned b_count) {
    uint64_t carry = 0;
    for (unsigned j = 0; j < b_count; j++) {
        psa_u128 t = (psa_u128)a[0] * b[j] + carry;
        out[j] = psa_low(t);
        carry = psa_high(t);
    }
    out[b_count] = carry;
    for (unsigned i = 1; i < a_count; i++) {
        carry = 0;
        for (unsigned j = 0; j < b_count; j++) {
            psa_u128 t = (psa_u128)a[i] * b[j] + out[i + j] + carry;
            out[i + j] = psa_low(t);
            carry = psa_high(t);
        }
        out[i + b_count] = carry;
    }
}

/* floor(a * b / 2^128) */
PSA_INLINE psa_u128 psa_multiply_high(psa_u128 a, psa_u128 b) {
    uint64_t a0 = psa_low(a), a1 = psa_high(a), b0 = psa_low(b), b1 = psa_high(b);
    psa_u128 p00 = (psa_u128)a0 * b0, p01 = (psa_u128)a0 * b1;
    psa_u128 p10 = (psa_u128)a1 * b0, p11 = (psa_u128)a1 * b1;
    psa_u128 middle = p01 + psa_high(p00); /* cannot overflow: p01 <= (2^64-1)^2 */
    psa_u128 middle2 = p10 + psa_low(middle);
    return p11 + psa_high(middle) + psa_high(middle2);
}

/* All ones when it holds: corrections are made as often as not, and a branch would be guessed wrong. */
PSA_INLINE uint64_t psa_mask(int holds) { return -(uint64_t)holds; }

/* The high limb of (high, low) * 2^bits, bits < 64: as a shift of 128 bits it is a branch. */
PSA_INLINE uint64_t psa_shifted(uint64_t high, uint64_t low, unsigned bits) {
    return high << bits | low >> 1 >> (63 - bits);
}

/* ---- division --------------------------------------------------------------------------------------- */

/* floor((2^128 - 1) / d) - 2^64 for d >= 2^63. */
PSA_INLINE uint64_t psa_reciprocal(uint64_t d) {
#if defined(__x86_64__)
    /* ~d < d because the top bit of d is set: the quotient fits and divq cannot trap. */
    uint64_t quotient, remainder;
    __asm__("divq %4" : "=a"(quotient), "=d"(remainder) : "0"(UINT64_MAX), "1"(~d), "r"(d) : "cc");
    return quotient;
#else
    return psa_low(psa_join(~d, UINT64_MAX) / d);
#endif
}

/* floor((2^192 - 1) / (d1 * 2^64 + d0)) - 2^64 for d1 >= 2^63. */
PSA_INLINE uint64_t psa_reciprocal_2(uint64_t d1, uint64_t d0) {
    uint64_t v = psa_reciprocal(d1);
    uint64_t p = d1 * v + d0;
    uint64_t wrapped = psa_mask(p < d0), twice = wrapped & psa_mask(p >= d1);
    v += wrapped + twice; /* one less for each */
    p -= (d1 & wrapped) + (d1 & twice);
    psa_u128 t = (psa_u128)v * d0;
    p += psa_high(t);
    wrapped = psa_mask(p < psa_high(t));
    v += wrapped + (wrapped & psa_mask(psa_join(p, psa_low(t)) >= psa_join(d1, d0)));
    return v;
}

/* Quotient of (u1, u0) by the normalised d with u1 < d; v = psa_reciprocal(d). */
PSA_INLINE uint64_t psa_digit_1(uint64_t u1, uint64_t u0, uint64_t d, uint64_t v, uint64_t *remainder) {
    psa_u128 q = (psa_u128)v * u1 + psa_join(u1, u0);
    uint64_t q1 = psa_high(q) + 1;
    uint64_t r = u0 - q1 * d;
    uint64_t over = psa_mask(r > psa_low(q));
    q1 += over;
    r += d & over;
    if (__builtin_expect(r >= d, 0)) {
        q1++;
        r -= d;
    }
    *remainder = r;
    return q1;
}

/* Quotient of (u, u0) by the normalised d with u < d; v = psa_reciprocal_2 of d. */
PSA_INLINE uint64_t psa_digit_2(psa_u128 u, uint64_t u0, psa_u128 d, uint64_t v, psa_u128 *remainder) {
    psa_u128 q = (psa_u128)v * psa_high(u) + u;
    uint64_t q1 = psa_high(q);
    uint64_t r1 = psa_low(u) - q1 * psa_high(d);
    psa_u128 r = psa_join(r1, u0) - (psa_u128)psa_low(d) * q1 - d;
    q1++;
    uint64_t over = psa_mask(psa_high(r) >= psa_low(q));
    q1 += over;
    r += psa_join(psa_high(d) & over, psa_low(d) & over);
    if (__builtin_expect(r >= d, 0)) {
        q1++;
        r -= d;
    }
    *remainder = r;
    return q1;
}

#define PSA_DIVIDE_LIMBS 8

/* to = from * 2^bits, bits < 64; returns the limb that is shifted out. */
PSA_INLINE uint64_t psa_shift_left(uint64_t *to, const uint64_t *from, unsigned count, unsigned bits) {
    uint64_t below = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t here = from[i];
        to[i] = psa_shifted(here, below, bits);
        below = here;
    }
    return psa_shifted(0, below, bits);
}

/* Whether a limb is not 0. */
PSA_INLINE int psa_any(const uint64_t *limbs, unsigned count) {
    uint64_t any = 0;
    for (unsigned i = 0; i < count; i++) any |= limbs[i];
    return any != 0;
}

/* quotient (q_count limbs, higher ones are dropped) = floor(n * 2^shift / d). Returns whether a
 * remainder is left. n_count limbs plus shift fit PSA_DIVIDE_LIMBS - 1 limbs, d_count <= 6. */
PSA_INLINE int psa_divide(uint64_t *quotient, unsigned q_count, const uint64_t *n, unsigned n_count,
                          unsigned shift, const uint64_t *d, unsigned d_count) {
    for (unsigned i = 0; i < q_count; i++) quotient[i] = 0;
    while (d_count > 0 && d[d_count - 1] == 0) d_count--;
    while (n_count > 0 && n[n_count - 1] == 0) n_count--;
    if (d_count == 0 || n_count == 0) return d_count == 0;
    unsigned normal = (unsigned)__builtin_clzll(d[d_count - 1]);
    uint64_t e[6];
    uint64_t u[PSA_DIVIDE_LIMBS + 1];
    unsigned total = shift + normal, skip = total / 64, bits = total % 64;
    for (unsigned i = 0; i < skip; i++) u[i] = 0;
    u[skip + n_count] = psa_shift_left(u + skip, n, n_count, bits);
    unsigned top = skip + n_count; /* u has top + 1 limbs */
    psa_shift_left(e, d, d_count, normal);
    if (u[top] == 0 && u[top - 1] < e[d_count - 1]) top--;
    if (top < d_count) return psa_any(u, top + 1);
    unsigned j = top - d_count;
    if (d_count == 1) {
        uint64_t v = psa_reciprocal(e[0]);
        uint64_t r = u[top];
        for (;; j--) {
            uint64_t q = psa_digit_1(r, u[j], e[0], v, &r);
            if (j < q_count) quotient[j] = q;
            if (j == 0) break;
        }
        return r != 0;
    }
    psa_u128 d2 = psa_join(e[d_count - 1], e[d_count - 2]);
    uint64_t v = psa_reciprocal_2(e[d_count - 1], e[d_count - 2]);
    if (d_count == 2) {
        psa_u128 r = psa_join(u[top], u[top - 1]);
        for (;; j--) {
            uint64_t q = psa_digit_2(r, u[j], d2, v, &r);
            if (j < q_count) quotient[j] = q;
            if (j == 0) break;
        }
        return r != 0;
    }
    unsigned lower = d_count - 2;
    for (;; j--) {
        psa_u128 r, head = psa_join(u[j + d_count], u[j + d_count - 1]);
        uint64_t q;
        int wide = 0; /* r has a bit 128 */
        if (__builtin_expect(head >= d2, 0)) {
            q = UINT64_MAX; /* head equals d2, so head * 2^64 + u - q * d2 = d2 + u */
            r = d2 + u[j + lower];
            wide = r < d2;
        } else {
            q = psa_digit_2(head, u[j + lower], d2, v, &r);
        }
        uint64_t borrow = 0;
        for (unsigned i = 0; i < lower; i++) {
            psa_u128 t = (psa_u128)q * e[i] + borrow;
            borrow = psa_high(t) + (u[j + i] < psa_low(t));
            u[j + i] -= psa_low(t);
        }
        int under = !wide && r < borrow;
        r -= borrow;
        if (__builtin_expect(under, 0)) { /* q was one too large, never more */
            q--;
            uint64_t carry = 0;
            for (unsigned i = 0; i < lower; i++) {
                psa_u128 t = (psa_u128)u[j + i] + e[i] + carry;
                u[j + i] = psa_low(t);
                carry = psa_high(t);
            }
            r += d2 + carry;
        }
        u[j + lower + 1] = psa_high(r);
        u[j + lower] = psa_low(r);
        if (j < q_count) quotient[j] = q;
        if (j == 0) break;
    }
    return psa_any(u, d_count);
}

/* A divisor of one limb, prepared for many divisions. */
typedef struct {
    uint64_t normal; /* d << shift */
    uint64_t reciprocal;
    unsigned shift;
} psa_divisor;

PSA_INLINE psa_divisor psa_prepare(uint64_t d) {
    psa_divisor out = {0, 0, 0};
    if (d == 0) return out;
    out.shift = (unsigned)__builtin_clzll(d);
    out.normal = d << out.shift;
    out.reciprocal = psa_reciprocal(out.normal);
    return out;
}

/* In place n (count limbs) = floor(n / d); returns whether a remainder is left. */
PSA_INLINE int psa_divide_small(uint64_t *n, unsigned count, const psa_divisor *d) {
    while (count > 0 && n[count - 1] == 0) count--;
    if (count == 0 || d->normal == 0) return 0;
    unsigned shift = d->shift;
    uint64_t r = psa_shifted(0, n[count - 1], shift);
    for (unsigned i = count; i-- > 0;) {
        uint64_t next = psa_shifted(n[i], i > 0 ? n[i - 1] : 0, shift);
        n[i] = psa_digit_1(r, next, d->normal, d->reciprocal, &r);
    }
    return r != 0;
}

#endif
