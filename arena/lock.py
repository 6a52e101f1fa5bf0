"""The control file of an arena as this process has it open, and the writer lock on it.

The lock is a classic record lock, which the kernel drops when the process closes *any* descriptor of
that file, the duplicates inside mmap objects included. So a process keeps one record per control file,
shared by all its users, and closes nothing of it before the last user is gone.
"""

import errno
import fcntl
import mmap
import os
import struct
import threading
from typing import Self

from arena.errors import ArenaBusy, ArenaNotReady
from arena.owner import check_owner, user_id
from arena.segment import (
    DIRECTORY,
    PRIVATE,
    ROOM_ERRNOS,
    Access,
    available_nbytes,
    create_segment,
    no_room,
    open_segment,
    segment_name,
    set_access,
)

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = struct.Struct("hhqqi4x")


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
                if error.errno not in ROOM_ERRNOS:
                    raise
                raise no_room(name, nbytes, available_nbytes(fd)) from error
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

    _file: _File | None = None  # also of one that was not made to the end

    def __init__(
        self, name: str, identity: tuple[int, int], file: _File, mapping: mmap.mmap
    ) -> None:
        self.name = name
        self.map = mapping
        self._identity = identity
        self._file = file
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
    def create(cls, name: str, nbytes: int, access: Access = PRIVATE) -> Self:
        """Create a control segment of `nbytes` zero bytes, and map it. FileExistsError if there is one.

        Whoever wants to write takes the lock next; the creator has no claim on it.
        """
        name = segment_name(name)
        # Nobody can hold its lock yet.
        fd = create_segment(name, nbytes, reserve_bytes=nbytes, access=access)
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
                    fd = open_segment(name, writable=writable, create=False, owner_uid=owner_uid)
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

    def set_access(self, access: Access) -> None:
        """Change group and mode. ArenaPermission when this user may not."""
        set_access(self._require().fds[0], self.name, access)

    def close(self) -> None:
        """Let go, of the lock too; the file closes when its last user in this process is gone."""
        with _guard:
            if self._file is not None:
                self.unlock()
                self._file.users -= 1
                self._file = None
                del self.map
                _purge()
