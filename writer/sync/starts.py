"""How a start is run, and what is measured of it."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Preset:
    """How much is buffered, pools a batch (V2, V3/V4), and batches read at once."""

    buffer_events: int
    v2_batch: int
    cl_batch: int
    concurrency: int


# 200 s at ten times mainnet's 2,000 events a second. The memory, 192 bytes an event and so 768 MB at the
# most, is taken only while it is needed.
COLD_START = Preset(buffer_events=4_000_000, v2_batch=500, cl_batch=50, concurrency=4)
INCREMENTAL = Preset(buffer_events=10_000, v2_batch=100, cl_batch=10, concurrency=4)
PRESETS = {"cold_start": COLD_START, "incremental": INCREMENTAL}


@dataclass(slots=True)
class Metrics:
    """One start or resync as it proceeds; read by the progress display."""

    phase: str = "starting"
    started: float = field(default_factory=time.monotonic)
    finished: float | None = None
    pools_total: int = 0
    pools_done: int = 0
    pools_invalid: int = 0
    first_block: int | None = None
    head_block: int | None = None
    reference_block: int | None = None
    buffered_events: int = 0
    source_block: int | None = None
    gaps_closed: int = 0
    phase_s: dict[str, float] = field(default_factory=dict)
    _phase_started: float = field(default_factory=time.monotonic)
    _scrape_started: float | None = None

    def enter(self, phase: str) -> None:
        """Close the running phase's time and open `phase`."""
        now = time.monotonic()
        self.phase_s[self.phase] = self.phase_s.get(self.phase, 0.0) + now - self._phase_started
        self.phase, self._phase_started = phase, now
        if phase == "scraping" and self._scrape_started is None:
            self._scrape_started = now
        if phase == "live":
            self.finished = now

    @property
    def duration_s(self) -> float:
        return (self.finished or time.monotonic()) - self.started

    @property
    def pools_per_s(self) -> float:
        """Pools scraped a second since scraping began; 0 before."""
        if self._scrape_started is None:
            return 0.0
        elapsed = (self.finished or time.monotonic()) - self._scrape_started
        return self.pools_done / elapsed if elapsed > 0 else 0.0

    @property
    def estimate_s(self) -> float | None:
        """Seconds until all pools are scraped at the present rate; None while there is no rate."""
        rate = self.pools_per_s
        left = self.pools_total - self.pools_done - self.pools_invalid
        return max(0, left) / rate if rate > 0 else None

    @property
    def blocks_behind(self) -> int:
        """Blocks the oldest scrape lies behind the stream; 0 while either is unknown."""
        if self.head_block is None or self.reference_block is None:
            return 0
        return max(0, self.head_block - self.reference_block)
