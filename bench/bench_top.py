"""What does a live view of an arena cost the machine while every look finds a new block?

Timed: processor time of arena-top, all its threads, in a pseudo terminal of 80 by 24 that takes what it
writes, a look every 0.2 s, as many blocks; its start left out. Baseline: the same view of an arena at rest.
"""

import argparse
import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from harness import Report, Row, against, arguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from builders.market import Market, make_market

TOP = str(Path(sys.executable).parent / "arena-top")
INTERVAL_S = 0.2
SHARE = 0.05  # of a core at most, at 300 pools
SETTLED_S = 3.0


class Window:
    """arena-top in a terminal whose other side reads whatever comes."""

    def __init__(self, name: str, words: list[str]) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(TOP, [TOP, name, "--interval", str(INTERVAL_S), *words])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.nbytes = 0

    def read(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if select.select([self.fd], [], [], left)[0]:
                self.nbytes += len(os.read(self.fd, 65_536))

    def processor_s(self) -> float:
        """Of all its threads since they began."""
        total = 0
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
        return total / 1e9

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@contextlib.contextmanager
def window(name: str, words: list[str]) -> Iterator[Window]:
    found = Window(name, words)
    try:
        yield found
    finally:
        found.close()


def watch(
    market: Market, name: str, words: list[str], touched: int, options: argparse.Namespace
) -> Row:
    """Rounds of 2 s; with `touched` a block of so many events before each look."""
    looks = 2 if options.smoke else 10
    row = Row(name, looks)
    with window(market.name, words) as view:
        view.read(SETTLED_S)
        for _ in range(options.repeat):
            begin = view.processor_s()
            for _ in range(looks):
                if touched:
                    market.block(touched)
                view.read(INTERVAL_S)
            row.add_round([view.processor_s() - begin])
        row.note = f"{view.nbytes:,} bytes written"
    return row


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    for pools, touched, words in (
        (300, 100, []),
        (20_000, 150, ["--sort", "block", "--touched-first"]),
    ):
        count = 200 if options.smoke else pools
        with make_market(f"psa-bench-top-{os.getpid()}", count, 7) as market:
            rest = report.add(watch(market, f"{count:,} pools at rest: a look", words, 0, options))
            name = f"{count:,} pools, {touched} touched: a look"
            busy = report.add(against(watch(market, name, words, touched, options), rest))
            if pools == 300:
                report.limit(busy, SHARE * INTERVAL_S * 1e9)
            else:
                report.compare(busy, rest)
    report.facts["a look every"] = f"{INTERVAL_S} s: one ms a look is 0.5 % of a core"
    report.show(options)


if __name__ == "__main__":
    main()
