/* What the readers of frames and encode.c share: the numbers of the wire formats and unaligned loads and stores.
 *
 * Frames are a u32 length and that many payload bytes. Integers are little-endian, except that U256 and
 * I256 are a u64 length (32) and 32 big-endian bytes; an address is a u64 length (20) and 20 bytes.
 */
#ifndef PSA_WIRE_H
#define PSA_WIRE_H

#include <string.h>

#include "arena.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the wire and the records are little-endian; this core does not swap"
#endif

#define WIRE_FRAME_CAP 16777216u /* longest payload, project rule */
#define WIRE_PREFIX 4u           /* bytes of the length prefix */

/* exex family C: control message index */
#define WIRE_WHITELIST 0u
#define WIRE_BEGIN 1u
#define WIRE_UPDATE 2u
#define WIRE_END 3u
#define WIRE_PING 4u
#define WIRE_PONG 5u
#define WIRE_REORG_START 6u
#define WIRE_EPILOGUE 7u /* g05..g11: ReorgComplete */
#define WIRE_REORG_COMPLETE 8u
#define WIRE_WHITELIST_LEAST 28u /* shortest UpdateWhitelist payload */

/* exex update variants that g15 can send for Uniswap, and their body lengths */
#define WIRE_V2_SWAP 0u
#define WIRE_V2_LIQUIDITY 1u
#define WIRE_V3_SWAP 2u
#define WIRE_V3_LIQUIDITY 3u
#define WIRE_V4_SWAP 4u
#define WIRE_V4_LIQUIDITY 5u
#define WIRE_V2_SYNC 22u
#define WIRE_BODY_V2_DELTA 80u
#define WIRE_BODY_SWAP 60u /* also Slot0Override and the end of Slot0Final */
#define WIRE_BODY_LIQUIDITY 24u
#define WIRE_BODY_SYNC 32u
#define WIRE_BODY_FLUID 160u

/* arena-bridge: every message index is this much more than in g15 ("PSA" behind it), and two updates are
 * its own */
#define WIRE_BRIDGE 0x41535000u
#define WIRE_V4_SWAP_FEE 25u /* V4Swap, the swap's fee u32, zero for one u8 */
#define WIRE_V4_PROTOCOL_FEE 26u
#define WIRE_BODY_SWAP_FEE 65u
#define WIRE_BODY_PROTOCOL_FEE 4u

/* exex epilogue variants */
#define WIRE_SLOT0_FINAL 0u
#define WIRE_FLUID_FINAL 1u
#define WIRE_V2_FINAL 2u

/* seed, indexed form */
#define WIRE_SEED_BEGIN 0u
#define WIRE_SEED_UPDATE 1u
#define WIRE_SEED_END 2u

#define WIRE_ADDRESS_NBYTES 20u
#define WIRE_WORD_NBYTES 32u

static inline uint32_t wire_u32(const uint8_t *from) {
    uint32_t value;
    memcpy(&value, from, 4);
    return value;
}

static inline int32_t wire_i32(const uint8_t *from) {
    int32_t value;
    memcpy(&value, from, 4);
    return value;
}

static inline uint64_t wire_u64(const uint8_t *from) {
    uint64_t value;
    memcpy(&value, from, 8);
    return value;
}

static inline void wire_put_u32(uint8_t *to, uint32_t value) { memcpy(to, &value, 4); }
static inline void wire_put_u64(uint8_t *to, uint64_t value) { memcpy(to, &value, 8); }

/* 32 big-endian bytes to four little-endian limbs, and back. */
static inline void wire_u256(uint64_t words[4], const uint8_t *from) {
    words[0] = __builtin_bswap64(wire_u64(from + 24));
    words[1] = __builtin_bswap64(wire_u64(from + 16));
    words[2] = __builtin_bswap64(wire_u64(from + 8));
    words[3] = __builtin_bswap64(wire_u64(from));
}

static inline void wire_put_u256(uint8_t *to, const uint64_t words[4]) {
    wire_put_u64(to, __builtin_bswap64(words[3]));
    wire_put_u64(to + 8, __builtin_bswap64(words[2]));
    wire_put_u64(to + 16, __builtin_bswap64(words[1]));
    wire_put_u64(to + 24, __builtin_bswap64(words[0]));
}

#endif
