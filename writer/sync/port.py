"""What the main thread may ask of the feed thread."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

from arena.writer.sync.fees import Fees
from arena.writer.sync.gap_side import GapSide
from arena.writer.sync.intake import Intake
from arena.writer.sync.members import Members
from arena.writer.sync.standing import Standing
from arena.writing import WriterArena

P = ParamSpec("P")
T = TypeVar("T")


class FeedThreadCall(Protocol):
    """Runs `work` in the feed thread between two blocks and gives its result or exception."""

    def __call__(
        self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> Awaitable[T]: ...


# All of it: tests/unit/test_port.py compares this list with the calls there are. What the main thread reads
# by itself, without asking, are single values that the feed thread sets at once.
ASKED: tuple[Callable[..., Any], ...] = (
    *(Intake.joining_block, Intake.enter, Intake.progress, Intake.kept_range, Intake.idle_turns),
    *(Intake.head_block, Intake.live_head, Intake.install, Intake.go_live, Intake.join_failed),
    *(Intake.open_gap, Intake.drop_buffer, Intake.stalled, Intake.is_apart, WriterArena.set_phase),
    *(Standing.known_now, Standing.known_at, Standing.valid),
    *(Standing.valid_now, Standing.valid_at),
    *(Members.pools, Members.stale, Members.unread, Members.is_stale, Members.take_stale),
    *(Members.announce, Members.replace, Members.remove, Members.doubt, Members.suspect),
    *(Members.grow, Members.size_of, Members.sample, Members.audited, Members.image),
    *(GapSide.facts, GapSide.kept, GapSide.close, GapSide.give_up, GapSide.adopt),
    *(GapSide.unwitnessed, GapSide.note_hashes, GapSide.lowest_known),
    *(Fees.known, Fees.note, Fees.lost),
)


@dataclass(frozen=True, slots=True)
class Port:
    """The intake, and the way to have it called in its thread."""

    intake: Intake
    call: FeedThreadCall
