"""What every benchmark shares: arguments, repeated measurement, percentiles, the report.

A benchmark measures a case and its baseline alternately in one run, so that drift of a shared machine
hits both. Figures are nanoseconds unless a unit is named; ratios are medians of pairwise ratios. What a
figure should be is printed beside it, met or missed; it never fails a run.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


def percentile(samples: Sequence[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def duration(nanoseconds: float) -> str:
    """With a unit in which it has one to three digits before the point, where there is one."""
    for unit, scale in (("ns", 1), ("us", 1e3), ("ms", 1e6)):
        if abs(nanoseconds) < 1000 * scale:
            return f"{nanoseconds / scale:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s"


@dataclass
class Row:
    """One measured case. `samples` are seconds of whole repetitions, `items` operations in each.

    Each sample is a round of its own, unless add_round gathers several in one.
    """

    name: str
    items: int
    samples: list[float] = field(default_factory=list)
    unit: str = "ns"
    baseline: str = ""
    ratio: float | None = None
    target: str = ""
    note: str = ""
    round_starts: list[int] = field(default_factory=list)

    def add_round(self, samples: Sequence[float]) -> None:
        """Samples of one turn among the cases that alternate."""
        self.round_starts.append(len(self.samples))
        self.samples += samples

    @property
    def rounds_ns(self) -> list[float]:
        """Median of each round."""
        values = self.per_item_ns
        if not self.round_starts:
            return values
        ends = [*self.round_starts[1:], len(values)]
        return [
            statistics.median(values[start:end])
            for start, end in zip(self.round_starts, ends, strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """The row for the result file: percentiles instead of samples."""
        values = self.per_item_ns
        hidden = ("samples", "round_starts")
        shares = {"p50_ns": 0.5, "p99_ns": 0.99, "p999_ns": 0.999, "max_ns": 1.0}
        fields = {name: value for name, value in asdict(self).items() if name not in hidden}
        return (
            fields
            | {name: percentile(values, share) for name, share in shares.items()}
            | {"samples": len(values)}
        )

    @property
    def per_item_ns(self) -> list[float]:
        return [sample / self.items * 1e9 for sample in self.samples]

    @property
    def p50_ns(self) -> float:
        return percentile(self.per_item_ns, 0.5)


@dataclass
class Aim:
    """What was wanted of a row's median: of its ratio to a baseline's, or of itself."""

    name: str
    p50_ns: float
    figure: str
    goal: str = "-"
    is_met: bool | None = None


@dataclass
class Report:
    question: str
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    aims: list[Aim] = field(default_factory=list)

    def add(self, row: Row) -> Row:
        self.rows.append(row)
        return row

    def compare(self, row: Row, baseline: Row, at_most: float | None = None) -> float:
        """Print the row as a multiple of the baseline, beside the multiple it should not pass.

        Of a baseline's name only what follows a colon is shown: "case: peer".
        """
        found = ratio(row, baseline)
        aim = Aim(row.name, row.p50_ns, f"{found:.3g} x {baseline.name.rpartition(': ')[2]}")
        if at_most is not None:
            aim.goal, aim.is_met = f"<= {at_most:g} x", found <= at_most
        self.aims.append(aim)
        return found

    def limit(self, row: Row, at_most_ns: float, over: Row | None = None) -> None:
        """Print the row's median, or by how much it is over that of `over`, beside what it should be."""
        found = row.p50_ns - (over.p50_ns if over else 0)
        more = f" over {over.name}" if over else ""
        goal = f"<= {duration(at_most_ns)}{more}"
        self.aims.append(
            Aim(row.name, row.p50_ns, duration(found) + more, goal, found <= at_most_ns)
        )

    def show(self, options: argparse.Namespace) -> None:
        print(self.question)
        for key, value in {**machine(), **self.facts}.items():
            print(f"  {key}: {value}")
        head = f"{'case':<52}{'p50':>11}{'p99':>11}{'max':>11}{'per s':>13}{'n':>6}  ratio  target"
        print(head)
        for row in self.rows:
            values = row.per_item_ns
            p50 = percentile(values, 0.5)
            ratio = f"{row.ratio:6.2f}" if row.ratio is not None else "     -"
            print(
                f"{row.name:<52}{p50:>11,.1f}{percentile(values, 0.99):>11,.1f}{max(values):>11,.1f}"
                f"{1e9 / p50 if p50 else 0:>13,.0f}{len(values):>6} {ratio}  {row.target}"
                + (f"  ({row.note})" if row.note else "")
            )
        if self.aims:
            print(f"\n{'aim':<52}{'p50':>11}  {'figure':<34}{'goal':<32}met")
        for aim in self.aims:
            met = {None: "-", True: "yes", False: "NO"}[aim.is_met]
            print(f"{aim.name:<52}{aim.p50_ns:>11,.1f}  {aim.figure:<34}{aim.goal:<32}{met}")
        if options.json:
            result = {
                "question": self.question,
                "machine": machine(),
                "facts": self.facts,
                "rows": [row.summary() for row in self.rows],
                "aims": [asdict(aim) for aim in self.aims],
            }
            Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def arguments(
    question: str, *, switches: Mapping[str, str] = {}, values: Mapping[str, str] = {}
) -> argparse.Namespace:
    """What every benchmark takes, and this one's own by name with what they mean."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--json", metavar="PATH", help="also write the result as JSON")
    parser.add_argument("--repeat", type=int, default=15, help="repetitions of each case")
    for name, meaning in switches.items():
        parser.add_argument(f"--{name}", action="store_true", help=meaning)
    for name, meaning in values.items():
        parser.add_argument(f"--{name}", help=meaning)
    options = parser.parse_args()
    if options.smoke:
        options.repeat = 2
    return options


def machine() -> dict[str, Any]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    compiler = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=False)
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpu": f"{model}, {len(os.sched_getaffinity(0))} cores",
        "kernel": platform.release(),
        "python": sys.version.split()[0],
        "compiler": compiler.stdout.splitlines()[0] if compiler.stdout else "unknown",
        "flags": "-O3",
        "commit": commit.stdout.strip() or "unknown",
    }


class SelfTimed(float):
    """Seconds that a case measured itself, in another process or by another clock."""


def alternate(
    cases: Sequence[tuple[str, int, Callable[[], object]]],
    repeat: int,
    *,
    timer: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Time every case once a round, `repeat` rounds after one warm-up round.

    A case that returns SelfTimed has timed itself.
    """
    samples: list[list[float]] = [[] for _ in cases]
    for turn in range(repeat + 1):
        for index, (_, _, run) in enumerate(cases):
            begin = timer()
            result = run()
            elapsed = timer() - begin
            if turn:
                samples[index].append(result if isinstance(result, SelfTimed) else elapsed)
    return [Row(name, items, times) for (name, items, _), times in zip(cases, samples, strict=True)]


def ratio(row: Row, baseline: Row) -> float:
    """Median of the rounds' ratios per item; of rows with unequally many rounds, ratio of the medians."""
    mine, others = row.rounds_ns, baseline.rounds_ns
    if len(mine) != len(others):
        return row.p50_ns / baseline.p50_ns
    return statistics.median(one / other for one, other in zip(mine, others, strict=True))


def against(row: Row, baseline: Row) -> Row:
    """Set the row's ratio to its baseline."""
    row.ratio = ratio(row, baseline)
    row.baseline = baseline.name
    return row
