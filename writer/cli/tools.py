"""arena-replay, arena-record, arena-bridge, arena-verify and arena-demo."""

import json
import logging
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from arena.owner import user_id
from arena.writer.cli.options import (
    BridgeDialect,
    FeedUidOption,
    LogLevel,
    LogLevelOption,
    OwnerOption,
    check_address,
    parse_mode,
    parse_size,
)
from arena.writer.cli.terminal import (
    EXIT_DIFFERENT,
    configure_logging,
    refusing,
    run_until_signal,
)
from arena.writer.host.shortage import check_files
from arena.writer.host.sockets import check_path

log = logging.getLogger(__name__)


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
        from arena.writer.producers.replay import (
            ReplayServer,
            pace_of,
            read_recording,
            write_states,
        )

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
        from arena.writer.producers.recorder import Recorder
        from arena.writer.producers.recording_file import RecordingFile

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
        from arena.writer.producers.bridge import Bridge, BridgeSettings

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
        from arena.writer.node.jsonrpc import JsonRpc
        from arena.writer.service.verify import verify

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
