"""What one history is made of, all of it from its seed."""

import random
from dataclasses import dataclass
from typing import Any

LIFE = ":life"  # seeds with it have a Life
HOSTILE = ":hostile"  # seeds with it are Hostile
ALIKE = ":alike"  # of hostile seeds: base fees move, and alike on all branches
BRIDGE = ":bridge"  # seeds with it have a bridge follow the node, if there is one
ODD = ":odd"  # of hostile seeds: the node also lies about headers and words, and perhaps only once

# What a node does to logs it answers with (node.py says how).
LIES = ("omit", "cut", "none", "double", "foreign", "type")


@dataclass(frozen=True, slots=True)
class Life:
    """What becomes of the list of pools and of the writer; rates are per step."""

    changes: float = 0.0
    kills: float = 0.0
    checkpoint_every: int = 0
    audit_every: int = 0
    slow_reads: float = 0.0
    max_pools: int = 16
    tick_bytes: int = 1 << 20

    @classmethod
    def of(cls, seed: str) -> "Life":
        if LIFE not in seed:
            return cls()
        rng = random.Random(f"life of {seed}")
        kind = rng.choice(("changes", "kills", "both", "both"))
        return cls(
            changes=0.0 if kind == "kills" else rng.choice((0.15, 0.4, 0.8)),
            kills=0.0 if kind == "changes" else rng.choice((0.1, 0.3)),
            checkpoint_every=rng.choice((0, 1, 3)),
            audit_every=rng.choice((0, 1, 4)),
            slow_reads=rng.choice((0.0, 0.0, 0.3)),
            max_pools=rng.choice((1, 3, 16)),
            tick_bytes=rng.choice((4096, 1 << 20)),
        )

    @property
    def is_eventful(self) -> bool:
        return self != Life()


@dataclass(frozen=True, slots=True)
class Hostile:
    """What does not happen on a good day; rates are per step unless they say otherwise.

    `has_fixed_fee` (with a `fee_step` from block to block) and `blocks_a_second` make branches hard to
    tell apart. In a split, node and
    stream follow branches of their own for some steps. A node that lies does so in `lie_rate` of its
    answers, or, `lies_always`, about `lie_rate` of all blocks whenever it is asked, by range of
    blocks, by hash or by both; it may be without receipts, and one that does not lie without bloom
    filters. `hollow` is the share of blocks whose headers it tells as if nothing had run in them, and
    `zero_words` that of storage words it tells as zero; with `lies_once` only the first answer of a kind
    about a block is a lie. `max_depth` bounds reorgs, `undo_blocks` and `undo_records` are the
    ring's. `busy` blocks have `busy_txs` transactions. A reorg may be told twice or without what it
    reverts (`torn_reorgs`), a step may have a second fault. The disk refuses or tears a part of what
    is written to it (`disk`, per write); the wall clock steps; the list of pools is not to be had for a
    while and changes come together then; descriptors run out when the feed connects (`emfile`, per
    attempt).
    """

    has_fixed_fee: bool = False
    fee_step: int = 0
    blocks_a_second: int | None = None
    splits: float = 0.0
    lies: tuple[str, ...] = ()
    lie_rate: float = 0.0
    lies_always: bool = False
    lies_by: str = "both"
    hollow: float = 0.0
    zero_words: float = 0.0
    lies_once: bool = False
    has_receipts: bool = True
    has_blooms: bool = True
    max_depth: int = 8
    undo_blocks: int = 1024
    undo_records: int = 8192
    busy: int = 0
    busy_txs: int = 0
    torn_reorgs: float = 0.0
    second_faults: float = 0.0
    disk: float = 0.0
    wall_steps: float = 0.0
    outages: float = 0.0
    emfile: float = 0.0

    @classmethod
    def of(cls, seed: str, node: str) -> "Hostile":
        """What the stream itself does is left out where a bridge makes it from the node."""
        if HOSTILE not in seed:
            return cls()
        rng = random.Random(f"hostility of {seed}")
        found: dict[str, Any] = {}
        if rng.random() < 0.5:
            found["has_fixed_fee"] = rng.random() < 0.7
            found["blocks_a_second"] = rng.choice((None, 1, 4))
        if node != "absent" and rng.random() < 0.4:
            found["splits"] = rng.choice((0.1, 0.3))
        if node != "absent" and rng.random() < 0.4:
            found["lies"] = tuple(rng.sample(LIES, rng.randrange(1, 3)))
            found["lie_rate"] = rng.choice((0.1, 0.3, 0.7))
            found["lies_always"] = rng.random() < 0.4
            found["lies_by"] = rng.choice(("range", "hash", "both", "both"))
            found["has_receipts"] = rng.random() < 0.5
        elif rng.random() < 0.3:
            found["has_blooms"] = rng.random() < 0.3
            found["has_receipts"] = rng.random() < 0.5
        if rng.random() < 0.1:
            found["max_depth"] = rng.choice((30, 100))
        if rng.random() < 0.3:
            found["undo_blocks"] = rng.choice((4, 16, 64))
            found["undo_records"] = rng.choice((64, 256, 8192))
        if rng.random() < 0.03:
            found["busy"] = rng.choice((1, 2))
            found["busy_txs"] = rng.choice((100, 100, 400, 1000))
        for name, likely, rates in (
            ("torn_reorgs", 0.4, (0.2, 0.6)),
            ("second_faults", 0.4, (0.3, 0.8)),
            ("disk", 0.4, (0.1, 0.5)),
            ("wall_steps", 0.3, (0.1, 0.4)),
            ("outages", 0.3, (0.2, 0.5)),
            ("emfile", 0.1, (0.3,)),
        ):
            if rng.random() < likely:
                found[name] = rng.choice(rates)
        if ALIKE in seed:
            found |= {"has_fixed_fee": True, "fee_step": 1000}
        if ODD in seed and node != "absent":
            found["lies_once"] = rng.random() < 0.6
            found["hollow"] = rng.choice((0.0, 0.1, 0.4))
            found["zero_words"] = rng.choice((0.0, 0.1, 0.4))
        if BRIDGE in seed:
            found |= {"splits": 0.0, "torn_reorgs": 0.0, "second_faults": 0.0}
        return cls(**found)


@dataclass(frozen=True, slots=True)
class Plan:
    """What one history is made of. `pace_s` is the time a step takes in the middle."""

    seed: str
    node: str  # absent, good, flaky
    stream: str  # exex, bridge
    scraper: str  # rpc, database, hashed_database, statefile
    envelope: bool
    order: str
    steps: int
    fault_rate: float
    delay_rate: float
    scrape_failures: float
    block_limit: int
    pace_s: float
    latency_s: float
    life: Life
    hostile: Hostile

    @classmethod
    def of(cls, seed: str) -> "Plan":
        rng = random.Random(f"plan {seed}")
        node = rng.choice(("absent", "good", "good", "flaky"))
        if ALIKE in seed and node == "flaky":
            node = "good"  # nothing would tell an old branch from the stream's
        life = Life.of(seed)
        stream = "bridge" if BRIDGE in seed and node != "absent" else "exex"
        sources = ["database"] if node == "absent" else ["rpc", "hashed_database"]
        if HOSTILE in seed and not life.changes:  # the file is its own list
            sources.append("statefile")
        return cls(
            seed=seed,
            node=node,
            stream=stream,
            scraper=rng.choice(sources),
            envelope=rng.random() < 0.75,
            order=rng.choice(("newest-first", "oldest-first")),
            steps=rng.randrange(4, 13) if rng.random() < 0.8 else rng.randrange(13, 25),
            fault_rate=rng.choice((0.0, 0.2, 0.5)),
            delay_rate=rng.choice((0.0, 0.3)),
            scrape_failures=rng.choice((0.0, 0.0, 0.2)),
            block_limit=rng.choice((1, 3, 1000)),
            pace_s=rng.choice((0.02, 0.1, 0.5)),
            latency_s=rng.choice((0.0, 0.005, 0.1)),
            life=life,
            hostile=Hostile.of(seed, node),
        )
