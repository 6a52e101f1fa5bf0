"""Faults put into the product on purpose, each of which the simulation must find.

    python -m simulation.mutants [--histories N] [NAME...]      (from the tests folder)

prints a table: the mutant, after how many histories it was found, how, and after how many seconds.
A mutant is an edit of one function's source, made in the process that plays. A history finds it when it
holds without the edit and does not with it.
"""

import argparse
import importlib
import inspect
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
HISTORIES = 400  # until a mutant counts as not found


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands in the source of `place`, a function of `module`, exactly once."""

    name: str
    module: str
    place: str
    old: str
    new: str

    def apply(self) -> None:
        """Exchange the function for its edited self, wherever it is known, in tables too."""
        function, edited = self.code()
        function.__code__ = edited.__code__

    def code(self) -> tuple[Any, Any]:
        """The function and its edited self. ValueError when the source is another by now."""
        module = importlib.import_module(f"arena.writer.{self.module}")
        owner: Any = module
        *path, name = self.place.split(".")
        for each in path:
            owner = getattr(owner, each)
        function = _plain(inspect.getattr_static(owner, name))
        source = textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} is there {source.count(self.old)} times")
        scope: dict[str, Any] = {}
        exec(compile(source.replace(self.old, self.new), self.name, "exec"), vars(module), scope)
        return function, _plain(scope[name])


def _plain(found: Any) -> Any:
    """The function of a property or a class method."""
    return getattr(found, "fget", None) or getattr(found, "__func__", found)


def _mutants() -> tuple[Mutant, ...]:
    coordinator, intake, branch = "Coordinator.", "Intake.", "Branch."
    table = (
        # coordinator
        ("scrapes are not confirmed", "sync.confirming", "Confirming.confirm",
         "if not hashed:", "if True:"),
        ("values one block too old", "sync.joining", "Joining._reaches",
         "return block_number >= first - 1\n", "return block_number >= first - 2\n"),
        ("additions do not settle", "sync.roster", "Roster.announced",
         "self._settle[key] = self._floors[key] = head_block + SETTLE_BLOCKS",
         "self._settle[key] = self._floors[key] = 0"),
        ("removals are forgotten", "sync.membership", "Membership._remove",
         "count = await self._call(self.intake.members.remove, keys)", "count = 0"),
        ("witnesses outlive a gap", "sync.gap", "GapClosing.close",
         "if each.number <= ancestor", "if True"),
        ("a failed gap is not given up", "sync.gap", "GapClosing.close",
         "await self._call(self.intake.gap.give_up, reason)", "pass"),
        ("stale pools are left alone", "sync.coordinator", coordinator + "_keep_live",
         "await self._single.read_due()", "pass"),
        # intake
        ("reverts at the scraped block do not count", "sync.standing", "Standing.judge",
         "reverted <= candidate.block_number", "reverted < candidate.block_number"),
        ("a scrape need not be reached", "sync.standing", "Standing.judge",
         "reached = head is not None and head >= needed", "reached = True"),
        ("unknown reverts are taken", "sync.turning", "Turning.of",
         "if tip is not None and number > tip:", "if False:"),
        ("missing blocks are taken", "sync.turning", "first_break",
         "if tip is not None and number > tip + 1:", "if False:"),
        ("a part of a reorg will do", "sync.turning", "first_break",
         "if turning is not None and turning.is_short:", "if False:"),
        ("a block may be reverted twice", "sync.turning", "Turning.then",
         "if self.lowest <= number <= self.highest:", "if False:"),
        ("a reorg may be told twice", "sync.turning", "first_break",
         "if is_another is not None and is_another(records[index:]):", "if False:"),
        ("a gap leaves pools live", "sync.gap_side", "GapSide.open",
         "self.arena.set_status_all(lib.PSA_STATUS_LIVE, lib.PSA_STATUS_SYNCING)", "pass"),
        ("a reconnection is no gap", "sync.stage", "Stage.goes",
         "self.values = after", "self.values = self.values if what == 'connected' else after"),
        ("half a reorg is kept", "sync.intake", intake + "_settle", "self.arena.abort()", "pass"),
        ("kept blocks are not restored", "sync.intake", intake + "_settle",
         "self.buffer.restore(blocks)", "pass"),
        ("a gap closes after reverts", "sync.gap_side", "GapSide.close", "or moved\n", "\n"),
        ("orphans are not undone", "sync.gap_side", "GapSide.close",
         "np.concatenate([*orphaned, *missing", "np.concatenate([*missing"),
        ("witnesses survive reverts", "sync.standing", "Standing.valid",
         "or lowest > each.number", "or True"),
        ("others go live, too", "sync.intake", intake + "go_live",
         "self._leave_out_others(candidates)", "pass"),
        # branch
        ("any block is an ancestor", "sync.branch", branch + "fetch_gap",
         "header is not None and header.hash == witness.hash", "header is not None"),
        ("a gap is not compared", "sync.branch", branch + "fetch_gap",
         "if not same_block(", "if False and not same_block("),
        ("any block is a witness", "sync.branch", branch + "witness",
         "if not same_block(", "if False and not same_block("),
        ("the node's other branch will do", "sync.branch", branch + "confirm",
         "good = headers[number].hash == block_hash", "good = True"),
        # logs
        ("logs of another block", "stream.evidence", "ordered",
         "if each.block_hash != header.hash or each.block_number != header.number:", "if False:"),
        ("logs may have holes", "stream.evidence", "weigh",
         "holes=any(each.log_index != number for number, each in enumerate(logs))",
         "holes=False"),
        ("bloom filters are not looked at", "stream.evidence", "weigh",
         "missing=bool(bloom & ~bloom_of(logs))", "missing=False"),
        ("a halved range skips a block", "stream.blocks", "_fetch_logs", "at = end + 1", "at = end + 2"),
        ("burns are mints", "protocols.uniswap_v3", "_burn",
         "-read.unsigned(words[0], 127), 3, False", "read.unsigned(words[0], 127), 3, True"),
        ("base fees are not compared", "stream.compare", "same_block",
         "if has_base_fee and", "if False and"),
        # checkpoint
        ("a checkpoint of any branch", "sync.checkpoint_file", "usable_checkpoints",
         "if not is_canonical(checkpoint):", "if False:"),
        ("a checkpoint's content is not checked", "sync.checkpoint_file", "_read_image",
         'if hashlib.sha256(payload).hexdigest() != found["payload_sha256"]:', "if False:"),
        ("a torn checkpoint is read", "sync.checkpoint_file", "parse_header",
         'if hashlib.sha256(line[65:-1]).hexdigest().encode() + b" " != line[:65]:', "if False:"),
    )  # fmt: skip
    return tuple(Mutant(*row) for row in table)


MUTANTS = {each.name: each for each in _mutants()}


def find(mutant: Mutant, histories: int, name: str) -> dict[str, Any]:
    """Let a process play mutated histories until one fails that holds as it is."""
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "simulation",
        "--json",
        "--mutant",
        mutant.name,
        "--name",
        name,
    ]
    command += ["--prefix", "mutants", "--share", "0", str(histories), "1"]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    child = subprocess.Popen(command, cwd=TESTS, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    found: dict[str, Any] = {"mutant": mutant.name, "module": mutant.module, "found": ""}
    try:
        for line in child.stdout:
            failure = json.loads(line)
            if "kind" in failure and _holds(failure["seed"], name, environment):
                found |= {"found": failure["kind"], "seed": failure["seed"]}
                break
    finally:
        child.kill()
        child.wait()
        for left in Path("/dev/shm").glob(f"{name}*"):
            left.unlink()
    if child.returncode not in (0, 1, -9):
        found["found"] = "error"
    number = int(found["seed"].split(":")[1]) + 1 if "seed" in found else histories
    return found | {"histories": number, "seconds": round(time.monotonic() - began, 1)}


def _holds(seed: str, name: str, environment: dict[str, str]) -> bool:
    command = [sys.executable, "-m", "simulation", "--json", "--name", f"{name}-right", seed]
    done = subprocess.run(
        command, cwd=TESTS, env=environment, stdout=subprocess.DEVNULL, check=False
    )
    return done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--histories", type=int, default=HISTORIES)
    options = parser.parse_args(arguments)
    missed = 0
    print(f"{'module':12} {'mutant':44} {'histories':>9} {'seconds':>8}  found as")
    for name in options.names or MUTANTS:
        row = find(MUTANTS[name], options.histories, f"psa-mutants-{os.getpid()}")
        missed += not row["found"]
        print(
            f"{row['module']:12} {row['mutant']:44} {row['histories']:9} {row['seconds']:8}  "
            f"{row['found'] or 'NOT FOUND'} {row.get('seed', '')}",
            flush=True,
        )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
