/* message.h: what the readers of the dialects and the state machine of a connection share.
 *
 * A reader takes one payload strictly, without touching the connection's state: every length is compared
 * with the bytes that are there before it is used, and nothing may be left over. It zeroes `event` first;
 * on refusal its content means nothing. `offset` is where the payload lies in the caller's bytes.
 */
#ifndef PSA_MESSAGE_H
#define PSA_MESSAGE_H

#include "wire.h"

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

static inline int refuse(defect *bad, const char *text, uint64_t found, uint64_t expected) {
    bad->text = text;
    bad->found = found;
    bad->expected = expected;
    return PSA_DESERIALIZATION;
}

/* Keep the header fields of a record only, and where its payload is. */
static inline void mark_opaque(psa_event *event, uint64_t offset, uint64_t nbytes) {
    event->flags |= PSA_EVENT_OPAQUE;
    event->tick = 0;
    memset(event->words, 0, sizeof event->words);
    memset(event->amount, 0, sizeof event->amount);
    event->words[0] = offset;
    event->words[1] = nbytes;
}

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

/* i128 to the four limbs of an i256. */
static inline void read_i128_as_i256(uint64_t words[4], const uint8_t *from) {
    words[0] = wire_u64(from);
    words[1] = wire_u64(from + 8);
    words[2] = words[3] = (uint64_t)((int64_t)words[1] >> 63);
}

/* What the next PoolUpdate of the open block must say. */
typedef struct {
    uint64_t seq;
    uint64_t block_number;
    uint64_t is_revert;
} expectation;

/* exex.c */
int psa_read_exex(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                  uint64_t offset, int is_bridge, defect *bad);

/* exex_bodies.c */
/* The body of an update that no pool of ours has, or Slot0Override; the head is read already. */
int psa_read_other_body(psa_event *event, message *out, const uint8_t *body, uint64_t nbytes,
                        uint32_t variant, uint32_t protocol, defect *bad);

/* seed.c */
int psa_read_seed_indexed(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                          uint64_t offset, defect *bad);
int psa_read_seed_tagged(psa_event *event, message *out, const uint8_t *payload, uint64_t nbytes,
                         uint64_t offset, defect *bad);

/* dialect.c */
/* PSA_OK with *dialect UNKNOWN: nothing said yet, drop the frame. Only a BeginBlock or a reorg message
 * moves a connection out of its start, so only these are asked for. */
int psa_find_dialect(const uint8_t *payload, uint64_t nbytes, uint32_t *dialect, message *out,
                     defect *bad);

#endif
