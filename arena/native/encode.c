/* encode.c: event records to frames, the inverse of feed.c.
 *
 * A frame is built in a small buffer on the stack (the longest Uniswap frame has under 300 bytes) and
 * copied out whole, so the length prefix is known and a full output is noticed before it is touched.
 * Records whose message is not all in the record are copied from the bytes they were read from.
 */
#include "wire.h"

#define FRAME_ROOM 384u

typedef struct {
    uint8_t bytes[FRAME_ROOM];
    uint32_t nbytes;
} frame;

static inline void put(frame *to, const void *from, uint32_t nbytes) {
    memcpy(to->bytes + to->nbytes, from, nbytes);
    to->nbytes += nbytes;
}

static inline void put_u8(frame *to, uint8_t value) { to->bytes[to->nbytes++] = value; }

static inline void put_u32(frame *to, uint32_t value) { put(to, &value, 4); }

static inline void put_u64(frame *to, uint64_t value) { put(to, &value, 8); }

static inline void put_u256(frame *to, const uint64_t words[4]) {
    put_u64(to, WIRE_WORD_NBYTES);
    wire_put_u256(to->bytes + to->nbytes, words);
    to->nbytes += WIRE_WORD_NBYTES;
}

static inline void put_text(frame *to, const char *text) {
    uint32_t nbytes = (uint32_t)strlen(text);
    put_u64(to, nbytes);
    put(to, text, nbytes);
}

/* ---- exex ------------------------------------------------------------------------------------------------ */

static int put_pool_id(frame *to, const psa_event *event) {
    if (event->key_nbytes == WIRE_ADDRESS_NBYTES) {
        put_u32(to, 0);
        put_u64(to, WIRE_ADDRESS_NBYTES);
        put(to, event->key, WIRE_ADDRESS_NBYTES);
        return 1;
    }
    if (event->key_nbytes != WIRE_WORD_NBYTES) return 0;
    put_u32(to, 1);
    put(to, event->key, WIRE_WORD_NBYTES);
    return 1;
}

static void put_slot0(frame *to, const psa_event *event) {
    put_u256(to, event->words);
    put(to, event->amount, 16);
    put(to, &event->tick, 4);
}

static void put_reserves(frame *to, const psa_event *event) {
    put(to, event->words, 16);
    put(to, event->words + 4, 16);
}

/* Wire variant of an update; 255 when the dialect has none for it. */
static uint32_t update_variant(const psa_event *event, int is_bridge) {
    uint32_t concentrated = event->protocol == PSA_UNISWAP_V3   ? 0
                            : event->protocol == PSA_UNISWAP_V4 ? 2
                                                                : 255;
    switch (event->kind) {
    case PSA_EVENT_V2_SYNC: return event->protocol == PSA_UNISWAP_V2 ? WIRE_V2_SYNC : 255;
    case PSA_EVENT_V2_DELTA:
        return event->protocol == PSA_UNISWAP_V2 && event->variant <= WIRE_V2_LIQUIDITY ? event->variant
                                                                                        : 255;
    case PSA_EVENT_CL_SWAP:
        if (is_bridge && concentrated == 2 && event->present & PSA_HAS_SWAP_FEE) return WIRE_V4_SWAP_FEE;
        return concentrated == 255 ? 255 : WIRE_V3_SWAP + concentrated;
    case PSA_EVENT_PROTOCOL_FEE: return is_bridge && concentrated == 2 ? WIRE_V4_PROTOCOL_FEE : 255;
    case PSA_EVENT_CL_LIQUIDITY: return concentrated == 255 ? 255 : WIRE_V3_LIQUIDITY + concentrated;
    case PSA_EVENT_SLOT0_FINAL: /* Slot0Override: 8 at g07, 16 at g08 and g09, 23 at g10 and g11 */
        return concentrated != 255 &&
                       (event->variant == 8 || event->variant == 16 || event->variant == 23)
                   ? event->variant
                   : 255;
    default: return 255;
    }
}

static int put_update(frame *to, const psa_event *event, int is_bridge) {
    uint32_t variant = update_variant(event, is_bridge);
    if (variant == 255 || event->update_type > PSA_UPDATE_BURN) return 0;
    put_u32(to, WIRE_UPDATE);
    put_u64(to, event->stream_seq);
    if (!put_pool_id(to, event)) return 0;
    put_u32(to, event->protocol);
    put_u32(to, event->update_type);
    put_u64(to, event->block_number);
    put_u64(to, event->timestamp);
    put_u64(to, event->tx_index);
    put_u64(to, event->log_index);
    put_u8(to, event->flags & PSA_EVENT_IS_REVERT);
    put_u32(to, variant);
    switch (event->kind) {
    case PSA_EVENT_V2_SYNC: put_reserves(to, event); break;
    case PSA_EVENT_V2_DELTA:
        put_u256(to, event->words);
        put_u256(to, event->words + 4);
        break;
    case PSA_EVENT_CL_LIQUIDITY:
        put(to, &event->tick_lower, 4);
        put(to, &event->tick_upper, 4);
        put(to, event->amount, 16);
        break;
    case PSA_EVENT_PROTOCOL_FEE: put_u32(to, (uint32_t)event->words[0]); break;
    default: put_slot0(to, event);
    }
    if (variant == WIRE_V4_SWAP_FEE) {
        put_u32(to, (uint32_t)event->words[4]);
        put_u8(to, event->words[5] != 0);
    }
    return 1;
}

static int put_epilogue(frame *to, const psa_event *event) {
    int is_slot0 = event->kind == PSA_EVENT_SLOT0_FINAL;
    if (event->protocol != PSA_UNISWAP_V2 && !is_slot0) return 0;
    if (is_slot0 && event->protocol != PSA_UNISWAP_V3 && event->protocol != PSA_UNISWAP_V4) return 0;
    put_u32(to, WIRE_EPILOGUE);
    put_u64(to, event->stream_seq);
    put_u64(to, event->block_number);
    put_u64(to, event->timestamp);
    put_u32(to, is_slot0 ? WIRE_SLOT0_FINAL : WIRE_V2_FINAL);
    if (!put_pool_id(to, event)) return 0;
    if (is_slot0) {
        put_u32(to, event->protocol);
        put_slot0(to, event);
    } else {
        put_reserves(to, event);
    }
    return 1;
}

static int put_exex(frame *to, const psa_event *event, int is_bridge) {
    switch (event->kind) {
    case PSA_EVENT_BEGIN_BLOCK:
        put_u32(to, WIRE_BEGIN);
        put_u64(to, event->stream_seq);
        put_u64(to, event->block_number);
        put_u64(to, event->timestamp);
        if (event->flags & PSA_EVENT_HAS_BASE_FEE) put_u64(to, event->words[0]);
        put_u8(to, event->flags & PSA_EVENT_IS_REVERT);
        return 1;
    case PSA_EVENT_END_BLOCK:
        put_u32(to, WIRE_END);
        put_u64(to, event->stream_seq);
        put_u64(to, event->block_number);
        put_u64(to, event->words[0]);
        return 1;
    case PSA_EVENT_REORG_START:
        put_u32(to, WIRE_REORG_START);
        put_u64(to, event->stream_seq);
        for (int range = 0; range < 2; range++) {
            for (int field = 0; field < 2; field++) {
                uint8_t tag = (uint8_t)(event->present >> (2 * range + field)) & 1;
                put_u8(to, tag);
                if (tag) put_u64(to, event->words[3 * range + field]);
            }
            put_u64(to, event->words[3 * range + 2]);
        }
        return 1;
    case PSA_EVENT_REORG_COMPLETE:
        if (event->words[0]) return 0; /* g15 has no list */
        put_u32(to, WIRE_REORG_COMPLETE);
        put_u64(to, event->stream_seq);
        put_u64(to, event->block_number);
        return 1;
    case PSA_EVENT_V2_FINAL: return put_epilogue(to, event);
    case PSA_EVENT_SLOT0_FINAL:
        return event->variant == WIRE_SLOT0_FINAL ? put_epilogue(to, event)
                                                   : put_update(to, event, is_bridge);
    default: return put_update(to, event, is_bridge);
    }
}

/* ---- seed ------------------------------------------------------------------------------------------------- */

static void put_seed_head(frame *to, uint32_t dialect, uint32_t index) {
    static const char *const tags[] = {"BeginBlock", "PoolUpdate", "EndBlock"};
    if (dialect == PSA_DIALECT_SEED_TAGGED) put_text(to, tags[index]);
    else put_u32(to, index);
}

static void put_option(frame *to, uint32_t is_there, const void *value, uint32_t nbytes) {
    put_u8(to, is_there != 0);
    if (is_there) put(to, value, nbytes);
}

static int is_i128(const uint64_t words[4]) {
    uint64_t sign = (uint64_t)((int64_t)words[1] >> 63);
    return words[2] == sign && words[3] == sign;
}

static int put_seed_update(frame *to, const psa_event *event, uint32_t dialect) {
    static const char *const protocols[] = {"uniswap_v2", "uniswap_v3", "uniswap_v4"};
    static const char *const types[] = {"Swap", "Mint", "Burn"};
    uint32_t present = event->present;
    int is_v2 = event->kind == PSA_EVENT_V2_DELTA;
    int is_modify = (event->flags & PSA_EVENT_V4_MODIFY) != 0;
    if (event->protocol > PSA_UNISWAP_V4 || is_v2 != (event->protocol == PSA_UNISWAP_V2)) return 0;
    if (!is_v2 && event->kind != PSA_EVENT_CL_SWAP && event->kind != PSA_EVENT_CL_LIQUIDITY) return 0;
    if (event->tx_index > UINT32_MAX || event->log_index > UINT32_MAX) return 0;
    if (event->update_type > PSA_UPDATE_BURN) return 0;
    if (is_v2 && !(is_i128(event->words) && is_i128(event->words + 4))) return 0;
    if ((present & PSA_HAS_POOL_ID) != (event->protocol == PSA_UNISWAP_V4)) return 0;
    if (event->kind == PSA_EVENT_CL_SWAP &&
        (present & (PSA_HAS_SQRT_PRICE | PSA_HAS_TICK | PSA_HAS_LIQUIDITY)) !=
            (PSA_HAS_SQRT_PRICE | PSA_HAS_TICK | PSA_HAS_LIQUIDITY))
        return 0;
    if (event->kind == PSA_EVENT_CL_LIQUIDITY &&
        (present & (PSA_HAS_TICK_LOWER | PSA_HAS_TICK_UPPER | PSA_HAS_LIQUIDITY_DELTA)) !=
            (PSA_HAS_TICK_LOWER | PSA_HAS_TICK_UPPER | PSA_HAS_LIQUIDITY_DELTA))
        return 0;
    put_seed_head(to, dialect, WIRE_SEED_UPDATE);
    put_u64(to, event->block_number);
    put_u32(to, (uint32_t)event->tx_index);
    put_u32(to, (uint32_t)event->log_index);
    put(to, event->address, WIRE_ADDRESS_NBYTES);
    put_option(to, present & PSA_HAS_POOL_ID, event->key, WIRE_WORD_NBYTES);
    put_text(to, protocols[event->protocol]);
    put_text(to, is_modify ? "ModifyLiquidity" : types[event->update_type]);
    put_u8(to, (present & PSA_HAS_SQRT_PRICE) != 0);
    if (present & PSA_HAS_SQRT_PRICE) put_u256(to, event->words);
    put_option(to, present & PSA_HAS_TICK, &event->tick, 4);
    put_option(to, present & PSA_HAS_LIQUIDITY, event->amount, 16);
    put_option(to, present & PSA_HAS_TICK_LOWER, &event->tick_lower, 4);
    put_option(to, present & PSA_HAS_TICK_UPPER, &event->tick_upper, 4);
    put_option(to, present & PSA_HAS_LIQUIDITY_DELTA, event->amount, 16);
    put(to, is_v2 ? event->words : event->words + 4, 16);
    put(to, is_v2 ? event->words + 4 : event->words + 6, 16);
    put_u8(to, event->flags & PSA_EVENT_IS_REVERT);
    return 1;
}

static int put_seed(frame *to, const psa_event *event, uint32_t dialect) {
    switch (event->kind) {
    case PSA_EVENT_BEGIN_BLOCK:
        put_seed_head(to, dialect, WIRE_SEED_BEGIN);
        put_u64(to, event->block_number);
        put_u8(to, event->flags & PSA_EVENT_IS_REVERT);
        return 1;
    case PSA_EVENT_END_BLOCK:
        put_seed_head(to, dialect, WIRE_SEED_END);
        put_u64(to, event->block_number);
        put_u64(to, event->words[0]);
        return 1;
    default: return put_seed_update(to, event, dialect);
    }
}

/* ---- all --------------------------------------------------------------------------------------------------- */

/* The payload an OPAQUE record was read from; 0 when `source` does not hold it. */
static int opaque_payload(const psa_event *event, const uint8_t *source, uint64_t source_nbytes,
                          const uint8_t **payload, uint64_t *nbytes) {
    int is_kept = event->kind != PSA_EVENT_UNSUPPORTED && event->kind != PSA_EVENT_INVALID;
    uint64_t offset = is_kept ? event->stream_seq : event->words[0];
    *nbytes = is_kept ? event->timestamp : event->words[1];
    if (!source || *nbytes == 0 || *nbytes > WIRE_FRAME_CAP || offset > source_nbytes ||
        *nbytes > source_nbytes - offset)
        return 0;
    *payload = source + offset;
    return 1;
}

int psa_encode(const psa_event *events, uint64_t count, uint32_t dialect, const uint8_t *source,
               uint64_t source_nbytes, uint8_t *out, uint64_t capacity, uint64_t *nbytes,
               uint64_t *failed) {
    uint64_t total = 0;
    frame built;
    *nbytes = 0;
    *failed = 0;
    if (dialect == PSA_DIALECT_UNKNOWN || dialect > PSA_DIALECT_BRIDGE) return PSA_BAD_ARGUMENT;
    int is_bridge = dialect == PSA_DIALECT_BRIDGE;
    for (uint64_t i = 0; i < count; i++) {
        const psa_event *event = &events[i];
        const uint8_t *payload = built.bytes;
        uint64_t payload_nbytes;
        int is_good;
        if (event->flags & PSA_EVENT_OPAQUE) {
            is_good = opaque_payload(event, source, source_nbytes, &payload, &payload_nbytes);
        } else {
            built.nbytes = 0;
            is_good = dialect >= PSA_DIALECT_EXEX ? put_exex(&built, event, is_bridge)
                                                  : put_seed(&built, event, dialect);
            if (is_good && is_bridge) wire_put_u32(built.bytes, wire_u32(built.bytes) + WIRE_BRIDGE);
            payload_nbytes = built.nbytes;
        }
        if (!is_good) {
            *failed = i;
            return PSA_INVALID_EVENT_DATA;
        }
        if (total <= capacity && capacity - total >= WIRE_PREFIX + payload_nbytes) {
            wire_put_u32(out + total, (uint32_t)payload_nbytes);
            memcpy(out + total + WIRE_PREFIX, payload, payload_nbytes);
        }
        total += WIRE_PREFIX + payload_nbytes;
    }
    *nbytes = total;
    return total <= capacity ? PSA_OK : PSA_BUFFER_TOO_SMALL;
}
