"""The bridge's dialect: bytes as docs/reference/wire.md says, and no other stream is taken for it."""

import struct

import numpy as np
import pytest
from builders.native_wire import decode, decode_once, encode_once

from arena.layouts.events import EVENT
from arena.native import ffi, lib
from arena.writer.producers.follow import encode

POOL = bytes(range(32))
BASE = int.from_bytes(b"\0PSA", "little")
BEGIN, UPDATE, END, REORG_START = (BASE + index for index in (1, 2, 3, 6))


def frame(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


def update(seq: int, variant: int, body: bytes, *, block: int = 7, revert: bool = False) -> bytes:
    head = struct.pack("<IQI", UPDATE, seq, 1) + POOL
    place = struct.pack("<IIQQQQ?I", 2, 0, block, 1_700_000_000, 3, 4, revert, variant)
    return frame(head + place + body)


def swap_body(fee: int, zero_for_one: int) -> bytes:
    price = struct.pack("<Q", 32) + (1 << 96).to_bytes(32, "big")
    return price + struct.pack("<QQiIB", 5, 0, -9, fee, zero_for_one)


def block(*updates: tuple[int, bytes]) -> bytes:
    begin = frame(struct.pack("<IQQQQ?", BEGIN, 1, 7, 1_700_000_000, 99, False))
    middle = [update(seq, *each) for seq, each in enumerate(updates, 2)]
    end = frame(struct.pack("<IQQQ", END, len(updates) + 2, 7, len(updates)))
    return begin + b"".join(middle) + end


FEES = ((26, struct.pack("<I", 700 << 12 | 300)), (25, swap_body(3300, 1)), (25, swap_body(5, 0)))


def test_fees_are_read_in_their_order() -> None:
    records, feed, status = decode(block(*FEES))
    assert (status, feed.dialect) == (lib.PSA_OK, lib.PSA_DIALECT_BRIDGE)
    assert records["flags"][0] == lib.PSA_EVENT_HAS_FEES | lib.PSA_EVENT_HAS_BASE_FEE
    fee, there, back = records[1:-1]
    assert fee["kind"] == lib.PSA_EVENT_PROTOCOL_FEE
    assert fee["words"].tolist() == [700 << 12 | 300, *[0] * 7]
    for record, paid, zero_for_one in ((there, 3300, 1), (back, 5, 0)):
        assert record["kind"] == lib.PSA_EVENT_CL_SWAP
        assert record["present"] == lib.PSA_HAS_SWAP_FEE
        assert record["words"].tolist() == [0, 1 << 32, 0, 0, paid, zero_for_one, 0, 0]
        assert (record["tick"], record["amount"].tolist()) == (-9, [5, 0])
    for record in (fee, there, back):
        assert record["key"].tobytes() == POOL
        assert (record["tx_index"], record["log_index"]) == (3, 4)


def test_what_is_written_is_what_was_read() -> None:
    data = block(*FEES, (4, swap_body(0, 0)[:60]))
    records, _, _ = decode(data)
    assert len(records) == 6
    assert encode(records, 1) == data


def test_frames_split_anywhere_are_read_the_same() -> None:
    for size in (1, 7, 60, 200):
        data, parts = block(*FEES), []
        feed = ffi.new("psa_feed *")
        lib.psa_feed_open(feed, lib.PSA_DIALECT_UNKNOWN)
        events = np.zeros(64, EVENT)
        rest = b""
        for start in range(0, len(data), size):
            rest += data[start : start + size]
            status, consumed, ready = decode_once(feed, rest, events)
            assert status == lib.PSA_OK
            rest = rest[consumed:]
            parts.append(events[:ready].copy())
        assert np.concatenate(parts).tobytes() == decode(data)[0].tobytes()


def test_a_reader_that_joins_inside_a_reorg_knows_the_dialect() -> None:
    start = frame(struct.pack("<IQ", REORG_START, 0) + 2 * struct.pack("<??Q", 0, 0, 0))
    records, feed, status = decode(start + block(*FEES))
    assert (status, feed.dialect, len(records)) == (lib.PSA_OK, lib.PSA_DIALECT_BRIDGE, 6)


def test_a_reader_that_joins_inside_a_block_waits_for_the_next() -> None:
    whole = block(*FEES)
    begin = 4 + struct.unpack_from("<I", whole)[0]
    records, feed, status = decode(whole[begin:] + whole)
    assert (status, feed.frames_dropped, len(records)) == (lib.PSA_OK, 4, 5)


@pytest.mark.parametrize(
    "body",
    [
        (26, b"\0" * 3),
        (26, b"\0" * 5),
        (25, swap_body(1, 2)),
        (25, swap_body(1, 1)[:-1]),
        (25, swap_body(1, 1) + b"\0"),
        (25, b"\x1f" + swap_body(1, 1)[1:]),
        (27, struct.pack("<I", 1)),
    ],
)
def test_other_bodies_are_refused(body: tuple[int, bytes]) -> None:
    records, _, status = decode(block(body))
    assert (status, len(records)) == (lib.PSA_DESERIALIZATION, 0)


@pytest.mark.parametrize("dialect", [lib.PSA_DIALECT_EXEX, lib.PSA_DIALECT_SEED_INDEXED])
def test_a_reader_of_another_dialect_refuses_it(dialect: int) -> None:
    assert decode(block(*FEES), dialect)[2] == lib.PSA_DESERIALIZATION


@pytest.mark.parametrize("body", FEES)
def test_fees_are_refused_in_a_stream_of_another_producer(body: tuple[int, bytes]) -> None:
    def as_exex(data: bytes) -> bytes:
        return data.replace(b"PSA", b"\0\0\0")

    records, feed, status = decode(as_exex(block((4, swap_body(0, 0)[:60]))))
    assert (status, feed.dialect, len(records)) == (lib.PSA_OK, lib.PSA_DIALECT_EXEX, 3)
    records, _, status = decode(as_exex(block(body)))
    assert (status, len(records)) == (lib.PSA_DESERIALIZATION, 0)


def test_generation_15_carries_no_protocol_fee_and_a_swap_without_its_fee() -> None:
    records, _, _ = decode(block(*FEES))
    for chosen, expected in ((records, lib.PSA_INVALID_EVENT_DATA), (records[[0, 2]], lib.PSA_OK)):
        status, _, nbytes, _ = encode_once(
            np.ascontiguousarray(chosen), lib.PSA_DIALECT_EXEX, capacity=4096
        )
        assert status == expected
    assert nbytes == 41 + 157
