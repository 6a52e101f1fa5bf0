"""Each program of examples/ runs beside a real writer on the demo's recording, and what it prints is right.

The replay stands still from live until the program says that it follows, so a slow machine misses nothing.
"""

import contextlib
import csv
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from pyarrow import parquet

import arena
import arena.writer.demo

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
DEMO = Path(arena.writer.demo.__file__).parent
LAST_BLOCK = 68  # of chain_reorg.exex
POOLS = 11
LINES = 100
SECONDS = 120.0


@contextlib.contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the package, ended in any case."""
    program = Path(sys.executable).parent / words[0]
    with subprocess.Popen([str(program), *words[1:]], stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()


@contextlib.contextmanager
def demo_arena(folder: Path, name: str, *pace: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A writer of that name on the demo's recording: its process and that of the replay."""
    socket, states = str(folder / "feed.sock"), str(DEMO / "states_reorg.jsonl")
    recording = str(DEMO / "chain_reorg.exex")
    with (
        started("arena-replay", recording, "--socket", socket, "--linger", "600", *pace) as replay,
        started(
            *("arena-writer", "run", "--name", name, "--socket", socket, "--states", states)
        ) as writer,
    ):
        yield [writer, replay]


def play(example: str, folder: Path, name: str, *words: str, until: str | None = None) -> str:
    """Run an example from the moment its arena is live until the writer has ended, which is told to once
    a line begins `until`; what it printed."""
    command = [sys.executable, str(EXAMPLES / example), name, *words]
    with (
        demo_arena(folder, name, "--rate", "20") as (writer, replay),
        arena.attach(name, timeout=SECONDS) as pools,
    ):
        pools.wait_live(timeout=SECONDS)
        replay.send_signal(signal.SIGSTOP)
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as program:
            assert program.stdout is not None
            printed = []
            for line in program.stdout:
                printed.append(line)
                if line.startswith(f"{name}: "):
                    break
            replay.send_signal(signal.SIGCONT)
            limit = time.monotonic() + SECONDS
            while pools.head_block < LAST_BLOCK and time.monotonic() < limit:
                pools.wait_commit(pools.committed, timeout=1)
            for line in program.stdout if until is not None else ():
                printed.append(line)
                if line.startswith(until):
                    break
            time.sleep(1)  # a program that does not say so has seen the last block too
            writer.terminate()
            printed += program.stdout
        assert program.returncode == 0, "".join(printed)
    return "".join(printed)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_listed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LINES
    assert f"({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert f"def test_{path.stem}" in Path(__file__).read_text(encoding="utf-8")


@pytest.mark.slow
def test_first_quote(tmp_path: Path, arena_name: str) -> None:
    """It ends by itself, so no stream needs to move."""
    with demo_arena(tmp_path, arena_name, "--at-once"):
        with arena.attach(arena_name, timeout=SECONDS) as pools:
            pools.wait_block(LAST_BLOCK - 1, timeout=SECONDS)
            expected = []
            for key in pools:
                with contextlib.suppress(arena.QuoteError):
                    found = pools[key].quote_exact_in(10**15, zero_for_one=True)
                    expected.append((key[:10], f"{Decimal(found.amount_out).scaleb(-18):.12f}"))
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "first_quote.py"), arena_name],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    assert f"live at block {LAST_BLOCK}, {POOLS} pools" in done.stdout
    shown = re.findall(r"^uniswap_v\d (\S+) \S+ \S+ buys (\S+) ", done.stdout, re.M)
    assert shown == expected
    assert len(done.stdout.splitlines()) == 1 + POOLS


@pytest.mark.slow
def test_five_processes(tmp_path: Path, arena_name: str) -> None:
    last = f"block {LAST_BLOCK}: 5 processes"
    printed = play("five_processes.py", tmp_path, arena_name, until=last)
    assert (
        len(set(re.findall(r"^process (\d+) has attached and finds 11 pools", printed, re.M))) == 5
    )
    assert re.search(rf"^{last}, \d+ quotes, the same$", printed, re.M)
    assert printed.endswith(" commits were seen by all and alike, 0 differed\n")


@pytest.mark.slow
def test_asyncio_strategy(tmp_path: Path, arena_name: str) -> None:
    printed = play("asyncio_strategy.py", tmp_path, arena_name)
    assert re.search(r"^block \d+ \S+: 0x\w+ then 0x\w+ (PAYS|costs) \d+ wei$", printed, re.M)
    looked = re.findall(r"^(\S+): \d+ pools, looked at (\d+) times$", printed, re.M)
    assert len(looked) == 3
    assert all(int(times) > 1 for _, times in looked)


def quoted(pools: arena.Arena, printed: str) -> list[tuple[str, int, str, int]]:
    """The swaps a program printed, in wei, each asked again of its pool."""
    found = []
    for key, *amounts in re.findall(r"^  (0x\w+) (\S+) (\w+) -> (\S+) (\w+)$", printed, re.M):
        given, token_in, got, token_out = amounts
        paid, out = (int(Decimal(amount).scaleb(18)) for amount in (given, got))
        zero_for_one = pools[key].token0.symbol == token_in
        assert pools[key].quote_exact_in(paid, zero_for_one=zero_for_one).amount_out == out
        found.append((token_in, paid, token_out, out))
    return found


@pytest.mark.slow
def test_best_route(tmp_path: Path, arena_name: str) -> None:
    """It ends by itself. What its swaps pay and give adds up to what it says, token by token."""
    order = ("T6E80", "T9C8F", "0.5")
    with (
        demo_arena(tmp_path, arena_name, "--at-once"),
        arena.attach(arena_name, timeout=SECONDS) as pools,
    ):
        pools.wait_block(LAST_BLOCK - 1, timeout=SECONDS)
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "best_route.py"), arena_name, *order],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
        outs = []
        path, split = re.split(r"^split ", done.stdout, flags=re.M)
        for text in (path, split):
            said = re.search(r"at block 68: 0\.5\d* T6E80 buys (\S+) T9C8F$", text, re.M)
            assert said is not None, done.stdout
            left: dict[str, int] = {"T6E80": 5 * 10**17}
            for token_in, paid, token_out, out in quoted(pools, text):
                left[token_in] -= paid
                assert left[token_in] >= 0
                left[token_out] = left.get(token_out, 0) + out
            outs.append(left.pop("T9C8F"))
            assert outs[-1] == int(Decimal(said[1]).scaleb(18))
            assert not any(left.values())
    assert outs[1] >= outs[0]
    more = re.search(r"^the split gives (\S+) bp more", done.stdout, re.M)
    assert more is not None
    assert abs(float(more[1]) - 10_000 * (outs[1] / outs[0] - 1)) <= 0.051


@pytest.mark.slow
def test_cycle_strategy(tmp_path: Path, arena_name: str) -> None:
    printed = play("cycle_strategy.py", tmp_path, arena_name, "T6E80")
    blocks = [int(number) for number in re.findall(r"^block (\d+): \d+ pools", printed, re.M)]
    assert max(blocks) == LAST_BLOCK
    cycles = re.findall(r"^  (\w+) -> .* -> (\w+) takes (\d+) gives (\d+), (\S+) T", printed, re.M)
    assert cycles
    for first, last, paid, given, gained in cycles:
        assert first == last
        assert int(given) > int(paid)
        if first == "T6E80":
            assert abs(float(gained) - (int(given) - int(paid)) / 1e18) <= 1e-6
    assert printed.endswith(f"{len(blocks)} blocks looked at\n")


@pytest.mark.slow
def test_backtest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "backtest.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^(\d+) commits, (\d+) missed, 3 reorgs, (\d+) trades$", done.stdout, re.M)
    assert found is not None, done.stdout + done.stderr
    assert int(found[1]) > 1
    assert len(re.findall(r"^block \d+: (?:buy|sell) ", done.stdout, re.M)) == int(found[3]) > 0
    assert "wei of token0 became" in done.stdout
    assert not list(Path("/dev/shm").glob("backtest-*"))


@pytest.mark.slow
def test_follow_and_export(tmp_path: Path, arena_name: str) -> None:
    printed = play("follow_and_export.py", tmp_path, arena_name, "changes.csv")
    rows = rows_of(tmp_path / "changes.csv")
    assert printed.endswith(f"{len(rows)} rows of {printed.split()[-4]} commits in changes.csv\n")
    assert len({row["pool"] for row in rows}) == POOLS
    newest = {row["pool"]: row for row in rows}
    assert max(int(row["block"]) for row in rows) == LAST_BLOCK
    assert all((row["reserve0"] == "") == (row["sqrt_price_x96"] != "") for row in rows)
    assert len(rows) > len(newest), "no pool changed"


@pytest.mark.slow
def test_follow_and_export_to_parquet(tmp_path: Path, arena_name: str) -> None:
    play("follow_and_export.py", tmp_path, arena_name, "changes.parquet")
    rows = parquet.read_table(tmp_path / "changes.parquet").to_pylist()
    assert len({row["pool"] for row in rows}) == POOLS
    assert max(row["block"] for row in rows) == LAST_BLOCK
