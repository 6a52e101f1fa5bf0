"""What the parts of the main thread's half share, each made once by the coordinator."""

from dataclasses import dataclass

from arena.writer.sync.branch import Branch
from arena.writer.sync.port import Port
from arena.writer.sync.progress import Progress
from arena.writer.sync.roster import Roster


@dataclass(frozen=True, slots=True)
class Shared:
    """The way to the feed thread, what is waited for and shown, the list in force, and the branch of
    the node, where there is one."""

    port: Port
    progress: Progress
    roster: Roster
    branch: Branch | None


class Part:
    """One duty of the main thread's half."""

    def __init__(self, shared: Shared) -> None:
        self.intake = shared.port.intake
        self._call = shared.port.call
        self._progress = shared.progress
        self._roster = shared.roster
        self._branch = shared.branch
