"""arena-writer: run, config, doctor, status, scrape."""

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from arena.owner import user_id
from arena.segment import group_id, segment_name
from arena.writer.cli import config
from arena.writer.cli.options import (
    ChainOption,
    Dialect,
    FeedUidOption,
    LibmdbxOption,
    LogFormat,
    LogLevel,
    LogLevelOption,
    NatsCanonicalOption,
    NatsCaOption,
    NatsCertOption,
    NatsCredsOption,
    NatsKeyOption,
    NatsNkeyOption,
    NatsOption,
    OwnerOption,
    PresetName,
    RethDbOption,
    RpcOption,
    ScrapingConcurrencyOption,
    check_address,
    check_folder,
    check_nats,
    check_nats_file,
    check_nats_login,
    parse_mode,
    parse_size,
    parse_undo,
    parse_way,
)
from arena.writer.cli.terminal import (
    EXIT_REFUSED,
    configure_logging,
    print_status,
    private_folder,
    progress_display,
    refusing,
    reload_log_level,
)
from arena.writer.host.shortage import check_files
from arena.writer.host.sockets import check_path

log = logging.getLogger(__name__)


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
        from arena.writer.lists.files import FilePools
        from arena.writer.lists.nats import NatsPools
        from arena.writer.lists.natslogin import NatsLogin
        from arena.writer.lists.saved import SavedList
        from arena.writer.lists.source import PoolSource
        from arena.writer.node.head import sync_state
        from arena.writer.producers.bridge import Bridge, BridgeSettings
        from arena.writer.scrapers.sources import check_node_chain, open_sources
        from arena.writer.service.service import Service
        from arena.writer.service.settings import Settings
        from arena.writer.sync.restart import state_folder

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
        from arena.writer.lists.natslogin import NatsLogin
        from arena.writer.service.doctor import Doctor

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
        from arena.writer.service.status import read_status

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
        from arena.writer.service.scrape import scrape

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
