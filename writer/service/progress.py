"""How a start or resync is shown: a bar on a terminal, log lines otherwise."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from arena.writer.sync.starts import Metrics

log = logging.getLogger(__name__)


LINE_INTERVAL_S = 1.0

Observe = Callable[[Metrics], None]


def describe(metrics: Metrics) -> str:
    """One line of key=value pairs: where a start stands."""
    return (
        f"phase={metrics.phase} pools_done={metrics.pools_done} pools_total={metrics.pools_total} "
        f"pools_invalid={metrics.pools_invalid} pools_per_s={int(metrics.pools_per_s)} "
        f"left_s={'-' if metrics.estimate_s is None else int(metrics.estimate_s)} "
        f"source_block={metrics.source_block or '-'} "
        f"buffered_events={metrics.buffered_events} blocks_behind={metrics.blocks_behind} "
        f"duration_ms={int(metrics.duration_s * 1000)}"
    )


@contextmanager
def progress_lines() -> Iterator[Observe]:
    """Log a line when the phase changes and at most once a second in between."""
    last = ("", 0.0)

    def observe(metrics: Metrics) -> None:
        nonlocal last
        now = time.monotonic()
        if metrics.phase != last[0] or now - last[1] >= LINE_INTERVAL_S:
            last = (metrics.phase, now)
            log.info("event=progress %s", describe(metrics))

    yield observe


@contextmanager
def progress_bar(console: Console) -> Iterator[Observe]:
    """A bar of pools done, shown until the arena is live and again while it resynchronises."""
    progress = Progress(
        TextColumn("{task.fields[phase]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pools  {task.fields[rate]}/s  {task.fields[buffered]} events buffered"),
        TextColumn("{task.fields[behind]} blocks behind  {task.fields[left]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    task = progress.add_task(
        "", total=None, phase="starting", rate=0, buffered=0, behind=0, left=""
    )

    def observe(metrics: Metrics) -> None:
        progress.update(
            task,
            total=metrics.pools_total or None,
            completed=metrics.pools_done,
            phase=metrics.phase,
            rate=int(metrics.pools_per_s),
            buffered=metrics.buffered_events,
            behind=metrics.blocks_behind,
            left="" if metrics.estimate_s is None else f"{int(metrics.estimate_s)} s left",
        )
        if metrics.phase == "live":
            progress.stop()
        elif not progress.live.is_started:
            progress.start()

    try:
        yield observe
    finally:
        progress.stop()
