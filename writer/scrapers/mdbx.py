"""Read-only libmdbx through cffi (ABI mode): open, one snapshot, exact and next-duplicate look-ups.

The shared library is the one the `libmdbx` wheel carries, or any other libmdbx 0.13 named by path;
the wheel's Python package is never imported. One environment per process and path, opened, read and
closed by one thread; never used across fork. Failures become the DatabaseRefused class that says
what to do.
"""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from cffi import FFI

from arena.errors import DatabaseDamaged, DatabaseMissing, DatabaseUnreadable, DatabaseVersion
from arena.writer.protocols.storage import SlotList
from arena.writer.scrapers.mdbx_refusals import DATA_FILE, LOCK_FILE, NOTFOUND, SUCCESS, refuse

LIBRARY_VARIABLE = "PSA_LIBMDBX"  # environment variable with the path of libmdbx.so
MAX_DBS = 32
# Whoever opens first sizes the lock file's reader table for everybody, the node included.
MAX_READERS = 32000

# Flags, options and cursor operations: mdbx.h of libmdbx 0.13.
_RDONLY = 0x20000
_NOSTICKYTHREADS = 0x200000
_NORDAHEAD = 0x800000
_DB_ACCEDE = 0x40000000
_OPT_MAX_DB = 0
_OPT_MAX_READERS = 1
_GET_BOTH_RANGE = 3

_FFI = FFI()
_FFI.cdef(
    """
    typedef struct { void *iov_base; size_t iov_len; } MDBX_val;
    typedef struct {
        uint32_t ms_psize, ms_depth;
        uint64_t ms_branch_pages, ms_leaf_pages, ms_overflow_pages, ms_entries, ms_mod_txnid;
    } MDBX_stat;
    typedef struct {
        uint16_t major, minor, patch, tweak; const void *more[6];
    } MDBX_version_info;
    extern MDBX_version_info mdbx_version;
    int mdbx_env_create(void **env);
    int mdbx_env_set_option(void *env, int option, uint64_t value);
    int mdbx_env_open(void *env, const char *path, int flags, unsigned int mode);
    int mdbx_env_close_ex(void *env, _Bool dont_sync);
    int mdbx_env_stat_ex(const void *env, const void *txn, MDBX_stat *stat, size_t nbytes);
    int mdbx_txn_begin_ex(void *env, void *parent, int flags, void **txn, void *context);
    uint64_t mdbx_txn_id(const void *txn);
    int mdbx_txn_abort(void *txn);
    int mdbx_dbi_open(void *txn, const char *name, int flags, uint32_t *dbi);
    int mdbx_cursor_open(void *txn, uint32_t dbi, void **cursor);
    void mdbx_cursor_close(void *cursor);
    int mdbx_cursor_get(void *cursor, MDBX_val *key, MDBX_val *data, int op);
    int mdbx_get(const void *txn, uint32_t dbi, const MDBX_val *key, MDBX_val *data);
    const char *mdbx_strerror(int code);
    """
)


@lru_cache(maxsize=4)
def _load(path: str) -> Any:
    try:
        lib: Any = _FFI.dlopen(path)
        version = lib.mdbx_version
    except (OSError, KeyError, AttributeError) as error:
        raise DatabaseUnreadable(
            f"libmdbx cannot be loaded from {path}: {error}; name a libmdbx 0.13 shared library "
            f"with {LIBRARY_VARIABLE}, or build one from its source",
            path=path,
        ) from error
    # Libraries before 0.13 describe themselves in bytes where these fields are two bytes wide.
    if version.major != 0 or version.minor < 13:
        raise DatabaseVersion(
            f"{path} is not libmdbx 0.13 or later; name another library with {LIBRARY_VARIABLE}",
            path=path,
        )
    return lib


def _version(lib: Any) -> str:
    version = lib.mdbx_version
    return f"{version.major}.{version.minor}.{version.patch}.{version.tweak}"


def find_library(path: str | os.PathLike[str] | None = None) -> str:
    """Path of libmdbx.so: `path`, else $PSA_LIBMDBX, else that of the installed `libmdbx` wheel.

    DatabaseUnreadable when there is none.
    """
    chosen = os.fspath(path) if path is not None else os.environ.get(LIBRARY_VARIABLE)
    if chosen:
        return chosen
    found = importlib.util.find_spec("mdbx")  # locates the package, does not run it
    for folder in (found.submodule_search_locations or ()) if found else ():
        candidate = Path(folder, "lib", "libmdbx.so")
        if candidate.exists():
            return str(candidate)
    raise DatabaseUnreadable(
        "libmdbx is not installed: pip install 'pool-state-arena[writer]', or build the library "
        f"from its source and name it with {LIBRARY_VARIABLE}",
        path=None,
    )


class ReadTransaction:
    """One consistent snapshot. Made by Environment.read; unusable after its block."""

    def __init__(self, lib: Any, txn: Any, path: Path):
        self._lib = lib
        self._txn = txn
        self._path = path
        self._tables: dict[str, int | None] = {}
        self._cursors: dict[str, Any] = {}
        # key and data of every look-up, filled through `_words`: address and length of each.
        self._values = _FFI.new("MDBX_val[2]")
        self._words = memoryview(_FFI.buffer(self._values)).cast("B").cast("Q")
        self._key, self._data = self._values, self._values + 1

    @property
    def id(self) -> int:
        """Number of the newest commit this snapshot contains."""
        return int(self._lib.mdbx_txn_id(self._txn))

    def has_table(self, table: str) -> bool:
        return self._table(table) is not None

    def get(self, table: str, key: bytes) -> bytes | None:
        """The (first) value of a key; None when there is none or no such table."""
        dbi = self._table(table)
        if dbi is None:
            return None
        source = _FFI.from_buffer(key)
        self._words[0], self._words[1] = int(_FFI.cast("uintptr_t", source)), len(key)
        code = self._lib.mdbx_get(self._txn, dbi, self._key, self._data)
        if code == NOTFOUND:
            return None
        self._check(code)
        return bytes(_FFI.buffer(self._data.iov_base, self._data.iov_len))

    def read_words(self, table: str, key: bytes, wanted: SlotList) -> list[int]:
        """Values of the 32-byte subkeys `wanted.hashed` among a key's duplicates, 0 where absent.

        A duplicate is subkey ++ value (big-endian, 1..32 bytes). Subkeys are looked up in
        ascending order; one below the duplicate last found is known to be absent without a look-up.
        DatabaseDamaged when a duplicate has another size or the table does not exist.
        """
        cursor = self._cursor(table)
        order, subkeys, joined = wanted.ascending
        values = [0] * len(order)
        sources = (_FFI.from_buffer(key), _FFI.from_buffer(joined))
        key_at, subkey_at = (int(_FFI.cast("uintptr_t", source)) for source in sources)
        words, key_value, data_value = self._words, self._key, self._data
        get, buffer, from_bytes = self._lib.mdbx_cursor_get, _FFI.buffer, int.from_bytes
        reached = b""
        for index, subkey in zip(order, subkeys, strict=True):
            if subkey >= reached:
                words[0], words[1], words[2], words[3] = key_at, 32, subkey_at, 32
                code = get(cursor, key_value, data_value, _GET_BOTH_RANGE)
                if code:
                    if code == NOTFOUND:
                        break
                    self._check(code)
                row = buffer(data_value.iov_base, words[3])[:]
                reached = row[:32]
                if reached == subkey:
                    if not 33 <= len(row) <= 64:
                        raise DatabaseDamaged(
                            f"{self._path}: a row of {table} has {len(row)} bytes, expected 33 to "
                            "64; this is not a node's database of a known version",
                            path=str(self._path),
                        )
                    values[index] = from_bytes(row[32:], "big")
            subkey_at += 32
        return values

    def page_nbytes(self) -> int:
        """Size of a database page."""
        stat: Any = _FFI.new("MDBX_stat *")
        self._check(
            self._lib.mdbx_env_stat_ex(_FFI.NULL, self._txn, stat, _FFI.sizeof("MDBX_stat"))
        )
        return int(stat.ms_psize)

    def end(self) -> None:
        """Close cursors and give the snapshot up."""
        for cursor in self._cursors.values():
            self._lib.mdbx_cursor_close(cursor)
        self._cursors.clear()
        if self._txn is not None:
            self._lib.mdbx_txn_abort(self._txn)
            self._txn = None

    def _table(self, table: str) -> int | None:
        if table not in self._tables:
            dbi = _FFI.new("uint32_t *")
            code = self._lib.mdbx_dbi_open(self._txn, table.encode(), _DB_ACCEDE, dbi)
            if code not in (SUCCESS, NOTFOUND):
                self._check(code)
            self._tables[table] = int(dbi[0]) if code == SUCCESS else None
        return self._tables[table]

    def _cursor(self, table: str) -> Any:
        if table not in self._cursors:
            dbi = self._table(table)
            if dbi is None:
                raise DatabaseDamaged(
                    f"{self._path} has no table {table}: it is not a Reth database; name the "
                    "node's data directory",
                    path=str(self._path),
                )
            cursor = _FFI.new("void **")
            self._check(self._lib.mdbx_cursor_open(self._txn, dbi, cursor))
            self._cursors[table] = cursor[0]
        return self._cursors[table]

    def _check(self, code: int) -> None:
        if code:
            refuse(code, _text(self._lib, code), self._path)


class Environment:
    """A database directory, opened read-only. A context manager; close it right after reading."""

    def __init__(self, path: Path, library: str | os.PathLike[str] | None = None):
        self.path = path
        self._lib = _load(find_library(library))
        self._env: Any = None
        _require_file(path)
        has_lock = (path / LOCK_FILE).exists()
        env = _FFI.new("void **")
        self._check(self._lib.mdbx_env_create(env))
        self._env = env[0]
        try:
            self._check(self._lib.mdbx_env_set_option(self._env, _OPT_MAX_DB, MAX_DBS))
            self._check(self._lib.mdbx_env_set_option(self._env, _OPT_MAX_READERS, MAX_READERS))
            flags = _RDONLY | _NORDAHEAD | _NOSTICKYTHREADS
            self._check(self._lib.mdbx_env_open(self._env, os.fsencode(path), flags, 0o660))
            if not has_lock:
                _share_lock_file(path)
        except BaseException:
            self.close()
            raise

    @property
    def library_version(self) -> str:
        return _version(self._lib)

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        """One snapshot. The node never waits for it but keeps its pages: a minute at most."""
        txn = _FFI.new("void **")
        self._check(self._lib.mdbx_txn_begin_ex(self._env, _FFI.NULL, _RDONLY, txn, _FFI.NULL))
        transaction = ReadTransaction(self._lib, txn[0], self.path)
        try:
            yield transaction
        finally:
            transaction.end()

    def close(self) -> None:
        """Unmap and release the lock file's slot. Safe to call twice."""
        if self._env is not None:
            self._lib.mdbx_env_close_ex(self._env, True)
            self._env = None

    def __enter__(self) -> "Environment":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _check(self, code: int) -> None:
        if code:
            refuse(code, _text(self._lib, code), self.path)


def _text(lib: Any, code: int) -> str:
    if code > 0:
        return os.strerror(code)
    found = _FFI.string(lib.mdbx_strerror(code))
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def _share_lock_file(path: Path) -> None:
    """Keep a lock file that this process has just made from shutting the node out.

    It goes to the data file's owner where this process may give it away, and its group may write.
    """
    lock, owner = path / LOCK_FILE, os.stat(path / DATA_FILE)
    with contextlib.suppress(OSError):  # made by somebody else meanwhile, or a read-only mount
        if os.geteuid() == 0:
            os.chown(lock, owner.st_uid, owner.st_gid)
        os.chmod(lock, os.stat(lock).st_mode | 0o060)


def database_directory(path: str | os.PathLike[str]) -> Path:
    """The directory with mdbx.dat: `path` or its `db`. DatabaseMissing, DatabasePermission."""
    given = Path(path)
    for folder in (given, given / "db"):
        try:
            os.stat(folder / DATA_FILE)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refuse(error.errno or 5, error.strerror or str(error), folder)
        return folder
    raise DatabaseMissing(
        f"{given} holds no database: neither {given / 'db' / DATA_FILE} nor {given / DATA_FILE} "
        "exists; name the node's data directory",
        path=str(given),
        expected=str(given / "db" / DATA_FILE),
    )


def _require_file(path: Path) -> None:
    try:
        os.stat(path / DATA_FILE)
    except OSError as error:
        refuse(error.errno or 5, error.strerror or str(error), path)
