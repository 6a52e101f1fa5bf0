"""What a service manager receives, on real datagram sockets."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from arena.errors import SettingsError, SnapshotContended
from arena.writer.service.notify import Notifier, keep_notified
from arena.writer.service.status import Vitals

SECONDS = 30.0
FRESH = Vitals("live", 7, 0)


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """(address as NOTIFY_SOCKET has it, the bound socket)."""
    address = str(tmp_path / "notify")
    if request.param == "abstract":
        address = f"@arena-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind("\0" + address[1:] if address[0] == "@" else address)
        bound.settimeout(SECONDS)
        yield address, bound


def received(bound: socket.socket) -> list[str]:
    return bound.recv(4096).decode().split("\n")


def test_states_arrive_in_one_datagram(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": manager[0]})
    notifier.send("READY=1", "STATUS=phase=live head=é")
    assert received(manager[1]) == ["READY=1", "STATUS=phase=live head=é"]
    notifier.close()
    notifier.close()


def test_a_reload_is_told_only_after_the_start(manager: tuple[str, socket.socket]) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": manager[0]})
    notifier.reloading()
    notifier.reloaded()
    notifier.is_ready = True
    notifier.reloading()
    notifier.reloaded()
    first, second = received(manager[1])
    assert first == "RELOADING=1"
    assert second.startswith("MONOTONIC_USEC=")
    assert second.removeprefix("MONOTONIC_USEC=").isdigit()
    assert received(manager[1]) == ["READY=1"]
    notifier.close()


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "5"}])
def test_without_a_manager_nothing_is_sent(environment: dict[str, str]) -> None:
    notifier = Notifier.of(environment)
    assert not notifier.is_on
    assert notifier.watchdog_s is None
    notifier.send("READY=1")
    asyncio.run(keep_notified(notifier, lambda: FRESH))
    notifier.close()


@pytest.mark.parametrize("address", ["relative", "@", "vsock:2:1234", "/" + "x" * 107])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="NOTIFY_SOCKET"):
        Notifier.of({"NOTIFY_SOCKET": address})


def test_the_longest_address_is_taken() -> None:
    Notifier.of({"NOTIFY_SOCKET": "/" + "x" * 106}).close()


@pytest.mark.parametrize(
    ("more", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_the_watchdog_is_this_processes_or_none(
    more: dict[str, str], watchdog_s: float | None
) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": "/run/none", **more})
    assert notifier.watchdog_s == watchdog_s
    notifier.close()


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "soon", "٣"])
def test_an_interval_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="WATCHDOG_USEC"):
        Notifier.of({"NOTIFY_SOCKET": "/run/none", "WATCHDOG_USEC": text})


def test_a_manager_that_is_gone_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": str(tmp_path / "none")})
    for _ in range(3):
        notifier.send("WATCHDOG=1")
    notifier.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "event=not_notified" in caplog.text


def kept(bound: socket.socket, address: str, script: list[Vitals], watchdog_us: int) -> list[str]:
    """All states sent while keep_notified looks through `script`."""
    bound.settimeout(SECONDS)
    looks = iter(script)

    def look() -> Vitals:
        try:
            return next(looks)
        except StopIteration:
            raise EOFError from None

    notifier = Notifier(address, watchdog_us)
    with pytest.raises(EOFError):
        asyncio.run(keep_notified(notifier, look))
    notifier.send("END=1")
    notifier.close()
    states: list[str] = []
    while states[-1:] != ["END=1"]:
        states += received(bound)
    return states[:-1]


@pytest.mark.slow
def test_ready_comes_once_with_the_first_live_phase(manager: tuple[str, socket.socket]) -> None:
    script = [
        Vitals("connecting", 0, 0),
        Vitals("scraping", 0, 0),
        Vitals("scraping", 0, 0),
        Vitals("live", 5, 0),
        Vitals("gap", 5, 0),
        Vitals("live", 6, 0),
    ]
    states = kept(manager[1], manager[0], script, 2_000_000_000)
    assert [state for state in states if state != "WATCHDOG=1"] == [
        "STATUS=phase=connecting head=0",
        "STATUS=phase=scraping head=0",
        "STATUS=phase=live head=5",
        "READY=1",
        "STATUS=phase=gap head=5",
        "STATUS=phase=live head=6",
    ]


def test_the_watchdog_is_fed_only_while_the_feed_thread_beats(
    manager: tuple[str, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    half_ns = 10_000_000
    beats, hangs = Vitals("live", 5, half_ns), Vitals("live", 5, half_ns + 1)
    assert "WATCHDOG=1" not in kept(manager[1], manager[0], [hangs] * 4, 20_000)
    assert caplog.text.count("event=feed_thread_silent") == 1
    assert kept(manager[1], manager[0], [beats] * 4, 20_000).count("WATCHDOG=1") == 4
    caplog.clear()
    mixed = kept(manager[1], manager[0], [beats, hangs, hangs, beats, hangs], 20_000)
    assert mixed.count("WATCHDOG=1") == 2
    assert caplog.text.count("event=feed_thread_silent") == 2


def test_a_look_that_was_overtaken_is_made_again(manager: tuple[str, socket.socket]) -> None:
    looks = iter([SnapshotContended("busy"), FRESH, EOFError()])

    def look() -> Vitals:
        found = next(looks)
        if isinstance(found, Exception):
            raise found
        return found

    notifier = Notifier(manager[0], 20_000)
    with pytest.raises(EOFError):
        asyncio.run(keep_notified(notifier, look))
    assert "READY=1" in received(manager[1])
    notifier.close()
