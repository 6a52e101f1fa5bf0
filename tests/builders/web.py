"""arena-web as a process of its own."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

WEB = str(Path(sys.executable).parent / "arena-web")
SECONDS = 30.0


class WebProcess:
    """A server on a free port of this machine; `address` has no slash at its end."""

    def __init__(self, name: str, *words: str, port: int = 0) -> None:
        self.process = subprocess.Popen(
            [WEB, name, "--port", str(port), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith(f"arena-web: arena {name} at http://"), self.end()
        self.address = line.split()[-1].rstrip("/")
        self.port = int(self.address.rpartition(":")[2])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            self.process.communicate()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code, and what it wrote to standard error."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors
