"""Blocks of many events for a WriterArena, and what they must lead to, kept as copies per block.

Shares no code with the writer: state is plain Python, a revert is a look at an older copy.
"""

import random
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from arena.layouts import slots
from arena.layouts.events import EVENT
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

TOKENS = TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 6, "TWO")
SPACING = 10
PRICE = 1 << 96
MASK = (1 << 64) - 1


class Key(NamedTuple):
    protocol: int
    number: int

    def pack(self) -> bytes:
        return bytes((self.protocol + 1,)) + self.number.to_bytes(19, "big")


@dataclass(frozen=True)
class State:
    """`a` and `b` are reserves, or tick and liquidity; ticks by number: (gross, net)."""

    a: int
    b: int
    ticks: tuple[tuple[int, int, int], ...] = ()


class Chain:
    """Pools, and blocks of events on them from `block` on."""

    def __init__(
        self, writer: WriterArena, *, pairs: int, pools: int, block: int, seed: str
    ) -> None:
        self.rng = random.Random(seed)
        self.head = block
        self.slots: dict[Key, int] = {}
        self.state: dict[Key, State] = {}
        self.before: dict[int, dict[Key, State]] = {}  # of the pools a block touched
        self.sent: dict[int, npt.NDArray[np.void]] = {}
        for number in range(pairs):
            key = Key(slots.UNISWAP_V2, number)
            slot = writer.add_pool(PoolSpec(key.pack(), key.protocol, *TOKENS, 3000))
            writer.install(slot, PoolValues(block, 3000, reserve0=1, reserve1=1), slots.STATUS_LIVE)
            self.slots[key], self.state[key] = slot, State(1, 1)
        for number in range(pools):
            key = Key(slots.UNISWAP_V3, number)
            slot = writer.add_pool(PoolSpec(key.pack(), key.protocol, *TOKENS, 500, SPACING))
            ticks = ((-1000, 10, 10), (1000, 10, -10))
            values = PoolValues(block, 500, sqrt_price_x96=PRICE, liquidity=10, ticks=ticks)
            writer.install(slot, values, slots.STATUS_LIVE)
            self.slots[key], self.state[key] = slot, State(0, 10, ticks)
        writer.set_head(block)
        writer.commit()

    def block(self, *, events: int) -> npt.NDArray[np.void]:
        """Records of the next block: a third of the events of V3 pools are mints, each of two ticks."""
        self.head += 1
        keys = list(self.slots)
        records = _records(self.head, events)
        before: dict[Key, State] = {}
        for index in range(1, events + 1):
            key = keys[self.rng.randrange(len(keys))]
            before.setdefault(key, self.state[key])
            self.state[key] = self._event(records[index], key, self.state[key])
        self.before[self.head], self.sent[self.head] = before, records
        return records

    def _event(self, record: np.void, key: Key, state: State) -> State:
        record["key"][:20] = np.frombuffer(key.pack(), np.uint8)
        record["protocol"] = key.protocol
        value = self.rng.randrange(1, 1 << 40)
        if key.protocol == slots.UNISWAP_V2:
            record["kind"] = lib.PSA_EVENT_V2_SYNC
            record["words"][0], record["words"][4] = value, value + 1
            return State(value, value + 1)
        if self.rng.random() < 0.67:
            record["kind"] = lib.PSA_EVENT_CL_SWAP
            tick = self.rng.randrange(-900, 900)
            record["words"][1] = PRICE >> 64
            record["tick"], record["amount"][0] = tick, value
            return replace(state, a=tick, b=value)
        record["kind"] = lib.PSA_EVENT_CL_LIQUIDITY
        record["update_type"] = lib.PSA_UPDATE_MINT
        lower = SPACING * self.rng.randrange(-20, 19)
        upper = lower + SPACING
        record["tick_lower"], record["tick_upper"], record["amount"][0] = lower, upper, value
        rows = {tick: (gross, net) for tick, gross, net in state.ticks}
        for tick, net in ((lower, value), (upper, -value)):
            gross, was = rows.get(tick, (0, 0))
            rows[tick] = (gross + value, was + net)
        active = value if lower <= state.a < upper else 0
        return State(state.a, state.b + active, tuple((tick, *rows[tick]) for tick in sorted(rows)))

    def revert(self, *, events: int = 0) -> npt.NDArray[np.void]:
        """Records that revert the head block."""
        records = self.sent.pop(self.head).copy()
        records["flags"] |= lib.PSA_EVENT_IS_REVERT
        self.state.update(self.before.pop(self.head))
        self.head -= 1
        return records

    def again(self) -> npt.NDArray[np.void]:
        """The head block's records once more, as the next block; it cannot be reverted here. For blocks
        of V2 pools only, whose events are absolute."""
        records = self.sent.pop(self.head)
        self.before.clear()
        self.head += 1
        records["block_number"] = self.head
        self.sent[self.head] = records
        return records

    def onwards(self, *, events: int, blocks: int) -> list[npt.NDArray[np.void]]:
        """A revert of the head block and some others after it, leaving this chain as it is."""
        other = Chain.__new__(Chain)
        other.rng = random.Random(0)
        other.head, other.slots, other.state = self.head, self.slots, dict(self.state)
        other.before, other.sent = dict(self.before), dict(self.sent)
        return [
            other.revert(),
            other.revert(),
            *(other.block(events=events) for _ in range(blocks)),
        ]

    def compare(self, writer: WriterArena, without: list[Key] | None = None) -> None:
        """Every pool is live and has the values it must have."""
        for key, state in self.state.items():
            if key in (without or []):
                continue
            slot = self.slots[key]
            assert writer.status(slot) == slots.STATUS_LIVE, key
            found = writer.values(slot)
            if key.protocol == slots.UNISWAP_V2:
                assert (found.reserve0, found.reserve1) == (state.a, state.b), key
            else:
                assert (found.tick, found.liquidity, found.ticks) == (
                    state.a,
                    state.b,
                    state.ticks,
                ), key


def _records(block: int, events: int) -> npt.NDArray[np.void]:
    records = np.zeros(events + 2, EVENT)
    records["block_number"] = block
    records["kind"][0] = lib.PSA_EVENT_BEGIN_BLOCK
    records["kind"][-1] = lib.PSA_EVENT_END_BLOCK
    records["tx_index"][1:-1] = np.arange(events)
    records["key_nbytes"] = 20
    records["flags"] = lib.PSA_EVENT_IN_BLOCK
    records["words"][-1, 0] = events
    return records
