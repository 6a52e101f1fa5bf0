/* The read side of the version protocol (argument: versions.c), shared with the quote loop. */
#ifndef PSA_VERSIONS_H
#define PSA_VERSIONS_H

#include "arena.h"
#include "atomics.h"

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
