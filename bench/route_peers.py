"""What bench_routes.py measures beside others: the problems, and those who solve them.

degenbot: 1,000 paths of two V2 pools each, whose best inputs its engine finds again. CFMMRouter.jl: the
arbitrage of its published benchmark (benchmark/scaling.jl: m constant-product pools of two among 2 sqrt(m)
tokens, reserves drawn alike, fees 0 and 0.3 %). It is asked for the most of all tokens at drawn prices, a
router for the most of its numeraire; scipy's L-BFGS-B, the method of that program, answers the router's
question on the same dual.
"""

import importlib.util
import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from harness import SelfTimed

import arena
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writing import WriterArena

WEI = 10**18
FIRST_PAIR = 2**80  # its address
NUMERAIRE = (1).to_bytes(20, "big")
Pair = tuple[int, int, int, int, int]  # tokens by number, the lower first; reserves; fee in pips


@contextmanager
def pairs_in_arena(pairs: Sequence[Pair]) -> Iterator[arena.Arena]:
    """V2 pools of these, in order, in an arena of their own; token 0 is the numeraire."""
    name = f"psa-bench-routes-{os.getpid()}-pairs"
    tokens = max(pair[1] for pair in pairs) + 1
    specs = [TokenSpec((1 + n).to_bytes(20, "big"), 18, f"T{n}") for n in range(tokens)]
    with WriterArena.create(name, max_pools=len(pairs), max_tokens=tokens) as owner:
        try:
            for number, (first, second, reserve0, reserve1, fee) in enumerate(pairs):
                key = (FIRST_PAIR + number).to_bytes(20, "big")
                spec = PoolSpec(key, 0, specs[first], specs[second], fee, 0)
                values = PoolValues(1, fee, reserve0=reserve0, reserve1=reserve1)
                owner.install(owner.add_pool(spec), values, status=2)
            owner.set_head(1)
            owner.commit()
            with arena.attach(name, require_writer=False) as pools:
                yield pools
        finally:
            owner.close(unlink=True)


# ---- degenbot's paths


def two_pool_paths(count: int) -> list[list[tuple[int, int]]]:
    """Reserves of the two pools of each path."""
    drawn = [(1000 + i, 2000 + i * 7919 % 1000) for i in range(2 * count)]
    pools = [(reserve0 * WEI, reserve1 * WEI) for reserve0, reserve1 in drawn]
    return [pools[i : i + 2] for i in range(0, 2 * count, 2)]


class PathsByDegenbot:
    """degenbot's engine in an interpreter of its own, with its paths registered."""

    PROGRAM = Path(__file__).with_name("degenbot_paths.py")

    def __init__(self, python: str, paths: list[list[tuple[int, int]]]) -> None:
        self._process = subprocess.Popen(
            [python, str(self.PROGRAM)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        answer = json.loads(self._ask(json.dumps(paths)))
        self.profits: list[int] = [profit for _, profit in answer["found"]]  # wei, by path
        self.version = f"{answer['version']}, Python {answer['python']}"

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def solve(self) -> SelfTimed:
        return SelfTimed(self._ask("again"))

    def close(self) -> None:
        self._process.communicate()


# ---- CFMMRouter's market


def cfmm_market(pools: int) -> list[Pair]:
    """Drawn pairs among 2 sqrt(pools) tokens."""
    draws = random.Random(1)
    tokens = range(round(2 * pools**0.5))
    return [
        (
            *sorted(draws.sample(tokens, 2)),
            *(int(draws.uniform(1, 1000) * WEI) for _ in range(2)),
            draws.choice((0, 3000)),
        )
        for _ in range(pools)
    ]


def dual_by_scipy(pairs: Sequence[Pair]) -> Callable[[], float] | None:
    """The least that the dual over all pools comes to, wei of token 0: no trades leave more. None without
    scipy."""
    if not importlib.util.find_spec("scipy"):
        return None
    from scipy.optimize import minimize  # type: ignore[import-untyped,unused-ignore]

    table = np.array(pairs, float)
    ends = table[:, :2].astype(int)
    both = [(ends[:, d], ends[:, 1 - d], table[:, 2 + d], table[:, 3 - d]) for d in (0, 1)]
    paid, got, reserve_in, reserve_out = (
        np.concatenate(column) for column in zip(*both, strict=True)
    )
    keep = np.tile(1 - table[:, 4] / 1e6, 2)
    tokens = int(ends.max()) + 1

    def dual(logs: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        values = np.exp(np.concatenate(([0.0], logs)))
        rate = keep * reserve_out / reserve_in * values[got] / values[paid]
        root = np.sqrt(np.maximum(rate, 1))
        into = (root - 1) * reserve_in / keep * values[paid]
        out = reserve_out * (1 - 1 / root) * values[got]
        slopes = np.bincount(got, out, tokens) - np.bincount(paid, into, tokens)
        return (out.sum() - into.sum()) / WEI, slopes[1:] / WEI

    def solve() -> float:
        limits: Any = {"maxiter": 5000, "maxfun": 20_000, "ftol": 1e-15, "gtol": 1e-9}
        found: Any = minimize(
            dual, np.zeros(tokens - 1), jac=True, method="L-BFGS-B", options=limits
        )
        return float(found.fun) * WEI

    return solve
