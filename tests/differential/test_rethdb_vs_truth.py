"""Every database fixture: what the scraper reads equals what the contracts answered.

The states in truth.json.gz come from the contracts' getters on a node, never from storage words.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.reth_database import truth, unpack
from builders.reth_pools import from_hex, state_of, target_of, targets_of, true_state

from arena.errors import AccountMissing, PoolInvalid
from arena.values import PoolValues
from arena.writer.protocols.reading import read_targets
from arena.writer.protocols.storage import PoolTarget, slot_key
from arena.writer.protocols.uniswap_v3 import PANCAKESWAP_V3_LAYOUT, V3_LAYOUT
from arena.writer.scrapers import rethdb
from arena.writer.scrapers.reth_tables import DatabaseAccess, has_code
from arena.writer.scrapers.rethdb import RethDB, read_batch

TRUTH = truth()
POOLS: list[dict[str, Any]] = TRUTH["pools"]
BLOCK = int(TRUTH["block"]["number"])
READABLE = [name for name, each in TRUTH["variants"].items() if each["expect"]["outcome"] == "ok"]
REFUSED = [name for name in TRUTH["variants"] if name not in READABLE]


def expected(variant: str, pool: dict[str, Any]) -> dict[str, Any]:
    overrides = TRUTH["variants"][variant]["expect"]["pools"]
    result: dict[str, Any] = overrides.get(pool["key"], pool["expect"])
    return result


def matches(
    pool: dict[str, Any], wanted: dict[str, Any], outcome: PoolValues | PoolInvalid
) -> bool:
    if isinstance(outcome, PoolInvalid):
        name = type(outcome).__name__
        return name in (wanted.get("error"), wanted.get("orError")) and outcome.key == from_hex(
            pool["key"]
        )
    if "error" in wanted:
        return False
    state = pool["state"] if wanted["state"] == "state" else wanted["state"]
    blocks = {outcome.block_number, outcome.fee_block or outcome.block_number}
    return state_of(pool, outcome) == true_state(pool, state) and blocks == {BLOCK}


@pytest.fixture
def v2_rest(tmp_path: Path) -> DatabaseAccess:
    unpack("v2_rest", tmp_path)
    return DatabaseAccess(str(tmp_path))


def test_the_fixtures_cover_every_protocol() -> None:
    count = {name: sum(p["protocol"] == name for p in POOLS) for name in ("v2", "v3", "v4")}
    assert count == {"v2": 7, "v3": 14, "v4": 16}
    assert len(POOLS) == 40
    assert len(READABLE) == 6
    assert len(REFUSED) == 3
    assert sum(len(pool["state"].get("ticks", ())) for pool in POOLS) == 2291


@pytest.mark.parametrize("variant", READABLE)
def test_every_pool_of_a_readable_database_equals_the_contracts_answers(
    variant: str, tmp_path: Path
) -> None:
    unpack(variant, tmp_path)
    batch = read_batch(DatabaseAccess(str(tmp_path)), targets_of(POOLS))
    wrong = [
        (pool["key"], outcome)
        for pool, outcome in zip(POOLS, batch.outcomes, strict=True)
        if not matches(pool, expected(variant, pool), outcome)
    ]
    assert wrong == []
    assert batch.transactions == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant",
    [READABLE[0], *(pytest.param(each, marks=pytest.mark.slow) for each in READABLE[1:])],
)
def test_reader_processes_give_the_same_scrape(variant: str, tmp_path: Path) -> None:
    unpack(variant, tmp_path)
    by_key = {from_hex(pool["key"]): pool for pool in POOLS}
    with RethDB(tmp_path, targets_of(POOLS), scraping_concurrency=2) as database:
        assert database.get_current_block_number() == BLOCK
        specs = database.list_pools()
        scrape = database.read_pools([spec.key for spec in specs])
    assert [spec.protocol for spec in specs[:7]] == [specs[0].protocol] * 7
    outcomes: dict[bytes, PoolValues | PoolInvalid] = {
        each.spec.key: each.values for each in scrape.pools
    }
    outcomes |= {error.key: error for error in scrape.invalid}
    assert outcomes.keys() == by_key.keys()
    assert len(scrape.pools) + len(scrape.invalid) == 40
    for key, pool in by_key.items():
        assert matches(pool, expected(variant, pool), outcomes[key]), (pool["key"], outcomes[key])


@pytest.mark.parametrize("variant", REFUSED)
def test_a_database_that_is_not_whole_is_refused_by_its_class(variant: str, tmp_path: Path) -> None:
    unpack(variant, tmp_path)
    expect = TRUTH["variants"][variant]["expect"]
    with RethDB(tmp_path, targets_of(POOLS), scraping_concurrency=1) as database:
        for read in (
            database.get_current_block_number,
            lambda: database.read_pools([from_hex(POOLS[0]["key"])]),
        ):
            with pytest.raises(rethdb.Scraper) as refusal:
                read()
            assert type(refusal.value).__name__ == expect["outcome"]
            assert refusal.value.finish == int(expect["finish"])
            assert "--rpc" in str(refusal.value)


@pytest.mark.parametrize("variant", list(TRUTH["variants"]))
def test_the_layout_and_every_checkpoint_are_reported(variant: str, tmp_path: Path) -> None:
    unpack(variant, tmp_path)
    recorded = TRUTH["variants"][variant]
    facts = rethdb.inspect(DatabaseAccess(str(tmp_path)))
    assert facts.layout == recorded["layout"]
    assert (facts.block_number is None) == (facts.refusal is not None) == (variant in REFUSED)
    assert facts.data_nbytes == int(recorded["bytes"])
    assert facts.page_nbytes == 4096
    assert facts.library_version.startswith("0.13.")
    found = {
        stage: None if each is None else (each.block_number, each.has_part)
        for stage, each in facts.checkpoints.items()
    }
    assert found == {
        stage: (int(each["block"]), each["bytes"].startswith("0x1"))
        for stage, each in recorded["stageCheckpoints"].items()
    }


def test_canonical_blocks_are_known_by_hash_and_orphans_are_not(v2_rest: DatabaseAccess) -> None:
    assert len(TRUTH["headers"]) == 65
    for number, block_hash in TRUTH["headers"]:
        assert rethdb.read_is_canonical(v2_rest, from_hex(block_hash), int(number))
        assert not rethdb.read_is_canonical(v2_rest, from_hex(block_hash), int(number) + 1)
    orphan = TRUTH["orphan"]
    assert not rethdb.read_is_canonical(v2_rest, from_hex(orphan["hash"]), int(orphan["number"]))


@pytest.mark.parametrize("protocol", ["v2", "v3", "pancake_v3", "v4"])
def test_a_pool_at_an_account_that_is_absent_or_has_no_code_is_reported(
    protocol: str, v2_rest: DatabaseAccess
) -> None:
    pool = next(each for each in POOLS if each["protocol"] == protocol)
    place = "factory" if protocol == "v4" else "key"
    absent = target_of(pool, **{place: from_hex(TRUTH["probes"]["absentAccount"])})
    codeless = target_of(pool, **{place: from_hex(TRUTH["probes"]["externallyOwnedAccount"])})
    first, second = read_batch(v2_rest, [absent, codeless]).outcomes
    assert type(first) is AccountMissing
    assert type(second) is PoolInvalid
    assert "no code" in str(second)


def test_a_pool_read_with_the_other_v3_layout_is_invalid(v2_rest: DatabaseAccess) -> None:
    others = {"v3": PANCAKESWAP_V3_LAYOUT, "pancake_v3": V3_LAYOUT}
    pools = [
        pool
        for pool in POOLS
        if pool["protocol"] in others and len(pool["state"].get("ticks", ())) > 0
    ]
    assert len(pools) >= 14
    swapped = [PoolTarget(target_of(pool).spec, others[pool["protocol"]]) for pool in pools]
    for outcome in read_batch(v2_rest, swapped).outcomes:
        assert isinstance(outcome, PoolInvalid)


def test_a_wrong_tick_spacing_is_invalid(v2_rest: DatabaseAccess) -> None:
    pools = [
        pool
        for pool in POOLS
        if pool["protocol"] in ("v3", "v4") and len(pool["state"].get("ticks", ())) > 2
    ]
    assert len(pools) >= 20
    wrong = [target_of(pool, tick_spacing=int(pool["tickSpacing"]) + 1) for pool in pools]
    for outcome in read_batch(v2_rest, wrong).outcomes:
        assert isinstance(outcome, PoolInvalid)


@pytest.mark.parametrize("field", ["fee_pips", "hooks", "token0"])
def test_a_v4_pool_whose_description_has_another_id_is_invalid(
    field: str, v2_rest: DatabaseAccess
) -> None:
    pool = next(
        each for each in POOLS if each["protocol"] == "v4" and "error" not in each["expect"]
    )
    spec = target_of(pool).spec
    other = {"fee_pips": spec.fee_pips + 1, "hooks": bytes(19) + b"\1", "token0": spec.token1}
    (outcome,) = read_batch(v2_rest, [target_of(pool, **{field: other[field]})]).outcomes
    assert isinstance(outcome, PoolInvalid)
    assert "have the id" in str(outcome)


def test_a_v2_pair_with_other_tokens_than_listed_is_invalid(v2_rest: DatabaseAccess) -> None:
    pool = POOLS[0]
    spec = target_of(pool).spec
    (outcome,) = read_batch(v2_rest, [target_of(pool, token0=spec.token1)]).outcomes
    assert isinstance(outcome, PoolInvalid)
    assert "token0" in str(outcome)


def test_a_pool_that_is_not_listed_is_reported(tmp_path: Path) -> None:
    unpack("v2_rest", tmp_path)
    with RethDB(tmp_path, targets_of(POOLS[:1]), scraping_concurrency=1) as database:
        scrape = database.read_pools([b"\1" * 20, from_hex(POOLS[0]["key"])])
    assert [each.spec.key for each in scrape.pools] == [from_hex(POOLS[0]["key"])]
    assert [error.key for error in scrape.invalid] == [b"\1" * 20]


@pytest.mark.slow
def test_reader_processes_show_the_database_as_it_is(tmp_path: Path) -> None:
    for variant in ("v2_rest", "v2_pipeline"):
        unpack(variant, tmp_path / variant)
        access = DatabaseAccess(str(tmp_path / variant))
        request = [(from_hex(POOLS[0]["key"]), [slot_key(8)])]
        with RethDB(tmp_path / variant, [], scraping_concurrency=1) as database:
            found, direct = database.inspect(), rethdb.inspect(access)
            assert type(found.refusal) is type(direct.refusal)
            assert replace(found, refusal=None) == replace(direct, refusal=None)
            if direct.refusal is None:
                assert database.read_words(request) == rethdb.read_words(access, request)
                block_hash = from_hex(TRUTH["block"]["hash"])
                assert database.is_canonical(block_hash, BLOCK)
                assert not database.is_canonical(block_hash, BLOCK - 1)


def test_pools_that_advance_together_are_read_as_alone(v2_rest: DatabaseAccess) -> None:
    calls: list[int] = []
    with v2_rest.open() as environment, environment.read() as txn:
        one = rethdb.HashedStorage(txn, BLOCK)

        def read(requests: Any) -> Any:
            calls.append(len(requests))
            return one(requests)

        outcomes, slot_count = read_targets(targets_of(POOLS), BLOCK, read)
    assert calls[0] == 40
    assert len(calls) == 2
    for pool, outcome in zip(POOLS, outcomes, strict=True):
        assert matches(pool, expected("v2_rest", pool), outcome)
    assert slot_count == read_batch(v2_rest, targets_of(POOLS)).slots_read


def test_raw_words_and_accounts_are_read_for_comparison(v2_rest: DatabaseAccess) -> None:
    pool = POOLS[0]
    state = pool["state"]
    packed = (
        int(state["blockTimestampLast"]) << 224
        | int(state["reserve1"]) << 112
        | int(state["reserve0"])
    )
    requests = [
        (from_hex(pool["key"]), [slot_key(8), slot_key(3000), slot_key(6)]),
        (from_hex(TRUTH["probes"]["absentAccount"]), [slot_key(0)]),
        (from_hex(TRUTH["probes"]["externallyOwnedAccount"]), []),
    ]
    with v2_rest.open() as environment, environment.read() as txn:
        assert [has_code(txn, address) for address, _ in requests] == [True, None, False]
    pair, absent, _ = rethdb.read_words(v2_rest, requests)
    assert pair.values == (packed, 0, int(pool["token0"], 16))
    assert pair.block_number == BLOCK
    assert absent.values == (0,)
