"""The options of every program, each declared once: name, help, default, and what a run refuses."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arena.owner import user_id
from arena.segment import group_id, segment_name
from arena.writer.cli import config
from arena.writer.cli.taking import Check
from arena.writer.cli.values import (
    check_address,
    check_folder,
    check_nats,
    check_nats_file,
    parse_mode,
    parse_size,
    parse_undo,
)
from arena.writer.host.sockets import check_path

if TYPE_CHECKING:
    from arena.writer.lists.natslogin import NatsLogin


class Dialect(StrEnum):
    """Names of the wire families for --dialect."""

    auto = "auto"
    exex = "exex"
    bridge = "bridge"
    seed_tagged = "seed-tagged"
    seed_indexed = "seed-indexed"


class BridgeDialect(StrEnum):
    """What arena-bridge can serve."""

    bridge = "bridge"
    exex = "exex"


class LogLevel(StrEnum):
    """Names for --log-level."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


class LogFormat(StrEnum):
    """Names for --log-format."""

    text = "text"
    json = "json"


class PresetName(StrEnum):
    """Names for --preset."""

    cold_start = "cold_start"
    incremental = "incremental"


# -- options of several programs

ArenaArgument = Annotated[str, typer.Argument(help="name of the arena")]
LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", help="least severe level written to stderr")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="one JSON object a line")]
_SOCKET = typer.Option("--socket", help="Unix socket of the event stream")
StreamOption = Annotated[Path | None, _SOCKET, Check(check_path)]
FeedUidOption = Annotated[
    str | None,
    typer.Option("--feed-uid", help="user whose process must answer on --socket, name or uid"),
    Check(user_id),
]
OwnerOption = Annotated[
    str | None,
    typer.Option("--owner", help="user whose arena it is, name or uid; this command's own"),
]
RethDbOption = Annotated[
    Path | None, typer.Option("--reth-db", help="a Reth node's data directory or its db")
]
_RPC = typer.Option("--rpc", help="node: http(s)://, ws(s)://, or IPC socket path")
RpcOption = Annotated[str | None, _RPC, Check(check_address)]
LibmdbxOption = Annotated[Path | None, typer.Option(help="libmdbx's shared library")]
ScrapingConcurrencyOption = Annotated[
    int, typer.Option(min=1, max=64, help="processes that read the database at once")
]
_POOLS = typer.Option("--pools", help="list of pools, JSON or TOML")
ChainIdOption = Annotated[int | None, typer.Option(min=1, help="refuse a node of another chain")]
TickBytesOption = Annotated[
    str, typer.Option(help="size of the tick heap, e.g. 64MiB"), Check(parse_size)
]
TICK_BYTES = "64MiB"
MODE = "0600"
SCRAPING_CONCURRENCY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """Where whitelist messages come from, and who asks for them."""

    nats: Annotated[
        str | None,
        typer.Option("--nats", help="NATS server whose whitelist messages are the list"),
        Check(check_nats),
    ] = None
    chain: Annotated[str, typer.Option(help="the chain's name in those messages")] = "ethereum"
    nats_canonical: Annotated[
        bool,
        typer.Option(
            "--nats-canonical/--no-nats-canonical",
            help="a .full message without a type is the whole list, not an addition",
        ),
    ] = False
    nats_creds: Annotated[
        Path | None,
        typer.Option("--nats-creds", help="file of a user's JWT and seed"),
        Check(check_nats_file("creds")),
    ] = None
    nats_nkey: Annotated[
        Path | None,
        typer.Option("--nats-nkey", help="file of a user's seed"),
        Check(check_nats_file("nkey")),
    ] = None
    nats_ca: Annotated[
        Path | None,
        typer.Option("--nats-ca", help="certificates that sign the server's; PEM"),
        Check(check_nats_file("ca")),
    ] = None
    nats_cert: Annotated[
        Path | None,
        typer.Option("--nats-cert", help="client certificate; PEM, with --nats-key"),
        Check(check_nats_file("cert")),
    ] = None
    nats_key: Annotated[
        Path | None,
        typer.Option("--nats-key", help="its key; PEM, not encrypted"),
        Check(check_nats_file("key")),
    ] = None

    def login(self) -> "NatsLogin":
        """What proves who asks."""
        from arena.writer.lists.natslogin import NatsLogin

        return NatsLogin(
            self.nats_creds, self.nats_nkey, self.nats_ca, self.nats_cert, self.nats_key
        )

    def check_together(self) -> None:
        """typer.BadParameter when what logs in does not go together."""
        if self.nats is None:
            for word in ("creds", "nkey", "ca", "cert", "key"):
                if getattr(self, f"nats_{word}") is not None:
                    raise typer.BadParameter(f"--nats-{word} goes with --nats")
            return
        from arena.writer.lists.natslink import NatsAddress

        login = self.login()
        try:
            login.check_together(has_secret=bool(NatsAddress.read(self.nats).login))
            login.options(is_secure=False)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None


# -- the options of each command, in the order in which its help and its settings show them


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Of arena-writer run; `context` knows where each value came from."""

    context: typer.Context
    name: Annotated[
        str,
        typer.Option("--name", help="name of the arena; readers attach by it"),
        Check(segment_name),
    ]
    socket: StreamOption = None
    feed_uid: FeedUidOption = None
    node: Annotated[
        str | None,
        typer.Option(
            "--node", help="any node in place of --socket: ws(s)://, IPC path, http(s)://"
        ),
        Check(check_address),
    ] = None
    states: Annotated[
        Path | None, typer.Option("--states", help="state file to start from; waited for")
    ] = None
    reth_db: RethDbOption = None
    rpc: RpcOption = None
    pools: Annotated[
        Path | None, typer.Option("--pools", help="list of pools to read, JSON or TOML")
    ] = None
    messages: NatsOptions
    nats_wait: Annotated[
        float,
        typer.Option(
            min=0.0, help="seconds to wait for a whole list before the saved one is taken"
        ),
    ] = 10.0
    libmdbx: LibmdbxOption = None
    scraping_concurrency: ScrapingConcurrencyOption = SCRAPING_CONCURRENCY
    dialect: Annotated[Dialect, typer.Option(help="wire family; auto finds it")] = Dialect.auto
    max_pools: Annotated[int, typer.Option(min=1, max=1 << 24, help="pools the arena can hold")] = (
        16384
    )
    tick_bytes: TickBytesOption = TICK_BYTES
    undo_bytes: Annotated[
        str,
        typer.Option(help="size of the undo ring: how deep a reorg may go without reading anew"),
        Check(parse_undo),
    ] = "96MiB"
    mode: Annotated[
        str, typer.Option(help="octal permissions of the segments"), Check(parse_mode)
    ] = MODE
    group: Annotated[
        str | None, typer.Option(help="group that owns the segments"), Check(group_id)
    ] = None
    chain_id: Annotated[
        int, typer.Option(min=0, help="shown to readers, required of the node; 0 asks the node")
    ] = 0
    preset: Annotated[PresetName, typer.Option(help="sizes of buffer and scrape batches")] = (
        PresetName.cold_start
    )
    buffer_events: Annotated[
        int | None, typer.Option(min=1, help="events kept while starting; overrides the preset")
    ] = None
    scrape_timeout: Annotated[
        float,
        typer.Option(min=0.0, help="seconds to wait for the source to exist and to be new enough"),
    ] = 60.0
    gap_timeout: Annotated[
        float,
        typer.Option(min=0.0, help="seconds to try closing a gap from --rpc before reading anew"),
    ] = 30.0
    state_dir: Annotated[
        Path | None,
        typer.Option(help="folder of checkpoints; $STATE_DIRECTORY or ~/.local/state of this user"),
        Check(check_folder),
    ] = None
    checkpoint_every: Annotated[
        int, typer.Option(min=0, help="blocks between two checkpoints, with a node; 0 writes none")
    ] = 300
    cold_start: Annotated[
        bool,
        typer.Option(
            "--cold-start/--warm-start", help="read every pool anew, whatever a former run left"
        ),
    ] = False
    audit_every: Annotated[
        int,
        typer.Option(min=0, help="blocks between two comparisons with the node; 0 compares none"),
    ] = 25
    audit_pools: Annotated[
        int, typer.Option(min=1, max=1000, help="pools compared each time, at random")
    ] = 4
    feed_realtime: Annotated[
        bool,
        typer.Option(
            "--feed-realtime/--no-feed-realtime",
            help="schedule the feed thread before all that is not realtime",
        ),
    ] = False
    keep_segment: Annotated[
        bool,
        typer.Option(
            "--keep-segment/--no-keep-segment",
            help="leave the segments behind at the end, marked closed",
        ),
    ] = False
    log_level: LogLevelOption = LogLevel.info
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Prometheus metrics on 127.0.0.1; 0 takes a free port"),
    ] = None
    log_format: Annotated[
        LogFormat, typer.Option(help="lines of key=value, or one JSON object a line")
    ] = LogFormat.text
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="ARENA_WRITER_CONFIG",
            is_eager=True,
            callback=config.load_file,
            help="TOML file of these options; flags and ARENA_WRITER_* variables override it",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """Of arena-writer doctor."""

    socket: StreamOption = None
    feed_uid: FeedUidOption = None
    node: Annotated[str | None, typer.Option("--node", help="any node in place of --socket")] = None
    states: Annotated[Path | None, typer.Option("--states", help="state file")] = None
    reth_db: RethDbOption = None
    rpc: RpcOption = None
    pools: Annotated[Path | None, _POOLS] = None
    messages: NatsOptions
    chain_id: ChainIdOption = None
    libmdbx: LibmdbxOption = None
    tick_bytes: TickBytesOption = TICK_BYTES
    wait: Annotated[
        float, typer.Option(min=0.0, help="seconds to wait for a block on the socket")
    ] = 15.0
    as_json: JsonLinesOption = False
    log_level: LogLevelOption = LogLevel.error


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusOptions:
    """Of arena-writer status."""

    name: ArenaArgument
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False
    owner: OwnerOption = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeOptions:
    """Of arena-writer scrape."""

    pools: Annotated[Path, _POOLS]
    reth_db: RethDbOption = None
    rpc: RpcOption = None
    block: Annotated[int | None, typer.Option(min=0, help="block to read at; newest")] = None
    chain_id: ChainIdOption = None
    way: Annotated[
        str | None, typer.Option(help="how --rpc reads words; the fastest unless given")
    ] = None
    libmdbx: LibmdbxOption = None
    scraping_concurrency: ScrapingConcurrencyOption = SCRAPING_CONCURRENCY
    log_level: LogLevelOption = LogLevel.warning


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """Of arena-replay."""

    file: Annotated[
        Path, typer.Argument(help="what arena-record wrote, or recorded frames of one connection")
    ]
    socket: Annotated[Path, typer.Option("--socket", help="Unix socket to serve them on")]
    speed: Annotated[
        float | None, typer.Option("--speed", min=0.001, help="times the recorded speed, 1")
    ] = None
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="blocks a second; 1 for bare frames")
    ] = None
    at_once: Annotated[bool, typer.Option("--at-once", help="as fast as clients read")] = False
    from_block: Annotated[
        int | None, typer.Option("--from-block", min=0, help="first block that is paced")
    ] = None
    states: Annotated[
        Path | None, typer.Option("--states", help="where to write the state file it starts from")
    ] = None
    wait_client: Annotated[
        bool, typer.Option("--wait-client/--no-wait-client", help="start with the first client")
    ] = True
    linger: Annotated[
        float, typer.Option("--linger", min=0.0, help="seconds connections stay open after the end")
    ] = 1.0
    log_level: LogLevelOption = LogLevel.info


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordOptions:
    """Of arena-record."""

    file: Annotated[Path, typer.Argument(help="recording to write, or to go on with")]
    socket: Annotated[Path, _SOCKET]
    feed_uid: FeedUidOption = None
    arena: Annotated[
        str | None, typer.Option("--arena", help="keep the state of this arena too, to start from")
    ] = None
    states_every: Annotated[
        int | None, typer.Option(min=1, help="keep it again every that many blocks")
    ] = None
    owner: OwnerOption = None
    log_level: LogLevelOption = LogLevel.info


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """Of arena-bridge."""

    node: Annotated[str, typer.Option("--node", help="ws(s)://, IPC socket path, or http(s)://")]
    pools: Annotated[Path, typer.Option("--pools", help="list of pools, JSON or TOML; watched")]
    socket: Annotated[Path, typer.Option("--socket", help="Unix socket to serve the stream on")]
    mode: Annotated[str, typer.Option(help="octal permissions of the socket")] = MODE
    group: Annotated[str | None, typer.Option(help="group that owns the socket")] = None
    chain_id: ChainIdOption = None
    poll: Annotated[
        float | None, typer.Option(min=0.01, help="seconds between questions for the newest block")
    ] = None
    client_buffer: Annotated[
        str, typer.Option(help="a client that leaves more than this unread is disconnected")
    ] = "16MiB"
    dialect: Annotated[
        BridgeDialect, typer.Option(help="exex leaves out V4 fees, for other readers")
    ] = BridgeDialect.bridge
    log_level: LogLevelOption = LogLevel.info


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """Of arena-verify."""

    name: ArenaArgument
    rpc: Annotated[str, _RPC]
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="that many random pools; all")
    ] = None
    timeout: Annotated[float, typer.Option(min=0.0, help="seconds to wait for the arena")] = 1.0
    owner: OwnerOption = None
    as_json: JsonLinesOption = False
    log_level: LogLevelOption = LogLevel.error


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """Of arena-demo."""

    rate: Annotated[float | None, typer.Option("--rate", min=0.1, help="blocks a second")] = None
    plain: Annotated[bool, typer.Option("--plain", help="lines instead of a live table")] = False
