"""What every protocol says of itself: its logs, its storage, its descriptions. One file each has it.

Bounds, names and numbers are in the protocol's row (layouts/protocols.py). Whoever needs a pool's own
protocol asks held.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from arena.errors import LogInvalid, PoolInvalid
from arena.layouts.protocols import PROTOCOLS, ProtocolRow
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.node.client import Log
from arena.writer.protocols.fields import PoolFields
from arena.writer.protocols.storage import (
    PoolTarget,
    Stages,
    StorageLayout,
    mapping_slot,
    slot_key,
)


class AbiWords:
    """Reads 32-byte ABI words of one log; LogInvalid when one exceeds its type."""

    def __init__(self, log: Log):
        self._log = log

    def unsigned(self, word: bytes, bits: int) -> int:
        value = int.from_bytes(word, "big")
        if value >> bits:
            self._refuse(value, f"uint{bits}")
        return value

    def signed(self, word: bytes, bits: int) -> int:
        value = int.from_bytes(word, "big", signed=True)
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            self._refuse(value, f"int{bits}")
        return value

    def _refuse(self, value: int, kind: str) -> None:
        raise LogInvalid(
            f"log {self._log.log_index} of block {self._log.block_number}: {value} is no {kind}",
            block=self._log.block_number,
            log_index=self._log.log_index,
        )


EventFields = dict[str, Any]
"""Fields of an event record by name."""


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A log that is an event of pools: `topic` is keccak256 of its signature, `read` is given all topics
    and the words of data, of which there must be as many as here."""

    topic: bytes
    topic_count: int
    word_count: int
    read: Callable[[AbiWords, Sequence[bytes], Sequence[bytes]], EventFields]


def refusal(spec: PoolSpec, found: str) -> PoolInvalid:
    """The error for a pool that cannot be as described, or read."""
    key = "0x" + spec.key.hex()
    return PoolInvalid(f"pool {key} is not installed: {found}", key=spec.key, found=found)


class PoolProtocol(ABC):
    """How a node shows the pools of one protocol, and how lists describe them."""

    number: ClassVar[int]
    layouts: ClassVar[tuple[StorageLayout, ...]]
    """The protocol's own first, then those of forks with the same state."""
    events: ClassVar[tuple[LogEvent, ...]]
    price_event: ClassVar[int]
    """Kind of the events after which a pool's price is told anew at the end of a reorg."""
    functions: ClassVar[tuple[str, ...]] = ()
    """What a pool's contract can be asked of its description; see scrapers/described.py."""
    has_extsload: ClassVar[bool] = False
    """The account tells its own slots by extsload(bytes32[])."""

    @property
    def row(self) -> ProtocolRow:
        return PROTOCOLS[self.number]

    def layout_of(self, spec: PoolSpec) -> StorageLayout:
        """The storage layout of a pool whose list says nothing of it."""
        return self.layouts[0]

    def base(self, spec: PoolSpec) -> int:
        """The pool's first slot in its account."""
        return 0

    def tick_slot(self, target: PoolTarget, tick: int) -> bytes:
        """The slot of a tick; an empty one where there are none."""
        return mapping_slot(tick, self.ticks_slot(target))

    def ticks_slot(self, target: PoolTarget) -> bytes:
        """The slot of the mapping of ticks."""
        return slot_key((self.base(target.spec) + target.layout.ticks) % (1 << 256))

    def identity_of(self, spec: PoolSpec) -> bytes:
        """The key of the pool described, where the description has one."""
        return spec.key

    def check_identity(self, spec: PoolSpec) -> None:
        """PoolInvalid for a pool that is listed under another key than its description has."""
        if (pool_id := self.identity_of(spec)) != spec.key:
            raise refusal(
                spec,
                f"currencies, fee {spec.fee_pips}, tick spacing {spec.tick_spacing} and hooks as "
                f"listed have the id 0x{pool_id.hex()}",
            )

    @abstractmethod
    def check(self, spec: PoolSpec, values: PoolValues) -> None:
        """PoolInvalid, naming the field and the numbers, when a pool cannot be as described."""

    @abstractmethod
    def price_slots(self, target: PoolTarget) -> tuple[bytes, ...]:
        """The slots of a pool's price."""

    @abstractmethod
    def final(self, target: PoolTarget, words: Sequence[int]) -> EventFields | None:
        """The event that tells a pool's price after a reorg, of the words of `price_slots`; None for a
        pool that is not initialized on this branch."""

    @abstractmethod
    def stages(self, target: PoolTarget, block_number: int) -> Stages:
        """Reads one pool of words that all belong to `block_number`. PoolInvalid when they, or the
        description, cannot be of such a pool; what `check` finds is left to it."""

    def listed(self, fields: PoolFields, identity: str, key: bytes) -> PoolSpec:
        """The pool an entry of a list describes; `identity` is the field that has its key."""
        if len(key) != 20:
            fields.refuse(f"`{identity}` has 32 bytes", "give the pool's address")
        row = self.row
        tokens = fields.token("token0"), fields.token("token1")
        factory = fields.hex("factory", (20,)) if fields.record.get("factory") else bytes(20)
        fee_pips = row.default_fee_pips if row.has_listed_fee else 0
        if fee_pips is None or (row.has_listed_fee and fields.is_given("fee")):
            fee_pips = fields.integer("fee", 0, row.max_fee_pips)
        spacing = 0
        if row.has_ticks:
            spacing = fields.integer("tick_spacing", 1, row.max_tick_spacing)
        return PoolSpec(key, self.number, *tokens, fee_pips, spacing, factory)
