"""A writer and readers as processes of their own, for end-to-end tests.

Imports nothing of the product: the writer is the installed `arena-writer` script, a reader is
`tests/roles/reader_process.py`; both are told what to do from here.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from roles.child import Child, exit_code

States = dict[str, Any]
READER = Path(__file__).resolve().parent / "reader_process.py"
SHM = Path("/dev/shm")
SECONDS = 30.0
"""Deadline of one step; reaching it fails the test with the writer's log."""


def remove_segments(name: str) -> None:
    """Unlink what an arena of that name left in /dev/shm."""
    for entry in SHM.iterdir():
        if entry.name == name or entry.name.startswith(name + "."):
            entry.unlink(missing_ok=True)


class WriterProcess:
    """`arena-writer run`; a context manager that ends it with SIGTERM and wants exit code 0.

    Without `states` or `socket`, `more` says where pool values and the stream come from.

    Everything it would keep in the user's directories goes below `folder`. Its shared memory is
    removed at the end, whether or not the writer kept it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        socket: Path | None = None,
        states: Path | None = None,
        dialect: str = "auto",
        more: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.log = folder / "writer.log"
        home = folder / "home"
        home.mkdir(exist_ok=True)
        kept = {variable: str(home) for variable in ("HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")}
        command = [str(Path(sys.executable).parent / "arena-writer"), "run"]
        command += ["--name", name, "--dialect", dialect]
        command += [] if socket is None else ["--socket", str(socket)]
        command += [] if states is None else ["--states", str(states)]
        command += more
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=os.environ | kept | {"XDG_DATA_HOME": str(home), "XDG_CONFIG_HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def log_tail(self, characters: int = 4_000) -> str:
        return self.log.read_text(errors="replace")[-characters:]

    def stop(self) -> int:
        """End it with SIGTERM and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return exit_code(self.process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        try:
            ended_before = self.process.poll()
            code = self.stop()
        finally:
            remove_segments(self.name)
        if value is not None:
            value.add_note(f"writer's log ends:\n{self.log_tail()}")
            return
        assert ended_before is None, f"the writer ended with {ended_before}:\n{self.log_tail()}"
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.log_tail()}"


class BridgeProcess:
    """`arena-bridge`; a context manager that ends it with SIGTERM and wants exit code 0.

    The constructor returns once it listens.
    """

    def __init__(
        self, folder: Path, *, node: str, pools: Path, socket: Path, more: tuple[str, ...] = ()
    ) -> None:
        self.log = folder / "bridge.log"
        self.socket = socket
        program = str(Path(sys.executable).parent / "arena-bridge")
        command = [program, "--node", node, "--pools", str(pools), "--socket", str(socket), *more]
        before = self.log.read_text().count("event=listening") if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.wait_log("event=listening", times=before + 1)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait_log(self, text: str, *, times: int = 1) -> None:
        limit = time.monotonic() + SECONDS
        while self.log.read_text().count(text) < times:
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            assert time.monotonic() < limit, f"{text!r} is not in\n{self.log.read_text()[-4000:]}"
            time.sleep(0.02)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        was_killed = self.process.poll() == -signal.SIGKILL
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGTERM)
        code = exit_code(self.process)
        if value is not None:
            value.add_note(f"bridge's log ends:\n{self.log.read_text()[-4000:]}")
        else:
            assert was_killed or code == 0, self.log.read_text()[-4000:]


class ReaderProcess:
    """A separate process attached to the arena; it compares, this object says with what."""

    def __init__(self, folder: Path, name: str, *, seconds: float = SECONDS) -> None:
        self._known: dict[str, Any] = {}
        self._child = Child(READER, name, str(seconds), cwd=folder)

    def tell(self, **command: Any) -> None:
        """Give a command without waiting for its answer."""
        self._child.tell(json.dumps(command))

    def has_answered(self) -> bool:
        """`answer` would not wait."""
        return bool(select.select([self._child.process.stdout], [], [], 0)[0])

    def answer(self) -> dict[str, Any]:
        line = self._child.answer()
        assert line, f"the reader ended with {self._child.process.wait()}"
        result: dict[str, Any] = json.loads(line)
        return result

    def ask(self, **command: Any) -> dict[str, Any]:
        self.tell(**command)
        return self.answer()

    def wait_live(self, seconds: float = SECONDS) -> None:
        result = self.ask(do="live", seconds=seconds)
        assert result["ok"], result

    def expect(
        self, block_number: int, states: States, *, settle: bool = False, seconds: float = SECONDS
    ) -> None:
        """Check that every pool of `states`, and the block number, is exactly this.

        Without `settle` the first view at or above `block_number` must be right; with it views are
        taken until one is. AssertionError names each field that differs.
        """
        self.tell_expected(block_number, states, settle=settle, seconds=seconds)
        self.check_expected(block_number)

    def tell_expected(
        self, block_number: int, states: States, *, settle: bool = True, seconds: float = SECONDS
    ) -> None:
        """Begin what `expect` does, so that several readers look at the same time."""
        changed = {key: state for key, state in states.items() if self._known.get(key) != state}
        gone = [key for key in self._known if key not in states]
        self._known = {**self._known, **changed}
        for key in gone:
            del self._known[key]
        what = {"block": block_number, "set": changed, "drop": gone}
        self.tell(do="expect", settle=settle, seconds=seconds, **what)

    def check_expected(self, block_number: int) -> None:
        """Its end. AssertionError as in `expect`."""
        result = self.answer()
        assert result["ok"], f"at block {block_number}: {result}"

    def quotes(self, asks: list[list[Any]]) -> tuple[int, list[Any]]:
        """(block, answers) of [key, zero_for_one, exact_out, amount] from one view; an answer is
        [amount_in, amount_out, price, tick, liquidity after, is_complete] or an error's name."""
        result = self.ask(do="quotes", asks=asks)
        return result["block"], result["answers"]

    def fees(self, keys: list[str]) -> dict[str, tuple[int, int]]:
        """(lp_fee, protocol_fee) of V4 pools."""
        result = self.ask(do="fees", keys=keys)
        return {key: (lp, protocol) for key, (lp, protocol) in result["fees"].items()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, value: BaseException | None, trace: object) -> None:
        with self._child:
            code = self._child.end()
        if value is None:
            assert code == 0, f"the reader ended with {code}"
