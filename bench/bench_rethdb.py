"""How many pools and slots a second come out of a Reth database, with one and two reader processes?

Timed: RethDB.read_pools of 500 V2 pairs, 400 V3 pools (300 ticks each) and 347 V4 pools (40 ticks
each) with everything it does: environment opened and closed for each batch, full bitmap walk, keys
hashed, values checked and sent back. Reader processes are running before; a first read (the warm-up)
fills their key caches and the page cache. Excluded: building the database. Baseline: one look-up per
slot in one process, nothing decoded, no look-up left out. `slots` counts every slot asked for.
"""

import random
import shutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from builders.reth_database import APPENDDUP, NodeDatabase, keccak, trimmed, word32
from harness import Report, Row, against, alternate, arguments

from arena.layouts.protocols import MAX_TICK
from arena.layouts.slots import UNISWAP_V2, UNISWAP_V3, UNISWAP_V4
from arena.specs import PoolSpec, TokenSpec
from arena.writer.protocols.concentrated import sqrt_price_at_tick
from arena.writer.protocols.held import pool_target
from arena.writer.protocols.storage import PoolTarget, SlotList
from arena.writer.protocols.uniswap_v4 import v4_pool_id
from arena.writer.scrapers.reth_tables import DatabaseAccess
from arena.writer.scrapers.rethdb import RethDB, read_batch

BLOCK = 23_000_000
MANAGER = bytes.fromhex("000000000004444c5dc75cb358380d2e3de08a90")
SPACINGS = (1, 10, 10, 60, 60, 60, 200, 200)
V3_TICKS, V4_TICKS = 300, 40
# Rows of the same accounts that are not asked for: observations, positions, fee growth.
V3_OTHERS, V4_OTHERS = 2_000, 1_500_000


def tick_rows(
    rng: random.Random, spacing: int, count: int, ticks_slot: bytes, bitmap_slot: bytes
) -> tuple[dict[bytes, int], int]:
    """Rows of `count` initialized ticks around 0 in balanced pairs, and the liquidity at tick 0."""
    highest = MAX_TICK // spacing
    width = min(highest, 20 * count)
    chosen = rng.sample(range(-width, width + 1), count)
    rows: dict[bytes, int] = {}
    words: dict[int, int] = {}
    liquidity = 0
    for lower, upper in zip(chosen[::2], chosen[1::2], strict=True):
        lower, upper = min(lower, upper), max(lower, upper)
        amount = rng.randrange(1, 1 << 90)
        for compressed, net in ((lower, amount), (upper, -amount)):
            slot = keccak(word32(compressed * spacing) + ticks_slot)
            rows[slot] = amount | (net % (1 << 128)) << 128
            words[compressed >> 8] = words.get(compressed >> 8, 0) | 1 << (compressed & 255)
        if lower <= 0 < upper:
            liquidity += amount
    rows |= {keccak(word32(position) + bitmap_slot): word for position, word in words.items()}
    return rows, liquidity


def build(folder: Path, scale: float) -> list[PoolTarget]:
    """Write the database; returns its pools."""
    rng = random.Random(7)
    (folder / "db").mkdir(parents=True)
    token0, token1 = (TokenSpec(bytes([number]) * 20, 18, "") for number in (1, 2))
    accounts: dict[bytes, dict[bytes, int]] = {}
    targets: list[PoolTarget] = []
    others = [rng.randbytes(32) for _ in range(1000)]

    def fill(rows: dict[bytes, int], count: int) -> None:
        for _ in range(count):
            rows[rng.randbytes(32)] = int.from_bytes(others[rng.randrange(1000)], "big") | 1

    for _ in range(int(500 * scale)):
        key = rng.randbytes(20)
        targets.append(pool_target(PoolSpec(key, UNISWAP_V2, token0, token1, 3000)))
        low, high = rng.randrange(1, 1 << 100), rng.randrange(1, 1 << 100)
        rows = {word32(8): low | high << 112, word32(6): 0, word32(7): 0}
        rows[word32(6)] = int.from_bytes(token0.address, "big")
        rows[word32(7)] = int.from_bytes(token1.address, "big")
        fill(rows, 50)
        accounts[key] = rows
    price = sqrt_price_at_tick(0)
    for index in range(int(400 * scale)):
        key, spacing = rng.randbytes(20), SPACINGS[index % len(SPACINGS)]
        spec = PoolSpec(key, UNISWAP_V3, token0, token1, 500, spacing)
        targets.append(pool_target(spec))
        rows, liquidity = tick_rows(rng, spacing, V3_TICKS, word32(5), word32(6))
        rows |= {word32(0): price | 1 << 240, word32(4): liquidity}
        fill(rows, V3_OTHERS)
        accounts[key] = rows
    manager: dict[bytes, int] = {}
    for index in range(int(347 * scale)):
        spacing = SPACINGS[index % len(SPACINGS)]
        unnamed = PoolSpec(bytes(32), UNISWAP_V4, token0, token1, index, spacing, MANAGER)
        spec = PoolSpec(v4_pool_id(unnamed), *astuple_tail(unnamed))
        targets.append(pool_target(spec))
        base = int.from_bytes(keccak(spec.key + word32(6)), "big")
        rows, liquidity = tick_rows(rng, spacing, V4_TICKS, word32(base + 4), word32(base + 5))
        rows |= {word32(base): price | index << 208, word32(base + 3): liquidity}
        manager |= rows
    fill(manager, int(V4_OTHERS * scale))
    accounts[MANAGER] = manager

    database = NodeDatabase(folder / "db", upper_nbytes=16 << 30, growth=256 << 20)
    hashed = sorted((keccak(address), address) for address in accounts)
    for address_hash, address in hashed:
        with database.write() as txn:
            txn.add_contract(address)
            rows = accounts[address]
            for row in sorted(keccak(slot) + trimmed(word) for slot, word in rows.items() if word):
                txn.put("HashedStorages", address_hash, row, APPENDDUP)
    with database.write() as txn:
        txn.set_checkpoints(BLOCK)
    database.close()
    return targets


def astuple_tail(spec: PoolSpec) -> tuple[int, TokenSpec, TokenSpec, int, int, bytes, bytes]:
    return (
        spec.protocol,
        spec.token0,
        spec.token1,
        spec.fee_pips,
        spec.tick_spacing,
        spec.factory,
        spec.hooks,
    )


def one_by_one(access: DatabaseAccess, lists: list[tuple[bytes, list[SlotList]]]) -> None:
    """Look every slot up by itself."""
    with access.open() as environment, environment.read() as txn:
        for account, slots in lists:
            for wanted in slots:
                txn.read_words("HashedStorages", account, wanted)


def main() -> None:
    options = arguments(__doc__ or "")
    options.repeat = min(options.repeat, 5)
    report = Report((__doc__ or "").splitlines()[0])
    folder = Path(mkdtemp(prefix="psa-bench-"))
    readers: list[RethDB] = []
    try:
        begin = time.perf_counter()
        targets = build(folder, 0.02 if options.smoke else 1.0)
        report.facts["database"] = (
            f"{(folder / 'db' / 'mdbx.dat').stat().st_size >> 20} MiB, "
            f"built in {time.perf_counter() - begin:.0f} s"
        )
        access = DatabaseAccess(str(folder))
        batch = read_batch(access, targets)
        failed = [each for each in batch.outcomes if isinstance(each, Exception)]
        assert not failed, failed[0]
        slots = batch.slots_read
        ticks = sum(len(each.ticks) for each in batch.outcomes)  # type: ignore[union-attr]
        report.facts["pools"] = f"{len(targets)} with {ticks} ticks, {slots} slots asked for"
        singles = [
            (
                keccak(target.address),
                [SlotList([word32(number)]) for number in range(60)],
            )
            for target in targets
        ]
        single_count = sum(len(each) for _, each in singles)
        for _, each in singles:
            for wanted in each:
                wanted.ascending  # noqa: B018 - hashed before the clock runs
        cases: list[tuple[str, int, Callable[[], object]]] = [
            (
                "baseline: one look-up a call (slots)",
                single_count,
                partial(one_by_one, access, singles),
            )
        ]
        for protocol, name in ((UNISWAP_V2, "V2"), (UNISWAP_V3, "V3"), (UNISWAP_V4, "V4")):
            chosen = [target for target in targets if target.spec.protocol == protocol]
            count = read_batch(access, chosen).slots_read
            cases.append(
                (f"{name} in this process (slots)", count, partial(read_batch, access, chosen))
            )
        cases.append(("all in this process (slots)", slots, partial(read_batch, access, targets)))
        keys = [target.spec.key for target in targets]
        for concurrency in (1, 2):
            reader = RethDB(folder, targets, scraping_concurrency=concurrency)
            readers.append(reader)
            cases.append(
                (
                    f"scrape, {concurrency} reader process(es) (slots)",
                    slots,
                    partial(reader.read_pools, keys),
                )
            )
        rows = alternate(cases, options.repeat)
        for row in rows:
            report.add(row if row is rows[0] else against(row, rows[0]))
            if row.name.startswith("scrape"):
                row.target = ">= 150,000 slots/s" if "1 reader" in row.name else "<= 15 s in all"
        for row, concurrency in zip(rows[-2:], (1, 2), strict=True):
            name = f"scrape, {concurrency} reader process(es) (pools)"
            report.add(
                Row(name, len(targets), row.samples, note=f"{min(row.samples):.2f} s at best")
            )
    finally:
        for reader in readers:
            reader.close()
        shutil.rmtree(folder)
    report.show(options)


if __name__ == "__main__":
    main()
