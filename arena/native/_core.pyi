"""What the compiled module offers, for type checkers; a test holds the names equal to the headers.

Pointers are Any: cffi checks their types when a function is called. Buffers may be bytes.
"""

from typing import Any, Final

ffi: Any  # cffi.FFI; its own stubs know no numpy arrays and no struct fields

class Lib:
    PSA_UNISWAP_V2: Final[int]
    PSA_UNISWAP_V3: Final[int]
    PSA_UNISWAP_V4: Final[int]
    PSA_EKUBO: Final[int]
    PSA_CURVE_STABLE: Final[int]
    PSA_CURVE_TWOCRYPTO: Final[int]
    PSA_CURVE_TRICRYPTO: Final[int]
    PSA_BALANCER_V2_WEIGHTED: Final[int]
    PSA_FLUID: Final[int]
    PSA_SOLIDLY: Final[int]
    PSA_PROTOCOL_UNKNOWN: Final[int]
    PSA_STATUS_ABSENT: Final[int]
    PSA_STATUS_SYNCING: Final[int]
    PSA_STATUS_LIVE: Final[int]
    PSA_STATUS_STALE: Final[int]
    PSA_STATUS_REMOVED: Final[int]
    PSA_UNSURE_PRICE: Final[int]
    PSA_UNSURE_TICKS: Final[int]
    PSA_UNSURE_ALL: Final[int]
    PSA_UNSURE_UNREAD: Final[int]
    PSA_POOL_HOOKED: Final[int]
    PSA_POOL_DYNAMIC_FEE: Final[int]
    PSA_STATE_CREATING: Final[int]
    PSA_STATE_READY: Final[int]
    PSA_STATE_CLOSED: Final[int]
    PSA_PHASE_STARTING: Final[int]
    PSA_PHASE_CONNECTING: Final[int]
    PSA_PHASE_BUFFERING: Final[int]
    PSA_PHASE_SCRAPING: Final[int]
    PSA_PHASE_REPLAYING: Final[int]
    PSA_PHASE_LIVE: Final[int]
    PSA_PHASE_GAP: Final[int]
    PSA_PHASE_STOPPED: Final[int]
    PSA_COUNTER_BLOCKS: Final[int]
    PSA_COUNTER_BLOCKS_REVERTED: Final[int]
    PSA_COUNTER_COMMITS: Final[int]
    PSA_COUNTER_EVENTS_APPLIED: Final[int]
    PSA_COUNTER_EVENTS_SKIPPED: Final[int]
    PSA_COUNTER_EVENTS_UNSUPPORTED: Final[int]
    PSA_COUNTER_REORGS: Final[int]
    PSA_COUNTER_EPILOGUES: Final[int]
    PSA_COUNTER_POOLS_STALE: Final[int]
    PSA_COUNTER_FRAMES: Final[int]
    PSA_COUNTER_BYTES: Final[int]
    PSA_COUNTER_CONNECTIONS: Final[int]
    PSA_COUNTER_GAPS: Final[int]
    PSA_COUNTER_ARENA_FULL: Final[int]
    PSA_COUNTER_AUDITED: Final[int]
    PSA_COUNTER_AUDIT_DIFFERENCES: Final[int]
    PSA_COUNTER_FAULTS: Final[int]
    PSA_COUNTER_UNSUPPORTED: Final[int]
    PSA_COUNTER_APPLIED: Final[int]
    PSA_COUNTER_KINDS: Final[int]
    PSA_SLAB_CLASSES: Final[int]
    PSA_SLAB_TICKS: Final[int]
    PSA_UNDO_LINE: Final[int]
    PSA_UNDO_TICK: Final[int]
    PSA_UNDO_FEES: Final[int]
    PSA_COUNTERS: Final[int]
    PSA_EVENT_NONE: Final[int]
    PSA_EVENT_BEGIN_BLOCK: Final[int]
    PSA_EVENT_END_BLOCK: Final[int]
    PSA_EVENT_REORG_START: Final[int]
    PSA_EVENT_REORG_COMPLETE: Final[int]
    PSA_EVENT_RESYNC_POOL: Final[int]
    PSA_EVENT_IGNORED: Final[int]
    PSA_EVENT_V2_SYNC: Final[int]
    PSA_EVENT_V2_DELTA: Final[int]
    PSA_EVENT_CL_SWAP: Final[int]
    PSA_EVENT_CL_LIQUIDITY: Final[int]
    PSA_EVENT_SLOT0_FINAL: Final[int]
    PSA_EVENT_V2_FINAL: Final[int]
    PSA_EVENT_UNSUPPORTED: Final[int]
    PSA_EVENT_INVALID: Final[int]
    PSA_EVENT_PROTOCOL_FEE: Final[int]
    PSA_UPDATE_SWAP: Final[int]
    PSA_UPDATE_MINT: Final[int]
    PSA_UPDATE_BURN: Final[int]
    PSA_UPDATE_OTHER: Final[int]
    PSA_EVENT_IS_REVERT: Final[int]
    PSA_EVENT_IN_BLOCK: Final[int]
    PSA_EVENT_V4_MODIFY: Final[int]
    PSA_EVENT_HAS_BASE_FEE: Final[int]
    PSA_EVENT_OPAQUE: Final[int]
    PSA_EVENT_LATE_BODY: Final[int]
    PSA_EVENT_HAS_FEES: Final[int]
    PSA_HAS_POOL_ID: Final[int]
    PSA_HAS_SQRT_PRICE: Final[int]
    PSA_HAS_TICK: Final[int]
    PSA_HAS_LIQUIDITY: Final[int]
    PSA_HAS_TICK_LOWER: Final[int]
    PSA_HAS_TICK_UPPER: Final[int]
    PSA_HAS_LIQUIDITY_DELTA: Final[int]
    PSA_HAS_SWAP_FEE: Final[int]
    PSA_DIALECT_UNKNOWN: Final[int]
    PSA_DIALECT_SEED_TAGGED: Final[int]
    PSA_DIALECT_SEED_INDEXED: Final[int]
    PSA_DIALECT_EXEX: Final[int]
    PSA_DIALECT_BRIDGE: Final[int]
    PSA_FEED_START: Final[int]
    PSA_FEED_IDLE: Final[int]
    PSA_FEED_IN_BLOCK: Final[int]
    PSA_FEED_SKIP: Final[int]
    PSA_FEED_DEAD: Final[int]
    PSA_FAULT_NONE: Final[int]
    PSA_FAULT_FRAME_LENGTH: Final[int]
    PSA_FAULT_MALFORMED: Final[int]
    PSA_FAULT_GENERATION: Final[int]
    PSA_FAULT_OUTSIDE_BLOCK: Final[int]
    PSA_FAULT_OTHER_BLOCK: Final[int]
    PSA_FAULT_REVERT_FLAG: Final[int]
    PSA_FAULT_COUNT: Final[int]
    PSA_FAULT_NESTED: Final[int]
    PSA_FAULT_OUTSIDE_REORG: Final[int]
    PSA_FAULT_SEQUENCE: Final[int]
    PSA_FAULT_CONNECTION: Final[int]
    PSA_OK: Final[int]
    PSA_BAD_ARGUMENT: Final[int]
    PSA_LAYOUT_MISMATCH: Final[int]
    PSA_DAMAGED: Final[int]
    PSA_UNKNOWN_POOL: Final[int]
    PSA_POOL_REMOVED: Final[int]
    PSA_POOL_STALE: Final[int]
    PSA_SNAPSHOT_TOO_OLD: Final[int]
    PSA_CONTENDED: Final[int]
    PSA_BUFFER_TOO_SMALL: Final[int]
    PSA_CLOSED: Final[int]
    PSA_NO_MEMORY: Final[int]
    PSA_TIMED_OUT: Final[int]
    PSA_FULL_POOLS: Final[int]
    PSA_FULL_TICKS: Final[int]
    PSA_FULL_TOKENS: Final[int]
    PSA_FULL_SHM: Final[int]
    PSA_DESERIALIZATION: Final[int]
    PSA_INVALID_MESSAGE: Final[int]
    PSA_EVENTS_FULL: Final[int]
    PSA_BLOCK_TOO_LARGE: Final[int]
    PSA_UNSUPPORTED_GENERATION: Final[int]
    PSA_POOL_NOT_FOUND: Final[int]
    PSA_INVALID_EVENT_DATA: Final[int]
    PSA_ARITHMETIC_OVERFLOW: Final[int]
    PSA_UNSUPPORTED_PROTOCOL: Final[int]
    PSA_UNSUPPORTED_EVENT_TYPE: Final[int]
    PSA_REORG_TOO_DEEP: Final[int]
    PSA_REORG_MISMATCH: Final[int]
    PSA_AMOUNT_OUT_OF_RANGE: Final[int]
    PSA_PRICE_LIMIT: Final[int]
    PSA_INSUFFICIENT_LIQUIDITY: Final[int]
    PSA_NOT_INITIALIZED: Final[int]
    PSA_HOOKED_POOL: Final[int]
    PSA_DYNAMIC_FEE: Final[int]
    PSA_FEE_TOO_HIGH: Final[int]
    PSA_SWAP_REVERTS: Final[int]
    PSA_TICK_DATA: Final[int]
    PSA_FAULTS: Final[int]
    PSA_KEY_TEXT: Final[int]
    PSA_EXACT_OUT: Final[int]
    PSA_ALLOW_STALE: Final[int]
    PSA_ALLOW_DYNAMIC: Final[int]
    PSA_FEE_GIVEN: Final[int]
    PSA_ZERO_FOR_ONE: Final[int]
    PSA_ONE_POOL: Final[int]
    PSA_ALLOW_HOOKS: Final[int]
    PSA_FROM_PRICE: Final[int]
    PSA_PRICE_SPOT: Final[int]
    PSA_PRICE_MARGINAL: Final[int]
    PSA_PRICE_EFFECTIVE: Final[int]
    PSA_PRICE_IMPACT: Final[int]
    PSA_GROUP_LINES: Final[int]
    PSA_GROUP_RESERVES: Final[int]
    PSA_GROUP_PRICES: Final[int]
    PSA_PUMP_TURN: Final[int]
    PSA_PUMP_UNITS: Final[int]
    PSA_PUMP_LOST: Final[int]
    PSA_PUMP_REFUSED: Final[int]
    PSA_ROUTE_HOPS: Final[int]
    PSA_ROUTE_NONE: Final[int]
    PSA_ROUTE_TOKENS: Final[int]
    PSA_ROUTE_PARTS: Final[int]
    def psa_feed_open(self, feed: Any, dialect: int, /) -> None: ...
    def psa_feed_decode(
        self,
        feed: Any,
        bytes_: Any,
        nbytes: int,
        events: Any,
        capacity: int,
        consumed: Any,
        ready: Any,
        /,
    ) -> int: ...
    def psa_feed_close(self, feed: Any, pending_nbytes: int, /) -> int: ...
    def psa_encode(
        self,
        events: Any,
        count: int,
        dialect: int,
        source: Any,
        source_nbytes: int,
        out: Any,
        capacity: int,
        nbytes: Any,
        failed: Any,
        /,
    ) -> int: ...
    def psa_arena_nbytes(self, capacities: Any, /) -> int: ...
    def psa_arena_format(
        self, base: Any, nbytes: int, capacities: Any, generation: int, digest: Any, /
    ) -> int: ...
    def psa_arena_open(self, arena: Any, base: Any, nbytes: int, /) -> int: ...
    def psa_commit(self, writer: Any, /) -> int: ...
    def psa_abort(self, writer: Any, /) -> int: ...
    def psa_pin(self, arena: Any, record: Any, /) -> int: ...
    def psa_wait_commit(self, arena: Any, seen: int, timeout_ns: int, committed: Any, /) -> int: ...
    def psa_supersede(self, header: Any, /) -> None: ...
    def psa_pool_read(
        self, arena: Any, slot: int, generation: int, commit: int, line: Any, /
    ) -> int: ...
    def psa_pool_read_ticks(
        self,
        arena: Any,
        slot: int,
        generation: int,
        commit: int,
        line: Any,
        ticks: Any,
        net: Any,
        gross: Any,
        capacity: int,
        /,
    ) -> int: ...
    def psa_snapshot(
        self, arena: Any, pools: Any, count: int, commit: int, lines: Any, failed: Any, /
    ) -> int: ...
    def psa_snapshot_ticks(
        self,
        arena: Any,
        pools: Any,
        count: int,
        commit: int,
        lines: Any,
        starts: Any,
        ticks: Any,
        net: Any,
        gross: Any,
        capacity: int,
        failed: Any,
        /,
    ) -> int: ...
    def psa_changed(
        self,
        arena: Any,
        since: int,
        commit: int,
        first_block: int,
        pools: Any,
        capacity: int,
        count: Any,
        /,
    ) -> int: ...
    def psa_copy_read(
        self,
        arena: Any,
        slot: int,
        generation: int,
        commit: int,
        head: Any,
        arrays: Any,
        capacity: int,
        /,
    ) -> int: ...
    def psa_writer_open(
        self, writer: Any, base: Any, nbytes: int, fd: int, touched: Any, dirty: Any, /
    ) -> int: ...
    def psa_arena_copy(self, base: Any, nbytes: int, fd: int, from_: Any, /) -> int: ...
    def psa_store_release_u32(self, word: Any, value: int, /) -> None: ...
    def psa_store_release_u64(self, word: Any, value: int, /) -> None: ...
    def psa_load_acquire_u32(self, word: Any, /) -> int: ...
    def psa_load_acquire_u64(self, word: Any, /) -> int: ...
    def psa_phase_write(self, control: Any, phase: Any, /) -> None: ...
    def psa_phase_read(self, control: Any, phase: Any, /) -> int: ...
    def psa_find(self, arena: Any, key: Any, pool: Any, /) -> int: ...
    def psa_find_many(self, arena: Any, keys: Any, count: int, pools: Any, /) -> int: ...
    def psa_rows_read(
        self, arena: Any, pools: Any, count: int, rows: Any, failed: Any, /
    ) -> int: ...
    def psa_keys_read(
        self, arena: Any, pools: Any, count: int, text: Any, nbytes: Any, /
    ) -> int: ...
    def psa_token_add(self, writer: Any, token: Any, index: Any, /) -> int: ...
    def psa_pool_add(self, writer: Any, row: Any, slot: Any, /) -> int: ...
    def psa_pool_find(self, writer: Any, key: Any, slot: Any, /) -> int: ...
    def psa_slots_reclaim(self, writer: Any, /) -> int: ...
    def psa_pool_announce(self, writer: Any, slot: int, /) -> int: ...
    def psa_pool_remove(self, writer: Any, slot: int, /) -> int: ...
    def psa_pool_install(
        self, writer: Any, slot: int, line: Any, ticks: Any, gross: Any, net: Any, count: int, /
    ) -> int: ...
    def psa_pool_set_protocol_fee(
        self, writer: Any, slot: int, protocol_fee: int, block_number: int, /
    ) -> int: ...
    def psa_pool_set_status(self, writer: Any, slot: int, status: int, unsure: int, /) -> int: ...
    def psa_set_status_all(self, writer: Any, from_: int, to: int, unsure: int, /) -> int: ...
    def psa_apply(
        self, writer: Any, events: Any, count: int, min_commit_ns: int, only_slot: int, /
    ) -> int: ...
    def psa_blocks_follow(self, events: Any, count: int, tip: int, /) -> int: ...
    def psa_undo_clear(self, writer: Any, /) -> int: ...
    def psa_undo_set_hash(self, writer: Any, block_number: int, hash: Any, /) -> int: ...
    def psa_undo_blocks(self, writer: Any, numbers: Any, hashes: Any, capacity: int, /) -> int: ...
    def psa_sqrt_price_at_tick(self, tick: int, sqrt_price_x96: Any, /) -> int: ...
    def psa_tick_at_sqrt_price(self, sqrt_price_x96: Any, tick: Any, /) -> int: ...
    def psa_quote(
        self,
        arena: Any,
        slot: int,
        generation: int,
        commit: int,
        amount: Any,
        limit: Any,
        flags: int,
        lp_fee: int,
        result: Any,
        /,
    ) -> int: ...
    def psa_quote_batch(
        self,
        arena: Any,
        pools: Any,
        commit: int,
        amounts: Any,
        item_flags: Any,
        flags: int,
        count: int,
        results: Any,
        /,
    ) -> int: ...
    def psa_quote_copy(
        self, pool: Any, amount: Any, limit: Any, flags: int, lp_fee: int, result: Any, /
    ) -> int: ...
    def psa_functions(self) -> Any: ...
    def psa_depth_capacity(self, pool: Any, flags: int, lp_fee: int, /) -> int: ...
    def psa_depth_build(
        self, pool: Any, flags: int, lp_fee: int, rungs: Any, capacity: int, depth: Any, /
    ) -> int: ...
    def psa_depth_quote(
        self,
        pool: Any,
        depth: Any,
        amounts: Any,
        limit: Any,
        flags: int,
        lp_fee: int,
        count: int,
        results: Any,
        /,
    ) -> int: ...
    def psa_quote_price(self, result: Any, which: int, price: Any, /) -> int: ...
    def psa_quote_prices(self, results: Any, count: int, which: int, prices: Any, /) -> None: ...
    def psa_copy_after(self, head: Any, ticks: Any, result: Any, /) -> int: ...
    def psa_group_read(self, arena: Any, group: Any, /) -> int: ...
    def psa_pump_run(self, pump: Any, limit_ns: int, /) -> int: ...
    def psa_route_new(self, route: Any, /) -> int: ...
    def psa_route_free(self, route: Any, /) -> None: ...
    def psa_route_build(
        self,
        route: Any,
        record: Any,
        lines: Any,
        rows: Any,
        references: Any,
        starts: Any,
        ticks: Any,
        net: Any,
        fees: Any,
        count: int,
        numeraire: int,
        whole: int,
        /,
    ) -> int: ...
    def psa_route_update(
        self, route: Any, arena: Any, record: Any, touched: Any, count: Any, /
    ) -> int: ...
    def psa_route_reprice(self, route: Any, log_prices: Any, floor: float, /) -> int: ...
    def psa_route_read_facts(self, route: Any, facts: Any, /) -> None: ...
    def psa_route_prices(self, route: Any, tokens: Any, log_prices: Any, by: Any, /) -> int: ...
    def psa_route_rates(self, route: Any, log_rates: Any, /) -> None: ...
    def psa_route_cycles(
        self,
        route: Any,
        seeds: Any,
        seed_count: int,
        max_hops: int,
        each: int,
        gas: Any,
        min_profit: float,
        answers: Any,
        capacity: int,
        count: Any,
        /,
    ) -> int: ...
    def psa_route_best(
        self,
        route: Any,
        sell: int,
        buy: int,
        amount: Any,
        exact_out: int,
        max_hops: int,
        gas: Any,
        answer: Any,
        /,
    ) -> int: ...
    def psa_route_split(
        self,
        route: Any,
        sell: int,
        buy: int,
        amount: Any,
        max_hops: int,
        gas: Any,
        parts: Any,
        count: Any,
        sum: Any,
        /,
    ) -> int: ...
    def psa_route_market(self, route: Any, log_prices: Any, parts: Any, sum: Any, /) -> int: ...
    def psa_route_same(self, one: Any, other: Any, /) -> int: ...

lib: Lib
