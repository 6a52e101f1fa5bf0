/* copy.c: one pool in one piece, so that a reader keeps it in a single block of private memory.
 *
 * Line, static row and ticks are loaded inside one read section; the ordering points are in versions.c.
 */
#include "protocols.h"
#include "ticks.h"
#include "versions.h"

#define COPY_TRIES 64

static void load_u64s(uint64_t *to, const uint64_t *from, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = PSA_LOAD(&from[i]);
}

static void load_u32s(uint32_t *to, const uint32_t *from, size_t count) {
    for (size_t i = 0; i < count; i++) to[i] = PSA_LOAD(&from[i]);
}

/* Whether names and places can be looked up by what a validated line and row say. */
static int is_sound(const psa_arena *arena, const psa_line *line, const psa_static *row) {
    return line->fee_status >> 24 <= PSA_STATUS_REMOVED && psa_family_of(row->protocol) != PSA_FAMILY_NONE &&
           (row->key_nbytes == 20 || row->key_nbytes == 32) && row->token0 < arena->max_tokens &&
           row->token1 < arena->max_tokens;
}

/* One try. PSA_CONTENDED: a torn read. */
static int read_once(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                     psa_copy_head *head, uint64_t *arrays_to, uint32_t capacity) {
    uint32_t which;
    psa_line *line = &head->line;
    int status = psa_line_begin(arena, slot, commit, line, &which);
    if (status != PSA_OK) return status;
    psa_tick_arrays arrays;
    int fits = psa_line_ticks(arena, line, &arrays);
    int room = line->tick_count <= capacity || !arrays_to;
    if (fits && room && line->tick_count != 0 && arrays_to) {
        size_t count = line->tick_count;
        uint64_t *net = arrays_to, *gross = net + 2 * count;
        load_u64s(net, arrays.net, 2 * count);
        load_u64s(gross, arrays.gross, 2 * count);
        load_u32s((uint32_t *)(void *)(gross + 2 * count), (const uint32_t *)(const void *)arrays.ticks,
                  count);
    }
    const psa_static *row = &arena->statics[slot];
    load_u32s((uint32_t *)(void *)&head->row, (const uint32_t *)(const void *)row,
              sizeof(*row) / sizeof(uint32_t));
    if (!psa_line_still(arena, slot, line, which)) return PSA_CONTENDED;
    uint32_t line_status = line->fee_status >> 24;
    if (generation != 0 && (line->generation != generation || line_status == PSA_STATUS_REMOVED))
        return PSA_POOL_REMOVED;
    if (line_status == PSA_STATUS_ABSENT) return PSA_UNKNOWN_POOL;
    /* The row of a removed pool may be another's, or be getting so (G1), while its last line stands. */
    if (head->row.generation != line->generation || PSA_LOAD(&row->generation) != line->generation)
        return commit != 0 ? PSA_SNAPSHOT_TOO_OLD : PSA_POOL_REMOVED;
    if (!fits) return PSA_TICK_DATA;
    if (!is_sound(arena, line, &head->row)) return PSA_DAMAGED;
    return room ? PSA_OK : PSA_BUFFER_TOO_SMALL;
}

int psa_copy_read(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                  psa_copy_head *head, uint64_t *arrays, uint32_t capacity) {
    for (int attempt = 0; attempt < COPY_TRIES; attempt++) {
        int status = read_once(arena, slot, generation, commit, head, arrays, capacity);
        if (status == PSA_OK) { /* rows of the token table never change */
            head->line.slab = slot;
            head->tokens[0] = arena->tokens[head->row.token0];
            head->tokens[1] = arena->tokens[head->row.token1];
            return PSA_OK;
        }
        if (commit != 0) return status == PSA_CONTENDED ? PSA_SNAPSHOT_TOO_OLD : status;
        if (status != PSA_CONTENDED && status != PSA_SNAPSHOT_TOO_OLD) return status;
    }
    return PSA_CONTENDED;
}
