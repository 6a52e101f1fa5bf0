/* layout.h: the bytes of the shared memory, which layouts/ repeats for numpy; a test holds both equal.
 *
 * Two segments: the control segment is a psa_control; the data segment begins with a psa_header, whose
 * offsets say where static rows, slots, tokens, key index, undo ring and tick heap lie. 128- and 256-bit
 * integers are little-endian arrays of uint64_t limbs; i128 is two's complement. A change here changes
 * the layout version. build.py reads what stands between the two cffi markers.
 */
#ifndef PSA_LAYOUT_H
#define PSA_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */

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
#define PSA_SOLIDLY 16            /* as those from here on, in no feed */
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

/* counters in the data header; [FAULTS + status - PSA_POOL_NOT_FOUND], [UNSUPPORTED + protocol] of the
 * feed's, [APPLIED + protocol * KINDS + kind - PSA_EVENT_V2_SYNC] of the protocols held */
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
#define PSA_COUNTER_FAULTS 48
#define PSA_COUNTER_UNSUPPORTED 64       /* + protocol, 15 = unknown string */
#define PSA_COUNTER_APPLIED 96
#define PSA_COUNTER_KINDS 12             /* of events, for each protocol from 0 to 23 */

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
    uint8_t token_count;     /* 2 in all protocols held */
    uint32_t more_tokens[6]; /* token table indices of the third to the eighth; 0 where there is none */
    uint64_t reserved0;
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

#define PSA_SLAB_CLASSES 40
#define PSA_SLAB_TICKS 0

/* slab header; of ticks, arrays follow, each 64-byte aligned: tick i32[cap], net i128[cap], gross u128[cap] */
typedef struct {
    uint32_t slab_class;
    uint32_t owner;          /* slot + 1, for debugging */
    uint32_t next_free;      /* writer only; offset in 64-byte units */
    uint32_t kind;           /* PSA_SLAB_*: what follows */
    uint64_t serial;         /* another one for each content, within an origin; 0 = never taken */
    uint64_t reserved0[5];
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

/* ---- ring of changes: which slots each commit wrote -------------------------------------------------- */

/* of commit c, at c % change_entry_count; its slots stand in the ring of slots from the end of commit
 * c - 1 on, the one numbered n at n % change_slot_count */
typedef struct {
    uint64_t stamp;          /* number of the commit */
    uint64_t end;            /* number after its last slot; only grows */
} psa_change_entry;

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

#define PSA_COUNTERS 384

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
    uint64_t origin;         /* of the arena in which commits and slots began to be counted: another one each time */
    uint64_t change_entries_offset;
    uint64_t change_slots_offset;
    uint32_t change_entry_count; /* both powers of two, from max_pools */
    uint32_t change_slot_count;
    uint64_t reserved0;
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
    uint64_t change_reserved; /* highest end ever begun in the ring of changes, also by a dead writer */
    uint64_t slab_serial;    /* highest serial ever given to a slab */
    uint64_t reserved3[5];
    /* 384 */
    psa_commit_record commits[2];
    /* 640 */
    uint64_t counters[PSA_COUNTERS]; /* layouts/header.py names them */
    /* 3712 */
    uint64_t reserved4[48];
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

/* cffi: end */

_Static_assert(sizeof(psa_line) == 128, "psa_line");
_Static_assert(sizeof(psa_slot) == 256, "psa_slot");
_Static_assert(sizeof(psa_static) == 128, "psa_static");
_Static_assert(sizeof(psa_token) == 64, "psa_token");
_Static_assert(sizeof(psa_slab) == 64, "psa_slab");
_Static_assert(sizeof(psa_commit_record) == 128, "psa_commit_record");
_Static_assert(sizeof(psa_change_entry) == 16, "psa_change_entry");
_Static_assert(sizeof(psa_undo_entry) == 96, "psa_undo_entry");
_Static_assert(sizeof(psa_undo_record) == 88, "psa_undo_record");
_Static_assert(sizeof(psa_header) == 4096, "psa_header");
_Static_assert(offsetof(psa_header, committed) == 192, "committed");
_Static_assert(offsetof(psa_header, origin) == 152, "origin");
_Static_assert(offsetof(psa_header, commits) == 384, "commits");
_Static_assert(offsetof(psa_header, counters) == 640, "counters");
_Static_assert(PSA_COUNTER_APPLIED + 24 * PSA_COUNTER_KINDS <= PSA_COUNTERS, "counters of 24 protocols");
_Static_assert(sizeof(psa_phase) == 256, "psa_phase");
_Static_assert(sizeof(psa_control) == 4096, "psa_control");
_Static_assert(offsetof(psa_control, writer_pid) == 128, "writer_pid");
_Static_assert(offsetof(psa_control, phases) == 320, "phases");

#endif
