/* seed.c: messages of the seed, in its tagged and its indexed form. */
#include "message.h"

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

int psa_read_seed_indexed(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
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

int psa_read_seed_tagged(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
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
