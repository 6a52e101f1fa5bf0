"""Events of pools among the logs of a block, and what speaks against them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from arena.specs import PoolSpec
from arena.writer.protocols.held import key_of
from arena.writer.stream.evidence import (
    Evidence,
    bloom_bits,
    bloom_of,
    event_of,
    has_no_logs,
    named_pools,
)

if TYPE_CHECKING:
    from arena.writer.node.client import Header, Log


class KnownEvents:
    """Those with the signatures `by_protocol`."""

    def __init__(self, by_protocol: Mapping[int, Sequence[bytes]]) -> None:
        self.by_protocol = by_protocol
        self.topics = frozenset(topic for each in by_protocol.values() for topic in each)

    def lacks_a_pool(
        self, header: "Header", logs: "Sequence[Log]", pools: Mapping[bytes, PoolSpec]
    ) -> bool:
        """The filter names a pool by bits, its own or an event's, that no log here explains."""
        bloom = int.from_bytes(header.logs_bloom, "big")
        unexplained = bloom & ~bloom_of(logs)

        def is_unexplained(content: bytes) -> bool:
            bits = bloom_bits(content)
            return bits & bloom == bits and bool(bits & unexplained)

        return any(
            any(map(is_unexplained, (key, *self.by_protocol[pools[key].protocol])))
            for key in named_pools(header, pools, self.by_protocol)
        )

    def beyond(self, logs: "Sequence[Log]", receipts: "Sequence[Log]") -> "list[Log]":
        """Events that no receipt has, under whatever number."""
        here = {event_of(each) for each in receipts}
        return [each for each in logs if self.is_known(each) and event_of(each) not in here]

    def adds_nothing(self, logs: "Sequence[Log]", receipts: "Sequence[Log]") -> bool:
        """They are those of the receipts, and logs of the chain's own, which have none: not an event
        told twice under another number."""
        more = set(logs) - set(receipts)
        has_all = len(more) == len(logs) - len(receipts)
        return has_all and not any(self.is_known(each) for each in more)

    def is_known(self, each: "Log") -> bool:
        return bool(each.topics) and each.topics[0] in self.topics

    def _counted(self, logs: "Sequence[Log]") -> "Counter[tuple[object, ...]]":
        return Counter(event_of(each) for each in logs if self.is_known(each))

    def _repeats(self, logs: "Sequence[Log]") -> bool:
        """An event comes twice in one transaction with the same amounts. Burns of nothing, which only
        collect fees, do so on any chain, and change nothing."""
        events = self._counted([each for each in logs if any(each.data)])
        return any(count > 1 for count in events.values())

    def tied(self, logs: "Iterable[Log]") -> frozenset[bytes]:
        """Keys of pools, listed or not, that have two events with one number: nothing says which came
        first."""
        places = Counter(
            (each.tx_index, each.log_index, key_of(each)) for each in logs if self.is_known(each)
        )
        return frozenset(key for (_, _, key), count in places.items() if count > 1)

    def against(
        self,
        header: "Header",
        logs: "Sequence[Log]",
        pools: Mapping[bytes, PoolSpec],
        evidence: Evidence,
    ) -> Evidence:
        """With what speaks against the pools' events themselves."""
        bloom = int.from_bytes(header.logs_bloom, "big")
        is_spoken_of = bool(bloom) or has_no_logs(header)
        events = [each for each in logs if is_spoken_of and self.is_of(each, pools)]
        are_tied = not pools.keys().isdisjoint(self.tied(logs))
        return replace(
            evidence,
            beyond=bool(bloom_of(events) & ~bloom),
            repeats=are_tied or self._repeats(logs),
        )

    def is_of(self, each: "Log", pools: Mapping[bytes, PoolSpec]) -> bool:
        """It is an event of a listed pool."""
        return self.is_known(each) and not pools.keys().isdisjoint(
            (each.address, *each.topics[1:2])
        )


class ToldEvents:
    """The events of listed pools that any answer had of a block, for the newest `max_blocks` blocks."""

    def __init__(self, events: KnownEvents, max_blocks: int) -> None:
        self._events = events
        self._max_blocks = max_blocks
        self._of_block: dict[bytes, set[tuple[bytes, int]]] = {}

    def note(
        self, header: "Header", logs: "Iterable[Log]", pools: Mapping[bytes, PoolSpec]
    ) -> None:
        """An answer for that block, also one that is not to be believed."""
        told = [
            each
            for each in logs
            if each.block_hash == header.hash
            and each.block_number == header.number
            and self._events.is_of(each, pools)
        ]
        if not told:
            return
        known = self._of_block.pop(header.hash, set())
        while len(self._of_block) >= self._max_blocks:
            del self._of_block[next(iter(self._of_block))]
        self._of_block[header.hash] = known | self._named(told)

    def has(self, block_hash: bytes) -> bool:
        return block_hash in self._of_block

    def lacking(self, block_hash: bytes, logs: "Iterable[Log]") -> frozenset[bytes]:
        """Keys of the pools with an event that was told and is not among these, however often."""
        told = self._of_block.get(block_hash)
        if told is None:
            return frozenset()
        return frozenset(key for key, _ in told - self._named(logs))

    def _named(self, logs: "Iterable[Log]") -> set[tuple[bytes, int]]:
        """Pool and event; not its transaction, which some nodes number otherwise in logs than in receipts."""
        return {
            (key_of(each), hash((each.address, each.topics, each.data)))
            for each in logs
            if self._events.is_known(each)
        }
