/* The decoder, every dialect: what a stream means does not depend on where its bytes are cut.
 *
 * An input is a dialect, a seed for the cuts, and the stream. */
#include "fuzz.h"

#define ROOM 64
#define KEPT 1024
#define FAULTS 64

typedef struct {
    psa_feed feed;
    psa_event events[KEPT];
    uint32_t count, faults;
    uint32_t codes[FAULTS];
    uint64_t frames[FAULTS];
    uint64_t at;
    int status;
} outcome;

static void keep(outcome *o, const psa_event *events, uint32_t count) {
    for (uint32_t i = 0; i < count && o->count < KEPT; i++) {
        psa_event *event = &o->events[o->count++];
        *event = events[i];
        /* Places in the bytes of one call: they differ with the cuts. */
        if (event->kind == PSA_EVENT_UNSUPPORTED || event->kind == PSA_EVENT_INVALID)
            event->words[0] = 0;
        else if (event->flags & PSA_EVENT_OPAQUE)
            event->stream_seq = event->words[0] = 0;
    }
}

static void decode(outcome *o, uint32_t dialect, const uint8_t *bytes, uint64_t nbytes, uint32_t cuts) {
    psa_event events[ROOM];
    uint64_t limit = cuts == 0 ? nbytes : 0, consumed;
    uint32_t ready;
    memset(o, 0, sizeof(*o));
    psa_feed_open(&o->feed, dialect);
    for (uint64_t calls = 0;; calls++) {
        REQUIRE(calls <= 4 * nbytes + 16);
        uint8_t *given = malloc(limit - o->at + 1); /* so that a look beyond its end is seen */
        memcpy(given, bytes + o->at, limit - o->at);
        o->status = psa_feed_decode(&o->feed, given, limit - o->at, events, ROOM, &consumed, &ready);
        free(given);
        REQUIRE(consumed <= limit - o->at && ready + o->feed.open_count <= ROOM);
        o->at += consumed;
        keep(o, events, ready);
        memmove(events, events + ready, sizeof(*events) * o->feed.open_count);
        if (o->status != PSA_OK && o->status != PSA_EVENTS_FULL && o->faults < FAULTS) {
            o->codes[o->faults] = o->feed.fault_code;
            o->frames[o->faults++] = o->feed.fault_frame;
        }
        if (o->status == PSA_EVENTS_FULL || o->status == PSA_INVALID_MESSAGE) continue;
        if (o->status != PSA_OK || limit == nbytes) break;
        cuts = cuts * UINT32_C(1103515245) + 12345;
        uint64_t step = 1 + (cuts >> 16) % (cuts >> 8 & 1 ? 8 : 200);
        limit = step < nbytes - limit ? limit + step : nbytes;
    }
    psa_feed_close(&o->feed, nbytes - o->at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes) {
    static outcome whole, cut;
    if (nbytes < 3) return 0;
    uint32_t dialect = data[0] % 5, cuts = 1 + data[1] + 256u * data[2];
    decode(&whole, dialect, data + 3, nbytes - 3, 0);
    decode(&cut, dialect, data + 3, nbytes - 3, cuts);
    REQUIRE(whole.status == cut.status && whole.count == cut.count && whole.faults == cut.faults);
    REQUIRE(memcmp(whole.events, cut.events, sizeof(psa_event) * whole.count) == 0);
    REQUIRE(memcmp(whole.codes, cut.codes, sizeof(whole.codes)) == 0);
    REQUIRE(memcmp(whole.frames, cut.frames, sizeof(whole.frames)) == 0);
    REQUIRE(whole.feed.frames == cut.feed.frames && whole.feed.frames_dropped == cut.feed.frames_dropped);
    return 0;
}
