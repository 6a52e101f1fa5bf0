/* Keys, references and rows of slots that are removed and used again all the time.
 *
 *   reuse threads SECONDS READERS SLOTS      writer and readers are threads, memory is anonymous
 *   reuse writer PATH SECONDS SLOTS          writer on a shared file, renamed to PATH when ready
 *   reuse reader PATH READS                  reader on a read-only mapping of that file
 *   reuse unchecked SECONDS READERS SLOTS    readers ignore generations: other pools must show up
 *
 * There are three keys for each slot, and hardly ever a free slot. Each commit removes a pool, adds one or
 * installs one anew, by a plan of PLAN commits that ends as it began; so the commit number alone tells
 * which keys are there and by which commit each was written. Every word of a pool's row, line and ticks
 * follows from its key and that commit. At times the writer gives up a removal and the use of a slot, by
 * psa_abort or as a dead writer would (psa_writer_open without a commit).
 *
 * Prints counts; exits 0 when nothing was wrong (unchecked: when something was), 1 otherwise, 2 on misuse.
 */
#include "basics.h"

#include "../../arena/native/atomics.h"

#define PLAN 2048
#define MAX_SLOTS 64
#define MAX_KEYS (3 * MAX_SLOTS)
#define MAX_PAIRS 12
#define ABSENT (-1)

enum { REMOVE, ADD, INSTALL };

typedef struct {
    uint32_t slots, keys;
    uint8_t what[PLAN];
    uint8_t key[PLAN];
    int16_t written[PLAN][MAX_KEYS]; /* place in the plan of the commit that wrote it, or ABSENT */
} plan;

static plan the_plan;

/* ---- the plan ---- */

static void plan_step(plan *p, uint32_t place, uint8_t what, uint32_t key, int *there, uint32_t *count) {
    p->what[place] = what;
    p->key[place] = (uint8_t)key;
    if (what == REMOVE) there[key] = 0, (*count)--;
    if (what == ADD) there[key] = 1, (*count)++;
}

static uint32_t any_key(const plan *p, const int *there, int wanted, uint64_t seed) {
    for (uint32_t i = 0;; i++) {
        uint32_t key = (uint32_t)((seed + i) % p->keys);
        if (there[key] == wanted) return key;
    }
}

/* Keys 0 .. slots - 1 are there before the first step and after the last. */
static void make_plan(plan *p, uint32_t slots) {
    int there[MAX_KEYS] = {0};
    uint32_t count = slots, place = 0, last = 0, quiet = 3 * slots + 8;
    memset(p, 0, sizeof(*p));
    p->slots = slots;
    p->keys = 3 * slots;
    for (uint32_t key = 0; key < slots; key++) there[key] = 1;
    for (; place < PLAN - quiet - 2 * p->keys; place++) {
        uint64_t seed = mix(place, slots, 1);
        int full = count == slots, few = count + 2 <= slots || count == 1;
        if (seed % 4 == 0) plan_step(p, place, INSTALL, any_key(p, there, 1, seed >> 8), there, &count);
        else if (full || (!few && seed % 4 == 1)) {
            last = any_key(p, there, 1, seed >> 8);
            plan_step(p, place, REMOVE, last, there, &count);
        } else {
            uint32_t key = seed >> 40 & 1 && !there[last] ? last : any_key(p, there, 0, seed >> 8);
            plan_step(p, place, ADD, key, there, &count);
        }
    }
    for (uint32_t key = slots; key < p->keys; key++)
        if (there[key]) plan_step(p, place++, REMOVE, key, there, &count);
    for (uint32_t key = 0; key < slots; key++)
        if (!there[key]) plan_step(p, place++, ADD, key, there, &count);
    for (; place < PLAN; place++) plan_step(p, place, INSTALL, place % slots, there, &count);
    /* Twice around, so that what the lap before wrote is known, too. */
    int16_t now[MAX_KEYS];
    for (uint32_t key = 0; key < p->keys; key++) now[key] = ABSENT;
    for (uint32_t turn = 0; turn < 2 * PLAN; turn++) {
        uint32_t at = turn % PLAN;
        now[p->key[at]] = p->what[at] == REMOVE ? ABSENT : (int16_t)at;
        memcpy(p->written[at], now, sizeof(now));
    }
}

/* The first PLAN commits install the keys that are there at the start, over and over. */
static uint64_t first_commit(void) { return PLAN; }

/* The commit that wrote `key` as of commit c; 0 when it is not there then. */
static uint64_t written_by(const plan *p, uint32_t key, uint64_t commit) {
    if (commit < first_commit()) return 0;
    uint32_t place = (uint32_t)(commit % PLAN);
    int16_t at = p->written[place][key];
    return at == ABSENT ? 0 : commit - (place - (uint32_t)at) % PLAN;
}

/* ---- what pool `key` must hold when commit `by` wrote it ---- */

static uint8_t protocol_of(uint32_t key) { return (uint8_t)(key % 3); }

static void key_bytes(uint32_t key, uint8_t *bytes) {
    for (uint64_t i = 0; i < 4; i++) {
        uint64_t word = mix(key, i, 2);
        memcpy(bytes + 8 * i, &word, 8);
    }
}

static psa_static row_of(uint32_t key) {
    psa_static row = {
        .token0 = key, .token1 = key, .token_count = 2, .fee_pips = 3000, .key_nbytes = 32};
    row.protocol = protocol_of(key);
    row.tick_spacing = row.protocol == PSA_UNISWAP_V2 ? 0 : SPACING;
    key_bytes(key, row.key);
    memset(row.factory, (int)key, sizeof(row.factory));
    memset(row.hooks, (int)key, sizeof(row.hooks));
    return row;
}

typedef struct {
    psa_line line;
    int32_t ticks[2 * MAX_PAIRS];
    uint64_t net[4 * MAX_PAIRS];
    uint64_t gross[4 * MAX_PAIRS];
} pool;

/* Pairs of ticks around tick 0, the outermost first; the price is that of tick 0 and a little more. */
static void pool_of(uint32_t key, uint64_t by, pool *out) {
    memset(out, 0, sizeof(*out));
    psa_line *line = &out->line;
    line->fee_status = UINT32_C(3000) | (uint32_t)PSA_STATUS_LIVE << 24;
    line->base_block = line->scrape_block = by;
    if (protocol_of(key) == PSA_UNISWAP_V2) {
        line->a[0] = mix(key, by, 3), line->a[1] = mix(key, by, 4) >> 20;
        line->b[0] = mix(key, by, 5), line->b[1] = mix(key, by, 6) >> 20;
        return;
    }
    uint32_t pairs = 1 + (uint32_t)(mix(key, by, 7) % MAX_PAIRS);
    line->tick_count = 2 * pairs;
    line->current_index = pairs;
    line->a[0] = mix(key, by, 8) >> 32;
    line->a[1] = UINT64_C(1) << 32;
    unsigned __int128 sum = 0;
    for (uint32_t i = 0; i < pairs; i++) {
        unsigned __int128 amount = (unsigned __int128)(mix(key, by, 9 + i) >> 50) << 64 | mix(key, i, 8);
        uint32_t low = i, high = 2 * pairs - 1 - i;
        out->ticks[low] = -(int32_t)(pairs - i) * SPACING;
        out->ticks[high] = (int32_t)(pairs - i) * SPACING;
        for (int limb = 0; limb < 2; limb++) {
            out->gross[2 * low + limb] = out->gross[2 * high + limb] = (uint64_t)(amount >> 64 * limb);
            out->net[2 * low + limb] = (uint64_t)(amount >> 64 * limb);
            out->net[2 * high + limb] = (uint64_t)(-amount >> 64 * limb);
        }
        sum += amount;
    }
    line->b[0] = (uint64_t)sum;
    line->b[1] = (uint64_t)(sum >> 64);
}

static int row_holds(const psa_static *row, uint32_t key) {
    psa_static want = row_of(key);
    want.generation = row->generation;
    return row->generation != 0 && memcmp(&want, row, sizeof(want)) == 0;
}

static int line_holds(const psa_line *line, const pool *want) {
    return line->fee_status == want->line.fee_status && line->unsure == 0 && line->block_number == 0 &&
           line->base_block == want->line.base_block && line->tick == 0 &&
           line->tick_count == want->line.tick_count &&
           line->current_index == want->line.current_index &&
           line->sqrt_price_hi == want->line.sqrt_price_hi &&
           memcmp(line->a, want->line.a, 16) == 0 && memcmp(line->b, want->line.b, 16) == 0;
}

/* ---- writer ---- */

static void open_writer(load *run) {
    int status = psa_writer_open(&run->writer, run->base, run->nbytes, -1, run->touched, run->dirty);
    if (status == PSA_OK) status = psa_slots_reclaim(&run->writer);
    if (status != PSA_OK) fail("psa_writer_open", status);
}

static void install(load *run, uint32_t slot, uint32_t key) {
    pool values;
    pool_of(key, run->writer.next_commit, &values);
    int status = psa_pool_install(&run->writer, slot, &values.line, values.ticks, values.gross, values.net,
                                  values.line.tick_count);
    if (status != PSA_OK) fail("psa_pool_install", status);
}

static int add(load *run, uint32_t key) {
    psa_static row = row_of(key);
    uint32_t slot;
    int status = psa_pool_add(&run->writer, &row, &slot);
    if (status == PSA_OK) install(run, slot, key);
    return status;
}

static uint32_t slot_of(load *run, uint32_t key) {
    uint8_t bytes[32];
    uint32_t slot;
    key_bytes(key, bytes);
    int status = psa_pool_find(&run->writer, bytes, &slot);
    if (status != PSA_OK) fail("psa_pool_find", status);
    return slot;
}

static void step(load *run, uint8_t what, uint32_t key) {
    int status = PSA_OK;
    if (what == ADD) status = add(run, key);
    else if (what == REMOVE) status = psa_pool_remove(&run->writer, slot_of(run, key));
    else install(run, slot_of(run, key), key);
    if (status != PSA_OK) fail("step", status);
}

/* Change pools in a commit that is not to be: remove one, whose slot must not serve yet, add one where
 * there is another slot, and give both up. */
static void give_up(load *run, uint64_t commit) {
    uint32_t count = 0, gone = MAX_KEYS;
    for (uint32_t key = 0; key < the_plan.keys; key++) {
        if (written_by(&the_plan, key, commit - 1) == 0) continue;
        count++;
        if (gone == MAX_KEYS && mix(commit, key, 31) % 4 == 0) gone = key;
    }
    if (gone != MAX_KEYS) {
        int status = psa_pool_remove(&run->writer, slot_of(run, gone));
        if (status != PSA_OK) fail("psa_pool_remove", status);
    }
    for (uint32_t i = 0; i < the_plan.keys; i++) {
        uint32_t key = (uint32_t)((mix(commit, 0, 30) + i) % the_plan.keys);
        if (written_by(&the_plan, key, commit - 1) != 0) continue;
        int status = add(run, key);
        if (status != (count == the_plan.slots ? PSA_FULL_POOLS : PSA_OK)) fail("psa_pool_add", status);
        break;
    }
    if (mix(commit, 0, 32) % 2) psa_abort(&run->writer), run->aborts++;
    else open_writer(run), run->takeovers++;
}

static void one_commit(load *run) {
    uint64_t commit = run->writer.next_commit;
    uint32_t place = (uint32_t)(commit % PLAN);
    if (commit > first_commit() && mix(commit, 0, 33) % 16 == 0) give_up(run, commit);
    if (commit < first_commit()) step(run, INSTALL, (uint32_t)(commit % the_plan.slots));
    else step(run, the_plan.what[place], the_plan.key[place]);
    run->writer.record.block_number = commit;
    psa_commit(&run->writer);
}

static psa_capacities capacities_for(uint32_t slots) {
    return (psa_capacities){.max_pools = slots,
                            .max_tokens = MAX_KEYS,
                            .undo_entry_count = 4,
                            .undo_record_count = 64,
                            .heap_nbytes = UINT64_C(65536) + UINT64_C(8192) * slots};
}

static void start_load(load *run, uint8_t *base, uint64_t nbytes, uint32_t slots) {
    psa_capacities capacities = capacities_for(slots);
    format_load(run, base, nbytes, &capacities);
    open_writer(run);
    for (uint32_t key = 0; key < slots; key++)
        if (add(run, key) != PSA_OK) fail("add", (long)key);
    psa_commit(&run->writer);
    while (run->writer.next_commit <= 3 * PLAN) one_commit(run);
}

static void finish_load(load *run, uint64_t since_ns) {
    double seconds = (double)(now_ns() - since_ns) / 1e9;
    uint64_t commits = run->writer.next_commit - 1 - 3 * PLAN;
    printf("writer: %llu commits, %.0f/s, %llu slots used again, %llu aborts, %llu take-overs\n",
           (unsigned long long)commits, (double)commits / seconds,
           (unsigned long long)run->writer.arena.header->reused, (unsigned long long)run->aborts,
           (unsigned long long)run->takeovers);
    free(run->touched);
    free(run->dirty);
}

/* ---- readers ---- */

typedef struct {
    const psa_arena *arena;
    uint32_t seed;
    int unchecked;
    uint64_t limit; /* reads; 0 = until stop */
    uint64_t reads, wrong, gone, too_old, contended, unknown;
    psa_commit_record pin;
    uint64_t bound[MAX_KEYS]; /* references found some time ago */
    int is_fresh;             /* the reference in use was found after the commit was pinned */
} reader;

static void pin_commit(reader *self) {
    if (psa_pin(self->arena, &self->pin) != PSA_OK) self->contended++;
    else if (self->pin.block_number != self->pin.stamp) self->wrong++;
}

/* Count the end of one read of `key`; whether its content is to be looked at. `by` is what the line says. */
static int may_look(reader *self, int status, uint32_t key, uint64_t commit, uint64_t by) {
    self->reads++;
    if (status == PSA_SNAPSHOT_TOO_OLD) {
        self->too_old++;
        pin_commit(self);
    } else if (status == PSA_CONTENDED) {
        self->contended++;
    } else if (status == PSA_POOL_REMOVED || status == PSA_UNKNOWN_POOL) {
        self->gone++;
        self->bound[key] = 0;
        /* As of a commit that had it, only a slot used again since can hide a pool. */
        if (commit != 0 && self->is_fresh && written_by(&the_plan, key, commit) != 0 &&
            PSA_LOAD_ACQUIRE(&self->arena->header->reused) == self->pin.reused)
            self->wrong++;
    } else if (status != PSA_OK) {
        fail("read", status);
    } else {
        uint64_t want = commit ? written_by(&the_plan, key, commit) : by;
        if (want == 0 || want != by) self->wrong++;
        return want != 0;
    }
    return 0;
}

static void read_line(reader *self, uint32_t key, uint32_t slot, uint32_t generation, uint64_t commit) {
    psa_line line;
    pool want;
    int status = psa_pool_read(self->arena, slot, generation, commit, &line);
    if (status == PSA_OK && line.fee_status >> 24 == PSA_STATUS_ABSENT) status = PSA_UNKNOWN_POOL;
    if (!may_look(self, status, key, commit, line.base_block)) return;
    pool_of(key, line.base_block, &want);
    self->wrong += !line_holds(&line, &want);
}

static void read_ticks(reader *self, uint32_t key, uint32_t slot, uint32_t generation, uint64_t commit) {
    pool found, want;
    memset(&found, 0, sizeof(found));
    int status = psa_pool_read_ticks(self->arena, slot, generation, commit, &found.line, found.ticks,
                                     found.net, found.gross, 2 * MAX_PAIRS);
    if (status == PSA_OK && found.line.fee_status >> 24 == PSA_STATUS_ABSENT) status = PSA_UNKNOWN_POOL;
    if (!may_look(self, status, key, commit, found.line.base_block)) return;
    pool_of(key, found.line.base_block, &want);
    size_t count = want.line.tick_count;
    self->wrong += !line_holds(&found.line, &want) || memcmp(found.ticks, want.ticks, 4 * count) != 0 ||
                   memcmp(found.net, want.net, 16 * count) != 0 ||
                   memcmp(found.gross, want.gross, 16 * count) != 0;
}

/* Line, row and ticks in one piece. */
static void read_copy(reader *self, uint32_t key, uint32_t slot, uint32_t generation, uint64_t commit) {
    psa_copy_head head;
    uint64_t arrays[5 * 2 * MAX_PAIRS]; /* 36 bytes a tick */
    pool want;
    int status = psa_copy_read(self->arena, slot, generation, commit, &head, arrays, 2 * MAX_PAIRS);
    if (!may_look(self, status, key, commit, head.line.base_block)) return;
    pool_of(key, head.line.base_block, &want);
    size_t count = want.line.tick_count;
    self->wrong += head.line.slab != slot || !line_holds(&head.line, &want) || !row_holds(&head.row, key) ||
                   memcmp(arrays, want.net, 16 * count) != 0 ||
                   memcmp(arrays + 2 * count, want.gross, 16 * count) != 0 ||
                   memcmp(arrays + 4 * count, want.ticks, 4 * count) != 0;
}

static void read_row(reader *self, uint32_t key, uint32_t slot, uint32_t generation) {
    psa_static row;
    uint64_t reference = (uint64_t)generation << 32 | slot;
    uint32_t failed;
    int status = psa_rows_read(self->arena, &reference, 1, &row, &failed);
    self->reads++;
    if (status == PSA_OK) self->wrong += !row_holds(&row, key);
    else if (status == PSA_POOL_REMOVED) self->gone++, self->bound[key] = 0;
    else fail("psa_rows_read", status);
}

/* The answer must be that of a private copy of the version it names. */
static void read_quote(reader *self, uint32_t key, uint32_t slot, uint32_t generation, uint64_t commit) {
    uint8_t amount[32] = {0};
    uint64_t word = 1 + (mix(self->seed, self->reads, 34) >> 20);
    psa_quote_result found, again;
    memcpy(amount, &word, 8);
    uint32_t flags = word & 1 ? PSA_ZERO_FOR_ONE : 0;
    int status = psa_quote(self->arena, slot, generation, commit, amount, NULL, flags, 0, &found);
    if (!may_look(self, status, key, commit, found.block_number)) return;
    pool want;
    psa_static row = row_of(key);
    pool_of(key, found.block_number, &want);
    want.line.slab = slot; /* where a copy says what it is of */
    psa_pool_copy copy = {.line = want.line, .row = &row, .ticks = want.ticks, .net = want.net};
    status = psa_quote_copy(&copy, amount, NULL, flags, 0, &again);
    again.commit = found.commit;
    self->wrong += status != PSA_OK || memcmp(&found, &again, sizeof(found)) != 0;
}

/* All keys at one commit, by references found just now, or some time ago. */
static void read_snapshot(reader *self, int is_fresh) {
    uint64_t pools[MAX_KEYS];
    uint8_t bytes[32 * MAX_KEYS];
    psa_line lines[MAX_KEYS];
    uint32_t failed;
    pin_commit(self);
    self->is_fresh = is_fresh;
    for (uint32_t key = 0; key < the_plan.keys; key++) {
        key_bytes(key, &bytes[32 * (size_t)key]);
        pools[key] = self->bound[key] ? self->bound[key] : PSA_NO_SLOT;
    }
    if (is_fresh) psa_find_many(self->arena, bytes, the_plan.keys, pools);
    int status = psa_snapshot(self->arena, pools, the_plan.keys, self->pin.stamp, lines, &failed);
    if (status != PSA_OK) {
        may_look(self, status, 0, 0, 0);
        return;
    }
    uint64_t commit = self->pin.stamp;
    for (uint32_t key = 0; key < the_plan.keys; key++) {
        int there = lines[key].fee_status >> 24 == PSA_STATUS_LIVE;
        if (!may_look(self, there ? PSA_OK : PSA_UNKNOWN_POOL, key, commit, lines[key].base_block))
            continue;
        pool want;
        pool_of(key, lines[key].base_block, &want);
        self->wrong += !line_holds(&lines[key], &want);
    }
}

static void one_read(reader *self, uint64_t state) {
    uint32_t key = (uint32_t)((state >> 33) % the_plan.keys);
    uint64_t commit = state >> 63 ? self->pin.stamp : 0;
    uint8_t bytes[32];
    /* A reference found just now, or some time ago. */
    self->is_fresh = self->bound[key] == 0 || state >> 60 & 1;
    if (self->is_fresh) {
        key_bytes(key, bytes);
        if (psa_find(self->arena, bytes, &self->bound[key]) != PSA_OK) {
            self->bound[key] = 0;
            self->unknown++;
            may_look(self, PSA_UNKNOWN_POOL, key, commit, 0);
            return;
        }
    }
    uint32_t slot = (uint32_t)self->bound[key], generation = (uint32_t)(self->bound[key] >> 32);
    if (self->unchecked) {
        read_line(self, key, slot, 0, 0);
        return;
    }
    switch (state >> 56 & 7) {
    case 0: read_ticks(self, key, slot, generation, commit); break;
    case 1: read_row(self, key, slot, generation); break;
    case 3: read_copy(self, key, slot, generation, commit); break;
    case 2: read_quote(self, key, slot, generation, commit); break;
    default: read_line(self, key, slot, generation, commit);
    }
}

static void *run_reader(void *argument) {
    reader *self = argument;
    uint64_t state = mix(self->seed, 0, 35), turn = 0;
    pin_commit(self);
    while (self->limit ? self->reads < self->limit : !__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        turn++;
        if (turn % 64 == 0) pin_commit(self);
        if (turn % 256 == 0 && !self->unchecked) read_snapshot(self, turn % 512 == 0);
        else one_read(self, state);
    }
    return NULL;
}

static void print_reader(const reader *total, double seconds) {
    printf("reads: %llu, %.0f/s, wrong %llu, removed %llu, unknown %llu, too old %llu, contended %llu\n",
           (unsigned long long)total->reads, (double)total->reads / seconds,
           (unsigned long long)total->wrong, (unsigned long long)total->gone,
           (unsigned long long)total->unknown, (unsigned long long)total->too_old,
           (unsigned long long)total->contended);
}

static void add_reader(reader *total, const reader *one) {
    total->reads += one->reads;
    total->wrong += one->wrong;
    total->gone += one->gone;
    total->unknown += one->unknown;
    total->too_old += one->too_old;
    total->contended += one->contended;
}

static int has_failed(const reader *total, int unchecked) {
    return total->gone == 0 || (total->wrong != 0) != unchecked;
}

static uint64_t progress(const psa_arena *arena) { return PSA_LOAD_ACQUIRE(&arena->header->reused); }

static void prepare(uint32_t slots) { make_plan(&the_plan, slots); }

#define PROGRESS "slots used again"
#define NAME "reuse"
#define SIZE "SLOTS"
#define LEAST_SIZE 2
#define MOST_SIZE MAX_SLOTS
#include "modes.h"
