"""What is asked of any node, and the values it answers with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MAX_ASKED_BLOCKS = 64  # headers asked for in one batch


@dataclass(frozen=True, slots=True)
class Header:
    """What is needed of a block's header. `base_fee` in wei, 0 before London; `logs_bloom` has 256
    bytes, or none, and the last two are None, where the source does not say."""

    number: int
    hash: bytes
    parent_hash: bytes
    timestamp: int
    base_fee: int
    logs_bloom: bytes = b""
    transaction_count: int | None = None
    gas_used: int | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """One log as eth_getLogs gives it; `log_index` counts in the block."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_hash: bytes
    tx_index: int
    log_index: int


@dataclass(frozen=True, slots=True)
class Receipts:
    """Of how many transactions of a block a node has receipts, the gas used up to the last one, None
    where it does not say, and their logs."""

    count: int
    gas_used: int | None
    logs: Sequence[Log]


class NodeClient(Protocol):
    """What is asked of a node. Calls block; they raise a Scraper error when it does not answer."""

    def chain_id(self) -> int:
        """eth_chainId."""

    def head_number(self) -> int:
        """eth_blockNumber."""

    def headers(self, numbers: Sequence[int]) -> Sequence[Header | None]:
        """The canonical headers of these numbers, None where the node has no such block."""

    def logs(
        self, first: int, last: int, topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> Sequence[Log]:
        """Logs of blocks `first` to `last` whose first topic is one of `topics`, of these contracts;
        of any topic or contract where none is named.

        LogsRefused when the node finds the range or the answer too large.
        """

    def block_logs(
        self, hashes: Sequence[bytes], topics: Sequence[bytes], addresses: Sequence[bytes] = ()
    ) -> Sequence[Sequence[Log]]:
        """The same for single blocks by hash; an error where the node does not know the hash."""


class Caller(Protocol):
    """What is used of arena.writer.jsonrpc.JsonRpc."""

    def call(self, method: str, *parameters: Any) -> Any:
        """The result. RpcRefused when the node answers with an error; other RpcErrors."""

    def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> Sequence[Any]:
        """Results in order, RpcRefused in place of what was refused. RpcError."""
