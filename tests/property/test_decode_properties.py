"""Generated streams and mutated bytes, against the oracle's reader and state machine.

Whatever the bytes, the decoder yields exactly the units and faults the oracle yields: it never
invents a block, never loses one, and stops at the same frame.
"""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.native_wire import decode_once, encode_once
from hypothesis import given
from hypothesis import strategies as st
from oracle import wire_oracle as oracle

from arena.layouts.events import EVENT
from arena.native import ffi, lib

DATA = Path(__file__).resolve().parents[1] / "data" / "wire"
CLASSES = {
    lib.PSA_DESERIALIZATION: "Deserialization",
    lib.PSA_UNSUPPORTED_GENERATION: "UnsupportedGeneration",
    lib.PSA_INVALID_MESSAGE: "InvalidMessage",
}

# ---- strategies -----------------------------------------------------------------------------


def ints(bits: int, *, signed: bool = False) -> st.SearchStrategy[int]:
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return st.one_of(st.integers(low, high), st.sampled_from([low, 0, 1, high, high - 1]))


def hexes(count: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=count, max_size=count).map(lambda data: "0x" + data.hex())


STRATEGIES: dict[int, st.SearchStrategy[Any]] = {
    id(oracle.U8): ints(8),
    id(oracle.U32): ints(32),
    id(oracle.U64): ints(64),
    id(oracle.U128): ints(128),
    id(oracle.I32): ints(32, signed=True),
    id(oracle.I128): ints(128, signed=True),
    id(oracle.U256): ints(256),
    id(oracle.I256): ints(256, signed=True),
    id(oracle.ADDRESS): hexes(20),
    id(oracle.BOOL): st.booleans(),
}
POOL_IDS = st.one_of(
    hexes(20).map(lambda value: {"type": "Address", "value": value}),
    hexes(32).map(lambda value: {"type": "PoolId", "value": value}),
)
VECTORS = {
    "effective_balances": ints(128),
    "tokens": hexes(20),
    "deltas": ints(128, signed=True),
}
FLUID_STATE = st.fixed_dictionaries(dict.fromkeys(oracle.FLUID, ints(128)))


def body(name: str, fields: dict[str, oracle.Codec]) -> st.SearchStrategy[dict[str, Any]]:
    found: dict[str, st.SearchStrategy[Any]] = {"type": st.just(name)}
    for field, codec in fields.items():
        if field in VECTORS:
            found[field] = st.lists(VECTORS[field], max_size=9)
        elif field == "balances":
            count = 2 if name.startswith("Two") else 3
            found[field] = st.lists(ints(128), min_size=count, max_size=count)
        elif field == "state":
            found[field] = FLUID_STATE
        else:
            found[field] = STRATEGIES[id(codec)]
    return st.fixed_dictionaries(found)


def protocol_of(name: str, generation: int) -> st.SearchStrategy[str]:
    fits = [p for p in oracle.protocols(generation) if oracle.fits_protocol(name, p)]
    return st.sampled_from(fits)


@st.composite
def exex_event(draw: st.DrawFn, generation: int, number: int, is_revert: bool) -> dict[str, Any]:
    name, fields = draw(st.sampled_from(oracle.updates(generation)))
    return {
        "pool_id": draw(POOL_IDS),
        "protocol": draw(protocol_of(name, generation)),
        "update_type": draw(st.sampled_from(["Swap", "Mint", "Burn"])),
        "block_number": number,
        "block_timestamp": draw(ints(64)),
        "tx_index": draw(ints(64)),
        "log_index": draw(ints(64)),
        "is_revert": is_revert,
        "update": draw(body(name, fields)),
    }


SEED_EVENT = st.fixed_dictionaries(
    {
        "transaction_index": ints(32),
        "log_index": ints(32),
        "pool_address": hexes(20),
        "pool_id": st.none() | hexes(32),
        "protocol": st.sampled_from(["uniswap_v2", "uniswap_v3", "uniswap_v4"])
        | st.text(max_size=12),
        "event_type": st.sampled_from(["Swap", "Mint", "Burn", "ModifyLiquidity"])
        | st.text(max_size=5),
        "sqrt_price_x96": st.none() | ints(256),
        "tick": st.none() | ints(32, signed=True),
        "liquidity": st.none() | ints(128),
        "tick_lower": st.none() | ints(32, signed=True),
        "tick_upper": st.none() | ints(32, signed=True),
        "liquidity_delta": st.none() | ints(128, signed=True),
        "amount0": ints(128, signed=True),
        "amount1": ints(128, signed=True),
    }
)
RANGES = st.fixed_dictionaries(
    {
        "first_block": st.none() | ints(64),
        "last_block": st.none() | ints(64),
        "block_count": ints(64),
    }
)


@st.composite
def exex_frames(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    """Messages that mostly, not always, stand where the state machine wants them."""
    generation = draw(st.sampled_from(oracle.GENERATIONS))
    base_fee = generation >= 7
    seq = draw(ints(64))
    found: list[dict[str, Any]] = []

    def add(message: dict[str, Any]) -> None:
        nonlocal seq
        if "stream_seq" in message:
            seq = (seq + draw(st.sampled_from([1] * 40 + [0, 2, 2**64 - 1]))) % 2**64
            message["stream_seq"] = seq
        found.append(message)

    for _ in range(draw(st.integers(1, 6))):
        number = draw(ints(64))
        is_revert = draw(st.booleans())
        kind = draw(st.sampled_from(["block"] * 4 + ["start", "complete", "epilogue", "stray"]))
        if kind == "block":
            begin = {
                "type": "BeginBlock",
                "stream_seq": 0,
                "block_number": number,
                "block_timestamp": draw(ints(64)),
                "is_revert": is_revert,
            }
            if base_fee:
                begin["base_fee_per_gas"] = draw(ints(64))
            add(begin)
            count = draw(st.integers(0, 4))
            for _ in range(count):
                flag = is_revert ^ draw(st.sampled_from([False] * 30 + [True]))
                event = draw(exex_event(generation, number, flag))
                add({"type": "PoolUpdate", "stream_seq": 0, "event": event})
            count += draw(st.sampled_from([0] * 12 + [1]))
            if draw(st.sampled_from([True] * 12 + [False])):
                add(
                    {
                        "type": "EndBlock",
                        "stream_seq": 0,
                        "block_number": number,
                        "num_updates": count,
                    }
                )
        elif kind == "start":
            ranges = {"old_range": draw(RANGES), "new_range": draw(RANGES)}
            add({"type": "ReorgStart", "stream_seq": 0, **ranges})
        elif kind == "complete":
            complete = {"type": "ReorgComplete", "stream_seq": 0, "final_tip_block": number}
            if generation <= 9:
                complete["slot0_resync_required"] = draw(st.lists(POOL_IDS, max_size=4))
            add(complete)
        elif kind == "epilogue" and generation >= 12:
            names = ["Slot0Final", "FluidStateFinal"] + ["V2ReservesFinal"] * (generation >= 15)
            name = draw(st.sampled_from(names))
            update: dict[str, Any] = {"type": name, "pool_id": draw(POOL_IDS)}
            if name == "Slot0Final":
                update["protocol"] = draw(st.sampled_from(oracle.protocols(generation)))
                state = draw(body("", oracle.SLOT0))
                update["state"] = {k: v for k, v in state.items() if k != "type"}
            elif name == "FluidStateFinal":
                update["state"] = draw(FLUID_STATE)
            else:
                update.update(reserve0=draw(ints(128)), reserve1=draw(ints(128)))
            add(
                {
                    "type": "ReorgEpilogue",
                    "stream_seq": 0,
                    "final_tip_block": number,
                    "final_tip_timestamp": draw(ints(64)),
                    "update": update,
                }
            )
        elif kind == "stray":
            event = draw(exex_event(generation, number, is_revert))
            add({"type": "PoolUpdate", "stream_seq": 0, "event": event})
            add({"type": draw(st.sampled_from(["Ping", "Pong"]))})
    return f"g{generation:02}", found


@st.composite
def seed_frames(draw: st.DrawFn) -> tuple[str, list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 4))):
        number, is_revert = draw(ints(64)), draw(st.booleans())
        found.append({"type": "BeginBlock", "block_number": number, "is_revert": is_revert})
        events = draw(st.lists(SEED_EVENT, max_size=4))
        for event in events:
            head = {"block_number": number, "is_revert": is_revert}
            found.append({"type": "PoolUpdate", "event": {**event, **head}})
        if draw(st.sampled_from([True] * 12 + [False])):
            count = len(events)
            found.append({"type": "EndBlock", "block_number": number, "num_updates": count})
    return draw(st.sampled_from(["seed_tagged", "seed_indexed"])), found


STREAMS = exex_frames() | seed_frames()

# ---- the decoder under test ------------------------------------------------------------------


def decode(data: bytes, cuts: list[int], capacity: int) -> tuple[np.ndarray, list[oracle.Fault]]:
    """All records and faults, `data` handed over in pieces, in exactly sized allocations."""
    feed = ffi.new("psa_feed *")
    lib.psa_feed_open(feed, lib.PSA_DIALECT_UNKNOWN)
    events = np.zeros(capacity, EVENT)
    units: list[np.ndarray] = []
    faults: list[oracle.Fault] = []
    at = 0
    for end in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
        while True:
            status, consumed, count = decode_once(feed, data[at:end], events)
            open_count = feed.open_count
            unit = events[:count].copy()
            shift_offsets(unit, at)
            units.append(unit)
            opened = events[count : count + open_count].copy()
            shift_offsets(opened, -consumed)  # the next call counts from where this one ended
            events[:open_count] = opened
            at += consumed
            if status == lib.PSA_BLOCK_TOO_LARGE:
                events = np.concatenate([events, np.zeros(len(events), EVENT)])
            elif status == lib.PSA_OK:
                break
            elif status != lib.PSA_EVENTS_FULL:
                lost = None
                if feed.fault_has_block:
                    lost = (feed.fault_block, bool(feed.fault_is_revert))
                fault = oracle.Fault(feed.fault_frame, CLASSES[status], bool(feed.resync), lost)
                faults.append(fault)
                if status != lib.PSA_INVALID_MESSAGE:
                    return np.concatenate(units), faults
    return np.concatenate(units), faults


def opaque_masks(records: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which records have their payload's offset in words, and which in stream_seq."""
    is_opaque = (records["flags"] & lib.PSA_EVENT_OPAQUE) != 0
    is_bare = np.isin(records["kind"], [lib.PSA_EVENT_UNSUPPORTED, lib.PSA_EVENT_INVALID])
    return is_opaque & is_bare, is_opaque & ~is_bare


def shift_offsets(records: np.ndarray, by: int) -> None:
    """Opaque offsets from the piece to the whole stream, modulo 2**64."""
    in_words, in_seq = opaque_masks(records)
    records["words"][in_words, 0] += np.uint64(by % 2**64)
    records["stream_seq"][in_seq] += np.uint64(by % 2**64)


def without_offsets(records: np.ndarray) -> bytes:
    copy = records.copy()
    in_words, in_seq = opaque_masks(copy)
    copy["words"][in_words, 0] = 0
    copy["stream_seq"][in_seq] = 0
    return copy.tobytes()


def as_record(expected: oracle.Expected) -> np.ndarray:
    """The expected record; its opaque offset is 0 and its length 0."""
    record = np.zeros(1, EVENT)
    for name, value in expected.fields.items():
        record[name] = list(value) if isinstance(value, bytes) else value
    return record


def assert_as_oracle(data: bytes, records: np.ndarray, consumer: oracle.Consumer) -> None:
    """Record by record; the body of an opaque one is read again from its slice."""
    family = consumer.family or ""
    at = 0
    for unit in consumer.units:
        expected = oracle.records(unit, lambda _: 0)
        messages = [unit[1][0]] * len(expected) if unit[0] == "reorg complete" else unit[1]
        for one, message in zip(expected, messages, strict=True):
            record = records[at : at + 1].copy()
            at += 1
            if one.payload_at == "words":
                offset, length = record["words"][0, :2].tolist()
                record["words"][0, :2] = 0
            elif one.payload_at == "stream_seq":
                offset, length = int(record["stream_seq"][0]), int(record["timestamp"][0])
                record["stream_seq"] = record["timestamp"] = 0
            if one.payload_at:
                assert oracle.decode(data[offset : offset + length], family) == message
            want = as_record(one)
            if message["type"] == "PoolUpdate" and family == "exex":
                want["variant"] = record["variant"]  # its index differs by generation
            assert record.tobytes() == want.tobytes(), (record, want)
    assert at == len(records)


def consume(data: bytes) -> oracle.Consumer:
    consumer = oracle.Consumer()
    consumer.run(data)
    return consumer


# ---- properties --------------------------------------------------------------------------------


@pytest.mark.slow
@given(STREAMS)
def test_generated_messages_decode_to_their_fields(stream: tuple[str, Any]) -> None:
    data = oracle.stream_of(stream[1], stream[0])
    (records, faults), consumer = decode(data, [], 64), consume(data)
    assert faults == consumer.faults
    assert_as_oracle(data, records, consumer)


@given(STREAMS, st.lists(st.integers(0, 4000), max_size=6), st.integers(1, 9))
def test_pieces_and_small_arrays_change_nothing(
    stream: tuple[str, Any], cuts: list[int], capacity: int
) -> None:
    dialect, messages = stream
    data = oracle.stream_of(messages, dialect)
    whole, faults = decode(data, [], 64)
    pieces, same_faults = decode(data, cuts, capacity)
    assert without_offsets(pieces) == without_offsets(whole)
    assert same_faults == faults


@pytest.mark.slow
@given(STREAMS)
def test_encoding_decoded_blocks_gives_the_same_bytes(stream: tuple[str, Any]) -> None:
    """Blocks without faults; control messages of g05..g11 that g15 lacks are left out."""
    dialect, messages = stream
    data = oracle.stream_of(messages, dialect)
    records, _ = decode(data, [], 64)
    consumer = consume(data)
    blocks = [unit for unit in consumer.units if unit[0] == "block"]
    want = b"".join(oracle.stream_of(unit[1], dialect) for unit in blocks)
    in_block = np.zeros(len(records), bool)
    begins = np.flatnonzero(records["kind"] == lib.PSA_EVENT_BEGIN_BLOCK)
    ends = np.flatnonzero(records["kind"] == lib.PSA_EVENT_END_BLOCK)
    for begin, end in zip(begins, ends, strict=True):
        in_block[begin : end + 1] = True
    kept = np.ascontiguousarray(records[in_block])
    number = {
        "seed_tagged": lib.PSA_DIALECT_SEED_TAGGED,
        "seed_indexed": lib.PSA_DIALECT_SEED_INDEXED,
    }
    chosen = number.get(dialect, lib.PSA_DIALECT_EXEX)
    status, out, nbytes, failed = encode_once(kept, chosen, len(data), data)
    assert status == lib.PSA_OK, failed
    assert out[:nbytes] == want


def recorded() -> list[bytes]:
    names = [p.stem for p in sorted((DATA / "golden").glob("*.json"))]
    found = [(DATA / "golden" / f"{name}.bin").read_bytes() for name in names]
    index = json.loads((DATA / "malformed" / "index.json").read_text())["streams"]
    return found + [(DATA / "malformed" / entry["file"]).read_bytes() for entry in index]


RECORDED = recorded()


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A window of whole frames of a recorded stream with a few bytes or frames changed."""
    stream = draw(st.sampled_from(RECORDED))
    try:
        payloads = list(oracle.frames(stream))
    except oracle.MalformedError:
        payloads = []
    if not payloads:
        return stream
    first = draw(st.integers(0, len(payloads) - 1))
    window = payloads[first : first + draw(st.integers(1, 24))]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(window) - 1))
        action = draw(st.sampled_from(["drop", "double", "swap", "stretch", "cut", "foreign"]))
        if action == "drop" and len(window) > 1:
            del window[at]
        elif action == "double":
            window.insert(at, window[at])
        elif action == "swap" and at:
            window[at - 1], window[at] = window[at], window[at - 1]
        elif action == "stretch":
            window[at] += draw(st.binary(min_size=1, max_size=16))
        elif action == "cut" and len(window[at]) > 1:
            window[at] = window[at][: draw(st.integers(1, len(window[at]) - 1))]
        elif action == "foreign":
            try:
                other = list(oracle.frames(draw(st.sampled_from(RECORDED))))
            except oracle.MalformedError:
                continue
            window[at] = draw(st.sampled_from(other))
    data = bytearray(b"".join(map(oracle.frame, window)))
    small = st.sampled_from([0, 1, 2, 3, 6, 7, 8, 16, 19, 22, 23, 24, 25, 31, 32, 33, 128, 255])
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(small | st.integers(0, 255))
    return bytes(data)


@given(mutated(), st.lists(st.integers(0, 3000), max_size=3), st.integers(1, 40))
def test_mutated_bytes_yield_what_the_oracle_yields(
    data: bytes, cuts: list[int], capacity: int
) -> None:
    records, faults = decode(data, [], 512)
    consumer = consume(data)
    assert faults == consumer.faults
    assert_as_oracle(data, records, consumer)
    pieces, same_faults = decode(data, cuts, capacity)
    assert without_offsets(pieces) == without_offsets(records)
    assert same_faults == faults


@given(st.binary(max_size=400), st.sampled_from([b"", *RECORDED]))
def test_noise_after_a_good_stream_is_handled_as_the_oracle_does(
    noise: bytes, stream: bytes
) -> None:
    data = stream[:2000] + noise
    records, faults = decode(data, [], 512)
    consumer = consume(data)
    assert faults == consumer.faults
    assert_as_oracle(data, records, consumer)


# ---- single frames, exhaustively ----


def forms() -> list[tuple[str, bytes]]:
    """One recorded PoolUpdate or reorg message of each form, with its family."""
    found: dict[tuple[Any, ...], tuple[str, bytes]] = {}
    for path in sorted((DATA / "golden").glob("*.json")):
        if path.stem.startswith(("exex_g01", "exex_g02", "exex_g03", "exex_g04")):
            continue
        dialect = path.stem.replace("_v0", "") if path.stem.startswith("seed") else "exex"
        frames = json.loads(path.read_text())["frames"]
        payloads = oracle.frames(path.with_suffix(".bin").read_bytes())
        for frame, payload in zip(frames, payloads, strict=True):
            message = frame["message"]
            if message["type"] in ("BeginBlock", "EndBlock", "Ping", "Pong", "UpdateWhitelist"):
                continue
            event = message.get("event", {})
            update = event.get("update") or message.get("update") or {}
            names = (event.get("protocol"), event.get("event_type"), update.get("type"))
            key = (dialect, message["type"], len(payload), *names)
            found.setdefault(key, (dialect, payload))
    return list(found.values())


def surrounded(family: str, payload: bytes) -> tuple[bytes, bytes]:
    """Frames that open and close the block a PoolUpdate belongs to; nothing around a reorg mark."""
    message = oracle.decode(payload, family)
    begin: dict[str, Any] = {"type": "BeginBlock"}
    end: dict[str, Any] = {"type": "EndBlock", "num_updates": 1}
    if message["type"] != "PoolUpdate":
        return b"", b""
    event = message["event"]
    begin.update(block_number=event["block_number"], is_revert=event["is_revert"])
    end.update(block_number=event["block_number"])
    if family == "exex":
        seq = message["stream_seq"]
        begin.update(stream_seq=(seq - 1) % 2**64, block_timestamp=1, base_fee_per_gas=1)
        end.update(stream_seq=(seq + 1) % 2**64)
    dialect = "g15" if family == "exex" else family
    return oracle.encode(begin, dialect), oracle.encode(end, dialect)


def variations(payload: bytes) -> list[bytes]:
    """Each byte changed in its lowest and in its highest bit; a byte or sixteen more or less."""
    found = [payload[:-1], payload[:-16], payload + b"\0", payload + bytes(15), payload + bytes(16)]
    for at in range(len(payload)):
        for bit in (1, 128):
            found.append(payload[:at] + bytes([payload[at] ^ bit]) + payload[at + 1 :])
    return found


@pytest.mark.slow
def test_every_byte_of_every_form_is_read_as_the_oracle_reads_it() -> None:
    """In its block, so that updates of common forms take the fast path; marks on their own."""
    kinds = set()
    for family, payload in forms():
        begin, end = surrounded(family, payload)
        known = {frame: oracle.decode(frame, family) for frame in (begin, end) if frame}
        for changed in [payload, *variations(payload)]:
            frames = [frame for frame in (begin, changed, end) if frame]
            consumer = oracle.Consumer(family=family)
            for frame in frames:
                if frame in known:
                    consumer.message(known[frame])
                    consumer.count += 1
                elif not consumer.dead:
                    consumer.frame(frame)
                if consumer.dead:
                    break
            data = b"".join(map(oracle.frame, frames))
            records, faults = decode(data, [], 8)
            if not begin:  # the family is not known before a mark that says it
                consumer = consume(data)
            assert faults == consumer.faults, (payload.hex(), changed.hex())
            assert_as_oracle(data, records, consumer)
        kinds |= set(records["kind"].tolist())
    assert kinds >= {1, 2}


def test_text_is_utf8_exactly() -> None:
    """Protocol strings made of boundary bytes, against the decoder of the language."""
    edges = bytes.fromhex("007f808f909fa0bfc0c1c2dfe0e1ecedeeeff0f1f3f4f5ff")
    texts = [bytes(text) for size in range(4) for text in itertools.product(edges, repeat=size)]
    tails = bytes.fromhex("7f80bfc0")
    texts += [bytes(text) for text in itertools.product(range(0xF0, 0xF6), edges, tails, tails)]
    event = dict.fromkeys(oracle.SEED_OPTIONS)
    event |= {"block_number": 5, "transaction_index": 0, "log_index": 0, "is_revert": False}
    event |= {"pool_address": "0x" + "00" * 20, "event_type": "", "amount0": 0, "amount1": 0}
    payload = oracle.encode(
        {"type": "PoolUpdate", "event": {**event, "protocol": ""}}, "seed_indexed"
    )
    before, after = payload[:41], payload[49:]
    begin = oracle.encode(
        {"type": "BeginBlock", "block_number": 5, "is_revert": False}, "seed_indexed"
    )
    feed = ffi.new("psa_feed *")
    consumed, ready = ffi.new("uint64_t *"), ffi.new("uint32_t *")
    events = ffi.new("psa_event[4]")
    accepted = 0
    for text in texts:
        data = oracle.frame(begin)
        data += oracle.frame(before + len(text).to_bytes(8, "little") + text + after)
        lib.psa_feed_open(feed, lib.PSA_DIALECT_SEED_INDEXED)
        pointer = ffi.from_buffer("uint8_t[]", data)
        status = lib.psa_feed_decode(feed, pointer, len(data), events, 4, consumed, ready)
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            assert status == lib.PSA_DESERIALIZATION, text
        else:
            accepted += 1
            assert status == lib.PSA_OK, text
            assert feed.open_count == 2
    assert 0 < accepted < len(texts)
