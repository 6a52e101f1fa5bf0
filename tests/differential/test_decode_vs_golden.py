"""Decoding and encoding against recorded streams.

Every golden stream carries its meaning as JSON. The oracle (a second codec, without code in common)
says which record each message becomes, and encodes bodies that records do not hold.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.native_wire import encode_once
from oracle import wire_oracle as oracle

from arena.layouts.events import EVENT
from arena.native import ffi, lib

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "wire" / "golden"
REFUSED = ("exex_g01", "exex_g02", "exex_g03", "exex_g04")
NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))
READ = [name for name in NAMES if not name.startswith(REFUSED)]
DIALECTS = {
    "seed_v0_tagged": lib.PSA_DIALECT_SEED_TAGGED,
    "seed_v0_indexed": lib.PSA_DIALECT_SEED_INDEXED,
}


def stream(name: str) -> bytes:
    return (GOLDEN / f"{name}.bin").read_bytes()


def dialect_name(name: str) -> str:
    return name.replace("seed_v0", "seed") if name.startswith("seed") else name[5:8]


def messages(name: str) -> list[dict[str, Any]]:
    frames = json.loads((GOLDEN / f"{name}.json").read_text())["frames"]
    return [oracle.plain(frame["message"]) for frame in frames]


class Decoder:
    """psa_feed over plain arrays; `chunks` are joined with what was left over."""

    def __init__(self, dialect: int = lib.PSA_DIALECT_UNKNOWN, capacity: int = 4096) -> None:
        self.feed = ffi.new("psa_feed *")
        lib.psa_feed_open(self.feed, dialect)
        self.events = np.zeros(capacity, EVENT)
        self.rest = b""
        self.units: list[np.ndarray] = []
        self.statuses: list[int] = []
        self.faults: list[tuple[int, int, int]] = []

    def take(self, chunk: bytes) -> None:
        self.rest += chunk
        consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
        while True:
            data = ffi.from_buffer("uint8_t[]", self.rest)
            status = lib.psa_feed_decode(
                self.feed,
                data,
                len(self.rest),
                ffi.from_buffer("psa_event[]", self.events),
                len(self.events),
                consumed,
                ready,
            )
            count, open_count = ready[0], self.feed.open_count
            assert consumed[0] <= len(self.rest)
            if count or not self.units:
                self.units.append(self.events[:count].copy())
            if count:
                self.events[:open_count] = self.events[count : count + open_count].copy()
            self.rest = self.rest[consumed[0] :]
            if status == lib.PSA_BLOCK_TOO_LARGE:
                assert count == 0
                self.events = np.concatenate([self.events, np.zeros(1, EVENT)])
                continue
            if status != lib.PSA_OK:
                self.statuses.append(status)
            if status == lib.PSA_INVALID_MESSAGE:
                self.faults.append(
                    (self.feed.fault_frame, self.feed.fault_code, self.feed.fault_block)
                )
            if status not in (lib.PSA_EVENTS_FULL, lib.PSA_INVALID_MESSAGE):
                return

    @property
    def records(self) -> np.ndarray:
        return np.concatenate(self.units)


def wire_variants(name: str) -> Any:
    """Update name to wire index in the generation of a golden stream."""
    generation = int(dialect_name(name)[1:])
    indices = {body: i for i, (body, _) in enumerate(oracle.updates(generation))}
    return lambda message: indices[message["event"]["update"]["type"]]


def expected_records(name: str) -> Iterator[tuple[oracle.Expected, dict[str, Any]]]:
    """Each expected record with the message it comes from."""
    consumer = oracle.Consumer()
    consumer.family = oracle.seed_family(dialect_name(name))
    for message in messages(name):
        if message["type"] not in ("Ping", "Pong", "UpdateWhitelist"):
            consumer.message(message)
    assert not consumer.faults
    variant_of = (lambda _: 0) if name.startswith("seed") else wire_variants(name)
    for unit in consumer.units:
        expected = oracle.records(unit, variant_of)
        if unit[0] == "reorg complete":
            yield from ((one, unit[1][0]) for one in expected)
        else:
            yield from zip(expected, unit[1], strict=True)


def as_plain(value: Any) -> Any:
    return bytes(value) if value.dtype == np.uint8 and value.ndim else value.tolist()


def assert_record(record: np.void, expected: oracle.Expected, payload: bytes, data: bytes) -> None:
    """All fields; those the expectation does not name are zero."""
    fields = dict(expected.fields)
    if expected.payload_at == "words":
        offset, length = record["words"][:2].tolist()
        fields["words"] = [offset, length] + [0] * 6
    elif expected.payload_at == "stream_seq":
        offset, length = int(record["stream_seq"]), int(record["timestamp"])
        fields["stream_seq"], fields["timestamp"] = offset, length
    if expected.payload_at:
        assert data[offset : offset + length] == payload
    zero = np.zeros((), EVENT)
    for field in EVENT.names or ():
        want = fields.pop(field, as_plain(zero[field]))
        assert as_plain(record[field]) == want, (field, fields)
    assert not fields


@pytest.mark.parametrize("name", READ)
def test_every_record_is_the_json_meaning(name: str) -> None:
    data = stream(name)
    decoder = Decoder()
    decoder.take(data)
    assert decoder.statuses == []
    assert decoder.rest == b""
    assert decoder.feed.frames == len(messages(name))
    assert decoder.feed.bytes == len(data)
    records = decoder.records
    pairs = list(expected_records(name))
    assert len(records) == len(pairs)
    for record, (expected, message) in zip(records, pairs, strict=True):
        payload = oracle.encode(message, dialect_name(name)) if expected.payload_at else b""
        assert_record(record, expected, payload, data)


@pytest.mark.parametrize("name", READ)
def test_pinned_dialect_reads_the_same(name: str) -> None:
    found, pinned = Decoder(), Decoder(DIALECTS.get(name, lib.PSA_DIALECT_EXEX))
    found.take(stream(name))
    pinned.take(stream(name))
    assert found.feed.dialect == pinned.feed.dialect
    assert found.records.tobytes() == pinned.records.tobytes()


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_wrong_pin_is_a_deserialization_error(name: str, wrong: int) -> None:
    if wrong == DIALECTS.get(name, lib.PSA_DIALECT_EXEX):
        wrong = 1 + wrong % 3
    decoder = Decoder(wrong)
    decoder.take(stream(name))
    assert decoder.statuses == [lib.PSA_DESERIALIZATION]
    assert len(decoder.records) == 0


def without_offsets(records: np.ndarray) -> bytes:
    """Records with the offset of opaque payloads, which depends on the split, set to 0."""
    copy = records.copy()
    is_opaque = (copy["flags"] & lib.PSA_EVENT_OPAQUE) != 0
    is_kept = ~np.isin(copy["kind"], [lib.PSA_EVENT_UNSUPPORTED, lib.PSA_EVENT_INVALID])
    copy["words"][is_opaque & ~is_kept, 0] = 0
    copy["stream_seq"][is_opaque & is_kept] = 0
    return copy.tobytes()


@pytest.mark.parametrize("name", READ)
def test_any_split_gives_the_same_units(name: str) -> None:
    data = stream(name)
    whole = Decoder()
    whole.take(data)
    want = without_offsets(whole.records)
    rng = random.Random(name)
    for capacity, longest in (
        (4096, 1),
        (1, 1),
        (1, len(data)),
        (40, 700),
        (2, 64),
        (7, len(data)),
    ):
        decoder = Decoder(capacity=capacity)
        at = 0
        while at < len(data):
            size = rng.randint(1, longest)
            decoder.take(data[at : at + size])
            at += size
        assert set(decoder.statuses) <= {lib.PSA_EVENTS_FULL}
        assert without_offsets(decoder.records) == want
        for unit in decoder.units:
            begins = np.flatnonzero(unit["kind"] == lib.PSA_EVENT_BEGIN_BLOCK)
            ends = np.flatnonzero(unit["kind"] == lib.PSA_EVENT_END_BLOCK)
            assert len(begins) == len(ends)


def encode(records: np.ndarray, dialect: int, source: bytes) -> bytes:
    nbytes, failed = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    events = ffi.from_buffer("psa_event[]", records)
    arguments = (events, len(records), dialect, ffi.from_buffer("uint8_t[]", source), len(source))
    status = lib.psa_encode(*arguments, ffi.NULL, 0, nbytes, failed)
    assert status == lib.PSA_BUFFER_TOO_SMALL, failed[0]
    out = bytearray(nbytes[0])
    status = lib.psa_encode(*arguments, ffi.from_buffer("uint8_t[]", out), len(out), nbytes, failed)
    assert status == lib.PSA_OK
    assert nbytes[0] == len(out)
    return bytes(out)


def is_encodable(name: str) -> bool:
    """All but g05..g11 streams with reorgs: g15 has no resync list and no ReorgComplete at 7."""
    return name.startswith("seed") or "extras" in name or int(dialect_name(name)[1:]) >= 12


@pytest.mark.parametrize("name", [name for name in READ if is_encodable(name)])
def test_encoding_the_records_gives_the_same_bytes(name: str) -> None:
    """Ping, Pong and UpdateWhitelist leave no record, so their frames are left out."""
    data = stream(name)
    decoder = Decoder()
    decoder.take(data)
    kept = [
        oracle.frame(payload)
        for payload, message in zip(oracle.frames(data), messages(name), strict=True)
        if message["type"] not in ("Ping", "Pong", "UpdateWhitelist")
    ]
    dialect = DIALECTS.get(name, lib.PSA_DIALECT_EXEX)
    assert encode(decoder.records, dialect, data) == b"".join(kept)


@pytest.mark.parametrize("name", [name for name in READ if name.startswith("exex")])
def test_uniswap_records_encode_to_the_oracles_bytes(name: str) -> None:
    """One record at a time, without source bytes; g05..g11 keep the forms g15 lacks."""
    decoder = Decoder()
    decoder.take(stream(name))
    checked = 0
    for index, (expected, message) in enumerate(expected_records(name)):
        record = decoder.records[index : index + 1]
        status, out, nbytes, _ = encode_once(record, lib.PSA_DIALECT_EXEX)
        is_listed = message["type"] == "ReorgComplete" and "slot0_resync_required" in message
        if expected.payload_at or (is_listed and message["slot0_resync_required"]):
            assert status == lib.PSA_INVALID_EVENT_DATA
            continue
        assert status == lib.PSA_OK
        if message["type"] == "ReorgComplete":
            message = {k: v for k, v in message.items() if k != "slot0_resync_required"}
            want = oracle.encode(message, "g15")
        else:
            want = oracle.encode(message, dialect_name(name))
        assert out[:nbytes] == oracle.frame(want)
        checked += 1
    assert checked > 4


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(REFUSED)])
@pytest.mark.parametrize("dialect", [lib.PSA_DIALECT_UNKNOWN, lib.PSA_DIALECT_EXEX])
def test_generations_before_g05_are_refused(name: str, dialect: int) -> None:
    decoder = Decoder(dialect)
    decoder.take(stream(name))
    assert decoder.statuses == [lib.PSA_UNSUPPORTED_GENERATION]
    assert decoder.feed.state == lib.PSA_FEED_DEAD
    assert ffi.string(decoder.feed.fault_text).startswith(b"exex g0")
    assert len(decoder.records) == 0


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(REFUSED)])
def test_late_join_to_a_refused_generation_is_refused(name: str) -> None:
    """From any frame on: nothing is ever taken for a supported family."""
    payloads = list(oracle.frames(stream(name)))
    for start in range(len(payloads)):
        decoder = Decoder()
        decoder.take(b"".join(map(oracle.frame, payloads[start:])))
        assert len(decoder.records) == 0
        assert set(decoder.statuses) <= {lib.PSA_UNSUPPORTED_GENERATION}
        has_begin = any(len(p) in (21, 29) and p[0] in (1, 6) for p in payloads[start:])
        assert bool(decoder.statuses) == (has_begin or name.startswith("exex_g01"))


def test_g01_is_known_by_whole_messages_only() -> None:
    """A g01 update with a damaged integer prefix is dropped like any unknown frame."""
    payloads = list(oracle.frames(stream("exex_g01_5d10418")))
    seen = set()
    for payload in payloads:
        head = 4 + (32 if payload[4] == 0 else 36)
        update = payload[head + 40]
        body = head + 44
        prefixes = {0: (body, body + 40), 1: (body,), 3: (body,)}.get(update, ())
        for at in prefixes:
            assert payload[at] == 32
            damaged = Decoder()
            damaged.take(oracle.frame(payload[:at] + b"\x1f" + payload[at + 1 :]))
            assert damaged.statuses == []
            assert damaged.feed.frames_dropped == 1
            seen.add((update, at))
        whole = Decoder()
        whole.take(oracle.frame(payload))
        assert whole.statuses == [lib.PSA_UNSUPPORTED_GENERATION]
    assert {update for update, _ in seen} == {0, 1, 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_late_join_drops_frames_to_the_first_begin_or_reorg_mark(name: str) -> None:
    payloads = list(oracle.frames(stream(name)))
    for start in range(0, len(payloads), 3):
        joined = b"".join(map(oracle.frame, payloads[start:]))
        consumer = oracle.Consumer()
        consumer.run(joined)
        decoder = Decoder()
        decoder.take(joined)
        blocks = [unit[1][0]["block_number"] for unit in consumer.units if unit[0] == "block"]
        records = decoder.records
        begins = records[records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK]
        assert begins["block_number"].tolist() == blocks
        assert [fault[0] for fault in decoder.faults] == [fault.frame for fault in consumer.faults]


def record(**fields: Any) -> np.ndarray:
    """One well-formed V3 swap of either dialect, with fields replaced."""
    one = np.zeros(1, EVENT)
    one["kind"], one["protocol"], one["key_nbytes"] = lib.PSA_EVENT_CL_SWAP, 1, 20
    one["present"] = lib.PSA_HAS_SQRT_PRICE | lib.PSA_HAS_TICK | lib.PSA_HAS_LIQUIDITY
    for name, value in fields.items():
        one[name] = value
    return one


BOTH = (lib.PSA_DIALECT_EXEX, lib.PSA_DIALECT_SEED_INDEXED)
EXEX_ONLY, SEED_ONLY = BOTH[:1], BOTH[1:]


@pytest.mark.parametrize(
    ("fields", "dialects"),
    [
        ({"key_nbytes": 21}, EXEX_ONLY),
        ({"protocol": lib.PSA_UNISWAP_V2}, BOTH),
        ({"protocol": lib.PSA_EKUBO}, BOTH),
        ({"update_type": lib.PSA_UPDATE_OTHER}, BOTH),
        ({"kind": lib.PSA_EVENT_RESYNC_POOL}, BOTH),
        ({"kind": lib.PSA_EVENT_UNSUPPORTED}, BOTH),
        ({"kind": lib.PSA_EVENT_UNSUPPORTED, "flags": lib.PSA_EVENT_OPAQUE}, BOTH),
        ({"kind": lib.PSA_EVENT_REORG_COMPLETE, "words": [1] + [0] * 7}, BOTH),
        ({"kind": lib.PSA_EVENT_REORG_START}, SEED_ONLY),
        ({"kind": lib.PSA_EVENT_V2_SYNC, "protocol": 0}, SEED_ONLY),
        ({"kind": lib.PSA_EVENT_V2_DELTA, "protocol": 0, "variant": 2}, EXEX_ONLY),
        ({"kind": lib.PSA_EVENT_V2_DELTA, "protocol": 0, "words": [0, 0, 1, 0] * 2}, SEED_ONLY),
        ({"kind": lib.PSA_EVENT_SLOT0_FINAL, "variant": 9}, EXEX_ONLY),
        ({"kind": lib.PSA_EVENT_SLOT0_FINAL, "protocol": 0}, EXEX_ONLY),
        ({"kind": lib.PSA_EVENT_CL_LIQUIDITY}, SEED_ONLY),
        ({"present": lib.PSA_HAS_SQRT_PRICE | lib.PSA_HAS_TICK}, SEED_ONLY),
        ({"present": 15}, SEED_ONLY),
        ({"tx_index": 2**32}, SEED_ONLY),
        ({"log_index": 2**32}, SEED_ONLY),
    ],
)
def test_records_a_dialect_cannot_carry_are_named(
    fields: dict[str, Any], dialects: tuple[int, ...]
) -> None:
    for dialect in dialects:
        good = record()
        assert encode_once(good, dialect)[0] == lib.PSA_OK
        status, _, _, failed = encode_once(np.concatenate([good, record(**fields)]), dialect)
        assert (status, failed) == (lib.PSA_INVALID_EVENT_DATA, 1)


@pytest.mark.parametrize("dialect", [0, 5])
def test_encoding_to_no_dialect_is_a_bad_argument(dialect: int) -> None:
    assert encode_once(record(), dialect)[0] == lib.PSA_BAD_ARGUMENT


def test_encoding_needs_exactly_the_bytes_it_says() -> None:
    two = np.concatenate([record(), record(tick=5)])
    status, whole, nbytes, _ = encode_once(two, lib.PSA_DIALECT_EXEX)
    assert (status, nbytes) == (lib.PSA_OK, 2 * 153)
    for capacity in (nbytes - 1, nbytes, nbytes + 1):
        status, out, needed, _ = encode_once(two, lib.PSA_DIALECT_EXEX, capacity)
        assert needed == nbytes
        assert status == (lib.PSA_OK if capacity >= nbytes else lib.PSA_BUFFER_TOO_SMALL)
        kept = min(capacity, nbytes) // 153 * 153
        assert out[:kept] == whole[:kept]
        assert not any(out[kept:])
