"""Slow, obvious codec of the event stream, and the consumer's state machine.

Imports nothing of ours. A message is the JSON form of the golden streams: `{"type": ..., fields}`,
integers as int, bytes as 0x-hex. Each exex generation has its own full definition here, as its
producer had; a family C payload is read by every one of them and must mean the same to all that
accept it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

Message = dict[str, Any]

FRAME_CAP = 16 * 1024 * 1024
GENERATIONS = tuple(range(5, 16))


class MalformedError(Exception):
    """No strict reader accepts these bytes."""


class RefusedError(Exception):
    """A generation this project does not read (g01..g04)."""


# ---- primitives ----------------------------------------------------------------------------------


class Source:
    """Bytes with a position; reading past the end is MalformedError."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise MalformedError(f"eof at {self.at} want {count}")
        self.at += count
        return self.data[self.at - count : self.at]

    def end(self) -> None:
        if self.at != len(self.data):
            raise MalformedError(f"trailing {len(self.data) - self.at}")


@dataclass(frozen=True)
class Codec:
    write: Callable[[Any], bytes]
    read: Callable[[Source], Any]


def integer(nbytes: int, *, signed: bool = False) -> Codec:
    return Codec(
        lambda value: int(value).to_bytes(nbytes, "little", signed=signed),
        lambda source: int.from_bytes(source.take(nbytes), "little", signed=signed),
    )


U8, U32, U64, U128 = integer(1), integer(4), integer(8), integer(16)
I32, I128 = integer(4, signed=True), integer(16, signed=True)


def prefixed(nbytes: int, write: Callable[[Any], bytes], read: Callable[[bytes], Any]) -> Codec:
    def read_all(source: Source) -> Any:
        length = U64.read(source)
        if length != nbytes:
            raise MalformedError(f"length {length} want {nbytes}")
        return read(source.take(nbytes))

    return Codec(lambda value: U64.write(nbytes) + write(value), read_all)


def hex_bytes(value: str, nbytes: int) -> bytes:
    data = bytes.fromhex(value.removeprefix("0x"))
    assert len(data) == nbytes
    return data


U256 = prefixed(32, lambda v: int(v).to_bytes(32, "big"), lambda b: int.from_bytes(b, "big"))
I256 = prefixed(
    32,
    lambda v: int(v).to_bytes(32, "big", signed=True),
    lambda b: int.from_bytes(b, "big", signed=True),
)
ADDRESS = prefixed(20, lambda v: hex_bytes(v, 20), lambda b: "0x" + b.hex())


def raw(nbytes: int) -> Codec:
    return Codec(lambda v: hex_bytes(v, nbytes), lambda s: "0x" + s.take(nbytes).hex())


def read_bool(source: Source) -> bool:
    value = U8.read(source)
    if value > 1:
        raise MalformedError(f"bool {value}")
    return bool(value)


BOOL = Codec(lambda v: bytes([1 if v else 0]), read_bool)


def option(inner: Codec) -> Codec:
    def read(source: Source) -> Any:
        tag = U8.read(source)
        if tag > 1:
            raise MalformedError(f"option tag {tag}")
        return inner.read(source) if tag else None

    return Codec(lambda v: b"\0" if v is None else b"\1" + inner.write(v), read)


def vector(inner: Codec) -> Codec:
    def read(source: Source) -> list[Any]:
        count = U64.read(source)
        if count > len(source.data) - source.at:
            raise MalformedError("vec length")
        return [inner.read(source) for _ in range(count)]

    return Codec(lambda v: U64.write(len(v)) + b"".join(inner.write(i) for i in v), read)


def array(inner: Codec, count: int) -> Codec:
    return Codec(
        lambda v: b"".join(inner.write(i) for i in v),
        lambda s: [inner.read(s) for _ in range(count)],
    )


def read_text(source: Source) -> str:
    length = U64.read(source)
    if length > len(source.data) - source.at:
        raise MalformedError("string length")
    data: bytes = source.take(length)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError("utf8") from error


TEXT = Codec(lambda v: U64.write(len(v.encode())) + v.encode(), read_text)


def struct(**fields: Codec) -> Codec:
    return Codec(
        lambda v: b"".join(codec.write(v[name]) for name, codec in fields.items()),
        lambda s: {name: codec.read(s) for name, codec in fields.items()},
    )


def names(*variants: str) -> Codec:
    """An enum without fields."""

    def read(source: Source) -> str:
        index: int = U32.read(source)
        if index >= len(variants):
            raise MalformedError(f"variant {index}")
        return variants[index]

    return Codec(lambda v: U32.write(variants.index(v)), read)


def tagged(variants: dict[int, tuple[str, Codec]]) -> Codec:
    """An enum with fields; {"type": name, ...fields}."""
    indices = {name: index for index, (name, _) in variants.items()}

    def write(value: Message) -> bytes:
        index = indices[value["type"]]
        return U32.write(index) + variants[index][1].write(value)

    def read(source: Source) -> Message:
        index = U32.read(source)
        if index not in variants:
            raise MalformedError(f"variant {index}")
        name, codec = variants[index]
        return {"type": name, **codec.read(source)}

    return Codec(write, read)


# ---- exex g05..g15 -------------------------------------------------------------------------------

POOL_ID = tagged({0: ("Address", struct(value=ADDRESS)), 1: ("PoolId", struct(value=raw(32)))})
SLOT0 = {"sqrt_price_x96": U256, "liquidity": U128, "tick": I32}
RANGE = {"tick_lower": I32, "tick_upper": I32, "liquidity_delta": I128}
AMOUNTS = {"amount0": I256, "amount1": I256}
RESERVES = {"reserve0": U128, "reserve1": U128}
EKUBO_SLOT0 = {"sqrt_ratio": U256, "liquidity": U128, "tick": I32}
COIN_SWAP = {"sold_id": U8, "tokens_sold": U128, "bought_id": U8, "tokens_bought": U128}
CRYPTO_SWAP = {**COIN_SWAP, "packed_price_scale": U256, "d": U256}
CURVE_FULL = dict.fromkeys(
    ("fee", "offpeg_fee_multiplier", "initial_a", "future_a", "initial_a_time", "future_a_time"),
    U64,
)
RAMP = {"initial_a": U64, "future_a": U64, "initial_a_time": U64, "future_a_time": U64}
RAMP_GAMMA = {
    "initial_a": U64,
    "future_a": U64,
    "initial_gamma": U128,
    "future_gamma": U128,
    "initial_time": U64,
    "future_time": U64,
}
NEW_PARAMETERS = {"mid_fee": U64, "out_fee": U64, "fee_gamma": U128}
FLUID = dict.fromkeys(
    (
        "col_token0_real",
        "col_token1_real",
        "col_token0_imaginary",
        "col_token1_imaginary",
        "debt_token0_real",
        "debt_token1_real",
        "debt_token0_imaginary",
        "debt_token1_imaginary",
        "center_price",
        "fee",
    ),
    U128,
)
TWO_STATE = {"balances": array(U128, 2), "price_scale": U256, "d": U256}
TRI_STATE = {"balances": array(U128, 3), "packed_price_scale": U256, "d": U256}
BALANCER_SWAP = {
    "token_in": ADDRESS,
    "token_out": ADDRESS,
    "amount_in": U256,
    "amount_out": U256,
}
FLUID_STATE = {"state": struct(**FLUID)}

Body = tuple[str, dict[str, Codec]]


def protocols(generation: int) -> tuple[str, ...]:
    found = ["UniswapV2", "UniswapV3", "UniswapV4"]
    if generation >= 6:
        found.append("Ekubo")
    if generation >= 8:
        found += ["CurveStable", "CurveTwoCrypto"]
    if generation >= 10:
        found += ["CurveTricrypto", "BalancerV2Weighted"]
    if generation >= 9:
        found.append("Fluid")
    return tuple(found)


def updates(generation: int) -> list[Body]:
    """Update variants of one generation in declaration order."""
    g = generation
    bodies: list[Body] = [
        ("V2Swap", AMOUNTS),
        ("V2Liquidity", AMOUNTS),
        ("V3Swap", SLOT0),
        ("V3Liquidity", RANGE),
        ("V4Swap", SLOT0),
        ("V4Liquidity", RANGE),
    ]
    if g >= 6:
        bodies += [("EkuboSwap", EKUBO_SLOT0), ("EkuboLiquidity", {**RANGE, **EKUBO_SLOT0})]
    if g >= 8:
        full = CURVE_FULL if g >= 11 else {}
        bodies += [
            ("CurveSwap", COIN_SWAP),
            ("CurveLiquidity", {"effective_balances": vector(U128), **full}),
            ("CurveRampA", RAMP),
            ("CurveFeeUpdate", {"fee": U64, "offpeg_fee_multiplier": U64}),
        ]
        if g >= 13:
            bodies.append(("TwoCryptoState", TWO_STATE))
        else:
            short: dict[str, Codec] = {"balances": array(U128, 2)}
            bodies += [
                ("TwoCryptoSwap", CRYPTO_SWAP),
                ("TwoCryptoLiquidity", TWO_STATE if g >= 11 else short),
            ]
        bodies += [("TwoCryptoRampAgamma", RAMP_GAMMA), ("TwoCryptoNewParameters", NEW_PARAMETERS)]
    if g >= 10:
        if g >= 13:
            bodies.append(("TricryptoState", TRI_STATE))
        else:
            short = {"balances": array(U128, 3)}
            bodies += [
                ("TricryptoSwap", CRYPTO_SWAP),
                ("TricryptoLiquidity", TRI_STATE if g >= 11 else short),
            ]
        bodies += [("TricryptoRampAgamma", RAMP_GAMMA), ("TricryptoNewParameters", NEW_PARAMETERS)]
        tokens: dict[str, Codec] = {"tokens": vector(ADDRESS)} if g >= 14 else {}
        bodies += [
            ("BalancerSwap", BALANCER_SWAP),
            ("BalancerLiquidity", {**tokens, "deltas": vector(I128)}),
            ("BalancerFeeUpdate", {"swap_fee_percentage": U64}),
        ]
    if 7 <= g <= 11:
        bodies.append(("Slot0Override", SLOT0))
    if 9 <= g <= 11:
        bodies.append(("FluidSwap", FLUID))
    if g >= 12:
        bodies.append(("FluidState", FLUID_STATE))
    if g >= 15:
        bodies.append(("V2Sync", RESERVES))
    return bodies


def fits_protocol(update: str, protocol: str) -> bool:
    """Whether a protocol can send this update."""
    if update == "Slot0Override":
        return protocol in ("UniswapV3", "UniswapV4", "Ekubo")
    for prefix, name in (
        ("V2", "UniswapV2"),
        ("V3", "UniswapV3"),
        ("V4", "UniswapV4"),
        ("Ekubo", "Ekubo"),
        ("Curve", "CurveStable"),
        ("TwoCrypto", "CurveTwoCrypto"),
        ("Tricrypto", "CurveTricrypto"),
        ("Balancer", "BalancerV2Weighted"),
        ("Fluid", "Fluid"),
    ):
        if update.startswith(prefix):
            return protocol == name
    raise AssertionError(update)


UPDATE_TYPE = names("Swap", "Mint", "Burn")
BLOCK_RANGE = struct(first_block=option(U64), last_block=option(U64), block_count=U64)


def exex(generation: int) -> Codec:
    """Every message of one generation, UpdateWhitelist excepted."""
    g = generation
    protocol = names(*protocols(g))
    bodies = updates(g)
    event = struct(
        pool_id=POOL_ID,
        protocol=protocol,
        update_type=UPDATE_TYPE,
        block_number=U64,
        block_timestamp=U64,
        tx_index=U64,
        log_index=U64,
        is_revert=BOOL,
        update=tagged({i: (name, struct(**body)) for i, (name, body) in enumerate(bodies)}),
    )
    base_fee = {"base_fee_per_gas": U64} if g >= 7 else {}
    resync = {"slot0_resync_required": vector(POOL_ID)} if g <= 9 else {}
    epilogues = {
        0: ("Slot0Final", struct(pool_id=POOL_ID, protocol=protocol, state=struct(**SLOT0))),
        1: ("FluidStateFinal", struct(pool_id=POOL_ID, **FLUID_STATE)),
    }
    if g >= 15:
        epilogues[2] = ("V2ReservesFinal", struct(pool_id=POOL_ID, **RESERVES))
    begin = {"stream_seq": U64, "block_number": U64, "block_timestamp": U64, **base_fee}
    late = {"stream_seq": U64, "final_tip_block": U64}
    complete = ("ReorgComplete", struct(**late, **resync))
    variants: dict[int, tuple[str, Codec]] = {
        1: ("BeginBlock", struct(**begin, is_revert=BOOL)),
        2: ("PoolUpdate", struct(stream_seq=U64, event=event)),
        3: ("EndBlock", struct(stream_seq=U64, block_number=U64, num_updates=U64)),
        4: ("Ping", struct()),
        5: ("Pong", struct()),
        6: ("ReorgStart", struct(stream_seq=U64, old_range=BLOCK_RANGE, new_range=BLOCK_RANGE)),
    }
    if g >= 12:
        variants[7] = (
            "ReorgEpilogue",
            struct(**late, final_tip_timestamp=U64, update=tagged(epilogues)),
        )
        variants[8] = complete
    else:
        variants[7] = complete
    return tagged(variants)


EXEX = {generation: exex(generation) for generation in GENERATIONS}

# ---- seed ----------------------------------------------------------------------------------------

POOL_EVENT = struct(
    block_number=U64,
    transaction_index=U32,
    log_index=U32,
    pool_address=raw(20),
    pool_id=option(raw(32)),
    protocol=TEXT,
    event_type=TEXT,
    sqrt_price_x96=option(U256),
    tick=option(I32),
    liquidity=option(U128),
    tick_lower=option(I32),
    tick_upper=option(I32),
    liquidity_delta=option(I128),
    amount0=I128,
    amount1=I128,
    is_revert=BOOL,
)
SEED = {
    "BeginBlock": struct(block_number=U64, is_revert=BOOL),
    "PoolUpdate": struct(event=POOL_EVENT),
    "EndBlock": struct(block_number=U64, num_updates=U64),
}
SEED_INDEXED = tagged({i: (name, codec) for i, (name, codec) in enumerate(SEED.items())})


def read_seed_tagged(source: Source) -> Message:
    tag = TEXT.read(source)
    if tag not in SEED:
        raise MalformedError(f"tag {tag}")
    return {"type": tag, **SEED[tag].read(source)}


SEED_TAGGED = Codec(lambda v: TEXT.write(v["type"]) + SEED[v["type"]].write(v), read_seed_tagged)

# ---- whole payloads and streams ------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A JSON value with decimal strings turned into int where the golden files may use either."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, str) and value.lstrip("-").isdigit():
        return int(value)
    return value


def codec_of(dialect: str) -> Codec:
    """`seed_tagged`, `seed_indexed`, or `g05` .. `g15`."""
    if dialect == "seed_tagged":
        return SEED_TAGGED
    if dialect == "seed_indexed":
        return SEED_INDEXED
    return EXEX[int(dialect[1:])]


def encode(message: Message, dialect: str) -> bytes:
    """Payload of one message."""
    return codec_of(dialect).write(message)


def frame(payload: bytes) -> bytes:
    return U32.write(len(payload)) + payload


def read_whole(codec: Codec, payload: bytes) -> Message:
    source = Source(payload)
    message: Message = codec.read(source)
    source.end()
    return message


def decode_exex(payload: bytes) -> Message:
    """A payload as the generations g05..g15 that accept it agree to read it."""
    if payload[:4] == b"\0\0\0\0":
        if len(payload) < 28:
            raise MalformedError("UpdateWhitelist shorter than 28 bytes")
        return {"type": "UpdateWhitelist"}
    meanings: list[Message] = []
    reason = MalformedError("nobody accepts it")
    for codec in EXEX.values():
        try:
            message = read_whole(codec, payload)
        except MalformedError as error:
            reason = error
            continue
        event = message.get("event")
        if event and not fits_protocol(event["update"]["type"], event["protocol"]):
            continue
        if message not in meanings:
            meanings.append(message)
    if not meanings:
        raise reason
    assert len(meanings) == 1, meanings
    return meanings[0]


def decode(payload: bytes, family: str) -> Message:
    """Meaning of a payload in `seed_tagged`, `seed_indexed` or `exex`; MalformedError otherwise."""
    if family == "exex":
        return decode_exex(payload)
    return read_whole(codec_of(family), payload)


def frames(stream: bytes) -> Iterator[bytes]:
    """Whole payloads until bytes run out; MalformedError at a length outside 1..cap."""
    at = 0
    while len(stream) - at >= 4:
        length = int.from_bytes(stream[at : at + 4], "little")
        if not 1 <= length <= FRAME_CAP:
            raise MalformedError(f"length {length}")
        if len(stream) - at - 4 < length:
            return
        yield stream[at + 4 : at + 4 + length]
        at += 4 + length


# ---- finding the family --------------------------------------------------------------------------

G01_EVENT = struct(
    pool_id=POOL_ID,
    protocol=names("UniswapV2", "UniswapV3", "UniswapV4"),
    update_type=UPDATE_TYPE,
    block_number=U64,
    block_timestamp=U64,
    tx_index=U64,
    log_index=U64,
    update=tagged(
        {
            0: ("V2Reserves", struct(reserve0=U256, reserve1=U256)),
            1: ("V3Swap", struct(**SLOT0)),
            2: ("V3Liquidity", struct(**RANGE)),
            3: ("V4Swap", struct(**SLOT0)),
            4: ("V4Liquidity", struct(**RANGE)),
        }
    ),
)
G01 = tagged({1: ("PoolUpdate", struct(event=G01_EVENT))})


def find_family(payload: bytes) -> str | None:
    """The family a frame before the first BeginBlock decides, or None.

    A BeginBlock decides by its length and first bytes; so does a reorg message of exex, which also
    ends the start. RefusedError for g01..g04; MalformedError for bytes that begin no message of any
    family.
    """
    if len(payload) < 4:
        raise MalformedError("too short")
    index = int.from_bytes(payload[:4], "little")
    length = len(payload)
    if length == 27 and payload[:18] == U64.write(10) + b"BeginBlock":
        return "seed_tagged"
    if (length, index) == (13, 0):
        return "seed_indexed"
    if length in (29, 37) and index == 1:
        return "exex"
    if (length, index) in ((21, 1), (29, 6)):
        raise RefusedError
    try:
        read_whole(G01, payload)
    except MalformedError:
        pass
    else:
        raise RefusedError
    if index > 10:
        raise MalformedError(f"index {index}")
    try:
        message = decode_exex(payload)
    except MalformedError:
        return None
    return "exex" if message["type"] in ("ReorgStart", "ReorgComplete") else None


# ---- the consumer --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    frame: int
    error: str  # class name
    resync: bool
    lost: tuple[int, bool] | None = None  # block number, is_revert


@dataclass
class Consumer:
    """One connection by the rules of the consumer state machine; feed it payloads in order."""

    family: str | None = None
    state: str = "start"
    reorg_open: bool = False
    reorg_seen: bool = False
    last_seq: int | None = None
    count: int = 0
    begin: Message = field(default_factory=dict)
    block: list[Message] = field(default_factory=list)
    units: list[tuple[str, list[Message]]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    dead: bool = False

    def run(self, stream: bytes) -> None:
        """All whole frames of `stream`; stops at the first that kills the connection."""
        try:
            for payload in frames(stream):
                self.frame(payload)
                if self.dead:
                    return
        except MalformedError:
            self.die("Deserialization")

    def open_block(self) -> tuple[int, bool] | None:
        if self.state != "in block":
            return None
        return self.begin["block_number"], self.begin["is_revert"]

    def die(self, error: str) -> None:
        self.faults.append(Fault(self.count, error, True, self.open_block()))
        self.count += 1
        self.dead = True
        self.block = []

    def invalid(self, *, resync: bool = True, lost: tuple[int, bool] | None = None) -> None:
        self.faults.append(
            Fault(self.count, "InvalidMessage", resync, lost if lost else self.open_block())
        )

    def frame(self, payload: bytes) -> None:
        try:
            if self.state == "start" and self.family in (None, "exex"):
                found = find_family(payload)
                self.family = self.family or found
            if self.family is None:
                self.count += 1
                return
            message = decode(payload, self.family)
        except RefusedError:
            self.die("UnsupportedGeneration")
            return
        except MalformedError:
            self.die("Deserialization")
            return
        if message["type"] not in ("Ping", "Pong", "UpdateWhitelist"):
            self.message(message)
        self.count += 1

    def message(self, message: Message) -> None:
        seq = message.get("stream_seq")
        if seq is not None:
            expected = None if self.last_seq is None else (self.last_seq + 1) % 2**64
            if self.state != "start" and expected is not None and seq != expected:
                self.invalid()
                self.state = "skip"
            self.last_seq = seq
        name = {
            "BeginBlock": self.on_begin,
            "PoolUpdate": self.on_update,
            "EndBlock": self.on_end,
            "ReorgStart": self.on_reorg_start,
            "ReorgEpilogue": self.on_epilogue,
            "ReorgComplete": self.on_reorg_complete,
        }
        name[message["type"]](message)

    def on_begin(self, message: Message) -> None:
        if self.state == "in block":
            self.invalid()
        self.state, self.begin, self.block = "in block", message, []

    def on_update(self, message: Message) -> None:
        event = message["event"]
        if self.state == "idle":
            is_late = event.get("update", {}).get("type") in ("Slot0Override", "FluidSwap")
            if self.reorg_open and is_late:
                self.units.append(("late", [message]))
                return
            self.invalid(lost=(event["block_number"], event["is_revert"]))
            self.state = "skip"
        elif self.state == "in block":
            if (event["block_number"], event["is_revert"]) == self.open_block():
                self.block.append(message)
            else:
                self.invalid()
                self.state = "skip"

    def on_end(self, message: Message) -> None:
        if self.state == "start":
            return
        if self.state == "idle":
            self.invalid()
        elif self.state == "in block":
            received = (self.begin["block_number"], len(self.block))
            if (message["block_number"], message["num_updates"]) == received:
                self.units.append(("block", [self.begin, *self.block, message]))
            else:
                self.invalid()
        self.state = "idle"

    def on_reorg_start(self, message: Message) -> None:
        if self.state == "in block":
            self.invalid()
        if self.state != "skip":
            self.state = "idle"
        self.reorg_open = True
        self.units.append(("reorg start", [message]))

    def is_outside_reorg(self) -> bool:
        return self.reorg_seen and not self.reorg_open

    def on_epilogue(self, message: Message) -> None:
        if self.state == "in block":
            self.invalid()
            self.state = "skip"
        elif self.state != "start":
            if self.state == "idle" and self.is_outside_reorg():
                self.invalid(resync=False)
            self.units.append(("epilogue", [message]))

    def on_reorg_complete(self, message: Message) -> None:
        if self.state == "in block":
            self.invalid()
            self.state = "skip"
            return
        if self.state == "idle" and self.is_outside_reorg():
            self.invalid(resync=False)
        if self.state == "start":
            self.state = "idle"
        self.reorg_open, self.reorg_seen = False, True
        self.units.append(("reorg complete", [message]))


# ---- records -------------------------------------------------------------------------------------

PROTOCOL_NUMBERS = {name: number for number, name in enumerate(protocols(10))}
UPDATE_TYPES = {"Swap": 0, "Mint": 1, "Burn": 2}
SLOT0_OVERRIDE_VARIANTS = {7: 8, 8: 16, 9: 16, 10: 23, 11: 23}
SEED_OPTIONS = (
    "pool_id",
    "sqrt_price_x96",
    "tick",
    "liquidity",
    "tick_lower",
    "tick_upper",
    "liquidity_delta",
)
IS_REVERT, IN_BLOCK, V4_MODIFY, HAS_BASE_FEE, OPAQUE, LATE_BODY = 1, 2, 4, 8, 16, 32


@dataclass
class Expected:
    """What a record must hold. `payload_at` names the field of an opaque record's slice."""

    fields: dict[str, Any]
    payload_at: str | None = None


def limbs(value: int, count: int) -> list[int]:
    value %= 1 << (64 * count)
    return [(value >> (64 * i)) & (2**64 - 1) for i in range(count)]


def key_fields(pool_id: Message) -> dict[str, Any]:
    data = bytes.fromhex(pool_id["value"][2:])
    return {"key": data.ljust(32, b"\0"), "key_nbytes": len(data)}


def slot0_fields(state: Message) -> dict[str, Any]:
    return {
        "words": limbs(state["sqrt_price_x96"], 4) + [0] * 4,
        "amount": limbs(state["liquidity"], 2),
        "tick": state["tick"],
    }


def reserve_fields(state: Message) -> dict[str, Any]:
    return {"words": [*limbs(state["reserve0"], 4), *limbs(state["reserve1"], 4)]}


def opaque(fields: dict[str, Any]) -> Expected:
    fields["flags"] = fields.get("flags", 0) | OPAQUE
    fields.pop("words", None)
    return Expected(fields, "words")


def exex_update_record(message: Message, *, in_block: bool, variant: int) -> Expected:
    event = message["event"]
    update = event["update"]
    name = update["type"]
    fields: dict[str, Any] = {
        "block_number": event["block_number"],
        "stream_seq": message["stream_seq"],
        "tx_index": event["tx_index"],
        "log_index": event["log_index"],
        "timestamp": event["block_timestamp"],
        "protocol": PROTOCOL_NUMBERS[event["protocol"]],
        "update_type": UPDATE_TYPES[event["update_type"]],
        "flags": IS_REVERT * event["is_revert"] | IN_BLOCK * in_block,
        "variant": variant,
        **key_fields(event["pool_id"]),
    }
    if name == "V2Sync":
        return Expected({**fields, "kind": 16, **reserve_fields(update)})
    if name in ("V2Swap", "V2Liquidity"):
        words = [*limbs(update["amount0"], 4), *limbs(update["amount1"], 4)]
        return Expected({**fields, "kind": 17, "words": words})
    if name in ("V3Swap", "V4Swap"):
        return Expected({**fields, "kind": 18, **slot0_fields(update)})
    if name in ("V3Liquidity", "V4Liquidity"):
        body = {
            "tick_lower": update["tick_lower"],
            "tick_upper": update["tick_upper"],
            "amount": limbs(update["liquidity_delta"], 2),
        }
        return Expected({**fields, "kind": 19, **body})
    if name == "Slot0Override" and event["protocol"] != "Ekubo":
        return Expected({**fields, "kind": 20, **slot0_fields(update)})
    return opaque({**fields, "kind": 22})


def exex_epilogue_record(message: Message) -> Expected:
    update = message["update"]
    name = update["type"]
    fields = {
        "block_number": message["final_tip_block"],
        "stream_seq": message["stream_seq"],
        "timestamp": message["final_tip_timestamp"],
        "variant": ("Slot0Final", "FluidStateFinal", "V2ReservesFinal").index(name),
        **key_fields(update["pool_id"]),
    }
    if name == "V2ReservesFinal":
        return Expected({**fields, "kind": 21, "protocol": 0, **reserve_fields(update)})
    if name == "FluidStateFinal":
        return opaque({**fields, "kind": 22, "protocol": 8, "flags": LATE_BODY})
    fields["protocol"] = PROTOCOL_NUMBERS[update["protocol"]]
    if update["protocol"] in ("UniswapV3", "UniswapV4"):
        return Expected({**fields, "kind": 20, **slot0_fields(update["state"])})
    return opaque({**fields, "kind": 22, "flags": LATE_BODY})


def range_words(value: Message) -> list[int]:
    return [value["first_block"] or 0, value["last_block"] or 0, value["block_count"]]


def seed_kind(event: Message) -> int:
    protocol, name = event["protocol"], event["event_type"]
    allowed = {
        "uniswap_v2": ("Swap", "Mint", "Burn"),
        "uniswap_v3": ("Swap", "Mint", "Burn"),
        "uniswap_v4": ("Swap", "ModifyLiquidity"),
    }
    if name not in allowed.get(protocol, ()):
        return 22
    if protocol == "uniswap_v2":
        return 17
    needed = ["sqrt_price_x96", "tick", "liquidity"]
    if name != "Swap":
        needed = ["tick_lower", "tick_upper", "liquidity_delta"]
    if protocol == "uniswap_v4":
        needed.append("pool_id")
    if any(event[option_name] is None for option_name in needed):
        return 23
    return 18 if name == "Swap" else 19


def seed_update_record(message: Message) -> Expected:
    event = message["event"]
    protocol, name, kind = event["protocol"], event["event_type"], seed_kind(event)
    numbers = {"uniswap_v2": 0, "uniswap_v3": 1, "uniswap_v4": 2}
    is_modify = name == "ModifyLiquidity"
    update_type = UPDATE_TYPES.get(name, 255)
    if is_modify:
        update_type = 1 if (event["liquidity_delta"] or 0) > 0 else 2
    if kind == 22 and protocol in numbers:
        update_type = 255
    has_id = event["pool_id"] is not None and protocol not in ("uniswap_v2", "uniswap_v3")
    address = bytes.fromhex(event["pool_address"][2:])
    key = bytes.fromhex(event["pool_id"][2:]) if has_id else address
    fields: dict[str, Any] = {
        "kind": kind,
        "block_number": event["block_number"],
        "tx_index": event["transaction_index"],
        "log_index": event["log_index"],
        "protocol": numbers.get(protocol, 255),
        "update_type": update_type,
        "flags": IS_REVERT * event["is_revert"] | IN_BLOCK | V4_MODIFY * is_modify,
        "present": sum(1 << i for i, n in enumerate(SEED_OPTIONS) if event[n] is not None),
        "key": key.ljust(32, b"\0"),
        "key_nbytes": len(key),
        "address": address,
    }
    if kind in (22, 23):
        return opaque(fields)
    for name_ in ("tick", "tick_lower", "tick_upper"):
        fields[name_] = event[name_] or 0
    liquidity, delta = event["liquidity"], event["liquidity_delta"]
    first, second = (delta, liquidity) if kind == 19 else (liquidity, delta)
    fields["amount"] = limbs(first if first is not None else second or 0, 2)
    if protocol == "uniswap_v2":
        fields["words"] = [*limbs(event["amount0"], 4), *limbs(event["amount1"], 4)]
        unkept = event["pool_id"] is not None or event["sqrt_price_x96"] is not None
    else:
        price = limbs(event["sqrt_price_x96"] or 0, 4)
        fields["words"] = [*price, *limbs(event["amount0"], 2), *limbs(event["amount1"], 2)]
        unkept = protocol == "uniswap_v3" and event["pool_id"] is not None
    if unkept or (liquidity is not None and delta is not None):
        fields["flags"] |= OPAQUE
        return Expected(fields, "stream_seq")
    return Expected(fields)


def records(
    unit: tuple[str, list[Message]], variant_of: Callable[[Message], int]
) -> list[Expected]:
    """Records of one unit; `variant_of` gives the wire index of an exex update's variant."""
    found: list[Expected] = []
    begin: Message = {}
    for message in unit[1]:
        name = message["type"]
        seq = {"stream_seq": message.get("stream_seq", 0)}
        if name == "BeginBlock":
            begin = message
            fee = message.get("base_fee_per_gas")
            flags = IS_REVERT * message["is_revert"] | HAS_BASE_FEE * (fee is not None)
            found.append(
                Expected(
                    {
                        **seq,
                        "kind": 1,
                        "block_number": message["block_number"],
                        "timestamp": message.get("block_timestamp", 0),
                        "flags": flags,
                        "words": [fee or 0] + [0] * 7,
                    }
                )
            )
        elif name == "EndBlock":
            words = [message["num_updates"]] + [0] * 7
            flags = IS_REVERT * begin["is_revert"]
            number = message["block_number"]
            found.append(
                Expected({**seq, "kind": 2, "block_number": number, "flags": flags, "words": words})
            )
        elif name == "PoolUpdate" and "update" in message["event"]:
            found.append(
                exex_update_record(
                    message, in_block=unit[0] == "block", variant=variant_of(message)
                )
            )
        elif name == "PoolUpdate":
            found.append(seed_update_record(message))
        elif name == "ReorgEpilogue":
            found.append(exex_epilogue_record(message))
        elif name == "ReorgStart":
            old, new = message["old_range"], message["new_range"]
            ends = (old["first_block"], old["last_block"], new["first_block"], new["last_block"])
            present = sum(1 << i for i, end in enumerate(ends) if end is not None)
            words = [*range_words(old), *range_words(new), 0, 0]
            found.append(Expected({**seq, "kind": 3, "present": present, "words": words}))
        else:
            tip = {"block_number": message["final_tip_block"]}
            pools = message.get("slot0_resync_required", [])
            found += [
                Expected({**seq, **tip, "kind": 5, "protocol": 255, **key_fields(pool)})
                for pool in pools
            ]
            found.append(Expected({**seq, **tip, "kind": 4, "words": [len(pools)] + [0] * 7}))
    return found


def seed_family(dialect: str) -> str:
    return dialect if dialect.startswith("seed") else "exex"


def stream_of(messages: Iterable[Message], dialect: str) -> bytes:
    return b"".join(frame(encode(message, dialect)) for message in messages)
