"""Sources one behind the other: a node beside its database, a second source for what the first lacks."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from arena.errors import DatabaseRefused, RpcError
from arena.specs import PoolSpec
from arena.writer.node.client import NodeClient
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers import PoolScraper, Scrape
from arena.writer.scrapers.rethdb import RethDB

log = logging.getLogger(__name__)


RECENT_BLOCKS = 64  # hashes asked for before a database is read; it trails by at most 21
FALLBACK_S = 30.0  # how long a database that refused is left alone


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
