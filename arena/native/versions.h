/* The read side of the version protocol (argument: versions.c), shared with the quote loop. */
#ifndef PSA_VERSIONS_H
#define PSA_VERSIONS_H

#include "arena.h"
#include "atomics.h"

#include <stddef.h>

static inline void psa_load_words(uint64_t *to, const void *from, size_t count) {
    const uint64_t *words = (const uint64_t *)from;
    for (size_t i = 0; i < count; i++) to[i] = PSA_LOAD(&words[i]);
}

/* R2: the line to use as of `commit`, and its stamp; 2 when there is none. */
static inline uint32_t psa_pick_line(const psa_slot *slot, uint64_t commit, uint64_t *stamp) {
    uint64_t first = PSA_LOAD_ACQUIRE(&slot->lines[0].stamp);
    uint64_t second = PSA_LOAD_ACQUIRE(&slot->lines[1].stamp);
    /* A later commit in the second line comes after the one, if any, that went to the first meanwhile. Not all
     * who pick look at the stamp again: an unchanged line need not be read. */
    if (second > commit && PSA_LOAD(&slot->lines[0].stamp) != first) {
        *stamp = 1;
        return 2;
    }
    int first_fits = first <= commit && first != 0;
    int second_fits = second <= commit && second != 0;
    if (first_fits && (!second_fits || first > second)) {
        *stamp = first;
        return 0;
    }
    if (second_fits) {
        *stamp = second;
        return 1;
    }
    *stamp = first == 0 || second == 0 ? 0 : 1;
    return 2;
}

/* Pick and copy the newest line of `slot` with stamp <= commit (commit 0: the newest committed).
 * PSA_SNAPSHOT_TOO_OLD when both lines are newer, PSA_UNKNOWN_POOL when neither was ever written.
 * The copy is not validated yet: psa_line_still must hold after its last use, and again after the
 * last use of the ticks it names. `which` is the line picked. */
int psa_line_begin(const psa_arena *arena, uint32_t slot, uint64_t commit, psa_line *line,
                   uint32_t *which);

/* Whether everything read from that line and its slab since psa_line_begin was one version. */
static inline int psa_line_still(const psa_arena *arena, uint32_t slot, const psa_line *line,
                                 uint32_t which) {
    PSA_FENCE_ACQUIRE(); /* R3 */
    return PSA_LOAD(&arena->slots[slot].lines[which].stamp) == line->stamp;
}

#endif
