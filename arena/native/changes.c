/* changes.c: the ring of changes, by which a reader learns what some commits wrote without a look at all.
 *
 * Commit T appends the slots it wrote to one ring and says in another where they end; both are in place
 * before W4 of T. Ends count all slots ever appended, so they only grow, and a commit's slots begin where
 * those of the one before end. There is room for each pool once, so for any commit. Both rings are
 * overwritten while they are read, and each is a version of its own kind:
 *
 * - an entry by its stamp: W1, W2, W3 and R2, R3 of versions.c, with the number of the commit;
 * - slots by `change_reserved`, the highest end begun: stored (W1) before the fence (W2) and the slots
 *   (W3), loaded behind the reader's fence (R3). Still within a ring's length of the first slot read: no
 *   load saw a later slot.
 *
 * What a dead writer appended and did not commit is overwritten by the next: the number it had begun is
 * taken again, and ends go on from the newest committed entry. `change_reserved` never goes back, for the
 * dead writer's slots have overwritten others. A copy of an arena begins with empty rings: their entry of
 * the last commit is the floor below which readers look at all pools.
 */
#include "versions.h"

#include "writer.h"

#define AHEAD 8 /* slots whose lines are asked for before they are looked at */

/* ---- writing ---- */

void psa_changes_publish(psa_writer *writer) {
    const psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    uint64_t commit = writer->next_commit;
    psa_change_entry *entry = &arena->change_entries[commit & arena->change_entry_mask];
    uint64_t first = arena->change_entries[(commit - 1) & arena->change_entry_mask].end;
    uint64_t end = first + writer->dirty_count;
    if (end > header->change_reserved) PSA_STORE(&header->change_reserved, end);
    PSA_STORE(&entry->stamp, commit); /* W1 */
    PSA_FENCE_RELEASE();              /* W2 */
    for (uint32_t i = 0; i < writer->dirty_count; i++)
        PSA_STORE(&arena->change_slots[(first + i) & arena->change_slot_mask], writer->dirty[i]); /* W3 */
    PSA_STORE(&entry->end, end);
}

void psa_changes_begin(psa_arena *arena) {
    uint64_t committed = arena->header->committed;
    psa_change_entry *floor = &arena->change_entries[committed & arena->change_entry_mask];
    PSA_STORE(&floor->end, arena->header->change_reserved);
    PSA_STORE(&floor->stamp, committed);
}

int psa_changes_fit(const psa_arena *arena) {
    const psa_header *header = arena->header;
    const psa_change_entry *newest = &arena->change_entries[header->committed & arena->change_entry_mask];
    /* A dead writer leaves at most a commit's slots above it, each pool once. */
    return newest->stamp == header->committed && newest->end <= header->change_reserved &&
           header->change_reserved - newest->end <= (uint64_t)arena->change_slot_mask + 1;
}

/* ---- reading ---- */

typedef struct {
    const psa_arena *arena;
    uint64_t commit;
    uint64_t first_block;
    uint64_t *pools;
    uint32_t capacity;
    uint32_t count;
} answer;

static void look_ahead(const psa_arena *arena, uint32_t slot) {
    if (slot >= arena->max_pools) return;
    __builtin_prefetch(&arena->slots[slot].lines[0]);
    __builtin_prefetch(&arena->slots[slot].lines[1]);
}

/* Add the pool in `slot` when its line was written by a commit from `low` to `high`, and is wanted. */
static int add(answer *out, uint32_t slot, uint64_t low, uint64_t high) {
    const psa_arena *arena = out->arena;
    psa_line line;
    uint64_t stamp;
    uint32_t which = psa_pick_line(&arena->slots[slot], out->commit, &stamp);
    if (which == 2) return stamp == 0 ? PSA_OK : PSA_SNAPSHOT_TOO_OLD;
    if (stamp < low || stamp > high) return PSA_OK;
    psa_load_words((uint64_t *)(void *)&line, &arena->slots[slot].lines[which],
                   sizeof(line) / sizeof(uint64_t));
    line.stamp = stamp;
    if (!psa_line_still(arena, slot, &line, which)) return PSA_SNAPSHOT_TOO_OLD;
    uint32_t status = psa_line_status(&line);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return PSA_OK;
    if (line.unsure & PSA_UNSURE_UNREAD) return PSA_OK;
    if (line.block_number < out->first_block && line.base_block < out->first_block) return PSA_OK;
    if (out->count < out->capacity) out->pools[out->count] = (uint64_t)line.generation << 32 | slot;
    out->count++;
    return PSA_OK;
}

static uint32_t slots_used(const psa_arena *arena) {
    uint32_t used = PSA_LOAD_ACQUIRE(&arena->header->slots_used);
    return used < arena->max_pools ? used : arena->max_pools;
}

static int look_at_all(answer *out, uint64_t since) {
    uint32_t used = slots_used(out->arena);
    out->count = 0;
    for (uint32_t slot = 0; slot < used; slot++) {
        int status = add(out, slot, since + 1, out->commit);
        if (status != PSA_OK) return status;
    }
    return PSA_OK;
}

static int load_end(const psa_arena *arena, uint64_t commit, uint64_t *end) {
    const psa_change_entry *entry = &arena->change_entries[commit & arena->change_entry_mask];
    if (PSA_LOAD_ACQUIRE(&entry->stamp) != commit) return 0; /* R2 */
    *end = PSA_LOAD(&entry->end);
    PSA_FENCE_ACQUIRE(); /* R3 */
    return PSA_LOAD(&entry->stamp) == commit;
}

/* The slots of one commit, numbered from `at` up to `end`. The newest line of a pool that several commits
 * wrote has the stamp of the last one, so the pool is added there and nowhere else. */
static int add_commit(answer *out, uint64_t commit, uint64_t at, uint64_t end) {
    const psa_arena *arena = out->arena;
    for (; at != end; at++) {
        uint32_t slot = PSA_LOAD(&arena->change_slots[at & arena->change_slot_mask]);
        if (end - at > AHEAD)
            look_ahead(arena, PSA_LOAD(&arena->change_slots[(at + AHEAD) & arena->change_slot_mask]));
        if (slot >= arena->max_pools) return PSA_CONTENDED;
        int status = add(out, slot, commit, commit);
        if (status != PSA_OK) return status;
    }
    return PSA_OK;
}

/* PSA_CONTENDED when the rings do not, or no longer, tell what those commits wrote, or when a look at all
 * pools is shorter. */
static int follow(answer *out, uint64_t since) {
    const psa_arena *arena = out->arena;
    const psa_header *header = arena->header;
    uint64_t first, last, at;
    if (since == 0 || out->commit > PSA_LOAD_ACQUIRE(&header->committed) || /* R1 */
        out->commit - since > arena->change_entry_mask)
        return PSA_CONTENDED;
    if (!load_end(arena, since, &first) || !load_end(arena, out->commit, &last) ||
        last - first > slots_used(arena))
        return PSA_CONTENDED;
    if (last - first > out->capacity) {
        out->count = (uint32_t)(last - first);
        return PSA_BUFFER_TOO_SMALL;
    }
    at = first;
    for (uint64_t commit = since, end; commit != out->commit;) {
        commit++;
        if (!load_end(arena, commit, &end) || end - at > last - at) return PSA_CONTENDED;
        int status = add_commit(out, commit, at, end);
        if (status != PSA_OK) return status;
        at = end;
    }
    PSA_FENCE_ACQUIRE(); /* R3 */
    return PSA_LOAD(&header->change_reserved) - first <= (uint64_t)arena->change_slot_mask + 1
               ? PSA_OK
               : PSA_CONTENDED;
}

/* Those without `bit` in their slot before those with it, and so on with the next lower one: bounded by
 * the number of bits, whatever the slots are, and in place. Few are put in order one by one. */
static void sort_by_slot(uint64_t *pools, uint32_t count, uint32_t bit) {
    for (; count > 12 && bit != 0; bit >>= 1) {
        uint32_t without = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint64_t pool = pools[i];
            pools[i] = pools[without];
            pools[without] = pool;
            without += ((uint32_t)pool & bit) == 0;
        }
        sort_by_slot(pools, without, bit >> 1);
        pools += without;
        count -= without;
    }
    for (uint32_t i = 1; i < count; i++) {
        uint64_t pool = pools[i];
        uint32_t at = i;
        for (; at > 0 && (uint32_t)pools[at - 1] > (uint32_t)pool; at--) pools[at] = pools[at - 1];
        pools[at] = pool;
    }
}

int psa_changed(const psa_arena *arena, uint64_t since, uint64_t commit, uint64_t first_block,
                uint64_t *pools, uint32_t capacity, uint32_t *count) {
    answer out = {
        .arena = arena,
        .commit = commit,
        .first_block = first_block,
        .pools = pools,
        .capacity = capacity,
    };
    *count = 0;
    if (since >= commit) return PSA_OK;
    int status = follow(&out, since);
    if (status == PSA_CONTENDED) status = look_at_all(&out, since);
    else if (status == PSA_OK) sort_by_slot(pools, out.count, (arena->change_slot_mask + 1) / 2);
    *count = out.count;
    if (status == PSA_OK && out.count > capacity) status = PSA_BUFFER_TOO_SMALL;
    return status;
}
