"""POSIX shared memory segments: names, access, and data segments created, mapped and unlinked.

Attaching never passes a size: posix_ipc would resize, or on error unlink, a segment it did not create.

Whoever owns a segment can change what is read from it, whatever its mode says now. So what is opened
must belong to the expected user, by default this process's; root is no exception.
"""

import contextlib
import errno
import grp
import mmap
import os
import re
import resource
import stat
from dataclasses import dataclass
from typing import Self

import posix_ipc

from arena.errors import (
    ArenaDamaged,
    ArenaFull,
    ArenaMissing,
    ArenaNotReady,
    ArenaPermission,
    LayoutMismatch,
)
from arena.owner import check_owner, user_id

DIRECTORY = "/dev/shm"
NAME_NBYTES = 200
# 64 blocks of 17,800 records, three for a liquidity event and one for each pool another touches: 10 times
# Ethereum's 500 events a block, whatever they are.
UNDO_NBYTES = 96 << 20
_MAX_NBYTES = 1 << 46  # half of what a process can address; no writer makes one so large

# How the system says that a segment is larger than what is left, or allowed.
ROOM_ERRNOS = {errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EDQUOT}


@dataclass(frozen=True, slots=True)
class Access:
    """Permission bits, and the group that owns it: a name, a number, or None for the user's own."""

    mode: int = 0o600
    group: str | int | None = None


PRIVATE = Access()


def segment_name(name: str) -> str:
    """`name` with exactly one leading slash.

    ValueError when it is empty, longer than 200 bytes, holds a slash or a zero byte, is a dot name, or ends
    in a number after a dot (those names belong to data segments).
    """
    if not isinstance(name, str):
        raise TypeError(f"segment name must be a string, not {type(name).__name__}")
    bare = name.removeprefix("/")
    size = len(os.fsencode(bare))
    if not bare or size > NAME_NBYTES or "/" in bare or "\0" in bare or bare in (".", ".."):
        raise ValueError(
            f"{name!r} is no segment name: 1 to {NAME_NBYTES} bytes, no slash after the first"
        )
    if re.search(r"\.[0-9]+\Z", bare):
        raise ValueError(f"{name!r} ends like a data segment: choose a name without .NUMBER")
    return "/" + bare


def data_name(name: str, generation: int) -> str:
    """Name of the data segment of one generation."""
    return f"{segment_name(name)}.{generation}"


def open_segment(
    name: str, *, writable: bool, create: bool, mode: int = 0, owner_uid: int | None = None
) -> int:
    """Descriptor of a segment. FileExistsError when it is to be created and exists; OwnerMismatch when
    it exists and belongs to another user than `owner_uid` (None: this process's)."""
    try:
        if create:
            fd = int(posix_ipc.SharedMemory(name, flags=posix_ipc.O_CREX, mode=mode).fd)
        else:  # shm_open would wait for the other end of a pipe
            access = os.O_RDWR if writable else os.O_RDONLY
            more = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(DIRECTORY + name, access | more)
    except posix_ipc.ExistentialError as error:
        raise FileExistsError(name) from error
    except FileNotFoundError as error:
        raise ArenaMissing(
            f"no shared memory segment {name}: is the writer running, and is the name right?",
            name=name,
        ) from error
    except (posix_ipc.PermissionsError, PermissionError) as error:
        raise _permission(name, writable=writable) from error
    except OSError as error:
        if error.errno is None:  # posix_ipc has words for these two, and no number
            number = errno.ENFILE if "system" in str(error) else errno.EMFILE
            raise OSError(number, os.strerror(number), DIRECTORY + name) from error
        with contextlib.suppress(FileNotFoundError):
            _check_regular(name, os.lstat(DIRECTORY + name).st_mode)
        raise
    try:
        _check_regular(name, os.fstat(fd).st_mode)
        check_owner(name, os.fstat(fd).st_uid, user_id(owner_uid), writes=writable)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_regular(name: str, mode: int) -> None:
    """LayoutMismatch for a folder, a link, a pipe."""
    if not stat.S_ISREG(mode):
        raise LayoutMismatch(
            f"{DIRECTORY}{name} is no file: remove it, or choose another name", name=name
        )


def _permission(name: str, *, writable: bool) -> ArenaPermission:
    wish = "write" if writable else "read"
    facts = ""
    with contextlib.suppress(OSError):
        found = os.stat(DIRECTORY + name)
        facts = f": mode {found.st_mode & 0o7777:#o}, uid {found.st_uid}, gid {found.st_gid}"
    return ArenaPermission(
        f"uid {os.geteuid()} may not {wish} {name}{facts}; "
        "start the writer with a wider --mode or another --group",
        name=name,
    )


def no_room(name: str, requested: int, available: int) -> ArenaFull:
    """The error that tells how much is there, and the remedy."""
    return ArenaFull(
        f"{name} needs {requested} bytes of shared memory, {available} are available; "
        "enlarge /dev/shm (or ulimit -f), or choose smaller --max-pools or --tick-bytes",
        name=name,
        requested_bytes=requested,
        available_bytes=available,
    )


def available_nbytes(fd: int) -> int:
    """Bytes the file system of a segment has left for this user."""
    found = os.fstatvfs(fd)
    return found.f_bavail * found.f_frsize


def group_id(group: str | int | None) -> int:
    """Numeric group, -1 for none. ValueError when there is no group of that name."""
    if group is None:
        return -1
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ValueError(f"no group named {group!r}") from error


def set_access(fd: int, name: str, access: Access) -> None:
    """Give a segment its group and mode; the umask has no say."""
    try:
        gid = group_id(access.group)
        if gid != -1:
            os.fchown(fd, -1, gid)
        os.fchmod(fd, access.mode)
    except PermissionError as error:
        raise ArenaPermission(
            f"cannot set mode {access.mode:#o} and group {access.group} of {name}: {error.strerror}",
            name=name,
        ) from error


def create_segment(name: str, nbytes: int, *, reserve_bytes: int, access: Access) -> int:
    """Descriptor of a new segment of `nbytes` zero bytes, the first `reserve_bytes` with pages behind
    them. FileExistsError; ArenaFull when the file system has too few; nothing is left behind then."""
    fd = open_segment(name, writable=True, create=True, mode=access.mode)
    try:
        set_access(fd, name, access)
        try:
            os.ftruncate(fd, nbytes)
            os.posix_fallocate(fd, 0, reserve_bytes)
        except OSError as error:
            if error.errno not in ROOM_ERRNOS:
                raise
            os.ftruncate(fd, 0)
            if error.errno == errno.EFBIG:  # the limit counts the whole size, holes too
                limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
                raise no_room(name, nbytes, limit) from error
            raise no_room(name, reserve_bytes, available_nbytes(fd)) from error
    except BaseException:
        os.close(fd)
        unlink(name)
        raise
    return fd


class Segment:
    """One mapped data segment. `map` is read-only unless it was created or opened writable."""

    fd = -1  # also of one that was not made to the end

    def __init__(self, name: str, fd: int, mapping: mmap.mmap, nbytes: int) -> None:
        self.name = name
        self.fd = fd
        self.map = mapping
        self.nbytes = nbytes

    @classmethod
    def create(
        cls, name: str, nbytes: int, *, reserve_bytes: int, access: Access = PRIVATE
    ) -> Self:
        """New segment of `nbytes` zero bytes, the first `reserve_bytes` with pages behind them.

        A segment of that name must not be in use: one left behind is unlinked first. ArenaFull when the
        file system has too few pages; nothing is left behind then.
        """
        unlink(name)
        fd = create_segment(name, nbytes, reserve_bytes=reserve_bytes, access=access)
        try:
            return cls(name, fd, mmap.mmap(fd, nbytes), nbytes)
        except BaseException:
            os.close(fd)
            unlink(name)
            raise

    @classmethod
    def attach(cls, name: str, *, writable: bool = False, owner_uid: int | None = None) -> Self:
        """Map an existing segment of that user's (None: this process's) whole.

        ArenaMissing, ArenaPermission, OwnerMismatch, ArenaNotReady (empty), ArenaDamaged (too large to be
        one), LayoutMismatch (no file).
        """
        fd = open_segment(name, writable=writable, create=False, owner_uid=owner_uid)
        try:
            nbytes = os.fstat(fd).st_size
            if nbytes == 0:
                raise ArenaNotReady(f"{name} is still being created", name=name)
            if nbytes > _MAX_NBYTES:
                raise ArenaDamaged(
                    f"{name} has {nbytes} bytes: another program made it so large; restart the writer",
                    name=name,
                )
            access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
            mapping = mmap.mmap(fd, nbytes, mmap.MAP_SHARED, access)
        except BaseException:
            os.close(fd)
            raise
        if not writable:  # only a writer reserves pages later on
            os.close(fd)
            fd = -1
        return cls(name, fd, mapping, nbytes)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def set_access(self, access: Access) -> None:
        """Change the mode and, unless None, the group."""
        set_access(self.fd, self.name, access)

    def close(self) -> None:
        """Close the descriptor and let go of the mapping; views of it stay valid."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with contextlib.suppress(BufferError):  # unmapped when the last view is gone
            self.map.close()


def unlink(name: str) -> None:
    """Remove a segment's name; mappings of it stay valid. Missing names are fine. OwnerMismatch."""
    with contextlib.suppress(FileNotFoundError):
        check_owner(name, os.lstat(DIRECTORY + name).st_uid, os.geteuid(), writes=True)
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)
