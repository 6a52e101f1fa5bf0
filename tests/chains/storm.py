"""A live chain behind a node that fails and lies, and what readers see meanwhile held against the chain.

Every view a reader takes, at every commit, is compared: the states of all pools it shows as live must be
those of one block the chain had at that height, whatever the phase. A fault that lasts must be shown: an
arena that stays live behind the chain for longer than UNSEEN_S counts as a failure, unless the node itself
says that its chain ends there. When the faults end all is live again and equal.
"""

import json
import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doubles.faults import Episode, FaultyNode, schedule

from chains.process import Node
from chains.proof import Proof

# Ten seconds until it is shown, and as much for a machine that is busy.
UNSEEN_S = 20.0
CALM_S = 90.0  # the faults have ended by then: all must be live
BLOCK_S = 0.35
KEPT_NUMBERS = 600
MAX_DEPTH = 12  # of a reorg, not reached

States = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Branch:
    """A block the chain had: its states, and when it ceased to be the newest."""

    hash: str
    states: States
    left: float | None = None


@dataclass(slots=True)
class Spell:
    """A stretch of time in which a reader was not live, or was live and behind."""

    seconds: float = 0.0
    phase: str = ""
    reason: str = ""
    faults: tuple[str, ...] = ()


@dataclass(slots=True)
class Summary:
    """What a run was and found."""

    seed: int
    way: str
    seconds: float = 0.0
    blocks: int = 0
    reorgs: int = 0
    views: int = 0
    states: int = 0
    differences: list[str] = field(default_factory=list)
    unseen: list[Spell] = field(default_factory=list)
    never_back: str = ""
    live_s: float = 0.0
    longest_not_live: Spell = field(default_factory=Spell)
    longest_behind: Spell = field(default_factory=Spell)
    phases: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    episodes: int = 0
    audit_differences: int = 0

    @property
    def is_good(self) -> bool:
        return not (self.differences or self.unseen or self.never_back or self.audit_differences)

    def __str__(self) -> str:
        worst, behind = self.longest_not_live, self.longest_behind
        lines = [
            f"seed {self.seed}, {self.way}, {self.seconds:.0f} s: {self.blocks} blocks, "
            f"{self.reorgs} reorgs, {self.episodes} faults in turn, {sum(self.faults.values())} hits",
            f"views {self.views}, states compared {self.states}, wrong but live "
            f"{len(self.differences)}, audit differences {self.audit_differences}",
            f"live {100 * self.live_s / max(self.seconds, 1e-9):.1f} % of the time; longest not live "
            f"{worst.seconds:.1f} s ({worst.phase}: {worst.reason!r}; {', '.join(worst.faults)})",
            f"longest live and behind {behind.seconds:.1f} s ({', '.join(behind.faults)}); "
            f"of these unseen {len(self.unseen)}",
            "not live by phase: "
            + ", ".join(f"{name} {count:.1f} s" for name, count in self.phases.most_common()),
            "hits by kind: "
            + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
        ]
        lines += [f"WRONG {each}" for each in self.differences[:10]]
        lines += [
            f"UNSEEN {each.seconds:.1f} s live and behind with {', '.join(each.faults)}"
            for each in self.unseen[:10]
        ]
        if self.never_back:
            lines.append(f"NEVER BACK {self.never_back}")
        return "\n".join(lines)


class Storm:
    """One run; `run` returns what it found. `embedded`: the writer's own bridge."""

    def __init__(
        self, folder: Path, name: str, *, seed: int, seconds: float, embedded: bool, pools: int = 3
    ) -> None:
        self._random = random.Random(f"storm {seed}")
        self._seconds = seconds
        self._faulty: FaultyNode | None = None

        def in_front(node: Node) -> FaultyNode:
            self._faulty = FaultyNode(node.http, node.ws, seed=seed)
            return self._faulty

        self.proof = Proof(
            folder,
            name,
            seed=seed,
            pools=pools,
            embedded=embedded,
            in_front=in_front,
            readers=1,
            # Without it this node moves states of a few blocks ago to disk and loses some.
            node_options=("--prune-history", "400"),
        )
        assert self._faulty is not None
        self._node = self._faulty
        self._chain: dict[int, list[Branch]] = defaultdict(list)
        self._tip = Branch("", {})
        self._seen: States = {}
        self._now: dict[str, Any] | None = None  # the reader's last record
        self._since = time.time()
        self._spell: Spell | None = None
        self._behind: Spell | None = None
        self._waiting: list[tuple[dict[str, Any], States]] = []
        self._recent: list[tuple[float, str]] = []  # when each fault was last on
        self._starts_calm = seed % 2 == 0  # otherwise the faults meet a writer that starts
        way = "writer's own bridge" if embedded else "arena-bridge"
        self.summary = Summary(seed, way)
        self._plan: list[Episode] = schedule(seed, seconds)

    # -- the chain

    def _learn(self, first: int) -> None:
        """Take the states of the blocks from `first` on."""
        proof, now = self.proof, time.time()
        head = proof.node.block()["number"]
        for number in range(first, head + 1):
            block_hash = proof.node.block(number)["hash"]
            if all(each.hash != block_hash for each in self._chain[number]):
                self._chain[number].append(Branch(block_hash, proof.truth(block_hash), now))
        tip_hash = proof.node.block(head)["hash"]
        tip = next(each for each in self._chain[head] if each.hash == tip_hash)
        if tip is not self._tip:
            self._tip.left = now
            tip.left, self._tip = None, tip
        for old in [number for number in self._chain if number < head - KEPT_NUMBERS]:
            del self._chain[old]

    def _go_on(self) -> None:
        """A block, or a reorg."""
        proof, market = self.proof, self.proof.market
        head = proof.node.block()["number"]
        proof.market.keep_snapshot()
        if self._random.random() < 0.07:
            depth = self._random.randrange(1, MAX_DEPTH)
            can_revert = market.can_revert(depth) and self._random.random() < 0.5
            market.reorg(
                depth,
                method="evm_revert" if can_revert else "anvil_reorg",
                operations=3 * depth,
            )
            self.summary.reorgs += 1
            self._learn(head - depth)
            head -= depth
        market.step(self._random.randrange(14))
        self._learn(head + 1)
        self.summary.blocks += 1

    # -- the reader

    def _look(self) -> None:
        """Judge what the reader saw since the last time."""
        for record in self.proof.readers[0].ask(do="recorded")["records"]:
            live = record["live"]
            kept = self._seen if live is None else {key: self._seen.get(key) for key in live}
            self._seen = {key: s for key, s in kept.items() if s is not None} | record["set"]
            self._note_time(record)
            self._waiting.append((record, dict(self._seen)))
        self._account(time.time())
        left = []
        for record, states in self._waiting:
            if not self._judge(record, states):
                left.append((record, states))
        self._waiting = left
        self._note_behind()

    def _judge(self, record: dict[str, Any], states: States) -> bool:
        """Compare one view; False when the truth is not known yet."""
        found = self._chain.get(record["block"])
        if not found:
            if time.time() - record["time"] < 20:
                return False
            if states:
                self.summary.differences.append(f"block {record['block']} never was")
            return True
        self.summary.views += 1
        self.summary.states += len(states)
        if any(_holds(branch.states, states) for branch in found):
            return True
        if time.time() - record["time"] < 3:
            return False  # a block of a reorg that is being learned
        nearest = min(found, key=lambda branch: len(_different(branch.states, states)))
        wrong = _different(nearest.states, states)
        faults = ", ".join(self._faults_near(record["time"]))
        self.summary.differences.append(
            f"block {record['block']} ({record['phase']}) at {record['time']:.1f}, {len(wrong)} of "
            f"{len(states)} pools, with {faults}; {nearest.hash[:10]} of {len(found)}: "
            + "; ".join(self._described(record["block"], *each) for each in wrong)
        )
        return True

    def _described(self, number: int, key: str, shown: dict[str, Any], truth: Any) -> str:
        """What of a pool's state differs, and of which other blocks it is the state."""
        fields = [name for name, value in shown.items() if (truth or {}).get(name) != value]
        others = [
            f"{other} {branch.hash[:10]}"
            for other in range(number - 2 * MAX_DEPTH, number + 2 * MAX_DEPTH)
            for branch in self._chain.get(other, ())
            if branch.states.get(key) == shown
        ]
        return f"{key[:10]} {'+'.join(fields)} as in {others[:3]}...{others[-3:]} ({len(others)})"

    def _is_live(self, record: dict[str, Any] | None) -> bool:
        return (
            record is not None
            and record["phase"] == "live"
            and record["alive"]
            and record["live"] is None
        )

    def _note_time(self, record: dict[str, Any]) -> None:
        self._account(record["time"])
        self._now = record

    def _account(self, until: float) -> None:
        """Add the time since the last record to what the reader was then."""
        seconds, record = max(0.0, until - self._since), self._now
        self._since = max(self._since, until)
        if self._is_live(record):
            self.summary.live_s += seconds
            self._spell = None
            return
        phase, reason = ("none", "") if record is None else (record["phase"], record["reason"])
        if phase == "live":
            phase = "live, some pools not"
        self.summary.phases[phase] += seconds
        self._spell = self._spell or Spell()
        self._spell.seconds += seconds
        self._spell.phase, self._spell.reason = phase, reason[:160]
        self._spell.faults = tuple(dict.fromkeys((*self._spell.faults, *self._node.active)))
        if self._spell.seconds > self.summary.longest_not_live.seconds:
            self.summary.longest_not_live = self._spell

    def _note_behind(self) -> None:
        """How long the reader has been live at a block that is not the newest any more."""
        record, now = self._now, time.time()
        if not self._is_live(record):
            self._behind = None
            return
        assert record is not None
        fits = [
            branch
            for branch in self._chain.get(record["block"], ())
            if _holds(branch.states, self._seen)
        ]
        if not fits or any(branch.left is None for branch in fits):
            self._behind = None
            return
        seconds = now - max(branch.left for branch in fits if branch.left is not None)
        faults = self._faults_near(now)
        if self._behind is None or seconds < self._behind.seconds:
            self._behind = Spell()
        self._behind.seconds = seconds
        self._behind.faults = tuple(dict.fromkeys((*self._behind.faults, *faults)))
        if seconds > self.summary.longest_behind.seconds:
            self.summary.longest_behind = self._behind
        told = "head back" in self._behind.faults
        if seconds > UNSEEN_S and not told and self._behind not in self.summary.unseen:
            self.summary.unseen.append(self._behind)

    def _faults_near(self, when: float) -> tuple[str, ...]:
        return tuple(dict.fromkeys(kind for at, kind in self._recent if when - 10 < at < when + 1))

    # -- the run

    def run(self, *, tell_every_s: float = 60.0) -> Summary:
        """Until the time is over and all is calm again."""
        proof, node, summary = self.proof, self._node, self.summary
        with proof:
            if self._starts_calm:
                proof.wait_live()
            for _ in range(MAX_DEPTH):
                proof.market.step(4)  # no reorg takes the pools' creation back
            self._learn(proof.node.block()["number"] - 2)
            reader = proof.readers[0]
            reader.ask(do="record", keys=[pool.key for pool in proof.market.pools])
            proof_began = self._since = began = time.time()
            ends: list[tuple[float, str]] = []
            plan = list(self._plan)
            told = began
            while (now := time.time()) < began + self._seconds:
                for each in [each for each in ends if each[0] <= now]:
                    node.end(each[1])
                    ends.remove(each)
                while plan and began + plan[0].at_s <= now:
                    episode = plan.pop(0)
                    if episode.fault.kind in node.active:
                        continue
                    node.begin(episode.fault)
                    ends.append((now + episode.lasts_s, episode.fault.kind))
                    self._recent.append((now, episode.fault.kind))
                    summary.episodes += 1
                self._recent = [each for each in self._recent if each[0] > now - 60]
                self._recent += [(now, kind) for kind in node.active]
                self._go_on()
                self._look()
                if now > told + tell_every_s:
                    told = now
                    summary.seconds, summary.faults = now - proof_began, node.hits
                    print(summary, flush=True)
                time.sleep(max(0.0, now + BLOCK_S - time.time()))
            for kind in node.active:
                node.end(kind)
            self._recent.clear()
            self._calm()
            self._account(time.time())
            summary.seconds = time.time() - proof_began
            summary.faults = node.hits
            summary.audit_differences = proof.writer_log().count("event=audit_difference")
        return summary

    def _calm(self) -> None:
        """The faults are over: the reader comes to a new block, live, and everything is equal."""
        limit = time.time() + CALM_S
        while True:
            self._go_on()
            time.sleep(0.3)
            self._look()
            head = self.proof.node.block()["number"]
            record = self._now
            if self._is_live(record) and record is not None and record["block"] == head:
                break
            if time.time() > limit:
                self.summary.never_back = f"head {head}, the reader's last: " + json.dumps(
                    {
                        name: (record or {}).get(name)
                        for name in ("block", "phase", "reason", "live")
                    }
                )
                return
        for _ in range(5):
            self._go_on()
        try:
            self.proof.equal(every_word=True)
        except AssertionError as error:
            self.summary.differences.append(f"at the end: {error}")
        self._look()


def _holds(truth: States, shown: States) -> bool:
    return all(truth.get(key) == state for key, state in shown.items())


def _different(truth: States, shown: States) -> list[Any]:
    return [[key, state, truth.get(key)] for key, state in shown.items() if truth.get(key) != state]
