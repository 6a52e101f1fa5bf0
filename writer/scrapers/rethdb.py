"""Pool state out of a Reth node's database, read on the node's machine while the node runs.

Hashed tables only: every Reth storage layout fills them. Values belong to the block of the stage
`Finish`, read in the same transaction, and only when every stage that writes hashed state stands at
that block. Reading happens in spawned processes: there an environment may be opened once, a damaged
file cannot take the writer down, and the feed thread keeps its interpreter. A database is open only
while a batch is read, each of its transactions at most TRANSACTION_S.

Encodings follow Reth's tables (crates/storage/db-api, codecs) up to 2.5.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait as wait_for_any
from typing import TypeVar

from arena.errors import DatabaseUnreadable, OtherFork, PoolInvalid, Scraper
from arena.layouts.protocols import PROTOCOLS
from arena.specs import PoolSpec
from arena.values import PoolValues
from arena.writer.protocols.held import quickest_first
from arena.writer.protocols.reading import read_targets
from arena.writer.protocols.storage import PoolTarget, SlotList, keccak256
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.scrapers.mdbx import database_directory
from arena.writer.scrapers.reth_tables import (
    FORK_POLL_S,
    DatabaseAccess,
    DatabaseFacts,
    HashedStorage,
    check_fork,
    inspect,
    read_is_canonical,
    state_block,
)

log = logging.getLogger(__name__)
T = TypeVar("T")


# The node never waits for a reader, but its file grows while an old snapshot is held.
TRANSACTION_S = 50.0
V2_BATCH = 500
CL_BATCH = 50
BATCH_TIMEOUT_S = 300.0
READER_NICENESS = 10


@dataclass(frozen=True, slots=True)
class Batch:
    """Outcome of each target in order, and what it took."""

    outcomes: list[PoolValues | PoolInvalid]
    slots_read: int
    transactions: int


def read_batch(
    access: DatabaseAccess,
    targets: Sequence[PoolTarget],
    canonical: Mapping[int, bytes] | None = None,
    *,
    transaction_s: float = TRANSACTION_S,
) -> Batch:
    """Read pools in as few transactions as their time limit allows, each pool inside one.

    With `canonical` (hashes of recent blocks, by number) the database's block must be one of them
    and have that hash in the database too: OtherFork otherwise. DatabaseRefused.
    """
    outcomes: list[PoolValues | PoolInvalid] = []
    slots_read = transactions = 0
    with access.open() as environment:
        while len(outcomes) < len(targets):
            deadline = time.monotonic() + transaction_s
            transactions += 1
            with environment.read() as txn:
                block_number = state_block(txn)
                if canonical is not None:
                    check_fork(txn, block_number, canonical)
                read = HashedStorage(txn, block_number)
                while len(outcomes) < len(targets):
                    done, slot_count = read_targets([targets[len(outcomes)]], block_number, read)
                    outcomes += done
                    slots_read += slot_count
                    if time.monotonic() >= deadline:
                        break
    return Batch(outcomes, slots_read, transactions)


def read_block_number(access: DatabaseAccess) -> int:
    """The block a read would be of now. DatabaseRefused."""
    with access.open() as environment, environment.read() as txn:
        return state_block(txn)


@dataclass(frozen=True, slots=True)
class Words:
    """Values of an account's slots at a block."""

    block_number: int
    values: tuple[int, ...]


def read_words(
    access: DatabaseAccess, requests: Sequence[tuple[bytes, Sequence[bytes]]]
) -> list[Words]:
    """Raw slots (32-byte keys) of accounts, all in one transaction. DatabaseRefused."""
    with access.open() as environment, environment.read() as txn:
        block_number = state_block(txn)
        return [
            Words(
                block_number,
                tuple(txn.read_words("HashedStorages", keccak256(address), SlotList(slots))),
            )
            for address, slots in requests
        ]


def _enter_reader_process() -> None:
    """Leave signals of the terminal to the writer, end with it however it ends, and give way to it
    and to readers where cores are few."""
    os.nice(READER_NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def follow() -> None:
            wait_for_any([sentinel])
            os._exit(1)

        threading.Thread(target=follow, name="follow-parent", daemon=True).start()


class ProcessLost(Exception):
    """A reader process ended, or was given up by a call beside this one, before it answered."""


class RethDB:
    """PoolScraper over a Reth database.

    `path` is the node's data directory or its `db`. `scraping_concurrency` reader processes are
    spawned with the first read and stay until close; as everywhere with spawned processes, a
    program's main module must be importable without side effects. `canonical_hashes`, where given,
    returns the hashes of the chain's recent blocks by number; it is called before each read, and
    pools are read only from a block it names (waiting up to `fork_wait_s` for one).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        pools: Sequence[PoolTarget],
        *,
        scraping_concurrency: int = 2,
        library: str | os.PathLike[str] | None = None,
        canonical_hashes: Callable[[], Mapping[int, bytes]] | None = None,
        fork_wait_s: float = 60.0,
        batch_timeout_s: float = BATCH_TIMEOUT_S,
    ):
        if scraping_concurrency < 1:
            raise ValueError(f"scraping_concurrency {scraping_concurrency} is not at least 1")
        self.access = DatabaseAccess(
            os.path.abspath(path), None if library is None else os.path.abspath(library)
        )
        self._targets = {target.spec.key: target for target in pools}
        self._concurrency = scraping_concurrency
        self._canonical_hashes = canonical_hashes
        self._fork_wait_s = fork_wait_s
        self._batch_timeout_s = batch_timeout_s
        self._lock = threading.Lock()
        self._executor: ProcessPoolExecutor | None = None
        self._closed = threading.Event()
        self._warned = False
        self.slots_read = 0

    def get_current_block_number(self) -> int:
        """The block pools would be read at now. DatabaseRefused."""
        return self._run(read_block_number, self.access)

    def is_canonical(self, block_hash: bytes, number: int) -> bool:
        """Whether the database's chain has block `block_hash` at `number`. DatabaseRefused."""
        return self._run(read_is_canonical, self.access, block_hash, number)

    def inspect(self) -> DatabaseFacts:
        """What `doctor` shows of the database. DatabaseRefused."""
        return self._run(inspect, self.access)

    def read_words(self, requests: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Words]:
        """Raw slots of accounts, all at one block. DatabaseRefused."""
        return self._run(read_words, self.access, requests)

    def list_pools(self) -> Sequence[PoolSpec]:
        """The pools given, V2 first."""
        return quickest_first(target.spec for target in self._targets.values())

    def hold(self, targets: Sequence[PoolTarget]) -> None:
        """Exchange the list."""
        self._targets = {target.spec.key: target for target in targets}

    def read_pools(self, keys: Sequence[bytes]) -> Scrape:
        """Values of those pools, each at the block of the transaction it was read in.

        DatabaseRefused when the database as a whole cannot be read.
        """
        self._warn_of_lockless_reading()
        known = [self._targets[key] for key in keys if key in self._targets]
        invalid = [
            PoolInvalid(f"pool 0x{key.hex()} is not in the pool list", key=key, found="no entry")
            for key in keys
            if key not in self._targets
        ]
        found: list[ScrapedPool] = []
        for target, outcome in zip(known, self._read_known(known), strict=True):
            if isinstance(outcome, PoolInvalid):
                invalid.append(outcome)
            else:
                found.append(ScrapedPool(target.spec, outcome))
        return Scrape(tuple(found), tuple(invalid))

    def close(self) -> None:
        """End the reader processes. Safe to call twice."""
        self._closed.set()
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            _end_processes(executor)

    def __enter__(self) -> "RethDB":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _read_known(self, targets: list[PoolTarget]) -> list[PoolValues | PoolInvalid]:
        deadline = time.monotonic() + self._fork_wait_s
        while True:
            canonical = dict(self._canonical_hashes()) if self._canonical_hashes else None
            try:
                works = [
                    partial(read_batch, self.access, piece, canonical)
                    for piece in self._pieces(targets)
                ]
                batches = self._run_all(works)
            except OtherFork:
                if time.monotonic() >= deadline or self._closed.wait(FORK_POLL_S):
                    raise
                continue
            outcomes: list[PoolValues | PoolInvalid] = []
            for batch in batches:
                outcomes += batch.outcomes
                self.slots_read += batch.slots_read
            return outcomes

    def _pieces(self, targets: list[PoolTarget]) -> list[list[PoolTarget]]:
        """Cut in order, also where pools with ticks begin or end, so that every process has work."""
        share = -(-len(targets) // self._concurrency)
        pieces: list[list[PoolTarget]] = []
        previous_has_ticks: bool | None = None
        for target in targets:
            has_ticks = PROTOCOLS[target.spec.protocol].has_ticks
            limit = min(CL_BATCH if has_ticks else V2_BATCH, share)
            if has_ticks != previous_has_ticks or len(pieces[-1]) >= limit:
                pieces.append([])
            pieces[-1].append(target)
            previous_has_ticks = has_ticks
        return pieces

    def _run(self, work: Callable[..., T], *arguments: object) -> T:
        return self._run_all([partial(work, *arguments)])[0]

    def _run_all(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Results of `works`, run in the reader processes; once more when a process died."""
        try:
            return self._run_once(works)
        except ProcessLost:
            log.warning("event=reader_process_died path=%s action=again", self.access.path)
        try:
            return self._run_once(works)
        except ProcessLost as error:
            raise DatabaseUnreadable(
                f"a process that reads {self.access.path} died twice: the file may have been cut "
                "or the machine is out of memory; see the system log, or use the RPC back end "
                "(--rpc)",
                path=self.access.path,
            ) from error

    def _run_once(self, works: Sequence[Callable[[], T]]) -> list[T]:
        executor = self._processes()
        futures: list[Future[T]] = []
        try:
            for work in works:
                futures.append(_submit(executor, work))
            deadline = time.monotonic() + self._batch_timeout_s
            return [future.result(max(0.0, deadline - time.monotonic())) for future in futures]
        except (ProcessLost, BrokenProcessPool, CancelledError) as error:
            self._discard(executor)
            self._refuse_when_closed()
            raise ProcessLost from error
        except TimeoutError as error:
            self._discard(executor)
            raise DatabaseUnreadable(
                f"reading {self.access.path} took longer than {self._batch_timeout_s:g} s: is it "
                "on a slow or a network disk? use the RPC back end (--rpc)",
                path=self.access.path,
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def _processes(self) -> ProcessPoolExecutor:
        with self._lock:
            self._refuse_when_closed()
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    self._concurrency,
                    mp_context=multiprocessing.get_context("spawn"),
                    initializer=_enter_reader_process,
                )
            return self._executor

    def _discard(self, executor: ProcessPoolExecutor) -> None:
        with self._lock:
            is_ours = self._executor is executor
            if is_ours:
                self._executor = None
        if is_ours:  # otherwise another call, or close, is ending it already
            _end_processes(executor)

    def _refuse_when_closed(self) -> None:
        if self._closed.is_set():
            raise Scraper(f"the reader of {self.access.path} is closed")

    def _warn_of_lockless_reading(self) -> None:
        if self._warned:
            return
        folder = database_directory(self.access.path)
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            self._warned = True
            log.warning(
                "event=database_mounted_read_only path=%s reason='read without locks; a node that "
                "starts meanwhile waits'",
                folder,
            )


def _submit(executor: ProcessPoolExecutor, work: Callable[[], T]) -> Future[T]:
    # A process spawned here inherits the mask, so that an interrupt does not meet it starting up.
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return executor.submit(work)
    except RuntimeError as error:  # shut down meanwhile by a call beside this one, or by close
        raise ProcessLost from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def _end_processes(executor: ProcessPoolExecutor) -> None:
    """End the pool now, also where a process hangs in a read."""
    processes = list((executor._processes or {}).values())
    for process in processes:
        process.kill()
    executor.shutdown(wait=True, cancel_futures=True)
    for process in processes:
        process.join()
