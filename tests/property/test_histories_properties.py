"""Generated chains with forks, faults of the stream, of the source and of the node, against the truth.

The histories are those of tests/simulation, in simulated time: a seed replays exactly. Each test has
them played by a process of its own, for the order of Python's sets is a part of a history. A seed
that fails is played again with `python -m simulation SEED` in the tests folder.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import PROFILE, SEED, TESTS
from simulation.mutants import MUTANTS
from simulation.plan import Plan

HISTORIES = {"quick": 12, "ci": 300, "long": 5000}[PROFILE]
BATCH = 150
# Seeds that stay the same from run to run. All but the first three failed once, on other code or with
# another generator.
EXAMPLES = (
    *("fixed:0", "fixed:1", "fixed:2", "m:3", "m:126", "m:212", "m:234", "m:383", "m:429"),
    *("880200002:108", "880200002:1552"),
    *("t:16:life", "t:26:life", "u:30:life", "u:41:life", "u:75:life", "v:66:life", "v:71:life"),
    *("v:83:life", "a:319:life", "b:28:life", "b:211:life", "e:148:life", "m5b:1344:life"),
    *("m5b:1524:life", "m5b:2091:life", "m8c:967:life", "m8c:2610:life"),
    *("e:117:life:hostile", "g:110:hostile", "g:129:life:hostile", "j:113:life:hostile"),
    *("j:129:life:hostile", "i:80:hostile", "j:91:life:hostile", "k:103:life:hostile"),
    *("l:31:life:hostile", "l:45:life:hostile", "l:47:life:hostile", "l:105:life:hostile"),
    *("m:3:life:hostile", "n:66:hostile", "o:28:hostile", "o:97:life:hostile"),
    *("p:57:life:hostile", "p:75:life:hostile", "land:229:life:hostile", "land:315:life:hostile"),
    *("land:351:life:hostile", "land:359:life:hostile", "s3:123:life:hostile"),
    *("n1:45:life:hostile", "n1:802:bridge:hostile", "f1:820:bridge:hostile", "a1:1056:hostile"),
    *(
        "a3:395:life:hostile",
        "alike:70:hostile",
        "q1:52:alike:hostile",
        "q1:142:life:alike:hostile",
    ),
    *("f1:2052:bridge:hostile", "g2:1675:life:hostile", "ma3:375:hostile", "ma7:259:hostile"),
    *("ma14:176:hostile", "ma7:82:life:hostile", "mb19:473:life:alike:hostile"),
    *("na9:33:hostile", "mb33:210:hostile"),
    *("qa40:103:hostile", "qb38:167:life:hostile", "sa26:310:bridge:hostile"),
    *("ta42:487:hostile", "ua2:214:bridge:hostile", "ya2:390:alike:hostile"),
    *("odd1:225:odd:hostile", "odd1:7:odd:bridge:hostile", "odd1:178:odd:bridge:hostile"),
    *("la11:276:odd:bridge:hostile", "20261126:118:odd:bridge:hostile"),
    *("va8:218:odd:bridge:hostile", "xa4:280:life:alike:hostile"),
    *("ya1:204:hostile", "ya6:434:life:hostile", "yb6:316:hostile", "yb8:434:life:hostile"),
    *("zb42:15:odd:bridge:hostile", "za85:427:hostile"),
)


def simulate(name: str, *arguments: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """What each line of the simulation says, but for the last, and its totals."""
    found = subprocess.run(
        [sys.executable, "-m", "simulation", "--json", "--name", name, *arguments],
        cwd=TESTS,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    *lines, last = [json.loads(line) for line in found.stdout.splitlines()]
    failed = [f"seed {line['seed']!r}: {line['text']}" for line in lines if "kind" in line]
    if failed:
        pytest.fail("\n\n".join(failed), pytrace=False)
    return lines, Counter(last["totals"])


@pytest.mark.parametrize("first", range(0, HISTORIES, BATCH))
def test_live_pools_are_always_right_and_all_are_live_in_the_end(
    first: int, arena_name: str
) -> None:
    count = min(BATCH, HISTORIES - first)
    share = ["--share", str(first), str(count), "1"]
    _, totals = simulate(arena_name, "--prefix", str(SEED), *share)
    assert totals["histories"] == count
    assert totals["live looks"] > count
    assert totals["pumped"]


@pytest.mark.slow
def test_kept_histories(arena_name: str) -> None:
    simulate(arena_name, *EXAMPLES)


def test_every_mutant_is_an_edit_of_the_product_as_it_is() -> None:
    for mutant in MUTANTS.values():
        function, edited = mutant.code()
        assert edited.__code__.co_code != function.__code__.co_code or (
            edited.__code__.co_consts != function.__code__.co_consts
        ), mutant.name


@pytest.mark.slow
def test_a_seed_replays_exactly(arena_name: str) -> None:
    """Also in another process, whatever was played before, and without the short cut to a commit."""
    seeds = [f"exactly:{number}:life" for number in range(4)]
    first, _ = simulate(arena_name, "--twice", *seeds)
    again, _ = simulate(arena_name, *reversed(seeds))
    assert len({line["digest"] for line in first}) == len(seeds)
    assert first == again[::-1]


def test_the_short_cut_changes_nothing(arena_name: str) -> None:
    _, totals = simulate(arena_name, "--twice", "--prefix", str(SEED), "--share", "0", "8", "1")
    assert totals["pumped"] > 0


def _reached(seeds: Sequence[str], name: str, wanted: dict[str, int]) -> None:
    counts: Counter[str] = Counter()
    for start in range(0, len(seeds), 10):
        counts += simulate(name, *seeds[start : start + 10])[1]
        if all(counts[each] >= least for each, least in wanted.items()):
            return
    pytest.fail(f"{counts}, wanted {wanted}")


@pytest.mark.slow
def test_gaps_are_closed_from_the_node(arena_name: str) -> None:
    """The histories reach what they are for: with a node, gaps close without reading pools anew."""
    plans = [Plan.of(f"closing:{number}") for number in range(200)]
    seeds = [plan.seed for plan in plans if plan.node == "good" and plan.fault_rate]
    _reached(seeds, arena_name, {"gaps closed": 5})


@pytest.mark.slow
def test_writers_go_on_from_all_that_another_may_have_left(arena_name: str) -> None:
    """The histories with a life reach what they are for."""
    plans = [Plan.of(f"going on:{number}:life") for number in range(300)]
    seeds = [plan.seed for plan in plans if plan.node != "absent" and plan.life.kills]
    wanted = {"segment": 3, "checkpoint": 2, "cold": 3, "added": 10, "removed": 10, "audited": 10}
    _reached(seeds, arena_name, wanted)
