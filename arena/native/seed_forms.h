/* seed_forms.h: the common updates of the seed, each as straight-line code. */
#ifndef PSA_SEED_FORMS_H
#define PSA_SEED_FORMS_H

#include "message.h"

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

#endif
