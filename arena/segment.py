"""POSIX shared memory segments: create, open, map, reserve, unlink; and the writer lock.

Two kinds. A data segment is opened by whoever maps it and closed on its own. A control segment carries
the writer lock, a classic record lock, which the kernel drops when the process closes *any* descriptor
of that file, the duplicates inside mmap objects included. So a process keeps one record per control
file, shared by all its users, and closes nothing of it before the last user is gone.

Attaching never passes a size: posix_ipc would resize, or on error unlink, a segment it did not create.

Whoever owns a segment can change what is read from it, whatever its mode says now. So what is opened
must belong to the expected user, by default this process's; root is no exception.
"""

import contextlib
import errno
import fcntl
import grp
import mmap
import os
import re
import resource
import stat
import struct
import threading
from typing import Self

import posix_ipc

from arena.errors import (
    ArenaBusy,
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
_MAX_NBYTES = 1 << 46  # half of what a process can address; no writer makes one so large

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = struct.Struct("hhqqi4x")

_FULL = {errno.ENOSPC, errno.EFBIG, errno.ENOMEM, errno.EDQUOT}


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


def _open(
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


def _full(name: str, requested: int, available: int) -> ArenaFull:
    return ArenaFull(
        f"{name} needs {requested} bytes of shared memory, {available} are available; "
        "enlarge /dev/shm (or ulimit -f), or choose smaller --max-pools or --tick-bytes",
        name=name,
        requested_bytes=requested,
        available_bytes=available,
    )


def _available(fd: int) -> int:
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


def _set_access(fd: int, name: str, mode: int, group: str | int | None) -> None:
    """Give a segment its group and mode; the umask has no say."""
    try:
        gid = group_id(group)
        if gid != -1:
            os.fchown(fd, -1, gid)
        os.fchmod(fd, mode)
    except PermissionError as error:
        raise ArenaPermission(
            f"cannot set mode {mode:#o} and group {group} of {name}: {error.strerror}", name=name
        ) from error


class Segment:
    """One mapped data segment. `map` is read-only unless it was created or opened writable."""

    def __init__(self, name: str, fd: int, mapping: mmap.mmap, nbytes: int) -> None:
        self.name = name
        self.fd = fd
        self.map = mapping
        self.nbytes = nbytes

    @classmethod
    def create(
        cls,
        name: str,
        nbytes: int,
        *,
        reserve_bytes: int,
        mode: int = 0o600,
        group: str | int | None = None,
    ) -> Self:
        """New segment of `nbytes` zero bytes, the first `reserve_bytes` with pages behind them.

        A segment of that name must not be in use: one left behind is unlinked first. ArenaFull when the
        file system has too few pages; nothing is left behind then.
        """
        unlink(name)
        fd = _open(name, writable=True, create=True, mode=mode)
        try:
            _set_access(fd, name, mode, group)
            try:
                os.ftruncate(fd, nbytes)
                os.posix_fallocate(fd, 0, reserve_bytes)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                os.ftruncate(fd, 0)
                if error.errno == errno.EFBIG:  # the limit counts the whole size, holes too
                    raise _full(
                        name, nbytes, resource.getrlimit(resource.RLIMIT_FSIZE)[0]
                    ) from error
                raise _full(name, reserve_bytes, _available(fd)) from error
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
        fd = _open(name, writable=writable, create=False, owner_uid=owner_uid)
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

    def set_access(self, mode: int, group: str | int | None) -> None:
        """Change the mode and, unless None, the group."""
        _set_access(self.fd, self.name, mode, group)

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


class _File:
    """A control file as this process has it open: descriptors, mappings, users, and the lock."""

    def __init__(self) -> None:
        self.fds: list[int] = []
        self.reading: mmap.mmap | None = None
        self.writing: mmap.mmap | None = None
        self.users = 0
        self.lock_fd = -1
        self.lock_pid = 0  # process that took the lock here; a forked child is another one

    def mapping(self, writable: bool) -> mmap.mmap | None:
        """The mapping of that kind, if there is one yet."""
        return self.writing if writable else self.reading

    def map(self, name: str, fd: int, nbytes: int, *, writable: bool) -> None:
        """Map the file through `fd`; for writing it is made as long as it has to be. ArenaFull;
        ArenaNotReady for reading while it is shorter than `nbytes`."""
        size = os.fstat(fd).st_size
        if writable and size < nbytes:
            # Its creator is here or died here, or somebody cut it short; growing harms neither.
            try:
                os.posix_fallocate(fd, 0, nbytes)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise _full(name, nbytes, _available(fd)) from error
            size = nbytes
        if size < nbytes:
            raise ArenaNotReady(
                f"{name} has {size} of {nbytes} bytes: its writer is still creating it, "
                "or died while it did",
                name=name,
            )
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        mapping = mmap.mmap(fd, nbytes, mmap.MAP_SHARED, access)
        if writable:
            self.writing = mapping
            self.lock_fd = fd
        else:
            self.reading = mapping

    def close(self) -> bool:
        """Close everything; False when a mapping is still in use somewhere."""
        for mapping in (self.reading, self.writing):
            if mapping is not None:
                try:
                    mapping.close()
                except BufferError:
                    return False
        while self.fds:
            os.close(self.fds.pop())
        return True


_files: dict[tuple[int, int], _File] = {}
_guard = threading.RLock()


def _renew_guard() -> None:
    global _guard
    _guard = threading.RLock()  # another thread may have held it at the fork


os.register_at_fork(after_in_child=_renew_guard)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return (found.st_dev, found.st_ino)


def _linked(name: str) -> tuple[int, int] | None:
    """The file the name leads to now."""
    try:
        return _identity(os.stat(DIRECTORY + name))
    except OSError:
        return None


def _purge() -> None:
    """Close the control files nobody uses any more.

    The garbage collector may call this at any point, through ControlSegment.__del__: users are counted
    before anything else happens to a file.
    """
    for identity, file in list(_files.items()):
        if file.users == 0 and file.close():
            _files.pop(identity, None)


class ControlSegment:
    """One user's hold on a control segment. `map` is writable only when opened so."""

    def __init__(
        self, name: str, identity: tuple[int, int], file: _File, mapping: mmap.mmap
    ) -> None:
        self.name = name
        self.map = mapping
        self._identity = identity
        self._file: _File | None = file
        self._locked = False  # this handle took the lock

    @classmethod
    def attach(cls, name: str, nbytes: int, *, owner_uid: int | None = None) -> Self:
        """Map an existing control segment of that user's (None: this process's) read-only.

        ArenaMissing, ArenaPermission, OwnerMismatch, or ArenaNotReady while it is shorter than `nbytes`.
        """
        return cls._take(
            segment_name(name), nbytes, writable=False, created_fd=-1, owner_uid=owner_uid
        )

    @classmethod
    def create(
        cls, name: str, nbytes: int, *, mode: int = 0o600, group: str | int | None = None
    ) -> Self:
        """Create a control segment of `nbytes` zero bytes, and map it. FileExistsError if there is one.

        Whoever wants to write takes the lock next; the creator has no claim on it.
        """
        name = segment_name(name)
        fd = _open(name, writable=True, create=True, mode=mode)
        try:
            _set_access(fd, name, mode, group)
            try:
                os.ftruncate(fd, nbytes)
                os.posix_fallocate(fd, 0, nbytes)
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                raise _full(name, nbytes, _available(fd)) from error
        except BaseException:
            os.close(fd)  # nobody can hold the lock through it yet
            unlink(name)
            raise
        return cls._take(name, nbytes, writable=True, created_fd=fd)

    @classmethod
    def attach_writable(cls, name: str, nbytes: int) -> Self:
        """Map an existing control segment for writing, made as long as it has to be; errors as attach, and
        ArenaFull."""
        return cls._take(segment_name(name), nbytes, writable=True, created_fd=-1)

    @classmethod
    def _take(
        cls,
        name: str,
        nbytes: int,
        *,
        writable: bool,
        created_fd: int,
        owner_uid: int | None = None,
    ) -> Self:
        with _guard:
            _purge()
            identity = _linked(name)
            file = _files.get(identity) if identity is not None and created_fd < 0 else None
            if file is None or identity is None or file.mapping(writable) is None:
                fd = created_fd
                if fd < 0:
                    fd = _open(name, writable=writable, create=False, owner_uid=owner_uid)
                identity = _identity(os.fstat(fd))
                file = _files.setdefault(identity, _File())
                file.users += 1
                file.fds.append(fd)  # from here on closed with the file only
                try:
                    if file.mapping(writable) is None:
                        file.map(name, fd, nbytes, writable=writable)
                except BaseException:
                    file.users -= 1
                    _purge()
                    raise
            else:
                found = os.fstat(file.fds[0]).st_uid
                check_owner(name, found, user_id(owner_uid), writes=writable)
                file.users += 1
            mapping = file.mapping(writable)
            assert mapping is not None
            return cls(name, identity, file, mapping)

    def __del__(self) -> None:
        self.close()

    def _require(self) -> _File:
        if self._file is None:
            raise ValueError(f"control segment {self.name} is closed")
        return self._file

    def lock(self) -> None:
        """Take the writer lock for the life of this process. ArenaBusy names its holder."""
        with _guard:
            file = self._require()
            if file.lock_pid == os.getpid():
                raise self._busy(os.getpid())
            try:
                fcntl.lockf(file.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, os.SEEK_SET)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                raise self._busy(self.holder()) from error
            file.lock_pid = os.getpid()
            self._locked = True

    def _busy(self, pid: int | None) -> ArenaBusy:
        return ArenaBusy(
            f"{self.name} has a living writer, process {pid}; stop it or choose another name",
            name=self.name,
            pid=pid,
        )

    def unlock(self) -> None:
        """Give the writer lock back; fine when this handle did not take it."""
        with _guard:
            file = self._require()
            if self._locked and file.lock_pid == os.getpid():
                self._locked = False
                fcntl.lockf(file.lock_fd, fcntl.LOCK_UN, 1, 0, os.SEEK_SET)
                file.lock_pid = 0

    def holder(self) -> int | None:
        """Process that holds the writer lock; None when nobody does, 0 when its pid is not visible here."""
        file = self._require()
        if file.lock_pid == os.getpid():
            return file.lock_pid
        wish = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        found = _FLOCK.unpack(fcntl.fcntl(file.fds[0], fcntl.F_GETLK, wish))
        return None if found[0] == fcntl.F_UNLCK else max(int(found[4]), 0)

    def is_linked(self) -> bool:
        """Whether the name still leads to this file."""
        return _linked(self.name) == self._identity

    def set_access(self, mode: int, group: str | int | None) -> None:
        """Change group and mode. ArenaPermission when this user may not."""
        _set_access(self._require().fds[0], self.name, mode, group)

    def close(self) -> None:
        """Let go, of the lock too; the file closes when its last user in this process is gone."""
        with _guard:
            if self._file is not None:
                self.unlock()
                self._file.users -= 1
                self._file = None
                del self.map
                _purge()
