"""arena-demo: it proves the whole chain by itself, and says so when a number is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import arena.writer.demo

DEMO = Path(arena.writer.demo.__file__).parent
RUN = """
from arena.writer.demo import run_demo
raise SystemExit(run_demo(plain=True, blocks_per_s=15.0))
"""
ONE_SCENE = """
import pathlib, sys
from arena.writer.demo import show
show.HERE, show.RECORDINGS = pathlib.Path(sys.argv[1]), ("v2",)
raise SystemExit(show.run_demo(plain=True, blocks_per_s=15.0))
"""
SECONDS = 120


def leftovers(pid: int) -> list[str]:
    """Segments, folders and processes of the demo with that process id."""
    found = [str(path) for path in Path("/dev/shm").glob(f"arena-demo-{pid}*")]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"arena-demo-{pid}-".encode() in words:
            found.append(words.replace(b"\0", b" ").decode())
    return found


@pytest.mark.slow
def test_the_demo_matches_every_number_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", RUN],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out
    assert "MISMATCH" not in out
    assert "reorg 3: 5 blocks undone" in out
    summaries = re.findall(r"^ok .*", out, re.M)
    listed = json.loads((DEMO / "recordings.json").read_text())
    expected = [(len(entry["reorgs"]), entry["quotes"]) for entry in listed]

    def count(pattern: str, line: str) -> int:
        """What the line says; a recording without any says "no"."""
        found = re.search(pattern, line)
        return int(found[1]) if found else 0

    shown = [
        (count(r"(\d+) of \d+ reorgs", line), count(r"of (\d+) quotes match", line))
        for line in summaries
    ]
    assert shown == expected
    assert sum(count(r"(\d+) of \d+ quotes match", line) for line in summaries) > 0
    assert leftovers(process.pid) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_wrong_number_makes_the_demo_fail(tmp_path: Path) -> None:
    """The contract's answers in the file are raised by one, so every quote differs."""
    copy = tmp_path / "demo"
    shutil.copytree(DEMO, copy)
    lines = [json.loads(line) for line in (copy / "quotes_v2.jsonl").read_text().splitlines()]
    for quote in lines:
        quote["amount_out"] = str(int(quote["amount_out"]) + 1)
    (copy / "quotes_v2.jsonl").write_text("".join(json.dumps(quote) + "\n" for quote in lines))
    process = subprocess.run(
        [sys.executable, "-P", "-c", ONE_SCENE, str(copy)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert process.returncode == 1, process.stdout + process.stderr
    assert "MISMATCH" in process.stdout
    assert re.search(r"^FAILED .* 0 of 30 quotes match", process.stdout, re.M)


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_an_interrupted_demo_leaves_nothing(number: int, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "arena-demo"
    process = subprocess.Popen(
        [str(program), "--plain"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        # A shell's background job ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("block "):
            break
    assert leftovers(process.pid), "".join(lines)
    process.send_signal(number)
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert "Traceback" not in out
    limit = time.monotonic() + SECONDS
    while leftovers(process.pid) and time.monotonic() < limit:
        time.sleep(0.01)
    assert leftovers(process.pid) == []
    assert list(tmp_path.iterdir()) == []
