"""The whole chain on shipped recordings: replay, writer and two readers, without node or network.

Everything shown crosses real process boundaries: frames through a Unix socket, pool state through
shared memory. `recordings.json` lists the recordings; tests/builders/cut_demo.py says how they were
cut.
"""

from arena.writer.demo.show import run_demo

__all__ = ["run_demo"]
