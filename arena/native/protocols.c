/* protocols.c: the families, one row each. */
#include "protocols.h"

static int apply_none(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    (void)writer, (void)edit, (void)event;
    return PSA_INVALID_EVENT_DATA;
}

static int revert_none(psa_writer *writer, psa_edit *edit, const psa_event *event) {
    (void)writer, (void)edit, (void)event;
    return PSA_REORG_TOO_DEEP;
}

static int admits_none(const psa_static *row, const psa_line *values, const int32_t *ticks,
                       const uint64_t *gross, const uint64_t *net, uint32_t count) {
    (void)row, (void)values, (void)ticks, (void)gross, (void)net, (void)count;
    return 0;
}

const psa_family psa_families[PSA_FAMILY_COUNT] = {
    /* No event settles such a pool, and psa_check lets none pass. */
    [PSA_FAMILY_NONE] = {.apply = apply_none, .revert = revert_none, .admits = admits_none},
    [PSA_FAMILY_PAIR] = {psa_v2_apply, psa_v2_revert, psa_v2_settle, psa_v2_fits, psa_v2_admits},
    [PSA_FAMILY_CONCENTRATED] = {psa_cl_apply, psa_cl_revert, psa_cl_settle, psa_cl_fits, psa_cl_admits},
    [PSA_FAMILY_SOLIDLY] = {psa_solidly_apply, psa_v2_revert, psa_solidly_settle, psa_solidly_fits,
                            psa_solidly_admits},
};
