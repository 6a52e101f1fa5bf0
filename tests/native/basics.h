/* What the stress programs have in common below their modes (modes.h): noise, clock, the writer's memory. */
#define _GNU_SOURCE
#include "../../arena/native/arena.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SPACING 10

typedef struct {
    psa_writer writer;
    uint8_t *base;
    uint64_t nbytes;
    uint64_t *touched;
    uint32_t *dirty;
    uint64_t aborts;
    uint64_t takeovers;
} load;

static int stop; /* atomic */

static uint64_t mix(uint64_t a, uint64_t b, uint64_t salt) {
    uint64_t z = a * UINT64_C(0x9e3779b97f4a7c15) + (b << 32) + salt * UINT64_C(0xd1342543de82ef95);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void fail(const char *what, long status) {
    fprintf(stderr, "%s: %ld\n", what, status);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* An empty arena in the memory given, and what its writer needs besides; no writer is open yet. */
static void format_load(load *run, uint8_t *base, uint64_t nbytes, const psa_capacities *capacities) {
    static const uint8_t digest[32] = {1};
    *run = (load){.base = base, .nbytes = nbytes};
    run->touched = calloc(capacities->max_pools, sizeof(*run->touched));
    run->dirty = calloc(capacities->max_pools, sizeof(*run->dirty));
    if (!run->touched || !run->dirty) fail("calloc", 0);
    int status = psa_arena_format(base, nbytes, capacities, 1, digest);
    if (status != PSA_OK) fail("psa_arena_format", status);
}
