/* arena.h: the contract of the native core.
 *
 * Statuses, private handles and, with the headers that build.py names beside this one, every function Python
 * may call; the bytes they work on are in layout.h. What stands between their two cffi markers is read as it stands:
 * plain C declarations and integer constants only.
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

#include "feed.h"
#include "layout.h"

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
#define PSA_NO_MEMORY 18
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

/* ---- private handles ------------------------------------------------------------------------------------ */

typedef struct {
    uint8_t *base;
    uint64_t nbytes;
    psa_header *header;
    psa_static *statics;
    psa_slot *slots;
    psa_token *tokens;
    uint32_t *buckets;
    psa_change_entry *change_entries;
    uint32_t *change_slots;
    psa_undo_entry *undo_entries;
    psa_undo_record *undo_records;
    uint8_t *heap;
    uint64_t heap_nbytes;
    uint64_t undo_record_count;
    uint32_t max_pools;
    uint32_t max_tokens;
    uint32_t bucket_mask;
    uint32_t undo_entry_count;
    uint32_t change_entry_mask;
    uint32_t change_slot_mask;
} psa_arena;

typedef struct {
    uint32_t max_pools;
    uint32_t max_tokens;
    uint32_t undo_entry_count;
    uint32_t reserved;
    uint64_t undo_record_count;
    uint64_t heap_nbytes;
} psa_capacities;

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

/* ---- layout.c: a data segment -------------------------------------------------------------- */

/* Bytes a data segment of these capacities needs; 0 when one is out of range. */
uint64_t psa_arena_nbytes(const psa_capacities *capacities);

/* Write the header of a new data segment over zeroed memory. */
int psa_arena_format(uint8_t *base, uint64_t nbytes, const psa_capacities *capacities,
                     uint64_t generation, const uint8_t *digest);

/* Check a mapped segment's header and fill `arena`. PSA_LAYOUT_MISMATCH when anything is off. */
int psa_arena_open(psa_arena *arena, uint8_t *base, uint64_t nbytes);

/* ---- versions.c: commits, reading ------------------------------------------------------------------------------ */

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

/* ---- changes.c: which pools were written ------------------------------------------------------------- */

/* References of the pools that are there at `commit`, with values, and were written by a commit after
 * `since`, up to and including `commit`; of them those whose last event or reading is of `first_block` or
 * a later one. Ascending by slot, each once. Looks at what those commits wrote; at all pools when
 * `since` is 0 or too far back. *count is how many there are; on PSA_BUFFER_TOO_SMALL how much room is
 * needed, which is more when some were written by several commits.
 * PSA_SNAPSHOT_TOO_OLD when a pool was written twice since `commit`. */
int psa_changed(const psa_arena *arena, uint64_t since, uint64_t commit, uint64_t first_block,
                uint64_t *pools, uint32_t capacity, uint32_t *count);

/* ---- copy.c: one pool in one piece ------------------------------------------------------------------- */

/* What a copy begins with. Behind it lie net and gross, (line.tick_count, 2) u64 each, and the ticks,
 * (line.tick_count,) i32: 36 bytes a tick. line.slab is the pool's slot, and
 * line.reserved1 how many swaps psa_copy_after added. */
typedef struct {
    psa_line line;
    psa_static row;
    psa_token tokens[2];
} psa_copy_head;

/* Copy one pool as of `commit` (0: the newest); `generation` as in psa_pool_read. `arrays` has room for
 * `capacity` ticks; null: no ticks are copied. On PSA_BUFFER_TOO_SMALL head->line.tick_count is what is
 * needed. PSA_UNKNOWN_POOL for a slot that shows no pool; PSA_POOL_REMOVED, as of a commit
 * PSA_SNAPSHOT_TOO_OLD, when the static row is another pool's by now; PSA_DAMAGED when line or row name
 * what cannot be. */
int psa_copy_read(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                  psa_copy_head *head, uint64_t *arrays, uint32_t capacity);

/* ---- open.c: where a writer begins ------------------------------------------------------------------------- */

/* Begin writing: look at everything that is there, drop lines newer than the last commit, rebuild the
 * free lists. `touched` and `dirty` are the caller's arrays of max_pools items and must outlive the
 * writer. PSA_DAMAGED, and nothing but owners of slabs changed, when the content contradicts itself;
 * PSA_FULL_SHM when a part that was given pages has lost them and there are none left. */
int psa_writer_open(psa_writer *writer, uint8_t *base, uint64_t nbytes, int32_t fd,
                    uint64_t *touched, uint32_t *dirty);

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

#define PSA_KEY_TEXT 67       /* bytes a key takes at most: 0x, 64 digits, a line end */

/* Keys of many references as text, each with a line end; *nbytes is how long it is. Room for PSA_KEY_TEXT
 * bytes each. PSA_POOL_REMOVED when a row is of another generation by now. */
int psa_keys_read(const psa_arena *arena, const uint64_t *pools, uint32_t count, char *text,
                  uint64_t *nbytes);

/* ---- index.c, pools.c, apply.c, undo.c: the writer ---------------------------------------------------------------------- */

/* Add a token, or find it by address. */
int psa_token_add(psa_writer *writer, const psa_token *token, uint32_t *index);

/* Give a pool a slot and enter it in the index. It is invisible until its first install or announcement
 * commits. An existing key returns its slot. A slot whose pool's removal is committed is used again: by
 * the same key, or, when there is no fresh one, by any. Generation, token count, further tokens and
 * reserved fields of `row` are filled in. PSA_BAD_ARGUMENT when the removal of that key is not committed yet. */
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
 * (count, 2). PSA_INVALID_EVENT_DATA when they contradict it or each other, PSA_POOL_REMOVED when the
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

/* ---- quote.c: quotes; tick_math.c ----------------------------------------------------------------------------------- */

typedef struct {
    uint64_t amount_in[4];
    uint64_t amount_out[4];
    uint64_t sqrt_price_x96_after[4]; /* V2: 0 */
    uint64_t liquidity_after[2];
    int32_t tick_after;
    uint32_t ticks_crossed;
    uint8_t is_complete;     /* 0: the price limit or the end of liquidity stopped it */
    uint8_t zero_for_one;
    uint8_t protocol;
    uint8_t reserved0;
    uint32_t status;         /* in batches: the status of this quote */
    uint64_t commit;         /* commit the answer belongs to */
    uint64_t block_number;   /* of the pool's last applied event, or its base block */
    uint32_t sqrt_price_hi_before; /* what the swap starts from, these four as in the line */
    int32_t tick_before;
    uint64_t a_before[2];
    uint64_t b_before[2];
    uint32_t fee_pips;       /* of the whole swap, of LPs and protocol */
    uint32_t slot;           /* of the pool: with `commit` it names the version */
} psa_quote_result;

#define PSA_EXACT_OUT 1       /* amount is the output */
#define PSA_ALLOW_STALE 2     /* answer from a pool that is not live */
#define PSA_ALLOW_DYNAMIC 4   /* use the stored LP fee of a dynamic-fee pool */
#define PSA_FEE_GIVEN 8       /* use `lp_fee` instead of the stored one (V4 dynamic) */
#define PSA_ZERO_FOR_ONE 16
#define PSA_ONE_POOL 32       /* psa_quote_batch: every amount is asked of pools[0] */
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

/* Many quotes, item i on pools[i], or all on the first with PSA_ONE_POOL in `flags`; `pools` are references
 * as psa_snapshot takes them. amounts: (count, 4) u64 words. item_flags, where not null, are added to
 * `flags`. No price limits, no PSA_FEE_GIVEN, no PSA_ALLOW_HOOKS. Each result has its own status and commit,
 * with commit 0 they may belong to different ones; up to 64 neighbours that ask one pool are answered on
 * one version of it. PSA_CONTENDED, with a commit PSA_SNAPSHOT_TOO_OLD, when at least one item has that
 * status. */
int psa_quote_batch(const psa_arena *arena, const uint64_t *pools, uint64_t commit,
                    const uint64_t *amounts, const uint32_t *item_flags, uint32_t flags, uint32_t count,
                    psa_quote_result *results);

/* A pool outside shared memory: the line, static row and flat tick arrays of a snapshot copy. The
 * arrays hold line.tick_count items; line.slab is the slot that answers name. */
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

/* ---- api.c ------------------------------------------------------------------------------------- */

typedef struct psa_api psa_api;

/* The functions that the extension types of `_handle` call; see api.h. */
const psa_api *psa_functions(void);

/* cffi: end */

#endif
