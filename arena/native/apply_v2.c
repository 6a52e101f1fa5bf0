/* apply_v2.c: events into the reserves of Uniswap V2 pairs. */
#include "apply.h"

#include <string.h>

static const psa_u128 UINT112_MAX = ((psa_u128)1 << 112) - 1;

static int words_to_i128(const uint64_t *words, psa_i128 *value) {
    uint64_t sign = words[1] >> 63 ? UINT64_MAX : 0;
    *value = (psa_i128)psa_get_u128(words);
    return words[2] == sign && words[3] == sign;
}

static int add_reserve(const uint64_t *reserve, psa_i128 change, psa_u128 *sum) {
    psa_u128 before = psa_get_u128(reserve);
    psa_u128 magnitude = change < 0 ? (psa_u128)-change : (psa_u128)change;
    if (change < 0 ? magnitude > before : magnitude > UINT112_MAX - before)
        return PSA_ARITHMETIC_OVERFLOW;
    *sum = change < 0 ? before - magnitude : before + magnitude;
    return PSA_OK;
}

static int set_reserves(psa_line *line, const psa_event *event) {
    const uint64_t *words = event->words;
    if (words[2] | words[3] | words[6] | words[7]) return PSA_INVALID_EVENT_DATA;
    if (words[1] >> 48 || words[5] >> 48) return PSA_ARITHMETIC_OVERFLOW;
    memcpy(line->a, &words[0], sizeof(line->a));
    memcpy(line->b, &words[4], sizeof(line->b));
    return PSA_OK;
}

static int change_reserves(psa_line *line, const psa_event *event, int invert) {
    psa_i128 amounts[2], changes[2];
    psa_u128 sums[2];
    if (!words_to_i128(&event->words[0], &amounts[0]) ||
        !words_to_i128(&event->words[4], &amounts[1]))
        return PSA_ARITHMETIC_OVERFLOW;
    for (int i = 0; i < 2; i++) {
        int status = psa_signed_change(event, amounts[i], &changes[i]);
        if (status != PSA_OK) return status;
        status = add_reserve(i == 0 ? line->a : line->b, invert ? -changes[i] : changes[i], &sums[i]);
        if (status != PSA_OK) return status;
    }
    psa_put_u128(line->a, sums[0]);
    psa_put_u128(line->b, sums[1]);
    return PSA_OK;
}

int psa_v2_apply(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    (void)writer;
    if (event->kind == PSA_EVENT_V2_DELTA) return change_reserves(&edit->line, event, 0);
    if (event->kind != PSA_EVENT_V2_SYNC) return PSA_INVALID_EVENT_DATA;
    int status = set_reserves(&edit->line, event);
    if (status == PSA_OK) psa_settle_price(&edit->line);
    return status;
}

int psa_v2_revert(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    if (event->kind == PSA_EVENT_V2_DELTA) return change_reserves(&edit->line, event, 1);
    if (event->kind != PSA_EVENT_V2_SYNC) return PSA_REORG_TOO_DEEP;
    psa_make_stale(writer, edit, PSA_UNSURE_PRICE);
    return PSA_OK;
}

int psa_v2_settle(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    (void)writer;
    int status = set_reserves(&edit->line, event);
    if (status == PSA_OK) psa_settle_reserves(&edit->line);
    return status;
}

static int reserves_fit(const psa_line *line) { return line->a[1] >> 48 == 0 && line->b[1] >> 48 == 0; }

int psa_v2_fits(const psa_arena *arena, const psa_static *row, const psa_line *line) {
    (void)arena, (void)row;
    return line->slab == 0 && reserves_fit(line);
}

int psa_v2_admits(const psa_static *row, const psa_line *values, const int32_t *ticks,
                  const uint64_t *gross, const uint64_t *net, uint32_t count) {
    (void)row, (void)ticks, (void)gross, (void)net;
    return count == 0 && reserves_fit(values) && values->sqrt_price_hi == 0;
}
