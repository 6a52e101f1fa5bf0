"""Unix sockets: how long a path may be, and which process answers on one."""

import os
import socket
import struct
from typing import NamedTuple

from arena.errors import PeerRefused
from arena.owner import shown_user

MAX_PATH_NBYTES = 107  # sockaddr_un.sun_path less its final zero
_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid


def check_path(path: str | os.PathLike[str], nbytes: int | None = None) -> None:
    """ValueError when a socket's path, or a longer one of `nbytes` it needs on the way, is too long."""
    needed = max(len(os.fsencode(path)), nbytes or 0)
    if needed > MAX_PATH_NBYTES:
        raise ValueError(
            f"{os.fspath(path)} needs {needed} bytes, a socket's path has at most "
            f"{MAX_PATH_NBYTES}: choose a shorter one, relative to the working directory perhaps"
        )


class Peer(NamedTuple):
    """The process that listens at the other end, as it was when it began to."""

    pid: int  # 0 when it is not visible from here
    uid: int
    gid: int


def peer_of(client: socket.socket) -> Peer:
    """Who answers on a connected Unix socket, as the kernel knows it (unix(7), SO_PEERCRED)."""
    found = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(found))


def check_peer(path: str, found: Peer, expected_uid: int | None) -> None:
    """PeerRefused unless that user's process answers on `path`; None is anybody."""
    if expected_uid is None or found.uid == expected_uid:
        return
    raise PeerRefused(
        f"{path} is served by process {found.pid} of {shown_user(found.uid)}, expected is "
        f"{shown_user(expected_uid)}: nothing of it was read; stop that process, or name its user "
        f"with --feed-uid",
        path=path,
        pid=found.pid,
        found=found.uid,
        expected=expected_uid,
    )
