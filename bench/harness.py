"""What every benchmark shares: arguments, repeated measurement, percentiles, the report.

A benchmark measures a case and its baseline alternately in one run, so that drift of a shared machine
hits both. Figures are nanoseconds unless a unit is named; ratios are medians of pairwise ratios.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


def percentile(samples: Sequence[float], share: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Row:
    """One measured case. `samples` are seconds of whole repetitions, `items` operations in each."""

    name: str
    items: int
    samples: list[float]
    unit: str = "ns"
    baseline: str = ""
    ratio: float | None = None
    target: str = ""
    note: str = ""

    def summary(self) -> dict[str, Any]:
        """The row for the result file: percentiles instead of samples."""
        values = self.per_item_ns
        shares = {"p50_ns": 0.5, "p99_ns": 0.99, "p999_ns": 0.999, "max_ns": 1.0}
        fields = {name: value for name, value in asdict(self).items() if name != "samples"}
        return (
            fields
            | {name: percentile(values, share) for name, share in shares.items()}
            | {"samples": len(values)}
        )

    @property
    def per_item_ns(self) -> list[float]:
        return [sample / self.items * 1e9 for sample in self.samples]


@dataclass
class Report:
    question: str
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, row: Row) -> Row:
        self.rows.append(row)
        return row

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
        if options.json:
            result = {
                "question": self.question,
                "machine": machine(),
                "facts": self.facts,
                "rows": [row.summary() for row in self.rows],
            }
            Path(options.json).write_text(json.dumps(result, indent=1) + "\n")


def arguments(question: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all")
    parser.add_argument("--json", metavar="PATH", help="also write the result as JSON")
    parser.add_argument("--repeat", type=int, default=15, help="repetitions of each case")
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


def alternate(
    cases: Sequence[tuple[str, int, Callable[[], object]]],
    repeat: int,
    *,
    timer: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Time every case once a round, `repeat` rounds after one warm-up round."""
    samples: list[list[float]] = [[] for _ in cases]
    for turn in range(repeat + 1):
        for index, (_, _, run) in enumerate(cases):
            begin = timer()
            run()
            elapsed = timer() - begin
            if turn:
                samples[index].append(elapsed)
    return [Row(name, items, times) for (name, items, _), times in zip(cases, samples, strict=True)]


def against(row: Row, baseline: Row) -> Row:
    """Set the row's ratio to its baseline: median of the pairwise ratios per item."""
    pairs = zip(row.per_item_ns, baseline.per_item_ns, strict=True)
    row.ratio = statistics.median(mine / other for mine, other in pairs)
    row.baseline = baseline.name
    return row
