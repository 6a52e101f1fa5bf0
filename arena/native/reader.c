/* reader.c: the shortest way from Python to a quote.
 *
 * A call from Python costs about as much as its arguments; a pool handle therefore keeps what never
 * changes in a psa_quote_call and passes one pointer.
 */
#include "arena.h"

int psa_quote_prepared(const psa_quote_call *call, const uint8_t *amount, uint32_t flags,
                       psa_quote_result *result) {
    return psa_quote(call->arena, call->slot, call->generation, call->commit, amount, 0, flags, 0,
                     result);
}
