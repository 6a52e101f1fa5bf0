"""The lines above the table: whether the arena is live, its head, its writer, rates, pools and readers."""

from arena.readers.views.lines import Line, Part, line, wrapped
from arena.readers.views.monitor import View
from arena.readers.views.text import NOTHING, count, duration, harmless, number

MOST_LINES = 7  # with a reason or a trouble in two lines


def summary(view: View, width: int, height: int) -> list[Line]:
    """Up to `height` lines, the most important first."""
    found = [
        _title(view),
        *_words(view, width),
        _head(view),
        _writer(view),
        _pools(view),
        _rates(view),
    ]
    return found[: max(0, height)]


def _title(view: View) -> Line:
    chain = f"chain {view.chain_id}" if view.chain_id else "chain unknown"
    phase = view.phase.name
    part = (
        Part.GOOD
        if phase == "live" and not view.trouble
        else Part.BAD
        if view.trouble
        else Part.WARNING
    )
    said = phase.upper() if not view.trouble else f"NOT KEPT UP (last phase: {phase})"
    since = "" if view.phase_age is None else f" for {duration(view.phase_age)}"
    gap = view.phase.gap
    missing = f", blocks {gap[0]} to {gap[1]} missing" if any(gap) else ""
    return line(
        (harmless(view.name), Part.TITLE),
        "  ",
        (said, part),
        f"{since}{missing}",
        (f"  {chain}, generation {view.generation}", Part.FAINT),
    )


def _words(view: View, width: int) -> list[Line]:
    if view.trouble:
        return wrapped(harmless(view.trouble), Part.BAD, width, 2)
    reason = harmless(view.phase.reason)
    return wrapped(f"reason: {reason}", Part.WARNING, width, 2) if reason else []


def _head(view: View) -> Line:
    if not view.block_number:
        return line("no block yet", (f"  commit {view.commit}", Part.FAINT))
    age = "age unknown" if view.age is None else f"{duration(view.age)} old"
    lag = NOTHING if view.lag is None else duration(view.lag)
    fee = f"  base fee {number(view.base_fee / 1e9, 4)} gwei" if view.base_fee else ""
    return line(
        "block ",
        (str(view.block_number), Part.TITLE),
        f"  {age}  lag {lag}{fee}",
        (f"  commit {view.commit}", Part.FAINT),
    )


def _writer(view: View) -> Line:
    who = "of another namespace" if view.writer_pid == 0 else str(view.writer_pid)
    if view.writer_pid is None:
        said = ("none", Part.BAD)
    elif view.writer_alive:
        said = (f"{who} alive", Part.GOOD)
    else:
        said = (f"{who} silent", Part.BAD)
    if view.mappers is None:
        readers = "readers unknown"
    else:
        more = ", some hidden" if view.mappers.hidden else ""
        readers = f"other readers {len(view.mappers.pids)}{more}"
    return line("writer ", said, f"  last sign {duration(view.heartbeat_age)} ago  {readers}")


def _pools(view: View) -> Line:
    counts = view.pools.counts()
    pieces: list[tuple[str, Part]] = [(f"pools {count(sum(counts.values()))}: ", Part.PLAIN)]
    for status, part in (("live", Part.GOOD), ("syncing", Part.WARNING), ("stale", Part.BAD)):
        pieces += [(f"{count(counts[status])} {status}", part if counts[status] else Part.FAINT)]
        pieces += [(", " if status != "stale" else "", Part.PLAIN)]
    touched = int(view.pools.is_touched.sum())
    return line(*pieces, f"  {count(touched)} touched by the newest block")


def _rates(view: View) -> Line:
    events, commits = (
        NOTHING if each is None else number(each, 3)
        for each in (view.events_per_s, view.commits_per_s)
    )
    counters = view.counters
    differ = counters["audit_differences"]
    audit = (
        f"{count(differ)} of {count(counters['audited'])} differ",
        Part.BAD if differ else Part.PLAIN,
    )
    return line(
        f"events/s {events}  commits/s {commits}  reorgs {count(counters['reorgs'])}"
        f"  gaps {count(counters['gaps'])}  audit ",
        audit,
    )
