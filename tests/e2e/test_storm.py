"""Any node at its worst: readers of an arena whose node fails and lies never see a wrong state as live.

A minute of what `python tests/soak.py --faults` does for as long as one likes.
"""

from pathlib import Path

import pytest
from chains.storm import Storm
from conftest import SEED
from doubles.faults import FAULTS, schedule

SECONDS = 60.0


@pytest.mark.node
@pytest.mark.parametrize("embedded", [False, True])
def test_a_minute_beside_a_node_that_fails_and_lies(
    embedded: bool, tmp_path: Path, arena_name: str
) -> None:
    storm = Storm(tmp_path, arena_name, seed=SEED, seconds=SECONDS, embedded=embedded)
    found = storm.run()
    print(found)
    assert found.is_good, str(found)
    assert found.views > 20
    assert found.live_s > 10
    assert sum(found.faults.values()) > 0  # a schedule may have one of a single hit


def test_a_schedule_has_every_kind_and_is_the_seeds_own() -> None:
    plan = schedule(5, 600)
    assert {episode.fault.kind for episode in plan} == set(FAULTS)
    assert plan == schedule(5, 600)
    assert plan != schedule(6, 600)
    assert all(episode.at_s + episode.lasts_s <= 600 for episode in plan)
