"""What a writer was told to do."""

from dataclasses import dataclass, field
from pathlib import Path

from arena.segment import Access
from arena.writer.host.room import Capacities


@dataclass(frozen=True, slots=True)
class Settings:
    """One run of the writer: where the stream comes from, and the arena's size and rights.

    Checkpoints are written into `state_folder`, if any, every `checkpoint_every` blocks; every
    `audit_every` blocks `audit_pools` pools are compared with the node; 0 is never. `starts_cold`
    leaves alone what a former writer left. `feed_realtime`: the feed thread gets a processor before all
    that is not realtime.
    """

    name: str
    socket: Path
    feed_uid: int | None = None  # the user whose process must answer on it; None: anybody
    dialect: str = "auto"
    capacities: Capacities = field(default_factory=Capacities)
    access: Access = field(default_factory=Access)
    chain_id: int = 0
    preset: str = "cold_start"
    buffer_events: int | None = None
    scrape_timeout_s: float = 60.0
    gap_timeout_s: float = 30.0
    keep_segment: bool = False
    metrics_port: int | None = None
    state_folder: Path | None = None
    checkpoint_every: int = 300
    audit_every: int = 25
    audit_pools: int = 4
    starts_cold: bool = False
    feed_realtime: bool = False
