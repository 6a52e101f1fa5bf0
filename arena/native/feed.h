/* feed.h: event records, and the connection that decodes frames to them.
 *
 * A record is one message of the feed: what psa_feed_decode hands over, psa_apply applies and psa_encode
 * writes as a frame. build.py reads what stands between the two cffi markers.
 */
#ifndef PSA_FEED_H
#define PSA_FEED_H

#include "layout.h"

/* cffi: begin */

/* ---- enumerations -------------------------------------------------------------------------------- */

/* event kinds */
#define PSA_EVENT_NONE 0
#define PSA_EVENT_BEGIN_BLOCK 1
#define PSA_EVENT_END_BLOCK 2
#define PSA_EVENT_REORG_START 3
#define PSA_EVENT_REORG_COMPLETE 4
#define PSA_EVENT_RESYNC_POOL 5   /* g04..g09: pool named in slot0_resync_required */
#define PSA_EVENT_IGNORED 6       /* Ping, Pong, UpdateWhitelist; never leaves psa_feed_decode */
#define PSA_EVENT_V2_SYNC 16      /* words 0..1, 4..5: absolute reserves */
#define PSA_EVENT_V2_DELTA 17     /* words 0..3, 4..7: i256 amount0, amount1; sign by update_type */
#define PSA_EVENT_CL_SWAP 18      /* V3, V4: words 0..3 sqrt price, amount = liquidity, tick */
#define PSA_EVENT_CL_LIQUIDITY 19 /* V3, V4: tick_lower, tick_upper, amount = i128 delta as sent */
#define PSA_EVENT_SLOT0_FINAL 20  /* epilogue, or g07..g11 Slot0Override: as CL_SWAP, absolute */
#define PSA_EVENT_V2_FINAL 21     /* epilogue: as V2_SYNC */
#define PSA_EVENT_UNSUPPORTED 22  /* decoded strictly, not kept: other protocol or unknown seed string */
#define PSA_EVENT_INVALID 23      /* seed: a required option is missing; counted, never applied */
#define PSA_EVENT_PROTOCOL_FEE 24 /* V4: words[0] = the new protocol fee, 24 bits as stored */

/* event update_type, wire values */
#define PSA_UPDATE_SWAP 0
#define PSA_UPDATE_MINT 1
#define PSA_UPDATE_BURN 2
#define PSA_UPDATE_OTHER 255      /* seed: an event_type string outside the known ones */

/* event flags */
#define PSA_EVENT_IS_REVERT 1
#define PSA_EVENT_IN_BLOCK 2      /* between BeginBlock and EndBlock (epilogues are not) */
#define PSA_EVENT_V4_MODIFY 4     /* seed: event_type was ModifyLiquidity (signed), not Mint or Burn */
#define PSA_EVENT_HAS_BASE_FEE 8  /* BeginBlock carried base_fee_per_gas */
#define PSA_EVENT_OPAQUE 16       /* not all of the message is in the record: body in source bytes */
#define PSA_EVENT_LATE_BODY 32    /* epilogue form of an unsupported update */
#define PSA_EVENT_HAS_FEES 64     /* BeginBlock: protocol fees of V4 are among the block's events */

/* bits in psa_event.present: seed v0 options, and what a V4 swap may carry besides */
#define PSA_HAS_POOL_ID 1
#define PSA_HAS_SQRT_PRICE 2
#define PSA_HAS_TICK 4
#define PSA_HAS_LIQUIDITY 8
#define PSA_HAS_TICK_LOWER 16
#define PSA_HAS_TICK_UPPER 32
#define PSA_HAS_LIQUIDITY_DELTA 64
#define PSA_HAS_SWAP_FEE 128      /* words[4] = the swap's whole fee in pips, words[5] = zero for one */

/* feed dialects */
#define PSA_DIALECT_UNKNOWN 0     /* found at the first BeginBlock */
#define PSA_DIALECT_SEED_TAGGED 1
#define PSA_DIALECT_SEED_INDEXED 2
#define PSA_DIALECT_EXEX 3        /* family C, g05..g15 */
#define PSA_DIALECT_BRIDGE 4      /* arena-bridge: g15 and the fees of V4; docs/reference/wire.md */

/* feed connection state (WIRE section 9) */
#define PSA_FEED_START 0
#define PSA_FEED_IDLE 1
#define PSA_FEED_IN_BLOCK 2
#define PSA_FEED_SKIP 3
#define PSA_FEED_DEAD 4

/* feed faults */
#define PSA_FAULT_NONE 0
#define PSA_FAULT_FRAME_LENGTH 1  /* length 0 or above the cap; found = the length */
#define PSA_FAULT_MALFORMED 2     /* a payload no strict reader accepts */
#define PSA_FAULT_GENERATION 3    /* exex g01..g04 */
#define PSA_FAULT_OUTSIDE_BLOCK 4 /* PoolUpdate or EndBlock without a block; found = its number */
#define PSA_FAULT_OTHER_BLOCK 5   /* PoolUpdate or EndBlock numbered unlike the open block */
#define PSA_FAULT_REVERT_FLAG 6   /* PoolUpdate's is_revert unlike the open block's */
#define PSA_FAULT_COUNT 7         /* EndBlock's num_updates; expected = updates received */
#define PSA_FAULT_NESTED 8        /* BeginBlock or a reorg message inside an open block */
#define PSA_FAULT_OUTSIDE_REORG 9 /* epilogue or ReorgComplete known to be outside a reorg; applied */
#define PSA_FAULT_SEQUENCE 10     /* stream_seq is not the previous one plus 1 */
#define PSA_FAULT_CONNECTION 11   /* psa_feed_close: the stream ended */

/* ---- one decoded message: 192 bytes, layouts/events.py ------------------------------------------- */

typedef struct {
    uint64_t block_number;   /* REORG_COMPLETE, epilogues: final_tip_block */
    uint64_t stream_seq;     /* 0 in seed dialects */
    uint64_t tx_index;       /* g07..g11 Slot0Override: 2^64-1 */
    uint64_t log_index;
    uint64_t timestamp;      /* seconds; exex only */
    uint8_t kind;            /* PSA_EVENT_* */
    uint8_t protocol;        /* PSA_UNISWAP_V2 ... */
    uint8_t update_type;     /* PSA_UPDATE_* */
    uint8_t flags;           /* PSA_EVENT_IS_REVERT ... */
    uint8_t present;         /* PSA_HAS_*. REORG_START: bits 0..3 = first/last of old, new */
    uint8_t key_nbytes;      /* 20 or 32 */
    uint8_t variant;         /* exex: wire index of the update or epilogue variant */
    uint8_t reserved;
    uint8_t key[32];         /* pool address (left aligned, zero padded) or pool id */
    int32_t tick;
    int32_t tick_lower;
    int32_t tick_upper;
    uint8_t address[20];     /* seed: pool_address as sent (V4: the PoolManager) */
    uint64_t words[8];       /* by kind; BEGIN: [0] base fee; END: [0] num_updates;
                                REORG_START: old first,last,count, new first,last,count;
                                REORG_COMPLETE: [0] pools in slot0_resync_required;
                                seed: [0..3] sqrt price, [4..5] amount0, [6..7] amount1;
                                UNSUPPORTED, INVALID: [0] offset and [1] length of the payload in the
                                bytes given to the psa_feed_decode call that read it. A seed record
                                that is OPAQUE but keeps its kind has them in stream_seq, timestamp */
    uint64_t amount[2];      /* u128 liquidity or i128 liquidity delta; seed V2: either, by present */
} psa_event;

/* ---- feed.c: the connection ----------------------------------------------------------------------- */

/* the feed's connection state: decoder and block state machine */
typedef struct {
    uint32_t dialect;        /* found or pinned */
    uint32_t pinned;         /* 1: dialect came from the caller */
    uint32_t state;          /* PSA_FEED_* */
    uint32_t reorg_open;
    uint32_t reorg_seen;     /* a ReorgComplete has been seen on this connection */
    uint32_t has_seq;
    uint64_t last_seq;
    uint64_t open_block;
    uint32_t open_is_revert;
    uint32_t open_count;     /* records at the end of the array that are not handed over yet: of the open
                              * block, BeginBlock included, or of the frame of a fault */
    uint64_t frames;         /* frames seen, also ignored ones */
    uint64_t bytes;
    uint64_t frames_dropped; /* before the first BeginBlock and while skipping */
    /* the last fault */
    uint32_t fault_code;     /* PSA_FAULT_* */
    uint32_t resync;         /* by this fault data may have been lost: gap or resync needed */
    uint64_t fault_frame;    /* 0-based index of the frame on this connection */
    uint64_t fault_block;    /* block lost by the fault (open, or of a stray PoolUpdate); 2^64-1 = none */
    uint64_t fault_found;
    uint64_t fault_expected;
    uint32_t fault_is_revert; /* is_revert of the block dropped */
    uint32_t fault_has_block; /* fault_block is a block number */
    char fault_text[96];     /* zero-terminated */
} psa_feed;

/* Begin a connection; dialect 0 finds the family at the first BeginBlock. */
void psa_feed_open(psa_feed *feed, uint32_t dialect);

/* Decode frames from `bytes`. `events[0 .. feed->open_count)` must hold those records of the last
 * call. Returns PSA_OK when the bytes are used up to the last whole frame, PSA_EVENTS_FULL,
 * PSA_BLOCK_TOO_LARGE (nothing is ready and the array is full: call again with the same records in a
 * larger array), PSA_INVALID_MESSAGE (one fault; the frame is consumed and has had its effect; the
 * connection stays usable: call again with the rest), or PSA_DESERIALIZATION /
 * PSA_UNSUPPORTED_GENERATION (connection is dead; every later call repeats the fault). In every case
 * *consumed bytes are done with, events[0 .. *ready) are complete units that came before the fault, in
 * arrival order, and the next feed->open_count records are of the open block, or what the frame of the
 * fault brought: move them to the front before the next call. A length prefix is checked as soon as its
 * four bytes are there. */
int psa_feed_decode(psa_feed *feed, const uint8_t *bytes, uint64_t nbytes, psa_event *events,
                    uint32_t capacity, uint64_t *consumed, uint32_t *ready);

/* The connection ended with `pending_nbytes` unconsumed: drops the open block and fills in the fault,
 * whose frame is the one cut off, or the last whole one.
 * PSA_OK between blocks and outside a reorg, else PSA_INVALID_MESSAGE. The feed is dead afterwards. */
int psa_feed_close(psa_feed *feed, uint64_t pending_nbytes);

/* ---- encode.c --------------------------------------------------------------------------------------- */

/* Write events as frames (length prefix included). Dialect EXEX writes g15, BRIDGE its own form of it;
 * records only older generations can send keep their form (BeginBlock without base fee, Slot0Override
 * by its variant, V2_DELTA: variant 0 V2Swap, 1 V2Liquidity), which every family C reader takes.
 * `source` holds the bytes OPAQUE records point into (may be null when there are none). On
 * PSA_BUFFER_TOO_SMALL *nbytes is what is needed. PSA_INVALID_EVENT_DATA names, in *failed, a record the
 * dialect cannot carry. */
int psa_encode(const psa_event *events, uint64_t count, uint32_t dialect, const uint8_t *source,
               uint64_t source_nbytes, uint8_t *out, uint64_t capacity, uint64_t *nbytes,
               uint64_t *failed);

/* cffi: end */

_Static_assert(sizeof(psa_event) == 192, "psa_event");

#endif
