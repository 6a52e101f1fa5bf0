"""How many storage slots a second does each way of JSON-RPC read from a node on this machine?

Timed: RpcScraper.read_pools of pools of all four kinds, from request to checked values, so hashing,
encoding, the node's work, decoding and checks are all in it. Excluded: starting the node, creating
pools, choosing the way. Needs npm: the node is the one of tests/chains. The baseline is
eth_getStorageAt in batches over HTTP.
"""

import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from chains.market import Market
from chains.process import Node
from harness import Report, against, alternate, arguments

from arena.writer.lists.pool_list import parse_pool_list
from arena.writer.node.jsonrpc import JsonRpc
from arena.writer.scrapers.rpc import RpcScraper
from arena.writer.scrapers.rpc_ways import Way

QUESTION = "slots a second of each way of reading pools through JSON-RPC"
CASES = (
    (Way.storage_at, "http"),
    (Way.extsload, "http"),
    (Way.storage_values, "http"),
    (Way.storage_values, "ws"),
    (Way.storage_values, "ipc"),
    (Way.code_override, "http"),
    (Way.code_override, "ws"),
    (Way.code_override, "ipc"),
)


def main() -> None:
    options = arguments(QUESTION)
    count = 4 if options.smoke else 40
    report = Report(QUESTION)
    with ExitStack() as stack:
        node = stack.enter_context(Node(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
        market = Market(node, seed=7)
        market.create_pools(v2=count, v3=count, v4=count, cake=count)
        market.step(15)  # this node reads slowly at a block of very many transactions
        targets = parse_pool_list(market.pool_list(), name="pools").targets
        # The older methods are slow: a part of the pools is enough to time them.
        few = random.Random(7).sample(targets, max(4, len(targets) // 8))
        v4_only = [target for target in targets if len(target.spec.key) == 32]
        cases: list[tuple[str, int, Callable[[], object]]] = []
        for way, transport in CASES:
            chosen = {Way.storage_at: few, Way.extsload: v4_only}.get(way, targets)
            scraper = RpcScraper(JsonRpc(str(getattr(node, transport))), chosen, way=way)
            stack.callback(scraper.close)
            keys = [target.spec.key for target in chosen]
            assert len(scraper.read_pools(keys).pools) == len(chosen)
            slots = scraper.slots_read
            name = f"{way} over {transport}, {len(chosen)} pools, {slots} slots"
            cases.append((name, slots, lambda scraper=scraper, keys=keys: scraper.read_pools(keys)))
        rows = alternate(cases, options.repeat)
    for row in rows:
        report.add(row if row is rows[0] else against(row, rows[0]))
    report.facts = {"node": "anvil 1.7.1", "pools": len(targets)}
    report.show(options)


if __name__ == "__main__":
    main()
