"""What shows that the logs of a block are all of them.

What a header says of its block's logs is compared with them: its bloom filter has the address and the
topics of every log. But a filter says nothing of how many they are, and the last ones leave no hole in
the numbers.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Protocol

from arena.errors import LogInvalid
from arena.specs import PoolSpec
from arena.writer.protocols.storage import account_of, keccak256

if TYPE_CHECKING:
    from arena.writer.node.client import Header, Log


class LogSource(Protocol):
    """What is asked of a node here; a client without `receipts` has none."""

    def logs(
        self, first: int, last: int, topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> "Sequence[Log]":
        """Logs of blocks by number; of any topic or contract where none is named."""

    def block_logs(
        self, hashes: Sequence[bytes], topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> "Sequence[Sequence[Log]]":
        """The same of single blocks by hash."""


@dataclass(frozen=True, slots=True)
class WholeBlock:
    """A block with all logs that could be a pool's event, in order, numbered through the block, and the
    number of each transaction's first log.

    Of pools in `doubtful` (keys; some may not be listed) events may be missing, or in any order: they
    are to be read anew. `is_silent`: it has no logs, and nothing but answers that agree says so.
    `addresses`: the logs are of these contracts; None, of all.
    """

    header: "Header"
    logs: "tuple[Log, ...]"
    first_logs: Mapping[int, int]
    doubtful: frozenset[bytes] = frozenset()
    is_silent: bool = False
    addresses: frozenset[bytes] | None = None

    def may_lack(self, spec: PoolSpec) -> bool:
        """Events of that pool may be missing here."""
        is_asked = self.addresses is None or account_of(spec) in self.addresses
        return spec.key in self.doubtful or not is_asked


@dataclass(frozen=True, slots=True)
class Evidence:
    """What numbers and filter say of an answer: `holes` in the numbers, bits `missing` among the logs'
    own, or `no_filter`: nothing is said. And what speaks against the answer itself: a listed pool's
    event `beyond` what the header says happened, one that `repeats` or shares its number, one that is in
    `no_receipt`."""

    holes: bool
    missing: bool
    no_filter: bool
    beyond: bool = False
    repeats: bool = False
    no_receipt: bool = False

    @property
    def is_contradicted(self) -> bool:
        return self.missing or self.is_against_events

    @property
    def is_against_events(self) -> bool:
        return self.beyond or self.repeats or self.no_receipt

    @property
    def is_whole(self) -> bool:
        return not (self.holes or self.no_filter or self.is_contradicted)

    def __str__(self) -> str:
        parts = [
            (self.holes, "their numbers have holes"),
            (self.missing, "they are not all that its header speaks of"),
            (self.no_filter, "its header has no bloom filter of them"),
            (self.beyond, "its header does not speak of all of them"),
            (self.repeats, "an event comes twice in one transaction, or two have one number"),
            (self.no_receipt, "the receipts do not have all of them"),
        ]
        return " and ".join(text for holds, text in parts if holds) or "they are whole"


@lru_cache(maxsize=1 << 15)  # about 16 MB; most addresses and topics come in every block
def bloom_bits(content: bytes) -> int:
    """The three bits of a log's address or topic in a block's bloom filter (yellow paper, 4.3.1)."""
    digest = keccak256(content)
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[at : at + 2], "big") & 2047)
    return bits


def bloom_of(logs: "Iterable[Log]") -> int:
    """The filter of these logs."""
    bits = 0
    for content in {content for each in logs for content in (each.address, *each.topics)}:
        bits |= bloom_bits(content)
    return bits


def named_pools(
    header: "Header", pools: Mapping[bytes, PoolSpec], topics: Mapping[int, Sequence[bytes]]
) -> Iterator[bytes]:
    """Keys of the pools of whose events, with `topics` by protocol, the header's filter may speak: all
    of them where it has none."""
    bloom = int.from_bytes(header.logs_bloom, "big")
    if not bloom:
        yield from pools
        return

    def speaks_of(content: bytes) -> bool:
        bits = bloom_bits(content)
        return bloom & bits == bits

    happened = {protocol: any(map(speaks_of, each)) for protocol, each in topics.items()}
    for key, spec in pools.items():
        if happened.get(spec.protocol) and speaks_of(key) and speaks_of(account_of(spec)):
            yield key


def ordered(header: "Header", logs: "Iterable[Log]", known: Container[bytes]) -> "tuple[Log, ...]":
    """The logs of that block in order; numbers that begin anew in each transaction become the block's.

    Logs may share a number: a chain numbers its own anyhow, a node none. They stay as they are listed,
    which says nothing. LogInvalid for a log of another block, and for events, by their `known` topics,
    whose numbers are neither the block's nor the transactions'.
    """
    found = sorted(logs, key=lambda each: (each.tx_index, each.log_index))
    for each in found:
        if each.block_hash != header.hash or each.block_number != header.number:
            raise LogInvalid(
                f"asked for logs of block {header.number} 0x{header.hash.hex()}, got one of "
                f"{each.block_number} 0x{each.block_hash.hex()}",
                block=header.number,
            )
    if all(before.log_index < after.log_index for before, after in pairwise(found)):
        return tuple(found)
    numbered: list[Log] = []
    count = 0
    for _, group in groupby(found, key=lambda each: each.tx_index):
        of_one = list(group)
        numbers = sorted({each.log_index for each in of_one})
        if numbers != list(range(len(numbers))):
            break
        numbered += [replace(each, log_index=count + each.log_index) for each in of_one]
        count += len(numbers)
    else:
        return tuple(numbered)
    events = [each for each in found if each.topics and each.topics[0] in known]
    if all(before.log_index <= after.log_index for before, after in pairwise(events)):
        return tuple(found)
    raise LogInvalid(
        f"logs of block {header.number} are out of order: transaction {of_one[0].tx_index} has the "
        f"numbers {numbers[:8]}",
        block=header.number,
    )


def event_of(each: "Log") -> tuple[object, ...]:
    """What happened, and in which transaction; without its number."""
    return each.tx_index, each.address, each.topics, each.data


def digest_of(logs: "Sequence[Log]") -> int:
    """The same however logs with one number are listed."""
    return hash((len(logs), frozenset(logs)))


def weigh(header: "Header", logs: "Sequence[Log]") -> Evidence:
    """What the header and the numbers say of all logs of its block, ordered."""
    bloom = int.from_bytes(header.logs_bloom, "big")
    return Evidence(
        holes=any(each.log_index != number for number, each in enumerate(logs)),
        missing=bool(bloom & ~bloom_of(logs)),
        no_filter=not bloom,
    )


def has_no_logs(header: "Header") -> bool:
    """The header itself shows that nothing ran in its block."""
    runs = header.transaction_count != 0 or header.gas_used != 0
    return not runs and not any(header.logs_bloom)


def addresses_of(pools: Iterable[PoolSpec]) -> list[bytes]:
    """The contracts whose logs are these pools' events."""
    return sorted(set(map(account_of, pools)))
