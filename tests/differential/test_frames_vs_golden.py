"""The tests' frame encoder against streams written with the producer's own types.

Each recorded message that the encoder can express is built anew from its meaning (the JSON) and
compared with the recorded bytes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from builders.frames import Exex, Seed
from chains.evm_data import Block, Event

GOLDEN = Path(__file__).resolve().parent.parent / "data" / "wire" / "golden"
_PROTOCOLS = {"UniswapV2": "uniswap_v2", "UniswapV3": "uniswap_v3", "UniswapV4": "uniswap_v4"}


def _frames(name: str) -> list[tuple[dict[str, Any], bytes]]:
    raw = (GOLDEN / f"{name}.bin").read_bytes()
    described = json.loads((GOLDEN / f"{name}.json").read_text())["frames"]
    return [(f["message"], raw[f["offset"] : f["offset"] + 4 + f["len"]]) for f in described]


def _signed_sides(amount0: int, amount1: int) -> dict[str, int]:
    sides: dict[str, int] = {}
    for name, amount in (("amount0", amount0), ("amount1", amount1)):
        sides |= {name + "In": max(amount, 0), name + "Out": max(-amount, 0)}
    return sides


def _slot0(update: dict[str, Any]) -> dict[str, int]:
    return {
        "sqrtPriceX96": int(update["sqrt_price_x96"]),
        "liquidity": int(update["liquidity"]),
        "tick": int(update["tick"]),
    }


def _range_change(protocol: str, kind: str, update: dict[str, Any]) -> tuple[str, dict[str, int]]:
    ticks = {"tickLower": int(update["tick_lower"]), "tickUpper": int(update["tick_upper"])}
    delta = int(update["liquidity_delta"])
    if protocol == "uniswap_v4":
        return "ModifyLiquidity", ticks | {"liquidityDelta": delta}
    return kind, ticks | {"amount": -delta if kind == "Burn" else delta}


def _exex_event(message: dict[str, Any]) -> Event | None:
    event = message["event"]
    update = event["update"]
    variant = update["type"]
    protocol = _PROTOCOLS.get(event["protocol"], "")
    kind = event["update_type"]
    args: dict[str, int]
    if variant == "V2Sync":
        kind, args = "Sync", {n: int(update[n]) for n in ("reserve0", "reserve1")}
    elif variant == "V2Swap":
        args = _signed_sides(int(update["amount0"]), int(update["amount1"]))
    elif variant == "V2Liquidity":
        sign = -1 if kind == "Burn" else 1
        args = {n: sign * int(update[n]) for n in ("amount0", "amount1")}
    elif variant in ("V3Swap", "V4Swap"):
        args = _slot0(update)
    elif variant in ("V3Liquidity", "V4Liquidity"):
        kind, args = _range_change(protocol, kind, update)
    else:
        return None
    key = event["pool_id"]["value"]
    return Event(protocol, kind, key, key, int(event["tx_index"]), int(event["log_index"]), 0, args)


def _bare_block(number: int, timestamp: int = 0) -> Block:
    return Block(number, "", "", timestamp, ())


def _range(bounds: dict[str, Any]) -> list[Block]:
    if bounds["first_block"] is None:
        return []
    return [_bare_block(n) for n in range(bounds["first_block"], bounds["last_block"] + 1)]


def _encode_exex(message: dict[str, Any], *, v2_deltas: bool) -> bytes | None:
    encoder = Exex(
        first_seq=int(message.get("stream_seq", 0)),
        base_fee=int(message.get("base_fee_per_gas", 0)),
        v2_deltas=v2_deltas,
    )
    if message["type"] == "BeginBlock":
        number, timestamp = int(message["block_number"]), int(message["block_timestamp"])
        return encoder.begin(number, timestamp, is_revert=message["is_revert"])
    if message["type"] == "EndBlock":
        return encoder.end(int(message["block_number"]), int(message["num_updates"]))
    if message["type"] == "ReorgStart":
        return encoder.reorg_start(_range(message["old_range"]), _range(message["new_range"]))
    if message["type"] == "ReorgComplete":
        return encoder.reorg_complete(int(message["final_tip_block"]))
    if message["type"] == "ReorgEpilogue":
        return _encode_epilogue(encoder, message)
    if message["type"] == "PoolUpdate" and (event := _exex_event(message)) is not None:
        facts = message["event"]
        block = _bare_block(int(facts["block_number"]), int(facts["block_timestamp"]))
        return encoder.update(event, block, is_revert=facts["is_revert"])
    return None


def _encode_epilogue(encoder: Exex, message: dict[str, Any]) -> bytes | None:
    update = message["update"]
    tip = int(message["final_tip_block"])
    if update["type"] == "V2ReservesFinal":
        reserves = {name: int(update[name]) for name in ("reserve0", "reserve1")}
        return encoder.v2_reserves_final(update["pool_id"]["value"], reserves, tip)
    if update["type"] == "Slot0Final" and update["protocol"] in _PROTOCOLS:
        key = update["pool_id"]["value"]
        event = Event(_PROTOCOLS[update["protocol"]], "Swap", key, key, 0, 0, 0, {})
        return encoder.slot0_final(event, _slot0(update["state"]), tip)
    return None


@pytest.mark.parametrize(
    ("name", "v2_deltas", "least"),
    [
        ("exex_g15_f96e411", False, {"V2Sync", "V2ReservesFinal"}),
        ("exex_g15_f96e411_seqwrap", False, set()),
        ("exex_g14_818a3fb", True, {"V2Swap", "V2Liquidity"}),
        ("exex_g13_ea02e7a", True, {"V2Swap", "V2Liquidity"}),
    ],
)
def test_exex_frames_are_the_producers(name: str, v2_deltas: bool, least: set[str]) -> None:
    compared = set()
    for message, expected in _frames(name):
        built = _encode_exex(message, v2_deltas=v2_deltas)
        if built is None:
            continue
        if message["type"] == "ReorgEpilogue":
            # The encoder writes final_tip_timestamp 0; the recording carries one.
            assert int.from_bytes(expected[24:32], "little") == message["final_tip_timestamp"]
            expected = expected[:24] + bytes(8) + expected[32:]
        assert built == expected, message
        update = message.get("update") or message.get("event", {}).get("update", {})
        compared |= {message["type"], update.get("type")}
    assert compared >= least | {"BeginBlock", "EndBlock"}
    if name != "exex_g15_f96e411_seqwrap":
        assert compared >= {"V3Swap", "V3Liquidity", "V4Swap", "V4Liquidity", "Slot0Final"}
        assert compared >= {"ReorgStart", "ReorgComplete", "ReorgEpilogue"}


def _seed_event(facts: dict[str, Any]) -> Event | None:
    protocol, kind = facts["protocol"], facts["event_type"]
    if protocol == "uniswap_v4" and facts["pool_id"] is None:
        return None  # a defect sent on purpose
    given = {name for name, value in facts.items() if value is not None}
    args: dict[str, int] = {n: int(facts[n]) for n in ("amount0", "amount1")}
    slot0 = {"sqrt_price_x96", "tick", "liquidity"}
    change = {"tick_lower", "tick_upper", "liquidity_delta"}
    if protocol == "uniswap_v2" and kind in ("Swap", "Mint", "Burn"):
        if kind == "Swap":
            args = _signed_sides(args["amount0"], args["amount1"])
    elif protocol in ("uniswap_v3", "uniswap_v4") and kind == "Swap" and given >= slot0:
        args |= _slot0(facts)
    elif kind in ("Mint", "Burn", "ModifyLiquidity") and given >= change:
        delta = int(facts["liquidity_delta"])
        args |= {"tickLower": int(facts["tick_lower"]), "tickUpper": int(facts["tick_upper"])}
        args |= {"amount": delta, "liquidityDelta": delta}
    else:
        return None
    if min(int(facts["amount0"]), int(facts["amount1"])) < 0 and kind == "Burn":
        return None
    key = facts["pool_id"] or facts["pool_address"]
    place = int(facts["transaction_index"]), int(facts["log_index"])
    return Event(protocol, kind, key, facts["pool_address"], *place, 0, args)


@pytest.mark.parametrize("name", ["seed_v0_tagged", "seed_v0_indexed"])
def test_seed_frames_are_the_serializers(name: str) -> None:
    encoder = Seed(tagged=name.endswith("tagged"))
    compared = set()
    for message, expected in _frames(name):
        if message["type"] == "BeginBlock":
            built = encoder.begin(message["block_number"], is_revert=message["is_revert"])
        elif message["type"] == "EndBlock":
            built = encoder.end(message["block_number"], message["num_updates"])
        else:
            facts = message["event"]
            event = _seed_event(facts)
            if event is None:
                continue
            block = _bare_block(int(facts["block_number"]))
            update = encoder.update(event, block, is_revert=facts["is_revert"])
            assert update is not None
            built = update
            compared.add((facts["protocol"], facts["event_type"]))
        assert built == expected, message
    assert compared == {
        *(("uniswap_v2", kind) for kind in ("Swap", "Mint", "Burn")),
        *(("uniswap_v3", kind) for kind in ("Swap", "Mint", "Burn")),
        *(("uniswap_v4", kind) for kind in ("Swap", "ModifyLiquidity")),
    }
