"""Command lines: arena-writer (run, config, scrape, status), arena-replay and arena-demo.

Exit codes: 0 done, 2 refused (wrong usage, or an error of this project: one line with its class), 1
anything unexpected, with its traceback.
"""

import asyncio
import errno
import hashlib
import json
import logging
import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.table import Table
except MemoryError:
    print("MemoryError: there is no memory to start with: raise ulimit -v", file=sys.stderr)
    raise SystemExit(2) from None
except ImportError as error:  # the reader package installs without them
    raise SystemExit(
        f"{error.name} is not installed; the command line needs: "
        "pip install 'pool-state-arena[writer]'"
    ) from error

from arena.errors import ArenaError
from arena.output import printing
from arena.owner import user_id
from arena.segment import group_id, segment_name
from arena.writer import config
from arena.writer.jsonlog import JsonFormatter
from arena.writer.shortage import check_files, on_loop_error, remedy_of
from arena.writer.sockets import check_path

if TYPE_CHECKING:
    from arena.writer.scrapers.rpc import Way

EXIT_UNEXPECTED = 1
EXIT_REFUSED = 2
EXIT_DIFFERENT = 1

log = logging.getLogger(__name__)

_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_SHIFT = {"": 0, "k": 10, "m": 20, "g": 30}


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


LogLevelOption = Annotated[
    LogLevel, typer.Option("--log-level", help="least severe level written to stderr")
]

RethDbOption = Annotated[
    Path | None, typer.Option("--reth-db", help="a Reth node's data directory or its db")
]
RpcOption = Annotated[
    str | None, typer.Option("--rpc", help="node: http(s)://, ws(s)://, or IPC socket path")
]
FeedUidOption = Annotated[
    str | None,
    typer.Option("--feed-uid", help="user whose process must answer on --socket, name or uid"),
]
OwnerOption = Annotated[
    str | None,
    typer.Option("--owner", help="user whose arena it is, name or uid; this command's own"),
]
LibmdbxOption = Annotated[Path | None, typer.Option(help="libmdbx's shared library")]

NatsOption = Annotated[
    str | None, typer.Option("--nats", help="NATS server whose whitelist messages are the list")
]
ChainOption = Annotated[str, typer.Option(help="the chain's name in those messages")]
NatsCanonicalOption = Annotated[
    bool,
    typer.Option(
        "--nats-canonical/--no-nats-canonical",
        help="a .full message without a type is the whole list, not an addition",
    ),
]

NatsCredsOption = Annotated[
    Path | None, typer.Option("--nats-creds", help="file of a user's JWT and seed")
]
NatsNkeyOption = Annotated[Path | None, typer.Option("--nats-nkey", help="file of a user's seed")]
NatsCaOption = Annotated[
    Path | None, typer.Option("--nats-ca", help="certificates that sign the server's; PEM")
]
NatsCertOption = Annotated[
    Path | None, typer.Option("--nats-cert", help="client certificate; PEM, with --nats-key")
]
NatsKeyOption = Annotated[
    Path | None, typer.Option("--nats-key", help="its key; PEM, not encrypted")
]

ScrapingConcurrencyOption = Annotated[
    int, typer.Option(min=1, max=64, help="processes that read the database at once")
]

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _arena_writer() -> None:
    """Keep exact Uniswap pool state in shared memory."""


@app.command("run", cls=config.RunCommand)
def run_command(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", help="name of the arena; readers attach by it")],
    socket: Annotated[
        Path | None, typer.Option("--socket", help="Unix socket of the event stream")
    ] = None,
    feed_uid: FeedUidOption = None,
    node: Annotated[
        str | None,
        typer.Option(
            "--node", help="any node in place of --socket: ws(s)://, IPC path, http(s)://"
        ),
    ] = None,
    states: Annotated[
        Path | None, typer.Option("--states", help="state file to start from; waited for")
    ] = None,
    reth_db: RethDbOption = None,
    rpc: RpcOption = None,
    pools: Annotated[
        Path | None, typer.Option("--pools", help="list of pools to read, JSON or TOML")
    ] = None,
    nats: NatsOption = None,
    chain: ChainOption = "ethereum",
    nats_canonical: NatsCanonicalOption = False,
    nats_creds: NatsCredsOption = None,
    nats_nkey: NatsNkeyOption = None,
    nats_ca: NatsCaOption = None,
    nats_cert: NatsCertOption = None,
    nats_key: NatsKeyOption = None,
    nats_wait: Annotated[
        float,
        typer.Option(
            min=0.0, help="seconds to wait for a whole list before the saved one is taken"
        ),
    ] = 10.0,
    libmdbx: LibmdbxOption = None,
    scraping_concurrency: ScrapingConcurrencyOption = 2,
    dialect: Annotated[Dialect, typer.Option(help="wire family; auto finds it")] = Dialect.auto,
    max_pools: Annotated[
        int, typer.Option(min=1, max=1 << 24, help="pools the arena can hold")
    ] = 16384,
    tick_bytes: Annotated[str, typer.Option(help="size of the tick heap, e.g. 64MiB")] = "64MiB",
    undo_bytes: Annotated[
        str,
        typer.Option(help="size of the undo ring: how deep a reorg may go without reading anew"),
    ] = "96MiB",
    mode: Annotated[str, typer.Option(help="octal permissions of the segments")] = "0600",
    group: Annotated[str | None, typer.Option(help="group that owns the segments")] = None,
    chain_id: Annotated[
        int, typer.Option(min=0, help="shown to readers, required of the node; 0 asks the node")
    ] = 0,
    preset: Annotated[
        PresetName, typer.Option(help="sizes of buffer and scrape batches")
    ] = PresetName.cold_start,
    buffer_events: Annotated[
        int | None, typer.Option(min=1, help="events kept while starting; overrides the preset")
    ] = None,
    scrape_timeout: Annotated[
        float,
        typer.Option(min=0.0, help="seconds to wait for the source to exist and to be new enough"),
    ] = 60.0,
    gap_timeout: Annotated[
        float,
        typer.Option(min=0.0, help="seconds to try closing a gap from --rpc before reading anew"),
    ] = 30.0,
    state_dir: Annotated[
        Path | None,
        typer.Option(help="folder of checkpoints; $STATE_DIRECTORY or ~/.local/state of this user"),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option(min=0, help="blocks between two checkpoints, with a node; 0 writes none")
    ] = 300,
    cold_start: Annotated[
        bool,
        typer.Option(
            "--cold-start/--warm-start", help="read every pool anew, whatever a former run left"
        ),
    ] = False,
    audit_every: Annotated[
        int,
        typer.Option(min=0, help="blocks between two comparisons with the node; 0 compares none"),
    ] = 25,
    audit_pools: Annotated[
        int, typer.Option(min=1, max=1000, help="pools compared each time, at random")
    ] = 4,
    keep_segment: Annotated[
        bool,
        typer.Option(
            "--keep-segment/--no-keep-segment",
            help="leave the segments behind at the end, marked closed",
        ),
    ] = False,
    log_level: LogLevelOption = LogLevel.info,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Prometheus metrics on 127.0.0.1; 0 takes a free port"),
    ] = None,
    log_format: Annotated[
        LogFormat, typer.Option(help="lines of key=value, or one JSON object a line")
    ] = LogFormat.text,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            envvar="ARENA_WRITER_CONFIG",
            is_eager=True,
            callback=config.load_file,
            help="TOML file of these options; flags and ARENA_WRITER_* variables override it",
        ),
    ] = None,
) -> None:
    """Follow an event stream and keep an arena live until SIGTERM or SIGINT."""
    configure_logging(log_level, log_format)
    with refusing("arena-writer"), ExitStack() as stack:
        check_run(context)
        check_files()
        if not config.is_check(context):
            for number in (signal.SIGTERM, signal.SIGINT):  # the service takes them over
                signal.signal(number, lambda *_: sys.exit(0))
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        from arena.writer.bridge import Bridge, BridgeSettings
        from arena.writer.natslogin import NatsLogin
        from arena.writer.natspools import NatsPools
        from arena.writer.poolsource import FilePools, PoolSource, SavedList
        from arena.writer.restart import state_folder
        from arena.writer.scrapers.blocks import sync_state
        from arena.writer.service import Service, Settings
        from arena.writer.sources import check_node_chain, open_sources

        folder = state_dir or state_folder(name)
        source: PoolSource | None = None
        if nats is not None:
            source = NatsPools(
                nats,
                chain,
                canonical_publisher=nats_canonical,
                wait_s=nats_wait,
                login=NatsLogin(nats_creds, nats_nkey, nats_ca, nats_cert, nats_key),
                saved=SavedList(folder / "pools.json"),
            )
            if config.is_check(context):
                return  # what a server would answer is no setting
        elif pools is not None:
            source = FilePools(pools)
        sources = open_sources(
            states=states,
            reth_db=reth_db,
            rpc=rpc or node,
            pools=None if source is None else source.first(),
            chain_id=chain_id or None,
            libmdbx=libmdbx,
            scraping_concurrency=scraping_concurrency,
            wait_s=scrape_timeout,
        )
        stack.enter_context(closing(sources))
        if config.is_check(context):
            return
        for variable in config.unknown_variables(context):
            log.warning("event=unknown_variable name=%s", variable)
        chain_id = check_node_chain(sources, chain_id or None) or chain_id
        bridge: Bridge | None = None
        if node is not None:
            socket = stack.enter_context(private_folder(name)) / "feed.sock"
            feed_uid = str(os.geteuid())  # the bridge is of this process
            bridge = Bridge(
                BridgeSettings(
                    node=node,
                    pools=None,
                    socket=socket,
                    chain_id=chain_id or None,
                ),
                sources.targets,
            )
            stack.enter_context(closing(bridge))
            bridge.check_chain()
        assert socket is not None
        settings = Settings(
            name=name,
            socket=socket,
            feed_uid=None if feed_uid is None else user_id(feed_uid),
            dialect=dialect.value
            if bridge is None
            else Dialect.auto.value,  # the bridge has its own
            max_pools=max_pools,
            tick_bytes=parse_size(tick_bytes),
            undo_bytes=parse_undo(undo_bytes),
            mode=parse_mode(mode),
            group=group,
            chain_id=chain_id,
            preset=preset.value,
            buffer_events=buffer_events,
            scrape_timeout_s=scrape_timeout,
            gap_timeout_s=gap_timeout,
            keep_segment=keep_segment,
            metrics_port=metrics_port,
            state_folder=folder,
            checkpoint_every=checkpoint_every,
            audit_every=audit_every,
            audit_pools=audit_pools,
            starts_cold=cold_start,
        )
        hooks: list[Callable[[], None]] = [partial(reload_log_level, context)]
        if source is not None:
            hooks.append(source.reload)
        observe = stack.enter_context(progress_display())
        service = Service(
            settings,
            sources.scraper,
            node=sources.node,
            producer=None if bridge is None else bridge.run,
            targets=sources.targets,
            pools=source,
            on_list=(lambda targets: None) if bridge is None else bridge.hold,
            auditor=sources.by_rpc,
            observe=observe,
            on_hangup=hooks,
            synced=None if sources.rpc is None else partial(sync_state, sources.rpc),
            described=sources.described,
            close_sources=sources.close,
            extra={} if bridge is None else {"bridge": bridge.counts},
        )
        asyncio.run(service.run())


@app.command("config", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def config_command(
    context: typer.Context,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="refuse what a run would; show where each comes from; hide secrets in URLs",
        ),
    ] = False,
) -> None:
    """Print the settings that a run with the same options would use, as a TOML file; takes every
    option of run."""
    assert context.parent is not None
    run = typer.main.get_command(app).get_command(context.parent, "run")  # type: ignore[attr-defined]
    with run.make_context("config", list(context.args), context.parent) as resolved:
        if check:
            config.check_only(resolved)
            run.invoke(resolved)
        found = config.settings(resolved)
        lines = list(config.as_checked(found) if check else config.as_toml(found))
        lines += [f"# {name} is set, and no setting" for name in config.unknown_variables(resolved)]
        with refusing("arena-writer"):
            print("\n".join(lines))


@app.command("doctor")
def doctor_command(
    socket: Annotated[
        Path | None, typer.Option("--socket", help="Unix socket of the event stream")
    ] = None,
    feed_uid: FeedUidOption = None,
    node: Annotated[
        str | None, typer.Option("--node", help="any node in place of --socket")
    ] = None,
    states: Annotated[Path | None, typer.Option("--states", help="state file")] = None,
    reth_db: RethDbOption = None,
    rpc: RpcOption = None,
    pools: Annotated[
        Path | None, typer.Option("--pools", help="list of pools, JSON or TOML")
    ] = None,
    nats: NatsOption = None,
    chain: ChainOption = "ethereum",
    nats_canonical: NatsCanonicalOption = False,
    nats_creds: NatsCredsOption = None,
    nats_nkey: NatsNkeyOption = None,
    nats_ca: NatsCaOption = None,
    nats_cert: NatsCertOption = None,
    nats_key: NatsKeyOption = None,
    chain_id: Annotated[
        int | None, typer.Option(min=1, help="refuse a node of another chain")
    ] = None,
    libmdbx: LibmdbxOption = None,
    tick_bytes: Annotated[str, typer.Option(help="size of the tick heap, e.g. 64MiB")] = "64MiB",
    wait: Annotated[
        float, typer.Option(min=0.0, help="seconds to wait for a block on the socket")
    ] = 15.0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    log_level: LogLevelOption = LogLevel.error,
) -> None:
    """Open what a run would use, show it, and say whether a start would work (exit code 0)."""
    configure_logging(log_level)
    with refusing("arena-writer"):
        from arena.writer.doctor import Doctor
        from arena.writer.natslogin import NatsLogin

        doctor = Doctor(
            socket=socket,
            node=node,
            states=states,
            reth_db=reth_db,
            rpc=rpc,
            pools=pools,
            nats=nats,
            chain=chain,
            nats_canonical=nats_canonical,
            nats_login=NatsLogin(nats_creds, nats_nkey, nats_ca, nats_cert, nats_key),
            chain_id=chain_id,
            libmdbx=libmdbx,
            tick_nbytes=parse_size(tick_bytes),
            wait_s=wait,
            feed_uid=None if feed_uid is None else user_id(feed_uid),
        )
        for finding in doctor.run():
            print(json.dumps(finding.as_dict()) if as_json else finding.line(), flush=True)
        if not doctor.would_start:
            raise typer.Exit(EXIT_REFUSED)


@app.command("status")
def status_command(
    name: Annotated[str, typer.Argument(help="name of the arena")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
    owner: OwnerOption = None,
) -> None:
    """Show phase, head block, pools by status and counters of an arena."""
    with refusing("arena-writer"):
        from arena.writer.status import read_status

        found = read_status(name, owner=owner)
        if as_json:
            print(json.dumps(found))
        else:
            print_status(found)


@app.command("scrape")
def scrape_command(
    pools: Annotated[Path, typer.Option("--pools", help="list of pools, JSON or TOML")],
    reth_db: Annotated[
        Path | None, typer.Option("--reth-db", help="a Reth node's data directory or its db")
    ] = None,
    rpc: Annotated[
        str | None, typer.Option("--rpc", help="node: http(s)://, ws(s)://, or IPC socket path")
    ] = None,
    block: Annotated[int | None, typer.Option(min=0, help="block to read at; newest")] = None,
    chain_id: Annotated[
        int | None, typer.Option(min=1, help="refuse a node of another chain")
    ] = None,
    way: Annotated[
        str | None, typer.Option(help="how --rpc reads words; the fastest unless given")
    ] = None,
    libmdbx: LibmdbxOption = None,
    scraping_concurrency: ScrapingConcurrencyOption = 2,
    log_level: LogLevelOption = LogLevel.warning,
) -> None:
    """Read pools from a node's database or RPC interface; print them as a state file."""
    configure_logging(log_level)
    with refusing(""):
        from arena.writer.scrape import scrape

        scrape(
            pools,
            sys.stdout,
            reth_db=reth_db,
            rpc=rpc,
            block=block,
            chain_id=chain_id,
            way=None if way is None else parse_way(way),
            library=libmdbx,
            scraping_concurrency=scraping_concurrency,
        )


replay_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@replay_app.command()
def replay_command(
    file: Annotated[
        Path, typer.Argument(help="what arena-record wrote, or recorded frames of one connection")
    ],
    socket: Annotated[Path, typer.Option("--socket", help="Unix socket to serve them on")],
    speed: Annotated[
        float | None, typer.Option("--speed", min=0.001, help="times the recorded speed, 1")
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0.001, help="blocks a second; 1 for bare frames")
    ] = None,
    at_once: Annotated[bool, typer.Option("--at-once", help="as fast as clients read")] = False,
    from_block: Annotated[
        int | None, typer.Option("--from-block", min=0, help="first block that is paced")
    ] = None,
    states: Annotated[
        Path | None, typer.Option("--states", help="where to write the state file it starts from")
    ] = None,
    wait_client: Annotated[
        bool, typer.Option("--wait-client/--no-wait-client", help="start with the first client")
    ] = True,
    linger: Annotated[
        float, typer.Option("--linger", min=0.0, help="seconds connections stay open after the end")
    ] = 1.0,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Serve a recorded event stream to any number of clients, then end."""
    configure_logging(log_level)
    with refusing("arena-replay"):
        from arena.writer.replay import ReplayServer, pace_of, read_recording, write_states

        check_files()
        if sum((speed is not None, rate is not None, at_once)) > 1:
            raise typer.BadParameter("--speed, --rate and --at-once exclude each other")
        recording = read_recording(file, from_block=from_block)
        pace = None if at_once else pace_of(recording, speed=speed, rate=rate, first=from_block)
        if states is not None:
            write_states(recording, states)
        log.info(
            "event=recording file=%s blocks=%d first=%d last=%d frames=%d bytes=%d states_block=%s",
            file,
            recording.block_count,
            recording.first_block,
            recording.last_block,
            recording.frame_count,
            len(recording.data),
            recording.states_block,
        )
        server = ReplayServer(recording, socket)
        run_until_signal(
            partial(server.run, pace=pace, wait_for_client=wait_client, linger_s=linger)
        )


record_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@record_app.command()
def record_command(
    file: Annotated[Path, typer.Argument(help="recording to write, or to go on with")],
    socket: Annotated[Path, typer.Option("--socket", help="Unix socket of the event stream")],
    feed_uid: FeedUidOption = None,
    arena: Annotated[
        str | None, typer.Option("--arena", help="keep the state of this arena too, to start from")
    ] = None,
    states_every: Annotated[
        int | None, typer.Option(min=1, help="keep it again every that many blocks")
    ] = None,
    owner: OwnerOption = None,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Record an event stream with its arrival times until SIGTERM or SIGINT."""
    configure_logging(log_level)
    with refusing("arena-record"):
        from arena.writer.recording import Recorder, RecordingFile

        if states_every is not None and arena is None:
            raise ValueError("--states-every needs --arena")
        user_id(owner)  # refused now, not with the first state
        check_path(socket)
        check_files()
        target = RecordingFile(file)
        with closing(target):
            recorder = Recorder(
                socket,
                target,
                arena_name=arena,
                owner=owner,
                peer_uid=None if feed_uid is None else user_id(feed_uid),
                states_every=states_every,
            )
            run_until_signal(recorder.run)


bridge_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@bridge_app.command()
def bridge_command(
    node: Annotated[str, typer.Option("--node", help="ws(s)://, IPC socket path, or http(s)://")],
    pools: Annotated[Path, typer.Option("--pools", help="list of pools, JSON or TOML; watched")],
    socket: Annotated[Path, typer.Option("--socket", help="Unix socket to serve the stream on")],
    mode: Annotated[str, typer.Option(help="octal permissions of the socket")] = "0600",
    group: Annotated[str | None, typer.Option(help="group that owns the socket")] = None,
    chain_id: Annotated[
        int | None, typer.Option(min=1, help="refuse a node of another chain")
    ] = None,
    poll: Annotated[
        float | None, typer.Option(min=0.01, help="seconds between questions for the newest block")
    ] = None,
    client_buffer: Annotated[
        str, typer.Option(help="a client that leaves more than this unread is disconnected")
    ] = "16MiB",
    dialect: Annotated[
        BridgeDialect, typer.Option(help="exex leaves out V4 fees, for other readers")
    ] = BridgeDialect.bridge,
    log_level: LogLevelOption = LogLevel.info,
) -> None:
    """Follow any node's chain and serve its pool events to any number of clients."""
    configure_logging(log_level)
    with refusing("arena-bridge"):
        from arena.writer.bridge import Bridge, BridgeSettings

        check_files()
        check_path(socket)
        check_address(node)
        bridge = Bridge(
            BridgeSettings(
                node=node,
                pools=pools,
                socket=socket,
                mode=parse_mode(mode),
                group=group,
                chain_id=chain_id,
                poll_s=poll,
                client_nbytes=parse_size(client_buffer),
                dialect=dialect.value,
            )
        )
        with closing(bridge):
            bridge.check_chain()
            run_until_signal(bridge.run, on_hangup=bridge.reload)


verify_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@verify_app.command()
def verify_command(
    name: Annotated[str, typer.Argument(help="name of the arena")],
    rpc: Annotated[
        str, typer.Option("--rpc", help="node: http(s)://, ws(s)://, or IPC socket path")
    ],
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="that many random pools; all")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.0, help="seconds to wait for the arena")] = 1.0,
    owner: OwnerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    log_level: LogLevelOption = LogLevel.error,
) -> None:
    """Compare a running arena with a node at the arena's block; exit code 1 when anything differs."""
    configure_logging(log_level)
    with refusing("arena-verify"):
        from arena.writer.jsonrpc import JsonRpc
        from arena.writer.verify import verify

        with JsonRpc(rpc) as client:
            found = verify(name, client, sample=sample, timeout_s=timeout, owner=owner)
        for each in found.differences:
            print(json.dumps(each.as_dict()) if as_json else each.line())
        differ = len({each.key for each in found.differences})
        total = {
            "block": found.block_number,
            "compared": found.compared,
            "differ": differ,
            "not_live": dict(found.not_live),
        }
        if as_json:
            print(json.dumps(total))
        else:
            for key, status in found.not_live:
                print(f"{key} is {status}: not compared")
            print(
                f"{found.compared} pools compared at block {found.block_number}, {differ} differ"
                + (f", {len(found.not_live)} not live" if found.not_live else "")
            )
        if found.differences:
            raise typer.Exit(EXIT_DIFFERENT)


demo_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@demo_app.command()
def demo_command(
    rate: Annotated[float | None, typer.Option("--rate", min=0.1, help="blocks a second")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="lines instead of a live table")] = False,
) -> None:
    """Show the whole chain on a shipped recording: no node, no network, about 20 seconds."""
    with refusing("arena-demo"):
        from arena.writer.demo import run_demo

        code = run_demo(blocks_per_s=rate, plain=plain)
        if code:
            raise typer.Exit(code)


def writer() -> None:
    """Entry point of arena-writer."""
    _enter(app, "arena-writer")


def record() -> None:
    """Entry point of arena-record."""
    _enter(record_app, "arena-record")


def replay() -> None:
    """Entry point of arena-replay."""
    _enter(replay_app, "arena-replay")


def bridge() -> None:
    """Entry point of arena-bridge."""
    _enter(bridge_app, "arena-bridge")


def verify() -> None:
    """Entry point of arena-verify."""
    _enter(verify_app, "arena-verify")


def demo() -> None:
    """Entry point of arena-demo."""
    _enter(demo_app, "arena-demo")


def _enter(commands: typer.Typer, program: str) -> None:
    """Run a program: what only its help needed, and could not have, ends it as `refusing` does."""
    try:
        with printing():
            commands()
    except OSError as error:
        with suppress(OSError):
            print(f"{program}: {type(error).__name__}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)


@contextmanager
def refusing(program: str) -> Iterator[None]:
    """Turn expected errors into one line and exit code 2; let anything else through as code 1.

    Whoever closes the pipe this prints into has seen enough: what follows is not printed, and the
    exit code stays what it would have been.
    """
    try:
        with printing():
            yield
    except (typer.Exit, typer.BadParameter):  # Exit is a RuntimeError, too
        raise
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_REFUSED) from None
    except Exception as error:
        remedy = remedy_of(error)
        if remedy is None and not isinstance(error, ArenaError | OSError | ValueError):
            log.exception("event=unexpected_error")
            raise typer.Exit(EXIT_UNEXPECTED) from None
        if isinstance(error, OSError):
            line = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        else:
            line = str(error)
        if isinstance(error, ImportError):
            line = "a library cannot be loaded"
        if remedy is not None:
            line = f"{line}; {remedy}" if line else remedy
        source = f"{program}: " if program else ""
        if logs_json():  # what reads the log reads objects, the last line too
            log.error("event=refused error=%s reason=%r", type(error).__name__, line)
        else:
            with suppress(OSError):  # nobody reads it
                print(f"{source}{type(error).__name__}: {line}", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED) from error


def check_run(context: typer.Context) -> None:
    """Refuse what the settings of a run alone can tell; which source of pools they name is left to
    open_sources. SettingsError for one, typer.BadParameter for several that do not go together."""
    given: Mapping[str, Any] = context.params
    checks: dict[str, Callable[[Any], object]] = {
        "name": segment_name,
        "socket": check_path,
        "feed_uid": user_id,
        "tick_bytes": parse_size,
        "undo_bytes": parse_undo,
        "mode": parse_mode,
        "group": group_id,
        "node": check_address,
        "rpc": check_address,
        "nats": check_nats,
        "nats_creds": check_nats_file("creds"),
        "nats_nkey": check_nats_file("nkey"),
        "nats_ca": check_nats_file("ca"),
        "nats_cert": check_nats_file("cert"),
        "nats_key": check_nats_file("key"),
        "state_dir": check_folder,
    }
    for name, check in checks.items():
        if given[name] is None:
            continue
        try:
            check(given[name])
        except ValueError as error:
            raise config.refusal(context, name, str(error)) from error
    if (given["socket"] is None) == (given["node"] is None):
        raise typer.BadParameter("give --socket (a producer's stream) or --node (any node)")
    if given["feed_uid"] is not None and given["node"] is not None:
        raise typer.BadParameter("--feed-uid goes with --socket: with --node this process serves")
    if given["pools"] is not None and given["nats"] is not None:
        raise typer.BadParameter("give --pools (a file) or --nats (messages): one list of pools")
    check_nats_login(given)
    if given["states"] is not None and given["nats"] is not None:
        raise typer.BadParameter("--states names its pools itself; leave out --nats")
    if given["node"] is not None and given["pools"] is None and given["nats"] is None:
        raise typer.BadParameter("--node needs --pools or --nats: the list of pools to follow")


def check_address(address: str) -> None:
    """ValueError when a node's address is of no kind that can be asked."""
    from arena.writer.jsonrpc import JsonRpc

    JsonRpc(address).close()


def check_folder(path: Path) -> None:
    """ValueError when `path` is no folder, and none can be made of it."""
    try:
        there = next(each for each in (path, *path.absolute().parents) if each.exists())
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be looked at: {error.strerror}") from error
    if not there.is_dir():
        raise ValueError(f"{there} is no folder")


def check_nats(address: str) -> None:
    """ValueError when a NATS server's address cannot be one."""
    from arena.writer.natslink import NatsAddress

    NatsAddress.read(address)


def check_nats_file(kind: str) -> Callable[[Path], object]:
    """A check of one of --nats-creds, --nats-nkey, --nats-ca, --nats-cert, --nats-key."""

    def check(path: Path) -> None:
        from arena.writer import natslogin

        looks = {
            "creds": natslogin.read_creds,
            "nkey": natslogin.read_seed,
            "ca": natslogin.read_ca,
        }
        looks.get(kind, natslogin.check_readable)(path)

    return check


def check_nats_login(given: Mapping[str, Any]) -> None:
    """typer.BadParameter when what logs in to NATS does not go together."""
    words = ("creds", "nkey", "ca", "cert", "key")
    paths = [given[f"nats_{word}"] for word in words]
    if given["nats"] is None:
        for word, path in zip(words, paths, strict=True):
            if path is not None:
                raise typer.BadParameter(f"--nats-{word} goes with --nats")
        return
    from arena.writer.natslink import NatsAddress
    from arena.writer.natslogin import NatsLogin

    login = NatsLogin(*paths)
    try:
        login.check_together(has_secret=bool(NatsAddress.read(given["nats"]).login))
        login.options(is_secure=False)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def configure_logging(level: LogLevel, shape: LogFormat = LogFormat.text) -> None:
    """key=value lines or JSON objects on stderr, times in UTC."""
    formatter: logging.Formatter = logging.Formatter(
        "time=%(asctime)s.%(msecs)03dZ level=%(levelname)s logger=%(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    formatter.converter = time.gmtime
    if shape is LogFormat.json:
        formatter = JsonFormatter()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.value.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)


def reload_log_level(context: typer.Context) -> None:
    """Take the log level of a run again from where it came; name other settings that moved, which
    are in force with the next start only. SettingsError leaves everything as it is."""
    found = config.reread(context)
    level = LogLevel(found["log_level"])
    logging.getLogger().setLevel(level.value.upper())
    moved = [name for name in found if found[name] != context.params[name]]
    context.params["log_level"] = found["log_level"]
    log.info("event=log_level_set to=%s", level.value)
    for name in moved:
        if name != "log_level":
            log.warning("event=setting_needs_restart name=%s", name)


def logs_json() -> bool:
    """Whether configure_logging chose JSON."""
    return any(isinstance(each.formatter, JsonFormatter) for each in logging.getLogger().handlers)


def run_until_signal(
    begin: Callable[[], Coroutine[Any, Any, None]], *, on_hangup: Callable[[], None] | None = None
) -> None:
    """Run what `begin` makes; SIGTERM and SIGINT cancel it, which is a clean end."""

    async def guarded() -> None:
        task = asyncio.ensure_future(begin())
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(on_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)
        try:
            await task
        except asyncio.CancelledError:
            log.info("event=stopped reason=signal")

    asyncio.run(guarded())


@contextmanager
def private_folder(name: str) -> Iterator[Path]:
    """A folder of this user alone, the same for each run of the arena `name`; removed at the end.

    Below $RUNTIME_DIRECTORY (systemd), $XDG_RUNTIME_DIR, or the folder of temporary files.
    PermissionError when somebody else has taken its place.
    """
    mark = hashlib.sha256(name.encode()).hexdigest()[:16]
    given = [os.environ.get(each, "") for each in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")]
    base = next((each for each in given if os.path.isdir(each)), gettempdir())
    folder = Path(base, f"arena-{os.geteuid()}-{mark}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "not a folder of this user alone", str(folder))
    try:
        yield folder
    finally:
        with suppress(OSError):  # another writer of that name is at work in it
            folder.rmdir()


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `64M` or `67108864`; binary multiples. ValueError otherwise."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"size {text!r} is not a number with an optional K, M or G")
    return int(match[1]) << _SHIFT[match[2].lower()]


def parse_undo(text: str) -> int:
    """Bytes of an undo ring as parse_size has them. ValueError below one record."""
    from arena.layouts.slots import UNDO_RECORD

    nbytes = parse_size(text)
    if nbytes < UNDO_RECORD.itemsize:
        raise ValueError(
            f"an undo ring of {text!r} holds nothing: one record has {UNDO_RECORD.itemsize} bytes; "
            "leave it out for the usual 96MiB"
        )
    return nbytes


def parse_way(text: str) -> "Way":
    """A way of reading by its name. ValueError."""
    from arena.writer.scrapers.rpc import Way

    if text not in set(Way):
        raise ValueError(f"--way {text!r} is none of {', '.join(Way)}")
    return Way(text)


def parse_mode(text: str) -> int:
    """Permission bits of an octal string. ValueError outside 0 to 0777."""
    if not re.fullmatch(r"(0o)?[0-7]{1,4}", text) or int(text.removeprefix("0o"), 8) > 0o777:
        raise ValueError(f"mode {text!r} is not an octal number from 0 to 0777")
    return int(text.removeprefix("0o"), 8)


@contextmanager
def progress_display() -> Iterator[Any]:
    """A function to call with Metrics: a bar on a terminal, log lines otherwise."""
    from arena.writer.progress import progress_bar, progress_lines

    console = Console(stderr=True)
    is_bar = console.is_terminal and not logs_json()
    with progress_bar(console) if is_bar else progress_lines() as observe:
        yield observe


def print_status(found: dict[str, Any]) -> None:
    """Two small tables on stdout."""
    console = Console()
    table = Table(show_header=False, box=None)
    for name, value in found.items():
        if not isinstance(value, dict):
            table.add_row(name, "-" if value is None else str(value))
    for status, count in found["pools"].items():
        table.add_row(f"pools {status}", str(count))
    for counter, count in found["counters"].items():
        table.add_row(counter, str(count))
    console.print(table)
