/* reader.c: the shortest way from Python to a quote.
 *
 * A call from Python costs about as much as its arguments; a pool handle therefore keeps what never
 * changes in a psa_quote_call and passes one pointer, and what must hold before each quote is checked
 * here.
 */
#include "arena.h"

#include "atomics.h"

static int must_look(const psa_quote_call *call) {
    return PSA_LOAD(call->closed) != 0 ||
           (call->commit == 0 && PSA_LOAD(&call->arena->header->superseded) != 0);
}

int psa_quote_prepared(const psa_quote_call *call, const uint8_t *amount, uint32_t flags,
                       psa_quote_result *result) {
    if (must_look(call)) return PSA_CLOSED;
    return psa_quote(call->arena, call->slot, call->generation, call->commit, amount, 0, flags, 0,
                     result);
}

int psa_quote_word(const psa_quote_call *call, uint64_t amount, uint32_t flags,
                   psa_quote_result *result) {
    const uint64_t words[4] = {amount, 0, 0, 0}; /* little-endian, as the arena's byte order */
    return psa_quote_prepared(call, (const uint8_t *)words, flags, result);
}
