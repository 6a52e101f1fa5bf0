/* exex.c: messages of family C (exex g05..g15) and of the bridge.
 *
 * Family C is one reader: the pair (update variant, body length) with the protocol names one meaning in
 * all of these generations. The bridge's dialect is the same reader with its message indices moved and
 * two updates more.
 */
#include "message.h"

static int refuse_pool_id(defect *bad, const uint8_t *from, uint64_t left) {
    if (left < 4 + 8 + WIRE_ADDRESS_NBYTES) return refuse(bad, "pool id: payload too short", left, 32);
    uint32_t variant = wire_u32(from);
    if (variant > 1) return refuse(bad, "pool id: unknown variant", variant, 1);
    if (variant == 0) return refuse(bad, "pool id: address length", wire_u64(from + 4), 20);
    return refuse(bad, "pool id: payload too short", left, 36);
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
    int status = psa_read_other_body(event, out, body, body_nbytes, variant, protocol, bad);
    if (event->kind == PSA_EVENT_UNSUPPORTED) mark_opaque(event, offset, nbytes);
    return status;
}

/* What BeginBlock, EndBlock and ReorgComplete have: a sequence number and a block. */
static void take_mark(psa_event *event, message *out, uint8_t kind, uint32_t class,
                      const uint8_t *payload) {
    event->kind = kind;
    event->stream_seq = wire_u64(payload + 4);
    event->block_number = wire_u64(payload + 12);
    out->class = class;
    out->has_seq = 1;
}

static int read_begin(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                      defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes != 29 && nbytes != 37)
        return refuse(bad, "BeginBlock: payload length", nbytes, 37);
    uint8_t is_revert = payload[nbytes - 1];
    if (is_revert > 1) return refuse(bad, "BeginBlock: is_revert is no bool", is_revert, 1);
    take_mark(event, out, PSA_EVENT_BEGIN_BLOCK, MESSAGE_BEGIN, payload);
    event->timestamp = wire_u64(payload + 20);
    event->flags = is_revert;
    if (nbytes == 37) {
        event->words[0] = wire_u64(payload + 28);
        event->flags |= PSA_EVENT_HAS_BASE_FEE;
    }
    return PSA_OK;
}

static int read_end(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                    defect *bad) {
    memset(event, 0, sizeof *event);
    if (nbytes != 28) return refuse(bad, "EndBlock: payload length", nbytes, 28);
    take_mark(event, out, PSA_EVENT_END_BLOCK, MESSAGE_END, payload);
    event->words[0] = wire_u64(payload + 20);
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
    take_mark(event, out, PSA_EVENT_REORG_COMPLETE, MESSAGE_REORG_COMPLETE, payload);
    event->words[0] = out->list_count;
    return PSA_OK;
}

int psa_read_exex(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
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
