/* exex_bodies.c: updates of family C that are read strictly and not kept, and Slot0Override. */
#include "message.h"

/* Bodies of fixed length that are not kept: where their U256 and address prefixes stand. */
#define NO_PREFIX 255u
typedef struct {
    uint8_t variant;
    uint8_t protocol; /* as on the wire */
    uint8_t nbytes;
    uint8_t words[2];
    uint8_t addresses[2];
    uint8_t meaning; /* protocol in the record */
} fixed_body;

static const fixed_body fixed_bodies[] = {
#define ROW(variant, protocol, nbytes, word0, word1) \
    {variant, protocol, nbytes, {word0, word1}, {NO_PREFIX, NO_PREFIX}, protocol}
#define PLAIN(variant, protocol, nbytes) ROW(variant, protocol, nbytes, NO_PREFIX, NO_PREFIX)
    ROW(6, PSA_EKUBO, 60, 0, NO_PREFIX),
    ROW(7, PSA_EKUBO, 84, 24, NO_PREFIX),
    PLAIN(8, PSA_CURVE_STABLE, 34),                /* CurveSwap */
    PLAIN(10, PSA_CURVE_STABLE, 32),               /* CurveRampA */
    PLAIN(11, PSA_CURVE_STABLE, 16),               /* CurveFeeUpdate */
    ROW(12, PSA_CURVE_TWOCRYPTO, 114, 34, 74),     /* TwoCryptoSwap */
    ROW(12, PSA_CURVE_TWOCRYPTO, 112, 32, 72),     /* TwoCryptoState */
    PLAIN(13, PSA_CURVE_TWOCRYPTO, 32),            /* TwoCryptoLiquidity, short */
    ROW(13, PSA_CURVE_TWOCRYPTO, 112, 32, 72),     /* TwoCryptoLiquidity, full */
    PLAIN(13, PSA_CURVE_TWOCRYPTO, 64),            /* TwoCryptoRampAgamma, g13+ */
    PLAIN(14, PSA_CURVE_TWOCRYPTO, 64),            /* the same, g08..g12 */
    PLAIN(14, PSA_CURVE_TWOCRYPTO, 32),            /* TwoCryptoNewParameters, g13+ */
    PLAIN(15, PSA_CURVE_TWOCRYPTO, 32),            /* the same, g08..g12 */
    ROW(15, PSA_CURVE_TRICRYPTO, 128, 48, 88),     /* TricryptoState */
    ROW(16, PSA_CURVE_TRICRYPTO, 114, 34, 74),     /* TricryptoSwap */
    PLAIN(16, PSA_CURVE_TRICRYPTO, 64),            /* TricryptoRampAgamma, g13+ */
    PLAIN(17, PSA_CURVE_TRICRYPTO, 48),            /* TricryptoLiquidity, short */
    ROW(17, PSA_CURVE_TRICRYPTO, 128, 48, 88),     /* TricryptoLiquidity, full */
    PLAIN(17, PSA_CURVE_TRICRYPTO, 32),            /* TricryptoNewParameters, g13+ */
    {17, 6, 160, {NO_PREFIX, NO_PREFIX}, {NO_PREFIX, NO_PREFIX}, PSA_FLUID}, /* FluidSwap, g09 */
    PLAIN(18, PSA_CURVE_TRICRYPTO, 64),            /* TricryptoRampAgamma, g10..g12 */
    {18, 7, 136, {56, 96}, {0, 28}, PSA_BALANCER_V2_WEIGHTED}, /* BalancerSwap, g13+ */
    PLAIN(19, PSA_CURVE_TRICRYPTO, 32),            /* TricryptoNewParameters, g10..g12 */
    {20, 7, 136, {56, 96}, {0, 28}, PSA_BALANCER_V2_WEIGHTED}, /* BalancerSwap, g10..g12 */
    PLAIN(20, PSA_BALANCER_V2_WEIGHTED, 8),        /* BalancerFeeUpdate, g13+ */
    PLAIN(21, PSA_FLUID, 160),                     /* FluidState, g13+ */
    PLAIN(22, PSA_BALANCER_V2_WEIGHTED, 8),        /* BalancerFeeUpdate, g10..g12 */
    PLAIN(23, PSA_FLUID, 160),                     /* FluidState, g12 */
    PLAIN(24, PSA_FLUID, 160),                     /* FluidSwap, g10..g11 */
#undef PLAIN
#undef ROW
};

/* A vector of `item` bytes each and `fixed` bytes behind it must fill `nbytes` exactly. */
static int vector_fills(const uint8_t *body, uint64_t nbytes, uint64_t item, uint64_t fixed) {
    if (nbytes < 8 + fixed) return 0;
    uint64_t room = nbytes - 8 - fixed;
    return room % item == 0 && wire_u64(body) == room / item;
}

/* BalancerLiquidity of g14+: a vector of addresses, then a vector of i128. */
static int token_vectors_fill(const uint8_t *body, uint64_t nbytes) {
    if (nbytes < 16) return 0;
    uint64_t tokens = wire_u64(body);
    if (tokens > (nbytes - 16) / 28) return 0;
    for (uint64_t i = 0; i < tokens; i++)
        if (wire_u64(body + 8 + 28 * i) != WIRE_ADDRESS_NBYTES) return 0;
    return vector_fills(body + 8 + 28 * tokens, nbytes - 8 - 28 * tokens, 16, 0);
}

int psa_read_other_body(psa_event *event, message *out, const uint8_t *body, uint64_t nbytes,
                        uint32_t variant, uint32_t protocol, defect *bad) {
    if (variant > 24) return refuse(bad, "PoolUpdate: unknown update variant", variant, 24);
    if ((variant == 8 || variant == 16 || variant == 23) && nbytes == WIRE_BODY_SWAP &&
        protocol >= PSA_UNISWAP_V3 && protocol <= PSA_EKUBO) {
        if (!read_slot0(event, body))
            return refuse(bad, "Slot0Override: price length", wire_u64(body), 32);
        event->kind = protocol == PSA_EKUBO ? PSA_EVENT_UNSUPPORTED : PSA_EVENT_SLOT0_FINAL;
        out->is_late_update = 1;
        return PSA_OK;
    }
    event->kind = PSA_EVENT_UNSUPPORTED;
    for (size_t i = 0; i < sizeof fixed_bodies / sizeof *fixed_bodies; i++) {
        const fixed_body *row = &fixed_bodies[i];
        if (row->variant != variant || row->protocol != protocol || row->nbytes != nbytes) continue;
        for (int k = 0; k < 2; k++) {
            if (row->words[k] != NO_PREFIX && wire_u64(body + row->words[k]) != WIRE_WORD_NBYTES)
                return refuse(bad, "PoolUpdate: integer length", wire_u64(body + row->words[k]), 32);
            if (row->addresses[k] != NO_PREFIX &&
                wire_u64(body + row->addresses[k]) != WIRE_ADDRESS_NBYTES)
                return refuse(bad, "PoolUpdate: address length", wire_u64(body + row->addresses[k]), 20);
        }
        event->protocol = row->meaning;
        out->is_late_update = (variant == 17 && protocol == 6 && nbytes == WIRE_BODY_FLUID) ||
                              variant == 24;
        return PSA_OK;
    }
    if (variant == 9 && protocol == PSA_CURVE_STABLE &&
        (vector_fills(body, nbytes, 16, 0) || vector_fills(body, nbytes, 16, 48)))
        return PSA_OK;
    if ((variant == 19 || variant == 21) && protocol == PSA_BALANCER_V2_WEIGHTED &&
        vector_fills(body, nbytes, 16, 0))
        return PSA_OK;
    if (variant == 19 && protocol == PSA_BALANCER_V2_WEIGHTED && token_vectors_fill(body, nbytes))
        return PSA_OK;
    return refuse(bad, "PoolUpdate: no body of this variant, length and protocol", nbytes, variant);
}
