"""The gas that routes are charged with by default against what a node's receipts say.

With -s it prints the table that the figures in readers/gas.py are from.
"""

from pathlib import Path

import numpy as np
import pytest
from chains.process import Node
from chains.route_gas import KINDS, Line, measure, mixed

from arena.layouts.protocols import listed_name, protocol_name
from arena.readers.gas import SWAPS, Gas

pytestmark = pytest.mark.node

NEAR = 0.25  # of what is measured


def test_default_gas_is_near_what_a_node_measures(tmp_path: Path) -> None:
    with Node(tmp_path) as node:
        line = Line(node)
        measured = measure(line)
        apart = mixed(line, measured, 20)
    print(f"\n{'':16}{'transaction':>12}{'swap':>10}{'tick':>10}")
    for kind in KINDS:
        tick = measured.ticks.get(kind, 0)
        print(
            f"{kind:16}{measured.transaction[kind]:12,.0f}{measured.swaps[kind]:10,.0f}{tick:10,.0f}"
        )
    print(f"routes of several kinds are apart by {min(apart):+.1%} to {max(apart):+.1%}")
    assert max(map(abs, apart)) < 0.05, "costs add up"
    gas = Gas()
    mean = float(np.mean(list(measured.transaction.values())))
    assert gas.transaction == pytest.approx(mean, rel=NEAR)
    for kind in KINDS:
        named = listed_name(kind)
        assert named is not None
        assert SWAPS[protocol_name(named.protocol)] == pytest.approx(measured.swaps[kind], rel=NEAR)
    for tick in measured.ticks.values():
        assert gas.tick == pytest.approx(tick, rel=NEAR)
