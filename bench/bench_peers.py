"""What do reads and quotes cost beside the peers a user might take instead?

Read: one V3 pool of 300 ticks, and 1,000 V2 pools at one block; each hot (the thread's own time; Redis by
the clock), and while a process changes them 1,000 times a second and the reader comes back every 0.4 ms.
Beside LMDB, iceoryx2 and Redis, which hold the same as two values and are read into private arrays.
Quoted: V2, and V3 with 0 to 100 ticks crossed, beside degenbot and Python integers in hand (V3: the slow
oracle of the tests). Every answer is compared with what it must be, to the unit. Peers that are not
installed are named and skipped; README.md beside this file says how to install them.
"""

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench_quote import SPACING, amount_crossing, loop, one_by_one, oracle_pool, v3_values
from harness import Report, Row, SelfTimed, alternate, arguments
from peers import PEERS, Peer, Product, Read, State, Writing, is_whole_v2, is_whole_v3

import arena
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from oracle import swap_oracle

PAUSE = 0.0004  # seconds between two reads beside a writer
CHECK_EVERY = 16  # a check takes the next read's data out of the caches
V2_RESERVES = (10**24, 3 * 10**24)
CROSSINGS = (0, 1, 10, 100)

# Of the product's first way to read, at most so many times what a peer takes.
READ_GOALS = {
    ("V3", "hot", "LMDB"): 1.0,
    ("V3", "written", "LMDB"): 0.5,
    ("V3", "written", "iceoryx2"): 0.25,
    ("V3", "written", "Redis"): 0.025,
    ("V2", "written", "iceoryx2"): 1.0,
}
V2_HOT_NS = {"group.read(), reserves": 10_000, "group.read()": 25_000}
KINDS = {"V3": "V3 pool of 300 ticks", "V2": "1,000 V2 pools"}


# ---- reads


def installed(report: Report, folder: Path) -> list[Peer]:
    """A peer of each kind that can run here; the others are named."""
    found = []
    for kind in PEERS:
        peer = kind(folder)
        if missing := peer.missing():
            report.facts[f"skipped {peer.name}"] = f"{missing} is not installed"
        else:
            found.append(peer)
    return found


def reads_of(peers: Sequence[Peer]) -> dict[str, list[tuple[Peer, Read]]]:
    return {
        "V3": [(peer, read) for peer in peers for read in peer.v3_reads()],
        "V2": [(peer, read) for peer in peers for read in peer.v2_reads()],
    }


def check(read: Read, answer: Any, kind: str, state: State) -> None:
    found = read.record(answer)
    wanted = state.v3 if kind == "V3" else state.v2
    for name in wanted.dtype.names or ():
        if name == "block" and kind == "V3":
            continue  # the product knows a pool's last event, the peers the state's block
        assert (found[name] == wanted[name]).all(), (read.name, name, found[name], wanted[name])


def timed(peer: Peer, read: Read, seconds: float) -> tuple[int, Callable[[], object]]:
    """How many reads take so long, and those in a loop. Of a peer that waits, the median by the clock."""
    begin = time.perf_counter()
    for _ in range(5):
        read.call()
    times = max(1, int(seconds / (time.perf_counter() - begin) * 5))
    if not peer.waits:
        return times, loop(read.call, times)

    def by_the_clock() -> SelfTimed:
        samples = []
        for _ in range(times):
            begin = time.perf_counter()
            read.call()
            samples.append(time.perf_counter() - begin)
        return SelfTimed(statistics.median(samples) * times)

    return times, by_the_clock


def hot(report: Report, options: argparse.Namespace, peers: Sequence[Peer]) -> None:
    state = State()
    for kind, reads in reads_of(peers).items():
        for _, read in reads:
            check(read, read.call(), kind, state)
        seconds = 0.001 if options.smoke else 0.02
        cases = [
            (f"{KINDS[kind]}, hot: {read.name}", *timed(peer, read, seconds))
            for peer, read in reads
        ]
        rows = alternate(cases, options.repeat, timer=time.thread_time)
        judge(
            report, kind, "hot", [(peer, row) for (peer, _), row in zip(reads, rows, strict=True)]
        )


def written(
    report: Report, options: argparse.Namespace, peers: Sequence[Peer], writing: Writing
) -> None:
    """Each read by itself, while a process changes the state of the peer that is read."""
    seconds = 0.05 if options.smoke else 0.2
    states = {peer.name: State() for peer in peers}
    reads = reads_of(peers)
    rows = {
        kind: [Row(f"{KINDS[kind]}, written: {read.name}", 1) for _, read in reads[kind]]
        for kind in reads
    }
    for _ in range(options.repeat):
        for kind in reads:
            for (peer, read), row in zip(reads[kind], rows[kind], strict=True):
                writing.begin(peer, seconds)
                row.add_round(read_for(kind, read, seconds))
                number, took = writing.end()
                state = states[peer.name]
                state.make_up_to(number)
                check(read, read.call(), kind, state)
                row.note = f"a write takes {took * 1e6:.0f} us"
    for kind in reads:
        measured = zip(reads[kind], rows[kind], strict=True)
        judge(report, kind, "written", [(peer, row) for (peer, _), row in measured])


def read_for(kind: str, read: Read, seconds: float) -> list[float]:
    """Seconds that reads took, one after each pause."""
    samples = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(PAUSE)
        begin = time.perf_counter()
        answer = read.call()
        samples.append(time.perf_counter() - begin)
        if len(samples) % CHECK_EVERY == 1:
            is_whole = is_whole_v3 if kind == "V3" else is_whole_v2
            assert is_whole(read.record(answer)), f"{read.name} mixed two blocks"
    return samples


def judge(report: Report, kind: str, case: str, measured: Sequence[tuple[Peer, Row]]) -> None:
    for _, row in measured:
        report.add(row)
    first, *_ = mine = [row for peer, row in measured if isinstance(peer, Product)]
    if (kind, case) == ("V2", "hot"):
        for row in mine:
            if limit := V2_HOT_NS.get(row.name.rpartition(": ")[2]):
                report.limit(row, limit)
    for peer, row in measured:
        if not isinstance(peer, Product):
            report.compare(first, row, READ_GOALS.get((kind, case, peer.name)))


# ---- quotes


class Degenbot:
    """degenbot in an interpreter of its own."""

    PROGRAM = Path(__file__).with_name("degenbot_quotes.py")

    def __init__(self, python: str, asked: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [python, str(self.PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        answer = json.loads(self._ask(json.dumps(asked)))
        self.amounts: dict[str, int] = answer["amounts"]
        self.version = f"{answer['version']}, Python {answer['python']}"

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def loop(self, quote: str, times: int) -> Callable[[], SelfTimed]:
        return lambda: SelfTimed(self._ask(f"{quote} {times}"))

    def close(self) -> None:
        self._process.communicate()


def degenbot_python(given: str | None) -> str | None:
    """An interpreter that has degenbot: the one given, else the first of this one and those on the path."""
    if given is not None:
        return given
    if importlib.util.find_spec("degenbot"):
        return sys.executable
    test = "import sys, importlib.util; sys.exit(importlib.util.find_spec('degenbot') is None)"
    for minor in range(12, 16):
        python = shutil.which(f"python3.{minor}")
        if python and not subprocess.run([python, "-c", test], capture_output=True).returncode:
            return python
    return None


@contextmanager
def two_pools(values: PoolValues) -> Iterator[dict[str, arena.Pool]]:
    """A V2 and a V3 pool of an arena of their own."""
    name = f"psa-bench-peers-{os.getpid()}-quotes"
    first, second = (TokenSpec(address=bytes([n]) * 20, decimals=18, symbol="T") for n in (1, 2))
    pair = PoolValues(1, 3000, reserve0=V2_RESERVES[0], reserve1=V2_RESERVES[1])
    with WriterArena.create(name, max_pools=16) as owner:
        try:
            for key, protocol, state in ((b"\x02", 0, pair), (b"\x03", 1, values)):
                spec = PoolSpec(key * 20, protocol, first, second, 3000, SPACING if protocol else 0)
                owner.install(owner.add_pool(spec), state, status=2)
            owner.set_head(1)
            owner.commit()
            with arena.attach(name) as pools:
                yield {"v2": pools[b"\x02" * 20], "v3": pools[b"\x03" * 20]}
        finally:
            owner.close(unlink=True)


def v2_python() -> int:
    fee = 10**18 * 997
    return fee * V2_RESERVES[1] // (V2_RESERVES[0] * 1000 + fee)


def quotes(report: Report, options: argparse.Namespace) -> None:
    # Half a spacing above a tick, as a pool mostly is: no step ends where it began.
    values = v3_values(150, SPACING // 2)
    oracle = oracle_pool(values)
    amounts = {f"v3-{n}": amount_crossing(oracle, n) for n in CROSSINGS}
    expected = {
        name: swap_oracle.swap(oracle, amount, True, True).amount_out
        for name, amount in amounts.items()
    }
    amounts["v2"], expected["v2"] = 10**18, v2_python()
    asked = {
        "v2": {"reserves": V2_RESERVES},
        "v3": {
            "sqrt_price_x96": values.sqrt_price_x96,
            "tick": values.tick,
            "liquidity": values.liquidity,
            "ticks": values.ticks,
        },
        "quotes": {name: (name[:2], True, amount) for name, amount in amounts.items()},
    }
    python = degenbot_python(options.degenbot)
    degenbot = None
    if python is None:
        report.facts["skipped degenbot"] = "no Python on the path has it, none was given"
    else:
        degenbot = Degenbot(python, asked)
        report.facts["degenbot"] = degenbot.version
        assert degenbot.amounts == expected
    try:
        with two_pools(values) as pools:
            for name, amount in amounts.items():
                quote = pools[name[:2]].quote_exact_in(amount, zero_for_one=True)
                assert quote.amount_out == expected[name]
            in_turns(report, options, pools, amounts, oracle, degenbot)
    finally:
        if degenbot is not None:
            degenbot.close()


def in_turns(
    report: Report,
    options: argparse.Namespace,
    pools: dict[str, arena.Pool],
    amounts: dict[str, int],
    oracle: swap_oracle.ConcentratedPool,
    degenbot: Degenbot | None,
) -> None:
    """Each quote in turns with its peers."""
    for name in ("v2", *(f"v3-{n}" for n in CROSSINGS)):
        crossed = int(name[3:] or 0)
        label = "V2 quote" if name == "v2" else f"V3 quote, {crossed or 'no'} ticks crossed"
        times = 20 if options.smoke else 10_000 // (1 + crossed)
        slow = times if name == "v2" else max(2, times // 100)

        def by_oracle() -> object:
            return swap_oracle.swap(oracle, amounts[name], True, True)

        by_hand = v2_python if name == "v2" else by_oracle
        cases: list[tuple[str, int, Callable[[], object]]] = [
            (label, times, one_by_one(pools[name[:2]], amounts[name], times)),
            (f"{label}: Python integers", slow, loop(by_hand, slow)),
        ]
        if degenbot is not None:
            cases.append((f"{label}: degenbot", times, degenbot.loop(name, times)))
        row, hand, *others = alternate(cases, options.repeat, timer=time.thread_time)
        row.ratio = report.compare(row, hand, 0.6 if name == "v2" else None)
        row.baseline = hand.name
        for each in (row, hand, *others):
            report.add(each)
        for each in others:
            report.compare(row, each, 0.2)


def main() -> None:
    options = arguments(
        __doc__ or "",
        values={"degenbot": "a Python that has degenbot; else one is looked for on the path"},
    )
    report = Report((__doc__ or "").splitlines()[0])
    # Files of peers lie in memory, as the arena does.
    with tempfile.TemporaryDirectory(prefix="psa-bench-", dir="/dev/shm") as name:
        peers = installed(report, Path(name))
        writing = Writing(Path(name), peers)
        try:
            opened: list[Peer] = []
            try:
                for peer in peers:
                    peer.open()
                    opened.append(peer)
                hot(report, options, peers)
                written(report, options, peers, writing)
            finally:
                for peer in opened:
                    peer.close()
        finally:
            writing.close()
    quotes(report, options)
    report.show(options)


if __name__ == "__main__":
    main()
