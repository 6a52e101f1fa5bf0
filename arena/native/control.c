/* control.c: single words with order, and the phase records of the control segment.
 *
 * Two phase records take turns, as version lines do (versions.c): number n lives in phases[n & 1] and is
 * published by phase_committed := n. A writer killed in between leaves the record before it current.
 */
#include "arena.h"

#include "atomics.h"

#include <string.h>

#define PSA_PHASE_TRIES 64

void psa_store_release_u32(uint32_t *word, uint32_t value) { PSA_STORE_RELEASE(word, value); }
void psa_store_release_u64(uint64_t *word, uint64_t value) { PSA_STORE_RELEASE(word, value); }
uint32_t psa_load_acquire_u32(const uint32_t *word) { return PSA_LOAD_ACQUIRE(word); }
uint64_t psa_load_acquire_u64(const uint64_t *word) { return PSA_LOAD_ACQUIRE(word); }

void psa_phase_write(psa_control *control, const psa_phase *phase) {
    uint64_t number = control->phase_committed + 1;
    psa_phase *target = &control->phases[number & 1];
    const uint64_t *from = (const uint64_t *)(const void *)phase;
    uint64_t *to = (uint64_t *)(void *)target;
    PSA_STORE(&target->stamp, number); /* W1 */
    PSA_FENCE_RELEASE();               /* W2 */
    for (size_t i = 1; i < sizeof(*target) / sizeof(uint64_t); i++) PSA_STORE(&to[i], from[i]);
    PSA_STORE_RELEASE(&control->phase_committed, number); /* W4 */
}

int psa_phase_read(const psa_control *control, psa_phase *phase) {
    uint64_t *to = (uint64_t *)(void *)phase;
    for (int attempt = 0; attempt < PSA_PHASE_TRIES; attempt++) {
        uint64_t number = PSA_LOAD_ACQUIRE(&control->phase_committed); /* R1 */
        if (number == 0) {
            memset(phase, 0, sizeof(*phase));
            return PSA_OK;
        }
        const psa_phase *source = &control->phases[number & 1];
        if (PSA_LOAD_ACQUIRE(&source->stamp) != number) continue; /* R2 */
        const uint64_t *from = (const uint64_t *)(const void *)source;
        for (size_t i = 1; i < sizeof(*phase) / sizeof(uint64_t); i++) to[i] = PSA_LOAD(&from[i]);
        PSA_FENCE_ACQUIRE(); /* R3 */
        if (PSA_LOAD(&source->stamp) != number) continue;
        phase->stamp = number;
        return PSA_OK;
    }
    return PSA_CONTENDED;
}
