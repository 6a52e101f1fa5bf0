/* arena.h: the contract of the native core.
 *
 * Layout of the shared memory, and every function Python may call. The part between the two cffi
 * markers is read by build.py as it stands; it holds plain C declarations and integer constants only.
 *
 * Rules that hold everywhere below
 * - Functions return a psa_status (0 = PSA_OK) unless said otherwise; results go through out-pointers.
 * - No allocation, no globals that change after start, no callbacks, no unbounded loop.
 * - 128- and 256-bit integers are little-endian arrays of uint64_t limbs; i128 is two's complement.
 * - Whatever is read from shared memory may be torn or hostile until the stamp check passed: offsets and
 *   counts are checked against the capacities in psa_arena before use, and every division is total.
 * - A psa_arena is private memory of the calling process; readers may share one between threads.
 */
#ifndef PSA_ARENA_H
#define PSA_ARENA_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */

/* ---- status codes; arena/native/__init__.py maps each to one exception -------------------------- */

#define PSA_OK 0
/* arguments and layout */
#define PSA_BAD_ARGUMENT 1
#define PSA_LAYOUT_MISMATCH 2
#define PSA_DAMAGED 3             /* the segment's content contradicts itself */
/* reading */
#define PSA_UNKNOWN_POOL 10       /* key not in the index, or its slot never committed */
#define PSA_POOL_REMOVED 11       /* the slot now belongs to nobody or to a later pool */
#define PSA_POOL_STALE 12         /* pool state may be wrong (or is still syncing) */
#define PSA_SNAPSHOT_TOO_OLD 13   /* both versions are newer than the pinned commit */
#define PSA_CONTENDED 14          /* retry budget spent: a read raced with the writer every time */
#define PSA_BUFFER_TOO_SMALL 15   /* caller's array is too small; the needed count was stored */
#define PSA_CLOSED 17             /* psa_quote_prepared: handle closed, or its arena superseded */
#define PSA_TIMED_OUT 16          /* psa_wait_commit: no commit within the timeout */
/* capacity: all mean ArenaFull, the detail tells which table */
#define PSA_FULL_POOLS 20
#define PSA_FULL_TICKS 21
#define PSA_FULL_TOKENS 22
#define PSA_FULL_SHM 23           /* the file system behind the segment has no pages left */
/* feed */
#define PSA_DESERIALIZATION 30
#define PSA_INVALID_MESSAGE 31
#define PSA_EVENTS_FULL 32        /* the caller's event array is full; hand over the ready part, call again */
#define PSA_BLOCK_TOO_LARGE 33    /* one open block alone fills the event array */
#define PSA_UNSUPPORTED_GENERATION 34 /* exex g01..g04 or a stream that is none of the known families */
/* one event cannot be applied (seed's table) */
#define PSA_POOL_NOT_FOUND 40
#define PSA_INVALID_EVENT_DATA 41
#define PSA_ARITHMETIC_OVERFLOW 42
#define PSA_UNSUPPORTED_PROTOCOL 43
#define PSA_UNSUPPORTED_EVENT_TYPE 44
#define PSA_REORG_TOO_DEEP 45     /* a reverted block is not in the undo ring and its effect is unknown */
#define PSA_REORG_MISMATCH 46     /* a reverted block's payload names a pool its undo records do not */
/* quotes: what the contract would revert, or what cannot be answered from the arena */
#define PSA_AMOUNT_OUT_OF_RANGE 50
#define PSA_PRICE_LIMIT 51        /* limit not between the present price and the end of the range */
#define PSA_INSUFFICIENT_LIQUIDITY 52
#define PSA_NOT_INITIALIZED 53    /* price 0, or a V2 pool without reserves */
#define PSA_HOOKED_POOL 54        /* hooks can alter the swap */
#define PSA_DYNAMIC_FEE 55        /* stored LP fee may be out of date; pass it or allow it */
#define PSA_FEE_TOO_HIGH 56       /* V4 exact output at a total fee of 100 % */
#define PSA_SWAP_REVERTS 57       /* any other revert of the contract: overflow of an intermediate */
#define PSA_TICK_DATA 58          /* ticks contradict liquidity: never in a committed live pool */

/* ---- enumerations -------------------------------------------------------------------------------- */

/* protocols; wire values of g10..g15, the only numbering used inside */
#define PSA_UNISWAP_V2 0
#define PSA_UNISWAP_V3 1
#define PSA_UNISWAP_V4 2
#define PSA_EKUBO 3
#define PSA_CURVE_STABLE 4
#define PSA_CURVE_TWOCRYPTO 5
#define PSA_CURVE_TRICRYPTO 6
#define PSA_BALANCER_V2_WEIGHTED 7
#define PSA_FLUID 8
#define PSA_PROTOCOL_UNKNOWN 255  /* seed: a protocol string outside the three */

/* pool status, in the version line */
#define PSA_STATUS_ABSENT 0
#define PSA_STATUS_SYNCING 1
#define PSA_STATUS_LIVE 2
#define PSA_STATUS_STALE 3
#define PSA_STATUS_REMOVED 4

/* why a pool is stale, bits in psa_line.unsure */
#define PSA_UNSURE_PRICE 1        /* price, tick, liquidity or reserves; an epilogue settles it */
#define PSA_UNSURE_TICKS 2        /* tick list; only a new scrape settles it */
#define PSA_UNSURE_ALL 4          /* events were lost; only a new scrape settles it */
#define PSA_UNSURE_UNREAD 8       /* announced and not read yet: it has no values, events pass it by */

/* static flags */
#define PSA_POOL_HOOKED 1         /* V4 hooks with a swap permission */
#define PSA_POOL_DYNAMIC_FEE 2    /* V4 fee field is 0x800000 */

/* arena state word in the control segment */
#define PSA_STATE_CREATING 0
#define PSA_STATE_READY 1
#define PSA_STATE_CLOSED 2

/* writer phase in the control segment */
#define PSA_PHASE_STARTING 0
#define PSA_PHASE_CONNECTING 1
#define PSA_PHASE_BUFFERING 2
#define PSA_PHASE_SCRAPING 3
#define PSA_PHASE_REPLAYING 4
#define PSA_PHASE_LIVE 5
#define PSA_PHASE_GAP 6           /* events were lost; reason says which blocks */
#define PSA_PHASE_STOPPED 7

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

/* counters in the data header; [APPLIED + protocol * 8 + kind - PSA_EVENT_V2_SYNC] for the three
 * protocols, of which V4 has one more, [FAULTS + status - PSA_POOL_NOT_FOUND], [UNSUPPORTED + protocol] */
#define PSA_COUNTER_BLOCKS 0
#define PSA_COUNTER_BLOCKS_REVERTED 1
#define PSA_COUNTER_COMMITS 2
#define PSA_COUNTER_EVENTS_APPLIED 3
#define PSA_COUNTER_EVENTS_SKIPPED 4     /* at or before the pool's own position */
#define PSA_COUNTER_EVENTS_UNSUPPORTED 5
#define PSA_COUNTER_REORGS 6
#define PSA_COUNTER_EPILOGUES 7
#define PSA_COUNTER_POOLS_STALE 8        /* times a pool went stale */
#define PSA_COUNTER_FRAMES 9             /* written by the feed thread, as the next three */
#define PSA_COUNTER_BYTES 10
#define PSA_COUNTER_CONNECTIONS 11
#define PSA_COUNTER_GAPS 12
#define PSA_COUNTER_ARENA_FULL 13        /* events that found no room for their ticks */
#define PSA_COUNTER_AUDITED 14           /* times a pool was compared with a node */
#define PSA_COUNTER_AUDIT_DIFFERENCES 15 /* of them those that differed */
#define PSA_COUNTER_APPLIED 16
#define PSA_COUNTER_FAULTS 48
#define PSA_COUNTER_UNSUPPORTED 64       /* + protocol, 15 = unknown string */

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

/* ---- version line: 128 bytes, two a pool ---------------------------------------------------------- */

typedef struct {
    uint64_t stamp;          /* commit that wrote this line; 0 = never written, 2^64-1 = dropped */
    uint32_t sqrt_price_hi;  /* V3/V4: bits 128..159 of sqrt_price_x96 */
    int32_t tick;
    uint64_t a[2];           /* V2: reserve0; V3/V4: bits 0..127 of sqrt_price_x96 */
    uint64_t b[2];           /* V2: reserve1; V3/V4: active liquidity */
    uint32_t slab;           /* tick slab, in 64-byte units from the heap start; 0 = none */
    uint32_t tick_count;
    uint32_t current_index;  /* number of ticks <= tick */
    uint32_t fee_status;     /* bits 0..23 fee in pips (V4: stored LP fee), 24..31 status */
    uint64_t block_number;   /* position of the last applied event; 0 = none since base_block */
    uint32_t tx_index;
    uint32_t log_index;
    uint64_t base_block;     /* events at or below this block are skipped */
    uint32_t protocol_fee;   /* V4: 24 bits as stored, low 12 zero for one */
    uint8_t slab_class;
    uint8_t unsure;          /* PSA_UNSURE_* */
    uint16_t reserved0;
    uint64_t fee_block;      /* V4: block at which protocol_fee or LP fee was read, or told last */
    uint32_t generation;     /* must equal the static row's and the handle's */
    uint32_t reserved1;
    uint64_t scrape_block;   /* the block its scraped values belong to: the undo ring says nothing of
                                this pool at or below it; differs from base_block only while blocks
                                below it are being reverted */
    uint64_t reserved2;
} psa_line;

typedef struct {
    psa_line lines[2];
} psa_slot;

/* ---- static row: 128 bytes, immutable while its generation stands; 0 while it is written ----------- */

typedef struct {
    uint8_t key[32];
    uint8_t factory[20];     /* V4: PoolManager */
    uint8_t hooks[20];
    uint32_t token0;         /* token table index */
    uint32_t token1;
    uint32_t fee_pips;       /* static fee; V4 dynamic: 0x800000 */
    int32_t tick_spacing;
    uint32_t generation;     /* counts uses of this slot, from 1; 0 while the row is written */
    uint8_t protocol;
    uint8_t key_nbytes;
    uint8_t flags;           /* PSA_POOL_* */
    uint8_t reserved0;
    uint64_t reserved1[4];
} psa_static;

typedef struct {
    uint8_t address[20];
    uint8_t decimals;
    uint8_t symbol_nbytes;
    uint8_t flags;           /* bit 0: decimals known */
    uint8_t reserved;
    char symbol[32];         /* UTF-8, zero padded */
    uint64_t reserved1;
} psa_token;

/* tick slab header; arrays follow, each 64-byte aligned: tick i32[cap], net i128[cap], gross u128[cap] */
typedef struct {
    uint32_t slab_class;
    uint32_t owner;          /* slot + 1, for debugging */
    uint32_t next_free;      /* writer only; offset in 64-byte units */
    uint32_t reserved0;
    uint64_t reserved1[6];
} psa_slab;

/* ---- commit record: 128 bytes, two in the data header, double-stamped like a pool ----------------- */

typedef struct {
    uint64_t stamp;
    uint64_t block_number;   /* head block; 0 = none yet */
    uint8_t block_hash[32];  /* zero = unknown */
    uint64_t timestamp;
    uint64_t base_fee;       /* wei; 0 = unknown */
    uint64_t stream_seq;     /* feed position */
    uint64_t undo_top;       /* undo entry of the head block; 0 = none */
    uint64_t undo_entry_head;
    uint64_t undo_record_head;
    uint32_t event_count;    /* events applied by this commit */
    uint32_t flags;
    uint64_t topology;       /* grows with each pool added or removed */
    uint64_t reused;         /* as in the header, when this was committed */
    uint64_t fees_block;     /* protocol fees of V4 told up to this block are in the arena */
} psa_commit_record;

/* ---- undo ring -------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t seq;            /* from 1; entry lives at seq % capacity */
    uint64_t block_number;
    uint64_t prev;           /* seq of the block below; 0 = none */
    uint64_t first_record;
    uint64_t record_count;
    uint64_t timestamp;
    uint64_t base_fee;
    uint64_t reserved;
    uint8_t block_hash[32];  /* of the block, once it is known; zero = unknown */
} psa_undo_entry;

#define PSA_UNDO_LINE 1
#define PSA_UNDO_TICK 2
#define PSA_UNDO_FEES 3          /* before[0] LP fee, before[1] protocol fee, before[2] fee_block */

typedef struct {
    uint64_t entry_seq;
    uint32_t slot;
    uint32_t kind;
    uint32_t generation;
    int32_t tick;            /* LINE: the pool's tick before; TICK: which tick */
    uint32_t sqrt_price_hi;  /* LINE: before, as the next five */
    uint32_t tx_index;
    uint32_t log_index;
    uint32_t unsure;         /* LINE: PSA_UNSURE_* before: the image is no known state then */
    uint64_t block_number;
    uint64_t before[4];      /* LINE: a[2], b[2]; TICK: gross[2], net[2] (all 0: the tick was absent) */
    uint64_t reserved1;
} psa_undo_record;

/* ---- data header: 4096 bytes ------------------------------------------------------------------------ */

#define PSA_COUNTERS 192

typedef struct {
    uint64_t magic;
    uint32_t layout_version; /* major << 16 | minor */
    uint32_t byte_order;     /* 0x01020304 */
    uint8_t layout_digest[32];
    uint64_t generation;
    uint64_t nbytes;
    /* 64 */
    uint32_t max_pools;
    uint32_t max_tokens;
    uint32_t bucket_count;   /* power of two */
    uint32_t undo_entry_count;
    uint64_t undo_record_count;
    uint64_t heap_nbytes;
    uint64_t statics_offset;
    uint64_t slots_offset;
    uint64_t tokens_offset;
    uint64_t buckets_offset;
    /* 128 */
    uint64_t undo_entries_offset;
    uint64_t undo_records_offset;
    uint64_t heap_offset;
    uint64_t origin;         /* generation of the arena in which commits and slots began to be counted */
    uint64_t reserved0[4];
    /* 192 */
    uint64_t committed;      /* alone in its cache line; its low word is the futex */
    uint64_t reserved1[7];
    /* 256 */
    uint32_t slots_used;
    uint32_t tokens_used;
    uint64_t topology;       /* of the newest commit, stored after it */
    uint64_t heap_top;       /* bytes handed out so far; slabs below it have valid headers */
    uint64_t heap_reserved;  /* bytes with pages behind them */
    uint64_t undo_entry_reserved;  /* highest entry / record number ever begun: what a dead */
    uint64_t undo_record_reserved; /* writer may have overwritten */
    uint32_t superseded;     /* 1: a newer generation exists, data here stands still */
    uint32_t reserved2;
    uint64_t pool_count;
    /* 320 */
    uint64_t reused;         /* slots ever given out again, counted before anything of it is stored */
    uint64_t reserved3[7];
    /* 384 */
    psa_commit_record commits[2];
    /* 640 */
    uint64_t counters[PSA_COUNTERS]; /* layouts/header.py names them */
    /* 2176 */
    uint64_t reserved4[240];
} psa_header;

/* ---- control segment: 4096 bytes ---------------------------------------------------------------------- */

typedef struct {
    uint64_t stamp;          /* number of the phase change; 0 = never written */
    uint32_t phase;          /* PSA_PHASE_* */
    uint32_t reserved0;
    uint64_t since_ns;       /* CLOCK_MONOTONIC */
    uint64_t gap_first;      /* missing blocks, 0 = none or unknown */
    uint64_t gap_last;
    char reason[216];        /* UTF-8, zero padded */
} psa_phase;

typedef struct {
    uint64_t magic;
    uint32_t layout_version;
    uint32_t byte_order;
    uint8_t layout_digest[32];
    uint32_t state;          /* PSA_STATE_*; stored last, with release */
    uint32_t reserved0;
    uint64_t generation;
    /* 64 */
    uint64_t data_nbytes;
    uint64_t created_unix_ns;
    uint64_t chain_id;       /* 0 = unknown */
    uint64_t reserved1[5];
    /* 128 */
    uint32_t writer_pid;
    uint32_t reserved2;
    uint64_t writer_start_time; /* field 22 of /proc/PID/stat */
    uint8_t boot_id[16];
    char writer_version[32];
    /* 192 */
    uint64_t heartbeat_ns;   /* CLOCK_MONOTONIC */
    uint64_t heartbeat_count;
    uint64_t reserved3[6];
    /* 256 */
    uint64_t phase_committed; /* number of the current phase record; phases[n & 1] */
    uint64_t reserved4[7];
    /* 320 */
    psa_phase phases[2];
    /* 832 */
    uint64_t reserved5[408];
} psa_control;

/* ---- private handles ------------------------------------------------------------------------------------ */

typedef struct {
    uint8_t *base;
    uint64_t nbytes;
    psa_header *header;
    psa_static *statics;
    psa_slot *slots;
    psa_token *tokens;
    uint32_t *buckets;
    psa_undo_entry *undo_entries;
    psa_undo_record *undo_records;
    uint8_t *heap;
    uint64_t heap_nbytes;
    uint64_t undo_record_count;
    uint32_t max_pools;
    uint32_t max_tokens;
    uint32_t bucket_mask;
    uint32_t undo_entry_count;
} psa_arena;

typedef struct {
    uint32_t max_pools;
    uint32_t max_tokens;
    uint32_t undo_entry_count;
    uint32_t reserved;
    uint64_t undo_record_count;
    uint64_t heap_nbytes;
} psa_capacities;

#define PSA_SLAB_CLASSES 40
#define PSA_FAULTS 64

/* one event that could not be applied, for the writer's log */
typedef struct {
    uint32_t status;
    uint32_t slot;           /* 2^32-1: none */
    uint64_t block_number;
    uint64_t tx_index;
    uint64_t log_index;
    uint8_t key[32];
    uint8_t kind;
    uint8_t protocol;
    uint8_t made_stale;
    uint8_t reserved[5];
} psa_fault;

typedef struct {
    psa_arena arena;
    int32_t fd;              /* of the data segment, to reserve heap pages; -1: all reserved */
    uint32_t in_reorg;       /* inside ReorgStart..ReorgComplete: commits are held */
    uint64_t next_commit;    /* T: the commit being built */
    uint64_t *touched;       /* (max_pools,) undo entry of the last before-image of each slot */
    uint32_t *dirty;         /* (max_pools,) slots written in the open commit */
    uint32_t dirty_count;
    uint32_t pending;        /* the open commit changes something readers can see */
    uint32_t slab_free[PSA_SLAB_CLASSES];
    psa_commit_record record; /* the record the open commit will publish */
    uint64_t last_commit_ns;
    uint64_t open_entry;     /* undo entry of the block being applied; 0 = none */
    uint64_t highest_base_block;
    uint64_t reverted_top;   /* undo top before the running series of reverts */
    uint64_t reverted_high;  /* highest block number of that series */
    uint32_t in_revert;      /* inside a reverted block */
    uint32_t revert_known;   /* it was in the undo ring and is undone */
    uint64_t revert_block;
    uint64_t revert_entry;
    uint32_t fault_count;    /* entries of faults in use; further ones only count */
    uint32_t stale_count;    /* pools that went stale since the caller last cleared it */
    psa_fault faults[PSA_FAULTS];
    uint64_t undo_paged;     /* undo records from the ring's begin with pages behind them */
    const char *damage;      /* after PSA_DAMAGED: what is wrong, */
    uint64_t damage_at;      /* and with which of them */
} psa_writer;

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

/* ---- versions.c: arena, commits, reading -------------------------------------------------------------- */

/* Bytes a data segment of these capacities needs; 0 when one is out of range. */
uint64_t psa_arena_nbytes(const psa_capacities *capacities);

/* Write the header of a new data segment over zeroed memory. */
int psa_arena_format(uint8_t *base, uint64_t nbytes, const psa_capacities *capacities,
                     uint64_t generation, const uint8_t *digest);

/* Check a mapped segment's header and fill `arena`. PSA_LAYOUT_MISMATCH when anything is off. */
int psa_arena_open(psa_arena *arena, uint8_t *base, uint64_t nbytes);

/* Begin writing: look at everything that is there, drop lines newer than the last commit, rebuild the
 * free lists. `touched` and `dirty` are the caller's arrays of max_pools items and must outlive the
 * writer. PSA_DAMAGED, and nothing but owners of slabs changed, when the content contradicts itself;
 * PSA_FULL_SHM when a part that was given pages has lost them and there are none left. */
int psa_writer_open(psa_writer *writer, uint8_t *base, uint64_t nbytes, int32_t fd,
                    uint64_t *touched, uint32_t *dirty);

/* Publish the open commit: one release store of committed, then wake waiting readers. Does nothing
 * when nothing changed, and inside a reorg envelope. */
int psa_commit(psa_writer *writer);

/* Drop everything since the last commit, an open reorg envelope included. */
int psa_abort(psa_writer *writer);

/* Copy the newest commit record; also says which commit a snapshot is pinned to (record.stamp). */
int psa_pin(const psa_arena *arena, psa_commit_record *record);

/* Sleep until committed differs from `seen` or timeout. Does not spin. PSA_TIMED_OUT at once when the
 * arena is superseded meanwhile. */
int psa_wait_commit(const psa_arena *arena, uint64_t seen, uint64_t timeout_ns, uint64_t *committed);

/* Say that a newer generation took this one's place, and wake who waits for its commits. */
void psa_supersede(psa_header *header);

/* Copy one pool's line as of `commit` (0: the newest). `generation` 0: any; else PSA_POOL_REMOVED when
 * the slot is another pool's by then, or nobody's. */
int psa_pool_read(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                  psa_line *line);

/* Copy one pool's line and its ticks. On PSA_BUFFER_TOO_SMALL line->tick_count is what is needed. */
int psa_pool_read_ticks(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                        psa_line *line, int32_t *ticks, uint64_t *net, uint64_t *gross,
                        uint32_t capacity);

/* Copy many pools' lines as of `commit`. `pools` are references: slot in the low half, the slot's
 * generation in the high half, 0 there for any. On failure `failed` is the index of the pool. A slot of
 * 2^32-1, a pool without a version at `commit` and one of another generation give a zeroed line (status
 * ABSENT); so does a slot beyond the table, but PSA_BAD_ARGUMENT without a generation. */
int psa_snapshot(const psa_arena *arena, const uint64_t *pools, uint32_t count, uint64_t commit,
                 psa_line *lines, uint32_t *failed);

/* psa_snapshot, and the ticks of all those pools one after another; starts[i] is the first of pool i,
 * starts[count] the total. On PSA_BUFFER_TOO_SMALL starts[count] is what is needed. */
int psa_snapshot_ticks(const psa_arena *arena, const uint64_t *pools, uint32_t count,
                       uint64_t commit, psa_line *lines, uint64_t *starts, int32_t *ticks,
                       uint64_t *net, uint64_t *gross, uint64_t capacity, uint32_t *failed);

/* References of the pools whose line was written by a commit after `since`, up to and including
 * `commit`; one written again since is among them, too. Returns how many there are; the first `capacity`
 * are stored. */
uint32_t psa_changed(const psa_arena *arena, uint64_t since, uint64_t commit, uint64_t *pools,
                     uint32_t capacity);

/* Copy the content of `from`, at its last commit, into the formatted, empty segment `base` of larger or
 * equal capacities. `fd` as in psa_writer_open. PSA_FULL_SHM when there are no pages for its ticks or
 * undo records, PSA_DAMAGED when `from` contradicts itself so that it cannot be copied; whether the copy
 * can be written to is left to psa_writer_open. */
int psa_arena_copy(uint8_t *base, uint64_t nbytes, int32_t fd, const psa_arena *from);

/* ---- control.c: words and phase records of the control segment ----------------------------------------- */

void psa_store_release_u32(uint32_t *word, uint32_t value);
void psa_store_release_u64(uint64_t *word, uint64_t value);
uint32_t psa_load_acquire_u32(const uint32_t *word);
uint64_t psa_load_acquire_u64(const uint64_t *word);

/* Make `phase` the current phase record; its stamp is filled in. One caller at a time. */
void psa_phase_write(psa_control *control, const psa_phase *phase);

/* Copy the current phase record; all zero when there is none yet. PSA_CONTENDED when every try raced
 * with a change. */
int psa_phase_read(const psa_control *control, psa_phase *phase);

/* ---- index.c ----------------------------------------------------------------------------------------------- */

/* Reference of a key: slot, and in the high half the generation in which it is that key's.
 * PSA_UNKNOWN_POOL when absent. Keys are 32 bytes, addresses zero padded. */
int psa_find(const psa_arena *arena, const uint8_t *key, uint64_t *pool);

/* References of many keys, 32 bytes each; 2^32-1 where unknown. Returns the number found. */
uint32_t psa_find_many(const psa_arena *arena, const uint8_t *keys, uint32_t count, uint64_t *pools);

/* Copy the static rows of many references, generation 0 for any. PSA_POOL_REMOVED when a row is of another
 * generation by now, PSA_BAD_ARGUMENT for a slot beyond the table; `failed` is then its index. */
int psa_rows_read(const psa_arena *arena, const uint64_t *pools, uint32_t count, psa_static *rows,
                  uint32_t *failed);

/* ---- apply.c, ticks.c, undo.c: the writer ---------------------------------------------------------------------- */

/* Add a token, or find it by address. */
int psa_token_add(psa_writer *writer, const psa_token *token, uint32_t *index);

/* Give a pool a slot and enter it in the index. It is invisible until its first install or announcement
 * commits. An existing key returns its slot. A slot whose pool's removal is committed is used again: by
 * the same key, or, when there is no fresh one, by any. Reserved and generation fields of `row` are
 * filled in. PSA_BAD_ARGUMENT when the removal of that key is not committed yet. */
int psa_pool_add(psa_writer *writer, const psa_static *row, uint32_t *slot);

/* Slot of a key that has one and was not removed, the open commit included. PSA_UNKNOWN_POOL. */
int psa_pool_find(const psa_writer *writer, const uint8_t *key, uint32_t *slot);

/* For a writer that begins with what another one left, once: slots given out and never shown count as
 * removed, so that they can be used again. */
int psa_slots_reclaim(psa_writer *writer);

/* Show a pool as syncing, before it has values, in the open commit; it has some from its install on.
 * PSA_BAD_ARGUMENT for a pool that is there already, PSA_POOL_REMOVED for one taken away. */
int psa_pool_announce(psa_writer *writer, uint32_t slot);

/* Take a pool away, in the open commit. PSA_BAD_ARGUMENT when there is none. */
int psa_pool_remove(psa_writer *writer, uint32_t slot);

/* Replace a pool's whole state in the open commit. Reads of `line`: price/reserves, tick, liquidity,
 * fee, status, unsure, base_block, protocol_fee, fee_block. Ticks ascending, all (count,) or
 * (count, 2). PSA_INVALID_EVENT_DATA when they contradict the line (DESIGN 8), PSA_POOL_REMOVED when the
 * pool was taken away. */
int psa_pool_install(psa_writer *writer, uint32_t slot, const psa_line *line, const int32_t *ticks,
                     const uint64_t *gross, const uint64_t *net, uint32_t count);

/* A protocol fee of V4 that a block the arena holds set and its stream did not bring, in the open
 * commit: without effect when the pool's fees are of that block or a later one. Nothing undoes it: on
 * a revert of that block the caller makes the pool stale. PSA_BAD_ARGUMENT for a pool without values or
 * of another protocol, PSA_INVALID_EVENT_DATA for a fee no contract takes. */
int psa_pool_set_protocol_fee(psa_writer *writer, uint32_t slot, uint64_t protocol_fee,
                              uint64_t block_number);

/* Change the status of one pool, or of all pools that have values and status `from`, in the open commit,
 * to SYNCING, LIVE or STALE. PSA_BAD_ARGUMENT for another status, and for a pool without values. */
int psa_pool_set_status(psa_writer *writer, uint32_t slot, uint32_t status, uint32_t unsure);
int psa_set_status_all(psa_writer *writer, uint32_t from, uint32_t to, uint32_t unsure);

/* Apply complete units (blocks, reorg marks, epilogues) as psa_feed_decode hands them over. Commits at
 * block ends when min_commit_ns passed since the last commit (0: every block), and at ReorgComplete,
 * never inside a reorg envelope; the caller ends a batch with psa_commit. Events that cannot be applied
 * are counted and listed in writer->faults. `only_slot` (2^32-1: all) catches one pool up with blocks
 * up to the head: it leaves head, undo ring and commits alone, and the pool then counts as scraped at
 * the head. PSA_POOL_REMOVED when that pool is not there. */
int psa_apply(psa_writer *writer, const psa_event *events, uint64_t count, uint64_t min_commit_ns,
              uint32_t only_slot);

/* The number of the last block when `events` are nothing but whole blocks tip + 1, tip + 2, ... of which
 * none is reverted; 0 otherwise. */
uint64_t psa_blocks_follow(const psa_event *events, uint64_t count, uint64_t tip);

/* Forget all undo entries: after a gap no block below can be undone. */
int psa_undo_clear(psa_writer *writer);

/* Note the hash of a block that can be undone. PSA_UNKNOWN_POOL when there is none of that number. */
int psa_undo_set_hash(psa_writer *writer, uint64_t block_number, const uint8_t *hash);

/* The blocks that can be undone, the head first: numbers (capacity,) and hashes (capacity, 32), zero =
 * unknown. Returns how many were stored. */
uint32_t psa_undo_blocks(const psa_writer *writer, uint64_t *numbers, uint8_t *hashes,
                         uint32_t capacity);

/* ---- decode.c, encode.c: the feed --------------------------------------------------------------------------------- */

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

/* Write events as frames (length prefix included). Dialect EXEX writes g15, BRIDGE its own form of it;
 * records only older
 * generations can send keep their form (BeginBlock without base fee, Slot0Override by its variant,
 * V2_DELTA: variant 0 V2Swap, 1 V2Liquidity), which every family C reader takes. `source` holds the
 * bytes OPAQUE records point into (may be null when there are none). On PSA_BUFFER_TOO_SMALL *nbytes
 * is what is needed. PSA_INVALID_EVENT_DATA names, in *failed, a record the dialect cannot carry. */
int psa_encode(const psa_event *events, uint64_t count, uint32_t dialect, const uint8_t *source,
               uint64_t source_nbytes, uint8_t *out, uint64_t capacity, uint64_t *nbytes,
               uint64_t *failed);

/* ---- swap.c: quotes ------------------------------------------------------------------------------------------------ */

typedef struct {
    uint64_t amount_in[4];
    uint64_t amount_out[4];
    uint64_t sqrt_price_x96_after[4]; /* V2: 0 */
    uint64_t liquidity_after[2];
    int32_t tick_after;
    uint32_t ticks_crossed;
    uint32_t is_complete;    /* 0: the price limit or the end of liquidity stopped it */
    uint32_t status;         /* in batches: the status of this quote */
    uint64_t commit;         /* commit the answer belongs to */
    uint64_t block_number;   /* of the pool's last applied event, or its base block */
} psa_quote_result;

#define PSA_EXACT_OUT 1       /* amount is the output */
#define PSA_ALLOW_STALE 2     /* answer from a pool that is not live */
#define PSA_ALLOW_DYNAMIC 4   /* use the stored LP fee of a dynamic-fee pool */
#define PSA_FEE_GIVEN 8       /* use `lp_fee` instead of the stored one (V4 dynamic) */
#define PSA_ZERO_FOR_ONE 16
#define PSA_ONE_POOL 32       /* psa_quote_batch: every amount is asked of slots[0] */
#define PSA_ALLOW_HOOKS 64    /* with PSA_FEE_GIVEN: the curve's answer, whatever hooks the pool has */

/* TickMath: the price of a tick, 4 limbs. PSA_BAD_ARGUMENT outside [-887272, 887272]. */
int psa_sqrt_price_at_tick(int32_t tick, uint64_t *sqrt_price_x96);

/* TickMath: the greatest tick whose price is at most this one, 4 limbs. PSA_BAD_ARGUMENT outside
 * [4295128739, 1461446703485210103287273052203988822378723970342). */
int psa_tick_at_sqrt_price(const uint64_t *sqrt_price_x96, int32_t *tick);

/* Quote on the shared versions, as of `commit` (0: newest). `amount` and `limit` are 32-byte
 * little-endian; limit null = none (V2 takes none: PSA_BAD_ARGUMENT). Every answer, refusals included,
 * is validated by the stamp after the last use of shared memory. When the writer overtakes it the quote
 * is repeated on the new newest version, three times in all, then PSA_CONTENDED: the caller copies the
 * pool with psa_pool_read_ticks and asks psa_quote_copy. With a pinned commit it is
 * PSA_SNAPSHOT_TOO_OLD at once. On failure the result is zero but for status, commit and block. */
int psa_quote(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
              const uint8_t *amount, const uint8_t *limit, uint32_t flags, uint32_t lp_fee,
              psa_quote_result *result);

/* Many quotes, item i on slots[i] with generations[i], or all on the first with PSA_ONE_POOL in `flags`.
 * amounts: (count, 4) u64 words. item_flags, where not null, are added to `flags`; generations null =
 * any. No price limits, no PSA_FEE_GIVEN, no PSA_ALLOW_HOOKS. Each result has its own status and commit; the function
 * returns PSA_OK unless arguments are wrong. With commit 0 items may belong to different commits. */
int psa_quote_batch(const psa_arena *arena, const uint32_t *slots, const uint32_t *generations,
                    uint64_t commit, const uint64_t *amounts, const uint32_t *item_flags,
                    uint32_t flags, uint32_t count, psa_quote_result *results);

/* A pool outside shared memory: the line, static row and flat tick arrays of a snapshot copy. The
 * arrays hold line.tick_count items; line.slab is not looked at. */
typedef struct {
    psa_line line;
    const psa_static *row;
    const int32_t *ticks;
    const uint64_t *net;     /* (count, 2) */
    uint64_t reserved;
} psa_pool_copy;

/* psa_quote on such a copy: the same core, the same answers. */
int psa_quote_copy(const psa_pool_copy *pool, const uint8_t *amount, const uint8_t *limit,
                   uint32_t flags, uint32_t lp_fee, psa_quote_result *result);

/* Depth ladder: one rung per step boundary, cumulative amounts from the start price. */
typedef struct {
    uint64_t amount_in[4];   /* cumulative, fee included, to reach this boundary */
    uint64_t amount_out[4];
    uint64_t sqrt_price_x96[4];
    uint64_t liquidity[2];   /* beyond the boundary */
    int32_t tick;            /* slot0 tick at the boundary */
    uint32_t ticks_crossed;
    uint64_t reserved[2];
} psa_rung;

/* Walk the whole pool in one direction to the end of the price range. rungs[0] is the start; *count is
 * how many there are, also on PSA_BUFFER_TOO_SMALL (nothing but a larger array is needed then). Words
 * without liquidity share a rung; there are at most line.tick_count + 7000 of them. A V2 pool has one
 * rung, and its ladder computes each answer. Of `flags` PSA_EXACT_OUT changes nothing. */
int psa_ladder_build(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee, psa_rung *rungs,
                     uint32_t capacity, uint32_t *count);

/* Answer `amounts` ((count, 4) u64 words) on a ladder built from the same pool, direction and fee, each
 * with a binary search and a partial step; what psa_quote_copy answers without a limit, bit for bit. */
int psa_ladder_quote(const psa_pool_copy *pool, uint32_t flags, uint32_t lp_fee,
                     const psa_rung *rungs, uint32_t rung_count, const uint64_t *amounts,
                     uint32_t count, psa_quote_result *results);

/* ---- reader.c ---------------------------------------------------------------------------------------------- */

typedef struct {
    const psa_arena *arena;
    const uint32_t *closed;  /* private word: not 0 once the handle may not be used any more */
    uint64_t commit;         /* 0: newest */
    uint32_t slot;
    uint32_t generation;
} psa_quote_call;

/* psa_quote without limit and given fee. PSA_CLOSED, with `result` untouched, when the caller must look
 * first: the handle is closed, or reads the newest commit of a superseded arena. */
int psa_quote_prepared(const psa_quote_call *call, const uint8_t *amount, uint32_t flags,
                       psa_quote_result *result);

/* The same for an amount below 2^64, which saves the caller its conversion to bytes. */
int psa_quote_word(const psa_quote_call *call, uint64_t amount, uint32_t flags,
                   psa_quote_result *result);

/* cffi: end */

_Static_assert(sizeof(psa_event) == 192, "psa_event");
_Static_assert(sizeof(psa_line) == 128, "psa_line");
_Static_assert(sizeof(psa_slot) == 256, "psa_slot");
_Static_assert(sizeof(psa_static) == 128, "psa_static");
_Static_assert(sizeof(psa_token) == 64, "psa_token");
_Static_assert(sizeof(psa_slab) == 64, "psa_slab");
_Static_assert(sizeof(psa_commit_record) == 128, "psa_commit_record");
_Static_assert(sizeof(psa_undo_entry) == 96, "psa_undo_entry");
_Static_assert(sizeof(psa_undo_record) == 88, "psa_undo_record");
_Static_assert(sizeof(psa_header) == 4096, "psa_header");
_Static_assert(offsetof(psa_header, committed) == 192, "committed");
_Static_assert(offsetof(psa_header, origin) == 152, "origin");
_Static_assert(offsetof(psa_header, commits) == 384, "commits");
_Static_assert(offsetof(psa_header, counters) == 640, "counters");
_Static_assert(sizeof(psa_phase) == 256, "psa_phase");
_Static_assert(sizeof(psa_control) == 4096, "psa_control");
_Static_assert(offsetof(psa_control, writer_pid) == 128, "writer_pid");
_Static_assert(offsetof(psa_control, phases) == 320, "phases");

#endif
