"""Defective streams: what is applied, skipped and reported, and whether the connection survives.

`malformed/index.json` states it for each stream. Read as one chunk, byte by byte, and through a
real socket with the feed; whole connections, from the first byte to the end of the file.
"""

import itertools
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.native_wire import decode_once
from oracle import wire_oracle as oracle

from arena import errors
from arena.layouts.events import EVENT
from arena.native import ffi, lib
from arena.writer.stream.history import EventBuffer
from arena.writer.stream.socket import Feed

MALFORMED = Path(__file__).resolve().parents[1] / "data" / "wire" / "malformed"
STREAMS = json.loads((MALFORMED / "index.json").read_text())["streams"]
OVERFLOW = [stream for stream in STREAMS if stream["expect"]["error"] == "BufferOverflow"]
CASES = [stream for stream in STREAMS if stream not in OVERFLOW]


def names(streams: list[dict[str, Any]]) -> list[str]:
    return [stream["name"] for stream in streams]


@dataclass
class Outcome:
    errors: list[tuple[int, str]] = field(default_factory=list)
    applied: list[list[Any]] = field(default_factory=list)
    skipped: list[list[Any]] = field(default_factory=list)
    resync: bool = False
    kept: bool = True
    discarded: int = 0

    def apply(self, records: np.ndarray) -> None:
        begins = np.flatnonzero(records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK)
        ends = np.flatnonzero(records["kind"] == lib.PSA_EVENT_END_BLOCK)
        for begin, end in zip(begins, ends, strict=True):
            record = records[begin]
            is_revert = bool(record["flags"] & lib.PSA_EVENT_IS_REVERT)
            self.applied.append([int(record["block_number"]), is_revert, int(end - begin - 1)])

    def fail(self, frame: int, name: str, block: int | None, is_revert: bool, resync: bool) -> None:
        self.errors.append((frame, name))
        if block is not None:
            self.skipped.append([block, is_revert])
        self.resync |= resync
        self.kept &= name == "InvalidMessage"


def expected(stream: dict[str, Any]) -> Outcome:
    expect = stream["expect"]
    return Outcome(
        errors=[(error["frame"], error["class"]) for error in expect["errors"]],
        applied=expect["blocks_applied"],
        skipped=expect["blocks_skipped"],
        resync=expect["resync"],
        kept=expect["connection"] == "kept",
        discarded=expect["frames_discarded_at_join"],
    )


CLASSES = {
    lib.PSA_DESERIALIZATION: "Deserialization",
    lib.PSA_UNSUPPORTED_GENERATION: "UnsupportedGeneration",
    lib.PSA_INVALID_MESSAGE: "InvalidMessage",
}


def decode(chunks: Iterator[bytes], *, is_end_an_error: bool) -> Outcome:
    """Drive psa_feed_decode; the end of the stream is a fault where the index calls it a loss."""
    outcome = Outcome()
    feed = ffi.new("psa_feed *")
    lib.psa_feed_open(feed, lib.PSA_DIALECT_UNKNOWN)
    events = np.zeros(512, EVENT)
    rest = b""

    def fault(name: str) -> None:
        block = feed.fault_block if feed.fault_has_block else None
        revert, resync = bool(feed.fault_is_revert), bool(feed.resync)
        outcome.fail(feed.fault_frame, name, block, revert, resync)

    for chunk in chunks:
        rest += chunk
        status = lib.PSA_INVALID_MESSAGE
        while status == lib.PSA_INVALID_MESSAGE:
            status, consumed, ready = decode_once(feed, rest, events)
            outcome.apply(events[:ready])
            opened = events[ready : ready + feed.open_count].copy()
            events[: len(opened)] = opened
            rest = rest[consumed:]
            if status != lib.PSA_OK:
                fault(CLASSES[status])
        if status != lib.PSA_OK:
            # Everything after the defect is ignored.
            before = feed.frames
            assert decode_once(feed, b"\1\0\0\0\0", events[:0]) == (status, 0, 0)
            assert feed.frames == before
            return outcome
    outcome.discarded = feed.frames_dropped
    if is_end_an_error:
        lib.psa_feed_close(feed, len(rest))
        fault("Connection")
    return outcome


@pytest.mark.slow
@pytest.mark.parametrize("stream", CASES, ids=names(CASES))
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_decoder_follows_the_index(stream: dict[str, Any], size: int) -> None:
    data = (MALFORMED / stream["file"]).read_bytes()
    chunks = (data[at : at + size] for at in range(0, len(data), size))
    want = expected(stream)
    is_lost = stream["expect"]["connection"] == "lost"
    got = decode(chunks, is_end_an_error=is_lost)
    if stream["name"] != "g15_join_mid_block":
        got.discarded = 0  # frames skipped after a fault are counted with those dropped at the join
    assert got == want


@contextmanager
def producer(path: Path, data: bytes, size: int, finished: threading.Event) -> Iterator[None]:
    """A server that sends `data` to one client in pieces and closes when `finished` is set."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        client, _ = server.accept()
        with client:
            try:
                for at in range(0, len(data), size):
                    client.sendall(data[at : at + size])
            except OSError:
                return  # the client closed on a defect
            finished.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join(30)
        server.close()
    assert not thread.is_alive()


@pytest.mark.parametrize("stream", CASES, ids=names(CASES))
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_feed_follows_the_index(stream: dict[str, Any], size: int, tmp_path: Path) -> None:
    data = (MALFORMED / stream["file"]).read_bytes()
    want = expected(stream)
    is_lost = stream["expect"]["connection"] == "lost"
    outcome = Outcome()
    finished = threading.Event()
    path = tmp_path / "feed.sock"
    with producer(path, data, size, finished), Feed(path) as feed:
        assert feed.connect(timeout=10)
        while feed.is_connected and (is_lost or feed.bytes < len(data)):
            if is_lost:
                finished.set()
            batch = feed.receive(timeout=10)
            outcome.apply(batch.records)
            for fault in batch.faults:
                assert isinstance(fault, errors.FeedError)
                name = type(fault).__name__
                outcome.fail(fault.frame, name, fault.block, fault.is_revert, fault.resync)
        outcome.discarded = want.discarded
        assert feed.is_connected == want.kept
        assert outcome == want


def test_every_error_class_of_the_stream_occurs() -> None:
    found = {error["class"] for stream in STREAMS for error in stream["expect"]["errors"]}
    assert found == {"Connection", "Deserialization", "InvalidMessage", "BufferOverflow"}


@pytest.mark.parametrize("stream", OVERFLOW, ids=names(OVERFLOW))
def test_buffer_overflow_is_surfaced(stream: dict[str, Any], tmp_path: Path) -> None:
    """Byte by byte, so that the frame that completes the block is the last one seen."""
    data = (MALFORMED / stream["file"]).read_bytes()
    want = expected(stream)
    buffer = EventBuffer(stream["buffer_capacity"])
    finished = threading.Event()
    path = tmp_path / "feed.sock"
    outcome = Outcome()
    with producer(path, data, len(data), finished), Feed(path) as feed:
        assert feed.connect(timeout=10)
        batch = feed.receive(timeout=10)
        assert not batch.faults
        with pytest.raises(errors.BufferOverflow) as raised:
            buffer.append(batch.records)
        fault = raised.value
        assert (fault.capacity, fault.attempted) == (8, 13)
        outcome.fail(want.errors[0][0], "BufferOverflow", fault.block, fault.is_revert, True)
    for block in buffer.blocks():
        outcome.apply(block)
    assert outcome == want
    assert buffer.event_count == 3


def test_overflowing_block_ends_at_the_frame_the_index_names() -> None:
    """The index counts the overflow at the EndBlock: frame 16 of its stream."""
    [stream] = OVERFLOW
    data = (MALFORMED / stream["file"]).read_bytes()
    frame = stream["expect"]["errors"][0]["frame"]
    at = 0
    for _ in range(frame + 1):
        at += 4 + int.from_bytes(data[at : at + 4], "little")
    outcome = decode(iter([data[:at]]), is_end_an_error=False)
    assert [row[2] for row in outcome.applied] == [3, 10]
    outcome = decode(iter([data[: at - 1]]), is_end_an_error=False)
    assert [row[2] for row in outcome.applied] == [3]


@pytest.mark.parametrize(
    ("length", "status"),
    [
        (0, lib.PSA_DESERIALIZATION),
        (1, lib.PSA_OK),
        (oracle.FRAME_CAP - 1, lib.PSA_OK),
        (oracle.FRAME_CAP, lib.PSA_OK),
        (oracle.FRAME_CAP + 1, lib.PSA_DESERIALIZATION),
        (2**32 - 1, lib.PSA_DESERIALIZATION),
    ],
)
def test_length_is_judged_by_its_four_bytes_alone(length: int, status: int) -> None:
    feed = ffi.new("psa_feed *")
    lib.psa_feed_open(feed, lib.PSA_DIALECT_UNKNOWN)
    consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    prefix = length.to_bytes(4, "little")
    for size in range(5):
        data = ffi.from_buffer("uint8_t[]", prefix[:size])
        got = lib.psa_feed_decode(feed, data, size, ffi.NULL, 0, consumed, ready)
        assert got == (status if size == 4 else lib.PSA_OK)
    if status != lib.PSA_OK:
        assert (feed.fault_code, feed.fault_found) == (lib.PSA_FAULT_FRAME_LENGTH, length)
        assert feed.frames == 1


def test_longest_frame_is_taken_whole() -> None:
    """An UpdateWhitelist of exactly the cap: ignored, and the frame after it read."""
    feed = ffi.new("psa_feed *")
    lib.psa_feed_open(feed, lib.PSA_DIALECT_EXEX)
    consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    data = oracle.frame(bytes(oracle.FRAME_CAP)) + oracle.frame(b"\4\0\0\0")
    pointer = ffi.from_buffer("uint8_t[]", data)
    assert lib.psa_feed_decode(feed, pointer, len(data), ffi.NULL, 0, consumed, ready) == lib.PSA_OK
    assert (consumed[0], ready[0], feed.frames) == (len(data), 0, 2)


# ---- the state machine, every state and message ---------------------------------

POOL = {"type": "Address", "value": "0x" + "22" * 20}
NO_RANGE = {"first_block": None, "last_block": None, "block_count": 0}


def begin(number: int, is_revert: bool) -> dict[str, Any]:
    fields = {"block_number": number, "block_timestamp": 9, "base_fee_per_gas": 1}
    return {"type": "BeginBlock", "stream_seq": 0, **fields, "is_revert": is_revert}


def update(name: str, body: dict[str, Any], protocol: str, is_revert: bool) -> dict[str, Any]:
    event = {
        "pool_id": POOL,
        "protocol": protocol,
        "update_type": "Swap",
        "block_number": 5,
        "block_timestamp": 9,
        "tx_index": 0,
        "log_index": 0,
        "is_revert": is_revert,
        "update": {"type": name, **body},
    }
    return {"type": "PoolUpdate", "stream_seq": 0, "event": event}


def end(number: int, count: int) -> dict[str, Any]:
    return {
        "type": "EndBlock",
        "stream_seq": 0,
        "block_number": number,
        "num_updates": count,
    }


SLOT0 = {"sqrt_price_x96": 1 << 96, "liquidity": 7, "tick": 0}
LATE = {"stream_seq": 0, "final_tip_block": 5}
FINAL = {"type": "Slot0Final", "pool_id": POOL, "protocol": "UniswapV3", "state": SLOT0}
MESSAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "begin 5": ("g10", begin(5, False)),
    "begin 5 revert": ("g10", begin(5, True)),
    "begin 6": ("g10", begin(6, False)),
    "swap": ("g10", update("V3Swap", SLOT0, "UniswapV3", False)),
    "swap revert": ("g10", update("V3Swap", SLOT0, "UniswapV3", True)),
    "override": ("g10", update("Slot0Override", SLOT0, "UniswapV3", False)),
    "end 5, 0": ("g10", end(5, 0)),
    "end 5, 1": ("g10", end(5, 1)),
    "end 6, 0": ("g10", end(6, 0)),
    "start": ("g10", {"type": "ReorgStart", **LATE, "old_range": NO_RANGE, "new_range": NO_RANGE}),
    "complete": ("g10", {"type": "ReorgComplete", **LATE}),
    "epilogue": (
        "g15",
        {"type": "ReorgEpilogue", **LATE, "final_tip_timestamp": 0, "update": FINAL},
    ),
    "ping": ("g15", {"type": "Ping"}),
    "gap": ("", {}),
}
PAYLOADS = {
    name: oracle.encode(message, generation)
    for name, (generation, message) in MESSAGES.items()
    if generation
}
PREFIXES = {
    "start": [],
    "idle": ["begin 5", "end 5, 0"],
    "in block": ["begin 5"],
    "in block with one": ["begin 5", "swap"],
    "skip": ["begin 5", "end 5, 0", "swap"],
    "reorg open": ["start"],
    "reorg closed": ["start", "complete"],
    "skip in reorg": ["start", "swap"],
    "skip after reorg": ["start", "complete", "swap"],
}


def play(names: list[str]) -> tuple[bytes, oracle.Consumer]:
    """The frames, and the oracle's consumer after them; `gap` skips a number of the stream."""
    consumer = oracle.Consumer(family="exex")
    found = []
    seq = 2**64 - 3  # wraps on the way
    for name in names:
        seq = (seq + 1) % 2**64
        if name == "gap":
            continue
        payload, message = PAYLOADS[name], MESSAGES[name][1]
        if name == "ping":
            seq = (seq - 1) % 2**64
        else:
            payload = payload[:4] + seq.to_bytes(8, "little") + payload[12:]
            consumer.message({**message, "stream_seq": seq})
        consumer.count += 1
        found.append(oracle.frame(payload))
    return b"".join(found), consumer


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_state_answers_every_message_as_the_oracle(prefix: str) -> None:
    """All sequences of three messages after a prefix that reaches the state."""
    feed = ffi.new("psa_feed *")
    consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    events = np.zeros(16, EVENT)
    pointer = ffi.from_buffer("psa_event[]", events)
    for names in itertools.product(MESSAGES, repeat=3):
        data, consumer = play([*PREFIXES[prefix], *names])
        lib.psa_feed_open(feed, lib.PSA_DIALECT_EXEX)
        faults = []
        kinds: list[int] = []
        rest = ffi.from_buffer("uint8_t[]", data)
        left, status = len(data), lib.PSA_INVALID_MESSAGE
        while status == lib.PSA_INVALID_MESSAGE:
            status = lib.psa_feed_decode(feed, rest, left, pointer, 16, consumed, ready)
            kinds += events["kind"][: ready[0]].tolist()
            if feed.open_count:
                ffi.memmove(pointer, pointer + ready[0], 192 * feed.open_count)
            if status == lib.PSA_INVALID_MESSAGE:
                block = (feed.fault_block, bool(feed.fault_is_revert))
                lost = block if feed.fault_has_block else None
                name = CLASSES[status]
                faults.append(oracle.Fault(feed.fault_frame, name, bool(feed.resync), lost))
            rest, left = rest + consumed[0], left - consumed[0]
        assert (status, left) == (lib.PSA_OK, 0)
        assert faults == consumer.faults, names
        want = [
            one.fields["kind"]
            for unit in consumer.units
            for one in oracle.records(unit, lambda _: 0)
        ]
        assert kinds == want, names
        states = ("start", "idle", "in block", "skip")
        assert states[feed.state] == consumer.state, names
        assert bool(feed.reorg_open) == consumer.reorg_open, names
