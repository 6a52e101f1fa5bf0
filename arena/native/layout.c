/* layout.c: where the tables of a data segment lie, from its capacities. */
#include "arena.h"
#include "atomics.h"

#include <string.h>

#define PSA_MAGIC UINT64_C(0x3130414e45524150) /* "PARENA01" */
#define PSA_LAYOUT_VERSION UINT32_C(0x00010004)
#define PSA_BYTE_ORDER UINT32_C(0x01020304)

static uint64_t align_page(uint64_t value) { return (value + 4095) & ~UINT64_C(4095); }

typedef struct {
    uint64_t statics, slots, tokens, buckets, change_entries, change_slots, undo_entries, undo_records;
    uint64_t heap, nbytes;
    uint32_t bucket_count, change_entry_count, change_slot_count;
} psa_offsets;

/* Slots: each pool at least once, in a small arena four times, so that a reader has time to follow. */
static void size_changes(uint32_t max_pools, psa_offsets *o) {
    o->change_slot_count = 256;
    while (o->change_slot_count < max_pools ||
           (o->change_slot_count < 65536 && o->change_slot_count < 4 * max_pools))
        o->change_slot_count *= 2;
    o->change_entry_count = o->change_slot_count / 16;
}

static int compute_offsets(const psa_capacities *c, psa_offsets *o) {
    if (c->max_pools == 0 || c->max_pools > (UINT32_C(1) << 28)) return 0;
    if (c->max_tokens == 0 || c->max_tokens > (UINT32_C(1) << 28)) return 0;
    if (c->undo_entry_count == 0 || c->undo_entry_count > (UINT32_C(1) << 24)) return 0;
    if (c->undo_record_count == 0 || c->undo_record_count > (UINT64_C(1) << 32)) return 0;
    if (c->heap_nbytes < 4096 || c->heap_nbytes > (UINT64_C(1) << 37)) return 0;
    o->bucket_count = 16;
    while (o->bucket_count < 2 * c->max_pools) o->bucket_count *= 2;
    o->statics = sizeof(psa_header);
    o->slots = align_page(o->statics + sizeof(psa_static) * (uint64_t)c->max_pools);
    o->tokens = align_page(o->slots + sizeof(psa_slot) * (uint64_t)c->max_pools);
    o->buckets = align_page(o->tokens + sizeof(psa_token) * (uint64_t)c->max_tokens);
    size_changes(c->max_pools, o);
    o->change_entries = align_page(o->buckets + sizeof(uint32_t) * (uint64_t)o->bucket_count);
    o->change_slots =
        align_page(o->change_entries + sizeof(psa_change_entry) * (uint64_t)o->change_entry_count);
    o->undo_entries = align_page(o->change_slots + sizeof(uint32_t) * (uint64_t)o->change_slot_count);
    o->undo_records =
        align_page(o->undo_entries + sizeof(psa_undo_entry) * (uint64_t)c->undo_entry_count);
    o->heap = align_page(o->undo_records + sizeof(psa_undo_record) * c->undo_record_count);
    o->nbytes = align_page(o->heap + c->heap_nbytes);
    return 1;
}

uint64_t psa_arena_nbytes(const psa_capacities *capacities) {
    psa_offsets o;
    return compute_offsets(capacities, &o) ? o.nbytes : 0;
}

int psa_arena_format(uint8_t *base, uint64_t nbytes, const psa_capacities *capacities,
                     uint64_t generation, const uint8_t *digest) {
    psa_offsets o;
    if (!compute_offsets(capacities, &o) || nbytes < o.nbytes) return PSA_BAD_ARGUMENT;
    psa_header *header = (psa_header *)(void *)base;
    memset(header, 0, sizeof(*header));
    header->layout_version = PSA_LAYOUT_VERSION;
    header->byte_order = PSA_BYTE_ORDER;
    memcpy(header->layout_digest, digest, sizeof(header->layout_digest));
    header->generation = generation;
    header->origin = generation;
    header->nbytes = o.nbytes;
    header->max_pools = capacities->max_pools;
    header->max_tokens = capacities->max_tokens;
    header->bucket_count = o.bucket_count;
    header->undo_entry_count = capacities->undo_entry_count;
    header->undo_record_count = capacities->undo_record_count;
    header->heap_nbytes = capacities->heap_nbytes;
    header->statics_offset = o.statics;
    header->slots_offset = o.slots;
    header->tokens_offset = o.tokens;
    header->buckets_offset = o.buckets;
    header->change_entries_offset = o.change_entries;
    header->change_slots_offset = o.change_slots;
    header->change_entry_count = o.change_entry_count;
    header->change_slot_count = o.change_slot_count;
    header->undo_entries_offset = o.undo_entries;
    header->undo_records_offset = o.undo_records;
    header->heap_offset = o.heap;
    header->heap_top = 64; /* offset 0 means "no slab" */
    PSA_STORE_RELEASE(&header->magic, PSA_MAGIC);
    return PSA_OK;
}

int psa_arena_open(psa_arena *arena, uint8_t *base, uint64_t nbytes) {
    memset(arena, 0, sizeof(*arena));
    if (nbytes < sizeof(psa_header)) return PSA_LAYOUT_MISMATCH;
    psa_header *header = (psa_header *)(void *)base;
    if (PSA_LOAD_ACQUIRE(&header->magic) != PSA_MAGIC ||
        header->layout_version != PSA_LAYOUT_VERSION || header->byte_order != PSA_BYTE_ORDER)
        return PSA_LAYOUT_MISMATCH;
    psa_capacities capacities = {
        .max_pools = header->max_pools,
        .max_tokens = header->max_tokens,
        .undo_entry_count = header->undo_entry_count,
        .undo_record_count = header->undo_record_count,
        .heap_nbytes = header->heap_nbytes,
    };
    psa_offsets o;
    if (!compute_offsets(&capacities, &o) || o.nbytes > nbytes || header->nbytes != o.nbytes ||
        header->bucket_count != o.bucket_count || header->statics_offset != o.statics ||
        header->slots_offset != o.slots || header->tokens_offset != o.tokens ||
        header->buckets_offset != o.buckets || header->undo_entries_offset != o.undo_entries ||
        header->undo_records_offset != o.undo_records || header->heap_offset != o.heap ||
        header->change_entries_offset != o.change_entries ||
        header->change_slots_offset != o.change_slots ||
        header->change_entry_count != o.change_entry_count ||
        header->change_slot_count != o.change_slot_count)
        return PSA_LAYOUT_MISMATCH;
    arena->base = base;
    arena->nbytes = o.nbytes;
    arena->header = header;
    arena->statics = (psa_static *)(void *)(base + o.statics);
    arena->slots = (psa_slot *)(void *)(base + o.slots);
    arena->tokens = (psa_token *)(void *)(base + o.tokens);
    arena->buckets = (uint32_t *)(void *)(base + o.buckets);
    arena->change_entries = (psa_change_entry *)(void *)(base + o.change_entries);
    arena->change_slots = (uint32_t *)(void *)(base + o.change_slots);
    arena->undo_entries = (psa_undo_entry *)(void *)(base + o.undo_entries);
    arena->undo_records = (psa_undo_record *)(void *)(base + o.undo_records);
    arena->heap = base + o.heap;
    arena->heap_nbytes = capacities.heap_nbytes;
    arena->undo_record_count = capacities.undo_record_count;
    arena->max_pools = capacities.max_pools;
    arena->max_tokens = capacities.max_tokens;
    arena->bucket_mask = o.bucket_count - 1;
    arena->change_entry_mask = o.change_entry_count - 1;
    arena->change_slot_mask = o.change_slot_count - 1;
    arena->undo_entry_count = capacities.undo_entry_count;
    return PSA_OK;
}
