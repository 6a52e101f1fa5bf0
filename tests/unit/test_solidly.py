"""Solidly pairs on the way in: what a list says of them, what a contract does, and from which stream."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from arena.errors import PoolEntryInvalid, PoolInvalid
from arena.layouts.slots import SOLIDLY, STATUS_LIVE, UNISWAP_V2
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.protocols.entry import PoolEntry, pool_record
from arena.writer.protocols.held import check_pool
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.described import contradictions_of
from arena.writer.sync.source import Source
from arena.writing import WriterArena

TOKENS = (TokenSpec(b"\x22" * 20, 18, "A"), TokenSpec(b"\x33" * 20, 18, "B"))
PAIR = PoolSpec(b"\x11" * 20, SOLIDLY, *TOKENS, 0, factory=b"\x44" * 20)
V2 = PoolSpec(b"\x12" * 20, UNISWAP_V2, *TOKENS, 3000)


def test_a_list_names_such_a_pair_without_its_fee() -> None:
    record = {
        "address": "0x" + "11" * 20,
        "protocol": "Aerodrome",
        "token0": "0x" + "22" * 20,
        "token1": "0x" + "33" * 20,
        "factory": "0x" + "44" * 20,
    }
    target = PoolEntry("list", 1, record).target()
    assert (target.spec.protocol, target.layout.name) == (SOLIDLY, "solidly")
    again = pool_record(target)
    assert "fee" not in again
    assert PoolEntry("list", 1, again).target() == target
    older = PoolEntry("list", 1, record | {"protocol": "velodrome_v1"}).target()
    assert PoolEntry("list", 1, pool_record(older)).target() == older != target
    with pytest.raises(PoolEntryInvalid, match="factory"):
        PoolEntry("list", 1, record | {"factory": None}).target()
    with pytest.raises(PoolEntryInvalid, match="volatile"):
        PoolEntry("list", 1, record | {"stable": True}).target()


def test_a_pair_without_its_factory_is_refused_wherever_it_comes_from() -> None:
    check_pool(PAIR, PoolValues(9, 3000))
    with pytest.raises(PoolInvalid, match="no factory"):
        check_pool(replace(PAIR, factory=bytes(20)), PoolValues(9, 3000))


def test_pools_whose_fee_no_list_gives_are_known(arena_name: str) -> None:
    with WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 16) as writer:
        assert len(writer.slots_with_unlisted_fees()) == 0
        for spec in (V2, PAIR):
            writer.install(writer.add_pool(spec), PoolValues(9, 3000), status=STATUS_LIVE)
        writer.commit()
        assert writer.slots_with_unlisted_fees().tolist() == [writer.slot_of(PAIR.key)]
        writer.close(unlink=True)


@pytest.mark.parametrize("told", [0, 1])
def test_a_pair_that_calls_itself_stable_contradicts_the_list(told: int) -> None:
    found = list(contradictions_of(PAIR, {"stable": told}))
    assert found == ([("curve", "volatile", "stable")] if told else [])


@pytest.mark.parametrize("brings_all", [False, True])
def test_a_feed_without_its_events_keeps_a_pair_out(brings_all: bool) -> None:
    class Scraper:
        def read_pools(self, keys: list[bytes]) -> Scrape:
            pools = tuple(ScrapedPool(spec, PoolValues(9, 3000)) for spec in (PAIR, V2))
            return Scrape(pools)

    async def call(work: Any, *args: Any) -> tuple[int, int]:
        return 0, 0

    standing = SimpleNamespace(known_now=None)
    port: Any = SimpleNamespace(intake=SimpleNamespace(standing=standing), call=call)
    shared: Any = SimpleNamespace(port=port, progress=None, roster=None, branch=None)
    scraper: Any = Scraper()
    source = Source(shared, scraper=scraper, described=None, brings_all=brings_all)
    candidates, invalid = asyncio.run(source.read([PAIR.key, V2.key], 0))
    assert [each.key for each in candidates] == ([PAIR.key, V2.key] if brings_all else [V2.key])
    assert [error.key for error in invalid] == ([] if brings_all else [PAIR.key])
    assert all(isinstance(error, PoolInvalid) for error in invalid)
    assert brings_all or "--dialect bridge" in str(invalid[0])
