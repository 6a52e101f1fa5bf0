/* Every reader function on a damaged segment: typed answers, whatever lies there. */
#include "fuzz.h"

#include "../../arena/native/depth.h"
#include "../../arena/native/group.h"
#include "../../arena/native/outcome.h"

#define TICKS 64
#define RUNGS 9000

static segment whole, work;
static psa_rung rungs[RUNGS];

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    segment_make(&whole, POOLS, 8192, 6);
    segment_fill(&whole);
    segment_make(&work, POOLS, 8192, 6);
    return 0;
}

/* Prices of an answer, and the pool after it, asked again. */
static void outcomes(psa_pool_copy copy, psa_quote_result result, uint32_t flags) {
    static const uint64_t amount[4] = {70000};
    psa_copy_head head = {.line = copy.line, .row = *copy.row};
    double price;
    for (uint32_t turn = 0; turn < 3; turn++) {
        for (uint32_t which = 0; which <= PSA_PRICE_IMPACT + 1; which++) psa_quote_prices(&result, 1, which, &price);
        if (psa_copy_after(&head, copy.ticks, &result) != PSA_OK) return;
        copy.line = head.line;
        psa_quote_copy(&copy, (const uint8_t *)amount, NULL, flags ^ (turn ? PSA_ZERO_FOR_ONE : 0), 0, &result);
    }
}

/* Tables of a private copy, and of a handle. */
static void depths(input *in, const psa_arena *arena, uint32_t slot) {
    static const uint32_t is_closed = 0;
    static const uint64_t amounts[12] = {1, 0, 0, 0, 100000, 0, 0, 0, 0, 0, 0, UINT64_MAX};
    int32_t ticks[TICKS];
    uint64_t net[2 * TICKS], gross[2 * TICKS];
    psa_static row;
    psa_quote_result results[3];
    psa_depth depth;
    uint32_t failed;
    uint64_t pool = slot;
    psa_pool_copy copy = {.row = &row, .ticks = ticks, .net = net};
    uint32_t flags = (uint32_t)number(in, 1) & (PSA_ZERO_FOR_ONE | PSA_EXACT_OUT);
    flags |= PSA_ALLOW_STALE | PSA_ALLOW_DYNAMIC;
    if (psa_pool_read_ticks(arena, slot, 0, 0, &copy.line, ticks, net, gross, TICKS) != PSA_OK) return;
    if (psa_rows_read(arena, &pool, 1, &row, &failed) != PSA_OK) return;
    psa_quote_copy(&copy, (const uint8_t *)amounts, NULL, flags, 0, &results[0]);
    outcomes(copy, results[0], flags);
    if (psa_depth_build(&copy, flags | PSA_FROM_PRICE, 0, rungs, RUNGS, &depth) == PSA_OK)
        psa_depth_quote(&copy, &depth, amounts, NULL, flags, 0, 3, results);
    psa_depth_use uses[2] = {{0}, {0}};
    psa_quote_call call = {arena, &is_closed, 0, slot, row.generation, uses};
    if (psa_depth_read(&call, flags & ~(uint32_t)PSA_EXACT_OUT, 0, rungs, RUNGS, &depth) == PSA_OK)
        uses[(flags & PSA_ZERO_FOR_ONE) != 0].depth = &depth;
    psa_quote_many(&call, amounts, flags, 3, results);
}

static void group(const psa_arena *arena, const uint64_t *references, uint64_t since) {
    uint64_t pools[POOLS + 1], stamps[POOLS + 1] = {0};
    psa_line values[POOLS + 1];
    uint8_t statuses[POOLS + 1] = {0};
    uint32_t touched[POOLS + 1];
    psa_group kept = {pools, stamps, values, statuses, touched, POOLS + 1, 0, 0, 0, since, {0}};
    memcpy(pools, references, sizeof pools);
    for (; kept.fields <= PSA_GROUP_PRICES; kept.fields++) {
        memset(stamps, 0, sizeof stamps);
        psa_group_read(arena, &kept);
        psa_group_read(arena, &kept);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes) {
    input in = {data, data + nbytes};
    psa_arena arena;
    psa_commit_record record;
    psa_line lines[POOLS + 1];
    int32_t ticks[TICKS];
    uint64_t net[2 * TICKS], gross[2 * TICKS], starts[POOLS + 2], pools[POOLS + 1], references[POOLS + 1];
    uint64_t amounts[4 * (POOLS + 1)] = {0}, committed, pool;
    psa_quote_result results[POOLS + 1];
    psa_static rows[POOLS + 1];
    psa_copy_head head;
    uint64_t arrays[5 * TICKS]; /* 36 bytes a tick */
    uint32_t failed;
    uint8_t keys[32 * (POOLS + 1)];
    memcpy(work.base, whole.base, whole.nbytes);
    damage_used(&in, work.base, &whole.writer.arena);
    if (psa_arena_open(&arena, work.base, work.nbytes) != PSA_OK) return 0;
    uint64_t commit = psa_pin(&arena, &record) == PSA_OK ? record.stamp : 1;
    if (number(&in, 1) % 4 == 0) commit = number(&in, 1);
    psa_wait_commit(&arena, arena.header->committed + 1, 0, &committed);
    for (uint32_t i = 0; i <= POOLS; i++) {
        key_of(i, keys + 32 * (size_t)i);
        pools[i] = i;
        amounts[4 * i] = 1 + number(&in, 2);
        amounts[4 * i + 1] = number(&in, 1) % 4 == 0 ? number(&in, 4) : 0;
    }
    uint32_t flags = (uint32_t)number(&in, 1) & (PSA_ZERO_FOR_ONE | PSA_EXACT_OUT | PSA_ALLOW_STALE);
    psa_find(&arena, keys, &pool);
    psa_find_many(&arena, keys, POOLS + 1, references);
    psa_rows_read(&arena, pools, POOLS + 1, rows, &failed);
    psa_snapshot(&arena, pools, POOLS + 1, commit, lines, &failed);
    psa_snapshot_ticks(&arena, pools, POOLS, commit, lines, starts, ticks, net, gross, TICKS, &failed);
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t since = i == 0 ? number(&in, 1) : commit - 1 - number(&in, 1) % 16;
        uint32_t changed, room = (uint32_t)number(&in, 1) % (POOLS + 2);
        char text[PSA_KEY_TEXT * (POOLS + 1)];
        uint64_t nbytes;
        if (psa_changed(&arena, since, commit, i == 2 ? FIRST_BLOCK + 4 : 0, references, room, &changed) == PSA_OK)
            psa_keys_read(&arena, references, changed, text, &nbytes);
    }
    psa_quote_batch(&arena, pools, number(&in, 1) % 2 ? commit : 0, amounts, NULL, flags, POOLS + 1, results);
    psa_quote_batch(&arena, pools + number(&in, 1) % POOLS, 0, amounts, NULL, flags | PSA_ONE_POOL, POOLS + 1,
                    results);
    group(&arena, references, number(&in, 1) % 2 ? 0 : number(&in, 1));
    for (uint32_t slot = 0; slot <= POOLS; slot++) {
        psa_pool_read(&arena, slot, 0, 0, lines);
        psa_copy_read(&arena, slot, slot % 2, slot % 3 ? 0 : commit, &head, arrays, TICKS);
        psa_quote(&arena, slot, (uint32_t)number(&in, 1) % 2, 0, (const uint8_t *)(amounts + 4 * slot), NULL,
                  flags ^ PSA_ZERO_FOR_ONE, 0, results);
    }
    depths(&in, &arena, (uint32_t)number(&in, 1) % POOLS);
    return 0;
}
