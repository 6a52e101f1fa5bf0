"""One run of the writer, put together from its options."""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

from arena.owner import user_id
from arena.segment import Access
from arena.writer.cli import config
from arena.writer.cli.options import Dialect, RunOptions
from arena.writer.cli.terminal import private_folder, progress_display, reload_log_level
from arena.writer.cli.values import parse_mode, parse_size, parse_undo
from arena.writer.host.room import Capacities
from arena.writer.lists.files import FilePools
from arena.writer.lists.nats import NatsPools
from arena.writer.lists.saved import SavedList
from arena.writer.lists.source import PoolSource
from arena.writer.node.head import sync_state
from arena.writer.producers.bridge import Bridge, BridgeSettings
from arena.writer.scrapers.sources import Sources, check_node_chain, open_sources
from arena.writer.service.service import Service
from arena.writer.service.settings import Settings
from arena.writer.sync.restart import state_folder

log = logging.getLogger(__name__)


def run(options: RunOptions) -> None:
    """Open what the options name, and keep the arena until told to stop; where only a check was
    asked for, end before anything is asked of a server or a node."""
    is_check = config.is_check(options.context)
    with ExitStack() as stack:
        folder = options.state_dir or state_folder(options.name)
        pools = _pool_source(options, folder)
        if is_check and options.messages.nats is not None:
            return  # what a server would answer is no setting
        sources = _sources(options, pools)
        stack.enter_context(closing(sources))
        if is_check:
            return
        for variable in config.unknown_variables(options.context):
            log.warning("event=unknown_variable name=%s", variable)
        chain_id = check_node_chain(sources, options.chain_id or None) or options.chain_id
        bridge: Bridge | None = None
        if options.node is not None:
            socket = stack.enter_context(private_folder(options.name)) / "feed.sock"
            bridge = Bridge(
                BridgeSettings(
                    node=options.node, pools=None, socket=socket, chain_id=chain_id or None
                ),
                sources.targets,
            )
            stack.enter_context(closing(bridge))
            bridge.check_chain()
        settings = _settings(options, folder, chain_id, bridge)
        hooks: list[Callable[[], None]] = [partial(reload_log_level, options.context)]
        if pools is not None:
            hooks.append(pools.reload)
        observe = stack.enter_context(progress_display())
        service = Service(
            settings,
            sources.scraper,
            node=sources.node,
            producer=None if bridge is None else bridge.run,
            targets=sources.targets,
            pools=pools,
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


def _pool_source(options: RunOptions, folder: Path) -> PoolSource | None:
    """Where the list of pools comes from and changes; None where the source of values names them."""
    messages = options.messages
    if messages.nats is not None:
        return NatsPools(
            messages.nats,
            messages.chain,
            canonical_publisher=messages.nats_canonical,
            wait_s=options.nats_wait,
            login=messages.login(),
            saved=SavedList(folder / "pools.json"),
        )
    return None if options.pools is None else FilePools(options.pools)


def _sources(options: RunOptions, pools: PoolSource | None) -> Sources:
    return open_sources(
        states=options.states,
        reth_db=options.reth_db,
        rpc=options.rpc or options.node,
        pools=None if pools is None else pools.first(),
        chain_id=options.chain_id or None,
        libmdbx=options.libmdbx,
        scraping_concurrency=options.scraping_concurrency,
        wait_s=options.scrape_timeout,
    )


def _settings(options: RunOptions, folder: Path, chain_id: int, bridge: Bridge | None) -> Settings:
    """The stream is that of `bridge`, where there is one, which is of this process."""
    if bridge is None:
        assert options.socket is not None
        socket, dialect = options.socket, options.dialect
        feed_uid = None if options.feed_uid is None else user_id(options.feed_uid)
    else:
        socket, dialect, feed_uid = bridge.settings.socket, Dialect.auto, os.geteuid()
    return Settings(
        name=options.name,
        socket=socket,
        feed_uid=feed_uid,
        dialect=dialect.value,
        capacities=Capacities(
            options.max_pools, parse_size(options.tick_bytes), parse_undo(options.undo_bytes)
        ),
        access=Access(parse_mode(options.mode), options.group),
        chain_id=chain_id,
        preset=options.preset.value,
        buffer_events=options.buffer_events,
        scrape_timeout_s=options.scrape_timeout,
        gap_timeout_s=options.gap_timeout,
        keep_segment=options.keep_segment,
        metrics_port=options.metrics_port,
        state_folder=folder,
        checkpoint_every=options.checkpoint_every,
        audit_every=options.audit_every,
        audit_pools=options.audit_pools,
        starts_cold=options.cold_start,
        feed_realtime=options.feed_realtime,
    )
