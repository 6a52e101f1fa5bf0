/* A writer begins on a damaged segment: it refuses, or whatever follows neither crashes nor loops. */
#include "fuzz.h"

static segment whole, work;
static uint8_t *copy_base;

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    segment_make(&whole, POOLS, 8192, 6);
    segment_fill(&whole);
    segment_make(&work, POOLS, 8192, 6);
    psa_capacities c;
    copy_base = aligned_alloc(4096, capacities_of(&c, 2 * POOLS, 16384, 12));
    return 0;
}

static void quote_all(psa_arena *arena) {
    static const uint64_t amounts[8] = {1000, 0, 0, 0, 7, 0, 0, 1};
    psa_quote_result result;
    for (uint32_t slot = arena->header->committed % 4; slot < POOLS + 1; slot += 4)
        psa_quote(arena, slot, 0, 0, (const uint8_t *)(amounts + 4 * (slot & 1)), NULL,
                  PSA_ALLOW_STALE | PSA_ALLOW_DYNAMIC | (slot & 1 ? PSA_EXACT_OUT : 0) |
                      (slot & 2 ? PSA_ZERO_FOR_ONE : 0),
                  0, &result);
}

/* As a reader asks that saw some commit, and one that saw none. */
static void ask_changes(const psa_arena *arena, uint64_t back) {
    uint64_t pools[2 * POOLS], committed = arena->header->committed;
    uint32_t count;
    psa_changed(arena, committed > back ? committed - back : 0, committed, 0, pools, 2 * POOLS, &count);
    psa_changed(arena, 0, committed, FIRST_BLOCK + 3, pools, 1, &count);
}

/* Into a larger arena, which a writer may then begin on, too. */
static void copy_all(const psa_arena *from) {
    static const uint8_t digest[32];
    static segment larger;
    psa_capacities c;
    larger.base = copy_base;
    larger.nbytes = capacities_of(&c, 2 * POOLS, 16384, from->header->committed % 2 ? 6 : 12);
    memset(larger.base, 0, larger.nbytes);
    REQUIRE(psa_arena_format(larger.base, larger.nbytes, &c, 2, digest) == PSA_OK);
    if (psa_arena_copy(larger.base, larger.nbytes, -1, from) != PSA_OK) return;
    if (segment_open(&larger) == PSA_OK) quote_all(&larger.writer.arena);
}

static void block(input *in, psa_writer *writer, uint64_t height, int is_whole) {
    psa_event events[18];
    uint32_t count = 1 + (uint32_t)number(in, 1) % 8;
    events[0] = mark(PSA_EVENT_BEGIN_BLOCK, height, 0);
    for (uint32_t i = 1; i <= count; i++) events[i] = event_of(in, height, i);
    events[count + 1] = mark(PSA_EVENT_END_BLOCK, height, 0);
    apply(writer, events, count + (is_whole ? 2 : 1));
}

static void revert(input *in, psa_writer *writer, uint64_t height) {
    psa_event events[6];
    events[0] = mark(PSA_EVENT_BEGIN_BLOCK, height, PSA_EVENT_IS_REVERT);
    for (uint32_t i = 1; i < 5; i++) {
        events[i] = event_of(in, height, i);
        events[i].flags |= PSA_EVENT_IS_REVERT;
    }
    events[5] = mark(PSA_EVENT_END_BLOCK, height, PSA_EVENT_IS_REVERT);
    apply(writer, events, 6);
}

static void act(input *in, psa_writer *writer) {
    static const uint8_t hash[32] = {1};
    uint64_t numbers[16], head = writer->record.block_number;
    uint8_t hashes[32 * 16];
    uint32_t pool = (uint32_t)number(in, 1) % POOLS, slot;
    switch (number(in, 1) % 17) {
    case 0:
    case 1:
    case 2: block(in, writer, head + 1, 1); break;
    case 3: block(in, writer, head + 1, 0); break;
    case 4:
    case 5: revert(in, writer, head); break;
    case 6: revert(in, writer, head > 3 ? head - 3 : 1); break;
    case 7: psa_abort(writer); break;
    case 8:
        if (add_pool(writer, pool, &slot) == PSA_OK) install_pool(writer, pool, slot, head);
        break;
    case 9: psa_pool_remove(writer, pool); break;
    case 10: psa_commit(writer); break;
    case 11:
        psa_undo_set_hash(writer, head - number(in, 1) % 8, hash);
        psa_undo_blocks(writer, numbers, hashes, 16);
        break;
    case 12: copy_all(&writer->arena); break;
    case 15: ask_changes(&writer->arena, number(in, 1) % 32); break;
    case 13: psa_set_status_all(writer, PSA_STATUS_LIVE, PSA_STATUS_STALE, PSA_UNSURE_PRICE); break;
    case 14: {
        psa_event start = mark(number(in, 1) % 2 ? PSA_EVENT_REORG_START : PSA_EVENT_REORG_COMPLETE, head, 0);
        apply(writer, &start, 1);
        break;
    }
    default: quote_all(&writer->arena); break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes) {
    input in = {data, data + nbytes};
    memcpy(work.base, whole.base, whole.nbytes);
    damage_used(&in, work.base, &whole.writer.arena);
    if (psa_arena_open(&work.writer.arena, work.base, work.nbytes) == PSA_OK && number(&in, 1) % 4 == 0)
        copy_all(&work.writer.arena); /* as from a checkpoint, which nothing has looked at yet */
    if (segment_open(&work) != PSA_OK) return 0;
    psa_slots_reclaim(&work.writer);
    for (int i = 0; i < 24 && in.at < in.end; i++) act(&in, &work.writer);
    return 0;
}
