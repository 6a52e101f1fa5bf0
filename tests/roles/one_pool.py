"""A live writer with one committed pool, until a line on stdin; one_pool_writer of child.py."""

import sys

from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

if __name__ == "__main__":
    w = WriterArena.create(
        sys.argv[1], max_pools=16, tick_bytes=65536, undo_blocks=16, undo_records=64
    )
    t = TokenSpec(bytes(20), 18, "T")
    slot = w.add_pool(PoolSpec(b"\x11" * 20, 0, t, t, 3000))
    w.install(slot, PoolValues(5, 3000, reserve0=1000, reserve1=2000), 2)
    w.set_head(5)
    w.commit()
    w.set_phase("live")
    print("ready", flush=True)
    sys.stdin.readline()
