/* decode.c: frames to event records, and the block state machine of one connection.
 *
 * Each frame is first read strictly, without touching the connection's state: every length is compared
 * with the bytes that are there before it is used, and nothing may be left over. Only then the state
 * machine moves. So a frame that finds the event array full can be read again later.
 *
 * Family C (exex g05..g15) is one reader: the pair (update variant, body length) with the protocol
 * names one meaning in all of these generations. The bridge's dialect is the same reader with its
 * message indices moved and two updates more.
 */
#include <stdio.h>

#include "wire.h"

#define NO_BLOCK UINT64_MAX

enum message_class {
    MESSAGE_IGNORED,
    MESSAGE_BEGIN,
    MESSAGE_UPDATE,
    MESSAGE_END,
    MESSAGE_REORG_START,
    MESSAGE_EPILOGUE,
    MESSAGE_REORG_COMPLETE
};

typedef struct {
    uint32_t class;
    uint32_t has_seq;
    uint32_t is_late_update; /* Slot0Override, FluidSwap: may stand outside blocks while a reorg is open */
    const uint8_t *list;     /* ReorgComplete: pool identifiers, already checked */
    uint64_t list_count;
} message;

/* why a payload is refused */
typedef struct {
    const char *text;
    uint64_t found;
    uint64_t expected;
} defect;

static int refuse(defect *bad, const char *text, uint64_t found, uint64_t expected) {
    bad->text = text;
    bad->found = found;
    bad->expected = expected;
    return PSA_DESERIALIZATION;
}

/* Keep the header fields of a record only, and where its payload is. */
static void mark_opaque(psa_event *event, uint64_t offset, uint64_t nbytes) {
    event->flags |= PSA_EVENT_OPAQUE;
    event->tick = 0;
    memset(event->words, 0, sizeof event->words);
    memset(event->amount, 0, sizeof event->amount);
    event->words[0] = offset;
    event->words[1] = nbytes;
}

/* ---- exex ------------------------------------------------------------------------------------------------ */

/* Read a pool identifier that starts at `from` with `left` bytes behind it. Returns its length on the
 * wire, 0 when it is not one. */
static inline uint32_t read_pool_id(psa_event *event, const uint8_t *from, uint64_t left) {
    if (left < 4 + 8 + WIRE_ADDRESS_NBYTES) return 0;
    uint32_t variant = wire_u32(from);
    if (variant == 0) {
        if (wire_u64(from + 4) != WIRE_ADDRESS_NBYTES) return 0;
        memcpy(event->key, from + 12, WIRE_ADDRESS_NBYTES);
        event->key_nbytes = WIRE_ADDRESS_NBYTES;
        return 4 + 8 + WIRE_ADDRESS_NBYTES;
    }
    if (variant != 1 || left < 4 + WIRE_WORD_NBYTES) return 0;
    memcpy(event->key, from + 4, WIRE_WORD_NBYTES);
    event->key_nbytes = WIRE_WORD_NBYTES;
    return 4 + WIRE_WORD_NBYTES;
}

static int refuse_pool_id(defect *bad, const uint8_t *from, uint64_t left) {
    if (left < 4 + 8 + WIRE_ADDRESS_NBYTES) return refuse(bad, "pool id: payload too short", left, 32);
    uint32_t variant = wire_u32(from);
    if (variant > 1) return refuse(bad, "pool id: unknown variant", variant, 1);
    if (variant == 0) return refuse(bad, "pool id: address length", wire_u64(from + 4), 20);
    return refuse(bad, "pool id: payload too short", left, 36);
}

/* sqrt price, liquidity, tick: 60 bytes whose price has its length prefix checked here. */
static inline int read_slot0(psa_event *event, const uint8_t *body) {
    if (wire_u64(body) != WIRE_WORD_NBYTES) return 0;
    wire_u256(event->words, body + 8);
    event->amount[0] = wire_u64(body + 40);
    event->amount[1] = wire_u64(body + 48);
    event->tick = wire_i32(body + 56);
    return 1;
}

static inline void read_reserves(psa_event *event, const uint8_t *body) {
    event->words[0] = wire_u64(body);
    event->words[1] = wire_u64(body + 8);
    event->words[4] = wire_u64(body + 16);
    event->words[5] = wire_u64(body + 24);
}

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

/* Bodies of other protocols, and Slot0Override. */
static int read_other_body(psa_event *event, message *out, const uint8_t *body, uint64_t nbytes,
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

/* V4 updates that only the bridge sends: 1 when it was one. */
static int read_bridge_body(psa_event *event, const uint8_t *body, uint64_t nbytes, uint32_t variant) {
    if (variant == WIRE_V4_PROTOCOL_FEE && nbytes == WIRE_BODY_PROTOCOL_FEE) {
        event->kind = PSA_EVENT_PROTOCOL_FEE;
        event->words[0] = wire_u32(body);
        return 1;
    }
    if (variant != WIRE_V4_SWAP_FEE || nbytes != WIRE_BODY_SWAP_FEE || body[64] > 1 ||
        !read_slot0(event, body))
        return 0;
    event->kind = PSA_EVENT_CL_SWAP;
    event->present = PSA_HAS_SWAP_FEE;
    event->words[4] = wire_u32(body + WIRE_BODY_SWAP);
    event->words[5] = body[64];
    return 1;
}

/* The whole PoolUpdate. `event` is zeroed here; on refusal its content means nothing. */
static inline int read_update(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                              uint64_t offset, int is_bridge, defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes < 12) return refuse(bad, "PoolUpdate: payload too short", nbytes, 89);
    uint32_t id_nbytes = read_pool_id(event, payload + 12, nbytes - 12);
    if (id_nbytes == 0) return refuse_pool_id(bad, payload + 12, nbytes - 12);
    if (nbytes < 57 + id_nbytes)
        return refuse(bad, "PoolUpdate: payload too short", nbytes, 57 + id_nbytes);
    const uint8_t *head = payload + 12 + id_nbytes;
    const uint8_t *body = head + 45;
    uint64_t body_nbytes = nbytes - 57 - id_nbytes;
    uint32_t protocol = wire_u32(head);
    uint32_t update_type = wire_u32(head + 4);
    uint32_t is_revert = head[40];
    uint32_t variant = wire_u32(head + 41);
    if (protocol > PSA_FLUID) return refuse(bad, "PoolUpdate: unknown protocol", protocol, PSA_FLUID);
    if (update_type > PSA_UPDATE_BURN)
        return refuse(bad, "PoolUpdate: unknown update type", update_type, PSA_UPDATE_BURN);
    if (is_revert > 1) return refuse(bad, "PoolUpdate: is_revert is no bool", is_revert, 1);
    event->stream_seq = wire_u64(payload + 4);
    event->block_number = wire_u64(head + 8);
    event->timestamp = wire_u64(head + 16);
    event->tx_index = wire_u64(head + 24);
    event->log_index = wire_u64(head + 32);
    event->protocol = (uint8_t)protocol;
    event->update_type = (uint8_t)update_type;
    event->flags = (uint8_t)is_revert;
    event->variant = (uint8_t)variant;
    out->class = MESSAGE_UPDATE;
    out->has_seq = 1;
    out->is_late_update = 0;
    if (variant == WIRE_V3_SWAP + 2 * (protocol - PSA_UNISWAP_V3) && body_nbytes == WIRE_BODY_SWAP &&
        protocol - PSA_UNISWAP_V3 < 2) {
        event->kind = PSA_EVENT_CL_SWAP;
        if (!read_slot0(event, body))
            return refuse(bad, "PoolUpdate: price length", wire_u64(body), 32);
        return PSA_OK;
    }
    if (variant == WIRE_V2_SYNC && body_nbytes == WIRE_BODY_SYNC && protocol == PSA_UNISWAP_V2) {
        event->kind = PSA_EVENT_V2_SYNC;
        read_reserves(event, body);
        return PSA_OK;
    }
    if (variant == WIRE_V3_LIQUIDITY + 2 * (protocol - PSA_UNISWAP_V3) &&
        body_nbytes == WIRE_BODY_LIQUIDITY && protocol - PSA_UNISWAP_V3 < 2) {
        event->kind = PSA_EVENT_CL_LIQUIDITY;
        event->tick_lower = wire_i32(body);
        event->tick_upper = wire_i32(body + 4);
        event->amount[0] = wire_u64(body + 8);
        event->amount[1] = wire_u64(body + 16);
        return PSA_OK;
    }
    if (variant <= WIRE_V2_LIQUIDITY && body_nbytes == WIRE_BODY_V2_DELTA && protocol == PSA_UNISWAP_V2) {
        event->kind = PSA_EVENT_V2_DELTA;
        if (wire_u64(body) != WIRE_WORD_NBYTES || wire_u64(body + 40) != WIRE_WORD_NBYTES)
            return refuse(bad, "PoolUpdate: amount length", wire_u64(body), 32);
        wire_u256(event->words, body + 8);
        wire_u256(event->words + 4, body + 48);
        return PSA_OK;
    }
    if (is_bridge && protocol == PSA_UNISWAP_V4 &&
        read_bridge_body(event, body, body_nbytes, variant))
        return PSA_OK;
    int status = read_other_body(event, out, body, body_nbytes, variant, protocol, bad);
    if (event->kind == PSA_EVENT_UNSUPPORTED) mark_opaque(event, offset, nbytes);
    return status;
}

static int read_begin(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                      defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes != 29 && nbytes != 37)
        return refuse(bad, "BeginBlock: payload length", nbytes, 37);
    uint8_t is_revert = payload[nbytes - 1];
    if (is_revert > 1) return refuse(bad, "BeginBlock: is_revert is no bool", is_revert, 1);
    event->kind = PSA_EVENT_BEGIN_BLOCK;
    event->stream_seq = wire_u64(payload + 4);
    event->block_number = wire_u64(payload + 12);
    event->timestamp = wire_u64(payload + 20);
    event->flags = is_revert;
    if (nbytes == 37) {
        event->words[0] = wire_u64(payload + 28);
        event->flags |= PSA_EVENT_HAS_BASE_FEE;
    }
    out->class = MESSAGE_BEGIN;
    out->has_seq = 1;
    return PSA_OK;
}

static int read_end(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                    defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes != 28) return refuse(bad, "EndBlock: payload length", nbytes, 28);
    event->kind = PSA_EVENT_END_BLOCK;
    event->stream_seq = wire_u64(payload + 4);
    event->block_number = wire_u64(payload + 12);
    event->words[0] = wire_u64(payload + 20);
    out->class = MESSAGE_END;
    out->has_seq = 1;
    return PSA_OK;
}

static int read_reorg_start(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                            defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes < 12) return refuse(bad, "ReorgStart: payload too short", nbytes, 32);
    event->kind = PSA_EVENT_REORG_START;
    event->stream_seq = wire_u64(payload + 4);
    uint64_t at = 12;
    for (int range = 0; range < 2; range++) {
        for (int field = 0; field < 2; field++) {
            if (nbytes - at < 1) return refuse(bad, "ReorgStart: payload too short", nbytes, at + 1);
            uint8_t tag = payload[at++];
            if (tag > 1) return refuse(bad, "ReorgStart: option tag", tag, 1);
            if (tag == 0) continue;
            if (nbytes - at < 8) return refuse(bad, "ReorgStart: payload too short", nbytes, at + 8);
            event->words[3 * range + field] = wire_u64(payload + at);
            event->present |= (uint8_t)(1u << (2 * range + field));
            at += 8;
        }
        if (nbytes - at < 8) return refuse(bad, "ReorgStart: payload too short", nbytes, at + 8);
        event->words[3 * range + 2] = wire_u64(payload + at);
        at += 8;
    }
    if (at != nbytes) return refuse(bad, "ReorgStart: trailing bytes", nbytes, at);
    out->class = MESSAGE_REORG_START;
    out->has_seq = 1;
    return PSA_OK;
}

static int read_epilogue(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                         uint64_t offset, defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes < 32) return refuse(bad, "ReorgEpilogue: payload too short", nbytes, 96);
    uint32_t variant = wire_u32(payload + 28);
    uint32_t id_nbytes = read_pool_id(event, payload + 32, nbytes - 32);
    if (id_nbytes == 0) return refuse_pool_id(bad, payload + 32, nbytes - 32);
    const uint8_t *body = payload + 32 + id_nbytes;
    uint64_t body_nbytes = nbytes - 32 - id_nbytes;
    event->stream_seq = wire_u64(payload + 4);
    event->block_number = wire_u64(payload + 12);
    event->timestamp = wire_u64(payload + 20);
    event->variant = (uint8_t)variant;
    out->class = MESSAGE_EPILOGUE;
    out->has_seq = 1;
    if (variant == WIRE_SLOT0_FINAL) {
        if (body_nbytes != 4 + WIRE_BODY_SWAP)
            return refuse(bad, "Slot0Final: payload length", nbytes, 96 + id_nbytes);
        uint32_t protocol = wire_u32(body);
        if (protocol > PSA_FLUID) return refuse(bad, "Slot0Final: unknown protocol", protocol, PSA_FLUID);
        if (!read_slot0(event, body + 4))
            return refuse(bad, "Slot0Final: price length", wire_u64(body + 4), 32);
        event->protocol = (uint8_t)protocol;
        event->kind = PSA_EVENT_SLOT0_FINAL;
        if (protocol == PSA_UNISWAP_V3 || protocol == PSA_UNISWAP_V4) return PSA_OK;
    } else if (variant == WIRE_V2_FINAL) {
        if (body_nbytes != WIRE_BODY_SYNC)
            return refuse(bad, "V2ReservesFinal: payload length", nbytes, 64 + id_nbytes);
        event->protocol = PSA_UNISWAP_V2;
        event->kind = PSA_EVENT_V2_FINAL;
        read_reserves(event, body);
        return PSA_OK;
    } else if (variant == WIRE_FLUID_FINAL) {
        if (body_nbytes != WIRE_BODY_FLUID)
            return refuse(bad, "FluidStateFinal: payload length", nbytes, 192 + id_nbytes);
        event->protocol = PSA_FLUID;
    } else {
        return refuse(bad, "ReorgEpilogue: unknown variant", variant, WIRE_V2_FINAL);
    }
    event->kind = PSA_EVENT_UNSUPPORTED;
    event->flags |= PSA_EVENT_LATE_BODY;
    mark_opaque(event, offset, nbytes);
    return PSA_OK;
}

/* ReorgComplete of any generation: 20 bytes, or with the list of g04..g09. */
static int read_reorg_complete(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                               uint32_t may_have_list, defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes < 20) return refuse(bad, "ReorgComplete: payload too short", nbytes, 20);
    out->list = payload + 20;
    out->list_count = 0;
    if (nbytes != 20) {
        if (!may_have_list || nbytes < 28) return refuse(bad, "ReorgComplete: trailing bytes", nbytes, 20);
        uint64_t count = wire_u64(payload + 20);
        uint64_t at = 28;
        if (count > (nbytes - 28) / 32)
            return refuse(bad, "ReorgComplete: list longer than the payload", count, (nbytes - 28) / 32);
        for (uint64_t i = 0; i < count; i++) {
            uint32_t id_nbytes = read_pool_id(event, payload + at, nbytes - at);
            if (id_nbytes == 0) return refuse_pool_id(bad, payload + at, nbytes - at);
            at += id_nbytes;
        }
        if (at != nbytes) return refuse(bad, "ReorgComplete: trailing bytes", nbytes, at);
        memset(event, 0, sizeof *event);
        out->list = payload + 28;
        out->list_count = count;
    }
    event->kind = PSA_EVENT_REORG_COMPLETE;
    event->stream_seq = wire_u64(payload + 4);
    event->block_number = wire_u64(payload + 12);
    event->words[0] = out->list_count;
    out->class = MESSAGE_REORG_COMPLETE;
    out->has_seq = 1;
    return PSA_OK;
}

static int read_exex(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                     uint64_t offset, int is_bridge, defect *bad) {
    if (nbytes < 4) return refuse(bad, "payload too short", nbytes, 4);
    uint32_t control = wire_u32(payload) - (is_bridge ? WIRE_BRIDGE : 0);
    switch (control) {
    case WIRE_WHITELIST:
        if (nbytes < WIRE_WHITELIST_LEAST)
            return refuse(bad, "UpdateWhitelist: payload too short", nbytes, WIRE_WHITELIST_LEAST);
        break;
    case WIRE_BEGIN: {
        int status = read_begin(event, out, payload, nbytes, bad);
        if (is_bridge) event->flags |= PSA_EVENT_HAS_FEES;
        return status;
    }
    case WIRE_UPDATE: return read_update(event, out, payload, nbytes, offset, is_bridge, bad);
    case WIRE_END: return read_end(event, out, payload, nbytes, bad);
    case WIRE_PING:
    case WIRE_PONG:
        if (nbytes != 4) return refuse(bad, "Ping or Pong: trailing bytes", nbytes, 4);
        break;
    case WIRE_REORG_START: return read_reorg_start(event, out, payload, nbytes, bad);
    case WIRE_EPILOGUE: {
        /* No payload is both: where the epilogue has its timestamp the list has its count, and the
         * lengths that leaves do not meet. */
        if (nbytes == 20) return read_reorg_complete(event, out, payload, nbytes, 1, bad);
        defect list_bad;
        if (read_reorg_complete(event, out, payload, nbytes, 1, &list_bad) == PSA_OK) return PSA_OK;
        return read_epilogue(event, out, payload, nbytes, offset, bad);
    }
    case WIRE_REORG_COMPLETE: return read_reorg_complete(event, out, payload, nbytes, 0, bad);
    default: return refuse(bad, "unknown message index", wire_u32(payload), WIRE_REORG_COMPLETE);
    }
    out->class = MESSAGE_IGNORED;
    return PSA_OK;
}

/* ---- seed ------------------------------------------------------------------------------------------------- */

/* UTF-8 as Rust's String accepts it: no overlong forms, no surrogates, nothing above U+10FFFF. */
static int is_utf8(const uint8_t *text, uint64_t nbytes) {
    uint64_t at = 0;
    while (at < nbytes) {
        uint8_t lead = text[at++];
        if (lead < 0x80) continue;
        uint32_t more, low = 0x80, high = 0xbf;
        if (lead >= 0xc2 && lead <= 0xdf) more = 1;
        else if (lead >= 0xe0 && lead <= 0xef) {
            more = 2;
            if (lead == 0xe0) low = 0xa0;
            if (lead == 0xed) high = 0x9f;
        } else if (lead >= 0xf0 && lead <= 0xf4) {
            more = 3;
            if (lead == 0xf0) low = 0x90;
            if (lead == 0xf4) high = 0x8f;
        } else return 0;
        if (nbytes - at < more) return 0;
        for (; more; more--, at++) {
            if (text[at] < low || text[at] > high) return 0;
            low = 0x80;
            high = 0xbf;
        }
    }
    return 1;
}

static int is_text(const uint8_t *text, uint64_t nbytes, const char *name) {
    return nbytes == strlen(name) && memcmp(text, name, nbytes) == 0;
}

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} cursor;

static inline uint64_t bytes_left(const cursor *from) { return (uint64_t)(from->end - from->at); }

static inline int read_option(cursor *from, uint64_t nbytes, const uint8_t **value, defect *bad) {
    *value = 0;
    if (bytes_left(from) < 1) return refuse(bad, "PoolUpdate: payload too short", 0, 1);
    uint8_t tag = *from->at++;
    if (tag == 0) return PSA_OK;
    if (tag > 1) return refuse(bad, "PoolUpdate: option tag", tag, 1);
    if (bytes_left(from) < nbytes)
        return refuse(bad, "PoolUpdate: payload too short", bytes_left(from), nbytes);
    *value = from->at;
    from->at += nbytes;
    return PSA_OK;
}

static inline int read_string(cursor *from, const uint8_t **text, uint64_t *nbytes, defect *bad) {
    if (bytes_left(from) < 8)
        return refuse(bad, "PoolUpdate: payload too short", bytes_left(from), 8);
    *nbytes = wire_u64(from->at);
    from->at += 8;
    if (bytes_left(from) < *nbytes)
        return refuse(bad, "PoolUpdate: string longer than the payload", *nbytes, bytes_left(from));
    *text = from->at;
    from->at += *nbytes;
    return PSA_OK;
}

static uint32_t seed_protocol(const uint8_t *text, uint64_t nbytes) {
    if (nbytes == 10 && memcmp(text, "uniswap_v", 9) == 0 && text[9] >= '2' && text[9] <= '4')
        return text[9] - '2' + PSA_UNISWAP_V2;
    return PSA_PROTOCOL_UNKNOWN;
}

#define SEED_MODIFY 100u /* ModifyLiquidity, before its sign is known */

static uint32_t seed_update_type(const uint8_t *text, uint64_t nbytes) {
    if (is_text(text, nbytes, "Swap")) return PSA_UPDATE_SWAP;
    if (is_text(text, nbytes, "Mint")) return PSA_UPDATE_MINT;
    if (is_text(text, nbytes, "Burn")) return PSA_UPDATE_BURN;
    if (is_text(text, nbytes, "ModifyLiquidity")) return SEED_MODIFY;
    return PSA_UPDATE_OTHER;
}

/* options in the order of the wire, which is the order of the PSA_HAS_ bits */
enum { POOL_ID, SQRT_PRICE, TICK, LIQUIDITY, TICK_LOWER, TICK_UPPER, LIQUIDITY_DELTA, OPTION_COUNT };

static int read_seed_fields(psa_event *event, cursor *from, const uint8_t *options[OPTION_COUNT],
                            uint32_t *protocol, uint32_t *type, const uint8_t **amounts, defect *bad) {
    static const uint8_t nbytes[OPTION_COUNT] = {32, 40, 4, 16, 4, 4, 16};
    int status;
    if (bytes_left(from) < 36)
        return refuse(bad, "PoolUpdate: payload too short", bytes_left(from), 36);
    event->block_number = wire_u64(from->at);
    event->tx_index = wire_u32(from->at + 8);
    event->log_index = wire_u32(from->at + 12);
    memcpy(event->address, from->at + 16, WIRE_ADDRESS_NBYTES);
    from->at += 36;
    if ((status = read_option(from, nbytes[POOL_ID], &options[POOL_ID], bad))) return status;
    const uint8_t *text;
    uint64_t text_nbytes;
    if ((status = read_string(from, &text, &text_nbytes, bad))) return status;
    *protocol = seed_protocol(text, text_nbytes);
    if (*protocol == PSA_PROTOCOL_UNKNOWN && !is_utf8(text, text_nbytes))
        return refuse(bad, "PoolUpdate: protocol is not UTF-8", text_nbytes, 0);
    if ((status = read_string(from, &text, &text_nbytes, bad))) return status;
    *type = seed_update_type(text, text_nbytes);
    if (*type == PSA_UPDATE_OTHER && !is_utf8(text, text_nbytes))
        return refuse(bad, "PoolUpdate: event_type is not UTF-8", text_nbytes, 0);
    for (int i = SQRT_PRICE; i < OPTION_COUNT; i++)
        if ((status = read_option(from, nbytes[i], &options[i], bad))) return status;
    if (options[SQRT_PRICE] && wire_u64(options[SQRT_PRICE]) != WIRE_WORD_NBYTES)
        return refuse(bad, "PoolUpdate: price length", wire_u64(options[SQRT_PRICE]), 32);
    if (bytes_left(from) != 33)
        return refuse(bad, "PoolUpdate: bytes left for amounts and is_revert", bytes_left(from), 33);
    if (from->at[32] > 1) return refuse(bad, "PoolUpdate: is_revert is no bool", from->at[32], 1);
    event->flags = from->at[32];
    *amounts = from->at;
    return PSA_OK;
}

static inline void read_i128_as_i256(uint64_t words[4], const uint8_t *from) {
    words[0] = wire_u64(from);
    words[1] = wire_u64(from + 8);
    words[2] = words[3] = (uint64_t)((int64_t)words[1] >> 63);
}

/* Kind of a seed update, by protocol, event type and the options that are there. */
static uint8_t seed_kind(uint32_t protocol, uint32_t type, uint32_t present) {
    uint32_t needed;
    if (protocol == PSA_PROTOCOL_UNKNOWN || type == PSA_UPDATE_OTHER) return PSA_EVENT_UNSUPPORTED;
    if (protocol == PSA_UNISWAP_V2)
        return type == SEED_MODIFY ? PSA_EVENT_UNSUPPORTED : PSA_EVENT_V2_DELTA;
    if (type != PSA_UPDATE_SWAP && (type == SEED_MODIFY) != (protocol == PSA_UNISWAP_V4))
        return PSA_EVENT_UNSUPPORTED;
    if (type == PSA_UPDATE_SWAP)
        needed = PSA_HAS_SQRT_PRICE | PSA_HAS_TICK | PSA_HAS_LIQUIDITY;
    else
        needed = PSA_HAS_TICK_LOWER | PSA_HAS_TICK_UPPER | PSA_HAS_LIQUIDITY_DELTA;
    if (protocol == PSA_UNISWAP_V4) needed |= PSA_HAS_POOL_ID;
    if ((present & needed) != needed) return PSA_EVENT_INVALID;
    return type == PSA_UPDATE_SWAP ? PSA_EVENT_CL_SWAP : PSA_EVENT_CL_LIQUIDITY;
}

/* PoolEvent from `from` on; it ends with the payload. */
static int read_seed_update(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                            uint64_t skip, uint64_t offset, defect *bad) {
    memset(event, 0, sizeof *event);
    cursor from = {payload + skip, payload + nbytes};
    const uint8_t *options[OPTION_COUNT];
    const uint8_t *amounts;
    uint32_t protocol, type, present = 0;
    int status = read_seed_fields(event, &from, options, &protocol, &type, &amounts, bad);
    if (status) return status;
    for (int i = 0; i < OPTION_COUNT; i++) present |= (uint32_t)(options[i] != 0) << i;
    out->class = MESSAGE_UPDATE;
    event->present = (uint8_t)present;
    event->protocol = (uint8_t)protocol;
    event->kind = seed_kind(protocol, type, present);
    if (options[POOL_ID] && protocol != PSA_UNISWAP_V2 && protocol != PSA_UNISWAP_V3) {
        memcpy(event->key, options[POOL_ID], WIRE_WORD_NBYTES);
        event->key_nbytes = WIRE_WORD_NBYTES;
    } else {
        memcpy(event->key, event->address, WIRE_ADDRESS_NBYTES);
        event->key_nbytes = WIRE_ADDRESS_NBYTES;
    }
    if (type == SEED_MODIFY) {
        event->flags |= PSA_EVENT_V4_MODIFY;
        const uint8_t *delta = options[LIQUIDITY_DELTA];
        int is_mint = delta && (int64_t)wire_u64(delta + 8) >= 0 &&
                      (wire_u64(delta) | wire_u64(delta + 8)) != 0;
        type = is_mint ? PSA_UPDATE_MINT : PSA_UPDATE_BURN;
    }
    event->update_type = (uint8_t)type;
    if (event->kind == PSA_EVENT_UNSUPPORTED || event->kind == PSA_EVENT_INVALID) {
        if (event->kind == PSA_EVENT_UNSUPPORTED && protocol != PSA_PROTOCOL_UNKNOWN)
            event->update_type = PSA_UPDATE_OTHER;
        mark_opaque(event, offset, nbytes);
        return PSA_OK;
    }
    if (options[TICK]) event->tick = wire_i32(options[TICK]);
    if (options[TICK_LOWER]) event->tick_lower = wire_i32(options[TICK_LOWER]);
    if (options[TICK_UPPER]) event->tick_upper = wire_i32(options[TICK_UPPER]);
    const uint8_t *amount = event->kind == PSA_EVENT_CL_LIQUIDITY || !options[LIQUIDITY]
                                ? options[LIQUIDITY_DELTA]
                                : options[LIQUIDITY];
    if (amount) {
        event->amount[0] = wire_u64(amount);
        event->amount[1] = wire_u64(amount + 8);
    }
    uint32_t unkept = 0; /* options the record has no room for */
    if (protocol == PSA_UNISWAP_V2) {
        read_i128_as_i256(event->words, amounts);
        read_i128_as_i256(event->words + 4, amounts + 16);
        unkept = present & (PSA_HAS_POOL_ID | PSA_HAS_SQRT_PRICE);
    } else {
        if (options[SQRT_PRICE]) wire_u256(event->words, options[SQRT_PRICE] + 8);
        memcpy(event->words + 4, amounts, 32);
        if (protocol == PSA_UNISWAP_V3) unkept = present & PSA_HAS_POOL_ID;
    }
    if (unkept || (options[LIQUIDITY] && options[LIQUIDITY_DELTA])) {
        event->flags |= PSA_EVENT_OPAQUE;
        event->stream_seq = offset;
        event->timestamp = nbytes;
    }
    return PSA_OK;
}

static int read_seed_begin(psa_event *event, message *out, const uint8_t *fields, uint64_t nbytes,
                           defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes != 9) return refuse(bad, "BeginBlock: bytes of fields", nbytes, 9);
    if (fields[8] > 1) return refuse(bad, "BeginBlock: is_revert is no bool", fields[8], 1);
    event->kind = PSA_EVENT_BEGIN_BLOCK;
    event->block_number = wire_u64(fields);
    event->flags = fields[8];
    out->class = MESSAGE_BEGIN;
    return PSA_OK;
}

static int read_seed_end(psa_event *event, message *out, const uint8_t *fields, uint64_t nbytes,
                         defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes != 16) return refuse(bad, "EndBlock: bytes of fields", nbytes, 16);
    event->kind = PSA_EVENT_END_BLOCK;
    event->block_number = wire_u64(fields);
    event->words[0] = wire_u64(fields + 8);
    out->class = MESSAGE_END;
    return PSA_OK;
}

static int read_seed_indexed(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                             uint64_t offset, defect *bad) {
    if (nbytes < 4) return refuse(bad, "payload too short", nbytes, 4);
    uint32_t index = wire_u32(payload);
    switch (index) {
    case WIRE_SEED_BEGIN: return read_seed_begin(event, out, payload + 4, nbytes - 4, bad);
    case WIRE_SEED_UPDATE: return read_seed_update(event, out, payload, nbytes, 4, offset, bad);
    case WIRE_SEED_END: return read_seed_end(event, out, payload + 4, nbytes - 4, bad);
    default: return refuse(bad, "unknown message index", index, WIRE_SEED_END);
    }
}

static int read_seed_tagged(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                            uint64_t offset, defect *bad) {
    if (nbytes < 8) return refuse(bad, "payload too short", nbytes, 8);
    uint64_t tag_nbytes = wire_u64(payload);
    if (tag_nbytes > nbytes - 8)
        return refuse(bad, "tag longer than the payload", tag_nbytes, nbytes - 8);
    const uint8_t *tag = payload + 8;
    const uint8_t *fields = tag + tag_nbytes;
    uint64_t fields_nbytes = nbytes - 8 - tag_nbytes;
    if (is_text(tag, tag_nbytes, "PoolUpdate"))
        return read_seed_update(event, out, payload, nbytes, 18, offset, bad);
    if (is_text(tag, tag_nbytes, "BeginBlock"))
        return read_seed_begin(event, out, fields, fields_nbytes, bad);
    if (is_text(tag, tag_nbytes, "EndBlock"))
        return read_seed_end(event, out, fields, fields_nbytes, bad);
    if (!is_utf8(tag, tag_nbytes)) return refuse(bad, "tag is not UTF-8", tag_nbytes, 0);
    return refuse(bad, "unknown message tag", tag_nbytes, 10);
}

/* ---- finding the family ----------------------------------------------------------------------------------- */

/* A whole g01 PoolUpdate: no stream_seq, no is_revert, and no BeginBlock to decide by. */
static int is_g01_update(const uint8_t *payload, uint64_t nbytes) {
    static const uint8_t body_nbytes[] = {80, 60, 24, 60, 24};
    psa_event scratch;
    if (nbytes < 4 || wire_u32(payload) != 1) return 0;
    uint32_t id_nbytes = read_pool_id(&scratch, payload + 4, nbytes - 4);
    if (id_nbytes == 0 || nbytes < 48 + id_nbytes) return 0;
    const uint8_t *head = payload + 4 + id_nbytes;
    uint32_t variant = wire_u32(head + 40);
    const uint8_t *body = head + 44;
    if (wire_u32(head) > PSA_UNISWAP_V4 || wire_u32(head + 4) > PSA_UPDATE_BURN || variant > 4 ||
        nbytes != 48 + id_nbytes + body_nbytes[variant])
        return 0;
    if (body_nbytes[variant] == 80 && wire_u64(body + 40) != WIRE_WORD_NBYTES) return 0;
    return body_nbytes[variant] == 24 || wire_u64(body) == WIRE_WORD_NBYTES;
}

/* PSA_OK with *dialect UNKNOWN: nothing said yet, drop the frame. Only a BeginBlock or a reorg message
 * moves a connection out of its start, so only these are asked for. */
static int find_dialect(const uint8_t *payload, uint64_t nbytes, uint32_t *dialect, message *out,
                        defect *bad) {
    *dialect = PSA_DIALECT_UNKNOWN;
    if (nbytes < 4) return refuse(bad, "payload too short for any message", nbytes, 4);
    uint32_t index = wire_u32(payload);
    if (nbytes == 27 && wire_u64(payload) == 10 && memcmp(payload + 8, "BeginBlock", 10) == 0) {
        *dialect = PSA_DIALECT_SEED_TAGGED;
    } else if (nbytes == 13 && index == WIRE_SEED_BEGIN) {
        *dialect = PSA_DIALECT_SEED_INDEXED;
    } else if ((nbytes == 29 || nbytes == 37) && index == WIRE_BEGIN) {
        *dialect = PSA_DIALECT_EXEX;
    } else if (nbytes == 21 && index == WIRE_BEGIN) {
        bad->text = "exex g02, g03 or g04 in its old form (no stream_seq): pin or run g05 or later";
        return PSA_UNSUPPORTED_GENERATION;
    } else if (nbytes == 29 && index == 6) {
        bad->text = "exex g04 (BeginBlockV2): run a producer of g05 or later";
        return PSA_UNSUPPORTED_GENERATION;
    } else if (is_g01_update(payload, nbytes)) {
        bad->text = "exex g01 (no blocks): run a producer of g05 or later";
        return PSA_UNSUPPORTED_GENERATION;
    } else if (index == WIRE_BRIDGE + WIRE_BEGIN || index == WIRE_BRIDGE + WIRE_REORG_START ||
               index == WIRE_BRIDGE + WIRE_REORG_COMPLETE) {
        *dialect = PSA_DIALECT_BRIDGE;
    } else if (index - WIRE_BRIDGE < WIRE_REORG_COMPLETE) {
        return PSA_OK;
    } else if (index > 10) {
        return refuse(bad, "message index of no known family", index, 10);
    } else if (index == WIRE_REORG_START || nbytes == 20 || index == WIRE_EPILOGUE) {
        psa_event scratch;
        defect unused;
        if (read_exex(&scratch, out, payload, nbytes, 0, 0, &unused) == PSA_OK &&
            (out->class == MESSAGE_REORG_START || out->class == MESSAGE_REORG_COMPLETE))
            *dialect = PSA_DIALECT_EXEX;
    }
    return PSA_OK;
}

/* ---- the state machine ---------------------------------------------------------------------------------- */

void psa_feed_open(psa_feed *feed, uint32_t dialect) {
    memset(feed, 0, sizeof *feed);
    feed->dialect = dialect;
    feed->pinned = dialect != PSA_DIALECT_UNKNOWN;
    feed->fault_block = NO_BLOCK;
}

/* Note the fault of the frame being handled; the block that is open is the one lost. */
static int fault(psa_feed *feed, uint32_t code, const char *text, uint64_t found, uint64_t expected) {
    feed->fault_code = code;
    feed->resync = code != PSA_FAULT_OUTSIDE_REORG;
    feed->fault_frame = feed->frames;
    feed->fault_found = found;
    feed->fault_expected = expected;
    feed->fault_block = NO_BLOCK;
    feed->fault_has_block = 0;
    feed->fault_is_revert = 0;
    if (feed->state == PSA_FEED_IN_BLOCK) {
        feed->fault_block = feed->open_block;
        feed->fault_has_block = 1;
        feed->fault_is_revert = feed->open_is_revert;
    }
    snprintf(feed->fault_text, sizeof feed->fault_text, "%s", text);
    return code == PSA_FAULT_GENERATION                                     ? PSA_UNSUPPORTED_GENERATION
           : code == PSA_FAULT_FRAME_LENGTH || code == PSA_FAULT_MALFORMED ? PSA_DESERIALIZATION
                                                                            : PSA_INVALID_MESSAGE;
}

static int die(psa_feed *feed, uint32_t code, const defect *bad) {
    int status = fault(feed, code, bad->text, bad->found, bad->expected);
    feed->frames++;
    feed->state = PSA_FEED_DEAD;
    feed->open_count = 0;
    return status;
}

/* What one frame does: the new state, and whether its record leaves. */
typedef struct {
    uint32_t state;
    uint32_t drops_block;
    uint32_t emits;
    uint32_t closes; /* the unit is complete */
    int status;
} step;

static inline step no_step(const psa_feed *feed) {
    return (step){.state = feed->state, .drops_block = 0, .emits = 0, .closes = 0, .status = PSA_OK};
}

static step step_update(psa_feed *feed, const psa_event *event, const message *in) {
    step now = no_step(feed);
    if (feed->state == PSA_FEED_IDLE) {
        if (feed->reorg_open && in->is_late_update) {
            now.emits = now.closes = 1;
            return now;
        }
        now.status = fault(feed, PSA_FAULT_OUTSIDE_BLOCK, "PoolUpdate outside a block",
                           event->block_number, 0);
        feed->fault_block = event->block_number;
        feed->fault_has_block = 1;
        feed->fault_is_revert = event->flags & PSA_EVENT_IS_REVERT;
        now.state = PSA_FEED_SKIP;
        return now;
    }
    if (event->block_number != feed->open_block) {
        now.status = fault(feed, PSA_FAULT_OTHER_BLOCK, "PoolUpdate does not match the open block",
                           event->block_number, feed->open_block);
    } else if ((event->flags & PSA_EVENT_IS_REVERT) != feed->open_is_revert) {
        now.status = fault(feed, PSA_FAULT_REVERT_FLAG, "is_revert does not match the open block",
                           event->flags & PSA_EVENT_IS_REVERT, feed->open_is_revert);
    } else {
        now.emits = 1;
        return now;
    }
    now.drops_block = 1;
    now.state = PSA_FEED_SKIP;
    return now;
}

static step step_end(psa_feed *feed, psa_event *event) {
    step now = no_step(feed);
    now.state = PSA_FEED_IDLE;
    if (feed->state == PSA_FEED_SKIP) return now;
    if (feed->state == PSA_FEED_IDLE) {
        now.status = fault(feed, PSA_FAULT_OUTSIDE_BLOCK, "EndBlock outside a block",
                           event->block_number, 0);
        return now;
    }
    uint64_t received = feed->open_count - 1;
    if (event->block_number != feed->open_block) {
        now.status = fault(feed, PSA_FAULT_OTHER_BLOCK, "EndBlock of another block",
                           event->block_number, feed->open_block);
    } else if (event->words[0] != received) {
        now.status = fault(feed, PSA_FAULT_COUNT, "EndBlock counts other updates than were received",
                           event->words[0], received);
    } else {
        event->flags = (uint8_t)feed->open_is_revert;
        now.emits = now.closes = 1;
        return now;
    }
    now.drops_block = 1;
    return now;
}

/* Epilogue or ReorgComplete, in idle or skip. */
static step step_late(psa_feed *feed, const message *in) {
    step now = no_step(feed);
    int is_complete = in->class == MESSAGE_REORG_COMPLETE;
    if (feed->state == PSA_FEED_IN_BLOCK) {
        now.status = fault(feed, PSA_FAULT_NESTED,
                           is_complete ? "ReorgComplete inside an open block"
                                       : "ReorgEpilogue inside an open block",
                           0, 0);
        now.drops_block = 1;
        now.state = PSA_FEED_SKIP;
        return now;
    }
    if (feed->state == PSA_FEED_IDLE && feed->reorg_seen && !feed->reorg_open)
        now.status = fault(feed, PSA_FAULT_OUTSIDE_REORG,
                           is_complete ? "ReorgComplete outside a reorg"
                                       : "ReorgEpilogue outside a reorg",
                           0, 0);
    now.emits = now.closes = 1;
    if (is_complete && feed->state == PSA_FEED_START) now.state = PSA_FEED_IDLE;
    return now;
}

static step step_message(psa_feed *feed, psa_event *event, const message *in) {
    step now = no_step(feed);
    uint32_t state = feed->state;
    if (in->class == MESSAGE_BEGIN || in->class == MESSAGE_REORG_START) {
        int is_begin = in->class == MESSAGE_BEGIN;
        if (state == PSA_FEED_IN_BLOCK) {
            now.status = fault(feed, PSA_FAULT_NESTED,
                               is_begin ? "BeginBlock inside an open block"
                                        : "ReorgStart inside an open block",
                               event->block_number, feed->open_block);
            now.drops_block = 1;
        }
        now.emits = 1;
        now.closes = !is_begin;
        if (is_begin) now.state = PSA_FEED_IN_BLOCK;
        else if (state != PSA_FEED_SKIP) now.state = PSA_FEED_IDLE;
        return now;
    }
    if (state == PSA_FEED_START && in->class != MESSAGE_REORG_COMPLETE) {
        feed->frames_dropped++;
        return now;
    }
    if (in->class == MESSAGE_UPDATE) {
        if (state == PSA_FEED_SKIP) {
            feed->frames_dropped++;
            return now;
        }
        return step_update(feed, event, in);
    }
    if (in->class == MESSAGE_END) {
        if (state == PSA_FEED_SKIP) feed->frames_dropped++;
        return step_end(feed, event);
    }
    return step_late(feed, in);
}

/* What the next PoolUpdate of the open block must say. */
typedef struct {
    uint64_t seq;
    uint64_t block_number;
    uint64_t is_revert;
} expectation;

/* Read a PoolUpdate whose payload length already names its form; the constants come from the caller, so
 * each form is straight-line code with one branch. Everything that must hold is gathered in `wrong`:
 * 0 means the frame is exactly that form and continues the open block. Returns 0, with the record
 * untouched, when it is not. */
static inline __attribute__((always_inline)) int
append_form(psa_event *event, const uint8_t *payload, const expectation *want, uint32_t index,
            uint32_t key_nbytes, uint32_t kind, uint32_t protocol, uint32_t variant) {
    const uint8_t *head = payload + (key_nbytes == WIRE_WORD_NBYTES ? 48 : 44);
    const uint8_t *body = head + 45;
    uint32_t update_type = wire_u32(head + 4);
    uint64_t wrong = (wire_u32(payload) ^ index) | (wire_u64(payload + 4) ^ want->seq) |
                     (wire_u32(payload + 12) ^ (key_nbytes == WIRE_WORD_NBYTES)) |
                     (wire_u32(head) ^ protocol) | (update_type > PSA_UPDATE_BURN) |
                     (wire_u64(head + 8) ^ want->block_number) | (head[40] ^ want->is_revert) |
                     (wire_u32(head + 41) ^ variant);
    if (key_nbytes == WIRE_ADDRESS_NBYTES) wrong |= wire_u64(payload + 16) ^ WIRE_ADDRESS_NBYTES;
    if (kind == PSA_EVENT_CL_SWAP) wrong |= wire_u64(body) ^ WIRE_WORD_NBYTES;
    if (variant == WIRE_V4_SWAP_FEE) wrong |= body[64] > 1;
    if (__builtin_expect(wrong != 0, 0)) return 0;
    event->block_number = want->block_number;
    event->stream_seq = want->seq;
    event->tx_index = wire_u64(head + 24);
    event->log_index = wire_u64(head + 32);
    event->timestamp = wire_u64(head + 16);
    event->kind = (uint8_t)kind;
    event->protocol = (uint8_t)protocol;
    event->update_type = (uint8_t)update_type;
    event->flags = (uint8_t)(want->is_revert | PSA_EVENT_IN_BLOCK);
    event->present = 0;
    event->key_nbytes = (uint8_t)key_nbytes;
    event->variant = (uint8_t)variant;
    event->reserved = 0;
    if (key_nbytes == WIRE_WORD_NBYTES) {
        memcpy(event->key, payload + 16, WIRE_WORD_NBYTES);
    } else {
        memcpy(event->key, payload + 24, WIRE_ADDRESS_NBYTES);
        memset(event->key + WIRE_ADDRESS_NBYTES, 0, WIRE_WORD_NBYTES - WIRE_ADDRESS_NBYTES);
    }
    memset(event->address, 0, sizeof event->address);
    memset(event->words, 0, sizeof event->words);
    event->tick = event->tick_lower = event->tick_upper = 0;
    event->amount[0] = event->amount[1] = 0;
    if (kind == PSA_EVENT_CL_SWAP) {
        wire_u256(event->words, body + 8);
        memcpy(event->amount, body + 40, 16);
        event->tick = wire_i32(body + 56);
        if (variant == WIRE_V4_SWAP_FEE) {
            event->present = PSA_HAS_SWAP_FEE;
            event->words[4] = wire_u32(body + WIRE_BODY_SWAP);
            event->words[5] = body[64];
        }
    } else if (kind == PSA_EVENT_CL_LIQUIDITY) {
        event->tick_lower = wire_i32(body);
        event->tick_upper = wire_i32(body + 4);
        memcpy(event->amount, body + 8, 16);
    } else {
        read_reserves(event, body);
    }
    return 1;
}

/* The seed's forms: which options are there. */
enum seed_shape { SEED_AMOUNTS, SEED_SWAP, SEED_RANGE };

#define TEXT4(a, b, c, d) \
    ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)
#define TEXT_SWAP TEXT4('S', 'w', 'a', 'p')
#define TEXT_MINT TEXT4('M', 'i', 'n', 't')
#define TEXT_BURN TEXT4('B', 'u', 'r', 'n')

/* append_form for a seed PoolEvent at `from`: V2 is SEED_AMOUNTS, V3 has a four-letter event type and no
 * pool id, V4 has one, and its SEED_RANGE is ModifyLiquidity. */
static inline __attribute__((always_inline)) int
append_seed_form(psa_event *event, const uint8_t *from, const expectation *want,
                 enum seed_shape shape, uint32_t protocol) {
    const int is_v4 = protocol == PSA_UNISWAP_V4;
    const int is_modify = is_v4 && shape == SEED_RANGE;
    const uint8_t *name = from + 37 + (is_v4 ? WIRE_WORD_NBYTES : 0);
    const uint8_t *type = name + 26;
    const uint8_t *options = type + (is_modify ? 15 : 4);
    const uint8_t *amounts = options + (shape == SEED_SWAP ? 66 : shape == SEED_RANGE ? 30 : 6);
    uint32_t text = wire_u32(type);
    uint32_t update_type = text == TEXT_MINT ? PSA_UPDATE_MINT
                           : text == TEXT_BURN ? PSA_UPDATE_BURN
                                               : PSA_UPDATE_SWAP;
    uint64_t wrong = (wire_u64(from) ^ want->block_number) | (uint64_t)(from[36] ^ is_v4) |
                     (wire_u64(name) ^ 10) | (uint64_t)(memcmp(name + 8, "uniswap_v", 9) != 0) |
                     (name[17] ^ ('2' + protocol)) | (wire_u64(name + 18) ^ (is_modify ? 15 : 4)) |
                     (amounts[32] ^ want->is_revert);
    if (is_modify)
        wrong |= (uint64_t)(memcmp(type, "ModifyLi", 8) != 0 || memcmp(type + 7, "iquidity", 8) != 0);
    else if (shape == SEED_SWAP)
        wrong |= text ^ TEXT_SWAP;
    else if (shape == SEED_RANGE)
        wrong |= update_type == PSA_UPDATE_SWAP;
    else
        wrong |= update_type == PSA_UPDATE_SWAP ? text ^ TEXT_SWAP : 0;
    if (shape == SEED_SWAP)
        wrong |= (uint64_t)(options[0] ^ 1) | (wire_u64(options + 1) ^ WIRE_WORD_NBYTES) |
                 (options[41] ^ 1) | (options[46] ^ 1) | options[63] | options[64] | options[65];
    else if (shape == SEED_RANGE)
        wrong |= (uint64_t)(options[0] | options[1] | options[2]) | (options[3] ^ 1) |
                 (options[8] ^ 1) | (options[13] ^ 1);
    else
        wrong |= wire_u32(options) | options[4] | options[5];
    if (__builtin_expect(wrong != 0, 0)) return 0;
    memset(event, 0, sizeof *event);
    event->block_number = want->block_number;
    event->tx_index = wire_u32(from + 8);
    event->log_index = wire_u32(from + 12);
    event->protocol = (uint8_t)protocol;
    event->flags = (uint8_t)(want->is_revert | PSA_EVENT_IN_BLOCK | (is_modify ? PSA_EVENT_V4_MODIFY : 0));
    event->present = is_v4 ? PSA_HAS_POOL_ID : 0;
    memcpy(event->address, from + 16, WIRE_ADDRESS_NBYTES);
    memcpy(event->key, is_v4 ? from + 37 : from + 16, is_v4 ? WIRE_WORD_NBYTES : WIRE_ADDRESS_NBYTES);
    event->key_nbytes = is_v4 ? WIRE_WORD_NBYTES : WIRE_ADDRESS_NBYTES;
    if (shape == SEED_AMOUNTS) {
        event->kind = PSA_EVENT_V2_DELTA;
        read_i128_as_i256(event->words, amounts);
        read_i128_as_i256(event->words + 4, amounts + 16);
    } else {
        memcpy(event->words + 4, amounts, 32);
    }
    if (shape == SEED_SWAP) {
        event->kind = PSA_EVENT_CL_SWAP;
        event->present |= PSA_HAS_SQRT_PRICE | PSA_HAS_TICK | PSA_HAS_LIQUIDITY;
        wire_u256(event->words, options + 9);
        event->tick = wire_i32(options + 42);
        memcpy(event->amount, options + 47, 16);
    } else if (shape == SEED_RANGE) {
        event->kind = PSA_EVENT_CL_LIQUIDITY;
        event->present |= PSA_HAS_TICK_LOWER | PSA_HAS_TICK_UPPER | PSA_HAS_LIQUIDITY_DELTA;
        event->tick_lower = wire_i32(options + 4);
        event->tick_upper = wire_i32(options + 9);
        memcpy(event->amount, options + 14, 16);
        if (is_modify)
            update_type = (int64_t)event->amount[1] >= 0 && (event->amount[0] | event->amount[1])
                              ? PSA_UPDATE_MINT
                              : PSA_UPDATE_BURN;
    }
    event->update_type = (uint8_t)update_type;
    return 1;
}

/* Whether a seed payload is a PoolUpdate, by its head of `skip` bytes. */
static inline __attribute__((always_inline)) int is_seed_update(const uint8_t *payload, uint32_t skip) {
    if (skip == 4) return wire_u32(payload) == WIRE_SEED_UPDATE;
    return wire_u64(payload) == 10 && memcmp(payload + 8, "PoolUpdate", 10) == 0;
}

static inline __attribute__((always_inline)) int
append_seed(psa_event *event, const uint8_t *payload, uint32_t length, const expectation *want,
            uint32_t skip) {
    const uint8_t *from = payload + skip;
    if (length < skip + 106 || !is_seed_update(payload, skip)) return 0;
    switch (length - skip) {
    case 166: return append_seed_form(event, from, want, SEED_SWAP, PSA_UNISWAP_V3);
    case 106: return append_seed_form(event, from, want, SEED_AMOUNTS, PSA_UNISWAP_V2);
    case 198: return append_seed_form(event, from, want, SEED_SWAP, PSA_UNISWAP_V4);
    case 130: return append_seed_form(event, from, want, SEED_RANGE, PSA_UNISWAP_V3);
    case 173: return append_seed_form(event, from, want, SEED_RANGE, PSA_UNISWAP_V4);
    default: return 0;
    }
}

static inline __attribute__((always_inline)) int
append_exex(psa_event *event, const uint8_t *payload, uint32_t length, const expectation *want,
            uint32_t index) {
    switch (length) {
    case 149:
        return append_form(event, payload, want, index, WIRE_ADDRESS_NBYTES, PSA_EVENT_CL_SWAP,
                           PSA_UNISWAP_V3, WIRE_V3_SWAP);
    case 121:
        return append_form(event, payload, want, index, WIRE_ADDRESS_NBYTES, PSA_EVENT_V2_SYNC,
                           PSA_UNISWAP_V2, WIRE_V2_SYNC);
    case 153:
        return append_form(event, payload, want, index, WIRE_WORD_NBYTES, PSA_EVENT_CL_SWAP,
                           PSA_UNISWAP_V4, WIRE_V4_SWAP);
    case 113:
        return append_form(event, payload, want, index, WIRE_ADDRESS_NBYTES, PSA_EVENT_CL_LIQUIDITY,
                           PSA_UNISWAP_V3, WIRE_V3_LIQUIDITY);
    case 117:
        return append_form(event, payload, want, index, WIRE_WORD_NBYTES, PSA_EVENT_CL_LIQUIDITY,
                           PSA_UNISWAP_V4, WIRE_V4_LIQUIDITY);
    case 158:
        if (index == WIRE_UPDATE) return 0;
        return append_form(event, payload, want, index, WIRE_WORD_NBYTES, PSA_EVENT_CL_SWAP,
                           PSA_UNISWAP_V4, WIRE_V4_SWAP_FEE);
    default: return 0;
    }
}

/* Append the common PoolUpdates of the open block while nothing needs the state machine: the next
 * number in the stream, the open block, room for the record. Stops without effect before any other
 * frame. The payload length alone tells a dialect's five common forms apart: one jump a message. */
static inline __attribute__((always_inline)) void
append_updates(psa_feed *feed, const uint8_t *bytes, uint64_t nbytes, uint64_t *at, psa_event *events,
               uint32_t capacity, uint32_t *count, uint32_t dialect) {
    uint64_t where = *at;
    uint32_t used = *count;
    expectation want = {feed->last_seq + 1, feed->open_block, feed->open_is_revert};
    while (used < capacity && nbytes - where >= WIRE_PREFIX) {
        const uint8_t *payload = bytes + where + WIRE_PREFIX;
        uint32_t length = wire_u32(bytes + where);
        if (length > nbytes - where - WIRE_PREFIX) break;
        int is_good = dialect >= PSA_DIALECT_EXEX
                          ? append_exex(&events[used], payload, length, &want,
                                        WIRE_UPDATE +
                                            (dialect == PSA_DIALECT_BRIDGE ? WIRE_BRIDGE : 0))
                          : append_seed(&events[used], payload, length, &want,
                                        dialect == PSA_DIALECT_SEED_INDEXED ? 4 : 18);
        if (!is_good) break;
        want.seq++;
        used++;
        where += WIRE_PREFIX + length;
    }
    if (dialect >= PSA_DIALECT_EXEX) feed->last_seq = want.seq - 1;
    feed->frames += used - *count;
    feed->open_count += used - *count;
    *count = used;
    *at = where;
}

int psa_feed_decode(psa_feed *feed, const uint8_t *bytes, uint64_t nbytes, psa_event *events,
                    uint32_t capacity, uint64_t *consumed, uint32_t *ready) {
    psa_event spare;
    uint64_t at = 0;
    uint32_t count = feed->open_count; /* records in use: complete units, then the open block */
    uint32_t done = 0;                 /* records of complete units */
    int status = PSA_OK;
    *consumed = 0;
    *ready = 0;
    if (count > capacity || feed->dialect > PSA_DIALECT_BRIDGE) return PSA_BAD_ARGUMENT;
    if (feed->state != PSA_FEED_IN_BLOCK) {
        done = count; /* what the frame of the last fault brought */
        feed->open_count = 0;
    }
    if (feed->state == PSA_FEED_DEAD) {
        if (feed->fault_code == PSA_FAULT_GENERATION) return PSA_UNSUPPORTED_GENERATION;
        return feed->fault_code == PSA_FAULT_CONNECTION ? PSA_BAD_ARGUMENT : PSA_DESERIALIZATION;
    }
    while (status == PSA_OK) {
        if (feed->state == PSA_FEED_IN_BLOCK) {
            if (feed->dialect == PSA_DIALECT_EXEX)
                append_updates(feed, bytes, nbytes, &at, events, capacity, &count, PSA_DIALECT_EXEX);
            else if (feed->dialect == PSA_DIALECT_BRIDGE)
                append_updates(feed, bytes, nbytes, &at, events, capacity, &count, PSA_DIALECT_BRIDGE);
            else if (feed->dialect == PSA_DIALECT_SEED_INDEXED)
                append_updates(feed, bytes, nbytes, &at, events, capacity, &count,
                               PSA_DIALECT_SEED_INDEXED);
            else
                append_updates(feed, bytes, nbytes, &at, events, capacity, &count,
                               PSA_DIALECT_SEED_TAGGED);
        }
        if (nbytes - at < WIRE_PREFIX) break;
        uint32_t length = wire_u32(bytes + at);
        defect bad = {"", 0, 0};
        if (length == 0 || length > WIRE_FRAME_CAP) {
            refuse(&bad, length ? "frame longer than the cap" : "empty frame", length, WIRE_FRAME_CAP);
            status = die(feed, PSA_FAULT_FRAME_LENGTH, &bad);
            at += WIRE_PREFIX;
            count = done;
            break;
        }
        if (nbytes - at - WIRE_PREFIX < length) break;
        const uint8_t *payload = bytes + at + WIRE_PREFIX;
        uint64_t next = at + WIRE_PREFIX + length;
        psa_event *event = count < capacity ? &events[count] : &spare;
        message in = {0};
        if (feed->state == PSA_FEED_START && !(feed->pinned && feed->dialect != PSA_DIALECT_EXEX)) {
            uint32_t found;
            status = find_dialect(payload, length, &found, &in, &bad);
            if (status != PSA_OK) {
                status = die(feed, status == PSA_UNSUPPORTED_GENERATION ? PSA_FAULT_GENERATION
                                                                        : PSA_FAULT_MALFORMED, &bad);
                at = next;
                break;
            }
            if (feed->dialect == PSA_DIALECT_UNKNOWN) {
                if (found == PSA_DIALECT_UNKNOWN) {
                    feed->frames++;
                    feed->frames_dropped++;
                    at = next;
                    continue;
                }
                feed->dialect = found;
            }
            in = (message){0};
        }
        if (feed->dialect >= PSA_DIALECT_EXEX)
            status = read_exex(event, &in, payload, length, at + WIRE_PREFIX,
                               feed->dialect == PSA_DIALECT_BRIDGE, &bad);
        else if (feed->dialect == PSA_DIALECT_SEED_TAGGED)
            status = read_seed_tagged(event, &in, payload, length, at + WIRE_PREFIX, &bad);
        else
            status = read_seed_indexed(event, &in, payload, length, at + WIRE_PREFIX, &bad);
        if (status != PSA_OK) {
            status = die(feed, PSA_FAULT_MALFORMED, &bad);
            at = next;
            count = done;
            break;
        }
        if (in.class == MESSAGE_IGNORED) {
            feed->frames++;
            at = next;
            continue;
        }
        int is_gap = in.has_seq && feed->has_seq && feed->state != PSA_FEED_START &&
                     event->stream_seq != feed->last_seq + 1;
        /* Room first: below here the frame takes effect. What an open block would be dropped for
         * leaves its records free. */
        int stays_open = feed->state == PSA_FEED_IN_BLOCK && !is_gap &&
                         (in.class == MESSAGE_UPDATE || in.class == MESSAGE_END);
        uint64_t needed = 1;
        if (in.class == MESSAGE_REORG_COMPLETE && (feed->state != PSA_FEED_IN_BLOCK || is_gap))
            needed += in.list_count;
        if (capacity - (stays_open ? count : done) < needed) {
            status = done ? PSA_EVENTS_FULL : PSA_BLOCK_TOO_LARGE;
            break;
        }
        if (is_gap) {
            status = fault(feed, PSA_FAULT_SEQUENCE, "stream_seq is not the previous one plus 1",
                           event->stream_seq, feed->last_seq + 1);
            feed->state = PSA_FEED_SKIP;
        }
        if (in.has_seq) {
            feed->last_seq = event->stream_seq;
            feed->has_seq = 1;
        }
        step now = step_message(feed, event, &in);
        if (now.status != PSA_OK) status = now.status;
        if (now.drops_block || is_gap) {
            count = done;
            feed->open_count = 0;
        }
        if (now.emits) {
            if (in.class == MESSAGE_BEGIN) {
                feed->open_block = event->block_number;
                feed->open_is_revert = event->flags & PSA_EVENT_IS_REVERT;
            } else if (in.class == MESSAGE_UPDATE && now.state == PSA_FEED_IN_BLOCK) {
                event->flags |= PSA_EVENT_IN_BLOCK;
            } else if (in.class == MESSAGE_REORG_START) {
                feed->reorg_open = 1;
            } else if (in.class == MESSAGE_REORG_COMPLETE) {
                feed->reorg_open = 0;
                feed->reorg_seen = 1;
                spare = *event;
                event = &spare;
                const uint8_t *list = in.list;
                for (uint64_t i = 0; i < in.list_count; i++) {
                    psa_event *pool = &events[count++];
                    memset(pool, 0, sizeof *pool);
                    pool->kind = PSA_EVENT_RESYNC_POOL;
                    pool->protocol = PSA_PROTOCOL_UNKNOWN;
                    pool->stream_seq = spare.stream_seq;
                    pool->block_number = spare.block_number;
                    list += read_pool_id(pool, list, 4 + WIRE_WORD_NBYTES);
                }
            }
            if (event != &events[count]) events[count] = *event;
            count++;
            /* What the frame of a fault brings comes after it, with the next call. */
            if (now.closes && status == PSA_OK) done = count;
            feed->open_count = count - done;
        }
        feed->state = now.state;
        feed->frames++;
        at = next;
    }
    feed->bytes += at;
    *consumed = at;
    *ready = done;
    return status;
}

int psa_feed_close(psa_feed *feed, uint64_t pending_nbytes) {
    if (feed->state == PSA_FEED_DEAD) return PSA_BAD_ARGUMENT;
    int is_whole = feed->state != PSA_FEED_IN_BLOCK && pending_nbytes == 0 && !feed->reorg_open;
    fault(feed, PSA_FAULT_CONNECTION,
          pending_nbytes == 0                ? "end of stream"
          : pending_nbytes < WIRE_PREFIX     ? "end of stream inside a length prefix"
                                             : "end of stream inside a payload",
          pending_nbytes, 0);
    if (pending_nbytes == 0 && feed->frames) feed->fault_frame = feed->frames - 1;
    feed->state = PSA_FEED_DEAD;
    feed->open_count = 0;
    return is_whole ? PSA_OK : PSA_INVALID_MESSAGE;
}
