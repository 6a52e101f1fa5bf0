/* undo.c: the ring of before-images that turns a reverted block back.
 *
 * One entry a block, linked to the entry of the block below, and one record for each line first touched
 * and each tick or V4 fee changed by it. Numbers only grow; an entry or record is valid as long as fewer than a
 * ring's length were begun after it, also by a writer that died (undo_*_reserved). The chain a
 * commit sees starts at its record's undo_top.
 *
 * The ring has room for a load that seldom comes. Its pages are taken in steps as records first come to
 * them, and numbers leave out the rest of a lap (next_lap) while the part that has pages suffices.
 *
 * Before-images say nothing of a pool at or below its scrape_block: its values were read there, not
 * built up. What a revert means for such a pool is decided in apply.c from the reverted payload.
 */
#define _GNU_SOURCE
#include "protocols.h"

#include <fcntl.h>
#include <string.h>

#define NO_TX UINT32_MAX
#define KEPT_BLOCKS 64 /* that a revert may reach back */
/* Below this the ring takes more pages rather than overwrite: 64 blocks of 5,900 records, ten times what
 * Ethereum's busiest pools write. */
#define LAP_NBYTES (UINT64_C(32) << 20)

static psa_undo_entry *entry_at(const psa_writer *writer, uint64_t seq) {
    return &writer->arena.undo_entries[seq % writer->arena.undo_entry_count];
}

static psa_undo_record *record_at(const psa_writer *writer, uint64_t number) {
    return &writer->arena.undo_records[number % writer->arena.undo_record_count];
}

const psa_undo_entry *psa_undo_entry_of(const psa_arena *arena, uint64_t seq) {
    const psa_header *header = arena->header;
    uint64_t count = arena->undo_record_count;
    if (seq == 0 || seq + arena->undo_entry_count <= header->undo_entry_reserved) return NULL;
    const psa_undo_entry *entry = &arena->undo_entries[seq % arena->undo_entry_count];
    /* Neither it nor any of its records has been overwritten, and walks along prev come to an end. */
    if (entry->seq != seq || entry->prev >= seq || entry->record_count > count ||
        entry->first_record > header->undo_record_reserved ||
        entry->first_record + count < header->undo_record_reserved)
        return NULL;
    return entry;
}

static const psa_undo_entry *valid_entry(const psa_writer *writer, uint64_t seq) {
    return psa_undo_entry_of(&writer->arena, seq);
}

int psa_undo_reserve(psa_writer *writer, uint64_t needed) {
    uint64_t count = writer->arena.undo_record_count, paged = writer->undo_paged;
    if (writer->fd < 0) paged = writer->undo_paged = count;
    if (needed > count) needed = count;
    if (needed <= paged) return PSA_OK;
    uint64_t step = paged + PSA_UNDO_STEP_NBYTES / sizeof(psa_undo_record);
    uint64_t goal = step < needed ? needed : step > count ? count : step;
    uint64_t offset = writer->arena.header->undo_records_offset;
    if (posix_fallocate(writer->fd, (off_t)(offset + paged * sizeof(psa_undo_record)),
                        (off_t)((goal - paged) * sizeof(psa_undo_record))) != 0)
        return PSA_FULL_SHM;
    writer->undo_paged = goal;
    return PSA_OK;
}

/* Near the end of the pages the ring has: take more, or go back to its begin when the blocks that must be
 * kept lie well behind it, or when there are none to take. Numbers go on with the next lap, so whatever
 * lies further on stays valid until the new lap comes by. */
static void next_lap(psa_writer *writer) {
    uint64_t count = writer->arena.undo_record_count, paged = writer->undo_paged;
    uint64_t head = writer->record.undo_record_head, at = head % count;
    if (paged == count || at < paged - paged / 8) return;
    uint64_t oldest = head, seq = writer->record.undo_top;
    const psa_undo_entry *entry;
    for (int hops = 0; hops < KEPT_BLOCKS && (entry = valid_entry(writer, seq)) != NULL; hops++) {
        oldest = entry->first_record;
        seq = entry->prev;
    }
    int suffices = paged >= LAP_NBYTES / sizeof(psa_undo_record) && oldest >= head - at + paged / 4;
    if (!suffices && psa_undo_reserve(writer, (paged > at ? paged : at) + 1) == PSA_OK) return;
    writer->record.undo_record_head = head - at + count;
    PSA_STORE_RELEASE(&writer->arena.header->undo_record_reserved, writer->record.undo_record_head);
}

void psa_undo_begin_block(psa_writer *writer, const psa_event *event) {
    psa_header *header = writer->arena.header;
    next_lap(writer);
    uint64_t seq = ++writer->record.undo_entry_head;
    if (seq > header->undo_entry_reserved) PSA_STORE_RELEASE(&header->undo_entry_reserved, seq);
    psa_undo_entry *entry = entry_at(writer, seq);
    *entry = (psa_undo_entry){
        .seq = seq,
        .block_number = event->block_number,
        .prev = writer->record.undo_top,
        .first_record = writer->record.undo_record_head,
        .timestamp = event->timestamp,
        .base_fee = event->words[0],
    };
    writer->open_entry = seq;
}

void psa_undo_end_block(psa_writer *writer) {
    if (writer->open_entry == 0) return;
    psa_undo_entry *entry = entry_at(writer, writer->open_entry);
    entry->record_count = writer->record.undo_record_head - entry->first_record;
    writer->record.undo_top = writer->open_entry;
    writer->open_entry = 0;
}

/* NULL when there is no page for it: the open block can then not be undone. */
static psa_undo_record *push(psa_writer *writer, uint32_t slot, uint32_t kind, uint32_t generation) {
    psa_header *header = writer->arena.header;
    uint64_t number = writer->record.undo_record_head, at = number % writer->arena.undo_record_count;
    if (at >= writer->undo_paged && psa_undo_reserve(writer, at + 1) != PSA_OK) {
        entry_at(writer, writer->open_entry)->seq = 0;
        return NULL;
    }
    writer->record.undo_record_head++;
    if (number + 1 > header->undo_record_reserved)
        PSA_STORE_RELEASE(&header->undo_record_reserved, number + 1);
    psa_undo_record *record = &writer->arena.undo_records[at];
    record->entry_seq = writer->open_entry;
    record->slot = slot;
    record->kind = kind;
    record->generation = generation;
    return record;
}

void psa_undo_note_line(psa_writer *writer, const psa_edit *edit) {
    if (writer->open_entry == 0 || writer->touched[edit->slot] == writer->open_entry) return;
    writer->touched[edit->slot] = writer->open_entry;
    psa_undo_record *record = push(writer, edit->slot, PSA_UNDO_LINE, edit->line.generation);
    if (record == NULL) return;
    record->tick = edit->line.tick;
    record->sqrt_price_hi = edit->line.sqrt_price_hi;
    record->tx_index = edit->line.tx_index;
    record->log_index = edit->line.log_index;
    record->unsure = edit->line.unsure;
    /* Inside an envelope reverted V2 blocks bring no payload: reserves scraped above them are the old
     * branch's until the epilogue. */
    if (edit->line.base_block < edit->line.scrape_block &&
        psa_has_reserves(writer->arena.statics[edit->slot].protocol))
        record->unsure |= PSA_UNSURE_PRICE;
    record->block_number = edit->line.block_number;
    memcpy(&record->before[0], edit->line.a, sizeof(edit->line.a));
    memcpy(&record->before[2], edit->line.b, sizeof(edit->line.b));
}

void psa_undo_note_tick(psa_writer *writer, uint32_t slot, uint32_t generation, int32_t tick,
                        psa_u128 gross, psa_i128 net) {
    if (writer->open_entry == 0) return;
    psa_undo_record *record = push(writer, slot, PSA_UNDO_TICK, generation);
    if (record == NULL) return;
    record->tick = tick;
    psa_put_u128(&record->before[0], gross);
    psa_put_u128(&record->before[2], (psa_u128)net);
}

void psa_undo_note_fees(psa_writer *writer, const psa_edit *edit, uint32_t fee, uint32_t protocol_fee,
                        uint64_t fee_block) {
    if (writer->open_entry == 0) return;
    psa_undo_record *record = push(writer, edit->slot, PSA_UNDO_FEES, edit->line.generation);
    if (record == NULL) return;
    record->before[0] = fee;
    record->before[1] = protocol_fee;
    record->before[2] = fee_block;
}

/* Turn one record back; `block` is its entry's block. The pool may have been removed since, and its slot
 * given to another. */
static void restore(psa_writer *writer, const psa_undo_record *record, uint64_t block) {
    const psa_slot *shared = &writer->arena.slots[record->slot];
    const psa_line *newest = &shared->lines[psa_newest_line(shared)];
    uint32_t status = psa_line_status(newest);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return;
    if (newest->generation != record->generation || block <= newest->scrape_block) return;
    psa_edit edit;
    psa_edit_begin(writer, record->slot, &edit);
    psa_line *line = &edit.line;
    if (record->kind == PSA_UNDO_TICK) {
        if (psa_ticks_reserve(writer, &edit, 1) == PSA_OK)
            psa_ticks_set(writer, &edit, record->tick, psa_get_u128(&record->before[0]),
                          (psa_i128)psa_get_u128(&record->before[2]));
        else
            psa_make_stale(writer, &edit, PSA_UNSURE_TICKS);
    } else if (record->kind == PSA_UNDO_FEES) {
        psa_line_set_fee(line, (uint32_t)record->before[0] & UINT32_C(0xffffff));
        line->protocol_fee = (uint32_t)record->before[1];
        line->fee_block = record->before[2];
    } else {
        line->sqrt_price_hi = record->sqrt_price_hi;
        line->tick = record->tick;
        memcpy(line->a, &record->before[0], sizeof(line->a));
        memcpy(line->b, &record->before[2], sizeof(line->b));
        line->block_number = record->block_number;
        line->tx_index = record->tx_index;
        line->log_index = record->log_index;
        line->current_index = psa_ticks_index(&writer->arena, line, line->tick);
        /* A reverted price waited for an absolute one when this image was taken. */
        if (record->unsure) psa_make_stale(writer, &edit, record->unsure);
    }
    psa_edit_end(writer, &edit);
}

static void undo_entry(psa_writer *writer, const psa_undo_entry *entry) {
    for (uint64_t i = entry->record_count; i > 0; i--) {
        const psa_undo_record *record = record_at(writer, entry->first_record + i - 1);
        if (record->entry_seq == entry->seq && record->slot < writer->arena.max_pools)
            restore(writer, record, entry->block_number);
    }
}

int psa_undo_has_slot(const psa_writer *writer, uint64_t seq, uint32_t slot) {
    const psa_undo_entry *entry = valid_entry(writer, seq);
    if (entry == NULL) return 1; /* nothing to compare with */
    for (uint64_t i = 0; i < entry->record_count; i++)
        if (record_at(writer, entry->first_record + i)->slot == slot) return 1;
    return 0;
}

/* Blocks from `first` on count again for every pool, whatever it had seen of the old branch. */
static void lower_floors(psa_writer *writer, uint64_t first, int all_undone, int has_epilogue) {
    psa_arena *arena = &writer->arena;
    if (all_undone && writer->highest_base_block < first) return;
    for (uint32_t slot = 0; slot < arena->header->slots_used; slot++) {
        const psa_line *newest = &arena->slots[slot].lines[psa_newest_line(&arena->slots[slot])];
        uint32_t status = psa_line_status(newest);
        if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) continue;
        if (newest->unsure & PSA_UNSURE_UNREAD) continue;
        int scraped_above = newest->scrape_block >= first;
        int above = newest->block_number >= first; /* its position is one of the old branch */
        /* Touched by a block that should have been undone and could not; blocks at or below the
         * scrape are another matter: their payload tells. */
        int missed = above && newest->block_number > newest->scrape_block;
        if (!scraped_above && !above && newest->base_block < first) continue;
        psa_edit edit;
        psa_edit_begin(writer, slot, &edit);
        psa_line *line = &edit.line;
        /* Scraped above a block that is reverted before those above it are: until they are, too, its
         * values are of no block, and without an envelope readers would see them. */
        if (line->base_block > first && !writer->in_reorg) psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        if (line->base_block >= first) line->base_block = first - 1;
        if (above) {
            line->block_number = first - 1;
            line->tx_index = NO_TX;
            line->log_index = NO_TX;
        }
        if (missed) {
            psa_make_stale(writer, &edit, PSA_UNSURE_PRICE);
        } else if (scraped_above && has_epilogue == 0 &&
                   psa_has_reserves(arena->statics[slot].protocol)) {
            psa_make_stale(writer, &edit, PSA_UNSURE_PRICE);
        }
        psa_edit_end(writer, &edit);
    }
    if (writer->highest_base_block >= first) writer->highest_base_block = first - 1;
}

int psa_undo_set_hash(psa_writer *writer, uint64_t block_number, const uint8_t *hash) {
    uint64_t seq = writer->record.undo_top;
    const psa_undo_entry *entry;
    while ((entry = valid_entry(writer, seq)) != NULL && entry->block_number > block_number)
        seq = entry->prev;
    if (entry == NULL || entry->block_number != block_number) return PSA_UNKNOWN_POOL;
    memcpy(entry_at(writer, seq)->block_hash, hash, 32);
    return PSA_OK;
}

uint32_t psa_undo_blocks(const psa_writer *writer, uint64_t *numbers, uint8_t *hashes,
                         uint32_t capacity) {
    uint32_t count = 0;
    uint64_t seq = writer->record.undo_top;
    const psa_undo_entry *entry;
    while (count < capacity && (entry = valid_entry(writer, seq)) != NULL) {
        numbers[count] = entry->block_number;
        memcpy(hashes + 32 * (size_t)count, entry->block_hash, 32);
        count++;
        seq = entry->prev;
    }
    return count;
}

int psa_undo_copy(psa_writer *to, const psa_arena *from) {
    const psa_header *source = from->header;
    psa_header *header = to->arena.header;
    psa_commit_record *record = &header->commits[source->committed & 1];
    uint64_t count = from->undo_record_count, total = 0, needed = 0;
    int is_same = count == to->arena.undo_record_count; /* then records keep number and place */
    const psa_undo_entry *entry;
    if (source->committed == 0) return PSA_OK;
    if (record->undo_entry_head > source->undo_entry_reserved ||
        record->undo_record_head > source->undo_record_reserved ||
        record->undo_top > record->undo_entry_head)
        return PSA_DAMAGED;
    uint64_t end = record->undo_top;
    for (uint64_t seq = end; (entry = psa_undo_entry_of(from, seq)) != NULL; end = seq = entry->prev) {
        if (total + entry->record_count > count) break;
        total += entry->record_count;
        uint64_t last = entry->first_record % count + entry->record_count;
        if (last > needed) needed = last;
    }
    int status = psa_undo_reserve(to, is_same ? needed : total);
    if (status != PSA_OK) return status;
    if (!is_same) record->undo_record_head = total;
    header->undo_entry_reserved = record->undo_entry_head;
    header->undo_record_reserved = record->undo_record_head;
    for (uint64_t seq = record->undo_top; seq != end; seq = entry->prev) {
        entry = psa_undo_entry_of(from, seq);
        psa_undo_entry *copy = entry_at(to, seq);
        *copy = *entry;
        total -= entry->record_count;
        if (!is_same) copy->first_record = total;
        for (uint64_t i = 0; i < entry->record_count; i++)
            *record_at(to, copy->first_record + i) =
                from->undo_records[(entry->first_record + i) % count];
    }
    return PSA_OK;
}

/* Undo everything from the reverted block up. A series of reverts may come newest first (each undoes the
 * top entry) or oldest first (the first one undoes them all, the others are known to be undone). */
void psa_undo_revert(psa_writer *writer, const psa_event *event) {
    uint64_t block = event->block_number;
    psa_commit_record *head = &writer->record;
    writer->in_revert = 1;
    writer->revert_block = block;
    writer->revert_known = 0;
    writer->revert_entry = 0;
    if (writer->reverted_top == 0 && writer->reverted_high == 0) {
        writer->reverted_top = head->undo_top;
        writer->reverted_high = head->block_number;
    }
    if (block <= head->block_number) {
        const psa_undo_entry *entry;
        uint64_t undone_from = head->block_number + 1;
        while ((entry = valid_entry(writer, head->undo_top)) != NULL && entry->block_number >= block) {
            undo_entry(writer, entry);
            undone_from = entry->block_number;
            if (entry->block_number == block) {
                writer->revert_known = 1;
                writer->revert_entry = entry->seq;
            }
            head->undo_top = entry->prev;
        }
        if (valid_entry(writer, head->undo_top) == NULL) head->undo_top = 0;
        lower_floors(writer, block, undone_from <= block, event->stream_seq == 0 || writer->in_reorg);
        entry = valid_entry(writer, head->undo_top);
        head->block_number = block == 0 ? 0 : block - 1;
        if (head->fees_block > head->block_number) head->fees_block = head->block_number;
        head->timestamp = entry != NULL ? entry->timestamp : 0;
        head->base_fee = entry != NULL ? entry->base_fee : 0;
        memset(head->block_hash, 0, sizeof(head->block_hash));
        writer->pending = 1;
        return;
    }
    /* Above the head: either undone with an older block of this series, or never applied. */
    uint64_t seq = writer->reverted_top;
    for (uint32_t hops = 0; hops < writer->arena.undo_entry_count; hops++) {
        const psa_undo_entry *entry = valid_entry(writer, seq);
        if (entry == NULL || entry->block_number < block) break;
        if (entry->block_number == block) {
            writer->revert_known = 1;
            writer->revert_entry = entry->seq;
            break;
        }
        seq = entry->prev;
    }
}

int psa_undo_clear(psa_writer *writer) {
    writer->record.undo_top = 0;
    writer->pending = 1;
    return PSA_OK;
}
