"""The test oracle and the data loader against states read from contract storage.

Every recorded chain is followed from its first block, reorgs included, and every recorded state
compared. Nothing of the product takes part.
"""

import json
from pathlib import Path

import pytest
from chains.evm_data import CHAINS, Chain, Reorg, load, records, write_state_file
from oracle.chain_oracle import ChainOracle, from_record, plain, plain_record


def _differences(oracle: ChainOracle, chain: Chain, block_hash: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, state in chain.state_at(block_hash).items():
        expected = plain_record(state)
        # A pool without an event yet is absent from the oracle and all zero in the chain.
        nothing = type(from_record(state))()
        shown = plain(oracle.pools.get(key, nothing))
        if shown != expected:
            found[key] = (shown, expected)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAINS)
def test_oracle_follows_every_recorded_state(name: str) -> None:
    chain = load(name)
    oracle = ChainOracle(create=True)
    compared = 0
    for step in chain.steps:
        if isinstance(step, Reorg):
            for block in reversed(step.orphaned):
                oracle.undo_block(block.number)
            for block in step.replacement:
                oracle.apply_block(block)
            tip = step.tip_hash
        else:
            oracle.apply_block(step)
            tip = step.hash
        if chain.has_state(tip):
            compared += 1
            assert _differences(oracle, chain, tip) == {}, chain.blocks[tip].number
    states = sum(row["kind"] == "state" for row in records(name))
    reverted_to = sum(isinstance(s, Reorg) and not s.replacement for s in chain.steps)
    assert compared == states + reverted_to


@pytest.mark.slow
def test_partial_states_add_up_to_the_next_full_one() -> None:
    for name in ("v3_chain", "v4_chain"):
        chain = load(name)
        running: dict[str, dict[str, object]] = {}
        full_records = 0
        for row in records(name):
            if row["kind"] != "state":
                continue
            if row["full"] and running:
                full_records += 1
                touched = {event.pool for event in chain.blocks[row["hash"]].events}
                for key in row["pools"].keys() - touched:
                    expected = plain_record(row["pools"][key])
                    assert plain_record(running[key]) == expected, (name, row["block"], key)
            running.update(row["pools"])
            assert chain.state_at(row["hash"]).keys() == running.keys()
        assert full_records > 60


def test_v2_deltas_drift_where_tokens_move_without_them() -> None:
    chain = load("v2_chain")
    oracle = ChainOracle(create=True, v2_from_deltas=True)
    drifted: dict[str, int] = {}
    failed: dict[str, int] = {}
    for step in chain.steps:
        assert not isinstance(step, Reorg)
        oracle.apply_block(step)
        for key in oracle.failed:
            failed.setdefault(key, step.number)
        if not chain.has_state(step.hash):
            continue
        for key, state in chain.state_at(step.hash).items():
            if key in oracle.pools and plain(oracle.pools[key]) != plain_record(state):
                drifted.setdefault(key, step.number)
    by_name = {chain.pools[key].name: number for key, number in drifted.items()}
    assert by_name == {"v2_0": 96, "v2_1": 96, "v2_2": 38, "v2_3": 51, "v2_4": 87}
    by_name = {chain.pools[key].name: number for key, number in failed.items()}
    assert by_name == {"v2_0": 165, "v2_1": 114, "v2_3": 175}


def test_reorg_records_hold_twenty_reorgs_of_depth_one_to_ten() -> None:
    reorgs = [step for step in load("reorg").steps if isinstance(step, Reorg)]
    assert len(reorgs) == 20
    assert {len(reorg.orphaned) for reorg in reorgs} == set(range(1, 11))
    assert {reorg.method for reorg in reorgs} == {"anvil_reorg", "evm_revert"}


@pytest.mark.slow
def test_decoys_are_left_out() -> None:
    for name in ("v2_chain", "v3_chain"):
        chain = load(name)
        decoy = chain.meta["decoyEmitter"]
        emitted = [
            log["event"]
            for row in records(name)
            if row["kind"] == "block"
            for log in row["logs"]
            if log["address"] == decoy
        ]
        assert emitted
        assert all(e.emitter != decoy for b in chain.blocks.values() for e in b.events)


def test_state_file_lines_carry_the_pool_at_its_block(tmp_path: Path) -> None:
    chain = load("v4_chain")
    block = next(block for block in chain.blocks.values() if chain.has_state(block.hash))
    keys = chain.initialised_at(block.hash)
    path = tmp_path / "states.jsonl"
    write_state_file(path, chain, dict.fromkeys(keys, block.hash))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["pool"] for line in lines] == keys
    for line in lines:
        state = chain.state_at(block.hash)[line["pool"]]
        assert line["block"] == block.number
        assert int(line["sqrt_price_x96"]) == state["sqrtPriceX96"]
        assert line["lp_fee"] == state["lpFee"]
    assert list(tmp_path.iterdir()) == [path]
