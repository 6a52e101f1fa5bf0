/* exex_forms.h: the common updates of family C, each as straight-line code. */
#ifndef PSA_EXEX_FORMS_H
#define PSA_EXEX_FORMS_H

#include "message.h"

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

/* The payload length alone tells the common forms apart: one jump a message. */
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

#endif
