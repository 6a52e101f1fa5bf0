/* dialect.c: which family of producers a connection comes from, by its first messages. */
#include "message.h"

/* A whole g01 PoolUpdate: no stream_seq, no is_revert, and no BeginBlock to decide by. */
static int is_g01_update(const uint8_t *payload, uint64_t nbytes) {
    static const uint8_t body_nbytes[] = {80, 60, 24, 60, 24};
    psa_event scratch;
    if (nbytes < 4 || wire_u32(payload) != 1) return 0;
    uint32_t id_nbytes = read_pool_id(&scratch, payload + 4, nbytes - 4);
    if (id_nbytes == 0 || nbytes < 48 + id_nbytes) return 0;
    const uint8_t *head = payload + 4 + id_nbytes;
    uint32_t variant = wire_u32(head + 40);
    const uint8_t *body = head + 44;
    if (wire_u32(head) > PSA_UNISWAP_V4 || wire_u32(head + 4) > PSA_UPDATE_BURN || variant > 4 ||
        nbytes != 48 + id_nbytes + body_nbytes[variant])
        return 0;
    if (body_nbytes[variant] == 80 && wire_u64(body + 40) != WIRE_WORD_NBYTES) return 0;
    return body_nbytes[variant] == 24 || wire_u64(body) == WIRE_WORD_NBYTES;
}

int psa_find_dialect(const uint8_t *payload, uint64_t nbytes, uint32_t *dialect, message *out,
                     defect *bad) {
    *dialect = PSA_DIALECT_UNKNOWN;
    if (nbytes < 4) return refuse(bad, "payload too short for any message", nbytes, 4);
    uint32_t index = wire_u32(payload);
    if (nbytes == 27 && wire_u64(payload) == 10 && memcmp(payload + 8, "BeginBlock", 10) == 0) {
        *dialect = PSA_DIALECT_SEED_TAGGED;
    } else if (nbytes == 13 && index == WIRE_SEED_BEGIN) {
        *dialect = PSA_DIALECT_SEED_INDEXED;
    } else if ((nbytes == 29 || nbytes == 37) && index == WIRE_BEGIN) {
        *dialect = PSA_DIALECT_EXEX;
    } else if (nbytes == 21 && index == WIRE_BEGIN) {
        bad->text = "exex g02, g03 or g04 in its old form (no stream_seq): pin or run g05 or later";
        return PSA_UNSUPPORTED_GENERATION;
    } else if (nbytes == 29 && index == 6) {
        bad->text = "exex g04 (BeginBlockV2): run a producer of g05 or later";
        return PSA_UNSUPPORTED_GENERATION;
    } else if (is_g01_update(payload, nbytes)) {
        bad->text = "exex g01 (no blocks): run a producer of g05 or later";
        return PSA_UNSUPPORTED_GENERATION;
    } else if (index == WIRE_BRIDGE + WIRE_BEGIN || index == WIRE_BRIDGE + WIRE_REORG_START ||
               index == WIRE_BRIDGE + WIRE_REORG_COMPLETE) {
        *dialect = PSA_DIALECT_BRIDGE;
    } else if (index - WIRE_BRIDGE < WIRE_REORG_COMPLETE) {
        return PSA_OK;
    } else if (index > 10) {
        return refuse(bad, "message index of no known family", index, 10);
    } else if (index == WIRE_REORG_START || nbytes == 20 || index == WIRE_EPILOGUE) {
        psa_event scratch;
        defect unused;
        if (psa_read_exex(&scratch, out, payload, nbytes, 0, 0, &unused) == PSA_OK &&
            (out->class == MESSAGE_REORG_START || out->class == MESSAGE_REORG_COMPLETE))
            *dialect = PSA_DIALECT_EXEX;
    }
    return PSA_OK;
}
