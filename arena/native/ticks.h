/* Where the arrays of a tick slab lie, for readers and the writer. */
#ifndef PSA_TICKS_H
#define PSA_TICKS_H

#include "arena.h"
#include "atomics.h"

/* Slab capacities in ticks: 8, then 1.5 times more each, rounded down. 40 classes reach past the
 * 1,774,545 ticks a pool can have at spacing 1. */
extern const uint32_t psa_slab_capacity[PSA_SLAB_CLASSES];

static inline uint64_t psa_slab_align(uint64_t nbytes) { return (nbytes + 63) & ~UINT64_C(63); }

static inline uint64_t psa_slab_net_offset(uint32_t capacity) {
    return sizeof(psa_slab) + psa_slab_align(UINT64_C(4) * capacity);
}

static inline uint64_t psa_slab_gross_offset(uint32_t capacity) {
    return psa_slab_net_offset(capacity) + psa_slab_align(UINT64_C(16) * capacity);
}

static inline uint64_t psa_slab_nbytes(uint32_t capacity) {
    return psa_slab_gross_offset(capacity) + psa_slab_align(UINT64_C(16) * capacity);
}

typedef struct {
    const int32_t *ticks;
    const uint64_t *net;   /* two limbs each */
    const uint64_t *gross; /* two limbs each */
    uint64_t serial;       /* of the slab's content: the same slab and serial in one origin are the same
                              ticks and nets; 0: not known */
} psa_tick_arrays;

/* Locate the tick arrays a copied line names, without a look at them: serial is 0. Checks class, offset
 * and counts against the mapping, so a torn line cannot lead outside it. Returns 0 when they do not fit
 * (or the pool has no ticks and tick_count is not 0); a pool without ticks gives null arrays and 1. */
static inline int psa_line_arrays(const psa_arena *arena, const psa_line *line, psa_tick_arrays *out) {
    *out = (psa_tick_arrays){0};
    if (line->current_index > line->tick_count) return 0;
    if (line->slab == 0) return line->tick_count == 0;
    if (line->slab_class >= PSA_SLAB_CLASSES) return 0;
    uint32_t capacity = psa_slab_capacity[line->slab_class];
    uint64_t offset = (uint64_t)line->slab * 64;
    uint64_t nbytes = psa_slab_nbytes(capacity);
    if (line->tick_count > capacity || nbytes > arena->heap_nbytes ||
        offset > arena->heap_nbytes - nbytes)
        return 0;
    const uint8_t *slab = arena->heap + offset;
    out->ticks = (const int32_t *)(const void *)(slab + sizeof(psa_slab));
    out->net = (const uint64_t *)(const void *)(slab + psa_slab_net_offset(capacity));
    out->gross = (const uint64_t *)(const void *)(slab + psa_slab_gross_offset(capacity));
    return 1;
}

/* psa_line_arrays with the serial, which is good once the stamp was checked, as the arrays are. */
static inline int psa_line_ticks(const psa_arena *arena, const psa_line *line, psa_tick_arrays *out) {
    if (!psa_line_arrays(arena, line, out)) return 0;
    if (out->ticks != 0) out->serial = PSA_LOAD(&((const psa_slab *)(const void *)out->ticks - 1)->serial);
    return 1;
}

#endif
