/* group.c: some pools read together, again and again, into arrays that are kept.
 *
 * A version never changes once it is committed, and its stamp never names another one of its slot. So a
 * member whose newest version has the stamp that was copied the last time needs no copy: its two stamps
 * are all that is read, and nothing of it has to be validated.
 */
#include "group.h"

#include "versions.h"

#include <string.h>

#define GROUP_TRIES 64

static const uint32_t value_nbytes[] = {sizeof(psa_line), sizeof(psa_reserves), sizeof(psa_price)};

static void no_value(psa_group *group, uint32_t i) {
    uint32_t nbytes = value_nbytes[group->fields];
    memset((uint8_t *)group->values + (size_t)i * nbytes, 0, nbytes);
    group->statuses[i] = PSA_STATUS_ABSENT;
}

/* Copy what the group keeps of a line, which is not validated yet. */
static inline void copy_value(const psa_group *group, uint32_t i, const psa_line *line, uint64_t stamp) {
    if (group->fields == PSA_GROUP_LINES) {
        psa_line *to = (psa_line *)group->values + i;
        psa_load_words((uint64_t *)(void *)to, line, sizeof(*to) / sizeof(uint64_t));
        to->stamp = stamp;
    } else if (group->fields == PSA_GROUP_RESERVES) {
        psa_reserves *to = (psa_reserves *)group->values + i;
        psa_load_words(to->reserve0, line->a, 2);
        psa_load_words(to->reserve1, line->b, 2);
    } else {
        psa_price *to = (psa_price *)group->values + i;
        psa_load_words(to->sqrt_price_x96, line->a, 2);
        to->sqrt_price_x96[2] = PSA_LOAD(&line->sqrt_price_hi);
        to->sqrt_price_x96[3] = 0;
        psa_load_words(to->liquidity, line->b, 2);
        to->tick = PSA_LOAD(&line->tick);
        to->fee_pips = PSA_LOAD(&line->fee_status) & 0xffffff;
    }
}

/* Bring a member up to `commit`, and count it when it was touched. PSA_SNAPSHOT_TOO_OLD when the writer
 * overtook it. */
static inline int read_member(const psa_arena *arena, psa_group *group, uint32_t i, uint64_t commit,
                              uint32_t *touched) {
    uint32_t slot = (uint32_t)group->pools[i], generation = (uint32_t)(group->pools[i] >> 32);
    uint64_t stamp = 0;
    if (slot >= arena->max_pools) { /* as psa_snapshot: it leads nowhere */
        no_value(group, i);
        if (group->since == 0) group->touched[(*touched)++] = i;
        return PSA_OK;
    }
    const psa_line *lines = arena->slots[slot].lines;
    uint32_t picked = psa_pick_line(&arena->slots[slot], commit, &stamp);
    if (picked == 2 && stamp != 0) return PSA_SNAPSHOT_TOO_OLD;
    if (stamp != group->stamps[i] || stamp == 0) {
        group->stamps[i] = 0; /* until it is whole */
        if (picked == 2) {
            no_value(group, i);
        } else {
            copy_value(group, i, &lines[picked], stamp);
            uint32_t status = PSA_LOAD(&lines[picked].fee_status) >> 24;
            uint32_t found = PSA_LOAD(&lines[picked].generation);
            PSA_FENCE_ACQUIRE(); /* R3 */
            if (PSA_LOAD(&lines[picked].stamp) != stamp) return PSA_SNAPSHOT_TOO_OLD;
            group->statuses[i] = (uint8_t)status;
            if (generation != 0 && found != generation) no_value(group, i);
        }
        group->stamps[i] = stamp;
    }
    if (stamp > group->since || group->since == 0) group->touched[(*touched)++] = i;
    return PSA_OK;
}

/* The count is the caller's own: threads that share a group, which they must not, spoil its values alone. */
static int read_members(const psa_arena *arena, psa_group *group, uint64_t commit, uint32_t *touched) {
    *touched = 0;
    for (uint32_t i = 0; i < group->count; i++) {
        if (i + 8 < group->count && (uint32_t)group->pools[i + 8] < arena->max_pools) {
            const psa_slot *ahead = &arena->slots[(uint32_t)group->pools[i + 8]];
            __builtin_prefetch(&ahead->lines[0]);
            __builtin_prefetch(&ahead->lines[1]);
        }
        int status = read_member(arena, group, i, commit, touched);
        if (status != PSA_OK) return status;
    }
    return PSA_OK;
}

int psa_group_read(const psa_arena *arena, psa_group *group) {
    if (!arena || !group || group->fields > PSA_GROUP_PRICES) return PSA_BAD_ARGUMENT;
    psa_commit_record record;
    uint32_t touched = 0;
    int status = PSA_SNAPSHOT_TOO_OLD;
    for (int attempt = 0; attempt < GROUP_TRIES && status == PSA_SNAPSHOT_TOO_OLD; attempt++) {
        status = psa_pin(arena, &record);
        if (status == PSA_OK) status = read_members(arena, group, record.stamp, &touched);
    }
    if (status != PSA_OK) {
        group->touched_count = 0;
        return status == PSA_SNAPSHOT_TOO_OLD ? PSA_CONTENDED : status;
    }
    /* A slot that serves another pool never leads to the member again; what is written there is no news. */
    for (uint32_t k = 0; k < touched; k++) {
        uint32_t i = group->touched[k];
        if (group->statuses[i] == PSA_STATUS_ABSENT) group->pools[i] = PSA_NO_SLOT;
    }
    group->touched_count = touched;
    group->record = record;
    group->since = record.stamp;
    return PSA_OK;
}
