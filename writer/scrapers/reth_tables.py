"""Reth's tables: checkpoints of its stages, which block the state is of, where an account's words lie."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from arena.errors import (
    AccountMissing,
    DatabaseDamaged,
    DatabaseVersion,
    NotAtRest,
    OtherFork,
    PartialPersistence,
    PoolInvalid,
    Scraper,
)
from arena.writer.protocols.storage import PoolTarget, SlotList, keccak256
from arena.writer.scrapers.mdbx import Environment, ReadTransaction, database_directory

FINISH = "Finish"
# The stages whose work the hashed tables are; a state is whole when they stand where Finish does.
STATE_STAGES = ("Execution", "AccountHashing", "StorageHashing", "MerkleExecute")
STAGES = (
    "Era",
    "Headers",
    "Bodies",
    "SenderRecovery",
    "Execution",
    "PruneSenderRecovery",
    "MerkleUnwind",
    "AccountHashing",
    "StorageHashing",
    "MerkleExecute",
    "TransactionLookup",
    "IndexStorageHistory",
    "IndexAccountHistory",
    "Prune",
    FINISH,
)
DATABASE_VERSION = b"2"  # content of database.version in both storage layouts
FORK_POLL_S = 1.0
_HAS_CODE = 1 << 10
_HAS_PART = 1 << 4


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a stage has come; `has_part` when it also keeps progress of another run."""

    block_number: int
    has_part: bool


def parse_checkpoint(raw: bytes) -> Checkpoint:
    """A row of StageCheckpoints: flags (bits 0-3 size of the number, bit 4 part), number, part."""
    size = raw[0] & 0x0F if raw else 9
    if size > 8 or len(raw) < 1 + size:
        raise DatabaseDamaged(f"stage checkpoint 0x{raw.hex()} has an unknown form")
    return Checkpoint(int.from_bytes(raw[1 : 1 + size], "big"), bool(raw[0] & _HAS_PART))


def checkpoint_of(txn: ReadTransaction, stage: str) -> Checkpoint | None:
    """The stage's checkpoint; None before its first run."""
    raw = txn.get("StageCheckpoints", stage.encode())
    return None if raw is None else parse_checkpoint(raw)


def state_block(txn: ReadTransaction) -> int:
    """The block the hashed tables belong to in this transaction.

    NotAtRest while stages stand apart (the node syncs or has just been interrupted), and
    PartialPersistence when Finish says that a part of a block is written. A part on any other
    stage is normal.
    """
    if not txn.has_table("StageCheckpoints"):
        raise DatabaseDamaged(
            "there is no table StageCheckpoints: this is not a Reth database; name the node's "
            "data directory"
        )
    finish = checkpoint_of(txn, FINISH)
    if finish is None:
        raise NotAtRest(
            "the node has not finished its first sync: wait for it, or use the RPC back end "
            "(--rpc)",
            finish=None,
            stages={},
        )
    apart = {}
    for stage in STATE_STAGES:
        found = checkpoint_of(txn, stage)
        if found is None or found.block_number != finish.block_number:
            apart[stage] = None if found is None else found.block_number
    if apart:
        listed = ", ".join(f"{stage} at {number}" for stage, number in apart.items())
        raise NotAtRest(
            f"stage Finish is at block {finish.block_number}, but {listed}: the node is syncing; "
            "wait until it follows the chain head, or use the RPC back end (--rpc)",
            finish=finish.block_number,
            stages=apart,
        )
    if finish.has_part:
        raise PartialPersistence(
            f"stage Finish at block {finish.block_number} carries a stage part: the node persists "
            "blocks in parts; turn partial persistence off, or use the RPC back end (--rpc)",
            finish=finish.block_number,
        )
    return finish.block_number


def has_code(txn: ReadTransaction, address: bytes) -> bool | None:
    """Whether the account has code; None when there is no such account."""
    row = txn.get("HashedAccounts", keccak256(address))
    if row is None:
        return None
    return bool(int.from_bytes(row[:2], "little") & _HAS_CODE)


def block_number_of(txn: ReadTransaction, block_hash: bytes) -> int | None:
    """Number of a block of the database's chain; None when the hash is not on it."""
    row = txn.get("HeaderNumbers", block_hash)
    return None if row is None else int.from_bytes(row, "little")


def storage_layout(txn: ReadTransaction) -> str:
    """`v1` or `v2`, as Metadata says. Reported only: the hashed tables are the same in both."""
    row = txn.get("Metadata", b"storage_settings")
    try:
        settings = json.loads(row[row.index(b"{") :]) if row else {}
    except ValueError:
        settings = {}
    chosen = settings.get("storage_v2") if isinstance(settings, dict) else None
    return "v2" if chosen is True else "v1"


class HashedStorage:
    """A slot reader over one transaction (slots.SlotReader)."""

    def __init__(self, txn: ReadTransaction, block_number: int):
        self._txn = txn
        self._block_number = block_number
        self._accounts: dict[bytes, tuple[bytes, bool | None]] = {}

    def __call__(
        self, requests: Sequence[tuple[PoolTarget, SlotList]]
    ) -> list[Sequence[int] | PoolInvalid]:
        return [self._read(target, wanted) for target, wanted in requests]

    def _read(self, target: PoolTarget, wanted: SlotList) -> Sequence[int] | PoolInvalid:
        address = target.address
        if address not in self._accounts:
            self._accounts[address] = keccak256(address), has_code(self._txn, address)
        hashed, is_contract = self._accounts[address]
        if is_contract:
            return self._txn.read_words("HashedStorages", hashed, wanted)
        return missing_account(target, self._block_number, exists=is_contract is not None)


def missing_account(target: PoolTarget, block_number: int, *, exists: bool) -> PoolInvalid:
    """The error for a pool whose account does not exist, or exists without code."""
    key, address = "0x" + target.spec.key.hex(), "0x" + target.address.hex()
    error = PoolInvalid if exists else AccountMissing
    found = f"account {address} {'has no code' if exists else 'does not exist'}"
    return error(
        f"pool {key} is not installed: {found} at block {block_number}; check its address in the "
        "pool list",
        key=target.spec.key,
        found=found,
        address=target.address,
    )


@dataclass(frozen=True, slots=True)
class DatabaseAccess:
    """How to reach the database: the node's data directory or its `db`, and libmdbx."""

    path: str
    library: str | None = None

    @contextmanager
    def open(self) -> Iterator[Environment]:
        """The environment, after a look at database.version. DatabaseRefused."""
        folder = database_directory(self.path)
        _check_version(folder)
        with Environment(folder, self.library) as environment:
            yield environment


def _check_version(folder: Path) -> None:
    path = folder / "database.version"
    try:
        with path.open("rb") as stream:
            found = stream.read(20).strip()
    except OSError:
        return  # a copy made with mdbx_copy has none
    if found != DATABASE_VERSION:
        raise DatabaseVersion(
            f"{path} says {found!r}, this program reads {DATABASE_VERSION!r}; upgrade one of the "
            "two, or use the RPC back end (--rpc)",
            path=str(folder),
            found=found,
            expected=DATABASE_VERSION,
        )


def check_fork(txn: ReadTransaction, block_number: int, canonical: Mapping[int, bytes]) -> None:
    wanted = canonical.get(block_number)
    if wanted is None:
        found = f"the node named the hashes of blocks {_span(canonical)} only"
    elif block_number_of(txn, wanted) != block_number:
        found = f"it does not contain the chain's block 0x{wanted.hex()}"
    else:
        return
    raise OtherFork(
        f"the database stands at block {block_number}, and {found}; the node is about to write a "
        "reorg, or the RPC node is another one: wait, or name the RPC endpoint of the same node",
        block_number=block_number,
        wanted=wanted,
    )


def _span(numbers: Mapping[int, bytes]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if numbers else "(none)"


def read_is_canonical(access: DatabaseAccess, block_hash: bytes, number: int) -> bool:
    """Whether the database's chain has block `block_hash` at `number`. DatabaseRefused."""
    with access.open() as environment, environment.read() as txn:
        return block_number_of(txn, block_hash) == number


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What a look at a database shows, for diagnosis.

    `refusal` says why pools cannot be read from it now (NotAtRest, PartialPersistence), else None.
    """

    directory: str
    library_version: str
    database_version: str | None
    layout: str
    page_nbytes: int
    data_nbytes: int
    block_number: int | None
    refusal: Scraper | None
    checkpoints: dict[str, Checkpoint | None]


def inspect(access: DatabaseAccess) -> DatabaseFacts:
    """Look at the database without reading pools. DatabaseRefused when it cannot be opened."""
    folder = database_directory(access.path)
    with access.open() as environment, environment.read() as txn:
        block_number, refusal = None, None
        try:
            block_number = state_block(txn)
        except (NotAtRest, PartialPersistence) as error:
            refusal = error
        version = folder / "database.version"
        return DatabaseFacts(
            directory=str(folder),
            library_version=environment.library_version,
            database_version=version.read_text("ascii", "replace") if version.exists() else None,
            layout=storage_layout(txn),
            page_nbytes=txn.page_nbytes(),
            data_nbytes=(folder / "mdbx.dat").stat().st_size,
            block_number=block_number,
            refusal=refusal,
            checkpoints={stage: checkpoint_of(txn, stage) for stage in STAGES},
        )
