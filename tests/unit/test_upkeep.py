"""What a live writer does on the side, with a feed thread and a node that are played here."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from arena.errors import PoolInvalid
from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.scrapers import Scrape, ScrapedPool
from arena.writer.sync import audit as audit_module
from arena.writer.sync import hashes
from arena.writer.sync.agreement import Witness
from arena.writer.sync.audit import AT_ONCE, RECHECK_BLOCKS, Audit
from arena.writer.sync.candidate import Moment
from arena.writer.sync.descriptions import Descriptions

KEY = b"\x22" * 20
TOKENS = (TokenSpec(b"\1" * 20, 18, ""), TokenSpec(b"\2" * 20, 18, ""))
SPEC = PoolSpec(KEY, 0, *TOKENS, 3000)
VALUES = PoolValues(20, 3000, reserve0=5, reserve1=6)


class Played:
    """Feed thread, hashes and node in one; block 20 is the head."""

    def __init__(self) -> None:
        self.known: Witness | None = None
        self.samples = 0
        self.compared: list[bytes] = []
        self.wrong: list[bytes] = []
        self.node = VALUES
        self.all = {KEY: SPEC}

        self.members = self.standing = self

    async def call(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return work(*arguments)

    def live_head(self) -> int:
        return 20

    def sample(self, count: int, keys: list[bytes]) -> Any:
        self.samples += 1
        return Moment(1, 1, 0), 20, dict.fromkeys(keys, VALUES)

    def pools(self) -> dict[bytes, PoolSpec]:
        return self.all

    def valid_at(self, moment: Moment, witnesses: list[Witness]) -> list[Witness]:
        return witnesses

    def audited(self, compared: int, wrong: list[bytes]) -> None:
        self.wrong += wrong

    def hash_of(self, block_number: int) -> Witness | None:
        return self.known

    def hurry(self) -> None:
        pass

    def read_pools_at(self, number: int, block_hash: bytes, keys: list[bytes]) -> Scrape:
        self.compared += keys
        specs = [replace(SPEC, key=key) for key in keys]
        return Scrape(
            tuple(ScrapedPool(each, self.node if each == SPEC else VALUES) for each in specs)
        )


def audit(played: Played) -> Audit:
    made = Audit(played, played.call, played, played, 1 << 40, 4)  # type: ignore[arg-type]
    made.recheck([KEY], 20 - RECHECK_BLOCKS)
    return made


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def run_beside(side: Audit | Descriptions, story: Callable[[], Awaitable[None]]) -> None:
    """Run `story` while `side` runs, and end that with it."""

    async def go() -> None:
        running = asyncio.ensure_future(side.run())
        await story()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(go(), 30))


def run_until(side: Audit | Descriptions, condition: Callable[[], bool]) -> None:
    run_beside(side, lambda: until(condition))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (audit_module, hashes):
        monkeypatch.setattr(module, "POLL_S", 0.005)
    monkeypatch.setattr(audit_module, "HASH_WAIT_S", 0.02)


def test_an_added_pool_is_looked_at_again_until_it_was_compared() -> None:
    played = Played()
    auditing = audit(played)

    async def story() -> None:
        await until(lambda: played.samples >= 3)
        assert not played.compared
        assert KEY in auditing.due
        played.known = Witness(20, b"\x20" * 32, 1)
        await until(lambda: not auditing.due)
        assert set(played.compared) == {KEY}
        assert not played.wrong

    run_beside(auditing, story)


def test_an_added_pool_that_differs_twice_is_made_stale() -> None:
    played = Played()
    played.known = Witness(20, b"\x20" * 32, 1)
    played.node = PoolValues(20, 3000, reserve0=5, reserve1=7)
    auditing = audit(played)

    run_until(auditing, lambda: bool(played.wrong))
    assert played.wrong[:1] == [KEY]
    assert played.compared[:2] == [KEY, KEY]


def test_after_a_difference_all_pools_are_compared_once() -> None:
    played = Played()
    played.known = Witness(20, b"\x20" * 32, 1)
    played.node = PoolValues(20, 3000, reserve0=5, reserve1=7)
    others = [bytes([number, 1]) * 10 for number in range(AT_ONCE + 5)]
    played.all |= dict.fromkeys(others, SPEC)
    auditing = audit(played)

    run_until(auditing, lambda: bool(played.wrong) and not auditing.due)
    assert set(others) <= set(played.compared)
    assert max(played.compared.count(key) for key in others) == 1


class Contradicted:
    """Played in place of Described: every pool is something else than the list says."""

    def checked(self, scrape: Scrape) -> Scrape:
        errors = [
            PoolInvalid("fee_pips is 500 by its contract, listed is 3000", key=pool.spec.key)
            for pool in scrape.pools
        ]
        return Scrape((), tuple(errors))


def test_a_pool_whose_fee_the_chain_contradicts_is_made_stale() -> None:
    played = Played()
    played.known = Witness(20, b"\x20" * 32, 1)
    auditing = audit(played)
    auditing.described = Contradicted()  # type: ignore[assignment]

    run_until(auditing, lambda: bool(played.wrong))
    assert played.wrong == [KEY]


class ToldLate:
    """Played in place of Described: the contract says what it is in the third round."""

    def __init__(self) -> None:
        self.rounds = 0

    def doubtful(self, specs: Any) -> list[PoolSpec]:
        return list(specs)

    def settled(self, specs: Any) -> None:
        pass

    def wrong_of(self, specs: list[PoolSpec]) -> dict[bytes, PoolInvalid]:
        self.rounds += 1
        error = PoolInvalid("fee_pips is 500 by its contract, listed is 3000", key=KEY)
        return {KEY: error} if self.rounds >= 3 else {}


class Held(Played):
    def pools(self) -> dict[bytes, PoolSpec]:
        return {KEY: SPEC}

    def doubt(self, keys: list[bytes]) -> None:
        self.wrong += keys


def test_a_pool_whose_contract_speaks_late_is_made_stale() -> None:
    played = Held()
    asking = Descriptions(
        played,  # type: ignore[arg-type]
        played.call,
        ToldLate(),  # type: ignore[arg-type]
        first_pause_s=0.01,
        longest_pause_s=0.02,
    )

    run_until(asking, lambda: bool(played.wrong))
    assert played.wrong[0] == KEY
