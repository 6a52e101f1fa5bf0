"""degenbot's quotes, under an interpreter of its own: version 0.6 wants a later Python than the product.

Run as a program that imports nothing of ours. The first line on stdin are pools and quotes as JSON,
answered by degenbot's version and amounts; each line after it is `QUOTE TIMES`, answered by the seconds
this thread needed for that many. Asked are the handles of its Rust core, the shortest way from Python.
"""

import json
import platform
import sys
import time
from importlib.metadata import version

from degenbot._ffi import Bot  # type: ignore[import-not-found,unused-ignore]

# Addresses are checked against their factories, so these are of real pools; the state is the caller's.
TOKEN0 = "0xA0b86991c6218b36c1d19D4a2e9Eb0cE3606eB48"
TOKEN1 = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
V2 = ("0xB4e16d0168e52d35CaCD2c6185b44281Ec28C9Dc", "0x5C69bEe701ef814a2B6a3EDD4B1652CB9cc5aA6f")
V3 = ("0x8ad599c3A0ff1De082011EFDDc58f1908eb6e6D8", "0x1F98431c8aD98523631AE4a59f267346ea31F984")


def main() -> None:
    asked = json.loads(sys.stdin.readline())
    bot = Bot(1)
    for address, symbol in ((TOKEN0, "USDC"), (TOKEN1, "WETH")):
        bot.register_token(address, symbol, symbol, 18, 1)
    pair, pool = asked["v2"], asked["v3"]
    pools = {
        "v2": bot.register_v2_pool(
            V2[0], TOKEN0, TOKEN1, *pair["reserves"], 997, 1000, 997, 1000, V2[1]
        ),
        "v3": bot.register_v3_pool(
            V3[0],
            TOKEN0,
            TOKEN1,
            3000,
            60,
            V3[1],
            pool["sqrt_price_x96"],
            pool["liquidity"],
            pool["tick"],
            {tick: (gross, net, 1) for tick, gross, net in pool["ticks"]},
            1,
            "tracked",
        ),
    }
    quotes = {
        name: (bot.get_pool(pools[pool]).calculate_tokens_out, zero_for_one, amount)
        for name, (pool, zero_for_one, amount) in asked["quotes"].items()
    }
    amounts = {name: quote(*arguments) for name, (quote, *arguments) in quotes.items()}
    answer = {
        "version": version("degenbot"),
        "python": platform.python_version(),
        "amounts": amounts,
    }
    print(json.dumps(answer), flush=True)
    for line in sys.stdin:
        name, times = line.split()
        quote, zero_for_one, amount = quotes[name]
        begin = time.thread_time()
        for _ in range(int(times)):
            quote(zero_for_one, amount)
        print(time.thread_time() - begin, flush=True)


if __name__ == "__main__":
    main()
