"""Another Python process, told what to do by lines on its stdin and answering by lines on its stdout.

Imports nothing of the product.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

TESTS = Path(__file__).resolve().parent.parent
ONE_POOL = TESTS / "roles" / "one_pool.py"
SECONDS = 60.0


def exit_code(process: subprocess.Popen[Any]) -> int:
    """Of a process that is to end now; one that does not is killed, and that is an error."""
    try:
        return process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def run_python(code: str, *arguments: str, prefix: tuple[str, ...] = ()) -> Any:
    """What another Python process prints, as JSON; `prefix`: the command that starts it."""
    done = subprocess.run(
        [*prefix, sys.executable, "-P", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Child:
    """`python -P` with `words` behind it, which may import from tests; a context manager that kills it."""

    def __init__(self, *words: str | Path, cwd: Path | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", *words],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(TESTS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def answer(self) -> str:
        """Its next line, empty once it has ended."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def tell(self, command: str = "go") -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def do(self, command: str) -> str:
        self.tell(command)
        return self.answer()

    def end(self) -> int:
        """Close its stdin, which ends it; its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return exit_code(self.process)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


def one_pool_writer(name: str) -> Child:
    """A writer with one committed V2 pool in a process of its own; it ends when told anything."""
    child = Child(ONE_POOL, name)
    assert child.answer() == "ready"
    return child
