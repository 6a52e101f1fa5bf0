"""Writes databases in a Reth node's format, and plays a node that writes while others read.

Imports nothing of the product: libmdbx is driven through ctypes, encodings are written from the
format's description. Run as a script it is the node: it opens DIR read-write as Reth does and
obeys one command a line on standard input, answering each with one line:

    run COUNT      COUNT blocks, 1 to 20 ms apart, each one commit that changes every chosen row
    uneven         one block whose StorageHashing checkpoint stays behind
    half           a block's changes, never committed; answers while the transaction is open
    exit
"""

import ctypes
import gzip
import importlib.util
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sha3  # type: ignore[import-untyped]

FIXTURES = Path(__file__).resolve().parent.parent / "data" / "rethdb"
STAGES = [
    "Era", "Headers", "Bodies", "SenderRecovery", "Execution", "PruneSenderRecovery",
    "MerkleUnwind", "AccountHashing", "StorageHashing", "MerkleExecute", "TransactionLookup",
    "IndexStorageHistory", "IndexAccountHistory", "Prune", "Finish",
]  # fmt: skip
DUPSORT_TABLES = ["HashedStorages"]
PLAIN_TABLES = ["HashedAccounts", "StageCheckpoints", "HeaderNumbers", "Metadata"]

EXCLUSIVE, RDONLY, WRITEMAP = 0x400000, 0x20000, 0x80000
NORDAHEAD, NOSTICKYTHREADS, UTTERLY_NOSYNC = 0x800000, 0x200000, 0x110000
CREATE, DUPSORT, APPENDDUP = 0x40000, 0x04, 0x40000
GET_BOTH_RANGE, NOTFOUND = 3, -30798


class Value(ctypes.Structure):
    """MDBX_val"""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def value(content: bytes) -> Value:
    result = Value(ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p), len(content))
    result.keep = content  # type: ignore[attr-defined]
    return result


def library_path() -> str:
    found = importlib.util.find_spec("mdbx")
    assert found is not None
    assert found.submodule_search_locations
    return str(Path(found.submodule_search_locations[0], "lib", "libmdbx.so"))


def load() -> ctypes.CDLL:
    mdbx = ctypes.CDLL(library_path())
    pointer, number = ctypes.c_void_p, ctypes.c_int
    mdbx.mdbx_env_set_option.argtypes = [pointer, number, ctypes.c_uint64]
    mdbx.mdbx_env_set_geometry.argtypes = [pointer] + [ctypes.c_ssize_t] * 6
    mdbx.mdbx_env_open.argtypes = [pointer, ctypes.c_char_p, number, ctypes.c_uint]
    mdbx.mdbx_env_close_ex.argtypes = [pointer, ctypes.c_bool]
    mdbx.mdbx_txn_begin_ex.argtypes = [pointer, pointer, number, pointer, pointer]
    mdbx.mdbx_txn_commit_ex.argtypes = [pointer, pointer]
    mdbx.mdbx_txn_abort.argtypes = [pointer]
    mdbx.mdbx_dbi_open.argtypes = [pointer, ctypes.c_char_p, number, pointer]
    mdbx.mdbx_put.argtypes = [pointer, ctypes.c_uint32, pointer, pointer, number]
    mdbx.mdbx_del.argtypes = [pointer, ctypes.c_uint32, pointer, pointer]
    mdbx.mdbx_cursor_open.argtypes = [pointer, ctypes.c_uint32, pointer]
    mdbx.mdbx_cursor_get.argtypes = [pointer, pointer, pointer, number]
    mdbx.mdbx_cursor_close.argtypes = [pointer]
    return mdbx


class NodeDatabase:
    """A database opened read-write with the flags Reth uses."""

    def __init__(
        self,
        folder: Path,
        *,
        flags: int = 0,
        upper_nbytes: int | None = None,
        growth: int = 1 << 20,
    ) -> None:
        self.mdbx = load()
        self.env = ctypes.c_void_p()
        self.check(self.mdbx.mdbx_env_create(ctypes.byref(self.env)))
        self.check(self.mdbx.mdbx_env_set_option(self.env, 0, 256))
        self.check(self.mdbx.mdbx_env_set_option(self.env, 1, 32000))
        if upper_nbytes is not None:
            geometry = (self.env, -1, -1, upper_nbytes, growth, -1, 4096)
            self.check(self.mdbx.mdbx_env_set_geometry(*geometry))
        flags |= NORDAHEAD | NOSTICKYTHREADS | (0 if flags & RDONLY else WRITEMAP)
        code = self.mdbx.mdbx_env_open(self.env, os.fsencode(folder), flags, 0o644)
        if code:
            self.close()
        self.check(code)

    def check(self, code: int) -> None:
        if code:
            raise OSError(code, f"libmdbx answered {code}")

    def close(self) -> None:
        self.mdbx.mdbx_env_close_ex(self.env, False)

    @contextmanager
    def write(self) -> Iterator["NodeTransaction"]:
        """One transaction; committed unless the block raises."""
        txn = ctypes.c_void_p()
        self.check(self.mdbx.mdbx_txn_begin_ex(self.env, None, 0, ctypes.byref(txn), None))
        try:
            yield NodeTransaction(self, txn)
        except BaseException:
            self.mdbx.mdbx_txn_abort(txn)
            raise
        self.check(self.mdbx.mdbx_txn_commit_ex(txn, None))


class NodeTransaction:
    def __init__(self, database: NodeDatabase, txn: ctypes.c_void_p) -> None:
        self.database, self.mdbx, self.txn = database, database.mdbx, txn
        self.tables: dict[str, int] = {}

    def table(self, name: str) -> int:
        if name not in self.tables:
            dbi = ctypes.c_uint32()
            flags = CREATE | (DUPSORT if name in DUPSORT_TABLES else 0)
            self.database.check(
                self.mdbx.mdbx_dbi_open(self.txn, name.encode(), flags, ctypes.byref(dbi))
            )
            self.tables[name] = dbi.value
        return self.tables[name]

    def put(self, table: str, key: bytes, content: bytes, flags: int = 0) -> None:
        key_value, data = value(key), value(content)
        self.database.check(
            self.mdbx.mdbx_put(
                self.txn, self.table(table), ctypes.byref(key_value), ctypes.byref(data), flags
            )
        )

    def set_word(self, address_hash: bytes, slot_hash: bytes, word: int) -> None:
        """Set one storage word as Reth does: the old duplicate goes, zero is not stored."""
        cursor = ctypes.c_void_p()
        table = self.table("HashedStorages")
        self.database.check(self.mdbx.mdbx_cursor_open(self.txn, table, ctypes.byref(cursor)))
        key, data = value(address_hash), value(slot_hash)
        code = self.mdbx.mdbx_cursor_get(
            cursor, ctypes.byref(key), ctypes.byref(data), GET_BOTH_RANGE
        )
        found = b"" if code else ctypes.string_at(data.base or 0, data.size)
        self.mdbx.mdbx_cursor_close(cursor)
        if code != NOTFOUND:
            self.database.check(code)
        if found[:32] == slot_hash:
            key, data = value(address_hash), value(found)
            self.database.check(
                self.mdbx.mdbx_del(self.txn, table, ctypes.byref(key), ctypes.byref(data))
            )
        if word:
            self.put("HashedStorages", address_hash, slot_hash + trimmed(word))

    def delete(self, table: str, key: bytes) -> None:
        key_value = value(key)
        self.database.check(
            self.mdbx.mdbx_del(self.txn, self.table(table), ctypes.byref(key_value), None)
        )

    def set_checkpoints(self, block_number: int, **others: int) -> None:
        for stage in STAGES:
            number = trimmed(others.get(stage, block_number))
            self.put("StageCheckpoints", stage.encode(), bytes([len(number)]) + number)

    def add_header(self, block_number: int) -> None:
        self.put("HeaderNumbers", header_hash(block_number), block_number.to_bytes(8, "little"))

    def add_contract(self, address: bytes) -> None:
        """An account with nonce 1 and code."""
        self.put("HashedAccounts", keccak(address), b"\x01\x04\x01" + bytes(32))


def trimmed(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def keccak(content: bytes) -> bytes:
    digest: bytes = sha3.keccak_256(content).digest()
    return digest


def word32(number: int) -> bytes:
    return (number % (1 << 256)).to_bytes(32, "big")


def header_hash(block_number: int) -> bytes:
    """Hash of a made-up block."""
    return keccak(b"made-up block %d" % block_number)


def unpack(variant: str, folder: Path) -> Path:
    """Lay a fixture out as a node's data directory; returns its `db`."""
    database = folder / "db"
    database.mkdir(parents=True)
    with gzip.open(FIXTURES / f"{variant}.mdbx.gz") as source:
        (database / "mdbx.dat").write_bytes(source.read())
    (database / "database.version").write_text("2")
    return database


def truth() -> dict[str, Any]:
    with gzip.open(FIXTURES / "truth.json.gz") as source:
        content: dict[str, Any] = json.load(source)
    return content


# The node that writes: pools whose every row is a function of the block number

FACTORS = 1000


def factor(block_number: int) -> int:
    """What every liquidity of the true state is multiplied with at a block."""
    return 1 + block_number % FACTORS


def moving_reserves(block_number: int, index: int) -> tuple[int, int]:
    """Reserves of the index-th moving V2 pair at a block."""
    number = int.from_bytes(keccak(b"reserves %d %d" % (block_number, index)), "big")
    return number % (1 << 112), (number >> 112) % (1 << 112)


def moving_pools(pools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pools a playing node changes: V2 pairs, and V3/V4 pools with ticks far from overflow."""
    chosen = []
    for pool in pools:
        if "error" in pool["expect"]:
            continue
        if pool["protocol"] == "v2":
            chosen.append(pool)
            continue
        ticks = pool["state"]["ticks"]
        if 0 < len(ticks) <= 120 and all(int(gross) * FACTORS < 1 << 127 for _, gross, _ in ticks):
            chosen.append(pool)
    return chosen


def pool_place(pool: dict[str, Any]) -> tuple[bytes, int, int, int]:
    """(account, slot of price, slot of liquidity, slot of the tick mapping) of a V3 or V4 pool."""
    if pool["protocol"] == "v4":
        base = int.from_bytes(keccak(bytes.fromhex(pool["key"][2:]) + word32(6)), "big")
        return bytes.fromhex(pool["manager"][2:]), base, base + 3, base + 4
    shift = 1 if pool["protocol"] == "pancake_v3" else 0
    return bytes.fromhex(pool["key"][2:]), 0, 4 + shift, 5 + shift


def moving_rows(pools: list[dict[str, Any]]) -> list[tuple[bytes, bytes, Any]]:
    """(hashed account, hashed slot, function from block number to word)."""
    rows: list[tuple[bytes, bytes, Any]] = []
    for index, pool in enumerate(pools):
        if pool["protocol"] == "v2":

            def reserves(number: int, index: int = index) -> int:
                low, high = moving_reserves(number, index)
                return low | high << 112 | (number % (1 << 32)) << 224

            address = bytes.fromhex(pool["key"][2:])
            rows.append((keccak(address), keccak(word32(8)), reserves))
            continue
        address, _, liquidity_slot, ticks_slot = pool_place(pool)
        liquidity = int(pool["state"]["liquidity"])
        rows.append(
            (
                keccak(address),
                keccak(word32(liquidity_slot)),
                lambda number, liquidity=liquidity: liquidity * factor(number),
            )
        )
        for tick, gross, net in pool["state"]["ticks"]:

            def tick_word(number: int, gross: int = int(gross), net: int = int(net)) -> int:
                by = factor(number)
                return gross * by | ((net * by) % (1 << 128)) << 128

            slot = keccak(word32(int(tick)) + word32(ticks_slot))
            rows.append((keccak(address), keccak(slot), tick_word))
    return rows


def play(folder: Path, seed: int) -> None:
    content = truth()
    block_number = int(content["block"]["number"])
    rows = moving_rows(moving_pools(content["pools"]))
    random.seed(seed)
    database = NodeDatabase(folder)

    def change(txn: NodeTransaction, number: int) -> None:
        for address_hash, slot_hash, word in rows:
            txn.set_word(address_hash, slot_hash, word(number))

    def answer(line: str) -> None:
        print(line, flush=True)

    answer(f"ready {len(rows)}")
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "run":
            for _ in range(int(arguments[0])):
                block_number += 1
                with database.write() as txn:
                    change(txn, block_number)
                    txn.set_checkpoints(block_number)
                    txn.add_header(block_number)
                time.sleep(random.uniform(0.001, 0.02))
            answer(f"at {block_number}")
        elif command == "uneven":
            block_number += 1
            with database.write() as txn:
                change(txn, block_number)
                txn.set_checkpoints(block_number, StorageHashing=block_number - 1)
                txn.add_header(block_number)
            answer(f"at {block_number}")
        elif command == "half":
            with database.write() as txn:
                change(txn, block_number + 1)
                answer(f"open {block_number + 1}")
                sys.stdin.readline()
                raise SystemExit
        elif command == "exit":
            break
    database.close()


if __name__ == "__main__":
    play(Path(sys.argv[1]), int(sys.argv[2]))
