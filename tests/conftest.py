"""Shared test set-up: names, leak check, seeds, example counts.

PSA_PROFILE (quick, ci or long; quick by default) sets how many generated examples property tests
run. PSA_SEED repeats the random choices of a run; the seed in use stands in the report's header.
Every test has a deadline through pytest-timeout (pyproject.toml). Tests in tests/property carry the
marker `property`.
"""

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# `oracle` is imported by that name from the tests folder. The repository root must not be on the
# path: its folder `arena` lacks the compiled module and would hide the installed package.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

# What a writer would keep in the user's directories; subprocesses inherit it.
_state = tempfile.TemporaryDirectory(prefix="psa-state-")
os.environ["XDG_STATE_HOME"] = _state.name

PROFILE = os.environ.get("PSA_PROFILE", "quick")
# Kept for the processes of a run that is spread over several.
SEED = int(os.environ.setdefault("PSA_SEED", str(random.SystemRandom().randrange(2**32))))
SHM = Path("/dev/shm")
_EXAMPLES = {"quick": 20, "ci": 100, "long": 5_000}
if PROFILE not in _EXAMPLES:
    raise pytest.UsageError(f"PSA_PROFILE={PROFILE}: choose one of {', '.join(_EXAMPLES)}")
for _name, _count in _EXAMPLES.items():
    settings.register_profile(
        _name,
        max_examples=_count,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
settings.load_profile(PROFILE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(TESTS / "property"):
            item.add_marker(pytest.mark.property)


def pytest_xdist_auto_num_workers() -> int:
    """Processes of `-n auto`: half as many again as cores, for many tests wait for other processes."""
    return (os.cpu_count() or 1) * 3 // 2 or 1


def pytest_report_header() -> str:
    return f"PSA_PROFILE={PROFILE} PSA_SEED={SEED}"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """tests/data"""
    return TESTS / "data"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the run's seed and the test's name only."""
    return random.Random(f"{SEED}:{request.node.nodeid}")


def segments(prefix: str) -> list[str]:
    """Names in /dev/shm that start with `prefix`, sorted."""
    return sorted(entry.name for entry in SHM.iterdir() if entry.name.startswith(prefix))


def children() -> dict[int, str]:
    """This process's children, zombies too, with their command lines.

    The standard library's own long-lived helper processes are left out.
    """
    found = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:
            continue
        for pid in pids:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if "multiprocessing.resource_tracker" in line or "multiprocessing.forkserver" in line:
                continue
            found[int(pid)] = line.strip() or "(exited, not waited for)"
    return found


@pytest.fixture(autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[str]:
    """Fail a test that leaves shared memory under its prefix or child processes behind.

    Yields the prefix. What is left is removed, so that one leak is one failure. Child processes
    get two seconds to end by themselves.
    """
    prefix = f"psa-{os.getpid()}-{random.SystemRandom().randrange(2**32):08x}"
    before = children()
    yield prefix
    limit = time.monotonic() + 2
    while (left := children().keys() - before.keys()) and time.monotonic() < limit:
        time.sleep(0.01)
    commands = children()
    leaked = [f"process {pid}: {commands[pid]}" for pid in sorted(left) if pid in commands]
    for name in segments(prefix):
        leaked.append(f"/dev/shm/{name}")
        (SHM / name).unlink()
    if leaked:
        pytest.fail(f"{request.node.name} leaves behind: " + "; ".join(leaked))


@pytest.fixture
def arena_name(leak_check: str) -> str:
    """A name for an arena that no other test, and no other run, uses."""
    return f"{leak_check}-arena"
