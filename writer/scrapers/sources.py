"""Where a run of the writer gets pools and missing blocks from, put together from its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arena.writer.node.client import NodeClient
from arena.writer.node.head import check_chain
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.node.rpc_node import RpcNode
from arena.writer.protocols.storage import PoolTarget
from arena.writer.scrapers import PoolScraper
from arena.writer.scrapers.described import Described
from arena.writer.scrapers.fallback import FallbackScraper, NodeDatabase
from arena.writer.scrapers.rpc import RpcScraper
from arena.writer.scrapers.statefile import StateFile


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
