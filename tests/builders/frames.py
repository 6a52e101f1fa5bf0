"""Blocks of recorded events as frames of the event stream; pure struct, nothing of the product.

Only what the tests send: the `exex` dialect of generation 15 (optionally with the V2 deltas of
generations 3 to 14), the bridge's form of it, and both taggings of the `seed` dialect. A frame is a
little-endian u32 length and that many payload bytes.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chains.evm_data import Block, Chain, Event, Reorg, State
from oracle.chain_oracle import liquidity_delta, v2_delta

I128_MIN, I128_MAX = -(2**127), 2**127 - 1
Order = Literal["newest-first", "oldest-first"]
_PROTOCOL_INDEX = {"uniswap_v2": 0, "uniswap_v3": 1, "uniswap_v4": 2}
_SWAP, _MINT, _BURN = 0, 1, 2


def frame(payload: bytes) -> bytes:
    return struct.pack("<I", len(payload)) + payload


def u256(value: int) -> bytes:
    """Length 32, then big-endian."""
    return struct.pack("<Q", 32) + value.to_bytes(32, "big")


def i256(value: int) -> bytes:
    return struct.pack("<Q", 32) + value.to_bytes(32, "big", signed=True)


def u128(value: int) -> bytes:
    return value.to_bytes(16, "little")


def i128(value: int) -> bytes:
    """Clamped, as the producer does with values beyond."""
    return min(max(value, I128_MIN), I128_MAX).to_bytes(16, "little", signed=True)


def raw(key: str) -> bytes:
    return bytes.fromhex(key[2:])


class _Dialect(ABC):
    """Whole blocks out of a dialect's frames, with the events of the `tracked` pools, None for all."""

    def __init__(self, tracked: set[str] | None) -> None:
        self.tracked = tracked

    @abstractmethod
    def _begin_block(self, block: Block, *, is_revert: bool) -> bytes: ...

    @abstractmethod
    def update(self, event: Event, block: Block, *, is_revert: bool = False) -> bytes | None: ...

    @abstractmethod
    def end(self, number: int, updates: int) -> bytes: ...

    def block(self, block: Block) -> bytes:
        """BeginBlock, the updates in order, EndBlock; empty blocks too."""
        return self._envelope(block, block.events, is_revert=False)

    def reverted_block(self, block: Block, order: Order) -> bytes:
        """The block as a revert: payloads not negated, newest event first if `order` says so."""
        events = block.events if order == "oldest-first" else block.events[::-1]
        return self._envelope(block, events, is_revert=True)

    def _envelope(self, block: Block, events: Iterable[Event], *, is_revert: bool) -> bytes:
        out = [self._begin_block(block, is_revert=is_revert)]
        for event in events:
            update = self.update(event, block, is_revert=is_revert)
            if update is not None:
                out.append(update)
        out.append(self.end(block.number, len(out) - 1))
        return b"".join(out)

    def bare_reorg(self, old: Sequence[Block], new: Sequence[Block], order: Order) -> list[bytes]:
        """Reverted blocks, then new ones, each as bytes of its own; no envelope, no epilogues."""
        reverted = old if order == "oldest-first" else old[::-1]
        out = [self.reverted_block(block, order) for block in reverted]
        return out + [self.block(block) for block in new]


class Exex(_Dialect):
    """Frames of the exex dialect, with one running stream_seq.

    `v2_deltas` sends signed V2Swap and V2Liquidity, also in reverted blocks, instead of one V2Sync
    for each Sync log. `base_fee` stands in every BeginBlock. Only events of the `tracked` pools
    are sent; None sends all. `is_bridge`: other message indices, and the fees of V4.
    """

    def __init__(
        self,
        *,
        first_seq: int = 1,
        base_fee: int = 0,
        v2_deltas: bool = False,
        tracked: set[str] | None = None,
        is_bridge: bool = False,
    ) -> None:
        super().__init__(tracked)
        self.is_bridge = is_bridge
        self.next_seq = first_seq
        self.base_fee = base_fee
        self.v2_deltas = v2_deltas

    def _frame(self, payload: bytes) -> bytes:
        return frame(payload[:1] + b"PSA" + payload[4:] if self.is_bridge else payload)

    def _seq(self) -> int:
        seq = self.next_seq
        self.next_seq = (seq + 1) % 2**64
        return seq

    def begin(self, number: int, timestamp: int, *, is_revert: bool = False) -> bytes:
        fields = (1, self._seq(), number, timestamp, self.base_fee, is_revert)
        return self._frame(struct.pack("<IQQQQ?", *fields))

    def end(self, number: int, updates: int) -> bytes:
        return self._frame(struct.pack("<IQQQ", 3, self._seq(), number, updates))

    def update(self, event: Event, block: Block, *, is_revert: bool = False) -> bytes | None:
        """The frame of one event, or None for an event that has none (V2 Swap, Initialize)."""
        if self.tracked is not None and event.pool not in self.tracked:
            return None
        body = self._body(event, is_revert=is_revert)
        if body is None:
            return None
        update_type, variant, fields = body
        head = struct.pack("<IQ", 2, self._seq()) + _identifier(event.pool)
        head += struct.pack(
            "<IIQQQQ?I",
            _PROTOCOL_INDEX[event.protocol],
            update_type,
            block.number,
            block.timestamp,
            event.tx_index,
            event.log_index,
            is_revert,
            variant,
        )
        return self._frame(head + fields)

    def _body(self, event: Event, *, is_revert: bool) -> tuple[int, int, bytes] | None:
        """(update_type, update variant, body)."""
        args = event.args
        if event.protocol == "uniswap_v2":
            return self._v2_body(event, is_revert=is_revert)
        is_v4 = event.protocol == "uniswap_v4"
        if event.kind == "ProtocolFeeUpdated":
            return (_SWAP, 26, struct.pack("<I", args["protocolFee"])) if self.is_bridge else None
        if event.kind == "Swap":
            if self.is_bridge and is_v4 and (args["amount0"] < 0) != (args["amount1"] < 0):
                paid = struct.pack("<I?", args["fee"], args["amount0"] < 0)
                return _SWAP, 25, _slot0(args) + paid
            return _SWAP, 4 if is_v4 else 2, _slot0(event.args)
        delta = liquidity_delta(event)
        if delta is None:
            return None
        is_mint = delta > 0 if is_v4 else event.kind == "Mint"
        ticks = struct.pack("<ii", args["tickLower"], args["tickUpper"])
        return _MINT if is_mint else _BURN, 5 if is_v4 else 3, ticks + i128(delta)

    def _v2_body(self, event: Event, *, is_revert: bool) -> tuple[int, int, bytes] | None:
        if not self.v2_deltas:
            if event.kind != "Sync" or is_revert:
                return None
            return _SWAP, 22, u128(event.args["reserve0"]) + u128(event.args["reserve1"])
        if event.kind == "Sync":
            return None
        delta0, delta1 = v2_delta(event)
        update_type = {"Swap": _SWAP, "Mint": _MINT, "Burn": _BURN}[event.kind]
        return update_type, 0 if event.kind == "Swap" else 1, i256(delta0) + i256(delta1)

    def _begin_block(self, block: Block, *, is_revert: bool) -> bytes:
        return self.begin(block.number, block.timestamp, is_revert=is_revert)

    def reorg_start(self, old: Sequence[Block], new: Sequence[Block]) -> bytes:
        return self._frame(struct.pack("<IQ", 6, self._seq()) + _range(old) + _range(new))

    def reorg_complete(self, tip: int) -> bytes:
        return self._frame(struct.pack("<IQQ", 8, self._seq(), tip))

    def slot0_final(self, event: Event, state: State, tip: int) -> bytes:
        head = struct.pack("<IQQQI", 7, self._seq(), tip, 0, 0) + _identifier(event.pool)
        return self._frame(
            head + struct.pack("<I", _PROTOCOL_INDEX[event.protocol]) + _slot0(state)
        )

    def v2_reserves_final(self, pool: str, state: State, tip: int) -> bytes:
        head = struct.pack("<IQQQI", 7, self._seq(), tip, 0, 2) + _identifier(pool)
        return self._frame(head + u128(state["reserve0"]) + u128(state["reserve1"]))

    def reorg(
        self, old: Sequence[Block], new: Sequence[Block], final: dict[str, State], order: Order
    ) -> bytes:
        """A whole reorg envelope. `old` and `new` are oldest first; `new` may be empty.

        `final` is the true state at the new tip: each V2 pool touched by `old` gets its reserves
        and each V3 or V4 pool with a swap in `old` its slot 0, unless it does not exist there.
        """
        tip = new[-1].number if new else old[0].number - 1
        out = [self.reorg_start(old, new)]
        for block in old if order == "oldest-first" else reversed(old):
            out.append(self.reverted_block(block, order))
        out += [self.block(block) for block in new]
        touched = {event.pool: event for block in old for event in block.events}
        swapped = {e.pool for block in old for e in block.events if e.kind == "Swap"}
        for key, event in touched.items():
            if key not in final or (self.tracked is not None and key not in self.tracked):
                continue
            if event.protocol == "uniswap_v2" and not self.v2_deltas:
                out.append(self.v2_reserves_final(key, final[key], tip))
        for key, event in touched.items():
            if key not in final or (self.tracked is not None and key not in self.tracked):
                continue
            if event.protocol != "uniswap_v2" and key in swapped:
                out.append(self.slot0_final(event, final[key], tip))
        out.append(self.reorg_complete(tip))
        return b"".join(out)


def _identifier(key: str) -> bytes:
    value = raw(key)
    if len(value) == 20:
        return struct.pack("<IQ", 0, 20) + value
    return struct.pack("<I", 1) + value


def _slot0(fields: State) -> bytes:
    return (
        u256(fields["sqrtPriceX96"]) + u128(fields["liquidity"]) + struct.pack("<i", fields["tick"])
    )


def _range(blocks: Sequence[Block]) -> bytes:
    if not blocks:
        return struct.pack("<BBQ", 0, 0, 0)
    return struct.pack("<BQBQQ", 1, blocks[0].number, 1, blocks[-1].number, len(blocks))


class Seed(_Dialect):
    """Frames of the seed dialect; `tagged` writes message names, otherwise variant indices.

    V2 amounts are what the pool gains on each side (Burn: magnitudes, as Mint). V3 and V4 amounts
    are the log's own. V3 Mint and Burn carry a magnitude, ModifyLiquidity a signed delta. Burn is
    told apart by its event type.
    """

    _NAMES = ("BeginBlock", "PoolUpdate", "EndBlock")

    def __init__(self, *, tagged: bool, tracked: set[str] | None = None) -> None:
        super().__init__(tracked)
        self.tagged = tagged

    def _message(self, index: int, fields: bytes) -> bytes:
        if self.tagged:
            return frame(_string(self._NAMES[index]) + fields)
        return frame(struct.pack("<I", index) + fields)

    def begin(self, number: int, *, is_revert: bool = False) -> bytes:
        return self._message(0, struct.pack("<Q?", number, is_revert))

    def end(self, number: int, updates: int) -> bytes:
        return self._message(2, struct.pack("<QQ", number, updates))

    def update(self, event: Event, block: Block, *, is_revert: bool = False) -> bytes | None:
        """The frame of one event, or None for an event that has none (Sync, Initialize, protocol fees)."""
        if event.kind in ("Sync", "Initialize", "ProtocolFeeUpdated"):
            return None
        if self.tracked is not None and event.pool not in self.tracked:
            return None
        return self._message(1, self._pool_event(event, block.number, is_revert=is_revert))

    @staticmethod
    def _pool_event(event: Event, number: int, *, is_revert: bool) -> bytes:
        args = event.args
        pool_id = event.pool if event.protocol == "uniswap_v4" else None
        delta = None if event.protocol == "uniswap_v2" else liquidity_delta(event)
        if delta is not None and event.protocol == "uniswap_v3":
            delta = abs(delta)
        is_slot0 = event.protocol != "uniswap_v2" and event.kind == "Swap"
        if event.protocol == "uniswap_v2":
            amount0, amount1 = (abs(x) if event.kind == "Burn" else x for x in v2_delta(event))
        else:
            amount0, amount1 = args.get("amount0", 0), args.get("amount1", 0)
        return b"".join(
            (
                struct.pack("<QII", number, event.tx_index, event.log_index),
                raw(event.emitter),
                b"\0" if pool_id is None else b"\1" + raw(pool_id),
                _string(event.protocol),
                _string(event.kind),
                b"\1" + u256(args["sqrtPriceX96"]) if is_slot0 else b"\0",
                b"\1" + struct.pack("<i", args["tick"]) if is_slot0 else b"\0",
                b"\1" + u128(args["liquidity"]) if is_slot0 else b"\0",
                b"\0" if delta is None else b"\1" + struct.pack("<i", args["tickLower"]),
                b"\0" if delta is None else b"\1" + struct.pack("<i", args["tickUpper"]),
                b"\0" if delta is None else b"\1" + i128(delta),
                i128(amount0),
                i128(amount1),
                struct.pack("<?", is_revert),
            )
        )

    def _begin_block(self, block: Block, *, is_revert: bool) -> bytes:
        return self.begin(block.number, is_revert=is_revert)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes to serve at once, and the block a follower is at afterwards.

    `settled` is False inside a reorg sent without an envelope, where the state is that of no tip.
    `block_hash` names the canonical block at `number` when settled. `new` are the new blocks that
    came with `reorg`.
    """

    data: bytes
    number: int
    block_hash: str
    settled: bool
    reorg: Reorg | None = None
    new: tuple[Block, ...] = ()


ReorgForm = Literal["envelope", "bare"]


def pieces(
    chain: Chain,
    encoder: Exex | Seed,
    *,
    order: Order = "newest-first",
    form: ReorgForm = "envelope",
    first: int = 0,
    last: int | None = None,
) -> list[Piece]:
    """What a follower of `chain` receives, in order, from block `first` to `last` (inclusive).

    ValueError if a reorg reaches below `first`, unless all of it lies below: those are left out.
    A reorg is one piece as an envelope, one piece a block when bare. Every second `evm_revert` is
    sent as a pure revert; the others bring the branch's first new block along, where the following
    step is one.
    """
    assert form == "bare" or isinstance(encoder, Exex), "the seed dialect has no reorg envelope"
    out: list[Piece] = []
    steps = list(chain.steps)
    pure_reverts = 0
    at = 0
    while at < len(steps):
        step = steps[at]
        at += 1
        if isinstance(step, Block):
            if step.number >= first and (last is None or step.number <= last):
                out.append(Piece(encoder.block(step), step.number, step.hash, True))
            continue
        if step.orphaned[-1].number < first:
            continue
        if step.orphaned[0].number < first:
            raise ValueError(f"block {first} lies inside a reorg")
        new = list(step.replacement)
        if last is not None and step.orphaned[-1].number > last:
            break
        if not new:
            pure_reverts += 1
            following = steps[at] if at < len(steps) else None
            if pure_reverts % 2 == 0 and isinstance(following, Block):
                new = [following]
                at += 1
        out += _reorg_pieces(chain, encoder, step, new, order=order, form=form)
    return out


def _reorg_pieces(
    chain: Chain,
    encoder: Exex | Seed,
    step: Reorg,
    new: list[Block],
    *,
    order: Order,
    form: ReorgForm,
) -> list[Piece]:
    tip_hash = new[-1].hash if new else step.ancestor_hash
    tip_number = new[-1].number if new else step.ancestor_number
    if form == "envelope":
        assert isinstance(encoder, Exex)
        data = encoder.reorg(step.orphaned, new, chain.state_at(tip_hash), order)
        return [Piece(data, tip_number, tip_hash, True, step, tuple(new))]
    data_of = encoder.bare_reorg(step.orphaned, new, order)
    numbers = [step.ancestor_number] * len(step.orphaned) + [block.number for block in new]
    hashes = [step.ancestor_hash] * len(step.orphaned) + [block.hash for block in new]
    last = len(data_of) - 1
    return [
        Piece(data, number, block_hash, index == last, step, tuple(new))
        for index, (data, number, block_hash) in enumerate(
            zip(data_of, numbers, hashes, strict=True)
        )
    ]
