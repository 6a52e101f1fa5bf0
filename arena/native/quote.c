/* quote.c: quotes from the shared versions and from private copies.
 *
 * One core serves both. It takes the fields of a copied line and two pointers to tick arrays, which may be
 * changing while they are read: nothing behind here traps or loops without a bound whatever those arrays
 * hold, and the caller checks the stamp before it believes a result or an error.
 */
#include "atomics.h"
#include "jump.h"
#include "families.h"
#include "versions.h"

static row_fields read_row(const psa_static *row) {
    row_fields out = {PSA_LOAD(&row->tick_spacing), PSA_LOAD(&row->generation), PSA_LOAD(&row->protocol),
                      PSA_LOAD(&row->flags)};
    return out;
}

/* Refuse what cannot be quoted and check the range of every field. `generation` 0: any. */
static int load_state(const psa_line *line, const row_fields *row, uint32_t generation, uint32_t flags,
                      uint32_t lp_fee, const psa_tick_arrays *arrays, pool_state *pool) {
    uint32_t status = line->fee_status >> 24;
    if (status == PSA_STATUS_REMOVED || (generation != 0 && generation != line->generation))
        return PSA_POOL_REMOVED;
    if (status == PSA_STATUS_ABSENT) return PSA_UNKNOWN_POOL;
    if (line->generation != row->generation) return PSA_POOL_REMOVED;
    if (status != PSA_STATUS_LIVE && (!(flags & PSA_ALLOW_STALE) || line->unsure & PSA_UNSURE_UNREAD))
        return PSA_POOL_STALE;
    pool->protocol = row->protocol;
    return psa_load_family(line, row, flags, lp_fee, arrays, pool);
}

static int quote_state(const pool_state *pool, const psa_u256 *amount, const psa_u256 *limit,
                       uint32_t flags, psa_quote_result *result) {
    return psa_quote_family(pool, amount, limit, (flags & PSA_ZERO_FOR_ONE) != 0,
                            !(flags & PSA_EXACT_OUT), result);
}

/* ---- the shared versions ------------------------------------------------------------------------------ */

#define QUOTE_ATTEMPTS 3

/* The static row may be rewritten for another pool while an old version of the first is still being
 * read: its generation is checked again behind the fence of psa_line_still. */
static int still_the_same(const psa_arena *arena, uint32_t slot, const psa_line *line, uint32_t which,
                          const row_fields *row) {
    return psa_line_still(arena, slot, line, which) &&
           PSA_LOAD(&arena->statics[slot].generation) == row->generation;
}

#define FEW_TICKS 4 /* a jump over fewer is no faster than steps */

/* Give the state the table of its direction when that was made of the same. Returns what the direction
 * keeps, and in `key` what a table would be made of; null when nothing is kept. */
static psa_depth_use *attach_depth(psa_depth_use *uses, uint32_t flags, const psa_line *line,
                                   const psa_tick_arrays *arrays, pool_state *pool, psa_depth_key *key) {
    if (!uses || arrays->serial == 0) return 0;
    int zero_for_one = (flags & PSA_ZERO_FOR_ONE) != 0;
    psa_depth_use *use = &uses[zero_for_one];
    *key = psa_depth_key_of(pool, line->slab, arrays->serial, line->generation, zero_for_one);
    if (use->depth && psa_depth_same(&use->depth->key, key)) pool->depth = use->depth;
    return use;
}

/* A table is wanted once it costs no more than the steps made without it. */
static void note_walk(psa_depth_use *use, const psa_depth_key *key, const pool_state *pool,
                      uint32_t crossed) {
    if (pool->depth || crossed <= FEW_TICKS) return;
    if (!psa_depth_same(&use->walked_of, key)) {
        use->walked_of = *key;
        use->walked = 0;
    }
    use->walked += crossed;
    uint32_t rungs = psa_depth_rungs(pool);
    use->wanted = use->walked >= rungs ? rungs : 0;
}

static int shared_quote(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                        const psa_u256 *amount, const psa_u256 *limit, uint32_t flags, uint32_t lp_fee,
                        psa_depth_use *uses, psa_quote_result *result) {
    psa_line line;
    if (slot >= arena->max_pools) {
        memset(&line, 0, sizeof line);
        return psa_refuse_result(&line, generation ? PSA_POOL_REMOVED : PSA_UNKNOWN_POOL, result);
    }
    for (int attempt = 0; attempt < QUOTE_ATTEMPTS; attempt++) {
        uint32_t which;
        int status = psa_line_begin(arena, slot, commit, &line, &which);
        if (status == PSA_SNAPSHOT_TOO_OLD && commit == 0) continue;
        if (status != PSA_OK) {
            memset(&line, 0, sizeof line);
            return psa_refuse_result(&line, status, result);
        }
        row_fields row = read_row(&arena->statics[slot]);
        psa_tick_arrays arrays = {0, 0, 0, 0};
        pool_state pool;
        status = psa_has_reserves(row.protocol) || psa_line_ticks(arena, &line, &arrays) ? PSA_OK
                                                                                      : PSA_TICK_DATA;
        psa_depth_key key;
        psa_depth_use *use = 0;
        if (status == PSA_OK) status = load_state(&line, &row, generation, flags, lp_fee, &arrays, &pool);
        if (status == PSA_OK) use = attach_depth(uses, flags, &line, &arrays, &pool, &key);
        if (status == PSA_OK) status = quote_state(&pool, amount, limit, flags, result);
        if (still_the_same(arena, slot, &line, which, &row)) {
            if (use && status == PSA_OK) note_walk(use, &key, &pool, result->ticks_crossed);
            return psa_finish_result(&line, slot, &pool, flags, status, result);
        }
        if (commit != 0) {
            memset(&line, 0, sizeof line);
            return psa_refuse_result(&line, PSA_SNAPSHOT_TOO_OLD, result);
        }
    }
    memset(&line, 0, sizeof line);
    return psa_refuse_result(&line, PSA_CONTENDED, result);
}

int psa_quote(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
              const uint8_t *amount, const uint8_t *limit, uint32_t flags, uint32_t lp_fee,
              psa_quote_result *result) {
    if (!arena || !amount || !result || flags & ~(uint32_t)PSA_CALLER_FLAGS) return PSA_BAD_ARGUMENT;
    psa_u256 wanted, bound;
    memcpy(wanted.w, amount, sizeof wanted.w);
    if (limit) memcpy(bound.w, limit, sizeof bound.w);
    return shared_quote(arena, slot, generation, commit, &wanted, limit ? &bound : 0, flags, lp_fee, 0,
                        result);
}

int psa_quote_given(const psa_quote_call *call, const uint8_t *amount, const uint8_t *limit,
                    uint32_t flags, uint32_t lp_fee, psa_quote_result *result) {
    if (!call || !call->arena || !amount || !result || flags & ~(uint32_t)PSA_CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    psa_u256 wanted, bound;
    memcpy(wanted.w, amount, sizeof wanted.w);
    if (limit) memcpy(bound.w, limit, sizeof bound.w);
    return shared_quote(call->arena, call->slot, call->generation, call->commit, &wanted,
                        limit ? &bound : 0, flags, lp_fee, call->uses, result);
}

int psa_depth_read(const psa_quote_call *call, uint32_t flags, uint32_t lp_fee, psa_rung *rungs,
                   uint32_t capacity, psa_depth *depth) {
    if (!call || !call->arena || call->slot >= call->arena->max_pools || !rungs || !depth ||
        flags & ~(uint32_t)PSA_CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    psa_line line;
    uint32_t which;
    int zero_for_one = (flags & PSA_ZERO_FOR_ONE) != 0;
    int status = psa_line_begin(call->arena, call->slot, call->commit, &line, &which);
    if (status != PSA_OK) return status;
    row_fields row = read_row(&call->arena->statics[call->slot]);
    psa_tick_arrays arrays;
    pool_state pool;
    if (psa_has_reserves(row.protocol) || !psa_line_ticks(call->arena, &line, &arrays)) status = PSA_TICK_DATA;
    if (status == PSA_OK) status = load_state(&line, &row, call->generation, flags, lp_fee, &arrays, &pool);
    if (status == PSA_OK) {
        depth->key = psa_depth_key_of(&pool, line.slab, arrays.serial, line.generation, zero_for_one);
        depth->rungs = rungs;
        depth->count = psa_depth_walk(&pool, zero_for_one, 0, rungs, capacity);
    }
    return still_the_same(call->arena, call->slot, &line, which, &row) ? status : PSA_CONTENDED;
}

/* ---- batches ------------------------------------------------------------------------------------------ */

#define CHUNK 64 /* items after which a batch looks for a newer version */
#define BATCH_FLAGS (PSA_CALLER_FLAGS & ~(uint32_t)(PSA_FEE_GIVEN | PSA_ALLOW_HOOKS))

typedef struct {
    const uint64_t *pools;
    const uint64_t *amounts;    /* (count, 4) */
    const uint32_t *item_flags; /* null: none */
    psa_quote_result *results;
    uint64_t commit;
    uint32_t flags;
    uint32_t count;
    int one_pool;
    psa_depth_use *uses; /* of that one pool; null: walk */
} batch;

static uint64_t batch_pool(const batch *items, uint32_t i) { return items->pools[items->one_pool ? 0 : i]; }

static uint32_t batch_flags(const batch *items, uint32_t i) {
    return items->flags | (items->item_flags ? items->item_flags[i] : 0);
}

static psa_u256 batch_amount(const batch *items, uint32_t i) {
    psa_u256 amount;
    memcpy(amount.w, &items->amounts[4 * (size_t)i], sizeof amount.w);
    return amount;
}

static int refuse_item(const batch *items, uint32_t i) {
    psa_line none;
    memset(&none, 0, sizeof none);
    return psa_refuse_result(&none, PSA_BAD_ARGUMENT, &items->results[i]);
}

static int quote_item(const psa_arena *arena, const batch *items, uint32_t i) {
    uint32_t flags = batch_flags(items, i);
    uint64_t pool = batch_pool(items, i);
    psa_u256 amount = batch_amount(items, i);
    if (flags & ~BATCH_FLAGS) return refuse_item(items, i);
    return shared_quote(arena, (uint32_t)pool, (uint32_t)(pool >> 32), items->commit, &amount, 0, flags, 0,
                        items->uses, &items->results[i]);
}

/* How many items from `i` on, a chunk at most, ask the pool of item `i`. */
static uint32_t batch_run(const batch *items, uint32_t i) {
    uint32_t most = items->count - i < CHUNK ? items->count - i : CHUNK, run = 1;
    if (items->one_pool) return most;
    while (run < most && items->pools[i + run] == items->pools[i]) run++;
    return run;
}

/* Answer item `first` and those after it on one version of their pool, copied once, and loaded once for
 * each direction and set of options. Returns how many of `run` have an answer: the writer overtook the
 * next one, or there is no version to ask, which quote_item says. */
static uint32_t quote_run(const psa_arena *arena, const batch *items, uint32_t first, uint32_t run) {
    uint64_t pool = batch_pool(items, first);
    uint32_t slot = (uint32_t)pool, generation = (uint32_t)(pool >> 32), which;
    psa_line line;
    psa_tick_arrays arrays = {0};
    pool_state states[2];
    psa_depth_key keys[2];
    psa_depth_use *uses[2] = {0, 0};
    uint32_t loaded[2] = {UINT32_MAX, UINT32_MAX}; /* flags a state was loaded with */
    int statuses[2] = {0, 0};
    if (slot >= arena->max_pools) return 0;
    if (psa_line_begin(arena, slot, items->commit, &line, &which) != PSA_OK) return 0;
    row_fields row = read_row(&arena->statics[slot]);
    if (!psa_has_reserves(row.protocol) && !psa_line_ticks(arena, &line, &arrays)) return 0;
    for (uint32_t i = first; i < first + run; i++) {
        uint32_t flags = batch_flags(items, i), options = flags & ~(uint32_t)PSA_EXACT_OUT;
        uint32_t side = (flags & PSA_ZERO_FOR_ONE) != 0;
        psa_u256 amount = batch_amount(items, i);
        if (flags & ~BATCH_FLAGS) {
            refuse_item(items, i);
            continue;
        }
        if (loaded[side] != options) {
            statuses[side] = load_state(&line, &row, generation, options, 0, &arrays, &states[side]);
            uses[side] = statuses[side] == PSA_OK ? attach_depth(items->uses, flags, &line, &arrays,
                                                                 &states[side], &keys[side])
                                                  : 0;
            loaded[side] = options;
        }
        int status = statuses[side];
        if (status == PSA_OK) status = quote_state(&states[side], &amount, 0, flags, &items->results[i]);
        psa_finish_result(&line, slot, &states[side], flags, status, &items->results[i]);
        if (!still_the_same(arena, slot, &line, which, &row)) return i - first;
        if (!uses[side] || status != PSA_OK) continue;
        note_walk(uses[side], &keys[side], &states[side], items->results[i].ticks_crossed);
        if (uses[side]->wanted != 0) return i - first + 1;
    }
    return run;
}

/* Answer item `i` and perhaps some behind it; returns how many, and in `status` that of the first alone. */
static uint32_t quote_some(const psa_arena *arena, const batch *items, uint32_t i, int *status) {
    uint32_t run = batch_run(items, i), done = run > 1 ? quote_run(arena, items, i, run) : 0;
    *status = PSA_OK;
    if (done != 0) return done;
    *status = quote_item(arena, items, i);
    return 1;
}

int psa_quote_batch(const psa_arena *arena, const uint64_t *pools, uint64_t commit,
                    const uint64_t *amounts, const uint32_t *item_flags, uint32_t flags, uint32_t count,
                    psa_quote_result *results) {
    batch items = {pools, amounts, item_flags, results, commit, flags & ~(uint32_t)PSA_ONE_POOL, count,
                   (flags & PSA_ONE_POOL) != 0, 0};
    const int overtaken = commit == 0 ? PSA_CONTENDED : PSA_SNAPSHOT_TOO_OLD;
    int found = PSA_OK, status;
    if (!arena || !pools || !amounts || !results || items.flags & ~BATCH_FLAGS) return PSA_BAD_ARGUMENT;
    for (uint32_t i = 0; i < count;) {
        i += quote_some(arena, &items, i, &status);
        if (status == overtaken) found = overtaken;
    }
    return found;
}

uint32_t psa_quote_many(const psa_quote_call *call, const uint64_t *amounts, uint32_t flags,
                        uint32_t count, psa_quote_result *results) {
    uint64_t pool = (uint64_t)call->generation << 32 | call->slot;
    batch items = {&pool, amounts, 0, results, call->commit, flags, count, 1, call->uses};
    const psa_depth_use *use = call->uses ? &call->uses[(flags & PSA_ZERO_FOR_ONE) != 0] : 0;
    uint32_t done = 0;
    int status;
    while (done < count) {
        done += quote_some(call->arena, &items, done, &status);
        if (use && use->wanted != 0) break;
    }
    return done;
}

/* ---- private copies ------------------------------------------------------------------------- */

int psa_load_copy(const psa_pool_copy *copy, uint32_t flags, uint32_t lp_fee, pool_state *pool) {
    row_fields row = read_row(copy->row);
    psa_tick_arrays arrays = {copy->ticks, copy->net, 0, 0};
    return load_state(&copy->line, &row, 0, flags, lp_fee, &arrays, pool);
}

int psa_quote_copy(const psa_pool_copy *pool, const uint8_t *amount, const uint8_t *limit,
                   uint32_t flags, uint32_t lp_fee, psa_quote_result *result) {
    if (!pool || !pool->row || !amount || !result || flags & ~(uint32_t)PSA_CALLER_FLAGS)
        return PSA_BAD_ARGUMENT;
    psa_u256 wanted, bound;
    pool_state state;
    memcpy(wanted.w, amount, sizeof wanted.w);
    if (limit) memcpy(bound.w, limit, sizeof bound.w);
    int status = psa_load_copy(pool, flags, lp_fee, &state);
    if (status == PSA_OK) status = quote_state(&state, &wanted, limit ? &bound : 0, flags, result);
    return psa_finish_result(&pool->line, pool->line.slab, &state, flags, status, result);
}

/* ---- the shortest way from Python ------------------------------------------------------------------------
 *
 * A call from Python costs about as much as its arguments; a pool handle therefore keeps what never
 * changes in a psa_quote_call and passes one pointer, and what must hold before each quote is checked
 * here.
 */

int psa_must_look(const psa_quote_call *call) {
    return PSA_LOAD(call->closed) != 0 ||
           (call->commit == 0 && PSA_LOAD(&call->arena->header->superseded) != 0);
}

int psa_quote_prepared(const psa_quote_call *call, const uint8_t *amount, uint32_t flags,
                       psa_quote_result *result) {
    if (psa_must_look(call)) return PSA_CLOSED;
    return psa_quote_given(call, amount, 0, flags, 0, result);
}
