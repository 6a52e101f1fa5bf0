"""docs/reference/layout.md is the byte map the dtypes state; run this file to write the page anew."""

import re
import sys
from pathlib import Path

import numpy as np

from arena.layouts import events, header, slots

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "layout.md"
RECORDS = [
    ("Control segment `/NAME`", header.CONTROL, "CONTROL", "header.py"),
    ("Phase record, two in the control segment", header.PHASE, "PHASE", "header.py"),
    ("Data header, first page of `/NAME.GENERATION`", header.HEADER, "HEADER", "header.py"),
    ("Commit record, two in the data header", header.COMMIT_RECORD, "COMMIT_RECORD", "header.py"),
    ("Static row", slots.STATIC, "STATIC", "slots.py"),
    ("Version line, two a slot", slots.LINE, "LINE", "slots.py"),
    ("Token", slots.TOKEN, "TOKEN", "slots.py"),
    ("Slab header", slots.SLAB, "SLAB", "slots.py"),
    ("Entry of the ring of changes", slots.CHANGE_ENTRY, "CHANGE_ENTRY", "slots.py"),
    ("Undo entry", slots.UNDO_ENTRY, "UNDO_ENTRY", "slots.py"),
    ("Undo record", slots.UNDO_RECORD, "UNDO_RECORD", "slots.py"),
]
INTRODUCTION = """# Memory layout

The byte map of both segments, from the dtypes in `layouts/`, which a test holds equal to the C
structs in `arena/native/layout.h`. Integers are little-endian; wide ones are arrays of 64-bit limbs,
least significant first. Regions of the data segment follow the header page by page: static rows,
slots, tokens, key index (u32 buckets: 0, slot + 1, or 2^32-1 for one that was left), entries and slots (u32)
of the ring of changes, undo entries, undo records, tick heap; their offsets stand in the header. Commits a to
b wrote the slots numbered from the end of commit a - 1 up to the end of b; number n lies at n % capacity, and
what a reader must check stands in [concurrency](../explanation/concurrency.md#the-ring-of-changes). A slab of
ticks is its header, then tick i32[capacity], liquidity_net i128[capacity], liquidity_gross u128[capacity],
each from a 64-byte boundary; the capacities of the size classes are 8 and then 1.5 times the one before,
rounded down.
"""


def meanings(name: str, source: str) -> dict[str, str]:
    """Comment of each field in the source of a dtype."""
    text = (ROOT / "layouts" / source).read_text(encoding="utf-8")
    start = re.search(rf"^{name} = record\(", text, re.MULTILINE)
    assert start is not None, name
    body = text[start.start() : text.index("\n)\n", start.start())]
    found: dict[str, str] = {}
    last = ""
    for line in body.splitlines():
        if field := re.match(r'\s*\("(\w+)",.*\),\s*(?:# (.*))?$', line):
            last = field[1]
            found[last] = field[2] or ""
        elif last and (more := re.match(r"\s*# (.*)$", line)):
            found[last] += " " + more[1]
    return found


def form(dtype: np.dtype) -> str:  # type: ignore[type-arg]
    base, shape = dtype.subdtype or (dtype, ())
    if base.names:
        return f"record of {base.itemsize}" + (f" x {shape[0]}" if shape else "")
    kind = {"u": "u", "i": "i", "S": "bytes "}[base.kind]
    width = str(8 * base.itemsize) if base.kind != "S" else str(base.itemsize)
    return kind + width + (f"[{shape[0]}]" if shape else "")


def page() -> str:
    parts = [INTRODUCTION]
    parts.append(
        f"Layout version {header.LAYOUT_VERSION >> 16}.{header.LAYOUT_VERSION & 0xFFFF}.\n"
    )
    for title, dtype, name, source in RECORDS:
        notes = meanings(name, source)
        parts.append(f"## {title}\n\n{dtype.itemsize} bytes.\n")
        rows = ["| offset | bytes | type | field | meaning |", "|---|---|---|---|---|"]
        for field in dtype.names or ():
            kind, offset = dtype.fields[field][:2]  # type: ignore[index]
            rows.append(
                f"| {offset} | {kind.itemsize} | {form(kind)} | `{field}` | {notes[field]} |"
            )
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def test_the_page_states_the_dtypes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_event_record_is_not_part_of_shared_memory() -> None:
    assert events.EVENT.itemsize == 192
    assert "psa_event" not in PAGE.read_text(encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)
