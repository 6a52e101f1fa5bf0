"""What tests of the database scraper run in processes of their own."""

import os
import signal
from pathlib import Path
from typing import Any

from arena.writer.scrapers import rethdb
from arena.writer.scrapers.reth_tables import DatabaseAccess


def hold_a_transaction(folder: Path, connection: Any) -> None:
    with DatabaseAccess(str(folder)).open() as environment, environment.read() as txn:
        first = rethdb.state_block(txn)
        connection.send(first)
        connection.recv()
        connection.send((rethdb.state_block(txn), txn.id))


def die() -> None:
    os.kill(os.getpid(), signal.SIGBUS)


def signal_facts() -> tuple[bool, set[signal.Signals]]:
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    return ignored, signal.pthread_sigmask(signal.SIG_BLOCK, ())


def open_segments() -> list[str]:
    links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    maps = Path("/proc/self/maps").read_text().split()
    return [name for name in links + maps if name.startswith("/dev/shm/psa-")]
