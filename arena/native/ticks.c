/* ticks.c: sorted tick arrays in slabs of the tick heap, copied before the first change of a commit.
 *
 * A slab a committed line names is never written to; it returns to its free list when that line has
 * been stamped by a later commit (W1, W2 in versions.c), so a reader that used it notices at R3.
 */
#define _GNU_SOURCE
#include "ticks.h"

#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

const uint32_t psa_slab_capacity[PSA_SLAB_CLASSES] = {
    8,       12,      18,      27,      40,      60,      90,      135,     202,     303,
    454,     681,     1021,    1531,    2296,    3444,    5166,    7749,    11623,   17434,
    26151,   39226,   58839,   88258,   132387,  198580,  297870,  446805,  670207,  1005310,
    1507965, 2261947, 3392920, 5089380, 7634070, 11451105, 17176657, 25764985, 38647477, 57971215,
};

#define NEAR_TICKS 64
#define PSA_RESERVE_STEP (UINT64_C(16) << 20)

static psa_slab *slab_at(const psa_arena *arena, uint32_t slab) {
    return (psa_slab *)(void *)(arena->heap + (uint64_t)slab * 64);
}

/* Words of a private slab: plain copies, but every access stays atomic under ThreadSanitizer. */
static void copy_words(void *to, const void *from, uint64_t nbytes) {
#ifdef PSA_TSAN
    uint32_t *target = to;
    const uint32_t *source = from;
    if ((uintptr_t)to <= (uintptr_t)from)
        for (uint64_t i = 0; i < nbytes / 4; i++) PSA_STORE(&target[i], source[i]);
    else
        for (uint64_t i = nbytes / 4; i > 0; i--) PSA_STORE(&target[i - 1], source[i - 1]);
#else
    memmove(to, from, nbytes);
#endif
}

static psa_tick_arrays arrays_of(const psa_arena *arena, const psa_line *line) {
    psa_tick_arrays arrays;
    if (!psa_line_arrays(arena, line, &arrays)) arrays = (psa_tick_arrays){0};
    return arrays;
}

/* ---- slabs ----
 *
 * Slab headers are the writer's own, yet stored atomically: a reader whose line is torn (slab of one
 * version, class of another) may load them as ticks, before R3 makes it discard them.
 */

void psa_slab_free(psa_writer *writer, uint32_t slab) {
    psa_slab *header = slab_at(&writer->arena, slab);
    PSA_STORE(&header->owner, 0);
    PSA_STORE(&header->next_free, writer->slab_free[header->slab_class]);
    writer->slab_free[header->slab_class] = slab;
}

int psa_heap_reserve(psa_writer *writer, uint64_t needed) {
    psa_header *header = writer->arena.header;
    if (writer->fd < 0 || needed <= header->heap_reserved) return PSA_OK;
    uint64_t step = header->heap_reserved + PSA_RESERVE_STEP;
    uint64_t goals[2] = {step > needed ? step : needed, needed};
    for (int i = 0; i < 2; i++) {
        uint64_t goal = goals[i] < writer->arena.heap_nbytes ? goals[i] : writer->arena.heap_nbytes;
        int error = posix_fallocate(writer->fd, (off_t)(header->heap_offset + header->heap_reserved),
                                    (off_t)(goal - header->heap_reserved));
        if (error == 0) {
            PSA_STORE(&header->heap_reserved, goal);
            return PSA_OK;
        }
    }
    return PSA_FULL_SHM;
}

/* Before the content of a private slab is changed. Committed content has a number the header already had
 * when it was committed, so what a dead writer gave is not given again. */
static void renew_serial(psa_writer *writer, psa_slab *slab) {
    psa_header *header = writer->arena.header;
    PSA_STORE(&header->slab_serial, header->slab_serial + 1);
    PSA_STORE(&slab->serial, header->slab_serial);
}

static int slab_take(psa_writer *writer, uint32_t slab_class, uint32_t *slab) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    int status = PSA_FULL_TICKS;
    if (slab_class < PSA_SLAB_CLASSES && writer->slab_free[slab_class] == 0) {
        uint64_t nbytes = psa_slab_nbytes(psa_slab_capacity[slab_class]);
        if (nbytes <= arena->heap_nbytes - header->heap_top) {
            status = psa_heap_reserve(writer, header->heap_top + nbytes);
            if (status == PSA_OK) {
                *slab = (uint32_t)(header->heap_top / 64);
                PSA_STORE(&slab_at(arena, *slab)->slab_class, slab_class);
                PSA_STORE_RELEASE(&header->heap_top, header->heap_top + nbytes);
                return PSA_OK;
            }
        }
    }
    for (uint32_t larger = slab_class; larger < PSA_SLAB_CLASSES; larger++) {
        uint32_t head = writer->slab_free[larger];
        if (head == 0) continue;
        writer->slab_free[larger] = slab_at(arena, head)->next_free;
        *slab = head;
        return PSA_OK;
    }
    return status;
}

static uint32_t class_for(uint32_t count) {
    uint32_t slab_class = 0;
    while (slab_class < PSA_SLAB_CLASSES && psa_slab_capacity[slab_class] < count) slab_class++;
    return slab_class;
}

/* Make each line that counts the owner of its slab, those whose slabs begin in [low, low + 64 *
 * max_pools), in 64-byte units: `begins` has a bit for each, set where a slab begins. */
static int own_slabs(psa_writer *writer, uint64_t low, const uint64_t *begins) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    for (uint32_t slot = 0; slot < header->slots_used; slot++)
        for (uint32_t which = 0; which < 2; which++) {
            const psa_line *line = &arena->slots[slot].lines[which];
            uint64_t at = (uint64_t)line->slab - low; /* wraps far beyond the end when below */
            if (line->slab == 0 || line->stamp > header->committed) continue;
            if (at / 64 >= arena->max_pools) continue;
            if (!(begins[at / 64] >> at % 64 & 1))
                return psa_damaged(writer, "tick slab of slot", slot);
            psa_slab *slab = slab_at(arena, line->slab);
            if (slab->slab_class != line->slab_class || (slab->owner != 0 && slab->owner != slot + 1) ||
                slab->kind != PSA_SLAB_TICKS || slab->serial == 0 || slab->serial > header->slab_serial)
                return psa_damaged(writer, "tick slab of slot", slot);
            PSA_STORE(&slab->owner, slot + 1);
        }
    return PSA_OK;
}

int psa_slabs_rebuild(psa_writer *writer) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    uint64_t *begins = writer->touched;
    size_t window_nbytes = sizeof(*begins) * (size_t)arena->max_pools;
    uint64_t unit = 1, end = header->heap_top / 64;
    memset(writer->slab_free, 0, sizeof(writer->slab_free));
    for (uint64_t low = 0; low < end; low += 8 * window_nbytes) {
        memset(begins, 0, window_nbytes);
        while (unit < end && unit - low < 8 * window_nbytes) {
            psa_slab *slab = slab_at(arena, (uint32_t)unit);
            if (slab->slab_class >= PSA_SLAB_CLASSES) return psa_damaged(writer, "tick slab", unit);
            uint64_t next = unit + psa_slab_nbytes(psa_slab_capacity[slab->slab_class]) / 64;
            if (next > end) return psa_damaged(writer, "tick slab", unit);
            PSA_STORE(&slab->owner, 0);
            begins[(unit - low) / 64] |= UINT64_C(1) << (unit - low) % 64;
            unit = next;
        }
        int status = own_slabs(writer, low, begins);
        if (status != PSA_OK) return status;
    }
    memset(begins, 0, window_nbytes);
    for (uint64_t offset = 64; offset < header->heap_top;) {
        uint32_t index = (uint32_t)(offset / 64);
        psa_slab *slab = slab_at(arena, index);
        if (slab->owner == 0) psa_slab_free(writer, index);
        offset += psa_slab_nbytes(psa_slab_capacity[slab->slab_class]);
    }
    return PSA_OK;
}

/* ---- tick arrays ---- */

int psa_ticks_find(const psa_arena *arena, const psa_line *line, int32_t tick, uint32_t *index) {
    psa_tick_arrays arrays = arrays_of(arena, line);
    uint32_t low = 0, high = line->tick_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (arrays.ticks[middle] < tick) low = middle + 1;
        else high = middle;
    }
    *index = low;
    return low < line->tick_count && arrays.ticks[low] == tick;
}

void psa_ticks_get(const psa_arena *arena, const psa_line *line, uint32_t index, psa_u128 *gross,
                   psa_i128 *net) {
    psa_tick_arrays arrays = arrays_of(arena, line);
    *gross = psa_get_u128(&arrays.gross[2 * (size_t)index]);
    *net = (psa_i128)psa_get_u128(&arrays.net[2 * (size_t)index]);
}

uint32_t psa_ticks_index(const psa_arena *arena, const psa_line *line, int32_t tick) {
    psa_tick_arrays arrays = arrays_of(arena, line);
    uint32_t count = line->tick_count, low = 0, high = count;
    if (count > NEAR_TICKS) { /* most swaps end near where they began */
        uint32_t guess = line->current_index < count ? line->current_index : count;
        uint32_t left = guess > NEAR_TICKS / 2 ? guess - NEAR_TICKS / 2 : 0;
        uint32_t right = count - left > NEAR_TICKS ? left + NEAR_TICKS : count;
        if (left == 0 || arrays.ticks[left - 1] <= tick) low = left;
        else high = left;
        if (right == count || arrays.ticks[right] > tick) high = low == left ? right : high;
        else low = right;
    }
    /* Halving without a branch to mispredict: `low` moves only when the middle tick is not above. */
    for (uint32_t length = high - low; length > 0;) {
        uint32_t half = (length + 1) / 2;
        low += half & -(uint32_t)(arrays.ticks[low + half - 1] <= tick);
        length -= half;
    }
    return low;
}

static int move_to_slab(psa_writer *writer, psa_edit *edit, uint32_t slab_class, uint32_t keep) {
    psa_arena *arena = &writer->arena;
    psa_tick_arrays old = arrays_of(arena, &edit->line);
    uint32_t slab = 0, previous = edit->line.slab;
    int status = slab_take(writer, slab_class, &slab);
    if (status != PSA_OK) return status;
    psa_slab *header = slab_at(arena, slab);
    PSA_STORE(&header->owner, edit->slot + 1);
    PSA_STORE(&header->kind, PSA_SLAB_TICKS);
    renew_serial(writer, header);
    edit->line.slab = slab;
    edit->line.slab_class = (uint8_t)header->slab_class;
    psa_tick_arrays fresh = arrays_of(arena, &edit->line);
    if (keep != 0) {
        copy_words((void *)(uintptr_t)fresh.ticks, old.ticks, 4 * (uint64_t)keep);
        copy_words((void *)(uintptr_t)fresh.net, old.net, 16 * (uint64_t)keep);
        copy_words((void *)(uintptr_t)fresh.gross, old.gross, 16 * (uint64_t)keep);
    }
    if (previous != 0 && previous != edit->shared_slab) psa_slab_free(writer, previous);
    return PSA_OK;
}

int psa_ticks_reserve(psa_writer *writer, psa_edit *edit, uint32_t extra) {
    uint32_t needed = edit->line.tick_count + extra;
    int is_private = edit->line.slab != 0 && edit->line.slab != edit->shared_slab;
    if (is_private && psa_slab_capacity[edit->line.slab_class] >= needed) {
        renew_serial(writer, slab_at(&writer->arena, edit->line.slab));
        return PSA_OK;
    }
    return move_to_slab(writer, edit, class_for(needed), edit->line.tick_count);
}

static void shift(const void *array, uint64_t item, uint32_t index, uint32_t count, int by) {
    uint8_t *bytes = (uint8_t *)(uintptr_t)array;
    if (by > 0) copy_words(bytes + (index + 1) * item, bytes + index * item, (count - index) * item);
    else copy_words(bytes + index * item, bytes + (index + 1) * item, (count - index - 1) * item);
}

void psa_ticks_set(psa_writer *writer, psa_edit *edit, int32_t tick, psa_u128 gross, psa_i128 net) {
    psa_line *line = &edit->line;
    uint32_t index;
    int present = psa_ticks_find(&writer->arena, line, tick, &index);
    psa_tick_arrays arrays = arrays_of(&writer->arena, line);
    uint32_t count = line->tick_count;
    if (gross == 0) {
        if (!present) return;
        shift(arrays.ticks, 4, index, count, -1);
        shift(arrays.net, 16, index, count, -1);
        shift(arrays.gross, 16, index, count, -1);
        line->tick_count = count - 1;
        if (tick <= line->tick) line->current_index--;
        return;
    }
    if (!present) {
        shift(arrays.ticks, 4, index, count, 1);
        shift(arrays.net, 16, index, count, 1);
        shift(arrays.gross, 16, index, count, 1);
        line->tick_count = count + 1;
        if (tick <= line->tick) line->current_index++;
    }
    uint64_t words[4];
    psa_put_u128(words, (psa_u128)net);
    psa_put_u128(words + 2, gross);
    PSA_STORE((int32_t *)(uintptr_t)&arrays.ticks[index], tick);
    for (size_t limb = 0; limb < 2; limb++) {
        PSA_STORE((uint64_t *)(uintptr_t)&arrays.net[2 * (size_t)index + limb], words[limb]);
        PSA_STORE((uint64_t *)(uintptr_t)&arrays.gross[2 * (size_t)index + limb], words[2 + limb]);
    }
}

int psa_ticks_replace(psa_writer *writer, psa_edit *edit, const int32_t *ticks,
                      const uint64_t *gross, const uint64_t *net, uint32_t count) {
    if (count != 0) {
        int status = move_to_slab(writer, edit, class_for(count + count / 8 + 2), 0);
        if (status != PSA_OK) return status;
        edit->line.tick_count = count;
        edit->line.current_index = 0;
        psa_tick_arrays arrays = arrays_of(&writer->arena, &edit->line);
        copy_words((void *)(uintptr_t)arrays.ticks, ticks, 4 * (uint64_t)count);
        copy_words((void *)(uintptr_t)arrays.net, net, 16 * (uint64_t)count);
        copy_words((void *)(uintptr_t)arrays.gross, gross, 16 * (uint64_t)count);
    } else {
        if (edit->line.slab != 0 && edit->line.slab != edit->shared_slab)
            psa_slab_free(writer, edit->line.slab);
        edit->line.slab = 0;
        edit->line.slab_class = 0;
    }
    edit->line.tick_count = count;
    edit->line.current_index = 0;
    edit->line.current_index = psa_ticks_index(&writer->arena, &edit->line, edit->line.tick);
    return PSA_OK;
}
