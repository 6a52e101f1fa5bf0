"""Where a run of the writer gets pools and missing blocks from, put together from its settings."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arena.arena import PoolSpec
from arena.errors import DatabaseRefused, RpcError
from arena.writer.jsonrpc import JsonRpc
from arena.writer.logs import NodeClient, RpcNode
from arena.writer.scrapers import PoolScraper, Scrape
from arena.writer.scrapers.described import Described
from arena.writer.scrapers.rethdb import RethDB
from arena.writer.scrapers.rpc import RpcScraper, check_chain
from arena.writer.scrapers.slots import PoolTarget
from arena.writer.scrapers.statefile import StateFile

log = logging.getLogger(__name__)

RECENT_BLOCKS = 64  # hashes asked for before a database is read; it trails by at most 21
FALLBACK_S = 30.0  # how long a database that refused is left alone


@dataclass(slots=True)
class Sources:
    """`scraper` reads pools, of the list `targets` to begin with; `node`, where there is one, fetches
    missing blocks, `by_rpc` reads pools at any block, and `described` asks what pools say they are."""

    scraper: PoolScraper
    node: NodeClient | None = None
    rpc: JsonRpc | None = None
    targets: tuple[PoolTarget, ...] = ()
    by_rpc: RpcScraper | None = None
    described: Described | None = None

    def close(self) -> None:
        """Safe to call twice."""
        self.scraper.close()
        if self.rpc is not None:
            self.rpc.close()


def open_sources(
    *,
    states: Path | None,
    reth_db: Path | None,
    rpc: str | None,
    pools: Sequence[PoolTarget] | None,
    chain_id: int | None,
    libmdbx: Path | None,
    scraping_concurrency: int,
    wait_s: float,
) -> Sources:
    """The sources of these settings; nothing is read from them yet.

    ValueError when they do not say where pools come from.
    """
    if states is not None and (reth_db is not None or pools is not None):
        raise ValueError("--states already names pools and values; leave out --reth-db and --pools")
    client = None if rpc is None else JsonRpc(rpc)
    node = None if client is None else RpcNode(client)
    if states is not None:
        described = None if client is None else Described(client)
        return Sources(StateFile(states, wait_s=wait_s), node, client, described=described)
    if reth_db is None and rpc is None:
        raise ValueError(
            "no source of pool values: give --states, --reth-db, --rpc, or the last two"
        )
    if pools is None:
        raise ValueError("--pools is missing: the list of pools to read")
    targets = tuple(pools)
    # The two uses of a node have connections of their own: scraping must not delay closing a gap.
    by_rpc = None if rpc is None else RpcScraper(JsonRpc(rpc), targets, chain_id=chain_id)
    described = None if by_rpc is None else Described(by_rpc.rpc)
    if reth_db is None:
        assert by_rpc is not None
        return Sources(by_rpc, node, client, targets, by_rpc, described)
    database = NodeDatabase(
        reth_db,
        targets,
        node,
        scraping_concurrency=scraping_concurrency,
        library=libmdbx,
    )
    scraper = database if by_rpc is None else FallbackScraper(database, by_rpc)
    return Sources(scraper, node, client, targets, by_rpc, described)


def check_node_chain(sources: Sources, chain_id: int | None) -> int | None:
    """The chain id of the node; None without one. ChainMismatch, RpcError."""
    return None if sources.rpc is None else check_chain(sources.rpc, chain_id)


class NodeDatabase:
    """RethDB; with a node every pool is read from a block of its chain and carries its hash."""

    trails = True

    def __init__(
        self,
        path: Path,
        targets: Sequence[PoolTarget],
        node: NodeClient | None,
        *,
        scraping_concurrency: int = 2,
        library: Path | None = None,
    ):
        self._node = node
        self._asked = threading.local()  # by the thread that reads: what its reading was checked by
        self.database = RethDB(
            path,
            targets,
            scraping_concurrency=scraping_concurrency,
            library=library,
            canonical_hashes=None if node is None else self._recent_hashes,
            fork_wait_s=5.0,
        )

    def _recent_hashes(self) -> Mapping[int, bytes]:
        assert self._node is not None
        head = self._node.head_number()
        headers = self._node.headers(list(range(max(0, head - RECENT_BLOCKS), head + 1)))
        hashes = {header.number: header.hash for header in headers if header is not None}
        self._asked.hashes = hashes
        return hashes

    def get_current_block_number(self) -> int:
        """As RethDB."""
        return self.database.get_current_block_number()

    def list_pools(self) -> Sequence[PoolSpec]:
        """As RethDB."""
        return self.database.list_pools()

    def hold(self, targets: Sequence[PoolTarget]) -> None:
        """As RethDB."""
        self.database.hold(targets)

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        """As RethDB; RpcError when the node does not say which blocks are canonical."""
        scrape = self.database.read_pools(keys)
        if self._node is None:
            return scrape
        hashes: Mapping[int, bytes] = self._asked.hashes
        pools = tuple(
            replace(pool, block_hash=hashes.get(pool.values.block_number)) for pool in scrape.pools
        )
        return replace(scrape, pools=pools)

    def close(self) -> None:
        """As RethDB."""
        self.database.close()


class FallbackScraper:
    """The database, and the node in its place while the database refuses; says so each time."""

    def __init__(self, database: PoolScraper, node: PoolScraper, *, retry_s: float = FALLBACK_S):
        self._database = database
        self._node = node
        self._retry_s = retry_s
        self._refused_until = float("-inf")

    @property
    def trails(self) -> bool:
        """The source in use is the database."""
        return time.monotonic() >= self._refused_until

    def get_current_block_number(self) -> int:
        """Of the source in use."""
        if self.trails:
            try:
                return self._database.get_current_block_number()
            except DatabaseRefused as error:
                self._fall_back(error)
        return self._node.get_current_block_number()

    def list_pools(self) -> Sequence[PoolSpec]:
        """The list is the same for both."""
        return self._node.list_pools()

    def hold(self, targets: Sequence[PoolTarget]) -> None:
        """Exchange the list of both."""
        self._database.hold(targets)
        self._node.hold(targets)

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        """From the database, else from the node. Scraper when both refuse."""
        if self.trails:
            try:
                return self._database.read_pools(keys)
            except (DatabaseRefused, RpcError) as error:
                self._fall_back(error)
        return self._node.read_pools(keys)

    def _fall_back(self, error: Exception) -> None:
        self._refused_until = time.monotonic() + self._retry_s
        log.warning(
            "event=scrape_fallback from=reth_db to=rpc error=%s retry_s=%d reason=%r",
            type(error).__name__,
            int(self._retry_s),
            str(error),
        )

    def close(self) -> None:
        """Close both."""
        self._database.close()
        self._node.close()
