"""A V4 protocol fee changes beside a stream that cannot say so: with a node at hand, and without.

Real processes and sockets; the true fee is the one the test mined.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.history import MANAGER, SimBlock, write_states
from chains.evm_data import Event
from fault.test_gaps import SECONDS, Stage
from oracle.swap_oracle import v4_total_fee

LP_FEE = 3000
TOPIC = "0xe9c42593e71f84403b84352cd168d693e2c9fcd1fdbcc3feb21d92b43e6696f9"


def word(value: int) -> str:
    return value.to_bytes(32, "big").hex()


class FeeStage(Stage):
    """A stage whose V4 pool has a protocol fee, `fees` by block number on the canonical chain."""

    def __init__(self, folder: Path, name: str, *more: str, node: bool = True) -> None:
        super().__init__(folder, name, *more, node=node)
        self.v4 = next(k for k, p in self.universe.protocols.items() if p == "uniswap_v4")
        self.fees = {self.universe.tip.number: 0}

    def mine(self, count: int = 1, fee: int | None = None, *, first: int | None = None) -> bytes:
        """Blocks, the last of which sets the fee; to `first` before it, where given."""
        blocks = []
        for index in range(count):
            is_last = index == count - 1
            fees = (first, fee) if is_last else ()
            blocks.append(self._with_fees([each for each in fees if each is not None]))
        data = self.producer.mined(blocks)
        self.node.chain = self.universe.chain
        return data

    def reorg(self, depth: int, count: int) -> bytes:
        old = self.universe.cut(depth)
        new = [self._with_fees([]) for _ in range(count)]
        self.node.chain = self.universe.chain
        return self.producer.reorganised(old, new, self.universe.tip)

    def _with_fees(self, fees: list[int]) -> SimBlock:
        made = self.universe.mine()
        held = self.fees[made.number - 1]
        logs = []
        for log in made.logs:
            if log["topics"][0] == SWAP and log["address"] == MANAGER:
                paid = int(log["data"][2:66], 16) >> 255
                half = held & 0xFFF if paid else held >> 12
                log = log | {"data": log["data"][:-64] + word(v4_total_fee(half, LP_FEE))}
            logs.append(log)
        block = made.block
        for fee in fees:
            last = logs[-1] if logs else {"transactionIndex": "0x0", "logIndex": "-0x1"}
            tx, at = int(last["transactionIndex"], 16) + 1, int(last["logIndex"], 16) + 1
            args = {"protocolFee": fee}
            event = Event("uniswap_v4", "ProtocolFeeUpdated", self.v4, MANAGER, tx, 0, at, args)
            block = replace(block, events=(*block.events, event))
            logs.append(
                {
                    "address": MANAGER,
                    "topics": [TOPIC, self.v4],
                    "data": "0x" + word(fee),
                    "blockNumber": hex(made.number),
                    "blockHash": made.hash,
                    "transactionIndex": hex(tx),
                    "logIndex": hex(at),
                    "transactionHash": "0x" + "77" * 32,
                    "removed": False,
                }
            )
        found = replace(made, block=block, kept={"logs": tuple(logs)})
        self.universe.by_hash[made.hash] = found
        self.universe.by_number[made.number][-1] = found
        self.universe.chain = (*self.universe.chain[:-1], found)
        self.fees[made.number] = fees[-1] if fees else held
        return found

    @property
    def fee(self) -> int:
        """The true one."""
        return self.fees[self.universe.tip.number]

    def write_states(self) -> None:
        """A file of the newest block, its fee included."""
        write_states(self.states, self.universe, self.universe.tip)
        lines = [json.loads(line) for line in self.states.read_text().splitlines()]
        for line in lines:
            if line["pool"] == self.v4:
                line["protocol_fee"] = self.fee
        self.states.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def wait_fee(self) -> None:
        """Until the reader sees the true fee."""
        limit = time.monotonic() + SECONDS
        while (found := self.reader.fees([self.v4])[self.v4]) != (LP_FEE, self.fee):
            assert time.monotonic() < limit, (found, self.fee, self.writer.log_tail())
            time.sleep(0.02)

    def start_with_a_fee(self) -> None:
        self.start()
        self.send(self.mine(2, fee=7 << 12 | 5))
        self.wait_fee()


SWAP = "0x40e9cecb9f5f1f1c5b9c97dec2917b7ee92e57ba5563708daca94dd84ad7112f"


@pytest.fixture
def stage(tmp_path: Path, arena_name: str) -> Iterator[FeeStage]:
    with closing(FeeStage(tmp_path, arena_name)) as found:
        yield found


@pytest.mark.slow
def test_a_changed_fee_comes_from_the_node(stage: FeeStage) -> None:
    stage.start()
    for fee in (700 << 12 | 300, 0, 1000 << 12 | 1000):
        stage.send(stage.mine(3, fee=fee))
        stage.wait_fee()
        stage.send(stage.mine(2))
        stage.equal()
        stage.wait_fee()
    assert stage.log().count("event=scraping") == 1, "nothing was read anew"
    assert "stale" not in stage.log()


@pytest.mark.slow
def test_the_last_change_of_a_block_counts(stage: FeeStage) -> None:
    stage.start()
    stage.send(stage.mine(2, fee=7 << 12 | 5, first=900 << 12 | 800))
    stage.wait_fee()


@pytest.mark.slow
def test_a_fee_of_a_reverted_block_is_read_again(stage: FeeStage) -> None:
    stage.start_with_a_fee()
    stage.send(stage.reorg(1, 2))
    assert stage.fee == 0
    # What is written before the writer has had the reorg may be of either branch.
    stage.reader.expect(stage.universe.tip.number, {})
    stage.write_states()
    stage.equal()
    stage.wait_fee()


@pytest.mark.slow
def test_a_revert_above_it_leaves_the_fee_alone(stage: FeeStage) -> None:
    stage.start_with_a_fee()
    stage.send(stage.mine(2))
    stage.send(stage.reorg(2, 3))
    stage.equal()
    stage.wait_fee()
    assert "pool_live_again" not in stage.log()


@pytest.mark.slow
def test_a_fee_that_changed_in_a_gap(stage: FeeStage) -> None:
    stage.start()
    stage.server.drop()
    stage.mine(4, fee=900 << 12)
    stage.mine(3)
    stage.server.await_clients(2)
    stage.send(stage.mine())
    stage.wait_log("event=gap_closed")
    stage.equal()
    assert stage.reader.fees([stage.v4])[stage.v4] == (LP_FEE, 900 << 12), "with the gap itself"
    stage.send(stage.mine(2, fee=17))
    stage.wait_fee()
    stage.equal()


@pytest.mark.slow
def test_a_fee_that_changed_between_a_scrape_and_the_start(tmp_path: Path, arena_name: str) -> None:
    stage = FeeStage(tmp_path, arena_name)
    try:
        stage.server.await_clients(1)
        stage.send(stage.mine(4, fee=33) + stage.mine(3, fee=44) + stage.mine(80))
        stage.reader.wait_live()
        stage.wait_fee()
        stage.equal()
    finally:
        stage.close()


@pytest.mark.slow
@pytest.mark.parametrize("node", [True, False])
def test_only_without_a_node_fees_stay_as_read_and_the_log_says_so_once(
    node: bool, tmp_path: Path, arena_name: str
) -> None:
    stage = FeeStage(tmp_path, arena_name, node=node)
    try:
        stage.server.await_clients(1)
        stage.send(stage.mine(3))
        stage.reader.wait_live()
        stage.send(stage.mine(2, fee=9))
        stage.equal()
        if node:
            stage.wait_fee()
        found: dict[str, Any] = stage.reader.fees([stage.v4])
        assert found[stage.v4] == (LP_FEE, 9 if node else 0)
        assert stage.log().count("event=protocol_fees_as_read") == (0 if node else 1)
    finally:
        stage.close()
