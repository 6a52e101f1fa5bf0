"""One read of a list of pools, from a node's database or its JSON-RPC interface, as a state file.

The format is docs/reference/state-file.md. Nothing is printed before everything is read, so a
refusal leaves no half file behind.
"""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import orjson

from arena.errors import BlockUnavailable, DatabaseRefused, PoolInvalid
from arena.layouts.protocols import PROTOCOLS
from arena.specs import TokenSpec
from arena.statelines import pool_line, token
from arena.writer.lists.pool_list import read_pool_list
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.described import Described
from arena.writer.scrapers.rethdb import RethDB
from arena.writer.scrapers.rpc import RpcScraper
from arena.writer.scrapers.rpc_ways import Way

log = logging.getLogger(__name__)


def scrape(
    pools: Path,
    output: TextIO,
    *,
    reth_db: Path | None,
    rpc: str | None,
    block: int | None = None,
    chain_id: int | None = None,
    way: Way | None = None,
    library: Path | None = None,
    scraping_concurrency: int = 2,
) -> None:
    """Read every pool of the list and write the state file to `output`.

    With both sources the database is asked first and the node when the database refuses. `block`
    None is the source's newest. Errors of the project for a refusal of the whole; ValueError
    without a source.
    """
    if reth_db is None and rpc is None:
        raise ValueError("no source: give --reth-db, --rpc, or both")
    listed = read_pool_list(pools)
    found: Scrape | None = None
    if reth_db is not None:
        try:
            database = RethDB(
                reth_db,
                listed.targets,
                scraping_concurrency=scraping_concurrency,
                library=library,
            )
            found = _from_database(database, block)
        except (DatabaseRefused, BlockUnavailable) as error:
            if rpc is None:
                raise
            log.warning(
                'event=scrape_fallback from=reth_db to=rpc error=%s reason="%s"',
                type(error).__name__,
                error,
            )
    if found is None:
        assert rpc is not None
        scraper = RpcScraper(JsonRpc(rpc), listed.targets, chain_id=chain_id, way=way, block=block)
        try:
            found = scraper.read_pools([target.spec.key for target in listed.targets])
        finally:
            scraper.close()
    if rpc is not None:
        with JsonRpc(rpc) as client:
            found = Described(client).checked(found)
    order = {target.spec.key: index for index, target in enumerate(listed.targets)}
    for line in state_lines(found, order):
        output.write(line)
    for refused in listed.refused:
        output.write(_line(_failed_record(refused)))


def _from_database(database: RethDB, block: int | None) -> Scrape:
    with database:
        found = database.read_pools([spec.key for spec in database.list_pools()])
    for pool in found.pools:
        if block is not None and pool.values.block_number != block:
            raise BlockUnavailable(
                f"the database stands at block {pool.values.block_number}, not {block}; leave out "
                "--block, or ask a node with --rpc",
                block_number=block,
                found=pool.values.block_number,
            )
    return found


def state_lines(found: Scrape, order: dict[bytes, int]) -> Iterator[str]:
    """Lines of a state file, each with its newline: the header, then pools by `order` of keys."""
    head = max((pool.values.block_number for pool in found.pools), default=0)
    yield _line({"head_block": head})
    records = [(order[pool.spec.key], _record(pool)) for pool in found.pools]
    records += [(order[error.key], _failed_record(error)) for error in found.invalid]
    for _, record in sorted(records, key=lambda item: item[0]):
        yield _line(record)


def _line(record: dict[str, Any]) -> str:
    return orjson.dumps(record).decode() + "\n"


def _failed_record(error: PoolInvalid) -> dict[str, Any]:
    return {
        "pool": _hex(error.key) if error.key else None,
        "error": type(error).__name__,
        "reason": str(error),
    }


def _record(pool: ScrapedPool) -> dict[str, Any]:
    spec, values = pool.spec, pool.values
    row = PROTOCOLS[spec.protocol]

    def value_of(name: str) -> Any:
        if name == "hooks":
            return _hex(spec.hooks)
        return spec.tick_spacing if name == "tick_spacing" else getattr(values, name)

    return pool_line(
        row.name,
        pool=_hex(spec.key),
        block=values.block_number,
        tokens=(_token(spec.token0), _token(spec.token1)),
        factory=_hex(spec.factory),
        fee_pips=spec.fee_pips if row.has_listed_fee else values.fee_pips,
        value_of=value_of,
    )


def _token(spec: TokenSpec) -> dict[str, Any]:
    return token(_hex(spec.address), spec.decimals, spec.symbol)


def _hex(content: bytes) -> str:
    return "0x" + content.hex()
