"""Damaged checkpoints, checksums made right again: read, or refused as CheckpointRefused, nothing else.

    checkpoint.py SECONDS [SEED]

A plain loop of mutations over the header's fields and the file's bytes; one that fails prints its header.
"""

import hashlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from arena.errors import CheckpointRefused
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.sync.checkpoint_file import parse_header, read_image, write_checkpoint
from arena.writing import WriterArena

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 4095, 4096, 2**31, 2**32, 2**38, 2**53, 2**63, 2**64 - 1, 2**64),
    *(
        -(2**63),
        1.5,
        1e308,
        "",
        "0",
        "00" * 32,
        "zz",
        [],
        {},
        [[]],
        [[0, 0]],
        [0],
        "\u0000",
        "\U0001f600",
    ),
)


def make(folder: Path) -> Path:
    """A small checkpoint of a real arena."""
    tokens = TokenSpec(b"\1" * 20, 18, "ONE"), TokenSpec(b"\2" * 20, 18, "TWO")
    name = f"fuzz-checkpoint-{random.SystemRandom().randrange(1 << 32):08x}"
    with WriterArena.create(name, max_pools=4, tick_bytes=1 << 16, undo_records=64) as writer:
        slot = writer.add_pool(PoolSpec(b"\3" * 20, 0, *tokens, 3000))
        writer.install(slot, PoolValues(100, 3000, reserve0=1, reserve1=1), status=2)
        writer.set_head(100)
        writer.commit()
        image = writer.image()
        writer.close(unlink=True)
    assert image is not None
    return write_checkpoint(folder, image, chain_id=1, hashes=[(100, b"\1" * 32)])


def mutate(turns: random.Random, value: Any) -> Any:
    """`value`, or a part of it, replaced, left out or doubled."""
    if isinstance(value, dict) and value and turns.random() < 0.9:
        key = turns.choice(list(value))
        if turns.random() < 0.1:
            return {each: item for each, item in value.items() if each != key}
        return {**value, key: mutate(turns, value[key])}
    if isinstance(value, list) and value and turns.random() < 0.7:
        at = turns.randrange(len(value))
        what = turns.random()
        if what < 0.1:
            return value[:at] + value[at + 1 :]
        if what < 0.2:
            return [*value, value[at]]
        return [*value[:at], mutate(turns, value[at]), *value[at + 1 :]]
    if isinstance(value, int) and turns.random() < 0.5:
        return value + turns.choice((-1, 1, -4096, 4096, 2**32, -(2**40)))
    if isinstance(value, str) and value and turns.random() < 0.5:
        at = turns.randrange(len(value))
        return value[:at] + chr(turns.randrange(1, 256)) + value[at + 1 :]
    return turns.choice(ODD)


def signed(line: bytes) -> bytes:
    """A header line with a right checksum."""
    return hashlib.sha256(line).hexdigest().encode() + b" " + line + b"\n"


def main() -> int:
    limit = time.monotonic() + float(sys.argv[1])
    turns = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
    runs = files = read = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = make(Path(folder))
        line, payload = path.read_bytes().split(b"\n", 1)
        header = json.loads(line[65:])
        begun = time.monotonic()
        while time.monotonic() < limit:
            found = header
            for _ in range(turns.choice((1, 1, 2, 3))):
                found = mutate(turns, found)
            text = json.dumps(found).encode()
            if turns.random() < 0.05:
                at = turns.randrange(len(text))
                text = text[:at] + turns.randbytes(turns.randrange(3)) + text[at + 1 :]
            runs += 1
            try:
                parse_header(path, signed(text))
            except CheckpointRefused:
                continue
            except BaseException:
                print(text)
                raise
            files += 1  # the header passes: the whole file
            path.write_bytes(signed(text) + payload)
            try:
                read_image(path)
                read += 1
            except CheckpointRefused:
                pass
            except BaseException:
                print(text)
                raise
    seconds = time.monotonic() - begun
    print(f"Done {runs} runs in {seconds:.0f} second(s), {files} whole files, {read} read")
    return 0


if __name__ == "__main__":
    sys.exit(main())
