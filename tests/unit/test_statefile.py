"""The state file parser: what it accepts, what it refuses and how it says so."""

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sha3  # type: ignore[import-untyped]

from arena.errors import PoolInvalid, StateFileError
from arena.writer.scrapers import state_lines, statefile
from arena.writer.scrapers.statefile import StateFile, read_state_file

POOL = "0x" + "88" * 20
POOL_ID = "0x" + "77" * 32
TOKEN0 = {"address": "0x" + "01" * 20, "decimals": 6, "symbol": "ONE"}
TOKEN1 = {"address": "0x" + "02" * 20, "decimals": 18, "symbol": "TWO"}
ONE_X96 = 1 << 96  # price of tick 0
NO_HOOKS = "0x" + "00" * 20


def record(protocol: str, **fields: Any) -> dict[str, Any]:
    return {
        "pool": POOL,
        "protocol": protocol,
        "block": 100,
        "token0": TOKEN0,
        "token1": TOKEN1,
    } | fields


def v2(**changes: Any) -> dict[str, Any]:
    amounts = {"reserve0": "5000000000000000000000", "reserve1": 7}
    return record("uniswap_v2", **amounts) | changes


def v3(**changes: Any) -> dict[str, Any]:
    ticks = [[-20, "1000", "1000"], [-10, 100, -100], [10, "900", "-900"]]
    price = {"sqrt_price_x96": str(ONE_X96), "tick": 0, "liquidity": "900", "ticks": ticks}
    return record("uniswap_v3", fee_pips=500, tick_spacing=10, **price) | changes


def v4(**changes: Any) -> dict[str, Any]:
    more = {"protocol": "uniswap_v4", "protocol_fee": 0x3E83E8, "lp_fee": 500, "hooks": NO_HOOKS}
    record = v3() | more | changes
    return record if "pool" in changes else record | {"pool": v4_id(record)}


def v4_id(record: dict[str, Any]) -> str:
    """keccak256 of the pool key as the PoolManager encodes it."""
    addresses = (record["token0"]["address"], record["token1"]["address"])
    numbers = [int(each, 16) for each in addresses]
    numbers += [record["fee_pips"], record["tick_spacing"], int(record["hooks"], 16)]
    content = b"".join((number % 2**256).to_bytes(32, "big") for number in numbers)
    return "0x" + sha3.keccak_256(content).hexdigest()


def without(record: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != name}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "states.jsonl"


def test_every_field_of_the_three_protocols_is_read(file: Path) -> None:
    other = "0x" + "66" * 20
    content = read_state_file(write(file, v2(pool=other), v3(), v4()))
    assert content.invalid == {}
    pair = content.pools[bytes.fromhex("66" * 20)]
    assert (pair.spec.protocol, pair.spec.fee_pips, pair.values.block_number) == (0, 3000, 100)
    assert (pair.values.reserve0, pair.values.reserve1) == (5 * 10**21, 7)
    assert pair.spec.token0.address == b"\1" * 20
    assert (pair.spec.token1.decimals, pair.spec.token1.symbol) == (18, "TWO")
    pool = content.pools[b"\x88" * 20]
    assert (pool.spec.protocol, pool.spec.fee_pips, pool.spec.tick_spacing) == (1, 500, 10)
    assert (pool.values.sqrt_price_x96, pool.values.tick) == (ONE_X96, 0)
    assert pool.values.liquidity == 900
    assert pool.values.ticks == ((-20, 1000, 1000), (-10, 100, -100), (10, 900, -900))
    managed = content.pools[bytes.fromhex(v4()["pool"][2:])]
    assert (managed.spec.protocol, managed.values.lp_fee) == (2, 500)
    assert (managed.values.protocol_fee, managed.values.fee_block) == (0x3E83E8, 100)


@pytest.mark.parametrize(
    "change",
    [
        {"fee_pips": 3000},
        {"tick_spacing": 5},
        {"hooks": "0x" + "10" + "00" * 19},
        {"token0": {"address": "0x" + "00" * 20, "decimals": 18, "symbol": "ETH"}},
    ],
    ids=str,
)
def test_a_v4_pool_is_what_its_id_says(file: Path, change: dict[str, Any]) -> None:
    wrong = v4() | change
    content = read_state_file(write(file, v3(), wrong))
    (error,) = content.invalid.values()
    assert v4_id(wrong) in str(error)
    assert wrong["pool"] in str(error)
    assert list(content.pools) == [bytes.fromhex(POOL[2:])]


def test_fees_may_have_been_read_at_another_block(file: Path) -> None:
    (pool,) = read_state_file(write(file, v4(fee_block=93))).pools.values()
    assert (pool.values.block_number, pool.values.fee_block) == (100, 93)


@pytest.mark.parametrize(
    "name", ["v3", "V3", "uniswap_v3", "UniswapV3", "uniswapv3", "UNISWAP_V3", "Uniswap_V3"]
)
def test_protocol_names_are_accepted_in_every_usual_spelling(file: Path, name: str) -> None:
    (pool,) = read_state_file(write(file, v3(protocol=name))).pools.values()
    assert pool.spec.protocol == 1


@pytest.mark.parametrize(
    ("record", "protocol"),
    [(v2(protocol="sushiswap_v2"), 0), (v3(protocol="SushiV3"), 1)],
)
def test_forks_with_the_same_contracts_are_read_as_what_they_are(
    file: Path, record: dict[str, Any], protocol: int
) -> None:
    (pool,) = read_state_file(write(file, record)).pools.values()
    assert pool.spec.protocol == protocol


def test_a_name_that_says_a_storage_layout_has_no_place_in_a_state_file(file: Path) -> None:
    with pytest.raises(StateFileError, match="'pancakeswap_v3'; it is one of uniswap_v2"):
        read_state_file(write(file, v3(protocol="pancakeswap_v3")))


def test_headers_empty_lines_and_unknown_keys_are_no_obstacle(file: Path) -> None:
    content = read_state_file(
        write(file, {"head_block": 104, "note": "x"}, "", v3(colour="blue", status="live"))
    )
    assert content.head_block == 104
    assert len(content.pools) == 1


def test_head_block_without_header_is_the_newest_pool_block(file: Path) -> None:
    content = read_state_file(write(file, v3(), v4(block=107)))
    assert content.head_block == 107


def test_tokens_may_be_plain_addresses_with_decimals_beside_them(file: Path) -> None:
    record = v2(token0=TOKEN0["address"], token0_decimals=6, token1=TOKEN1["address"])
    (pool,) = read_state_file(write(file, record)).pools.values()
    assert (pool.spec.token0.decimals, pool.spec.token1.decimals) == (6, None)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "not valid JSON"),
        ("[1]", "a JSON list"),
        ('{"pool": 1.5}', "the number 1.5"),
        ('{"block": 1e3}', "the number 1e3"),
        ('{"block": NaN}', "the number NaN"),
        ('{"block": 1, "block": 2}', "the key `block` twice"),
        ('{"note": "neither"}', "neither `pool` nor `head_block`"),
        ('{"head_block": -1}', "`head_block` is -1"),
        (without(v3(), "block"), "no `block`"),
        (without(v3(), "ticks"), "no `ticks`"),
        (without(v3(), "protocol"), "no `protocol`"),
        (without(v3(), "fee_pips"), "no `fee_pips`"),
        (without(v3(), "token1"), "no `token1`"),
        (without(v2(), "reserve1"), "no `reserve1`"),
        (without(v4(), "hooks"), "no `hooks`"),
        (without(v4(), "lp_fee"), "no `lp_fee`"),
        (without(v4(), "protocol_fee"), "no `protocol_fee`"),
        (v3(protocol="uniswap_v5"), "`protocol` is 'uniswap_v5'"),
        (v3(protocol=3), "`protocol` is 3"),
        (v3(pool="0x1234"), "`pool` is '0x1234'"),
        (v3(pool="0x" + "zz" * 20), "`pool` is"),
        (v3(pool=None), "`pool` is a JSON NoneType"),
        (v3(block=True), "`block` is a JSON bool"),
        (v3(block="0x10"), "`block` is '0x10'"),
        (v3(block="١"), "`block` is"),
        (v3(block=1 << 64), "`block` is 18446744073709551616"),
        (v3(liquidity="9 00"), "`liquidity` is '9 00'"),
        (v3(liquidity="1" * 81), "`liquidity` is"),
        (v3(liquidity=-1), "`liquidity` is -1"),
        (v3(token0={"decimals": 6}), "`token0.address` is a JSON NoneType"),
        (v3(token0={**TOKEN0, "decimals": 256}), "`token0` decimals is 256"),
        (v3(token0={**TOKEN0, "symbol": 5}), "`token0.symbol` is a JSON int"),
        (v3(ticks={}), "`ticks` is a JSON dict"),
        (v3(ticks=[[1, 2]]), "`ticks[0]` is not a list of three"),
        (v3(ticks=[[-10, 5, None]]), "`ticks[0]` is a JSON NoneType"),
    ],
)
def test_a_malformed_line_refuses_the_file_with_place_and_finding(
    file: Path, line: dict[str, Any] | str, found: str
) -> None:
    with pytest.raises(StateFileError) as caught:
        read_state_file(write(file, v2(pool="0x" + "55" * 20), line))
    assert caught.value.path == str(file)
    assert caught.value.line == 2
    assert caught.value.found.startswith(found)
    assert caught.value.remedy
    assert f"{file}, line 2: {found}" in str(caught.value)


def test_the_same_pool_twice_is_refused_with_both_lines(file: Path) -> None:
    with pytest.raises(StateFileError, match=r"line 3: pool 0x8888.* again, first on line 1"):
        read_state_file(write(file, v3(), "", v3(block=101)))


@pytest.mark.parametrize("text", ["", "\n\n", '{"head_block": 5}\n'])
def test_a_file_without_pools_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(StateFileError, match="names no pool"):
        read_state_file(file)


def test_a_folder_is_refused_as_unreadable(tmp_path: Path) -> None:
    with pytest.raises(StateFileError, match="cannot be read"):
        read_state_file(tmp_path)


def test_a_line_beyond_the_limit_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps(v3())
    write(file, line)
    monkeypatch.setattr(state_lines, "MAX_LINE_NBYTES", len(line) + 1)
    assert len(read_state_file(file).pools) == 1
    monkeypatch.setattr(state_lines, "MAX_LINE_NBYTES", len(line))
    with pytest.raises(StateFileError, match=f"more than {len(line)} bytes"):
        read_state_file(file)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (v2(reserve0=1 << 112), "reserve0 5192296858534827628530496329220096 does not fit uint112"),
        (v2(reserve1=str(1 << 112)), "reserve1 5192296858534827628530496329220096 does not fit"),
        (v2(fee_pips=1_000_000), "fee_pips 1000000 is not in"),
        (v3(pool=POOL_ID), "key has 32 bytes, this protocol needs 20"),
        (v4(pool=POOL), "key has 20 bytes, this protocol needs 32"),
        (v3(fee_pips=1_000_000), "fee_pips 1000000 is not in [0, 999999]"),
        (v4(fee_pips=1_000_001), "fee_pips 1000001 is not in [0, 1000000]"),
        (v4(lp_fee=1_000_001), "lp_fee 1000001 is not in"),
        (v4(protocol_fee=1 << 24), "protocol_fee 16777216 does not fit 24 bits"),
        (v4(protocol_fee=1001), "protocol_fee half 1001"),
        (v4(protocol_fee=1001 << 12), "protocol_fee half 1001"),
        (v3(tick_spacing=0), "tick_spacing 0 is not in [1, 16383]"),
        (v3(tick_spacing=16384), "tick_spacing 16384 is not in [1, 16383]"),
        (v4(tick_spacing=32768), "tick_spacing 32768 is not in [1, 32767]"),
        (v3(sqrt_price_x96=0), "sqrt_price_x96 is 0"),
        (v3(sqrt_price_x96=4295128738), "sqrt_price_x96 4295128738 is not in"),
        (
            v3(sqrt_price_x96="1461446703485210103287273052203988822378723970342"),
            "sqrt_price_x96 1461446703485210103287273052203988822378723970342 is not in",
        ),
        (v3(sqrt_price_x96=ONE_X96 - 1), "tick 0 spans prices"),
        (v3(tick=1), "tick 1 spans prices"),
        (v3(tick=-2), "tick -2 spans prices"),
        (v3(tick=887272), "tick 887272 is not in"),
        (v3(liquidity=1 << 128), "liquidity 340282366920938463463374607431768211456 does not fit"),
        (v3(liquidity=901), "net of ticks at or below 0 sums to 900, liquidity is 901"),
        (v3(ticks=[]), "net of ticks at or below 0 sums to 0, liquidity is 900"),
        (v3(ticks=[[-10, 900, 900]]), "liquidity_net of all ticks sums to 900, not 0"),
        (v3(ticks=[[-15, 900, 900], [10, 900, -900]]), "tick -15 is not a multiple"),
        (v3(ticks=[[10, 900, -900], [-10, 900, 900]]), "tick -10 follows 10"),
        (v3(ticks=[[-10, 900, 900], [-10, 900, -900]]), "tick -10 follows -10"),
        (v3(ticks=[[-887280, 900, 900], [10, 900, -900]]), "tick -887280 is outside"),
        (v3(ticks=[[-10, 0, 0], [10, 900, -900]]), "tick -10: liquidity_gross 0"),
        (v3(ticks=[[-10, 1 << 128, 900], [10, 900, -900]]), "tick -10: liquidity_gross 3402"),
        (v3(ticks=[[-10, 899, 900], [10, 900, -900]]), "tick -10: |liquidity_net| 900 is above"),
        (v3(status="stale"), "stale"),
    ],
)
def test_a_pool_that_contradicts_itself_is_left_out_and_reported(
    file: Path, record: dict[str, Any], found: str
) -> None:
    good = "0x" + "55" * 20
    content = read_state_file(write(file, record, v2(pool=good)))
    key = bytes.fromhex(record["pool"][2:])
    assert list(content.pools) == [bytes.fromhex(good[2:])]
    assert content.invalid[key].found.startswith(found)
    assert record["pool"] in str(content.invalid[key])
    scrape = StateFile(file).read_pools([key, bytes.fromhex(good[2:])])
    assert [pool.spec.key for pool in scrape.pools] == [bytes.fromhex(good[2:])]
    assert [type(error) for error in scrape.invalid] == [PoolInvalid]


@pytest.mark.parametrize(
    "record",
    [
        v2(reserve0=(1 << 112) - 1, reserve1=0),
        v2(fee_pips=999_999),
        v4(fee_pips=0x800000, lp_fee=1_000_000, protocol_fee=1000 << 12 | 1000),
        # A swap that ended on tick 0 while the price fell left slot0 one tick lower; the liquidity
        # of tick 0 is out of range then.
        v3(tick=-1, ticks=[[-10, 900, 900], [0, 5, 5], [10, 905, -905]]),
        v3(tick=0, liquidity=905, ticks=[[-10, 900, 900], [0, 5, 5], [10, 905, -905]]),
        v3(liquidity=0, ticks=[]),
        v3(sqrt_price_x96=4295128739, tick=-887272, liquidity=0, ticks=[]),
        v3(
            sqrt_price_x96="1461446703485210103287273052203988822378723970341",
            tick=887271,
            liquidity=0,
            ticks=[],
        ),
    ],
)
def test_a_pool_at_the_edge_of_what_is_possible_is_accepted(
    file: Path, record: dict[str, Any]
) -> None:
    content = read_state_file(write(file, record))
    assert content.invalid == {}
    assert len(content.pools) == 1


def test_pools_are_listed_v2_first_whatever_the_order_of_lines(file: Path) -> None:
    scraper = StateFile(write(file, v4(), v3(), v2(pool="0x" + "55" * 20)))
    assert [spec.protocol for spec in scraper.list_pools()] == [0, 2, 1]


def test_a_rewritten_file_is_read_again(file: Path, tmp_path: Path) -> None:
    scraper = StateFile(write(file, v2()))
    key = b"\x88" * 20
    assert scraper.read_pools([key]).pools[0].values.block_number == 100
    write(tmp_path / "next", v2(block=105, reserve1=8)).rename(file)
    assert scraper.read_pools([key]).pools[0].values.reserve1 == 8
    assert scraper.get_current_block_number() == 105
    write(tmp_path / "next", v2(pool="0x" + "55" * 20)).rename(file)
    scrape = scraper.read_pools([key])
    assert scrape.pools == ()
    assert scrape.invalid[0].found == "no line"


def test_an_unchanged_file_keeps_the_time_it_was_read_first(file: Path) -> None:
    scraper = StateFile(write(file, v2()))
    first = scraper.read_pools([b"\x88" * 20]).as_of_ns
    assert first is not None
    assert scraper.read_pools([b"\x88" * 20]).as_of_ns == first
    assert 0 < first <= time.monotonic_ns()


def as_of_ns(scraper: StateFile) -> int:
    found = scraper.read_pools([b"\x88" * 20]).as_of_ns
    assert found is not None
    return found


def test_values_are_as_old_as_the_file_says(file: Path) -> None:
    write(file, v2())
    os.utime(file, ns=(time.time_ns(), time.time_ns() - 3_000_000_000))
    assert as_of_ns(StateFile(file)) <= time.monotonic_ns() - 3_000_000_000


def test_the_file_of_a_loss_is_never_new_and_the_next_one_is(file: Path, tmp_path: Path) -> None:
    scraper = StateFile(write(file, v2()))
    assert as_of_ns(scraper) > 0
    scraper.note_loss()
    assert as_of_ns(scraper) == 0
    lost_ns = time.monotonic_ns()
    time.sleep(0.02)  # the clock of a file system may lag behind
    write(tmp_path / "next", v2(block=101)).rename(file)
    assert as_of_ns(scraper) > lost_ns


def test_a_line_of_the_file_of_a_loss_is_never_new_whatever_is_beside_it(
    file: Path, tmp_path: Path
) -> None:
    scraper = StateFile(write(file, v2()))
    keys = [b"\x88" * 20, b"\x55" * 20]
    assert scraper.read_pools(keys[:1]).outdated == frozenset()
    scraper.note_loss()
    time.sleep(0.02)
    write(tmp_path / "next", v2(), v2(pool="0x" + "55" * 20, block=105)).rename(file)
    found = scraper.read_pools(keys)
    assert {each.spec.key for each in found.pools} == set(keys)
    assert found.outdated == {keys[0]}
    write(tmp_path / "next", *(v2(pool="0x" + each.hex(), block=106) for each in keys)).rename(file)
    assert scraper.read_pools(keys).outdated == frozenset()


def test_a_clock_set_back_makes_no_old_file_new_and_no_new_one_old(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hour_ns = 3_600_000_000_000
    scraper = StateFile(write(file, v2()))  # not read before the clock is set
    scraper.note_loss()
    lost_ns = time.monotonic_ns()
    real_ns = time.time_ns
    monkeypatch.setattr(statefile.time, "time_ns", lambda: real_ns() - hour_ns)
    assert as_of_ns(scraper) <= lost_ns
    time.sleep(0.02)
    write(tmp_path / "next", v2(block=101))
    os.utime(tmp_path / "next", ns=(0, statefile.time.time_ns()))
    (tmp_path / "next").rename(file)
    assert as_of_ns(scraper) > lost_ns


def exchanged(file: Path) -> StateFile:
    """Looked at once; a newer file is in its place now."""
    scraper = StateFile(write(file, v2()))
    assert as_of_ns(scraper) > 0
    write(file.with_name("next"), v2(block=101)).rename(file)
    return scraper


def test_a_clock_set_back_since_a_file_was_written_makes_it_no_younger(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scraper = exchanged(file)
    written_ns = time.monotonic_ns()
    os.utime(file, ns=(0, time.time_ns() - 5_000_000_000))
    real_ns = time.time_ns
    monkeypatch.setattr(statefile.time, "time_ns", lambda: real_ns() - 4_000_000_000)
    assert as_of_ns(scraper) <= written_ns - 5_000_000_000


def test_a_clock_set_ahead_and_back_between_two_looks_makes_no_file_younger(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scraper = exchanged(file)
    os.utime(file, ns=(0, time.time_ns() + 11_000_000_000))  # so far ahead was the clock
    written_ns = time.monotonic_ns()
    time.sleep(0.3)
    real_ns = time.time_ns
    monkeypatch.setattr(statefile.time, "time_ns", lambda: real_ns() + 10_800_000_000)
    assert as_of_ns(scraper) <= written_ns


def test_a_file_from_the_future_counts_from_when_another_was_seen(
    file: Path, tmp_path: Path
) -> None:
    future_ns = time.time_ns() + 3_600_000_000_000
    scraper = StateFile(write(file, v2()))
    os.utime(file, ns=(0, future_ns))
    assert as_of_ns(scraper) == 0, "nothing says since when it has been there"
    scraper.note_loss()
    lost_ns = time.monotonic_ns()
    assert as_of_ns(scraper) == 0
    write(tmp_path / "next", v2(block=101))
    os.utime(tmp_path / "next", ns=(0, future_ns + 1))
    (tmp_path / "next").rename(file)
    assert as_of_ns(scraper) > lost_ns - 1_000_000_000


def touch(file: Path, lines: list[dict[str, Any]]) -> None:
    os.utime(file)


def touch_ahead(file: Path, lines: list[dict[str, Any]]) -> None:
    os.utime(file, ns=(0, time.time_ns() + 7_200_000_000_000))


def write_again(file: Path, lines: list[dict[str, Any]]) -> None:
    write(file.with_suffix(".part"), *lines).rename(file)


def write_over(file: Path, lines: list[dict[str, Any]]) -> None:
    write(file, *lines)


def write_in_another_form(file: Path, lines: list[dict[str, Any]]) -> None:
    texts = [json.dumps(dict(reversed(line.items()))) for line in reversed(lines)]
    write(file.with_suffix(".part"), "", *(text.replace(":", " :  ") for text in texts)).rename(
        file
    )


def write_with_another_note(file: Path, lines: list[dict[str, Any]]) -> None:
    write_again(file, [line | {"written_at": time.time_ns()} for line in lines])


def put_an_older_one_in_its_place(file: Path, lines: list[dict[str, Any]]) -> None:
    write_again(file, [line | {"block": 99, "reserve1": 5} for line in lines])


def change_at_the_same_block(file: Path, lines: list[dict[str, Any]]) -> None:
    write_again(file, [line | {"reserve1": 5} for line in lines])


@pytest.mark.parametrize("is_read_before", [True, False])
@pytest.mark.parametrize(
    "change",
    [
        touch,
        touch_ahead,
        write_again,
        write_over,
        write_in_another_form,
        write_with_another_note,
        put_an_older_one_in_its_place,
        change_at_the_same_block,
    ],
)
def test_after_a_loss_only_a_file_that_reached_a_higher_block_is_new(
    file: Path, change: Callable[[Path, list[dict[str, Any]]], None], is_read_before: bool
) -> None:
    lines = [v2(), v2(pool="0x" + "55" * 20)]
    scraper = StateFile(write(file, v2(block=98)))
    assert as_of_ns(scraper) > 0
    write_again(file, lines)
    if is_read_before:
        assert as_of_ns(scraper) > 0
    scraper.note_loss()
    lost_ns = time.monotonic_ns()
    time.sleep(0.02)  # the clock of a file system may lag behind
    for _ in range(2):
        change(file, lines)
        assert as_of_ns(scraper) <= lost_ns
    write_again(file, [{"head_block": 101}, *lines])
    assert as_of_ns(scraper) > lost_ns
    scraper.close()


def test_a_link_led_back_to_what_was_read_before_leads_to_no_new_file(
    file: Path, tmp_path: Path
) -> None:
    files = [write(tmp_path / name, v2(block=block)) for name, block in (("a", 100), ("b", 99))]

    def lead_to(target: Path) -> None:
        (tmp_path / "link").symlink_to(target)
        (tmp_path / "link").rename(file)

    lead_to(files[0])
    scraper = StateFile(file)
    first_ns = as_of_ns(scraper)
    time.sleep(0.02)
    for target in (*files[::-1], *files[::-1]):
        os.utime(target)
        lead_to(target)
        assert (as_of_ns(scraper) == first_ns) == (target == files[0])
    scraper.note_loss()
    lost_ns = time.monotonic_ns()
    time.sleep(0.02)
    for target in (*files[::-1], *files[::-1]):
        os.utime(target)
        lead_to(target)
        assert as_of_ns(scraper) <= lost_ns


def test_a_file_begun_before_a_loss_is_not_new_when_it_is_whole(file: Path, tmp_path: Path) -> None:
    scraper = StateFile(write(file, v2()))
    assert as_of_ns(scraper) > 0
    whole = json.dumps(v2(block=105))
    file.write_text(whole[:50])
    scraper.note_loss()
    with pytest.raises(StateFileError):
        scraper.read_pools([b"\x88" * 20])
    lost_ns = time.monotonic_ns()
    time.sleep(0.02)
    file.write_text(whole)
    assert as_of_ns(scraper) <= lost_ns
    write(tmp_path / "next", v2(block=106)).rename(file)
    assert as_of_ns(scraper) > lost_ns


def test_half_a_file_at_a_loss_does_not_keep_the_next_one_out(file: Path, tmp_path: Path) -> None:
    scraper = StateFile(write(file, v2()))
    assert as_of_ns(scraper) > 0
    file.write_text("{")
    for _ in range(3 * statefile.MAX_LYING):
        file.write_text(file.read_text() + " ")
        scraper.note_loss()
    lost_ns = time.monotonic_ns()
    time.sleep(0.02)
    write(tmp_path / "next", v2(block=101)).rename(file)
    assert as_of_ns(scraper) > lost_ns


def test_touching_a_file_makes_its_values_no_newer(file: Path) -> None:
    """A revert that came in between reaches them."""
    scraper = StateFile(write(file, v2()))
    first = as_of_ns(scraper)
    time.sleep(0.02)
    for change in (touch, write_again, write_in_another_form):
        change(file, [v2()])
        assert as_of_ns(scraper) == first
    write_again(file, [v2(reserve1=8)])
    assert as_of_ns(scraper) > first


def test_listing_waits_for_a_file_that_does_not_exist_yet(file: Path, tmp_path: Path) -> None:
    scraper = StateFile(file, wait_s=60)

    def appear() -> None:
        write(tmp_path / "next", v2()).rename(file)

    timer = threading.Timer(0.1, appear)
    timer.start()
    assert len(scraper.list_pools()) == 1
    timer.join()


def test_listing_waits_while_the_file_is_still_being_written(file: Path) -> None:
    scraper = StateFile(file, wait_s=60)
    whole = json.dumps(v2())
    file.write_text(whole[:50])
    timer = threading.Timer(0.1, lambda: file.write_text(whole))
    timer.start()
    assert len(scraper.list_pools()) == 1
    timer.join()


def test_a_file_that_never_appears_is_refused_with_the_remedy(file: Path) -> None:
    with pytest.raises(StateFileError, match=r"does not exist after 0\.1 s.*--scrape-timeout"):
        StateFile(file, wait_s=0.1).list_pools()


def test_a_wrong_file_that_stands_still_is_refused_before_the_time_is_up(file: Path) -> None:
    with pytest.raises(StateFileError, match="line 1"):
        StateFile(write(file, "{"), wait_s=3600).list_pools()


def test_close_ends_the_waiting(file: Path) -> None:
    scraper = StateFile(file, wait_s=3600)
    timer = threading.Timer(0.05, scraper.close)
    timer.start()
    with pytest.raises(StateFileError, match="cancelled"):
        scraper.list_pools()
    timer.join()
