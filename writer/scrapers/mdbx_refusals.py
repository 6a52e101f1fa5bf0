"""What the database library refuses, as an error with its remedy."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from arena.errors import (
    DatabaseDamaged,
    DatabaseLocked,
    DatabaseMissing,
    DatabasePermission,
    DatabaseRefused,
    DatabaseUnreadable,
    DatabaseVersion,
)

DATA_FILE = "mdbx.dat"
LOCK_FILE = "mdbx.lck"
SUCCESS = 0
NOTFOUND = -30798


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a code of libmdbx or of the operating system means to the caller, and its remedy."""

    error: type[DatabaseRefused]
    found: str
    remedy: str


_USE_RPC = "use the RPC back end (--rpc)"
_COPY = "make a copy with mdbx_copy, or name the live database; mdbx_chk checks a file"
_REFUSALS = {
    1: Refusal(
        DatabasePermission, "opening is not permitted", "check ownership and mode of the files"
    ),
    2: Refusal(
        DatabaseMissing, "no such file", "name the node's data directory or its db directory"
    ),
    5: Refusal(DatabaseDamaged, "input/output error", "check the disk"),
    12: Refusal(
        DatabaseUnreadable,
        "the file cannot be mapped: not enough address space",
        "raise `ulimit -v`: a node's database reserves up to 8 TiB of address space",
    ),
    22: Refusal(DatabaseDamaged, "the library takes the file's parameters as invalid", _USE_RPC),
    61: Refusal(DatabaseDamaged, "the file is empty or ends in its header", _COPY),
    121: Refusal(
        DatabaseUnreadable,
        "the files lie on a network file system, or on another kernel's",
        f"run on the node's machine, or {_USE_RPC}",
    ),
    -30419: Refusal(
        DatabaseDamaged,
        "the file is truncated or was copied while it was written",
        _COPY,
    ),
    -30778: Refusal(
        DatabaseLocked,
        "another process holds the database exclusively, or this one has opened it already",
        "stop the other user; open it once in each process",
    ),
    -30785: Refusal(
        DatabaseUnreadable,
        "the mapping cannot be extended",
        "raise `ulimit -v`: a node's database reserves up to 8 TiB of address space",
    ),
    -30790: Refusal(
        DatabaseLocked,
        "every slot of the lock file's reader table is taken",
        "stop other readers, or delete mdbx.lck while nobody has the database open",
    ),
    -30793: Refusal(DatabaseDamaged, "not an MDBX file", f"name the node's own {DATA_FILE}"),
    -30794: Refusal(
        DatabaseVersion,
        "the file or its lock file is of an incompatible version of libmdbx",
        f"upgrade the node (Reth 1.4 or later), or {_USE_RPC}",
    ),
    -30795: Refusal(DatabaseDamaged, "the environment had a fatal error", "check the disk"),
    -30796: Refusal(DatabaseDamaged, "the file is corrupt or truncated", _COPY),
    -30797: Refusal(DatabaseDamaged, "the file is corrupt: a page is missing", _COPY),
}


def refuse(code: int, text: str, path: Path) -> NoReturn:
    """Raise the DatabaseRefused class for a code, with the remedy for this process and path."""
    if code == 13:
        refusal = _permission(path)
    elif code == 11:
        refusal = _unavailable(path)
    else:
        refusal = _REFUSALS.get(code) or Refusal(DatabaseUnreadable, "unexpected", _USE_RPC)
    raise refusal.error(
        f"{path}: {refusal.found} (code {code}, {text}); {refusal.remedy}",
        path=str(path),
        code=code,
        remedy=refusal.remedy,
    )


def _permission(path: Path) -> Refusal:
    lock, data = path / LOCK_FILE, path / DATA_FILE
    if not os.access(path, os.X_OK):
        found, remedy = f"user {os.geteuid()} may not enter it", "allow this user to enter it"
    elif not os.access(data, os.R_OK):
        found, remedy = (
            f"user {os.geteuid()} may not read {DATA_FILE}",
            "allow this user to read it",
        )
    elif not lock.exists():
        found = f"there is no {LOCK_FILE} and user {os.geteuid()} may not create one"
        remedy = "start the node first, or allow this user to write to the directory"
    else:
        found = f"user {os.geteuid()} may not read and write {LOCK_FILE}"
        remedy = (
            f"give this user write access to {LOCK_FILE} (a common group and mode 0664); "
            f"{DATA_FILE} may stay read-only"
        )
    return Refusal(DatabasePermission, found, remedy)


def _unavailable(path: Path) -> Refusal:
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        found = "the directory is mounted read-only and a live node holds the lock"
        remedy = f"mount it read-write (only {LOCK_FILE} is written), or {_USE_RPC}"
    else:
        found = (
            "its lock cannot be shared: another process holds it exclusively, or has this process's "
            f"pid {os.getpid()} in another container"
        )
        remedy = (
            "stop the other user; in containers run under an init, so that node and writer are not "
            f"both pid 1, or share the host's pid namespace; or {_USE_RPC}"
        )
    return Refusal(DatabaseLocked, found, remedy)
