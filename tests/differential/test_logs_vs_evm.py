"""Logs of the recorded chains, as eth_getLogs gives them, applied: every pool equals its storage.

The logs are those of real contracts, decoys and foreign contracts included. Nothing of what decodes
them has a part in the expected states.
"""

from typing import Any

import numpy as np
import pytest
from builders.shown import shown
from chains.evm_data import Chain, Pool, load, records
from oracle.chain_oracle import plain_record
from oracle.swap_oracle import v4_total_fee

import arena
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.node.rpc_node import read_header, read_log
from arena.writer.stream.event_logs import block_records, decode_log
from arena.writing import WriterArena

PROTOCOLS = {"uniswap_v2": 0, "uniswap_v3": 1, "uniswap_v4": 2}
PROTOCOL_FEES = (
    lib.PSA_COUNTER_APPLIED
    + lib.PSA_COUNTER_KINDS * lib.PSA_UNISWAP_V4
    + lib.PSA_EVENT_PROTOCOL_FEE
    - lib.PSA_EVENT_V2_SYNC
)
TOKENS = (TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO"))


def spec_of(pool: Pool) -> PoolSpec:
    return PoolSpec(
        bytes.fromhex(pool.key[2:]),
        PROTOCOLS[pool.protocol],
        *TOKENS,
        pool.fee_pips,
        pool.tick_spacing or 0,
        bytes.fromhex(pool.emitter[2:]),
        bytes.fromhex((pool.hooks or "0x" + "00" * 20)[2:]),
    )


def values_of(state: dict[str, Any], number: int) -> PoolValues:
    shown = plain_record(state)
    if "reserve0" in shown:
        return PoolValues(number, 3000, **shown)
    ticks = tuple(tuple(tick) for tick in shown.pop("ticks"))
    if "lpFee" in state:
        shown |= {"lp_fee": state["lpFee"], "protocol_fee": state["protocolFee"]}
        shown["fee_block"] = number
    return PoolValues(number, 3000, ticks=ticks, **shown)


def as_answer(row: dict[str, Any], log: dict[str, Any]) -> dict[str, Any]:
    """The recorded log in the node's form."""
    return {
        "address": log["address"],
        "topics": log["topics"],
        "data": log["data"],
        "blockNumber": hex(log["blockNumber"]),
        "blockHash": row["hash"],
        "transactionIndex": hex(log["transactionIndex"]),
        "logIndex": hex(log["logIndex"]),
        "removed": False,
    }


def header_of(row: dict[str, Any]) -> Any:
    return read_header(
        {
            "number": hex(row["number"]),
            "hash": row["hash"],
            "parentHash": row["parentHash"],
            "timestamp": hex(row["timestamp"]),
            "baseFeePerGas": "0x0",
        }
    )


class SwapFees:
    """The whole fee of each V4 pool's last swap and its direction, as its log tells them."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[int, bool]] = {}

    def take(self, row: dict[str, Any]) -> None:
        for log in row["logs"]:
            if log.get("event") == "Swap" and "fee" in log["args"]:
                paid = [int(log["args"][name]) < 0 for name in ("amount0", "amount1")]
                if paid[0] != paid[1]:
                    self.last[log["args"]["id"]] = (int(log["args"]["fee"]), paid[0])
            elif log.get("event") == "ProtocolFeeUpdated":
                self.last.pop(log["args"]["id"], None)  # was paid with the fee before

    def check(self, chain: Chain, key: str, state: Any, truth: dict[str, Any]) -> None:
        """Protocol fees are the contract's; so is the LP fee, or it is what the last swap paid."""
        assert state.protocol_fee == truth["protocolFee"], key
        if chain.pools[key].fee_pips != 0x800000:
            assert state.lp_fee == truth["lpFee"], key
        elif key in self.last:
            paid, zero_for_one = self.last[key]
            half = state.protocol_fee & 0xFFF if zero_for_one else state.protocol_fee >> 12
            assert v4_total_fee(half, state.lp_fee) == paid, key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "most"), [("v2_chain", 200), ("v3_chain", 500), ("v4_chain", 500)]
)
def test_logs_lead_from_state_to_state(name: str, most: int, arena_name: str) -> None:
    chain: Chain = load(name)
    rows = [row for row in records(name) if row["kind"] == "block"]
    start = next(
        row
        for row in rows
        if chain.has_state(row["hash"])
        and len(chain.initialised_at(row["hash"])) >= len(chain.pools) - 1
    )
    keys = chain.initialised_at(start["hash"])
    pools = {bytes.fromhex(key[2:]): spec_of(chain.pools[key]) for key in keys}
    compared = 0
    fees = SwapFees()
    with WriterArena.create(arena_name, max_pools=32, tick_bytes=1 << 20) as writer:
        for key in keys:
            slot = writer.add_pool(pools[bytes.fromhex(key[2:])])
            values = values_of(chain.state_at(start["hash"])[key], start["number"])
            writer.install(slot, values, status=lib.PSA_STATUS_LIVE)
        writer.set_head(start["number"])
        writer.commit()
        with arena.attach(arena_name) as reader:
            for row in rows:
                if row["number"] <= start["number"]:
                    continue
                logs = [read_log(as_answer(row, log)) for log in row["logs"]]
                writer.apply(block_records(header_of(row), logs, pools))
                writer.commit()
                fees.take(row)
                if not chain.has_state(row["hash"]):
                    continue
                truth = chain.state_at(row["hash"])
                for key in keys:
                    state = reader[key].state()
                    assert state.status == "live"
                    assert shown(state) == plain_record(truth[key]), (key, row["number"])
                    if state.protocol == "uniswap_v4":
                        fees.check(chain, key, state, truth[key])
                compared += 1
        faults, _ = writer.take_faults()
        changes = writer.counters[PROTOCOL_FEES]
        writer.close(unlink=True)
    assert faults == []
    assert bool(changes) == (name == "v4_chain")
    assert compared > most / 3


@pytest.mark.slow
def test_an_emitter_that_is_no_pool_is_ignored() -> None:
    chain = load("v3_chain")
    pools = {bytes.fromhex(key[2:]): spec_of(pool) for key, pool in chain.pools.items()}
    decoy = chain.meta["decoyEmitter"]
    ignored = [
        log
        for row in records("v3_chain")
        if row["kind"] == "block"
        for log in row["logs"]
        if log["address"] == decoy
    ]
    assert ignored
    for log in ignored:
        found = read_log(as_answer({"hash": "0x" + "11" * 32}, log))
        assert decode_log(found, pools) is None
        as_pool = dict(pools) | {found.address: spec_of(next(iter(chain.pools.values())))}
        if len(found.data) == 160:
            assert decode_log(found, as_pool) is not None, "it is the emitter that decides"


@pytest.mark.slow
def test_positions_ascend_within_a_transaction_and_begin_at_its_first_log() -> None:
    chain = load("v3_chain")
    pools = {bytes.fromhex(key[2:]): spec_of(pool) for key, pool in chain.pools.items()}
    several = 0
    for row in records("v3_chain"):
        if row["kind"] != "block":
            continue
        logs = [read_log(as_answer(row, log)) for log in row["logs"]]
        found = block_records(header_of(row), logs, pools)[1:-1]
        firsts: dict[int, int] = {}
        for log in logs:
            firsts.setdefault(log.tx_index, log.log_index)
        places = [(int(each["tx_index"]), int(each["log_index"])) for each in found]
        assert places == sorted(set(places))
        several += len(places) - len(np.unique(found["tx_index"]))
        kept = [log for log in logs if decode_log(log, pools) is not None]
        assert places == [(x.tx_index, x.log_index - firsts[x.tx_index]) for x in kept]
    assert several > 100
