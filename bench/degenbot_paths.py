"""degenbot's solution of many paths of two V2 pools, under an interpreter of its own as degenbot_quotes.py.

Run as a program that imports nothing of ours. The first line on stdin are the reserves of the two pools of
each path as JSON; all pools have the same two tokens, and a path goes through its first pool from token0 on
and through its second back. It is answered by degenbot's version and what its engine finds, by path the best
input and its profit, 0 where there is none; each line after it by the processor seconds that solving all
once more took.
"""

import json
import platform
import sys
import time
from importlib.metadata import version

from degenbot._ffi import ArbitrageEngine, Bot  # type: ignore[import-not-found,unused-ignore]

TOKEN0 = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
TOKEN1 = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
FACTORY = "0x5C69bEe701ef814a2B6a3EDD4B1652CB9cc5aA6f"
FEE = (997, 1000, 997, 1000)


def main() -> None:
    paths = json.loads(sys.stdin.readline())
    bot = Bot(1)
    for address, symbol in ((TOKEN0, "USDC"), (TOKEN1, "WETH")):
        bot.register_token(address, symbol, symbol, 18, 1)
    engine = ArbitrageEngine(bot)
    numbers = []
    for pools in paths:
        steps = []
        for reserves, zero_for_one in zip(pools, (True, False), strict=True):
            address = f"0x{2 * len(numbers) + len(steps) + 1:040x}"
            place = bot.register_v2_pool_test_only(
                address, TOKEN0, TOKEN1, *reserves, *FEE, FACTORY, 1, "uniswap-v2", False, None
            )
            steps.append((place, zero_for_one))
        numbers.append(engine.register_path(steps)[0])
    engine.solve_all_paths(1)
    results, _ = engine.latest_results()
    found = {path: (best, profit) for path, best, profit, *_ in results}
    answer = {
        "version": version("degenbot"),
        "python": platform.python_version(),
        "found": [found.get(number, (0, 0)) for number in numbers],
    }
    print(json.dumps(answer), flush=True)
    for block, _ in enumerate(sys.stdin, 2):
        begin = time.process_time()
        engine.solve_all_paths(block)
        print(time.process_time() - begin, flush=True)


if __name__ == "__main__":
    main()
