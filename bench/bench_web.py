"""What does a live page of an arena cost the machine, and how long is it until it is seen?

Timed: processor time of arena-web, all its threads, for each of five looks a second of which every one finds
a new block, while one page takes the events; its start left out. Baseline: the same with nobody looking.
Beside them: from asking for the page to its first paint in Chromium, on the loopback, the
browser's own time included.
"""

import argparse
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import Report, Row, against, arguments

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from builders.market import Market, make_market
from builders.web import WebProcess

import arena.readers.web

INTERVAL_S = 0.2
SHARE = 0.02  # of a core at most, at 300 pools
PAINT_S = 1.0
SETTLED_S = 3.0
STATIC = Path(arena.readers.web.__file__).parent / "static"


class Reader:
    """A page's connection, which takes whatever comes."""

    def __init__(self, port: int, query: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(f"GET /events?{query} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        self.nbytes = self.events = 0

    def read(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            with suppress(TimeoutError):
                got = self.socket.recv(1 << 20)
                self.nbytes += len(got)
                self.events += got.count(b"data: ")


def processor_s(pid: int) -> float:
    """Of all its threads since they began."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
            total += int(file.read().split()[0])
    return total / 1e9


@contextmanager
def reading(port: int, query: str | None) -> Iterator[Reader | None]:
    found = None if query is None else Reader(port, query)
    yield found
    if found is not None:
        found.socket.close()


def serve(
    market: Market, name: str, query: str | None, touched: int, options: argparse.Namespace
) -> Row:
    """Rounds of 2 s, a block of so many events before each look; no page with `query` None."""
    looks = 2 if options.smoke else 10
    row = Row(name, looks)
    with WebProcess(market.name) as web, reading(web.port, query) as page:

        def pause(seconds: float) -> None:
            market.owner.heartbeat()
            if page is None:
                time.sleep(seconds)
            else:
                page.read(seconds)

        pause(SETTLED_S)
        before = (0, 0) if page is None else (page.nbytes, page.events)
        for _ in range(options.repeat):
            begin = processor_s(web.process.pid)
            for _ in range(looks):
                market.block(touched)
                pause(INTERVAL_S)
            row.add_round([processor_s(web.process.pid) - begin])
        if page is not None:
            nbytes, events = page.nbytes - before[0], page.events - before[1]
            row.note = f"{nbytes // max(1, events):,} bytes an event, {events} events"
    return row


def paint(market: Market, options: argparse.Namespace) -> Row:
    """A new browser window each time, so that nothing is kept from the last."""
    from playwright.sync_api import sync_playwright

    row = Row("first paint of the page", 1)
    with WebProcess(market.name) as web, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        for _ in range(options.repeat):
            with browser.new_context() as context:
                tab = context.new_page()
                tab.goto(web.address)
                tab.wait_for_selector("tbody tr")
                tab.wait_for_function("performance.getEntriesByType('paint').length > 1")
                found = tab.evaluate(
                    "performance.getEntriesByName('first-contentful-paint')[0].startTime"
                )
            row.add_round([found / 1e3])
        browser.close()
    return row


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    for pools, touched, query in (
        (300, 100, ""),
        (20_000, 150, "sort=block&touched_first=true"),
    ):
        count = 200 if options.smoke else pools
        with make_market(f"psa-bench-web-{os.getpid()}", count, 7) as market:
            name = f"{count:,} pools, {touched} touched, nobody looking: a look"
            alone = report.add(serve(market, name, None, touched, options))
            name = f"{count:,} pools, {touched} touched, one page: a look"
            busy = report.add(against(serve(market, name, query, touched, options), alone))
            if pools == 300:
                report.limit(busy, SHARE * INTERVAL_S * 1e9)
                report.limit(report.add(paint(market, options)), PAINT_S * 1e9)
            else:
                report.compare(busy, alone)
    report.facts["a look every"] = f"{INTERVAL_S} s: one ms a look is 0.5 % of a core"
    sizes = [each.stat().st_size for each in STATIC.iterdir() if each.suffix in (".js", ".css")]
    report.facts["script and css"] = f"{sum(sizes):,} bytes in {len(sizes)} files"
    report.show(options)


if __name__ == "__main__":
    main()
