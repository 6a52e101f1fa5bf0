/* pump.c: bytes to a published block in one call.
 *
 * It decides nothing. Whatever is not a whole block behind the newest one is left to the caller as
 * psa_feed_decode gave it: records at the front of the array, the open block behind them, the fault in the feed.
 * What the caller's own way does for each block and how it is kept true here is listed in
 * docs/decisions/0018-pump.md.
 */
#define _GNU_SOURCE
#include "pump.h"

#include "atomics.h"
#include "writer.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS UINT64_C(1000000)
#define LONGEST_WAIT_MS 60000

/* What to do next; anything but GOES_ON ends the call. */
enum { GOES_ON = -1 };

static uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static uint64_t counter(const psa_pump *pump, uint32_t index) {
    return pump->writer->arena.header->counters[index];
}

static int commit(psa_pump *pump) {
    pump->status = psa_commit(pump->writer);
    return pump->status == PSA_OK ? GOES_ON : PSA_PUMP_REFUSED;
}

/* Count the time from the oldest bytes not yet seen to the commit that showed them. */
static void note_latency(psa_pump *pump) {
    uint64_t commits = counter(pump, PSA_COUNTER_COMMITS);
    if (pump->unseen_ns == 0 || commits == pump->seen_commits) return;
    pump->latencies[pump->latency_count++] = monotonic_ns() - pump->unseen_ns;
    pump->seen_commits = commits;
    /* The last block may wait for the next of grouped commits. */
    pump->unseen_ns = pump->writer->pending ? pump->received_ns : 0;
}

static void keep(psa_pump *pump, uint32_t count) {
    psa_event *kept = pump->kept + pump->kept_count;
    memcpy(kept, pump->events, count * sizeof *kept);
    for (uint32_t i = 0; i < count; i++)
        if (kept[i].kind == PSA_EVENT_END_BLOCK)
            pump->ends[pump->end_count++] = pump->kept_count + i + 1;
    pump->kept_count += count;
}

/* Room for what one psa_feed_decode may give, and for what is noted of it. */
static int has_room(const psa_pump *pump) {
    return pump->kept_capacity - pump->kept_count >= pump->capacity &&
           pump->end_count <= pump->end_capacity / 2 &&
           pump->latency_capacity - pump->latency_count >= 2;
}

/* As WriterArena.is_tight. */
static int is_tight(const psa_header *header) {
    return 4 * header->heap_top > 3 * header->heap_nbytes;
}

/* Apply the complete units at hand, or leave them. */
static int take_units(psa_pump *pump, uint32_t count) {
    psa_writer *writer = pump->writer;
    uint64_t tip = psa_blocks_follow(pump->events, count, pump->tip);
    if (tip == 0 || tip - pump->tip > pump->end_capacity - pump->end_count ||
        count > pump->kept_capacity - pump->kept_count)
        return PSA_PUMP_UNITS;
    uint64_t stale = counter(pump, PSA_COUNTER_POOLS_STALE);
    if (pump->unseen_ns == 0) {
        pump->unseen_ns = pump->received_ns;
        pump->seen_commits = counter(pump, PSA_COUNTER_COMMITS);
    }
    int status = psa_apply(writer, pump->events, count, pump->min_commit_ns, PSA_NO_SLOT);
    if (status != PSA_OK) {
        pump->status = status;
        return PSA_PUMP_REFUSED;
    }
    pump->tip = tip;
    pump->ready = 0;
    note_latency(pump);
    keep(pump, count);
    memmove(pump->events, pump->events + count, pump->feed->open_count * sizeof *pump->events);
    int is_to_look = writer->fault_count != 0 || counter(pump, PSA_COUNTER_POOLS_STALE) != stale ||
                     (pump->tells_tight && is_tight(writer->arena.header));
    return is_to_look || !has_room(pump) ? PSA_PUMP_TURN : GOES_ON;
}

/* Decode and apply what was received, up to the last whole block. */
static int take_bytes(psa_pump *pump) {
    int next = GOES_ON;
    do {
        uint64_t consumed;
        pump->status = psa_feed_decode(pump->feed, pump->bytes + pump->start, pump->end - pump->start,
                                       pump->events, pump->capacity, &consumed, &pump->ready);
        pump->start += consumed;
        if (pump->status != PSA_OK && pump->status != PSA_EVENTS_FULL) return PSA_PUMP_UNITS;
        if (pump->ready) next = take_units(pump, pump->ready);
    } while (next == GOES_ON && pump->status == PSA_EVENTS_FULL);
    return next;
}

/* One recv behind the bytes that are left. */
static int receive(psa_pump *pump) {
    ssize_t count = recv(pump->fd, pump->bytes + pump->end, pump->nbytes - pump->end, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return GOES_ON;
    if (count <= 0) {
        pump->error = count < 0 ? errno : 0;
        return PSA_PUMP_LOST;
    }
    pump->received_ns = monotonic_ns();
    pump->end += (uint64_t)count;
    int next = take_bytes(pump);
    uint64_t *counters = pump->writer->arena.header->counters;
    PSA_STORE(&counters[PSA_COUNTER_FRAMES], pump->past_frames + pump->feed->frames);
    PSA_STORE(&counters[PSA_COUNTER_BYTES], pump->past_bytes + pump->feed->bytes);
    return next;
}

/* Wait for bytes or to be woken: PSA_OK when there are bytes, PSA_TIMED_OUT when there are none. */
static int wait_for(psa_pump *pump, uint64_t wait_ns, int *is_woken) {
    uint64_t wait_ms = (wait_ns + NS_PER_MS - 1) / NS_PER_MS;
    if (wait_ms > LONGEST_WAIT_MS) wait_ms = LONGEST_WAIT_MS;
    struct pollfd ready[2] = {{pump->fd, POLLIN, 0}, {pump->wake_fd, POLLIN, 0}};
    if (poll(ready, 2, (int)wait_ms) < 0) {
        *is_woken = 1; /* by a signal, which the caller may look at */
        return PSA_TIMED_OUT;
    }
    if (ready[1].revents) {
        uint64_t times;
        *is_woken = 1;
        (void)!read(pump->wake_fd, &times, sizeof times);
    }
    return ready[0].revents ? PSA_OK : PSA_TIMED_OUT;
}

static void make_room(psa_pump *pump) {
    if (pump->start == 0) return;
    memmove(pump->bytes, pump->bytes + pump->start, pump->end - pump->start);
    pump->end -= pump->start;
    pump->start = 0;
}

int psa_pump_run(psa_pump *pump, uint64_t limit_ns) {
    uint64_t now = monotonic_ns(), deadline = now + limit_ns;
    int next = GOES_ON, is_woken = 0;
    pump->kept_count = pump->end_count = pump->latency_count = pump->has_read_all = 0;
    pump->ready = 0;
    pump->status = PSA_OK;
    do {
        make_room(pump);
        if (pump->end == pump->nbytes || !has_room(pump)) return PSA_PUMP_TURN;
        int may_wait = pump->has_read_all && !pump->writer->pending && now < deadline;
        if (wait_for(pump, may_wait ? deadline - now : 0, &is_woken) == PSA_OK) {
            next = receive(pump);
        } else {
            next = commit(pump);
            note_latency(pump);
            pump->has_read_all = 1;
        }
        now = monotonic_ns();
    } while (next == GOES_ON && !is_woken && now < deadline);
    return next == GOES_ON ? PSA_PUMP_TURN : next;
}
