/* api.c: the table of functions that the extension types are handed. */
#include "api.h"

static const psa_api functions = {
    .version = PSA_API_VERSION,
    .nbytes = sizeof(psa_api),
    .quote_prepared = psa_quote_prepared,
    .must_look = psa_must_look,
    .find_many = psa_find_many,
    .pin = psa_pin,
    .wait_commit = psa_wait_commit,
    .pool_read = psa_pool_read,
    .copy_read = psa_copy_read,
    .quote_given = psa_quote_given,
    .quote_many = psa_quote_many,
    .depth_read = psa_depth_read,
    .quote_price = psa_quote_price,
};

const psa_api *psa_functions(void) { return &functions; }
