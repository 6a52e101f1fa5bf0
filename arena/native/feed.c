/* feed.c: frames to event records, and the block state machine of one connection.
 *
 * Each frame is first read strictly by its dialect's reader (message.h). Only then the state machine
 * moves. So a frame that finds the event array full can be read again later.
 */
#include <stdio.h>

#include "exex_forms.h"
#include "message.h"
#include "seed_forms.h"

#define NO_BLOCK UINT64_MAX

/* ---- the state machine ---------------------------------------------------------------------------------- */

void psa_feed_open(psa_feed *feed, uint32_t dialect) {
    memset(feed, 0, sizeof *feed);
    feed->dialect = dialect;
    feed->pinned = dialect != PSA_DIALECT_UNKNOWN;
    feed->fault_block = NO_BLOCK;
}

/* Note the fault of the frame being handled; the block that is open is the one lost. */
static int fault(psa_feed *feed, uint32_t code, const char *text, uint64_t found, uint64_t expected) {
    feed->fault_code = code;
    feed->resync = code != PSA_FAULT_OUTSIDE_REORG;
    feed->fault_frame = feed->frames;
    feed->fault_found = found;
    feed->fault_expected = expected;
    feed->fault_block = NO_BLOCK;
    feed->fault_has_block = 0;
    feed->fault_is_revert = 0;
    if (feed->state == PSA_FEED_IN_BLOCK) {
        feed->fault_block = feed->open_block;
        feed->fault_has_block = 1;
        feed->fault_is_revert = feed->open_is_revert;
    }
    snprintf(feed->fault_text, sizeof feed->fault_text, "%s", text);
    return code == PSA_FAULT_GENERATION                                     ? PSA_UNSUPPORTED_GENERATION
           : code == PSA_FAULT_FRAME_LENGTH || code == PSA_FAULT_MALFORMED ? PSA_DESERIALIZATION
                                                                            : PSA_INVALID_MESSAGE;
}

static int die(psa_feed *feed, uint32_t code, const defect *bad) {
    int status = fault(feed, code, bad->text, bad->found, bad->expected);
    feed->frames++;
    feed->state = PSA_FEED_DEAD;
    feed->open_count = 0;
    return status;
}

/* What one frame does: the new state, and whether its record leaves. */
typedef struct {
    uint32_t state;
    uint32_t drops_block;
    uint32_t emits;
    uint32_t closes; /* the unit is complete */
    int status;
} step;

static inline step no_step(const psa_feed *feed) {
    return (step){.state = feed->state, .drops_block = 0, .emits = 0, .closes = 0, .status = PSA_OK};
}

static step step_update(psa_feed *feed, const psa_event *event, const message *in) {
    step now = no_step(feed);
    if (feed->state == PSA_FEED_IDLE) {
        if (feed->reorg_open && in->is_late_update) {
            now.emits = now.closes = 1;
            return now;
        }
        now.status = fault(feed, PSA_FAULT_OUTSIDE_BLOCK, "PoolUpdate outside a block",
                           event->block_number, 0);
        feed->fault_block = event->block_number;
        feed->fault_has_block = 1;
        feed->fault_is_revert = event->flags & PSA_EVENT_IS_REVERT;
        now.state = PSA_FEED_SKIP;
        return now;
    }
    if (event->block_number != feed->open_block) {
        now.status = fault(feed, PSA_FAULT_OTHER_BLOCK, "PoolUpdate does not match the open block",
                           event->block_number, feed->open_block);
    } else if ((event->flags & PSA_EVENT_IS_REVERT) != feed->open_is_revert) {
        now.status = fault(feed, PSA_FAULT_REVERT_FLAG, "is_revert does not match the open block",
                           event->flags & PSA_EVENT_IS_REVERT, feed->open_is_revert);
    } else {
        now.emits = 1;
        return now;
    }
    now.drops_block = 1;
    now.state = PSA_FEED_SKIP;
    return now;
}

static step step_end(psa_feed *feed, psa_event *event) {
    step now = no_step(feed);
    now.state = PSA_FEED_IDLE;
    if (feed->state == PSA_FEED_SKIP) return now;
    if (feed->state == PSA_FEED_IDLE) {
        now.status = fault(feed, PSA_FAULT_OUTSIDE_BLOCK, "EndBlock outside a block",
                           event->block_number, 0);
        return now;
    }
    uint64_t received = feed->open_count - 1;
    if (event->block_number != feed->open_block) {
        now.status = fault(feed, PSA_FAULT_OTHER_BLOCK, "EndBlock of another block",
                           event->block_number, feed->open_block);
    } else if (event->words[0] != received) {
        now.status = fault(feed, PSA_FAULT_COUNT, "EndBlock counts other updates than were received",
                           event->words[0], received);
    } else {
        event->flags = (uint8_t)feed->open_is_revert;
        now.emits = now.closes = 1;
        return now;
    }
    now.drops_block = 1;
    return now;
}

/* Epilogue or ReorgComplete, in idle or skip. */
static step step_late(psa_feed *feed, const message *in) {
    step now = no_step(feed);
    int is_complete = in->class == MESSAGE_REORG_COMPLETE;
    if (feed->state == PSA_FEED_IN_BLOCK) {
        now.status = fault(feed, PSA_FAULT_NESTED,
                           is_complete ? "ReorgComplete inside an open block"
                                       : "ReorgEpilogue inside an open block",
                           0, 0);
        now.drops_block = 1;
        now.state = PSA_FEED_SKIP;
        return now;
    }
    if (feed->state == PSA_FEED_IDLE && feed->reorg_seen && !feed->reorg_open)
        now.status = fault(feed, PSA_FAULT_OUTSIDE_REORG,
                           is_complete ? "ReorgComplete outside a reorg"
                                       : "ReorgEpilogue outside a reorg",
                           0, 0);
    now.emits = now.closes = 1;
    if (is_complete && feed->state == PSA_FEED_START) now.state = PSA_FEED_IDLE;
    return now;
}

static step step_message(psa_feed *feed, psa_event *event, const message *in) {
    step now = no_step(feed);
    uint32_t state = feed->state;
    if (in->class == MESSAGE_BEGIN || in->class == MESSAGE_REORG_START) {
        int is_begin = in->class == MESSAGE_BEGIN;
        if (state == PSA_FEED_IN_BLOCK) {
            now.status = fault(feed, PSA_FAULT_NESTED,
                               is_begin ? "BeginBlock inside an open block"
                                        : "ReorgStart inside an open block",
                               event->block_number, feed->open_block);
            now.drops_block = 1;
        }
        now.emits = 1;
        now.closes = !is_begin;
        if (is_begin) now.state = PSA_FEED_IN_BLOCK;
        else if (state != PSA_FEED_SKIP) now.state = PSA_FEED_IDLE;
        return now;
    }
    if (state == PSA_FEED_START && in->class != MESSAGE_REORG_COMPLETE) {
        feed->frames_dropped++;
        return now;
    }
    if (in->class == MESSAGE_UPDATE) {
        if (state == PSA_FEED_SKIP) {
            feed->frames_dropped++;
            return now;
        }
        return step_update(feed, event, in);
    }
    if (in->class == MESSAGE_END) {
        if (state == PSA_FEED_SKIP) feed->frames_dropped++;
        return step_end(feed, event);
    }
    return step_late(feed, in);
}

/* ---- the loop --------------------------------------------------------------------------------------------- */

/* One call of psa_feed_decode. */
typedef struct {
    const uint8_t *bytes;
    uint64_t nbytes;
    uint64_t at;   /* bytes done with */
    uint64_t next; /* end of the frame in hand */
    psa_event *events;
    uint32_t capacity;
    uint32_t count; /* records in use: complete units, then the open block */
    uint32_t done;  /* records of complete units */
    int status;
    psa_event spare; /* for a frame that finds the array full */
} decoding;

/* Append the common PoolUpdates of the open block while nothing needs the state machine: the next
 * number in the stream, the open block, room for the record. Stops without effect before any other
 * frame. */
static inline __attribute__((always_inline)) void append_updates(psa_feed *feed, decoding *run,
                                                                 uint32_t dialect) {
    const uint8_t *bytes = run->bytes;
    psa_event *events = run->events;
    uint64_t nbytes = run->nbytes, where = run->at;
    uint32_t capacity = run->capacity, used = run->count;
    expectation want = {feed->last_seq + 1, feed->open_block, feed->open_is_revert};
    while (used < capacity && nbytes - where >= WIRE_PREFIX) {
        const uint8_t *payload = bytes + where + WIRE_PREFIX;
        uint32_t length = wire_u32(bytes + where);
        if (length > nbytes - where - WIRE_PREFIX) break;
        int is_good = dialect >= PSA_DIALECT_EXEX
                          ? append_exex(&events[used], payload, length, &want,
                                        WIRE_UPDATE +
                                            (dialect == PSA_DIALECT_BRIDGE ? WIRE_BRIDGE : 0))
                          : append_seed(&events[used], payload, length, &want,
                                        dialect == PSA_DIALECT_SEED_INDEXED ? 4 : 18);
        if (!is_good) break;
        want.seq++;
        used++;
        where += WIRE_PREFIX + length;
    }
    if (dialect >= PSA_DIALECT_EXEX) feed->last_seq = want.seq - 1;
    feed->frames += used - run->count;
    feed->open_count += used - run->count;
    run->count = used;
    run->at = where;
}

/* The dialect is a constant in each call, so that each is a loop of its own. */
static void append_common(psa_feed *feed, decoding *run) {
    switch (feed->dialect) {
    case PSA_DIALECT_EXEX: append_updates(feed, run, PSA_DIALECT_EXEX); break;
    case PSA_DIALECT_BRIDGE: append_updates(feed, run, PSA_DIALECT_BRIDGE); break;
    case PSA_DIALECT_SEED_INDEXED: append_updates(feed, run, PSA_DIALECT_SEED_INDEXED); break;
    default: append_updates(feed, run, PSA_DIALECT_SEED_TAGGED);
    }
}

static int read_message(const psa_feed *feed, psa_event *event, message *in, const uint8_t *payload,
                        uint32_t length, uint64_t offset, defect *bad) {
    switch (feed->dialect) {
    case PSA_DIALECT_SEED_TAGGED: return psa_read_seed_tagged(event, in, payload, length, offset, bad);
    case PSA_DIALECT_SEED_INDEXED: return psa_read_seed_indexed(event, in, payload, length, offset, bad);
    default:
        return psa_read_exex(event, in, payload, length, offset, feed->dialect == PSA_DIALECT_BRIDGE, bad);
    }
}

/* Read the next frame, if there is a whole one: run->next is its end. Returns 0 when there is none, and
 * when the connection died of it (run->status). A frame that says nothing is MESSAGE_IGNORED. */
static int take_frame(psa_feed *feed, decoding *run, psa_event *event, message *in) {
    uint64_t left = run->nbytes - run->at;
    if (left < WIRE_PREFIX) return 0;
    uint32_t length = wire_u32(run->bytes + run->at), code = PSA_FAULT_MALFORMED;
    const uint8_t *payload = run->bytes + run->at + WIRE_PREFIX;
    defect bad = {"", 0, 0};
    int status = PSA_OK;
    *in = (message){0};
    run->next = run->at + WIRE_PREFIX;
    if (length == 0 || length > WIRE_FRAME_CAP) {
        code = PSA_FAULT_FRAME_LENGTH;
        status = refuse(&bad, length ? "frame longer than the cap" : "empty frame", length, WIRE_FRAME_CAP);
    } else {
        if (left - WIRE_PREFIX < length) return 0;
        run->next += length;
        if (feed->state == PSA_FEED_START && !(feed->pinned && feed->dialect != PSA_DIALECT_EXEX)) {
            uint32_t found;
            status = psa_find_dialect(payload, length, &found, in, &bad);
            if (status == PSA_UNSUPPORTED_GENERATION) code = PSA_FAULT_GENERATION;
            if (status == PSA_OK && feed->dialect == PSA_DIALECT_UNKNOWN) {
                if (found == PSA_DIALECT_UNKNOWN) {
                    feed->frames_dropped++;
                    in->class = MESSAGE_IGNORED;
                    return 1;
                }
                feed->dialect = found;
            }
            *in = (message){0};
        }
        if (status == PSA_OK)
            status = read_message(feed, event, in, payload, length, run->at + WIRE_PREFIX, &bad);
    }
    if (status == PSA_OK) return 1;
    run->status = die(feed, code, &bad);
    run->at = run->next;
    return 0;
}

/* Whether there is room for what the frame brings. What an open block would be dropped for leaves its
 * records free. */
static int has_room(const psa_feed *feed, const decoding *run, const message *in, int is_gap) {
    int stays_open = feed->state == PSA_FEED_IN_BLOCK && !is_gap &&
                     (in->class == MESSAGE_UPDATE || in->class == MESSAGE_END);
    uint64_t needed = 1;
    if (in->class == MESSAGE_REORG_COMPLETE && (feed->state != PSA_FEED_IN_BLOCK || is_gap))
        needed += in->list_count;
    return run->capacity - (stays_open ? run->count : run->done) >= needed;
}

/* The pools a ReorgComplete names, before its own record. */
static void emit_pools(decoding *run, const psa_event *complete, const message *in) {
    const uint8_t *list = in->list;
    for (uint64_t i = 0; i < in->list_count; i++) {
        psa_event *pool = &run->events[run->count++];
        memset(pool, 0, sizeof *pool);
        pool->kind = PSA_EVENT_RESYNC_POOL;
        pool->protocol = PSA_PROTOCOL_UNKNOWN;
        pool->stream_seq = complete->stream_seq;
        pool->block_number = complete->block_number;
        list += read_pool_id(pool, list, 4 + WIRE_WORD_NBYTES);
    }
}

/* Add the frame's records and note on the feed what they say. `event` may lie where they go. */
static void emit(psa_feed *feed, decoding *run, psa_event *event, const message *in, const step *now) {
    if (in->class == MESSAGE_BEGIN) {
        feed->open_block = event->block_number;
        feed->open_is_revert = event->flags & PSA_EVENT_IS_REVERT;
    } else if (in->class == MESSAGE_UPDATE && now->state == PSA_FEED_IN_BLOCK) {
        event->flags |= PSA_EVENT_IN_BLOCK;
    } else if (in->class == MESSAGE_REORG_START) {
        feed->reorg_open = 1;
    } else if (in->class == MESSAGE_REORG_COMPLETE) {
        feed->reorg_open = 0;
        feed->reorg_seen = 1;
        run->spare = *event;
        event = &run->spare;
        emit_pools(run, event, in);
    }
    if (event != &run->events[run->count]) run->events[run->count] = *event;
    run->count++;
    /* What the frame of a fault brings comes after it, with the next call. */
    if (now->closes && run->status == PSA_OK) run->done = run->count;
    feed->open_count = run->count - run->done;
}

/* Let a message take effect, or leave it for the next call when there is no room for its records. */
static void take_message(psa_feed *feed, decoding *run, psa_event *event, const message *in) {
    int is_gap = in->has_seq && feed->has_seq && feed->state != PSA_FEED_START &&
                 event->stream_seq != feed->last_seq + 1;
    if (!has_room(feed, run, in, is_gap)) {
        run->status = run->done ? PSA_EVENTS_FULL : PSA_BLOCK_TOO_LARGE;
        return;
    }
    if (is_gap) {
        run->status = fault(feed, PSA_FAULT_SEQUENCE, "stream_seq is not the previous one plus 1",
                            event->stream_seq, feed->last_seq + 1);
        feed->state = PSA_FEED_SKIP;
    }
    if (in->has_seq) {
        feed->last_seq = event->stream_seq;
        feed->has_seq = 1;
    }
    step now = step_message(feed, event, in);
    if (now.status != PSA_OK) run->status = now.status;
    if (now.drops_block || is_gap) {
        run->count = run->done;
        feed->open_count = 0;
    }
    if (now.emits) emit(feed, run, event, in, &now);
    feed->state = now.state;
    feed->frames++;
    run->at = run->next;
}

int psa_feed_decode(psa_feed *feed, const uint8_t *bytes, uint64_t nbytes, psa_event *events,
                    uint32_t capacity, uint64_t *consumed, uint32_t *ready) {
    decoding run;
    run.bytes = bytes;
    run.nbytes = nbytes;
    run.at = 0;
    run.events = events;
    run.capacity = capacity;
    run.count = feed->open_count;
    run.done = 0;
    run.status = PSA_OK;
    *consumed = 0;
    *ready = 0;
    if (run.count > capacity || feed->dialect > PSA_DIALECT_BRIDGE) return PSA_BAD_ARGUMENT;
    if (feed->state != PSA_FEED_IN_BLOCK) {
        run.done = run.count; /* what the frame of the last fault brought */
        feed->open_count = 0;
    }
    if (feed->state == PSA_FEED_DEAD) {
        if (feed->fault_code == PSA_FAULT_GENERATION) return PSA_UNSUPPORTED_GENERATION;
        return feed->fault_code == PSA_FAULT_CONNECTION ? PSA_BAD_ARGUMENT : PSA_DESERIALIZATION;
    }
    while (run.status == PSA_OK) {
        if (feed->state == PSA_FEED_IN_BLOCK) append_common(feed, &run);
        psa_event *event = run.count < capacity ? &events[run.count] : &run.spare;
        message in;
        if (!take_frame(feed, &run, event, &in)) break;
        if (in.class == MESSAGE_IGNORED) {
            feed->frames++;
            run.at = run.next;
        } else {
            take_message(feed, &run, event, &in);
        }
    }
    feed->bytes += run.at;
    *consumed = run.at;
    *ready = run.done;
    return run.status;
}

int psa_feed_close(psa_feed *feed, uint64_t pending_nbytes) {
    if (feed->state == PSA_FEED_DEAD) return PSA_BAD_ARGUMENT;
    int is_whole = feed->state != PSA_FEED_IN_BLOCK && pending_nbytes == 0 && !feed->reorg_open;
    fault(feed, PSA_FAULT_CONNECTION,
          pending_nbytes == 0                ? "end of stream"
          : pending_nbytes < WIRE_PREFIX     ? "end of stream inside a length prefix"
                                             : "end of stream inside a payload",
          pending_nbytes, 0);
    if (pending_nbytes == 0 && feed->frames) feed->fault_frame = feed->frames - 1;
    feed->state = PSA_FEED_DEAD;
    feed->open_count = 0;
    return is_whole ? PSA_OK : PSA_INVALID_MESSAGE;
}
