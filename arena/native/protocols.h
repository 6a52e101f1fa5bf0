/* protocols.h: what pools of a protocol are to the writer and to quotes, by family.
 *
 * Protocols of one family keep the same values in their lines. A new family is its number here, two
 * cases in families.h, a row in protocols.c, a file that applies its events (apply_*.c) and one that quotes it
 * (swap_*.c), or functions of those that are there.
 */
#ifndef PSA_PROTOCOLS_H
#define PSA_PROTOCOLS_H

#include "swap.h"
#include "writer.h"

enum {
    PSA_FAMILY_NONE,         /* of numbers that are no protocol with pools */
    PSA_FAMILY_PAIR,         /* two reserves */
    PSA_FAMILY_CONCENTRATED, /* price, liquidity and ticks */
    PSA_FAMILY_SOLIDLY,      /* two reserves that 112 bits need not hold, and a fee of their own unit */
    PSA_FAMILY_COUNT
};

/* Family of each protocol number, and of each kind of event. */
static const uint8_t psa_protocol_family[256] = {
    [PSA_UNISWAP_V2] = PSA_FAMILY_PAIR,
    [PSA_UNISWAP_V3] = PSA_FAMILY_CONCENTRATED,
    [PSA_UNISWAP_V4] = PSA_FAMILY_CONCENTRATED,
    [PSA_SOLIDLY] = PSA_FAMILY_SOLIDLY,
};

static const uint8_t psa_kind_family[256] = {
    [PSA_EVENT_V2_SYNC] = PSA_FAMILY_PAIR,
    [PSA_EVENT_V2_DELTA] = PSA_FAMILY_PAIR,
    [PSA_EVENT_V2_FINAL] = PSA_FAMILY_PAIR,
    [PSA_EVENT_CL_SWAP] = PSA_FAMILY_CONCENTRATED,
    [PSA_EVENT_CL_LIQUIDITY] = PSA_FAMILY_CONCENTRATED,
    [PSA_EVENT_SLOT0_FINAL] = PSA_FAMILY_CONCENTRATED,
    [PSA_EVENT_PROTOCOL_FEE] = PSA_FAMILY_CONCENTRATED,
};

static inline uint32_t psa_family_of(uint32_t protocol) { return psa_protocol_family[protocol & 0xff]; }

/* Whether its lines hold two reserves, and name no ticks. */
static inline int psa_has_reserves(uint32_t protocol) {
    uint32_t family = psa_family_of(protocol);
    return family == PSA_FAMILY_PAIR || family == PSA_FAMILY_SOLIDLY;
}

/* Whether an event can be one of a pool of `protocol`. */
static inline int psa_takes(uint32_t protocol, const psa_event *event) {
    switch (psa_kind_family[event->kind]) {
    case PSA_FAMILY_PAIR: return psa_has_reserves(protocol);
    case PSA_FAMILY_CONCENTRATED:
        return event->protocol == protocol && psa_family_of(protocol) == PSA_FAMILY_CONCENTRATED &&
               (event->kind != PSA_EVENT_PROTOCOL_FEE || protocol == PSA_UNISWAP_V4);
    default: return 1;
    }
}

/* Functions of a family. `psa_take_event`: PSA_OK, or a failure that changes nothing. */
typedef int psa_take_event(psa_writer *writer, psa_edit *edit, const psa_event *event);
typedef int psa_check_line(const psa_arena *arena, const psa_static *row, const psa_line *line);
typedef int psa_check_values(const psa_static *row, const psa_line *values, const int32_t *ticks,
                             const uint64_t *gross, const uint64_t *net, uint32_t count);
typedef int psa_load_line(const psa_line *line, const row_fields *row, uint32_t flags, uint32_t lp_fee,
                          const psa_tick_arrays *arrays, pool_state *pool);
typedef int psa_quote_pool(const pool_state *pool, const psa_u256 *amount, const psa_u256 *limit,
                           int zero_for_one, int exact_in, psa_quote_result *result);

typedef struct {
    psa_take_event *apply;    /* change the line and its ticks as the event says */
    psa_take_event *revert;   /* turn back an event of a block the undo ring does not hold */
    psa_take_event *settle;   /* take the values an epilogue brings */
    psa_check_line *fits;     /* whether a line found in a segment is one to start from */
    psa_check_values *admits; /* whether values to be installed agree; as psa_pool_install */
} psa_family;

extern const psa_family psa_families[PSA_FAMILY_COUNT];

/* apply_v2.c, swap_v2.c */
psa_take_event psa_v2_apply, psa_v2_revert, psa_v2_settle;
psa_check_line psa_v2_fits;
psa_check_values psa_v2_admits;
psa_load_line psa_v2_load;
psa_quote_pool psa_v2_quote;

/* apply_cl.c, swap_cl.c */
psa_take_event psa_cl_apply, psa_cl_revert, psa_cl_settle;
psa_check_line psa_cl_fits;
psa_check_values psa_cl_admits;
psa_load_line psa_cl_load;
psa_quote_pool psa_cl_quote;
/* The new protocol fee of V4, words[0], if a contract takes it. */
int psa_cl_set_protocol_fee(psa_line *line, const psa_event *event);

/* solidly.c */
psa_take_event psa_solidly_apply, psa_solidly_settle;
psa_check_line psa_solidly_fits;
psa_check_values psa_solidly_admits;
psa_load_line psa_solidly_load;
psa_quote_pool psa_solidly_quote;

#endif
