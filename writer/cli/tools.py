"""arena-replay, arena-record, arena-bridge, arena-verify and arena-demo."""

import json
import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial, wraps
from typing import TypeVar

import typer

from arena.owner import user_id
from arena.segment import Access
from arena.writer.cli.options import (
    BridgeOptions,
    DemoOptions,
    RecordOptions,
    ReplayOptions,
    VerifyOptions,
)
from arena.writer.cli.taking import takes
from arena.writer.cli.terminal import (
    EPILOG,
    EXIT_DIFFERENT,
    configure_logging,
    enter,
    refusing,
    run_until_signal,
)
from arena.writer.cli.values import check_address, parse_mode, parse_size
from arena.writer.host.shortage import check_files
from arena.writer.host.sockets import check_path

log = logging.getLogger(__name__)
Declared = TypeVar("Declared")


def program(
    name: str, declared: type[Declared]
) -> Callable[[Callable[[Declared], None]], Callable[[], None]]:
    """A function of a `declared` as the entry point of the program of that name."""

    def wrap(body: Callable[[Declared], None]) -> Callable[[], None]:
        @wraps(body)
        def command(options: Declared) -> None:
            with refusing(name):
                body(options)

        commands = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        commands.command(epilog=EPILOG)(takes(declared)(command))
        return partial(enter, commands, name)

    return wrap


@program("arena-replay", ReplayOptions)
def replay(options: ReplayOptions) -> None:
    """Serve a recorded event stream to any number of clients, then end."""
    configure_logging(options.log_level)
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


@program("arena-record", RecordOptions)
def record(options: RecordOptions) -> None:
    """Record an event stream with its arrival times until SIGTERM or SIGINT."""
    configure_logging(options.log_level)
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


@program("arena-bridge", BridgeOptions)
def bridge(options: BridgeOptions) -> None:
    """Follow any node's chain and serve its pool events to any number of clients."""
    configure_logging(options.log_level)
    from arena.writer.producers.bridge import Bridge, BridgeSettings

    check_files()
    check_path(options.socket)
    check_address(options.node)
    served = Bridge(
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
    with closing(served):
        served.check_chain()
        run_until_signal(served.run, on_hangup=served.reload)


@program("arena-verify", VerifyOptions)
def verify(options: VerifyOptions) -> None:
    """Compare a running arena with a node at the arena's block; exit code 1 when anything differs."""
    configure_logging(options.log_level)
    from arena.writer.node.jsonrpc import JsonRpc
    from arena.writer.service.verify import verify as compare

    with JsonRpc(options.rpc) as client:
        found = compare(
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


@program("arena-demo", DemoOptions)
def demo(options: DemoOptions) -> None:
    """Show the whole chain on a shipped recording: no node, no network, about 20 seconds."""
    from arena.writer.demo import run_demo

    code = run_demo(blocks_per_s=options.rate, plain=options.plain)
    if code:
        raise typer.Exit(code)
