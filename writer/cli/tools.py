"""arena-replay, arena-record, arena-bridge, arena-verify and arena-demo."""

import json
import logging
from contextlib import closing
from functools import partial

import typer

from arena.owner import user_id
from arena.writer.cli.options import (
    BridgeOptions,
    DemoOptions,
    RecordOptions,
    ReplayOptions,
    VerifyOptions,
)
from arena.writer.cli.taking import takes
from arena.writer.cli.terminal import EXIT_DIFFERENT, configure_logging, refusing, run_until_signal
from arena.writer.cli.values import check_address, parse_mode, parse_size
from arena.writer.host.room import Access
from arena.writer.host.shortage import check_files
from arena.writer.host.sockets import check_path

log = logging.getLogger(__name__)


replay_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@replay_app.command()
@takes(ReplayOptions)
def replay_command(options: ReplayOptions) -> None:
    """Serve a recorded event stream to any number of clients, then end."""
    configure_logging(options.log_level)
    with refusing("arena-replay"):
        from arena.writer.producers.replay import (
            ReplayServer,
            pace_of,
            read_recording,
            write_states,
        )

        check_files()
        if sum((options.speed is not None, options.rate is not None, options.at_once)) > 1:
            raise typer.BadParameter("--speed, --rate and --at-once exclude each other")
        first = options.from_block
        recording = read_recording(options.file, from_block=first)
        pace = None
        if not options.at_once:
            pace = pace_of(recording, speed=options.speed, rate=options.rate, first=first)
        if options.states is not None:
            write_states(recording, options.states)
        log.info(
            "event=recording file=%s blocks=%d first=%d last=%d frames=%d bytes=%d states_block=%s",
            options.file,
            recording.block_count,
            recording.first_block,
            recording.last_block,
            recording.frame_count,
            len(recording.data),
            recording.states_block,
        )
        server = ReplayServer(recording, options.socket)
        run_until_signal(
            partial(
                server.run,
                pace=pace,
                wait_for_client=options.wait_client,
                linger_s=options.linger,
            )
        )


record_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@record_app.command()
@takes(RecordOptions)
def record_command(options: RecordOptions) -> None:
    """Record an event stream with its arrival times until SIGTERM or SIGINT."""
    configure_logging(options.log_level)
    with refusing("arena-record"):
        from arena.writer.producers.recorder import Recorder
        from arena.writer.producers.recording_file import RecordingFile

        if options.states_every is not None and options.arena is None:
            raise ValueError("--states-every needs --arena")
        user_id(options.owner)  # refused now, not with the first state
        check_path(options.socket)
        check_files()
        target = RecordingFile(options.file)
        with closing(target):
            recorder = Recorder(
                options.socket,
                target,
                arena_name=options.arena,
                owner=options.owner,
                peer_uid=None if options.feed_uid is None else user_id(options.feed_uid),
                states_every=options.states_every,
            )
            run_until_signal(recorder.run)


bridge_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@bridge_app.command()
@takes(BridgeOptions)
def bridge_command(options: BridgeOptions) -> None:
    """Follow any node's chain and serve its pool events to any number of clients."""
    configure_logging(options.log_level)
    with refusing("arena-bridge"):
        from arena.writer.producers.bridge import Bridge, BridgeSettings

        check_files()
        check_path(options.socket)
        check_address(options.node)
        bridge = Bridge(
            BridgeSettings(
                node=options.node,
                pools=options.pools,
                socket=options.socket,
                access=Access(parse_mode(options.mode), options.group),
                chain_id=options.chain_id,
                poll_s=options.poll,
                client_nbytes=parse_size(options.client_buffer),
                dialect=options.dialect.value,
            )
        )
        with closing(bridge):
            bridge.check_chain()
            run_until_signal(bridge.run, on_hangup=bridge.reload)


verify_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@verify_app.command()
@takes(VerifyOptions)
def verify_command(options: VerifyOptions) -> None:
    """Compare a running arena with a node at the arena's block; exit code 1 when anything differs."""
    configure_logging(options.log_level)
    with refusing("arena-verify"):
        from arena.writer.node.jsonrpc import JsonRpc
        from arena.writer.service.verify import verify

        with JsonRpc(options.rpc) as client:
            found = verify(
                options.name,
                client,
                sample=options.sample,
                timeout_s=options.timeout,
                owner=options.owner,
            )
        for each in found.differences:
            print(json.dumps(each.as_dict()) if options.as_json else each.line())
        differ = len({each.key for each in found.differences})
        total = {
            "block": found.block_number,
            "compared": found.compared,
            "differ": differ,
            "not_live": dict(found.not_live),
        }
        if options.as_json:
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
@takes(DemoOptions)
def demo_command(options: DemoOptions) -> None:
    """Show the whole chain on a shipped recording: no node, no network, about 20 seconds."""
    with refusing("arena-demo"):
        from arena.writer.demo import run_demo

        code = run_demo(blocks_per_s=options.rate, plain=options.plain)
        if code:
            raise typer.Exit(code)
