"""Volatile Solidly pairs from a node's logs to a reader's quote, through a real writer.

The node is a double with a recorded chain; the truth is what the contracts' getters said there, and what
getAmountOut answered. Of each kind of contracts the chain of tests/data is run.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from chains.recorded_solidly import FOLDERS, Recorded
from doubles.feed_server import FeedServer
from doubles.recorded_node import RecordedNode
from roles.processes import ReaderProcess, States, WriterProcess

import arena
import arena.writer.demo

DEMO = Path(arena.writer.demo.__file__).parent
SECONDS = 30.0
PAUSE_S = 0.01
"""Between blocks that are not waited for."""

KINDS = ("solidly", "solidly_v1")
kinds = pytest.mark.parametrize("kind", KINDS)


def recorded(kind: str) -> Recorded:
    return Recorded(FOLDERS[0] / f"{kind}_chain.jsonl.gz")


def writer_beside(node: RecordedNode, folder: Path, name: str, *more: str) -> WriterProcess:
    pools = folder / "pools.json"
    pools.write_text(json.dumps(node.recorded.pool_list()))
    return WriterProcess(
        folder, name=name, more=("--node", node.address, "--pools", str(pools), *more)
    )


def are_live(node: RecordedNode, reader: ReaderProcess, seconds: float = SECONDS) -> bool:
    """Whether the reader sees every pair live at the node's newest block within that time."""
    pairs: States = {key: {} for key in node.recorded.volatile}
    reader.tell_expected(node.number, pairs, seconds=seconds)
    answer = reader.answer()
    return bool(answer["ok"] and answer["phase"] == "live")


def go_live(node: RecordedNode, reader: ReaderProcess, last: int) -> None:
    """Blocks come, none after `last`, until every pair is live."""
    limit = time.monotonic() + SECONDS
    while not are_live(node, reader, 0.7):
        assert time.monotonic() < limit
        node.stand_at(min(node.number + 1, last))


def go_to(node: RecordedNode, reader: ReaderProcess, number: int) -> None:
    """Block by block, and every pair is live before the last one comes: what is read of them after
    this, is read there."""
    for each in range(node.number + 1, number):
        node.stand_at(each)
        time.sleep(PAUSE_S)
    assert are_live(node, reader)
    node.stand_at(number)


def live_views(reader: ReaderProcess) -> Iterator[tuple[dict[str, Any], States]]:
    """Every view the reader had while it recorded, and the pools that were live in it."""
    seen: States = {}
    for record in reader.ask(do="recorded")["records"]:
        live = seen if record["live"] is None else record["live"]
        seen = {key: seen[key] for key in live if key in seen} | record["set"]
        yield record, seen


def blocks_to_stop_at(chain: Recorded) -> list[int]:
    """Those with a full state, and with logs: without, they are told from others, and what is read
    there believed, only by their child."""
    return [number for number in chain.full_blocks() if chain.block(number)["logs"]]


def blocks_of_change(chain: Recorded) -> list[int]:
    """Those of them before which some pair had another fee."""

    def fees(number: int) -> list[int]:
        return [each["fee_pips"] for each in chain.truth(number).values()]

    stops = blocks_to_stop_at(chain)
    return [after for before, after in pairwise(stops) if fees(before) != fees(after)]


def reserves(states: States) -> States:
    return {
        key: {name: each[name] for name in ("reserve0", "reserve1")} for key, each in states.items()
    }


@pytest.mark.slow
@kinds
def test_pairs_go_from_logs_to_quotes(kind: str, tmp_path: Path, arena_name: str) -> None:
    chain = recorded(kind)
    end = max(row["block"] for row in chain.quotes)
    shown = blocks_to_stop_at(chain)
    first = shown[2]
    stops = [number for number in blocks_of_change(chain) if first + 20 < number < end][::3]
    assert len(stops) > 2
    options = ("--audit-every", "1", "--audit-pools", "8")
    with (
        RecordedNode(chain, first) as node,
        writer_beside(node, tmp_path, arena_name, *options),
        ReaderProcess(tmp_path, arena_name) as reader,
    ):
        reader.ask(do="record", keys=chain.volatile)
        # Settled before each, so that none is still read again at the block that is compared: such a
        # pool's events do not show which block that is, and the newest is audited when that is known.
        settled = {max(at for at in shown if at < stop) for stop in (*stops, end)}
        go_live(node, reader, min(settled) - 1)
        for number in sorted({*stops, end, *settled}):
            go_to(node, reader, number)
            reader.expect(number, chain.truth(number), settle=True)
        check_quotes(chain, end, reader)
        blocks, fees = set(), set()
        for record, states in live_views(reader):
            truth = chain.truth(record["block"]) if states else {}
            assert reserves(states) == reserves({key: truth[key] for key in states}), record
            blocks |= {record["block"]} if states else set()
            fees |= {each["fee_pips"] for each in states.values()}
        assert len(blocks) > 3 * len(stops)
        assert blocks >= {*stops, end}
        assert len(fees) > 2


def check_quotes(chain: Recorded, number: int, reader: ReaderProcess) -> None:
    asks, told = [], []
    for row in chain.quotes:
        for question in row["quotes"] if row["block"] == number else ():
            asks.append([row["pool"], question["zf1"], False, int(question["amt"])])
            told.append(question["getAmountOut"])
    block, answers = reader.quotes(asks)
    assert block == number
    for ask, answer, truth in zip(asks, answers, told, strict=True):
        if truth["ok"]:
            assert answer[:2] == [ask[3], int(truth["out"])], (ask, answer)
        else:
            assert answer == "SwapReverts", (ask, answer)
    assert sum(each["ok"] for each in told) > 20


@pytest.mark.slow
@kinds
def test_a_fee_that_changed_while_the_writer_was_away_is_read(
    kind: str, tmp_path: Path, arena_name: str
) -> None:
    chain = recorded(kind)
    full, changes = blocks_to_stop_at(chain), blocks_of_change(chain)
    # No other change from the start to the end of the test.
    at = next(
        at for at in range(8, len(full)) if {*full[at - 8 : at + 1]} & {*changes} == {full[at]}
    )
    first, before, after = full[at - 8], full[at - 1], full[at]
    options = ("--audit-every", "1000")
    with contextlib.ExitStack() as stack:
        node = stack.enter_context(RecordedNode(chain, first))
        killed = writer_beside(node, tmp_path, arena_name, *options)
        stack.callback(killed.process.wait)
        stack.callback(killed.process.kill)
        reader = stack.enter_context(ReaderProcess(tmp_path, arena_name))
        go_live(node, reader, before - 1)
        go_to(node, reader, before)
        reader.expect(before, chain.truth(before), settle=True)
        killed.process.kill()
        killed.process.wait()
        reader.ask(do="record", keys=chain.volatile)
        node.stand_at(after)
        with writer_beside(node, tmp_path, arena_name, *options):
            assert are_live(node, reader)
            reader.expect(after, chain.truth(after))
        compared = 0
        for record, states in live_views(reader):
            if record["block"] >= after and record["phase"] == "live":
                truth = chain.truth(record["block"])
                assert states == {key: truth[key] for key in states}, record
                compared += len(states)
        assert compared >= len(chain.volatile)


@pytest.mark.slow
def test_no_feed_has_their_events(tmp_path: Path, arena_name: str) -> None:
    """Pairs beside pools of V2, which go live."""
    lines = [json.loads(line) for line in (DEMO / "states_v2.jsonl").read_text().splitlines()]
    pairs = [
        {"pool": each["address"], **each, **values}
        | {"block": lines[0]["block"], "protocol": "solidly"}  # a line tells both kinds alike
        for chain in map(recorded, KINDS)
        for each in chain.pool_list()[:2]  # the log names no more than five
        for values in (chain.truth(chain.full_blocks()[0])[each["address"]],)
    ]
    states = tmp_path / "states.jsonl"
    states.write_text("".join(json.dumps(line) + "\n" for line in (*pairs, *lines)))
    stream = (DEMO / "chain_v2.exex").read_bytes()
    with (
        FeedServer(tmp_path / "feed.sock", stream, tmp_path / "stream.bin") as server,
        WriterProcess(
            tmp_path, name=arena_name, socket=server.socket_path, states=states
        ) as writer,
        ReaderProcess(tmp_path, arena_name) as reader,
    ):
        server.await_clients(1)
        server.send(0, len(stream))
        reader.wait_live()
        with arena.attach(arena_name) as pools:
            assert {pools[line["pool"]].status for line in lines} == {"live"}
            assert not any(pair["pool"] in pools for pair in pairs)
            for pair in pairs:
                with pytest.raises(arena.UnknownPool):
                    pools[pair["pool"]]
        log = writer.log.read_text()
    for pair in pairs:
        (line,) = [each for each in log.splitlines() if f"pool={pair['pool']} " in each]
        assert "event=pool_not_live" in line
        assert "error=PoolInvalid" in line
        assert "no feed has the events of solidly" in line
