"""What a source of the list of pools offers, and what a change of the list is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from arena.writer.protocols.storage import PoolTarget


@dataclass(frozen=True, slots=True)
class PoolChange:
    """One step of the list in force: `removed` keys first, then `added`; a key in both is read anew."""

    added: tuple[PoolTarget, ...] = ()
    removed: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def difference(before: dict[bytes, PoolTarget], after: dict[bytes, PoolTarget]) -> PoolChange:
    """The step from one list to another; a pool that is described otherwise is in both parts, but for
    decimals and symbols, of which an arena keeps those it met first."""
    same = {
        key
        for key, old in before.items()
        if (new := after.get(key)) is not None
        and (new is old or (old.layout == new.layout and old.spec.is_same(new.spec)))
    }
    return PoolChange(
        added=tuple(target for key, target in after.items() if key not in same),
        removed=tuple(key for key in before if key not in same),
    )


class PoolSource(Protocol):
    """A list of pools that may change. `first` comes before `run`, once each."""

    counts: dict[str, int]
    """What happened so far, for metrics; every name is there from the beginning."""

    def first(self) -> tuple[PoolTarget, ...]:
        """The list to start with, never empty. Blocks; no event loop may run. PoolListError."""

    async def run(self, take: Callable[[PoolChange], None]) -> None:
        """Hand every change of the list to `take`, in order, in this event loop, until cancelled.

        An exception of `take` ends it.
        """

    def reload(self) -> None:
        """Look again now. Safe from any thread."""

    def status(self) -> dict[str, Any]:
        """Source, pools in force, where they are from, when they last changed: plain values."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a list is from. `address` carries no password; `time_s` is Unix time of the message or
    file version that last named it whole or changed it."""

    kind: str
    address: str
    subject: str
    time_s: float
