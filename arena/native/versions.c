/* versions.c: commits and the version protocol.
 *
 * Each pool has two version lines, each with the number of the commit that wrote it. `committed` = C is
 * the last published commit; commit T = C + 1 is being built. The argument in full, with what would go
 * wrong without each point, stands in docs/explanation/concurrency.md. The ordering points:
 *
 * W1  stamp := T (relaxed) when commit T first touches a line: the line that is not the newest committed.
 * W2  release fence after W1, before any payload or slab store of T. A reader that sees one of those
 *     stores therefore sees the new stamp at R3 and retries.
 * W3  payload and slab stores, relaxed. The slab the line named before is handed out again only now.
 * W4  committed := T, release: whoever sees T sees everything stored for T.
 * W5  nothing of commit T + 1 before W4 of T: the futex call between them is a barrier for the compiler.
 * R1  committed, acquire. Pairs with W4.
 * R2  both stamps, acquire; the newest one <= C is picked; then payload and slab loads, relaxed.
 * R3  acquire fence, then the stamp again, relaxed. Equal means nothing loaded since R2 belongs to a later
 *     commit: had one load seen a later W3, the fence pair R3/W2 would show its W1 here.
 * T1  take-over: lines stamped > committed are marked dropped before the first new commit, so a number
 *     used by a dead writer can be used again.
 *
 * The ring of changes (changes.c) is published by the same W4, with a W1 and a W2 of its own.
 *
 * Nothing relies on x86 ordering; W2 and R3 are real barriers on ARM64.
 */
#define _GNU_SOURCE
#include "versions.h"

#include "ticks.h"
#include "writer.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PSA_READ_TRIES 64

#define PSA_LINE_WORDS (sizeof(psa_line) / sizeof(uint64_t))

/* ---- reading ---- */

static inline void store_words(void *to, const uint64_t *from, size_t count) {
    uint64_t *words = (uint64_t *)to;
    for (size_t i = 0; i < count; i++) PSA_STORE(&words[i], from[i]);
}

int psa_line_begin(const psa_arena *arena, uint32_t slot, uint64_t commit, psa_line *line,
                   uint32_t *which) {
    if (slot >= arena->max_pools) return PSA_BAD_ARGUMENT;
    if (commit == 0) commit = PSA_LOAD_ACQUIRE(&arena->header->committed); /* R1 */
    uint64_t stamp;
    uint32_t picked = psa_pick_line(&arena->slots[slot], commit, &stamp);
    if (picked == 2) return stamp == 0 ? PSA_UNKNOWN_POOL : PSA_SNAPSHOT_TOO_OLD;
    psa_load_words((uint64_t *)(void *)line, &arena->slots[slot].lines[picked], PSA_LINE_WORDS);
    line->stamp = stamp;
    *which = picked;
    return PSA_OK;
}

static int check_generation(const psa_line *line, uint32_t generation) {
    if (generation == 0) return PSA_OK;
    int gone = line->generation != generation || line->fee_status >> 24 == PSA_STATUS_REMOVED;
    return gone ? PSA_POOL_REMOVED : PSA_OK;
}

int psa_pool_read(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                  psa_line *line) {
    for (int attempt = 0; attempt < PSA_READ_TRIES; attempt++) {
        uint32_t which;
        int status = psa_line_begin(arena, slot, commit, line, &which);
        if (status == PSA_OK && psa_line_still(arena, slot, line, which))
            return check_generation(line, generation);
        if (status == PSA_BAD_ARGUMENT || status == PSA_UNKNOWN_POOL) return status;
        if (commit != 0) return PSA_SNAPSHOT_TOO_OLD;
    }
    return PSA_CONTENDED;
}

static void load_ticks(const psa_tick_arrays *from, uint32_t count, int32_t *ticks, uint64_t *net,
                       uint64_t *gross) {
    for (uint32_t i = 0; i < count; i++) ticks[i] = PSA_LOAD(&from->ticks[i]);
    psa_load_words(net, from->net, 2 * (size_t)count);
    psa_load_words(gross, from->gross, 2 * (size_t)count);
}

/* One try at a line and its ticks. PSA_CONTENDED: a torn read, try again. */
static int read_with_ticks(const psa_arena *arena, uint32_t slot, uint64_t commit, psa_line *line,
                           int32_t *ticks, uint64_t *net, uint64_t *gross, uint64_t capacity) {
    uint32_t which;
    int status = psa_line_begin(arena, slot, commit, line, &which);
    if (status != PSA_OK) return status;
    psa_tick_arrays arrays;
    int fits = psa_line_ticks(arena, line, &arrays);
    int room = line->tick_count <= capacity;
    if (fits && room && line->tick_count != 0)
        load_ticks(&arrays, line->tick_count, ticks, net, gross);
    if (!psa_line_still(arena, slot, line, which)) return PSA_CONTENDED;
    if (!fits) return PSA_TICK_DATA;
    return room ? PSA_OK : PSA_BUFFER_TOO_SMALL;
}

int psa_pool_read_ticks(const psa_arena *arena, uint32_t slot, uint32_t generation, uint64_t commit,
                        psa_line *line, int32_t *ticks, uint64_t *net, uint64_t *gross,
                        uint32_t capacity) {
    for (int attempt = 0; attempt < PSA_READ_TRIES; attempt++) {
        int status = read_with_ticks(arena, slot, commit, line, ticks, net, gross, capacity);
        if (status == PSA_OK) return check_generation(line, generation);
        if (status != PSA_CONTENDED && status != PSA_SNAPSHOT_TOO_OLD) return status;
        if (commit != 0) return PSA_SNAPSHOT_TOO_OLD;
    }
    return PSA_CONTENDED;
}

/* A key that was not found, or a reference of an arena that had more slots. */
static int leads_nowhere(const psa_arena *arena, uint32_t slot, uint32_t generation) {
    return slot == PSA_NO_SLOT || (slot >= arena->max_pools && generation != 0);
}

static int absent_if_other(const psa_line *line, uint32_t generation) {
    return generation != 0 && line->generation != generation ? PSA_UNKNOWN_POOL : PSA_OK;
}

int psa_snapshot(const psa_arena *arena, const uint64_t *pools, uint32_t count, uint64_t commit,
                 psa_line *lines, uint32_t *failed) {
    if (commit == 0) return PSA_BAD_ARGUMENT;
    for (uint32_t i = 0; i < count; i++) {
        if (i + 8 < count && (uint32_t)pools[i + 8] < arena->max_pools) {
            const psa_slot *ahead = &arena->slots[(uint32_t)pools[i + 8]];
            __builtin_prefetch(&ahead->lines[0]);
            __builtin_prefetch(&ahead->lines[1]);
        }
        uint32_t slot = (uint32_t)pools[i], generation = (uint32_t)(pools[i] >> 32);
        if (leads_nowhere(arena, slot, generation)) {
            memset(&lines[i], 0, sizeof(lines[i]));
            continue;
        }
        uint32_t which;
        int status = psa_line_begin(arena, slot, commit, &lines[i], &which);
        if (status == PSA_OK && !psa_line_still(arena, slot, &lines[i], which))
            status = PSA_SNAPSHOT_TOO_OLD;
        if (status == PSA_OK) status = absent_if_other(&lines[i], generation);
        if (status == PSA_UNKNOWN_POOL) {
            memset(&lines[i], 0, sizeof(lines[i]));
        } else if (status != PSA_OK) {
            *failed = i;
            return status;
        }
    }
    return PSA_OK;
}

int psa_snapshot_ticks(const psa_arena *arena, const uint64_t *pools, uint32_t count,
                       uint64_t commit, psa_line *lines, uint64_t *starts, int32_t *ticks,
                       uint64_t *net, uint64_t *gross, uint64_t capacity, uint32_t *failed) {
    if (commit == 0) return PSA_BAD_ARGUMENT;
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++) {
        starts[i] = total;
        uint32_t slot = (uint32_t)pools[i], generation = (uint32_t)(pools[i] >> 32);
        if (leads_nowhere(arena, slot, generation)) {
            memset(&lines[i], 0, sizeof(lines[i]));
            continue;
        }
        uint64_t room = total < capacity ? capacity - total : 0;
        uint64_t at = total < capacity ? total : 0; /* with no room nothing is written there */
        int status = read_with_ticks(arena, slot, commit, &lines[i], ticks + at, net + 2 * at,
                                     gross + 2 * at, room);
        if (status == PSA_OK || status == PSA_BUFFER_TOO_SMALL)
            status = absent_if_other(&lines[i], generation) == PSA_OK ? status : PSA_UNKNOWN_POOL;
        if (status == PSA_UNKNOWN_POOL) {
            memset(&lines[i], 0, sizeof(lines[i]));
        } else if (status != PSA_OK && status != PSA_BUFFER_TOO_SMALL) {
            *failed = i;
            return status == PSA_CONTENDED ? PSA_SNAPSHOT_TOO_OLD : status;
        }
        total += lines[i].tick_count;
    }
    starts[count] = total;
    return total > capacity ? PSA_BUFFER_TOO_SMALL : PSA_OK;
}

int psa_pin(const psa_arena *arena, psa_commit_record *record) {
    const psa_header *header = arena->header;
    for (int attempt = 0; attempt < PSA_READ_TRIES; attempt++) {
        uint64_t commit = PSA_LOAD_ACQUIRE(&header->committed); /* R1 */
        if (commit == 0) {
            memset(record, 0, sizeof(*record));
            return PSA_OK;
        }
        const psa_commit_record *source = &header->commits[commit & 1];
        if (PSA_LOAD_ACQUIRE(&source->stamp) != commit) continue;
        psa_load_words((uint64_t *)(void *)record, source, sizeof(*record) / sizeof(uint64_t));
        PSA_FENCE_ACQUIRE(); /* R3 */
        if (PSA_LOAD(&source->stamp) == commit) {
            record->stamp = commit;
            return PSA_OK;
        }
    }
    return PSA_CONTENDED;
}

static uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* The futex word is the low half of committed (little-endian). It may be waited on through a read-only
 * mapping, and it is not private: waiters are in other processes. A signal ends the wait early, so
 * that the caller can look at it. */
int psa_wait_commit(const psa_arena *arena, uint64_t seen, uint64_t timeout_ns, uint64_t *committed) {
    const uint64_t *word = &arena->header->committed;
    uint32_t superseded = PSA_LOAD_ACQUIRE(&arena->header->superseded);
    uint64_t now = monotonic_ns();
    uint64_t deadline = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    for (;;) {
        *committed = PSA_LOAD_ACQUIRE(word);
        if (*committed != seen) return PSA_OK;
        if (PSA_LOAD_ACQUIRE(&arena->header->superseded) != superseded) return PSA_TIMED_OUT;
        now = monotonic_ns();
        if (now >= deadline) return PSA_TIMED_OUT;
        uint64_t left = deadline - now;
        struct timespec timeout = {
            .tv_sec = (time_t)(left / UINT64_C(1000000000)),
            .tv_nsec = (long)(left % UINT64_C(1000000000)),
        };
        long result = syscall(SYS_futex, (const uint32_t *)(const void *)word, FUTEX_WAIT,
                              (uint32_t)seen, &timeout, NULL, 0);
        if (result == -1 && errno == EINTR) {
            *committed = PSA_LOAD_ACQUIRE(word);
            return *committed != seen ? PSA_OK : PSA_TIMED_OUT;
        }
    }
}

/* ---- writing ---- */

static void wake(psa_header *header) {
    syscall(SYS_futex, (uint32_t *)(void *)&header->committed, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void psa_supersede(psa_header *header) {
    PSA_STORE_RELEASE(&header->superseded, 1);
    wake(header);
}

void psa_edit_begin(psa_writer *writer, uint32_t slot, psa_edit *edit) {
    psa_slot *target = &writer->arena.slots[slot];
    uint64_t commit = writer->next_commit;
    uint32_t newest = psa_newest_line(target);
    edit->slot = slot;
    writer->pending = 1;
    if (target->lines[newest].stamp == commit) { /* touched before in this commit */
        edit->which = newest;
        edit->shared_slab = target->lines[1 - newest].stamp != PSA_STAMP_DROPPED
                                ? target->lines[1 - newest].slab
                                : 0;
        memcpy(&edit->line, &target->lines[newest], sizeof(psa_line));
        return;
    }
    uint32_t older = 1 - newest;
    const psa_line *base = &target->lines[newest];
    uint32_t retired = target->lines[older].slab;
    PSA_STORE(&target->lines[older].stamp, commit); /* W1 */
    PSA_FENCE_RELEASE();                            /* W2 */
    edit->which = older;
    edit->shared_slab = base->slab;
    memcpy(&edit->line, base, sizeof(psa_line));
    edit->line.stamp = commit;
    if (retired != 0 && retired != base->slab) psa_slab_free(writer, retired);
    writer->dirty[writer->dirty_count++] = slot;
}

void psa_edit_end(psa_writer *writer, psa_edit *edit) {
    psa_line *target = &writer->arena.slots[edit->slot].lines[edit->which];
    store_words((uint64_t *)(void *)target + 1, (const uint64_t *)(const void *)&edit->line + 1,
                PSA_LINE_WORDS - 1); /* W3 */
}

int psa_commit(psa_writer *writer) {
    if (!writer->pending || writer->in_reorg) return PSA_OK;
    psa_header *header = writer->arena.header;
    uint64_t commit = writer->next_commit;
    psa_commit_record *record = &header->commits[commit & 1];
    writer->record.stamp = commit;
    writer->record.reused = header->reused;
    psa_changes_publish(writer);
    PSA_STORE(&record->stamp, commit); /* W1 */
    PSA_FENCE_RELEASE();               /* W2 */
    store_words((uint64_t *)(void *)record + 1, (const uint64_t *)(const void *)&writer->record + 1,
                sizeof(*record) / sizeof(uint64_t) - 1);
    psa_count(writer, PSA_COUNTER_COMMITS, 1);
    PSA_STORE_RELEASE(&header->committed, commit); /* W4 */
    /* After W4, and seen after it: who sees this number sees the pools it stands for. */
    PSA_STORE_RELEASE(&header->topology, writer->record.topology);
    wake(header);
    writer->next_commit = commit + 1;
    writer->record.event_count = 0;
    writer->dirty_count = 0;
    writer->pending = 0;
    return PSA_OK;
}

int psa_commit_due(psa_writer *writer, uint64_t min_commit_ns) {
    if (min_commit_ns == 0) return psa_commit(writer);
    uint64_t now = monotonic_ns();
    if (now - writer->last_commit_ns < min_commit_ns) return PSA_OK;
    writer->last_commit_ns = now;
    return psa_commit(writer);
}

/* Invalidate a line of an unpublished commit (T1). Its slab goes back unless the other line names it. */
static void drop_line(psa_writer *writer, psa_slot *slot, uint32_t which, int recycle) {
    psa_line *line = &slot->lines[which];
    uint32_t slab = line->slab;
    PSA_STORE(&line->stamp, PSA_STAMP_DROPPED);
    PSA_FENCE_RELEASE();
    PSA_STORE(&line->slab, 0);
    if (recycle && slab != 0 && slab != slot->lines[1 - which].slab) psa_slab_free(writer, slab);
}

/* What of the header does not belong to a commit, after one was dropped. */
static void count_pools(psa_writer *writer) {
    psa_header *header = writer->arena.header;
    uint64_t count = 0;
    for (uint32_t slot = 0; slot < header->slots_used; slot++) {
        const psa_slot *target = &writer->arena.slots[slot];
        uint32_t status = psa_line_status(&target->lines[psa_newest_line(target)]);
        count += status != PSA_STATUS_ABSENT && status != PSA_STATUS_REMOVED;
    }
    PSA_STORE(&header->pool_count, count);
    PSA_STORE_RELEASE(&header->topology, writer->record.topology);
}

static void load_record(psa_writer *writer) {
    psa_header *header = writer->arena.header;
    memset(&writer->record, 0, sizeof(writer->record));
    if (header->committed != 0)
        memcpy(&writer->record, &header->commits[header->committed & 1], sizeof(writer->record));
    writer->record.event_count = 0;
    writer->next_commit = header->committed + 1;
    writer->dirty_count = 0;
    writer->pending = 0;
    writer->in_reorg = 0;
    writer->open_entry = 0;
    writer->in_revert = 0;
    writer->reverted_top = 0;
    writer->reverted_high = 0;
}

int psa_abort(psa_writer *writer) {
    psa_arena *arena = &writer->arena;
    for (uint32_t i = 0; i < writer->dirty_count; i++) {
        uint32_t slot = writer->dirty[i];
        writer->touched[slot] = 0;
        for (uint32_t which = 0; which < 2; which++)
            if (arena->slots[slot].lines[which].stamp == writer->next_commit)
                drop_line(writer, &arena->slots[slot], which, 1);
    }
    load_record(writer);
    count_pools(writer);
    /* A revert that was dropped had lowered it: the next one looks at every pool again. */
    writer->highest_base_block = UINT64_MAX;
    return PSA_OK;
}

/* What a writer starts from when it takes over (T1): the last commit, and no line newer than it. */
void psa_writer_resume(psa_writer *writer) {
    psa_arena *arena = &writer->arena;
    psa_header *header = arena->header;
    load_record(writer);
    for (uint32_t slot = 0; slot < header->slots_used; slot++) {
        for (uint32_t which = 0; which < 2; which++) {
            psa_line *line = &arena->slots[slot].lines[which];
            if (line->stamp > header->committed) drop_line(writer, &arena->slots[slot], which, 0);
            else if (line->scrape_block > writer->highest_base_block)
                writer->highest_base_block = line->scrape_block;
        }
    }
    count_pools(writer);
}
