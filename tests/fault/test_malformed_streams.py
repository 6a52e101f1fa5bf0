"""Defective streams: what is applied, skipped and reported, and whether the connection survives.

`malformed/index.json` states it for each stream. Read as one chunk, byte by byte, and through a
real socket with the feed; whole connections, from the first byte to the end of the file.
"""

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
from arena.layouts.events import EVENT
from arena.writer.feed import EventBuffer, Feed

from arena import errors
from arena.native import ffi, lib

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
    consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    rest = b""

    def fault(name: str) -> None:
        block = feed.fault_block if feed.fault_has_block else None
        revert, resync = bool(feed.fault_is_revert), bool(feed.resync)
        outcome.fail(feed.fault_frame, name, block, revert, resync)

    for chunk in chunks:
        rest += chunk
        status = lib.PSA_INVALID_MESSAGE
        while status == lib.PSA_INVALID_MESSAGE:
            status = lib.psa_feed_decode(
                feed,
                ffi.from_buffer("uint8_t[]", rest),
                len(rest),
                ffi.from_buffer("psa_event[]", events),
                len(events),
                consumed,
                ready,
            )
            outcome.apply(events[: ready[0]])
            opened = events[ready[0] : ready[0] + feed.open_count].copy()
            events[: len(opened)] = opened
            rest = rest[consumed[0] :]
            if status != lib.PSA_OK:
                fault(CLASSES[status])
        if status != lib.PSA_OK:
            # Everything after the defect is ignored.
            before = feed.frames
            again = lib.psa_feed_decode(
                feed, ffi.from_buffer("uint8_t[]", b"\1\0\0\0\0"), 5, ffi.NULL, 0, consumed, ready
            )
            assert (again, consumed[0], ready[0]) == (status, 0, 0)
            assert feed.frames == before
            return outcome
    outcome.discarded = feed.frames_dropped
    if is_end_an_error:
        lib.psa_feed_close(feed, len(rest))
        fault("Connection")
    return outcome


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
