"""Any node, live: bridge, writer and three readers against a chain that trades and reorganises."""

import time
from pathlib import Path

import pytest
from chains.proof import Proof

pytestmark = pytest.mark.node

BLOCKS = 500
REORGS = 20
QUOTES = 20_000


def test_500_blocks_and_20_reorgs_without_a_difference(tmp_path: Path, arena_name: str) -> None:
    with Proof(tmp_path, arena_name, seed=500) as proof:
        proof.wait_live()
        began = time.monotonic()
        asking_s = 0.0
        turn = 0
        while proof.totals["blocks"] < BLOCKS or proof.totals["reorgs"] < REORGS:
            turn += 1
            if turn % 15 == 0:
                method = "anvil_reorg" if turn % 30 else "evm_revert"
                proof.reorg(1 + turn // 15 % 10, method)
            else:
                proof.block()
            if turn % 10 == 5:
                asked = time.monotonic()
                proof.quotes(600)
                proof.swaps(5)
                asking_s += time.monotonic() - asked
        seconds = time.monotonic() - began - asking_s
        proof.equal(every_word=True)
        totals = proof.totals
        print(f"{totals}, {totals['blocks'] / seconds:.1f} blocks a second")
        assert totals["quotes"] >= QUOTES
        assert totals["swaps"] >= 100
        assert proof.undisturbed()
