"""What the main thread may ask of the feed thread."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from arena.writer.sync.intake import Intake

P = ParamSpec("P")
T = TypeVar("T")


class FeedThreadCall(Protocol):
    """Runs `work` in the feed thread between two blocks and gives its result or exception."""

    def __call__(
        self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs
    ) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Port:
    """The intake, and the way to have it called in its thread."""

    intake: Intake
    call: FeedThreadCall
