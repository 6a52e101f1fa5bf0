"""A strategy played on a recording: the same reader code as live, on blocks of the past.

python backtest.py [RECORDING STATES [POOL]]

Starts arena-replay and arena-writer itself; without arguments on a recording that comes with the package. The
strategy buys token1 when it has become a hundredth cheaper than it was lately, and sells it when dearer.
Answers are the contract's for the recorded state: its own trades do not move the pool.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import arena
import arena.writer.demo

DEMO = Path(arena.writer.demo.__file__).parent
PAIR = "0xdf1e48975f4dfc00980b22562b94cd14e1053bbc"
BLOCKS_PER_S = 20
STAKE_WEI = 10**15
LATELY = 5  # answers whose mean is the usual one
EDGE_PERCENT = 1


@contextlib.contextmanager
def replayed(recording: str, states: str) -> Iterator[tuple[arena.Arena, subprocess.Popen[bytes]]]:
    """An arena that lives through the recording, and the process that serves it."""
    programs = Path(sys.executable).parent
    name = f"backtest-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="backtest-") as folder, contextlib.ExitStack() as stack:
        feed = f"{folder}/feed.sock"

        def start(*words: str) -> subprocess.Popen[bytes]:
            command = [str(programs / words[0]), *words[1:], "--log-level", "error"]
            process = stack.enter_context(subprocess.Popen(command, cwd=folder))
            stack.callback(process.terminate)
            return process

        replay = start("arena-replay", recording, "--socket", feed, "--rate", str(BLOCKS_PER_S))
        start("arena-writer", "run", "--name", name, "--socket", feed, "--states", states)
        pools = stack.enter_context(arena.attach(name, timeout=60))
        pools.wait_live(timeout=60)
        yield pools, replay


def trade(pools: arena.Arena, key: str, replay: subprocess.Popen[bytes]) -> None:
    """Follow every commit until the recording is over, then print what became of the stake."""
    held0, held1, trades = 10 * STAKE_WEI, 0, 0
    lately: deque[int] = deque(maxlen=LATELY)
    commit = pools.committed
    commits = missed = 0
    while replay.poll() is None:
        if (newest := pools.wait_commit(commit, timeout=0.5)) is None or pools.phase != "live":
            continue
        commits, missed, commit = commits + 1, missed + newest - commit - 1, newest
        pool = pools[key]
        buys = pool.quote_exact_in(STAKE_WEI, zero_for_one=True).amount_out
        usual = sum(lately) // len(lately) if lately else buys
        lately.append(buys)
        if 100 * buys > (100 + EDGE_PERCENT) * usual and held0 >= STAKE_WEI:
            held0, held1, trades = held0 - STAKE_WEI, held1 + buys, trades + 1
            print(f"block {pools.head_block}: buy {buys} for {STAKE_WEI}")
        elif 100 * buys < (100 - EDGE_PERCENT) * usual and held1:
            paid = pool.quote_exact_in(held1, zero_for_one=False).amount_out
            print(f"block {pools.head_block}: sell {held1} for {paid}")
            held0, held1, trades = held0 + paid, 0, trades + 1
    if held1:
        held0 += pools[key].quote_exact_in(held1, zero_for_one=False, allow_stale=True).amount_out
    gain = held0 - 10 * STAKE_WEI
    print(f"{commits} commits, {missed} missed, {pools.counters['reorgs']} reorgs, {trades} trades")
    print(f"{10 * STAKE_WEI} wei of token0 became {held0}: {gain:+} wei")


def main(recording: str = "", states: str = "", key: str = PAIR) -> None:
    chosen = recording or str(DEMO / "chain_reorg.exex"), states or str(DEMO / "states_reorg.jsonl")
    with replayed(*(str(Path(path).resolve()) for path in chosen)) as (pools, replay):
        trade(pools, key, replay)


if __name__ == "__main__":
    main(*sys.argv[1:])
