"""Five processes read the same arena, and each sees the same numbers at the same commit.

python five_processes.py NAME

Each attaches by itself and sleeps in the kernel until the writer publishes. What they quote is compared
here, commit by commit. It ends when the writer does; the exit code is 1 when two of them differed.
"""

import multiprocessing
import os
import sys
from collections import Counter, defaultdict
from typing import Any

import arena

PROCESSES = 5
AMOUNT_WEI = 10**12


def quote_all(view: arena.Snapshot) -> tuple[int, int, tuple[int, ...]]:
    """Commit, block, and what the same amount buys in each pool then; 0 is no answer."""
    batch = view.quote_batch(list(view), AMOUNT_WEI, zero_for_one=True, allow_dynamic_fee=True)
    return view.commit, view.block_number, tuple(batch.amounts_out)


def follow(name: str, ready: Any, results: Any) -> None:
    """One of the processes: report every commit it gets to see, then None."""
    with arena.attach(name, timeout=30) as pools:
        pools.wait_live(timeout=60)
        told = f"process {os.getpid()} has attached and finds {len(pools)} pools\n"
        print(told, end="", flush=True)  # in one piece: all write to one terminal
        ready.wait(timeout=120)
        commit = 0
        while pools.writer_alive and pools.phase != "stopped":
            if pools.wait_commit(commit, timeout=1) is not None:
                commit, block, amounts = pools.at_one_block(quote_all)
                results.put((commit, block, amounts))
    results.put(None)


def main(name: str) -> int:
    context = multiprocessing.get_context("spawn")  # an attached arena does not survive a fork
    ready, results = context.Barrier(PROCESSES + 1), context.Queue()
    processes = [
        context.Process(target=follow, args=(name, ready, results), daemon=True)
        for _ in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    ready.wait(timeout=120)
    print(f"{name}: {PROCESSES} processes follow", flush=True)

    seen: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
    agreed = differed = 0
    running = PROCESSES
    while running:
        if (report := results.get(timeout=600)) is None:
            running -= 1
            continue
        commit, block, amounts = report
        seen[commit][amounts] += 1
        if seen[commit].total() == PROCESSES:
            same = len(seen[commit]) == 1
            agreed, differed = agreed + same, differed + (not same)
            answered = sum(amount > 0 for amount in amounts)
            verdict = "the same" if same else "DIFFERENT"
            print(f"block {block}: {PROCESSES} processes, {answered} quotes, {verdict}", flush=True)
    for process in processes:
        process.join()
    print(f"{agreed} of {len(seen)} commits were seen by all and alike, {differed} differed")
    return 1 if differed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
