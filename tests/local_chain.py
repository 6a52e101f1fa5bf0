"""A chain to try things on: a local node with the real contracts, pools, and a trader that never stops.

    python tests/local_chain.py FOLDER [--port 8545] [--blocks-per-s 1] [--pools 3]

Needs npm, which brings the node. Writes FOLDER/pools.json once the pools are there, reorganises the chain
now and then, and ends with SIGTERM or SIGINT. Listens on 127.0.0.1 only.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from chains.market import Market
from chains.process import Node


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where pools.json and the node's files go")
    parser.add_argument("--port", type=int, default=8545)
    parser.add_argument("--blocks-per-s", type=float, default=1.0)
    parser.add_argument("--pools", type=int, default=3, help="of each of four kinds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options.folder.mkdir(exist_ok=True)
    with Node(options.folder.resolve(), port=options.port) as node:
        # Few tokens, so that several pools trade the same two.
        market = Market(node, seed=2026, tokens=4)
        count = options.pools
        market.create_pools(v2=count, v3=count, v4=count, cake=count)
        part = options.folder / "pools.json.part"
        part.write_text(json.dumps({"chain": "local", "pools": market.pool_list()}))
        part.rename(options.folder / "pools.json")
        print(f"{len(market.pools)} pools at {node.http} and {node.ws}", flush=True)
        due = time.monotonic()
        for turn in range(1, sys.maxsize):
            due += 1 / options.blocks_per_s
            time.sleep(max(0.0, due - time.monotonic()))
            if turn % 20 == 0:
                market.reorg(2, method="anvil_reorg", operations=8)
            else:
                market.step(6)
            print(f"block {node.block()['number']}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
