/* What the writer's C files share with each other; nothing here is called from Python. */
#ifndef PSA_WRITER_H
#define PSA_WRITER_H

#include "arena.h"
#include "atomics.h"

#define PSA_STAMP_DROPPED UINT64_MAX
#define PSA_LAST_UNDO_KIND PSA_UNDO_FEES
#define PSA_UNDO_STEP_NBYTES (UINT64_C(4) << 20) /* of the ring that is given pages at a time */

typedef unsigned __int128 psa_u128;
typedef __int128 psa_i128;

/* One pool's line being changed in the open commit: a private copy, stored back by psa_edit_end. */
typedef struct {
    psa_line line;
    uint32_t slot;
    uint32_t which;
    uint32_t shared_slab; /* slab of the committed line: never written to; 0 = none */
} psa_edit;

/* The line the next edit starts from: the newer one that was not dropped. */
static inline uint32_t psa_newest_line(const psa_slot *slot) {
    uint64_t first = slot->lines[0].stamp, second = slot->lines[1].stamp;
    if (first == PSA_STAMP_DROPPED) return 1;
    if (second == PSA_STAMP_DROPPED) return 0;
    return first >= second ? 0 : 1;
}

static inline void psa_count(psa_writer *writer, uint32_t counter, uint64_t by) {
    uint64_t *word = &writer->arena.header->counters[counter];
    PSA_STORE(word, *word + by);
}

static inline psa_u128 psa_get_u128(const uint64_t *limbs) {
    return (psa_u128)limbs[1] << 64 | limbs[0];
}

static inline void psa_put_u128(uint64_t *limbs, psa_u128 value) {
    limbs[0] = (uint64_t)value;
    limbs[1] = (uint64_t)(value >> 64);
}

static inline uint32_t psa_line_status(const psa_line *line) { return line->fee_status >> 24; }

static inline uint32_t psa_newest_status(const psa_arena *arena, uint32_t slot) {
    return psa_line_status(&arena->slots[slot].lines[psa_newest_line(&arena->slots[slot])]);
}

static inline uint32_t psa_line_fee(const psa_line *line) {
    return line->fee_status & UINT32_C(0xffffff);
}

static inline void psa_line_set_fee(psa_line *line, uint32_t fee) {
    line->fee_status = (line->fee_status & UINT32_C(0xff000000)) | fee;
}

static inline void psa_line_set_status(psa_line *line, uint32_t status) {
    line->fee_status = (line->fee_status & UINT32_C(0xffffff)) | status << 24;
}

/* Note what is wrong; returns PSA_DAMAGED. */
static inline int psa_damaged(psa_writer *writer, const char *what, uint64_t at) {
    writer->damage = what;
    writer->damage_at = at;
    return PSA_DAMAGED;
}

/* Say why a pool's values may be wrong; one that is used is stale from now on. */
static inline void psa_make_stale(psa_writer *writer, psa_edit *edit, uint32_t unsure) {
    uint32_t status = psa_line_status(&edit->line);
    edit->line.unsure |= (uint8_t)unsure;
    if (status != PSA_STATUS_LIVE && status != PSA_STATUS_SYNCING) return;
    psa_line_set_status(&edit->line, PSA_STATUS_STALE);
    writer->stale_count++;
    psa_count(writer, PSA_COUNTER_POOLS_STALE, 1);
}

/* versions.c */
/* The line of `slot` that the open commit writes, as it is so far. */
void psa_edit_begin(psa_writer *writer, uint32_t slot, psa_edit *edit);
void psa_edit_end(psa_writer *writer, psa_edit *edit);
/* psa_commit, when min_commit_ns passed since the last one. */
int psa_commit_due(psa_writer *writer, uint64_t min_commit_ns);
/* Begin with the last commit of a segment that passed psa_check and psa_slabs_rebuild. */
void psa_writer_resume(psa_writer *writer);

/* changes.c */
/* Say in the ring of changes what the open commit wrote; it is about to be published. */
void psa_changes_publish(psa_writer *writer);
/* Make the last commit the first whose successors the empty ring can tell. */
void psa_changes_begin(psa_arena *arena);
/* Whether a writer can go on from the ring. */
int psa_changes_fit(const psa_arena *arena);

/* check.c */
/* Everything but the tick slabs, which psa_slabs_rebuild looks at. PSA_DAMAGED. */
int psa_check(psa_writer *writer);

/* ticks.c */
/* Find the slabs of the lines up to the last commit; all others are free. Uses `touched`, all zero
 * before and after. PSA_DAMAGED. */
int psa_slabs_rebuild(psa_writer *writer);
void psa_slab_free(psa_writer *writer, uint32_t slab);
/* Give the heap pages up to `needed` bytes, in steps so that it seldom happens. */
int psa_heap_reserve(psa_writer *writer, uint64_t needed);
/* Make the pool's slab private to the open commit with room for `extra` more ticks. Fails before
 * anything changed. */
int psa_ticks_reserve(psa_writer *writer, psa_edit *edit, uint32_t extra);
/* Find a tick: 1 when present; `index` is where it is or belongs. */
int psa_ticks_find(const psa_arena *arena, const psa_line *line, int32_t tick, uint32_t *index);
void psa_ticks_get(const psa_arena *arena, const psa_line *line, uint32_t index, psa_u128 *gross,
                   psa_i128 *net);
/* Set, insert or (gross 0) remove one tick; the slab must have been reserved. */
void psa_ticks_set(psa_writer *writer, psa_edit *edit, int32_t tick, psa_u128 gross, psa_i128 net);
/* Replace all ticks. The line's current_index is recomputed. */
int psa_ticks_replace(psa_writer *writer, psa_edit *edit, const int32_t *ticks,
                      const uint64_t *gross, const uint64_t *net, uint32_t count);
/* Number of ticks <= tick; searches outwards from line->current_index. */
uint32_t psa_ticks_index(const psa_arena *arena, const psa_line *line, int32_t tick);

/* index.c */
/* Fill the empty index from the static rows. */
void psa_index_rebuild(psa_writer *writer);

/* undo.c */
/* The entry, when it and all of its records can still be read; its prev is below `seq`. */
const psa_undo_entry *psa_undo_entry_of(const psa_arena *arena, uint64_t seq);
/* Give the first `needed` records of the ring pages. PSA_FULL_SHM. */
int psa_undo_reserve(psa_writer *writer, uint64_t needed);
/* Fill an empty ring of at least its size with what can be undone in `from`, at its last commit. */
int psa_undo_copy(psa_writer *to, const psa_arena *from);
void psa_undo_begin_block(psa_writer *writer, const psa_event *event);
void psa_undo_end_block(psa_writer *writer);
void psa_undo_note_line(psa_writer *writer, const psa_edit *edit);
void psa_undo_note_tick(psa_writer *writer, uint32_t slot, uint32_t generation, int32_t tick,
                        psa_u128 gross, psa_i128 net);
/* Note the fees of V4 as they were before, after psa_undo_note_line. */
void psa_undo_note_fees(psa_writer *writer, const psa_edit *edit, uint32_t fee, uint32_t protocol_fee,
                        uint64_t fee_block);
void psa_undo_revert(psa_writer *writer, const psa_event *event);
int psa_undo_has_slot(const psa_writer *writer, uint64_t seq, uint32_t slot);

#endif
