"""What the tests' producer makes of a node's logs, against getters, receipts and the wire oracle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chains.market import Market
from chains.process import Node
from chains.producer import NodeProducer
from oracle import wire_oracle
from oracle.chain_oracle import ChainOracle, from_record, plain

pytestmark = pytest.mark.node


@pytest.fixture
def market(tmp_path: Path) -> Iterator[Market]:
    with Node(tmp_path) as node:
        made = Market(node, seed=11)
        made.create_pools(v2=6, v3=6, v4=6, cake=6)
        yield made


def messages(stream: bytes) -> list[dict[str, Any]]:
    return [wire_oracle.decode(payload, "exex") for payload in wire_oracle.frames(stream)]


def following(market: Market) -> NodeProducer:
    """A producer that has sent the newest block."""
    producer = NodeProducer(market)
    producer.follow()
    return producer


def oracle_at(market: Market) -> ChainOracle:
    states = market.states()
    return ChainOracle(
        {
            key: from_record(state | {"sqrtPriceX96": state.get("sqrt_price_x96")})
            for key, state in states.items()
        }
    )


def read_by(market: Market) -> dict[str, Any]:
    """States by the getters, without the fees, of which no event tells."""
    return {
        key: {name: value for name, value in state.items() if not name.endswith("_fee")}
        for key, state in market.states().items()
    }


def test_events_lead_from_each_state_to_the_next(market: Market) -> None:
    producer, oracle = following(market), oracle_at(market)
    for _ in range(15):
        market.step(20)
        producer.follow()
        oracle.apply_block(producer.chain[-1])
        assert {key: plain(pool) for key, pool in oracle.pools.items()} == read_by(market)
    assert not oracle.failed
    seen = {(event.protocol, event.kind) for block in producer.chain for event in block.events}
    assert seen == {
        ("uniswap_v2", "Sync"),
        *(("uniswap_v3", kind) for kind in ("Swap", "Mint", "Burn")),
        *(("uniswap_v4", kind) for kind in ("Swap", "ModifyLiquidity", "ProtocolFeeUpdated")),
    }


def test_log_index_is_the_position_in_the_receipt(market: Market) -> None:
    producer = following(market)
    header = market.step(40)
    producer.follow()
    block = market.node.call("eth_getBlockByHash", header["hash"], False)
    receipts = market.node.batch(
        [("eth_getTransactionReceipt", (item,)) for item in block["transactions"]]
    )
    events = producer.chain[-1].events
    assert len(events) > 20
    assert any(event.log_index for event in events)
    for event in events:
        log = receipts[event.tx_index]["logs"][event.log_index]
        assert (log["address"].lower(), int(log["logIndex"], 16)) == (
            event.emitter,
            event.block_log_index,
        )


def test_blocks_come_in_order_empty_ones_too(market: Market) -> None:
    producer = following(market)
    market.step(10)
    first = producer.chain[-1].number + 1
    market.node.mine()
    found = messages(producer.follow())
    sequence = [int(m["stream_seq"]) for m in found]
    assert sequence == list(range(sequence[0], sequence[0] + len(found)))
    begins = [m["block_number"] for m in found if m["type"] == "BeginBlock"]
    assert begins == [first, first + 1]
    assert [m["type"] for m in found[-2:]] == ["BeginBlock", "EndBlock"]
    assert producer.follow() == b""


@pytest.mark.parametrize("method", ["anvil_reorg", "evm_revert"])
def test_a_reorg_is_one_envelope_with_values_of_the_new_tip(market: Market, method: Any) -> None:
    producer = following(market)
    market.step(5)
    market.keep_snapshot()
    for _ in range(3):
        market.step(15)
    producer.follow()
    old = producer.chain[-3:]
    market.reorg(3, method=method, operations=12)
    found = messages(producer.follow())
    tip = market.node.block()["number"]
    assert (found[0]["type"], found[-1]["type"]) == ("ReorgStart", "ReorgComplete")
    assert found[-1]["final_tip_block"] == tip
    begins = [(m["is_revert"], m["block_number"]) for m in found if m["type"] == "BeginBlock"]
    new = [] if method == "evm_revert" else [block.number for block in old]
    assert begins == [
        *((True, block.number) for block in reversed(old)),
        *((False, number) for number in new),
    ]
    reverted = [m["event"] for m in found if m["type"] == "PoolUpdate" and m["event"]["is_revert"]]
    assert [
        (int(e["block_number"]), int(e["tx_index"]), int(e["log_index"])) for e in reverted
    ] == [
        (block.number, event.tx_index, event.log_index)
        for block in reversed(old)
        for event in reversed(block.events)
        if event.protocol != "uniswap_v2"
    ]
    final = {
        m["update"]["pool_id"]["value"]: m["update"] for m in found if m["type"] == "ReorgEpilogue"
    }
    truth = market.states()
    wanted = {
        event.pool for block in old for event in block.events if event.kind in ("Sync", "Swap")
    }
    assert final.keys() == wanted
    for key, update in final.items():
        for name in ("reserve0", "reserve1", "sqrt_price_x96", "liquidity", "tick"):
            if name in update:
                assert int(update[name]) == truth[key][name]
