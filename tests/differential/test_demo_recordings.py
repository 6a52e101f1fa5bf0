"""The shipped demo recordings are exactly what the recorded chains give."""

import json
from pathlib import Path

import pytest
from builders.cut_demo import DEMO, RECORDINGS, cut
from chains.evm_data import load, records


@pytest.mark.slow
def test_shipped_files_are_the_cut_ones_and_small(tmp_path: Path) -> None:
    cut(tmp_path)
    shipped = sorted(p.name for p in DEMO.iterdir() if p.suffix in (".exex", ".jsonl", ".json"))
    assert sorted(p.name for p in tmp_path.iterdir()) == shipped
    for path in tmp_path.iterdir():
        assert (DEMO / path.name).read_bytes() == path.read_bytes(), path.name
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 300_000


@pytest.mark.slow
def test_quotes_are_recorded_answers_at_a_served_block() -> None:
    for recording in RECORDINGS:
        if recording.quotes is None:
            continue
        given = {
            (row["pool"], row["block"], q["zf1"], q["mode"], q["amt"])
            for row in records(recording.quotes)
            for q in row["quotes"]
        }
        states = (DEMO / f"states_{recording.name}.jsonl").read_text().splitlines()
        pools = {json.loads(line)["pool"] for line in states}
        lines = (DEMO / f"quotes_{recording.name}.jsonl").read_text().splitlines()
        assert len(lines) >= 30
        for line in map(json.loads, lines):
            mode = line["mode"].removeprefix("exact_")
            amount = int(line["amount"])
            assert (line["pool"], line["block"], line["zero_for_one"], mode, amount) in given
            assert line["pool"] in pools
            assert recording.first_block <= line["block"] <= recording.last_block
            assert amount == int(line["amount_" + mode])


def test_the_reorg_recording_holds_three_whole_reorgs() -> None:
    listed = json.loads((DEMO / "recordings.json").read_text())
    reorg = next(entry for entry in listed if entry["name"] == "reorg")
    assert [entry["depth"] for entry in reorg["reorgs"]] == [3, 4, 5]
    protocols = {load("reorg").pools[key].protocol for key in reorg["pools"]}
    assert protocols == {"uniswap_v2", "uniswap_v3", "uniswap_v4"}
