/* open.c: a writer begins, on what lies in a segment or on a copy of it in a larger one. */
#define _GNU_SOURCE
#include "writer.h"

#include <fcntl.h>
#include <string.h>

/* Pages for all that is used already, whatever became of those it once had: a write to a hole of a full
 * file system is a SIGBUS. */
static int reserve_pages(psa_writer *writer) {
    psa_header *header = writer->arena.header;
    uint64_t step = PSA_UNDO_STEP_NBYTES / sizeof(psa_undo_record);
    if (writer->fd < 0) return psa_undo_reserve(writer, step);
    if (posix_fallocate(writer->fd, 0, (off_t)header->undo_records_offset) != 0) return PSA_FULL_SHM;
    uint64_t used = header->heap_top <= writer->arena.heap_nbytes ? header->heap_top : 0;
    if (used > 64 && posix_fallocate(writer->fd, (off_t)header->heap_offset, (off_t)used) != 0)
        return PSA_FULL_SHM;
    PSA_STORE(&header->heap_reserved, used > 64 ? used : 0); /* what more there is costs no page */
    return psa_undo_reserve(writer, step);
}

int psa_writer_open(psa_writer *writer, uint8_t *base, uint64_t nbytes, int32_t fd,
                    uint64_t *touched, uint32_t *dirty) {
    memset(writer, 0, sizeof(*writer));
    int status = psa_arena_open(&writer->arena, base, nbytes);
    if (status != PSA_OK) return status;
    writer->fd = fd;
    writer->touched = touched;
    writer->dirty = dirty;
    memset(touched, 0, sizeof(*touched) * (size_t)writer->arena.max_pools);
    status = reserve_pages(writer);
    if (status == PSA_OK) status = psa_check(writer);
    if (status == PSA_OK) status = psa_slabs_rebuild(writer);
    if (status != PSA_OK) return status;
    psa_writer_resume(writer);
    return PSA_OK;
}

/* What a copy relies on and nothing else checks. */
static int holds_together(const psa_arena *from) {
    const psa_header *header = from->header;
    if (header->slots_used > from->max_pools || header->tokens_used > from->max_tokens ||
        header->heap_top < 64 || header->heap_top > from->heap_nbytes)
        return 0;
    for (uint32_t slot = 0; slot < header->slots_used; slot++)
        if (from->statics[slot].token0 >= from->max_tokens ||
            from->statics[slot].token1 >= from->max_tokens)
            return 0;
    return header->committed == 0 ||
           header->commits[header->committed & 1].stamp == header->committed;
}

int psa_arena_copy(uint8_t *base, uint64_t nbytes, int32_t fd, const psa_arena *from) {
    psa_writer to = {0};
    int status = psa_arena_open(&to.arena, base, nbytes);
    if (status != PSA_OK) return status;
    const psa_header *source = from->header;
    psa_header *header = to.arena.header;
    if (!holds_together(from)) return PSA_DAMAGED;
    if (from->max_pools > to.arena.max_pools || from->max_tokens > to.arena.max_tokens ||
        from->heap_nbytes > to.arena.heap_nbytes || header->slots_used != 0 ||
        from->undo_entry_count > to.arena.undo_entry_count ||
        from->undo_record_count > to.arena.undo_record_count)
        return PSA_BAD_ARGUMENT;
    to.fd = fd;
    status = psa_heap_reserve(&to, source->heap_top);
    if (status != PSA_OK) return status;
    memcpy(to.arena.statics, from->statics, sizeof(psa_static) * (size_t)source->slots_used);
    memcpy(to.arena.slots, from->slots, sizeof(psa_slot) * (size_t)source->slots_used);
    memcpy(to.arena.tokens, from->tokens, sizeof(psa_token) * (size_t)source->tokens_used);
    memcpy(to.arena.heap, from->heap, source->heap_top);
    header->tokens_used = source->tokens_used;
    header->heap_top = source->heap_top;
    memcpy(header->commits, source->commits, sizeof(header->commits));
    status = psa_undo_copy(&to, from);
    if (status != PSA_OK) return status;
    memcpy(header->counters, source->counters, sizeof(header->counters));
    header->reused = source->reused;
    header->slab_serial = source->slab_serial;
    PSA_STORE_RELEASE(&header->slots_used, source->slots_used);
    PSA_STORE_RELEASE(&header->committed, source->committed);
    psa_changes_begin(&to.arena);
    psa_index_rebuild(&to);
    return PSA_OK;
}
