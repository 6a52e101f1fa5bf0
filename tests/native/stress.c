/* Torn reads of the version protocol: one writer at full speed, readers that check every word.
 *
 *   stress threads SECONDS READERS POOLS     writer and readers are threads, memory is anonymous
 *   stress writer PATH SECONDS POOLS         writer on a shared file, renamed to PATH when ready
 *   stress reader PATH READS                 reader on a read-only mapping of that file
 *   stress unchecked SECONDS READERS POOLS   readers skip the check at R3: torn reads must show up
 *
 * Block b touches every pool i with (i + b) % STRIDE = 0; every second touch leaves the ticks alone. After
 * it, each word of the pool's line follows from (i, b), and its ticks from (i, round_of(b)); so one block
 * number found in a line tells what the rest must be, and the block of a commit tells the block of each
 * line read as of it. Half of the reads are pinned to one commit until it is too old: those use the lines
 * the writer is about to overwrite. The pools changed since the last pin are those of the blocks since. At times the writer abandons a half-applied block of other pools
 * before the next one, by psa_abort or as a dead writer would (psa_writer_open without a commit).
 *
 * Prints counts; exits 0 when nothing was wrong (unchecked: when something was), 1 otherwise, 2 on misuse.
 */
#include "basics.h"

#include "../../arena/native/group.h"
#include "../../arena/native/versions.h"

#define STRIDE 4
#define POSITIONS 64
#define MAX_TICKS 128
#define FIRST_BLOCK 4096
#define FEE_STATUS (UINT32_C(3000) | (uint32_t)PSA_STATUS_LIVE << 24)

/* ---- what pool i must hold after block b ---- */

static uint8_t protocol_of(uint32_t pool) { return (uint8_t)(pool % 3); }

static int32_t tick_at(uint32_t pool, uint64_t block) {
    return (int32_t)(mix(pool, block, 3) % 1601) - 800;
}

static void price_at(uint32_t pool, uint64_t block, uint64_t *words, uint32_t *hi) {
    words[0] = mix(pool, block, 4);
    words[1] = mix(pool, block, 5);
    *hi = 1 + (uint32_t)(mix(pool, block, 6) % UINT32_C(0xfffd8000));
}

static void liquidity_at(uint32_t pool, uint64_t block, uint64_t *words) {
    words[0] = mix(pool, block, 7);
    words[1] = UINT64_C(1) << 50 | mix(pool, block, 8) >> 16;
}

static void reserves_at(uint32_t pool, uint64_t block, uint64_t *reserve0, uint64_t *reserve1) {
    reserve0[0] = mix(pool, block, 9);
    reserve0[1] = mix(pool, block, 10) >> 16;
    reserve1[0] = mix(pool, block, 11);
    reserve1[1] = mix(pool, block, 12) >> 16;
}

static uint32_t tx_at(uint64_t block) { return (uint32_t)(block * 7) & 0xffff; }
static uint32_t log_at(uint32_t pool, uint64_t block) {
    return 1000 + (uint32_t)(mix(pool, block, 13) & 0xffff);
}

/* After round n a pool has the positions of rounds (n - window, n]; round m spans the ticks
 * -(1 + m % 64) * 10 .. (1 + m % 64) * 10. The window breathes between 8 and 40 positions. */
static uint64_t window_at(uint64_t round) {
    uint64_t phase = round % POSITIONS;
    return 8 + (phase < 32 ? phase : 64 - phase);
}

static int32_t reach_of(uint64_t round) { return (int32_t)(1 + round % POSITIONS) * SPACING; }

static unsigned __int128 position_of(uint32_t pool, uint64_t round) {
    return (unsigned __int128)(mix(pool, round, 14) >> 40) << 64 | (mix(pool, round, 15) | 1);
}

static uint64_t round_of(uint64_t block) { return block / STRIDE / 2; }
static int changes_ticks(uint64_t block) { return block / STRIDE % 2 == 0; }

static uint64_t newest_block(uint32_t pool, uint64_t head) { return head - (head + pool) % STRIDE; }

/* ---- checks ---- */

static int line_holds(const psa_line *line, uint32_t pool) {
    uint64_t block = line->block_number, a[2], b[2];
    uint32_t hi = 0;
    if (block <= FIRST_BLOCK - STRIDE || (block + pool) % STRIDE != 0) return 0;
    if (line->tx_index != tx_at(block) || line->log_index != log_at(pool, block)) return 0;
    if (line->fee_status != FEE_STATUS || line->unsure != 0 || line->generation != 1) return 0;
    if (line->base_block != newest_block(pool, FIRST_BLOCK - STRIDE)) return 0;
    if (protocol_of(pool) == PSA_UNISWAP_V2) {
        reserves_at(pool, block, a, b);
        if (line->slab != 0 || line->tick_count != 0 || line->tick != 0) return 0;
    } else {
        price_at(pool, block, a, &hi);
        liquidity_at(pool, block, b);
        if (line->tick != tick_at(pool, block)) return 0;
        if (line->tick_count != 2 * window_at(round_of(block))) return 0;
    }
    return memcmp(a, line->a, 16) == 0 && memcmp(b, line->b, 16) == 0 && hi == line->sqrt_price_hi;
}

static int ticks_hold(const psa_line *line, uint32_t pool, const int32_t *ticks, const uint64_t *net,
                      const uint64_t *gross) {
    if (protocol_of(pool) == PSA_UNISWAP_V2) return 1;
    uint64_t round = round_of(line->block_number), window = window_at(round);
    uint32_t at_or_below = 0;
    unsigned __int128 sum = 0;
    for (uint32_t i = 0; i < line->tick_count; i++) {
        int32_t reach = ticks[i] < 0 ? -ticks[i] : ticks[i];
        if (reach == 0 || reach % SPACING != 0 || reach > POSITIONS * SPACING) return 0;
        if (i > 0 && ticks[i] <= ticks[i - 1]) return 0;
        uint64_t place = (uint64_t)(reach / SPACING - 1);
        uint64_t of = round - (round - place) % POSITIONS; /* newest round at that place */
        if (round - of >= window) return 0;
        unsigned __int128 amount = position_of(pool, of);
        unsigned __int128 want = ticks[i] < 0 ? amount : -amount;
        if (gross[2 * i] != (uint64_t)amount || gross[2 * i + 1] != (uint64_t)(amount >> 64)) return 0;
        if (net[2 * i] != (uint64_t)want || net[2 * i + 1] != (uint64_t)(want >> 64)) return 0;
        sum += want;
        at_or_below += ticks[i] <= line->tick;
    }
    return sum == 0 && at_or_below == line->current_index;
}

/* ---- writer ---- */

static uint32_t pool_count;
static uint64_t next_block = FIRST_BLOCK - STRIDE + 1;
static psa_event *the_events; /* room for one block */

static void prepare(uint32_t pools) { pool_count = pools; }

static void pool_key(uint32_t pool, uint8_t *key) {
    for (uint64_t i = 0; i < 4; i++) {
        uint64_t word = mix(pool, i, 1);
        memcpy(key + 8 * i, &word, 8);
    }
}

static psa_event *event_of(psa_event *event, uint32_t pool, uint64_t block, uint8_t kind,
                           uint32_t log_index) {
    memset(event, 0, sizeof(*event));
    event->kind = kind;
    event->block_number = block;
    event->tx_index = tx_at(block);
    event->log_index = log_index;
    event->protocol = protocol_of(pool);
    event->flags = PSA_EVENT_IN_BLOCK;
    event->key_nbytes = 32;
    pool_key(pool, event->key);
    return event;
}

static void liquidity_event(psa_event *event, uint32_t pool, uint64_t round, int is_mint) {
    unsigned __int128 amount = position_of(pool, round);
    event->update_type = is_mint ? PSA_UPDATE_MINT : PSA_UPDATE_BURN;
    if (!is_mint && event->protocol == PSA_UNISWAP_V4) amount = -amount; /* V4 is signed as sent */
    event->tick_lower = -reach_of(round);
    event->tick_upper = reach_of(round);
    event->amount[0] = (uint64_t)amount;
    event->amount[1] = (uint64_t)(amount >> 64);
}

static uint64_t pool_events(psa_event *events, uint32_t pool, uint64_t block) {
    uint64_t count = 0;
    if (protocol_of(pool) == PSA_UNISWAP_V2) {
        psa_event *sync = event_of(events, pool, block, PSA_EVENT_V2_SYNC, log_at(pool, block));
        reserves_at(pool, block, &sync->words[0], &sync->words[4]);
        return 1;
    }
    if (changes_ticks(block)) {
        uint64_t round = round_of(block), first = round - window_at(round) + 1;
        psa_event *mint = event_of(&events[count++], pool, block, PSA_EVENT_CL_LIQUIDITY, 0);
        liquidity_event(mint, pool, round, 1);
        for (uint64_t gone = round - window_at(round - 1); gone < first; gone++, count++) {
            uint32_t log_index = (uint32_t)count;
            psa_event *burn =
                event_of(&events[count], pool, block, PSA_EVENT_CL_LIQUIDITY, log_index);
            liquidity_event(burn, pool, gone, 0);
        }
    }
    psa_event *swap = event_of(&events[count], pool, block, PSA_EVENT_CL_SWAP, log_at(pool, block));
    uint32_t hi;
    price_at(pool, block, swap->words, &hi);
    swap->words[2] = hi;
    liquidity_at(pool, block, swap->amount);
    swap->tick = tick_at(pool, block);
    return count + 1;
}

static uint64_t block_events(uint64_t block) {
    uint64_t count = 0;
    psa_event *begin = event_of(&the_events[count++], 0, block, PSA_EVENT_BEGIN_BLOCK, 0);
    begin->timestamp = mix(block, 0, 16);
    begin->words[0] = mix(block, 0, 17);
    for (uint32_t pool = 0; pool < pool_count; pool++)
        if ((pool + block) % STRIDE == 0) count += pool_events(&the_events[count], pool, block);
    psa_event *end = event_of(&the_events[count++], 0, block, PSA_EVENT_END_BLOCK, 0);
    end->stream_seq = mix(block, 0, 18);
    return count;
}

static void apply_events(load *run, uint64_t count) {
    int status = psa_apply(&run->writer, the_events, count, 0, PSA_NO_SLOT);
    if (status != PSA_OK) fail("psa_apply", status);
    if (run->writer.fault_count != 0) fail("fault", (long)run->writer.faults[0].status);
}

static void open_writer(load *run) {
    int status = psa_writer_open(&run->writer, run->base, run->nbytes, -1, run->touched, run->dirty);
    if (status != PSA_OK) fail("psa_writer_open", status);
}

/* Begin the block after the next, which touches other pools, and give it up. */
static void abandon_block(load *run, int as_dead) {
    uint64_t count = block_events(next_block + 1);
    apply_events(run, as_dead ? count - 1 : count / 2);
    if (as_dead) open_writer(run);
    else psa_abort(&run->writer);
    run->takeovers += as_dead != 0;
    run->aborts += as_dead == 0;
}

static void one_commit(load *run) {
    if (next_block % 512 < 8) abandon_block(run, 0);
    if (next_block % 4096 >= 4088) abandon_block(run, 1);
    apply_events(run, block_events(next_block));
    next_block++;
}

static void install(load *run, uint32_t pool) {
    uint64_t block = newest_block(pool, FIRST_BLOCK - STRIDE), round = round_of(block);
    psa_static row = {.tick_spacing = SPACING, .fee_pips = 3000, .key_nbytes = 32};
    psa_line line = {.fee_status = FEE_STATUS, .base_block = block};
    int32_t ticks[MAX_TICKS];
    uint64_t gross[2 * MAX_TICKS], net[2 * MAX_TICKS];
    uint32_t count = 0, slot;
    unsigned __int128 active = 0;
    row.protocol = protocol_of(pool);
    pool_key(pool, row.key);
    if (row.protocol == PSA_UNISWAP_V2) {
        reserves_at(pool, block, line.a, line.b);
    } else {
        price_at(pool, block, line.a, &line.sqrt_price_hi);
        for (int32_t place = -POSITIONS; place <= POSITIONS; place++) {
            uint64_t back = (round - (uint64_t)((place < 0 ? -place : place) - 1)) % POSITIONS;
            if (place == 0 || back >= window_at(round)) continue;
            unsigned __int128 amount = position_of(pool, round - back);
            unsigned __int128 signed_amount = place < 0 ? amount : -amount;
            ticks[count] = place * SPACING;
            gross[2 * count] = (uint64_t)amount;
            gross[2 * count + 1] = (uint64_t)(amount >> 64);
            net[2 * count] = (uint64_t)signed_amount;
            net[2 * count + 1] = (uint64_t)(signed_amount >> 64);
            if (place < 0) active += amount; /* tick is 0 */
            count++;
        }
        line.b[0] = (uint64_t)active;
        line.b[1] = (uint64_t)(active >> 64);
    }
    int status = psa_pool_add(&run->writer, &row, &slot);
    if (status != PSA_OK || slot != pool) fail("psa_pool_add", status);
    status = psa_pool_install(&run->writer, slot, &line, ticks, gross, net, count);
    if (status != PSA_OK) fail("psa_pool_install", status);
}

static psa_capacities capacities_for(uint32_t pools) {
    return (psa_capacities){
        .max_pools = pools,
        .max_tokens = 1,
        .undo_entry_count = 64,
        .undo_record_count = 64 + 16 * (uint64_t)pools,
        .heap_nbytes = (UINT64_C(1) << 20) + UINT64_C(65536) * pools,
    };
}

/* Install the pools and apply STRIDE blocks, so that every line is one the checks know. */
static void start_load(load *run, uint8_t *base, uint64_t nbytes, uint32_t pools) {
    psa_capacities capacities = capacities_for(pools);
    format_load(run, base, nbytes, &capacities);
    the_events = calloc(2 + 4 * (size_t)pools, sizeof(*the_events));
    if (!the_events) fail("calloc", 0);
    open_writer(run);
    for (uint32_t pool = 0; pool < pools; pool++) install(run, pool);
    psa_commit(&run->writer);
    for (int i = 0; i < STRIDE; i++) one_commit(run);
}

static void finish_load(load *run, uint64_t since_ns) {
    double seconds = (double)(now_ns() - since_ns) / 1e9;
    uint64_t blocks = next_block - FIRST_BLOCK - 1;
    printf("writer: %llu commits, %.0f/s, %llu aborts, %llu take-overs\n", (unsigned long long)blocks,
           (double)blocks / seconds, (unsigned long long)run->aborts,
           (unsigned long long)run->takeovers);
    free(run->touched);
    free(run->dirty);
    free(the_events);
}

/* ---- readers ---- */

typedef struct {
    const psa_arena *arena;
    uint32_t seed;
    int unchecked;
    uint64_t limit; /* reads; 0 = until stop */
    uint64_t reads;
    uint64_t torn;
    uint64_t contended;
    uint64_t too_old;
    psa_commit_record pin;
} reader;

static void add_reader(reader *total, const reader *one) {
    total->reads += one->reads;
    total->torn += one->torn;
    total->contended += one->contended;
    total->too_old += one->too_old;
}

static void count_read(reader *self, int status, int holds) {
    self->reads++;
    if (status == PSA_OK) self->torn += !holds;
    else if (status == PSA_CONTENDED) self->contended++;
    else if (status == PSA_SNAPSHOT_TOO_OLD) self->too_old++;
    else fail("read", status);
}

/* Pin the newest commit; its record must be of one block. */
static void pin_commit(reader *self) {
    int status = psa_pin(self->arena, &self->pin);
    uint64_t head = self->pin.block_number;
    count_read(self, status, status == PSA_OK && self->pin.timestamp == mix(head, 0, 16) &&
                                 self->pin.base_fee == mix(head, 0, 17) &&
                                 self->pin.stream_seq == mix(head, 0, 18));
}

/* Whether the block of a line read as of `commit` is right; 0 is the newest commit, which has no name. */
static int block_holds(const reader *self, const psa_line *line, uint32_t pool, uint64_t commit) {
    return commit == 0 || line->block_number == newest_block(pool, self->pin.block_number);
}

/* The pools written between the last pin and a new one. */
static void read_changed(reader *self, uint64_t *pools) {
    psa_commit_record before = self->pin;
    uint32_t count, expected = 0;
    pin_commit(self);
    uint64_t first = before.block_number, last = self->pin.block_number;
    int status = psa_changed(self->arena, before.stamp, self->pin.stamp, 0, pools, pool_count, &count);
    int holds = status == PSA_OK;
    for (uint32_t pool = 0; pool < pool_count && holds; pool++) {
        if (newest_block(pool, last) <= first) continue;
        holds = expected < count && pools[expected] == (UINT64_C(1) << 32 | pool);
        expected++;
    }
    count_read(self, status, holds && expected == count);
}

static void read_line(reader *self, uint32_t pool, uint64_t commit) {
    psa_line line;
    uint32_t which;
    int status = self->unchecked ? psa_line_begin(self->arena, pool, commit, &line, &which)
                                 : psa_pool_read(self->arena, pool, 1, commit, &line);
    count_read(self, status, status == PSA_OK && line_holds(&line, pool) &&
                                 block_holds(self, &line, pool, commit));
    if (status == PSA_SNAPSHOT_TOO_OLD) pin_commit(self);
}

static void read_ticks(reader *self, uint32_t pool, uint64_t commit) {
    psa_line line;
    int32_t ticks[MAX_TICKS];
    uint64_t net[2 * MAX_TICKS], gross[2 * MAX_TICKS];
    int status =
        psa_pool_read_ticks(self->arena, pool, 1, commit, &line, ticks, net, gross, MAX_TICKS);
    count_read(self, status, status == PSA_OK && line_holds(&line, pool) &&
                                 block_holds(self, &line, pool, commit) &&
                                 ticks_hold(&line, pool, ticks, net, gross));
    if (status == PSA_SNAPSHOT_TOO_OLD) pin_commit(self);
}

/* Line, row and ticks in one piece. */
static void read_copy(reader *self, uint32_t pool, uint64_t commit) {
    psa_copy_head head;
    uint64_t arrays[5 * MAX_TICKS]; /* 36 bytes a tick */
    uint8_t key[32];
    int status = psa_copy_read(self->arena, pool, 1, commit, &head, arrays, MAX_TICKS);
    const uint64_t *gross = arrays + 2 * (size_t)head.line.tick_count;
    pool_key(pool, key);
    uint32_t slot = head.line.slab; /* what a copy has in its place */
    head.line.slab = 0;
    count_read(self, status, status == PSA_OK && slot == pool && line_holds(&head.line, pool) &&
                                 block_holds(self, &head.line, pool, commit) &&
                                 memcmp(key, head.row.key, 32) == 0 &&
                                 ticks_hold(&head.line, pool,
                                            (const int32_t *)(gross + 2 * (size_t)head.line.tick_count),
                                            arrays, gross));
    if (status == PSA_SNAPSHOT_TOO_OLD) pin_commit(self);
}

/* All pools at one commit: each line must be of the newest block at or below the head that has it. */
static void read_snapshot(reader *self, const uint64_t *slots, psa_line *lines) {
    uint32_t failed;
    pin_commit(self);
    int status = psa_snapshot(self->arena, slots, pool_count, self->pin.stamp, lines, &failed);
    if (status != PSA_OK) {
        count_read(self, status, 0);
        return;
    }
    for (uint32_t pool = 0; pool < pool_count; pool++)
        count_read(self, PSA_OK, line_holds(&lines[pool], pool) &&
                                     block_holds(self, &lines[pool], pool, self->pin.stamp));
}

/* The same by a group, which copies only what was written since its last read, and says what that was. */
static void read_group(reader *self, psa_group *group) {
    uint64_t before = group->record.block_number;
    int status = psa_group_read(self->arena, group);
    if (status != PSA_OK) {
        count_read(self, status, 0);
        return;
    }
    self->pin = group->record;
    uint32_t told = 0;
    for (uint32_t pool = 0; pool < pool_count; pool++) {
        const psa_line *line = (const psa_line *)group->values + pool;
        int is_new = line->block_number > before;
        int is_told = told < group->touched_count && group->touched[told] == pool;
        told += is_told != 0;
        count_read(self, PSA_OK, is_new == is_told && group->statuses[pool] == PSA_STATUS_LIVE &&
                                     line_holds(line, pool) &&
                                     block_holds(self, line, pool, self->pin.stamp));
    }
}

static void *run_reader(void *argument) {
    reader *self = argument;
    psa_group group = {.pools = calloc(pool_count, sizeof(uint64_t)),
                       .stamps = calloc(pool_count, sizeof(uint64_t)),
                       .values = calloc(pool_count, sizeof(psa_line)),
                       .statuses = calloc(pool_count, 1),
                       .touched = calloc(pool_count, sizeof(uint32_t)),
                       .count = pool_count};
    if (!group.pools || !group.stamps || !group.values || !group.statuses || !group.touched)
        fail("calloc", 0);
    for (uint32_t i = 0; i < pool_count; i++) group.pools[i] = UINT64_C(1) << 32 | i;
    uint64_t *slots = calloc(pool_count, sizeof(*slots));
    uint64_t *changed = calloc(pool_count, sizeof(*changed));
    psa_line *lines = calloc(pool_count, sizeof(*lines));
    if (!slots || !changed || !lines) fail("calloc", 0);
    for (uint32_t i = 0; i < pool_count; i++) slots[i] = i;
    uint64_t state = mix(self->seed, 0, 2), turn = 0;
    pin_commit(self);
    while (self->limit ? self->reads < self->limit : !__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        uint32_t pool = (uint32_t)((state >> 33) % pool_count);
        turn++;
        if (turn % 64 == 0 && self->unchecked) pin_commit(self);
        else if (turn % 64 == 0)
            for (int again = 0; again < 2; again++) read_changed(self, changed); /* of many commits, of few */
        uint64_t commit = state >> 63 ? self->pin.stamp : 0;
        if (self->unchecked || turn % 8 != 0) read_line(self, pool, commit);
        else if (turn % 16 == 0 && turn % 32 != 0) read_copy(self, pool, commit);
        else if (turn % 32 != 0) read_ticks(self, pool, commit);
        else if (turn % 256 != 0) read_group(self, &group);
        else read_snapshot(self, slots, lines);
    }
    free(slots);
    free(changed);
    free(lines);
    free(group.pools);
    free(group.stamps);
    free(group.values);
    free(group.statuses);
    free(group.touched);
    return NULL;
}

static void print_reader(const reader *total, double seconds) {
    printf("reads: %llu, %.0f/s, torn %llu, contended %llu, too old %llu\n",
           (unsigned long long)total->reads, (double)total->reads / seconds,
           (unsigned long long)total->torn, (unsigned long long)total->contended,
           (unsigned long long)total->too_old);
}

static int has_failed(const reader *total, int unchecked) { return (total->torn != 0) != unchecked; }

static uint64_t progress(const psa_arena *arena) { return PSA_LOAD_ACQUIRE(&arena->header->committed); }

#define PROGRESS "commits"
#define NAME "stress"
#define SIZE "POOLS"
#define LEAST_SIZE 1
#define MOST_SIZE 4096
#include "modes.h"
