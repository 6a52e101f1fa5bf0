"""The version protocol, checked exhaustively by spin on docs/explanation/versions.pml.

The model itself says what it checks and what each broken variant breaks. A protocol that holds must
have no error within its bounds; every broken one must be caught, or the model proves nothing.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

MODEL = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "versions.pml"

RIGHT = {
    "kill and take-over": ["COMMITS=2", "KILLS=1"],
    "killed again while taking over": ["COMMITS=1", "KILLS=2"],
    "more commits": ["COMMITS=4", "KILLS=0"],
    "abort": ["COMMITS=3", "KILLS=0", "ABORTS=1"],
    "two pools share the slabs": ["POOLS=2", "COMMITS=2", "KILLS=0"],
    "relaxed stamp loads": ["COMMITS=2", "KILLS=0", "R2_RELAXED"],
}

WRONG = {
    "no fence after the stamp": ["KILLS=0", "NO_W2"],
    "slab freed before the stamp": ["KILLS=0", "FREE_BEFORE_W1"],
    "commit before payload": ["KILLS=0", "W4_RELAXED"],
    "committed loaded after the stamps": ["KILLS=0", "R1_LATE"],
    "stamp read again before the payload": ["KILLS=0", "R3_EARLY"],
    "take-over keeps the dead writer's lines": ["KILLS=1", "NO_T1"],
    "dropped line keeps its slab": ["POOLS=2", "KILLS=0", "ABORTS=1", "T1_KEEPS_SLAB"],
    "next commit's stamp executed before the commit": ["KILLS=1", "NO_W5"],
}

pytestmark = pytest.mark.model


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def check(folder: Path, definitions: list[str], *options: str) -> tuple[int, int, str]:
    """Errors, states and pan's whole report for one variant of the model."""
    spin = shutil.which("spin")
    assert spin, "spin is missing: install the Debian package 'spin' (apt-get install spin)"
    run([spin, *(f"-D{name}" for name in definitions), "-a", str(MODEL)], folder)
    run(["gcc", "-O2", "-w", "-DSAFETY", "-DMEMLIM=2000", *options, "-o", "pan", "pan.c"], folder)
    report = run(["./pan", "-m100000"], folder)
    errors = re.search(r"errors: (\d+)", report)
    states = re.search(r"(\d+) states, stored", report)
    assert errors, report
    assert states, report
    return int(errors[1]), int(states[1]), report


@pytest.mark.parametrize("name", RIGHT)
def test_protocol_holds_in_every_interleaving(name: str, tmp_path: Path) -> None:
    errors, states, report = check(tmp_path, RIGHT[name], "-DCOLLAPSE")
    assert errors == 0, report
    # Warnings mean that the search was cut short: by depth, memory or time.
    assert "Search not completed" not in report
    assert "max search depth too small" not in report
    assert states > 10_000


@pytest.mark.parametrize("name", WRONG)
def test_broken_protocol_is_caught(name: str, tmp_path: Path) -> None:
    errors, _, report = check(tmp_path, ["COMMITS=2", *WRONG[name]], "-DREVERSE")
    assert errors > 0
    assert "assertion violated" in report


@pytest.mark.slow
def test_protocol_holds_with_larger_bounds(tmp_path: Path) -> None:
    errors, states, report = check(tmp_path, ["COMMITS=3", "KILLS=1"], "-DCOLLAPSE")
    assert errors == 0, report
    assert "Search not completed" not in report
    assert states > 1_000_000
