"""Pools read from storage, many at a time, wherever the words come from.

`pool_stages` is a generator that names the slots it wants next and is sent their values, and
`read_targets` drives many of them through one batched reader.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from arena.errors import PoolInvalid
from arena.values import PoolValues
from arena.writer.protocols.held import check_pool, protocol_of
from arena.writer.protocols.storage import PoolTarget, SlotList, Stages


def pool_stages(target: PoolTarget, block_number: int) -> Stages:
    """Read one pool: yields the slots wanted, is sent their values, returns the checked values.

    All values must belong to `block_number`. PoolInvalid when the description or the words contradict
    each other.
    """
    values = yield from protocol_of(target.spec).stages(target, block_number)
    check_pool(target.spec, values)
    return values


def _at(target: PoolTarget, wanted: SlotList) -> PoolTarget:
    return replace(target, account=wanted.account) if wanted.account else target


class SlotReader(Protocol):
    """A back end: values of several accounts' slots, all at one block, in the order asked.

    An exception ends the whole read, except PoolInvalid as an answer in place of a list: what is
    wrong with that account (it does not exist, has no code).
    """

    def __call__(
        self, requests: Sequence[tuple[PoolTarget, SlotList]]
    ) -> Sequence[Sequence[int] | PoolInvalid]: ...


def read_targets(
    targets: Sequence[PoolTarget], block_number: int, read: SlotReader
) -> tuple[list[PoolValues | PoolInvalid], int]:
    """(values of each pool or what is wrong with it, in order; slots read).

    Pools advance together: `read` is called once a stage with what every pool wants.
    """
    outcomes: dict[int, PoolValues | PoolInvalid] = {}
    slot_count = 0
    waiting: list[tuple[int, Stages, SlotList]] = []
    for index, target in enumerate(targets):
        stages = pool_stages(target, block_number)
        try:
            waiting.append((index, stages, next(stages)))
        except PoolInvalid as error:
            outcomes[index] = error
    while waiting:
        answers = read([(_at(targets[index], wanted), wanted) for index, _, wanted in waiting])
        running, waiting = waiting, []
        for (index, stages, wanted), answer in zip(running, answers, strict=True):
            if isinstance(answer, PoolInvalid):
                outcomes[index] = answer
                continue
            slot_count += len(wanted)
            try:
                waiting.append((index, stages, stages.send(answer)))
            except StopIteration as finished:
                outcomes[index] = finished.value
            except PoolInvalid as error:
                outcomes[index] = error
    return [outcomes[index] for index in range(len(targets))], slot_count
