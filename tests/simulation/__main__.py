"""Play histories: those of the seeds given, or many of one prefix over several processes.

    python -m simulation SEED...                      one after another, from the tests folder
    python -m simulation --prefix night --histories 100000 --processes 2

A seed replays exactly, whatever the machine does meanwhile. Exit status 1 when a history does not hold.
"""

import argparse
import gc
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

TESTS = Path(__file__).resolve().parent.parent
COLLECTED = 50  # histories, after which garbage is
SORTS = (
    *("", ":life", ":hostile", ":life:hostile", ":alike:hostile", ":life:alike:hostile"),
    *(":bridge:hostile", ":life:bridge:hostile"),
    *(":odd:hostile", ":odd:life:hostile", ":odd:bridge:hostile", ":odd:life:bridge:hostile"),
)


def seeds_of(prefix: str, first: int, count: int, step: int, sorts: Sequence[str]) -> Iterator[str]:
    """`count` seeds in turn of all sorts, from number `first` on, `step` apart."""
    for number in range(first, first + count * step, step):
        yield f"{prefix}:{number}{sorts[number // step % len(sorts)]}"


def play_all(seeds: Iterator[str], name: str, *, twice: bool, show: bool) -> Counter[str]:
    """Play them in this process and print a JSON line for each that does not hold."""
    from arena.writer.sync.intake import Intake
    from simulation.play import Failure, play

    counts: Counter[str] = Counter()
    # In memory: a checkpoint that waits for a disk costs more than the rest of its history.
    folder = Path(tempfile.mkdtemp(prefix="psa-simulation-", dir="/dev/shm"))
    gc.disable()  # a tenth of the time
    try:
        for number, seed in enumerate(seeds):
            if number % COLLECTED == 0:
                gc.collect()
            counts["histories"] += 1
            began = time.process_time()
            try:
                run = play(seed, f"{name}-{number}", folder)
                counts += run.totals()
                if twice:
                    with patch.object(Intake, "is_plain", False):
                        again = play(seed, f"{name}-{number}-again", folder)
                    if again.digest != run.digest:
                        raise Failure("not repeated", f"{run.digest} {again.digest}")
                if show:
                    print(json.dumps({"seed": seed, "digest": run.digest}), flush=True)
            except Failure as failure:
                counts[failure.kind] += 1
                print(
                    json.dumps({"seed": seed, "kind": failure.kind, "text": str(failure)}),
                    flush=True,
                )
            except Exception:
                counts["error"] += 1
                text = traceback.format_exc()
                print(json.dumps({"seed": seed, "kind": "error", "text": text}), flush=True)
            counts["cpu ms"] += int(1000 * (time.process_time() - began))
    finally:
        shutil.rmtree(folder)
    return counts


def _spread(options: argparse.Namespace) -> tuple[Counter[str], list[dict[str, str]]]:
    """Let processes play every n-th history each."""
    base = [sys.executable, "-m", "simulation", "--json", "--name", options.name]
    base += ["--sorts", options.sorts] + (["--twice"] if options.twice else [])
    children = []
    for index in range(options.processes):
        count = len(range(index, options.histories, options.processes))
        numbers = [options.first + index, count, options.processes]
        share = ["--prefix", options.prefix, "--share", *map(str, numbers)]
        children.append(
            subprocess.Popen([*base, *share], stdout=subprocess.PIPE, text=True, cwd=TESTS)
        )
    counts: Counter[str] = Counter()
    failures = []
    for child in children:
        assert child.stdout is not None
        for line in child.stdout:
            found = json.loads(line)
            if "totals" in found:
                counts += Counter(found["totals"])
            else:
                failures.append(found)
                print(f"{found['seed']}: {found['kind']}", flush=True)
        if child.wait() > 1:
            failures.append({"seed": "?", "kind": "process", "text": f"exit {child.returncode}"})
    return counts, failures


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is a part of the history
        os.environ["PYTHONHASHSEED"] = "0"
        os.chdir(TESTS)
        os.execv(sys.executable, [sys.executable, "-m", "simulation", *sys.argv[1:]])
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("seeds", nargs="*")
    parser.add_argument("--prefix", default="night")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--histories", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sorts", default=",".join(SORTS), help="what seeds end with, in turn")
    parser.add_argument(
        "--twice", action="store_true", help="assert that a seed repeats, without the short cut"
    )
    parser.add_argument("--log", action="store_true", help="show what the writer logs")
    parser.add_argument("--name", default=f"psa-simulation-{os.getpid()}")
    parser.add_argument("--mutant", help="with this fault in the product (mutants.py)")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--share", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.log:
        logging.basicConfig(level=logging.DEBUG, format="%(message)s", stream=sys.stdout)
    else:
        logging.disable(logging.CRITICAL)
    if options.mutant:
        from simulation.mutants import MUTANTS

        try:
            MUTANTS[options.mutant].apply()
        except (AttributeError, ValueError) as error:
            print(f"{options.mutant} does not apply: {error}", file=sys.stderr)
            return 2
    began = time.monotonic()
    if options.share or options.seeds:
        seeds = iter(options.seeds)
        if options.share:
            first, count, step = options.share
            seeds = seeds_of(options.prefix, first, count, step, options.sorts.split(","))
        name = f"{options.name}-{os.getpid()}"
        counts = play_all(seeds, name, twice=options.twice, show=not options.share)
        failed = sum(counts[kind] for kind in KINDS)
        if options.json:
            print(json.dumps({"totals": counts}))
        return 1 if failed else 0
    counts, failures = _spread(options)
    took = time.monotonic() - began
    print(f"histories {counts.pop('histories')} in {took:.0f} s, {options.histories / took:.1f}/s")
    for kind in KINDS:
        print(f"{kind} {counts.pop(kind, 0)}")
    print(" ".join(f"{name}={count}" for name, count in sorted(counts.items())))
    for found in failures[:20]:
        print(f"\nseed {found['seed']}\n{found['text']}")
    return 1 if failures else 0


KINDS = (
    "wrong but live", "wrong in the end", "never came back", "audit", "membership", "handle",
    "reader", "ended", "not repeated", "error",
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
