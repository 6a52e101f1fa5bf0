"""arena-writer: run, config, doctor, status, scrape."""

import json
import signal
import sys
from typing import Annotated

import typer

from arena.owner import user_id
from arena.writer.cli import config
from arena.writer.cli.options import DoctorOptions, RunOptions, ScrapeOptions, StatusOptions
from arena.writer.cli.taking import checks_of, takes
from arena.writer.cli.terminal import (
    EPILOG,
    EXIT_REFUSED,
    configure_logging,
    print_status,
    refusing,
)
from arena.writer.cli.values import parse_size, parse_way
from arena.writer.host.shortage import check_files

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, epilog=EPILOG
)


@app.callback()
def _arena_writer() -> None:
    """Keep exact Uniswap pool state in shared memory."""


@app.command("run", cls=config.RunCommand)
@takes(RunOptions)
def run_command(options: RunOptions) -> None:
    """Follow an event stream and keep an arena live until SIGTERM or SIGINT."""
    configure_logging(options.log_level, options.log_format)
    with refusing("arena-writer"):
        check_run(options)
        check_files()
        if not config.is_check(options.context):
            for number in (signal.SIGTERM, signal.SIGINT):  # the service takes them over
                signal.signal(number, lambda *_: sys.exit(0))
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        from arena.writer.cli.run import run

        run(options)


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
@takes(DoctorOptions)
def doctor_command(options: DoctorOptions) -> None:
    """Open what a run would use, show it, and say whether a start would work (exit code 0)."""
    configure_logging(options.log_level)
    with refusing("arena-writer"):
        from arena.writer.service.doctor import Doctor, DoctorSettings

        messages = options.messages
        doctor = Doctor(
            DoctorSettings(
                socket=options.socket,
                node=options.node,
                states=options.states,
                reth_db=options.reth_db,
                rpc=options.rpc,
                pools=options.pools,
                nats=messages.nats,
                chain=messages.chain,
                nats_canonical=messages.nats_canonical,
                nats_login=messages.login(),
                chain_id=options.chain_id,
                libmdbx=options.libmdbx,
                tick_nbytes=parse_size(options.tick_bytes),
                wait_s=options.wait,
                feed_uid=None if options.feed_uid is None else user_id(options.feed_uid),
            )
        )
        for finding in doctor.run():
            print(json.dumps(finding.as_dict()) if options.as_json else finding.line(), flush=True)
        if not doctor.would_start:
            raise typer.Exit(EXIT_REFUSED)


@app.command("status")
@takes(StatusOptions)
def status_command(options: StatusOptions) -> None:
    """Show phase, head block, pools by status and counters of an arena."""
    with refusing("arena-writer"):
        from arena.writer.service.status import read_status

        found = read_status(options.name, owner=options.owner)
        if options.as_json:
            print(json.dumps(found))
        else:
            print_status(found)


@app.command("scrape")
@takes(ScrapeOptions)
def scrape_command(options: ScrapeOptions) -> None:
    """Read pools from a node's database or RPC interface; print them as a state file."""
    configure_logging(options.log_level)
    with refusing(""):
        from arena.writer.service.scrape import scrape

        scrape(
            options.pools,
            sys.stdout,
            reth_db=options.reth_db,
            rpc=options.rpc,
            block=options.block,
            chain_id=options.chain_id,
            way=None if options.way is None else parse_way(options.way),
            library=options.libmdbx,
            scraping_concurrency=options.scraping_concurrency,
        )


def check_run(options: RunOptions) -> None:
    """Refuse what the settings of a run alone can tell; which source of pools they name is left to
    open_sources. SettingsError for one, typer.BadParameter for several that do not go together."""
    for name, check in checks_of(RunOptions):
        found = options.context.params[name]
        if found is None:
            continue
        try:
            check.refuse(found)
        except ValueError as error:
            raise config.refusal(options.context, name, str(error)) from error
    messages = options.messages
    if (options.socket is None) == (options.node is None):
        raise typer.BadParameter("give --socket (a producer's stream) or --node (any node)")
    if options.feed_uid is not None and options.node is not None:
        raise typer.BadParameter("--feed-uid goes with --socket: with --node this process serves")
    if options.pools is not None and messages.nats is not None:
        raise typer.BadParameter("give --pools (a file) or --nats (messages): one list of pools")
    messages.check_together()
    if options.states is not None and messages.nats is not None:
        raise typer.BadParameter("--states names its pools itself; leave out --nats")
    if options.node is not None and options.pools is None and messages.nats is None:
        raise typer.BadParameter("--node needs --pools or --nats: the list of pools to follow")
