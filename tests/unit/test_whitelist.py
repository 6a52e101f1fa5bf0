"""Pool lists in every shape their publishers use, and what is refused, entry by entry.

The messages are captured ones (tests/data/wire/whitelist); what each pool is stands in them too, in
another shape, and is compared across shapes. V4 pools come from the recorded V4 chain as well.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from arena.errors import PoolEntryInvalid, PoolListError
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec
from arena.writer.host.versions import file_signature
from arena.writer.lists.pool_list import PoolList, parse_pool_list, read_pool_list
from arena.writer.protocols.entry import pool_record
from arena.writer.protocols.storage import PoolTarget
from arena.writer.protocols.uniswap_v3 import PANCAKESWAP_V3_FACTORIES, V3_LAYOUT

PAIR = "0x028d3b9c77b31bff265b211fc068f51aadbb46f0"
POOL = "0xa7cb6c9ce55b9c03f4b89d419a3f8bd8654bb462"
POOL_ID = "0x8968be2ca9290f9a553d64bd7a9383f875a7880d308620cb49569b593a621809"
MANAGER = "0x000000000004444c5dc75cb358380d2e3de08a90"
LOW, HIGH = "0x" + "11" * 20, "0x" + "22" * 20
FULL_LISTS = (
    "full/full",
    "legacy publisher full (raw pools)",
    "canonical full (as the ExEx at HEAD consumes it)",
)


@pytest.fixture(scope="module")
def messages(data_dir: Path) -> dict[str, Any]:
    listed = json.loads((data_dir / "wire" / "whitelist" / "messages.json").read_text())
    return {item["what"]: json.loads(item["payload"]) for item in listed}


def v3(**changed: Any) -> dict[str, Any]:
    """A good V3 entry with changes; ... removes a field."""
    entry: dict[str, Any] = {"address": POOL, "protocol": "uniswap_v3", "token0": LOW}
    entry |= {"token1": HIGH, "fee": 500, "tick_spacing": 10} | changed
    return {name: value for name, value in entry.items() if value is not ...}


def v4(**changed: Any) -> dict[str, Any]:
    entry = v3(address=MANAGER, pool_id=POOL_ID, protocol="uniswap_v4") | changed
    return {name: value for name, value in entry.items() if value is not ...}


def parse(*entries: Any) -> PoolList:
    return parse_pool_list(list(entries), name="pools")


def only(*entries: Any) -> PoolSpec:
    found = parse(*entries)
    assert found.refused == ()
    assert len(found.targets) == 1
    return found.targets[0].spec


@pytest.mark.parametrize("what", FULL_LISTS)
def test_full_lists_of_every_publisher_name_the_same_pools(
    messages: dict[str, Any], what: str
) -> None:
    found = parse_pool_list(messages[what], name=what, chain="ethereum")
    assert found.refused == ()
    specs = {"0x" + target.spec.key.hex(): target.spec for target in found.targets}
    pair, pool, id_pool = specs[PAIR], specs[POOL], specs[POOL_ID]
    assert (pair.protocol, pair.fee_pips, pair.tick_spacing) == (UNISWAP_V2, 3000, 0)
    assert (pool.protocol, pool.fee_pips, pool.tick_spacing) == (UNISWAP_V3, 500, 200)
    assert (id_pool.protocol, id_pool.fee_pips, id_pool.tick_spacing) == (UNISWAP_V4, 8388608, 200)
    assert "0x" + pair.token0.address.hex() == "0xb8326fa75d76fbed1d343a009f7e4a907c9e2ae2"
    assert "0x" + pool.token1.address.hex() == "0x2492d76dc3bb7727038915d33112d70a2ec808fe"
    assert (pool.token0.decimals, pool.token1.decimals) == (6, 18)
    assert id_pool.token0.address == bytes(20)
    assert ("0x" + id_pool.factory.hex(), id_pool.hooks) == (MANAGER, bytes(20))
    assert {target.address for target in found.targets if target.spec is id_pool} == {
        bytes.fromhex(MANAGER[2:])
    }


@pytest.mark.parametrize("what", ["add/full (same shape as full/full)", "canonical add"])
def test_additions_are_lists_too(messages: dict[str, Any], what: str) -> None:
    keys = {
        "0x" + target.spec.key.hex() for target in parse_pool_list(messages[what], name="x").targets
    }
    assert {
        "0xb57091544b78e45808ad66f8a4c3fa06f47a4799",
        "0x40c2d8867fb5977d87d3562dbf9b8a7e01e18a905dcdf2a293898dba974f384c",
    } <= keys


@pytest.mark.parametrize("what", ["remove/full", "remove/minimal", "canonical remove"])
def test_removals_are_no_lists(messages: dict[str, Any], what: str) -> None:
    with pytest.raises(PoolListError, match="removes pools"):
        parse_pool_list(messages[what], name="x")


@pytest.mark.parametrize("what", ["full/minimal", "legacy publisher minimal (no type)"])
def test_identities_alone_are_not_enough(messages: dict[str, Any], what: str) -> None:
    with pytest.raises(PoolListError, match="only an identity"):
        parse_pool_list(messages[what], name="x")


def test_a_list_of_another_chain_is_refused(messages: dict[str, Any]) -> None:
    with pytest.raises(PoolListError, match="'ethereum'"):
        parse_pool_list(messages["full/full"], name="x", chain="base")


def test_v4_pools_of_the_recorded_chain_have_their_parts(data_dir: Path) -> None:
    with gzip.open(data_dir / "evm" / "v4_chain.jsonl.gz", "rt") as lines:
        meta = json.loads(next(lines))
    entries = [
        {
            "pool_id": key,
            "protocol": "UniswapV4",
            "address": meta["poolManager"],
            "token0": pool["currency0"],
            "token1": pool["currency1"],
            "fee": int(pool["fee"]),
            "tick_spacing": int(pool["tickSpacing"]),
            "hooks": pool["hooks"],
        }
        for key, pool in meta["pools"].items()
    ]
    found = parse(*entries)
    assert found.refused == ()
    assert len(found.targets) == 14
    for entry, target in zip(entries, found.targets, strict=True):
        assert "0x" + target.spec.key.hex() == entry["pool_id"]
        assert "0x" + target.spec.hooks.hex() == entry["hooks"]
        assert "0x" + target.address.hex() == meta["poolManager"]


@pytest.mark.parametrize(
    ("name", "protocol", "layout"),
    [
        ("v3", UNISWAP_V3, "uniswap_v3"),
        ("uniswap_v3", UNISWAP_V3, "uniswap_v3"),
        ("UniswapV3", UNISWAP_V3, "uniswap_v3"),
        ("UNISWAP-V3", UNISWAP_V3, "uniswap_v3"),
        ("pancakeswap_v3", UNISWAP_V3, "pancakeswap_v3"),
        ("PancakeSwapV3", UNISWAP_V3, "pancakeswap_v3"),
        ("v2", UNISWAP_V2, "uniswap_v2"),
        ("uniswap_V2", UNISWAP_V2, "uniswap_v2"),
        ("sushiswap_v2", UNISWAP_V2, "uniswap_v2"),
        ("SushiSwap V2", UNISWAP_V2, "uniswap_v2"),
        ("sushi-v2", UNISWAP_V2, "uniswap_v2"),
        ("sushiswap_v3", UNISWAP_V3, "uniswap_v3"),
        ("SushiV3", UNISWAP_V3, "uniswap_v3"),
    ],
)
def test_names_of_protocols(name: str, protocol: int, layout: str) -> None:
    found = parse(v3(protocol=name)).targets[0]
    assert (found.spec.protocol, found.layout.name) == (protocol, layout)


def test_a_pair_of_a_fork_is_written_as_what_it_is() -> None:
    target = parse(v3(protocol="sushiswap_v2")).targets[0]
    assert pool_record(target)["protocol"] == "uniswap_v2"
    assert (target.spec.protocol, target.spec.fee_pips) == (UNISWAP_V2, 500)
    assert only(v3(protocol="sushiswap_v2", fee=...)).fee_pips == 3000


def test_a_name_without_a_version_says_too_little() -> None:
    (error,) = parse(v3(address=PAIR), v3(protocol="sushiswap")).refused
    assert "sushiswap_v2, sushiswap_v3" in error.remedy


def test_the_layout_follows_a_known_factory_without_its_name() -> None:
    factory = "0x" + next(iter(PANCAKESWAP_V3_FACTORIES)).hex()
    assert parse(v3(factory=factory)).targets[0].layout.name == "pancakeswap_v3"
    assert parse(v3(factory=LOW)).targets[0].layout.name == "uniswap_v3"


def test_identities_are_bytes_whatever_their_spelling() -> None:
    for spelling in (POOL, POOL[2:], POOL.upper().replace("0X", "0x"), POOL.upper()):
        assert only(v3(address=spelling)).key.hex() == POOL[2:]
    assert only(v4(pool_id=POOL_ID.upper(), address=...)).key.hex() == POOL_ID[2:]


def test_the_manager_is_address_or_factory_or_the_usual_one() -> None:
    for entry in (v4(address=LOW), v4(address=LOW, factory=LOW), v4(address=..., factory=LOW)):
        assert only(entry).factory.hex() == LOW[2:]
    unnamed = v4(address=...)
    for entry in (
        unnamed,
        v4(address=POOL_ID, pool_id=...),
        v4(address=..., id=POOL_ID, pool_id=...),
    ):
        assert only(entry).factory.hex() == MANAGER[2:]


def test_tokens_are_addresses_or_objects() -> None:
    spec = only(
        v3(
            token0=LOW,
            token0_decimals=6,
            token1={"address": HIGH, "decimals": 8, "symbol": "ü" * 40},
        )
    )
    assert (spec.token0.address.hex(), spec.token0.decimals, spec.token0.symbol) == (
        "11" * 20,
        6,
        "",
    )
    assert (spec.token1.decimals, spec.token1.symbol) == (8, "ü" * 16)
    assert only(v3()).token0.decimals is None


def test_a_v2_fee_is_kept_and_the_usual_one_without() -> None:
    assert only(v3(protocol="v2", fee=2500)).fee_pips == 2500
    assert only(v3(protocol="v2", fee=...)).fee_pips == 3000


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (7, "a int"),
        (None, "a NoneType"),
        (POOL, "only an identity"),
        ({}, "no identity"),
        (v3(address="0x12"), "`address` is '0x12'"),
        (v3(address="0x" + "zz" * 20), "`address`"),
        (v3(address=POOL_ID), "has 32 bytes"),
        (v3(address=12), "`address` is 12"),
        (v3(protocol=...), "`protocol` is missing"),
        (v3(protocol="ekubo"), "`protocol` is 'ekubo'"),
        (v3(protocol="curve_stable"), "`protocol` is 'curve_stable'"),
        (v3(protocol=3), "`protocol` is 3"),
        (v3(fee=...), "no `fee`"),
        (v3(fee=1_000_000), "`fee` is 1000000"),
        (v3(fee=-1), "`fee` is -1"),
        (v3(fee="500"), "`fee` is '500'"),
        (v3(fee=True), "`fee` is True"),
        (v3(tick_spacing=...), "no `tick_spacing`"),
        (v3(tick_spacing=0), "`tick_spacing` is 0"),
        (v3(tick_spacing=16384), "`tick_spacing` is 16384"),
        (v3(token0=...), "no `token0`"),
        (v3(token1="0x"), "`token1` is '0x'"),
        (v3(token1={}), "`token1.address` is missing"),
        (v3(token1={"address": HIGH, "decimals": 256}), "decimals of token1"),
        (v3(token1={"address": HIGH, "symbol": 1}), "`token1.symbol`"),
        (v3(token0_decimals="18"), "decimals of token0"),
        (v3(factory="0x1"), "`factory`"),
        (v4(pool_id=...), "identity of 20 bytes"),
        (v4(pool_id=POOL), "identity of 20 bytes"),
        (v4(factory=LOW), "`address` and `factory` differ"),
        (v4(hooks="0x00"), "`hooks`"),
        (v4(fee=1_000_001), "`fee` is 1000001"),
        (v4(fee=0x800001), "`fee` is 8388609"),
        (v4(tick_spacing=32768), "`tick_spacing` is 32768"),
    ],
    ids=str,
)
def test_an_entry_is_refused_by_itself(entry: Any, found: str) -> None:
    good = v3(address=PAIR)
    result = parse(good, entry, v3(address=LOW))
    assert ["0x" + target.spec.key.hex() for target in result.targets] == [PAIR, LOW]
    (error,) = result.refused
    assert isinstance(error, PoolEntryInvalid)
    assert error.entry == 2
    assert found in error.found
    assert "pools, entry 2" in str(error)


@pytest.mark.parametrize("fee", [1_000_000, 0x800000, 0])
def test_fees_v4_allows(fee: int) -> None:
    assert only(v4(fee=fee, tick_spacing=32767)).fee_pips == fee


def test_a_pool_named_twice_stands_once() -> None:
    found = parse(v3(), v3(address=PAIR), v3(address=POOL.upper(), fee=3000))
    assert [target.spec.fee_pips for target in found.targets] == [500, 500]
    assert found.refused[0].entry == 3
    assert "entry 1 again" in str(found.refused[0])


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([], "no usable pool"),
        ({"pools": []}, "no usable pool"),
        ({}, "no `pools`"),
        ({"pools": {}}, "a dict"),
        ("pools", "a str"),
        ([v3(fee=-1)], "all 1 entries are refused"),
    ],
    ids=str,
)
def test_a_list_without_a_pool_is_refused(content: Any, found: str) -> None:
    with pytest.raises(PoolListError, match=found):
        parse_pool_list(content, name="x")


def test_files_are_json_or_toml(tmp_path: Path) -> None:
    as_json, as_toml = tmp_path / "pools.json", tmp_path / "pools.toml"
    as_json.write_text(json.dumps({"pools": [v3(), v4()]}))
    as_toml.write_text(
        f"""
        chain = "ethereum"
        [[pools]]
        address = "{POOL}"
        protocol = "v3"
        token0 = "{LOW}"
        token1 = {{ address = "{HIGH}" }}
        fee = 500
        tick_spacing = 10
        [[pools]]
        pool_id = "{POOL_ID}"
        protocol = "v4"
        token0 = "{LOW}"
        token1 = "{HIGH}"
        fee = 500
        tick_spacing = 10
        """
    )
    assert read_pool_list(as_json) == read_pool_list(as_toml, chain="ethereum")
    assert len(read_pool_list(as_json).targets) == 2


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.json", b"[{", "not valid JSON"),
        ("a.toml", b"[[", "not valid TOML"),
        ("b.toml", b"\xff", "not valid TOML"),
        ("b.json", b"", "not valid JSON"),
        ("none.json", None, "cannot be read: No such file"),
    ],
)
def test_files_that_are_no_lists(
    tmp_path: Path, name: str, content: bytes | None, found: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PoolListError, match=found) as caught:
        read_pool_list(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


def test_toml_too_deep_to_parse_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text("pools = " + "[" * 10_000)
    with pytest.raises(PoolListError, match="not valid TOML"):
        read_pool_list(path)


def test_a_signature_tells_versions_of_a_file_apart(tmp_path: Path) -> None:
    path, other = tmp_path / "pools.json", tmp_path / "other"
    assert file_signature(path) is None
    path.write_text("1")
    first = file_signature(path)
    assert first is not None
    assert file_signature(path) == first
    other.write_text("1")
    other.rename(path)
    assert file_signature(path) not in (None, first)
    path.write_text("12")
    assert file_signature(path) not in (None, first)


def test_a_target_no_entry_describes_is_not_written() -> None:
    spec = only(v3(factory="0x" + next(iter(PANCAKESWAP_V3_FACTORIES)).hex()))
    with pytest.raises(ValueError, match="factory"):
        pool_record(PoolTarget(spec, V3_LAYOUT))
