"""What Prometheus asks for: the arena as a reader sees it, and the counts this process keeps beside.

The page is put together in the thread that serves it. Nothing in it waits for the feed thread or is
handed to it; what that thread counts is read as it lies there.
"""

import errno
import logging
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from arena.errors import PortRefused
from arena.layouts import header
from arena.layouts.header import COUNTER_NAMES, PHASE_NAMES
from arena.layouts.protocols import NOT_HELD, PROTOCOL_NAMES
from arena.native import EXCEPTIONS, lib
from arena.writer.host.counts import REORG_DEPTHS, Latency, ReorgDepths
from arena.writer.host.shortage import remedy_of
from arena.writer.service.status import read_status
from arena.writer.sync.starts import Metrics

log = logging.getLogger(__name__)


ADDRESS = "127.0.0.1"
REQUEST_TIMEOUT_S = 10.0
ACCEPT_PAUSE_S = 1.0  # as asyncio pauses when there is no descriptor for a client

Extra = Callable[[], Mapping[str, int]]

# Header counters whose name alone would mislead beside the others.
_RENAMED = {
    "pools_stale": "pools_gone_stale",
    "frames": "feed_frames",
    "bytes": "feed_bytes",
    "connections": "feed_connections",
    "arena_full": "full_faults",
}
# The sums of labelled counters: adding up the labels gives them.
_SUMS = {"events_applied", "events_unsupported"}
_PROTOCOLS = (*PROTOCOL_NAMES.values(), *NOT_HELD.values())
_ERRORS = {
    COUNTER_NAMES[header.COUNTER_FAULTS + status - lib.PSA_POOL_NOT_FOUND]: error.__name__
    for status, error in EXCEPTIONS.items()
    if header.COUNTER_FAULTS + status - lib.PSA_POOL_NOT_FOUND in COUNTER_NAMES
}


class Starts:
    """Starts and resyncs as the coordinator reports them; `observe` and the page may run in two threads."""

    def __init__(self) -> None:
        self.current: Metrics | None = None
        self.done: dict[str, int] = {"start": 0, "resync": 0}
        self.took_s: dict[str, float] = {}
        self.phase_s: dict[str, dict[str, float]] = {}
        self._is_noted = False

    def observe(self, metrics: Metrics) -> None:
        """Take the metrics of the start or resync under way; the first time they are live ends it.

        A gap closed from a node's logs goes live again under the same metrics and is no resync.
        """
        if metrics is not self.current:
            self.current, self._is_noted = metrics, False
        if metrics.finished is None or self._is_noted:
            return
        self._is_noted = True
        kind = "resync" if self.done["start"] else "start"
        self.phase_s[kind] = dict(metrics.phase_s)
        self.took_s[kind] = metrics.duration_s
        self.done[kind] += 1


class ArenaCollector(Collector):
    """The families of one arena and its writer. `collect` raises what read_status raises."""

    def __init__(
        self,
        name: str,
        *,
        starts: Starts,
        latency: Latency,
        reorg_depths: ReorgDepths,
        extra: Mapping[str, Extra],
    ) -> None:
        self._name = name
        self._starts = starts
        self._latency = latency
        self._reorg_depths = reorg_depths
        self._extra = {prefix: _named(prefix, counts) for prefix, counts in extra.items()}

    def describe(self) -> list[Metric]:
        """Nothing, so that registering reads no arena that is not there yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family at this moment."""
        found = read_status(self._name)
        yield from _of_arena(found)
        yield from _of_counters(found["counters"])
        yield from _of_starts(self._starts)
        yield HistogramMetricFamily(
            "arena_latency_seconds",
            "From bytes received to the commit that shows them to readers",
            buckets=[(_bound(le), count) for le, count in self._latency.buckets()],
            sum_value=self._latency.total_ns / 1e9,
        )
        yield _of_reorgs(self._reorg_depths.counts())
        for counts in self._extra.values():
            yield from counts()


def _of_arena(found: Mapping[str, Any]) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "arena",
        "The arena and the writer's version",
        {
            "name": found["name"].removeprefix("/"),
            "chain_id": str(found["chain_id"]),
            "version": found["writer_version"],
        },
    )
    phases = GaugeMetricFamily("arena_phase", "1 for the phase the writer is in", labels=["phase"])
    for phase in PHASE_NAMES:
        phases.add_metric([phase], phase == found["phase"])
    yield phases
    pools = GaugeMetricFamily("arena_pools", "Pools by status", labels=["status"])
    for status, count in found["pools"].items():
        pools.add_metric([status], count)
    yield pools
    gauges: dict[str, tuple[str, float | None]] = {
        "phase_age_seconds": ("Since the phase was entered", (found["phase_age_ms"] or 0) / 1e3),
        "heartbeat_age_seconds": (
            "Since the feed thread's last sign of life",
            (found["heartbeat_age_ms"] or 0) / 1e3,
        ),
        "head_block": ("The last block applied whole; 0 = none", found["head_block"]),
        "committed": ("Number of the newest commit", found["committed"]),
        "head_age_seconds": (
            "Age of the head block's timestamp; absent while unknown",
            None if found["head_timestamp"] is None else time.time() - found["head_timestamp"],
        ),
        "gap_blocks": (
            "Blocks known to be missing",
            found["gap_last"] - found["gap_first"] + 1 if found["gap_first"] else 0,
        ),
        "pools_max": ("Pools the arena can hold", found["max_pools"]),
        "segment_bytes": ("Size of both segments; pages are taken as used", found["segment_bytes"]),
        "tick_heap_bytes": ("Size of the tick heap", found["tick_bytes"]),
        "tick_heap_used_bytes": ("Of it handed out so far", found["tick_bytes_used"]),
    }
    for name, (text, value) in gauges.items():
        if value is not None:
            yield GaugeMetricFamily(f"arena_{name}", text, value)


def _of_counters(counters: Mapping[str, int]) -> Iterator[Metric]:
    applied = CounterMetricFamily(
        "arena_events_applied", "Events that changed a pool", labels=["protocol", "kind"]
    )
    faults = CounterMetricFamily(
        "arena_event_faults", "Events that could not be applied", labels=["error"]
    )
    unsupported = CounterMetricFamily(
        "arena_events_unsupported", "Updates of what is not kept", labels=["protocol"]
    )
    for name, count in counters.items():
        group, _, rest = name.partition("_")
        if group == "applied":
            protocol = next(each for each in _PROTOCOLS if rest.startswith(each + "_"))
            applied.add_metric([protocol, rest.removeprefix(protocol + "_")], count)
        elif group == "fault":
            faults.add_metric([_ERRORS[name]], count)
        elif group == "unsupported":
            unsupported.add_metric([rest], count)
        elif name not in _SUMS:
            yield CounterMetricFamily(
                f"arena_{_RENAMED.get(name, name)}", f"Header counter {name}", count
            )
    yield from (applied, faults, unsupported)


def _of_starts(starts: Starts) -> Iterator[Metric]:
    done = CounterMetricFamily("arena_starts", "Times the arena went live", labels=["kind"])
    for kind, count in starts.done.items():
        done.add_metric([kind], count)
    yield done
    took = GaugeMetricFamily(
        "arena_start_duration_seconds", "How long the last one took", labels=["kind"]
    )
    phases = GaugeMetricFamily(
        "arena_start_phase_seconds", "Of it in each phase", labels=["kind", "phase"]
    )
    for kind, seconds in dict(starts.took_s).items():
        took.add_metric([kind], seconds)
        for phase, of_it in starts.phase_s[kind].items():
            phases.add_metric([kind, phase], of_it)
    yield from (took, phases)
    metrics = starts.current or Metrics()
    yield CounterMetricFamily(
        "arena_gaps_closed", "Gaps closed from a node's logs", metrics.gaps_closed
    )
    gauges = {
        "scrape_pools_wanted": ("Pools of the list to read", metrics.pools_total),
        "scrape_pools_done": ("Of them read and installed", metrics.pools_done),
        "scrape_pools_invalid": ("Of them left out", metrics.pools_invalid),
        "scrape_pools_per_second": ("Rate of reading", metrics.pools_per_s),
        "buffered_events": ("Events kept when progress was last told", metrics.buffered_events),
        "blocks_behind": ("Blocks the oldest scrape is behind the stream", metrics.blocks_behind),
    }
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(f"arena_{name}", text, value)


def _of_reorgs(counts: Mapping[int, int]) -> Metric:
    buckets = [
        (_bound(limit), sum(count for depth, count in counts.items() if depth <= limit))
        for limit in REORG_DEPTHS
    ]
    return HistogramMetricFamily(
        "arena_reorg_depth_blocks",
        "Blocks taken back by one reorg",
        buckets=[*buckets, ("+Inf", sum(counts.values()))],
        sum_value=sum(depth * count for depth, count in counts.items()),
    )


def _bound(limit: float) -> str:
    return "+Inf" if limit == float("inf") else f"{float(limit):.9g}"


def _named(prefix: str, counts: Extra) -> Callable[[], Iterator[Metric]]:
    """Families arena_PREFIX_KEY: counters where the key ends in _total, gauges otherwise."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", prefix):
        raise ValueError(f"prefix {prefix!r} is no part of a metric's name")

    def families() -> Iterator[Metric]:
        for key, value in counts().items():
            kind = CounterMetricFamily if key.endswith("_total") else GaugeMetricFamily
            yield kind(f"arena_{prefix}_{key}", f"{key} of {prefix}", value)

    return families


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def get_request(self) -> Any:
        """As the library, which asks again at once: not while there is nothing to accept it with."""
        try:
            return super().get_request()
        except OSError as error:
            if remedy_of(error) is not None:
                time.sleep(ACCEPT_PAUSE_S)
            raise


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S  # a client that says nothing keeps its thread no longer

    def log_message(self, format: str, *values: Any) -> None:
        log.debug("event=metrics_served request=%r", format % values)


class MetricsServer:
    """A port of 127.0.0.1, taken at once; `serve` begins to answer. PortRefused."""

    def __init__(self, port: int) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._thread: threading.Thread | None = None
        try:
            self._server = make_server(
                ADDRESS, port, make_wsgi_app(self._registry), _Server, _Handler
            )
        except OSError as error:
            remedy = "choose another --metrics-port"
            if error.errno == errno.EADDRINUSE:
                remedy += ", or stop what listens there"
            raise PortRefused(
                f"{ADDRESS}:{port} cannot be listened on: {error.strerror}; {remedy}",
                port=port,
                reason=error.strerror,
            ) from error
        self.port = int(self._server.server_address[1])

    def serve(self, collector: Collector) -> None:
        """Answer with `collector`'s families from now on, in a thread of its own."""
        self._registry.register(collector)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="arena-metrics", daemon=True
        )
        self._thread.start()
        log.info("event=metrics address=http://%s:%d/metrics", ADDRESS, self.port)

    def close(self) -> None:
        """Give the port back. Safe to call twice."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()
