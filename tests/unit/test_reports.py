"""Pools that are not live, told by name up to a few and as a count beyond."""

import logging

import pytest

from arena.errors import InvalidEventData, PoolInvalid, PoolListError
from arena.writer.lists.reports import COUNT_INTERVAL_S, NAMED, PoolReports, report_refused

LOGGER = "arena.writer.lists.reports"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reports(clock: Clock, caplog: pytest.LogCaptureFixture) -> PoolReports:
    caplog.set_level(logging.WARNING, LOGGER)
    return PoolReports(clock)


def key(number: int) -> bytes:
    return number.to_bytes(20, "big")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def dead(number: int) -> PoolInvalid:
    return PoolInvalid("no contract", key=key(number), found="no code")


@pytest.mark.parametrize("count", [NAMED - 1, NAMED, NAMED + 1, 20_000])
def test_a_few_are_named_and_the_others_counted(
    count: int, reports: PoolReports, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(count):
        reports.report(key(number), dead(number))
    reports.count(at_once=True)
    lines = told(caplog)
    named = [line for line in lines if "event=pool_not_live " in line]
    assert [f"pool=0x{key(number).hex()} " in line for number, line in enumerate(named)] == [
        True
    ] * min(count, NAMED)
    assert len(lines) == min(count, NAMED) + (count > NAMED)
    if count > NAMED:
        assert f"event=pools_not_live error=PoolInvalid count={count} named={NAMED} " in lines[-1]


def test_each_class_has_its_own_names(
    reports: PoolReports, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3 * NAMED):
        reports.report(key(number), dead(number))
    reports.report(key(1), InvalidEventData("out of range"))
    reports.report(key(1), InvalidEventData("out of range again"))
    assert len([line for line in told(caplog) if "InvalidEventData" in line]) == 1


def test_counts_come_once_a_minute_and_names_begin_again_after_them(
    reports: PoolReports, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(10):
        reports.report(key(number), dead(number))
    told(caplog)
    clock.now = COUNT_INTERVAL_S - 1
    reports.count()
    assert told(caplog) == []
    clock.now = COUNT_INTERVAL_S
    reports.count()
    assert "count=10 " in told(caplog)[0]
    reports.count(at_once=True)
    assert told(caplog) == [], "nothing is counted twice"
    for number in range(20):
        reports.report(key(number), dead(number))
    assert len(told(caplog)) == NAMED, "the first ten are known"


def test_a_pool_listed_anew_is_reported_again(
    reports: PoolReports, caplog: pytest.LogCaptureFixture
) -> None:
    reports.report(key(1), dead(1))
    assert reports.has(key(1), dead(1))
    reports.forget(key(1))
    assert not reports.has(key(1), dead(1))
    reports.report(key(1), dead(1))
    assert len(told(caplog)) == 2


def test_every_pool_is_named_at_level_debug(
    reports: PoolReports, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    for number in range(50):
        reports.report(key(number), dead(number))
    assert len(told(caplog)) == 50


@pytest.mark.parametrize(("count", "lines"), [(0, 0), (NAMED, NAMED), (3000, NAMED + 1)])
def test_refused_entries_of_a_list_are_a_few_lines(
    count: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    refused = [PoolListError(f"entry {number} has no address") for number in range(count)]
    report_refused(logging.getLogger(LOGGER), refused)
    found = told(caplog)
    assert len(found) == lines
    if count > NAMED:
        assert f"count={count} " in found[-1]
