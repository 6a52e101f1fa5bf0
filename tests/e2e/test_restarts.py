"""kill -9 of the writer over and over under load: it goes on from its segment, or from a checkpoint.

After each restart every pool of three attached readers equals the node. A fourth looks and quotes all
the time: it sees the head stand still, never an error, and never a pool that is not live. What it reads
between a kill and the restart is the last block, which the next comparison does not hold against the
node. PSA_PROFILE=long kills 200 times.
"""

import random
import statistics
import time
from pathlib import Path

import pytest
from chains.proof import Proof
from conftest import PROFILE, SEED
from roles.processes import ReaderProcess

pytestmark = [pytest.mark.node, pytest.mark.slow]

KILLS = {"quick": 8, "ci": 12, "long": 200}[PROFILE]
SECONDS = 60.0
OPTIONS = ("--checkpoint-every", "4", "--gap-timeout", "20")


def spoil_segment(name: str) -> None:
    """Make the data segment unusable for a writer; readers that mapped it go on reading."""
    for path in Path("/dev/shm").glob(f"{name}.*"):
        with path.open("r+b") as shared:
            shared.write(bytes(8))


def trade_until(proof: Proof, text: str, start: int) -> None:
    limit = time.monotonic() + SECONDS
    while text not in proof.writer_log()[start:]:
        assert time.monotonic() < limit, proof.writer_log()[-4000:]
        proof.market.step(4)


@pytest.mark.timeout(60 + 15 * KILLS)
def test_a_killed_writer_goes_on_where_it_was(tmp_path: Path, arena_name: str) -> None:
    rng = random.Random(f"restarts {SEED}")
    times: dict[str, list[float]] = {"segment": [], "checkpoint": []}
    with Proof(tmp_path, arena_name, seed=51, pools=4, writer_options=OPTIONS) as proof:
        proof.wait_live()
        for _ in range(5):  # no reorg below reaches the block the pools were read at
            proof.block(settle=True)
        keys = [pool.key for pool in proof.market.pools]
        with ReaderProcess(tmp_path, arena_name) as watching:
            watching.tell(do="stay", keys=keys, seconds=60.0 + 15 * KILLS)
            for number in range(KILLS):
                limit = time.monotonic() + rng.uniform(0.0, 1.0)
                while time.monotonic() < limit:
                    proof.market.step(rng.randrange(1, 8))
                from_checkpoint = number % 3 == 2
                if from_checkpoint:
                    proof.block(settle=True)
                    start = len(proof.writer_log())
                    trade_until(proof, "event=checkpoint ", start)
                proof.kill_writer()
                if from_checkpoint:
                    spoil_segment(arena_name)
                proof.trade(rng.randrange(0, 12))
                if rng.random() < 0.4:
                    proof.market.reorg(rng.randrange(1, 5), method="anvil_reorg", operations=6)
                start = len(proof.writer_log())
                began = time.monotonic()
                proof.start_writer()
                source = "checkpoint" if from_checkpoint else "segment"
                trade_until(proof, "event=gap_closed", start)
                times[source].append(time.monotonic() - began)
                proof.equal(settle=True, every_word=number % 10 == 0)
                log = proof.writer_log()[start:]
                assert f"event={source}_found" in log, log
                assert "event=scraping" not in log, log
            (tmp_path / "enough").touch()
            answer = watching.answer()
        assert answer["ok"], answer
        proof.quotes(60)
        proof.equal(every_word=True)
    assert answer["views"] > 20 * KILLS
    for source, took in times.items():
        print(f"{source}: {len(took)} restarts, median {statistics.median(took):.2f} s to live")
