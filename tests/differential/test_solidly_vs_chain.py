"""Volatile Solidly pairs against their contracts: reserves from logs, fees and reserves from storage
words, and every answer of getAmountOut, refusals included.

The truth is what the contracts' getters said on a node. Every file of the two folders is run.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.native_wire import decode
from chains.recorded_solidly import (
    Recorded,
    Row,
    chains,
    files,
    getters,
    log_json,
    storage,
)

import arena
from arena.errors import (
    InvalidEventData,
    PoolInvalid,
    SwapReverts,
)
from arena.layouts.protocols import listed_name
from arena.layouts.slots import SOLIDLY
from arena.native import lib
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.node.rpc_node import read_header, read_log
from arena.writer.producers.follow import encode
from arena.writer.protocols.held import listed_layout, pool_target, price_slots, protocol_of
from arena.writer.protocols.reading import read_targets
from arena.writer.protocols.storage import PoolTarget, SlotList
from arena.writer.stream.event_logs import block_records
from arena.writing import WriterArena


class Listed(Recorded):
    """Its pairs as a list names them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        name = listed_name(self.meta["protocol"])
        assert name is not None
        listed = {
            key: pool_target(self._spec(key, pool), listed_layout(name))
            for key, pool in self.meta["pools"].items()
        }
        self.targets = {key: listed[key] for key in self.volatile}
        self.stable = {key: each for key, each in listed.items() if key not in self.targets}

    def _spec(self, key: str, pool: Row) -> PoolSpec:
        tokens = [
            TokenSpec(bytes.fromhex(pool[name][2:]), int(pool[decimals]), "")
            for name, decimals in (("token0", "dec0"), ("token1", "dec1"))
        ]
        factory = bytes.fromhex(self.factory[2:])
        return PoolSpec(bytes.fromhex(key[2:]), SOLIDLY, tokens[0], tokens[1], 0, factory=factory)


@cache
def recorded(path: Path) -> Listed:
    return Listed(path)


def values_of(state: Row, number: int) -> PoolValues:
    """What the getters said."""
    return PoolValues(number, **getters(state))


def install(writer: WriterArena, target: PoolTarget, values: PoolValues) -> None:
    writer.install(writer.add_pool(target.spec), values, status=lib.PSA_STATUS_LIVE)


def log_of(log: Row, block: Row) -> Any:
    return read_log(log_json(log, block))


def header_of(block: Row) -> Any:
    hexed = {name: hex(block[name]) for name in ("number", "timestamp")}
    return read_header(block | hexed | {"baseFeePerGas": "0x0"})


def through_frames(records: np.ndarray) -> Any:
    """The records as a writer gets them from a bridge's frames."""
    found, _, status = decode(encode(records, 0))
    assert status == lib.PSA_OK
    return found


@chains
def test_logs_lead_from_state_to_state(path: Path, arena_name: str) -> None:
    chain = recorded(path)
    specs = {each.spec.key: each.spec for each in chain.targets.values()}
    first = chain.states[chain.blocks[0]["hash"]]
    compared = events = 0
    with WriterArena.create(arena_name, max_pools=16, tick_bytes=1 << 16) as writer:
        for key, target in chain.targets.items():
            install(writer, target, values_of(first["pools"][key], first["block"]))
        writer.set_head(first["block"])
        writer.commit()
        with arena.attach(arena_name) as reader:
            for block in chain.blocks[1:]:
                logs = [log_of(log, block) for log in block["logs"]]
                records = block_records(header_of(block), logs, specs)
                events += len(records) - 2
                writer.apply(through_frames(records))
                writer.commit()
                for key, truth in chain.states[block["hash"]]["pools"].items():
                    if key not in chain.targets:
                        continue
                    state = reader[key].state()
                    assert (state.protocol, state.status) == ("solidly", "live")
                    assert state.reserve0 == int(truth["reserve0"])
                    assert state.reserve1 == int(truth["reserve1"])
                    compared += 1
            applied = writer.counters[lib.PSA_COUNTER_APPLIED + lib.PSA_COUNTER_KINDS * SOLIDLY]
        faults, _ = writer.take_faults()
        writer.close(unlink=True)
    assert faults == []
    assert applied == events > 50
    assert compared > 200


@pytest.mark.parametrize(
    ("path", "lower"),
    [(path, lower) for path in files() for lower in range(1 if "_v1" in path.name else 2)],
)
def test_storage_words_are_what_the_getters_say(path: Path, lower: int) -> None:
    chain = recorded(path)
    fees: Counter[int] = Counter()
    for state in chain.states.values():
        if not state["full"]:
            continue
        words = storage(chain, state, lower)

        def read(requests: Sequence[tuple[PoolTarget, SlotList]], words: Any = words) -> Any:
            return [[words[t.address, slot] for slot in wanted.keys] for t, wanted in requests]

        found, _ = read_targets(list(chain.targets.values()), state["block"], read)
        for key, values in zip(chain.targets, found, strict=True):
            assert values == values_of(state["pools"][key], state["block"])
            assert isinstance(values, PoolValues)
            answers = read([(target := chain.targets[key], SlotList(price_slots(target)))])
            final = protocol_of(target.spec).final(target, answers[0])
            assert final is not None
            told = [sum(final["words"][at + i] << 64 * i for i in range(4)) for at in (0, 4)]
            assert told == [values.reserve0, values.reserve1]
            fees[values.fee_pips] += 1
        if chain.meta["protocol"] != "solidly_v1":
            refused, _ = read_targets(list(chain.stable.values()), state["block"], read)
            assert all("stable pair" in str(each) for each in refused)
            assert all(isinstance(each, PoolInvalid) for each in refused)
    assert len(fees) > 3


@chains
def test_quotes_are_the_contracts_answers(path: Path, arena_name: str) -> None:
    chain = recorded(path)
    counts: Counter[str] = Counter()
    with WriterArena.create(arena_name, max_pools=16, tick_bytes=1 << 16) as writer:
        for each in chain.targets.values():
            install(writer, each, PoolValues(1, 0))
        writer.set_head(1)
        writer.commit()
        with arena.attach(arena_name) as reader:
            for row in chain.quotes:
                target, state = chain.targets[row["pool"]], chain.states[row["hash"]]
                install(writer, target, values_of(state["pools"][row["pool"]], row["block"]))
                writer.commit()
                for pool in (reader[row["pool"]], reader[row["pool"]].freeze()):
                    for question in row["quotes"]:
                        counts[check(pool, question)] += 1
        writer.close(unlink=True)
    assert counts["answered"] > 5000
    assert counts["reverts"] > 50


def check(pool: Any, question: Row) -> str:
    amount, told = int(question["amt"]), question["getAmountOut"]
    if not told["ok"]:
        with pytest.raises(SwapReverts):
            pool.quote_exact_in(amount, zero_for_one=question["zf1"])
        return "reverts"
    found = pool.quote_exact_in(amount, zero_for_one=question["zf1"])
    assert (found.amount_in, found.amount_out) == (amount, int(told["out"]))
    assert found.is_complete
    return "answered"


def test_there_is_no_exact_output_no_limit_and_no_fee_of_the_callers(arena_name: str) -> None:
    target = next(iter(recorded(files()[0]).targets.values()))
    with WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 16) as writer:
        install(writer, target, PoolValues(1, 3000, reserve0=10**18, reserve1=10**18))
        writer.commit()
        with arena.attach(arena_name) as reader:
            pool = reader["0x" + target.spec.key.hex()]
            with pytest.raises(ValueError, match="no exact output"):
                pool.quote_exact_out(5, zero_for_one=True)
            with pytest.raises(ValueError, match="does not fit"):
                pool.quote_exact_in(5, zero_for_one=True, sqrt_price_limit_x96=1 << 96)
            with pytest.raises(ValueError, match="does not fit"):
                pool.quote_exact_in(5, zero_for_one=True, lp_fee=100)
        writer.close(unlink=True)


@pytest.mark.parametrize("wide", [0, 1])
def test_reserves_beyond_128_bits_make_a_pair_stale(arena_name: str, wide: int) -> None:
    chain = recorded(files()[0])
    key, target = next(iter(chain.targets.items()))
    block = next(b for b in chain.blocks if any(log["address"] == key for log in b["logs"]))
    sync = next(log for log in block["logs"] if log["address"] == key and len(log["data"]) == 130)
    reserves = [5, 7]
    reserves[wide] = (1 << 128) - 1
    with WriterArena.create(arena_name, max_pools=4, tick_bytes=1 << 16) as writer:
        install(writer, target, PoolValues(block["number"] - 1, 3000, reserve0=1, reserve1=1))
        writer.set_head(block["number"] - 1)
        writer.commit()
        with arena.attach(arena_name) as reader:
            for step in range(2):
                at = block | {"number": block["number"] + step}
                data = "0x" + "".join(f"{each:064x}" for each in reserves)
                log = log_of(sync | {"data": data}, at)
                records = block_records(header_of(at), [log], {target.spec.key: target.spec})
                writer.apply(through_frames(records))
                writer.commit()
                state = reader[key].state()
                if step == 0:
                    assert (state.status, [state.reserve0, state.reserve1]) == ("live", reserves)
                    reserves[wide] += 1
                else:
                    assert state.status == "stale"
        with pytest.raises(InvalidEventData):
            install(writer, target, PoolValues(1, 3000, reserve0=1 << 128, reserve1=1))
        writer.close(unlink=True)
