/* pump.h: the feed thread's short cut from its socket to a published block.
 *
 * As long as nothing comes but whole blocks that follow the newest one, they are received, decoded, applied
 * and published without a step of the caller in between. What stands between the two cffi markers is
 * read by build.py.
 */
#ifndef PSA_PUMP_H
#define PSA_PUMP_H

#include "arena.h"

/* cffi: begin */

/* ---- pump.c: socket to commit -------------------------------------------------------------------------- */

#define PSA_PUMP_TURN 0  /* it is the caller's turn: time is up, it was woken, or is to look at what was done */
#define PSA_PUMP_UNITS 1 /* psa_feed_decode gave something else: `status` and `ready`, nothing of it applied */
#define PSA_PUMP_LOST 2  /* the connection has ended: `error`, 0 at the end of the stream */
#define PSA_PUMP_REFUSED 3 /* psa_apply or psa_commit did: `status` */

typedef struct {
    /* the connection; bytes[start .. end) are received and not consumed */
    psa_feed *feed;
    uint8_t *bytes;
    uint64_t nbytes;
    uint64_t start;
    uint64_t end;
    psa_event *events;       /* events[0 .. feed->open_count) are the open block's when a call begins */
    uint32_t capacity;       /* of events */
    uint32_t ready;          /* UNITS: records of complete units, those of the open block behind them */
    int32_t fd;              /* a socket */
    int32_t wake_fd;         /* an eventfd that does not block; what was written to it ends the call */
    uint64_t past_frames;    /* of former connections, for the counters of the arena */
    uint64_t past_bytes;
    uint64_t received_ns;    /* CLOCK_MONOTONIC of the last bytes */
    /* where they go */
    psa_writer *writer;
    uint64_t tip;            /* the newest block */
    uint64_t min_commit_ns;  /* as psa_apply takes it */
    uint32_t tells_tight;    /* let the caller look once more than 3/4 of the tick heap were handed out */
    uint32_t has_read_all;   /* at some time nothing more was there to be read */
    psa_event *kept;         /* a copy of the blocks applied in this call, made after readers have them */
    uint32_t kept_capacity;
    uint32_t kept_count;
    uint32_t *ends;          /* index in `kept` behind each of these blocks */
    uint32_t end_capacity;
    uint32_t end_count;
    /* how long bytes took to be seen */
    uint64_t *latencies;     /* ns, one for each time that readers were shown something */
    uint32_t latency_capacity;
    uint32_t latency_count;
    uint64_t unseen_ns;      /* when the oldest bytes came that readers do not see yet; 0 = none */
    uint64_t seen_commits;   /* commits when that was noted */
    int32_t error;           /* LOST: errno */
    int32_t status;          /* of the last psa_feed_decode; PSA_EVENTS_FULL at a TURN: call it again */
} psa_pump;

/* Receive for `limit_ns`, but at least once, and apply and keep what comes as long as that is whole blocks
 * tip + 1, tip + 2, ..., of which none is reverted. Waits for bytes; commits when there are none. Begins
 * kept_count, end_count, latency_count and has_read_all anew. The caller's turn comes after a block with
 * faults or one that made a pool stale, and when an array has no room for as much as may come. Only between
 * two units and outside a reorg; writer->fault_count is 0. PSA_PUMP_*. */
int psa_pump_run(psa_pump *pump, uint64_t limit_ns);

/* cffi: end */

#endif
