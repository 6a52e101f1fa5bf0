/* apply.c: events into pool state. Every check comes before the first write of its event. */
#include "apply.h"
#include "index.h"
#include "ticks.h"

#include <string.h>

#define BATCH 8
#define STAGES 5
#define PREFETCH_TICKS 64

static void fault(psa_writer *writer, const psa_event *event, uint32_t slot, int status, int stale) {
    psa_count(writer,
              status < PSA_POOL_NOT_FOUND
                  ? PSA_COUNTER_ARENA_FULL
                  : (uint32_t)(PSA_COUNTER_FAULTS + status - PSA_POOL_NOT_FOUND),
              1);
    if (writer->fault_count < PSA_FAULTS) {
        psa_fault *entry = &writer->faults[writer->fault_count];
        *entry = (psa_fault){
            .status = (uint32_t)status,
            .slot = slot,
            .block_number = event->block_number,
            .tx_index = event->tx_index,
            .log_index = event->log_index,
            .kind = event->kind,
            .protocol = event->protocol,
            .made_stale = (uint8_t)stale,
        };
        memcpy(entry->key, event->key, sizeof(entry->key));
    }
    writer->fault_count++;
}

/* ---- one event ---- */

static int is_after(const psa_line *line, const psa_event *event) {
    if (event->block_number <= line->base_block) return 0;
    if (event->block_number != line->block_number) return event->block_number > line->block_number;
    if (event->tx_index != line->tx_index) return event->tx_index > line->tx_index;
    return event->log_index > line->log_index;
}

static void on_forward(psa_writer *writer, const psa_event *event, uint32_t slot) {
    psa_edit edit;
    uint32_t protocol = writer->arena.statics[slot].protocol;
    const psa_slot *shared = &writer->arena.slots[slot];
    const psa_line *newest = &shared->lines[psa_newest_line(shared)];
    uint32_t status = psa_line_status(newest);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) {
        fault(writer, event, slot, PSA_POOL_NOT_FOUND, 0);
        return;
    }
    if (newest->unsure & PSA_UNSURE_UNREAD) {
        psa_count(writer, PSA_COUNTER_EVENTS_SKIPPED, 1);
        return;
    }
    if (event->tx_index > UINT32_MAX - 1 || event->log_index > UINT32_MAX - 1 ||
        !psa_takes(protocol, event)) {
        psa_edit_begin(writer, slot, &edit);
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        psa_edit_end(writer, &edit);
        fault(writer, event, slot, PSA_INVALID_EVENT_DATA, 1);
        return;
    }
    if (!is_after(newest, event)) {
        psa_count(writer, PSA_COUNTER_EVENTS_SKIPPED, 1);
        return;
    }
    psa_edit_begin(writer, slot, &edit);
    psa_undo_note_line(writer, &edit);
    if (edit.line.scrape_block > edit.line.base_block) edit.line.scrape_block = edit.line.base_block;
    uint32_t fee = psa_line_fee(&edit.line), protocol_fee = edit.line.protocol_fee;
    uint64_t fee_block = edit.line.fee_block;
    int result = psa_families[psa_family_of(protocol)].apply(writer, &edit, event);
    if (edit.line.fee_block != fee_block || edit.line.protocol_fee != protocol_fee ||
        psa_line_fee(&edit.line) != fee)
        psa_undo_note_fees(writer, &edit, fee, protocol_fee, fee_block);
    if (result == PSA_OK) {
        edit.line.block_number = event->block_number;
        edit.line.tx_index = (uint32_t)event->tx_index;
        edit.line.log_index = (uint32_t)event->log_index;
        writer->record.event_count++;
        psa_count(writer, PSA_COUNTER_EVENTS_APPLIED, 1);
        psa_count(writer,
                  PSA_COUNTER_APPLIED + PSA_COUNTER_KINDS * protocol + event->kind - PSA_EVENT_V2_SYNC, 1);
    } else {
        int was_sure = edit.line.unsure == 0;
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        if (was_sure) fault(writer, event, slot, result, 1);
    }
    psa_edit_end(writer, &edit);
}

/* ---- a reverted event: cross-check, or inverse where the ring does not reach ---- */

static void on_reverted(psa_writer *writer, const psa_event *event, uint32_t slot) {
    psa_arena *arena = &writer->arena;
    const psa_line *newest = &arena->slots[slot].lines[psa_newest_line(&arena->slots[slot])];
    uint32_t status = psa_line_status(newest);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return;
    if (newest->unsure & PSA_UNSURE_UNREAD) return;
    /* Above the head before this series of reverts: the block was never applied, nor scraped. */
    if (writer->revert_block > writer->reverted_high && writer->revert_block > newest->scrape_block)
        return;
    int in_ring = writer->revert_known && writer->revert_block > newest->scrape_block;
    psa_edit edit;
    if (in_ring) {
        if (status != PSA_STATUS_LIVE || psa_undo_has_slot(writer, writer->revert_entry, slot)) return;
        psa_edit_begin(writer, slot, &edit);
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        psa_edit_end(writer, &edit);
        fault(writer, event, slot, PSA_REORG_MISMATCH, 1);
        return;
    }
    psa_edit_begin(writer, slot, &edit);
    psa_line *line = &edit.line;
    uint32_t protocol = arena->statics[slot].protocol;
    int result = PSA_INVALID_EVENT_DATA;
    if (psa_takes(protocol, event)) result = psa_families[psa_family_of(protocol)].revert(writer, &edit, event);
    if (line->block_number >= event->block_number) { /* the branch that replaces it starts here */
        line->block_number = event->block_number - 1;
        line->tx_index = UINT32_MAX;
        line->log_index = UINT32_MAX;
    }
    if (result != PSA_OK) {
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        fault(writer, event, slot, result < PSA_POOL_NOT_FOUND ? result : PSA_REORG_TOO_DEEP, 1);
    }
    psa_edit_end(writer, &edit);
}

/* ---- an epilogue: absolute and authoritative ---- */

static void on_epilogue(psa_writer *writer, const psa_event *event, uint32_t slot) {
    const psa_slot *shared = &writer->arena.slots[slot];
    const psa_line *newest = &shared->lines[psa_newest_line(shared)];
    uint32_t status = psa_line_status(newest);
    if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return;
    if (newest->unsure & PSA_UNSURE_UNREAD) return;
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    psa_line before = edit.line;
    uint32_t protocol = writer->arena.statics[slot].protocol;
    int result = PSA_INVALID_EVENT_DATA;
    if (psa_takes(protocol, event))
        result = psa_families[psa_family_of(protocol)].settle(writer, &edit, event);
    psa_count(writer, PSA_COUNTER_EPILOGUES, 1);
    if (result == PSA_OK) {
        int differs = memcmp(before.a, edit.line.a, sizeof(before.a)) != 0 ||
                      memcmp(before.b, edit.line.b, sizeof(before.b)) != 0 ||
                      before.sqrt_price_hi != edit.line.sqrt_price_hi ||
                      before.tick != edit.line.tick;
        /* A pool scraped on the reverted branch is not in the ring: there a difference is expected. Else events
         * were lost, or the epilogue is of another block. */
        if (differs && psa_line_status(&before) == PSA_STATUS_LIVE &&
            before.base_block == before.scrape_block) {
            psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
            fault(writer, event, slot, PSA_REORG_MISMATCH, 1);
        } else {
            psa_settle_price(&edit.line);
        }
    } else {
        psa_make_stale(writer, &edit, PSA_UNSURE_ALL);
        fault(writer, event, slot, result, 1);
    }
    psa_edit_end(writer, &edit);
}

/* ---- blocks ---- */

static void on_begin(psa_writer *writer, const psa_event *event) {
    if (event->flags & PSA_EVENT_IS_REVERT) {
        psa_undo_revert(writer, event);
        return;
    }
    writer->reverted_top = 0;
    writer->reverted_high = 0;
    writer->in_revert = 0;
    writer->open_entry = 0;
    if (event->block_number > writer->record.block_number) {
        psa_undo_begin_block(writer, event);
        writer->record.block_number = event->block_number;
        writer->record.timestamp = event->timestamp;
        writer->record.base_fee = event->words[0];
        if (event->flags & PSA_EVENT_HAS_FEES && writer->record.fees_block + 1 == event->block_number)
            writer->record.fees_block = event->block_number;
        memset(writer->record.block_hash, 0, sizeof(writer->record.block_hash));
    }
    writer->pending = 1;
}

static void on_end(psa_writer *writer, const psa_event *event, uint64_t min_commit_ns) {
    if (writer->in_revert) psa_count(writer, PSA_COUNTER_BLOCKS_REVERTED, 1);
    else psa_count(writer, PSA_COUNTER_BLOCKS, 1);
    psa_undo_end_block(writer);
    writer->in_revert = 0;
    writer->record.stream_seq = event->stream_seq;
    writer->pending = 1;
    psa_commit_due(writer, min_commit_ns);
}

static int is_pool_event(const psa_event *event) {
    return event->kind >= PSA_EVENT_V2_SYNC && event->kind != PSA_EVENT_UNSUPPORTED;
}

static void on_pool_event(psa_writer *writer, const psa_event *event, uint32_t slot,
                          uint32_t only_slot) {
    if (only_slot != PSA_NO_SLOT) {
        if (slot != only_slot || event->flags & PSA_EVENT_IS_REVERT) return;
        if (event->kind == PSA_EVENT_SLOT0_FINAL || event->kind == PSA_EVENT_V2_FINAL) return;
    }
    if (slot == PSA_NO_SLOT) {
        fault(writer, event, slot, PSA_POOL_NOT_FOUND, 0);
        return;
    }
    if (event->kind == PSA_EVENT_SLOT0_FINAL || event->kind == PSA_EVENT_V2_FINAL)
        on_epilogue(writer, event, slot);
    else if (event->flags & PSA_EVENT_IS_REVERT) on_reverted(writer, event, slot);
    else on_forward(writer, event, slot);
}

static void on_unsupported(psa_writer *writer, const psa_event *event) {
    uint32_t protocol = event->protocol < 15 ? event->protocol : 15;
    int status = event->protocol <= PSA_UNISWAP_V4 ? PSA_UNSUPPORTED_EVENT_TYPE
                                                   : PSA_UNSUPPORTED_PROTOCOL;
    psa_count(writer, PSA_COUNTER_EVENTS_UNSUPPORTED, 1);
    psa_count(writer, PSA_COUNTER_UNSUPPORTED + protocol, 1);
    psa_count(writer, (uint32_t)(PSA_COUNTER_FAULTS + status - PSA_POOL_NOT_FOUND), 1);
}

static void prefetch_slab(const psa_arena *arena, const psa_line *line) {
    psa_tick_arrays arrays;
    if (line->tick_count == 0 || !psa_line_arrays(arena, line, &arrays)) return;
    uint32_t count = line->tick_count < PREFETCH_TICKS ? line->tick_count : PREFETCH_TICKS;
    for (uint32_t i = 0; i < count; i += 16) __builtin_prefetch(&arrays.ticks[i], 1);
    for (uint32_t i = 0; i < count; i += 4) {
        __builtin_prefetch(&arrays.net[2 * (size_t)i], 1);
        __builtin_prefetch(&arrays.gross[2 * (size_t)i], 1);
    }
}

/* A swap looks at the ticks around the current one. A liquidity change copies the whole slab, most often
 * into the one the older line gives back. */
static void prefetch_ticks(const psa_arena *arena, const psa_event *event, uint32_t slot) {
    const psa_slot *shared = &arena->slots[slot];
    uint32_t newest = psa_newest_line(shared);
    if (event->kind == PSA_EVENT_CL_LIQUIDITY) {
        prefetch_slab(arena, &shared->lines[newest]);
        prefetch_slab(arena, &shared->lines[1 - newest]);
    } else if (event->kind == PSA_EVENT_CL_SWAP) {
        const psa_line *line = &shared->lines[newest];
        psa_tick_arrays arrays;
        if (line->tick_count != 0 && psa_line_arrays(arena, line, &arrays))
            for (uint32_t i = 0; i < line->tick_count && i < PREFETCH_TICKS; i += 16)
                __builtin_prefetch(&arrays.ticks[i]);
    }
}

/* Events go through five stages, one batch apart, so that each stage finds in the cache what the stage
 * before asked for: hash the key; read the bucket; compare the key; look at the line; apply. */
typedef struct {
    const psa_event *events;
    uint32_t count;
    uint32_t buckets[BATCH];
    uint32_t slots[BATCH];
} batch;

static void hash_keys(const psa_arena *arena, batch *b) {
    for (uint32_t i = 0; i < b->count; i++) {
        b->buckets[i] = psa_key_bucket(arena, b->events[i].key);
        __builtin_prefetch(&arena->buckets[b->buckets[i]]);
    }
}

/* The row of the first entry, and of the one behind it: a quarter of the keys are not where they hash to. */
static void read_buckets(const psa_arena *arena, batch *b) {
    for (uint32_t i = 0; i < b->count; i++) {
        for (uint32_t at = 0; at < 2; at++) {
            uint32_t entry = arena->buckets[(b->buckets[i] + at) & arena->bucket_mask];
            if (entry == 0) break;
            if (entry <= arena->max_pools) __builtin_prefetch(arena->statics[entry - 1].key);
        }
    }
}

static void find_slots(const psa_writer *writer, batch *b) {
    const psa_arena *arena = &writer->arena;
    for (uint32_t i = 0; i < b->count; i++) {
        b->slots[i] = PSA_NO_SLOT;
        if (!is_pool_event(&b->events[i])) continue;
        if (psa_find_from(arena, b->events[i].key, b->buckets[i], &b->slots[i]) != PSA_OK) {
            b->slots[i] = PSA_NO_SLOT;
            continue;
        }
        const uint8_t *slot = (const uint8_t *)&arena->slots[b->slots[i]];
        for (int line = 0; line < 4; line++) __builtin_prefetch(slot + 64 * line, 1);
        __builtin_prefetch(&arena->statics[b->slots[i]].token0);
        __builtin_prefetch(&writer->touched[b->slots[i]], 1);
    }
}

static void look_at_lines(const psa_arena *arena, const batch *b) {
    for (uint32_t i = 0; i < b->count; i++)
        if (b->slots[i] != PSA_NO_SLOT) prefetch_ticks(arena, &b->events[i], b->slots[i]);
}

static void apply_batch(psa_writer *writer, const batch *b, uint64_t min_commit_ns,
                        uint32_t only_slot) {
    for (uint32_t i = 0; i < b->count; i++) {
        const psa_event *event = &b->events[i];
        if (is_pool_event(event)) {
            on_pool_event(writer, event, b->slots[i], only_slot);
            continue;
        }
        if (only_slot != PSA_NO_SLOT) continue;
        switch (event->kind) {
        case PSA_EVENT_BEGIN_BLOCK: on_begin(writer, event); break;
        case PSA_EVENT_END_BLOCK: on_end(writer, event, min_commit_ns); break;
        case PSA_EVENT_REORG_START:
            writer->in_reorg = 1;
            writer->reverted_top = 0;
            writer->reverted_high = 0;
            psa_count(writer, PSA_COUNTER_REORGS, 1);
            break;
        case PSA_EVENT_REORG_COMPLETE:
            writer->in_reorg = 0;
            writer->record.stream_seq = event->stream_seq;
            writer->pending = 1;
            psa_commit(writer);
            break;
        case PSA_EVENT_UNSUPPORTED: on_unsupported(writer, event); break;
        default: break;
        }
    }
}

/* A pool that was caught up alone has no before-images of the blocks it was caught up with, and those
 * the ring may hold are of values it had before: its values count as read at the head. */
static void rebase(psa_writer *writer, uint32_t slot) {
    psa_edit edit;
    psa_edit_begin(writer, slot, &edit);
    uint64_t head = writer->record.block_number;
    if (edit.line.scrape_block < head) edit.line.scrape_block = head;
    if (edit.line.base_block < head) edit.line.base_block = head;
    if (edit.line.base_block > writer->highest_base_block)
        writer->highest_base_block = edit.line.base_block;
    psa_edit_end(writer, &edit);
}

int psa_apply(psa_writer *writer, const psa_event *events, uint64_t count, uint64_t min_commit_ns,
              uint32_t only_slot) {
    const psa_arena *arena = &writer->arena;
    batch batches[STAGES];
    if (only_slot != PSA_NO_SLOT) {
        if (only_slot >= arena->header->slots_used) return PSA_BAD_ARGUMENT;
        uint32_t status = psa_newest_status(arena, only_slot);
        if (status == PSA_STATUS_ABSENT || status == PSA_STATUS_REMOVED) return PSA_POOL_REMOVED;
    }
    uint64_t total = (count + BATCH - 1) / BATCH;
    for (uint64_t step = 0; step < total + STAGES - 1; step++) {
        if (step < total) {
            batch *fresh = &batches[step % STAGES];
            fresh->events = events + step * BATCH;
            fresh->count = count - step * BATCH < BATCH ? (uint32_t)(count - step * BATCH) : BATCH;
            hash_keys(arena, fresh);
        }
        if (step >= 1 && step - 1 < total) read_buckets(arena, &batches[(step - 1) % STAGES]);
        if (step >= 2 && step - 2 < total) find_slots(writer, &batches[(step - 2) % STAGES]);
        if (step >= 3 && step - 3 < total) look_at_lines(arena, &batches[(step - 3) % STAGES]);
        if (step >= 4) apply_batch(writer, &batches[(step - 4) % STAGES], min_commit_ns, only_slot);
    }
    if (only_slot != PSA_NO_SLOT) rebase(writer, only_slot);
    return PSA_OK;
}

uint64_t psa_blocks_follow(const psa_event *events, uint64_t count, uint64_t tip) {
    for (uint64_t i = 0; i < count; i++) {
        const psa_event *event = &events[i];
        if (event->kind == PSA_EVENT_BEGIN_BLOCK) {
            if (event->flags & PSA_EVENT_IS_REVERT || event->block_number != tip + 1) return 0;
            tip = event->block_number;
        } else if (event->kind != PSA_EVENT_END_BLOCK && !(event->flags & PSA_EVENT_IN_BLOCK)) {
            return 0;
        }
    }
    return count == 0 ? 0 : tip;
}
