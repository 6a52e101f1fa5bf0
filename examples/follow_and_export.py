"""Follow an arena and write a row for every pool that changed, with each commit.

python follow_and_export.py NAME FILE.csv        (or FILE.parquet: needs pyarrow)

A reorg is one commit: its rows are the pools it changed, at the block it ended with. A slow reader sees fewer
commits and no wrong ones. It ends, and closes the file, when the writer does.
"""

import csv
import importlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import arena

Row = dict[str, int | str | None]
FIELDS = (
    *("commit", "block", "timestamp", "pool", "protocol", "status"),
    *("reserve0", "reserve1", "sqrt_price_x96", "tick", "liquidity", "ticks"),
)
WIDE = ("reserve0", "reserve1", "sqrt_price_x96", "liquidity")  # no column type holds 160 bits


def changed_rows(view: arena.Snapshot, seen: int) -> tuple[int, list[Row]]:
    """Commit of the view, and the pools written by a later commit than `seen`."""
    table = view.table()
    rows = []
    for entry in table[table["commit"] > seen]:
        state = view[entry["key"][: entry["key_nbytes"]].tobytes()].state()
        row: Row = {"commit": view.commit, "block": view.block_number, "timestamp": view.timestamp}
        row |= {"pool": state.pool_key, "protocol": state.protocol, "status": state.status}
        for name in WIDE:
            value = getattr(state, name)
            row[name] = None if value is None else str(value)
        row["tick"] = state.tick
        row["ticks"] = None if state.ticks is None else len(state.ticks)
        rows.append(row)
    return view.commit, rows


def follow(name: str) -> Iterator[list[Row]]:
    """The rows of each commit, until the writer ends."""
    with arena.attach(name, timeout=30) as pools:
        pools.wait_live(timeout=60)
        print(f"{name}: live at block {pools.head_block}, {len(pools)} pools", flush=True)
        commit, rows = pools.at_one_block(partial(changed_rows, seen=0))
        yield rows
        while pools.writer_alive and pools.phase != "stopped":
            if pools.wait_commit(commit, timeout=1) is not None:
                commit, rows = pools.at_one_block(partial(changed_rows, seen=commit))
                yield rows


def write_csv(path: Path, groups: Iterator[list[Row]]) -> Iterator[int]:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for rows in groups:
            writer.writerows(rows)
            file.flush()
            yield len(rows)


def write_parquet(path: Path, groups: Iterator[list[Row]]) -> Iterator[int]:
    """A row group for each commit that changed something."""
    arrow, parquet = map(importlib.import_module, ("pyarrow", "pyarrow.parquet"))
    numbers = {"commit", "block", "timestamp", "tick", "ticks"}
    kinds = {name: arrow.int64() if name in numbers else arrow.string() for name in FIELDS}
    with parquet.ParquetWriter(path, arrow.schema(kinds.items())) as writer:
        for rows in groups:
            if rows:
                writer.write_table(arrow.Table.from_pylist(rows, writer.schema))
            yield len(rows)


def main(name: str, file: str) -> None:
    path = Path(file)
    write = write_parquet if path.suffix == ".parquet" else write_csv
    counts = list(write(path, follow(name)))
    print(f"{sum(counts)} rows of {len(counts)} commits in {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
