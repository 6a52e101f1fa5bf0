"""What every benchmark shares: arguments, repeated measurement, percentiles, the report.

A benchmark measures a case and its baseline alternately in one run, so that drift of a shared machine
hits both. Figures are nanoseconds unless a unit is named; ratios are medians of pairwise ratios. What a
figure should be is printed beside it, met or missed; it never fails a run.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

UNITS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}
# Of the median an operation, or of its multiple of the baseline; words behind it would mean something else.
GOAL = re.compile(r"(?:p50 )?<= (?P<most>[\d,.]+) (?P<unit>ns|us|ms|s|x)(?: a pool| \(.*\))?")
VERDICTS = {None: "-", True: "met", False: "MISSED"}


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what is in them; numbers to the right, words to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    is_number = [name in ("p50 ns", "p99 ns", "max ns", "per s", "n", "ratio") for name in head]
    for row in (head, *rows):
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        )
        print("  ".join(cells).rstrip())


def figure(nanoseconds: float) -> str:
    """With tenths where they are more than noise."""
    return f"{nanoseconds:,.1f}" if nanoseconds < 10_000 else f"{nanoseconds:,.0f}"


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

    @property
    def is_met(self) -> bool | None:
        """Whether a goal in time or in multiples of the baseline is met; None for any other."""
        goal = GOAL.fullmatch(self.target)
        if goal is None:
            return None
        most = float(goal["most"].replace(",", ""))
        if goal["unit"] == "x":
            return None if self.ratio is None else self.ratio <= most
        return self.p50_ns <= most * UNITS[goal["unit"]]

    def cells(self) -> list[str]:
        values = self.per_item_ns
        p50 = self.p50_ns
        goal = f"{self.target}: {VERDICTS[self.is_met]}" if self.is_met is not None else self.target
        return [
            self.name,
            *map(figure, (p50, percentile(values, 0.99), max(values))),
            f"{1e9 / p50 if p50 else 0:,.0f}",
            str(len(values)),
            "-" if self.ratio is None else f"{self.ratio:.2f}",
            goal,
            f"({self.note})" if self.note else "",
        ]


@dataclass
class Aim:
    """What was wanted of a row's median: of its ratio to a baseline's, or of itself."""

    name: str
    p50_ns: float
    figure: str
    goal: str = "-"
    is_met: bool | None = None

    def cells(self) -> list[str]:
        return [self.name, figure(self.p50_ns), self.figure, self.goal, VERDICTS[self.is_met]]


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
        print_table(
            ("case", "p50 ns", "p99 ns", "max ns", "per s", "n", "ratio", "goal", ""),
            [row.cells() for row in self.rows],
        )
        if self.aims:
            print()
            print_table(
                ("aim", "p50 ns", "figure", "goal", "met"), [aim.cells() for aim in self.aims]
            )
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
