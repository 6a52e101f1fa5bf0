"""How long does the replay of 60,000 buffered events take at start-up?

Timed: EventBuffer.records() and psa_apply of all kept blocks through WriterArena, commits at most one a
millisecond, as the start-up does. Excluded: filling the buffer. Baseline: one memcpy of the records.
"""

import os

import numpy as np
from harness import Report, against, alternate, arguments
from workload import blocks, symmetric_ticks

from arena.specs import PoolSpec, TokenSpec
from arena.values import PoolValues
from arena.writer.stream.history import EventBuffer
from arena.writing import WriterArena


def main() -> None:
    options = arguments(__doc__ or "")
    report = Report((__doc__ or "").splitlines()[0])
    count, pools = (3_000, 100) if options.smoke else (60_000, 5_000)
    name = f"psa-bench-replay-{os.getpid()}"
    keys = np.random.default_rng(3).integers(0, 256, (pools, 32), dtype="u1")
    keys[:, 20:] = 0
    token = TokenSpec(address=bytes(20), decimals=18, symbol="T")
    ticks, liquidity = symmetric_ticks(60)
    with WriterArena.create(name, max_pools=pools, tick_bytes=256 << 20) as owner:
        try:
            for key in keys:
                spec = PoolSpec(
                    key=key[:20].tobytes(),
                    protocol=1,
                    token0=token,
                    token1=token,
                    fee_pips=3000,
                    tick_spacing=10,
                    factory=bytes(20),
                    hooks=bytes(20),
                )
                values = PoolValues(
                    block_number=0,
                    fee_pips=3000,
                    sqrt_price_x96=1 << 96,
                    liquidity=liquidity,
                    ticks=ticks,
                )
                owner.install(owner.add_pool(spec), values, status=2)
            owner.commit()
            buffers = []
            for turn in range(options.repeat + 1):
                buffer = EventBuffer(count + 1_000)
                first = 1 + turn * (count // 300)
                buffer.append(blocks(keys, count, 0.1, first=first, seed=turn))
                assert buffer.event_count == count
                buffers.append(buffer)
            turns = iter(buffers)
            target = np.zeros_like(buffers[0].records())

            def replay() -> None:
                owner.apply(next(turns).records(), min_commit_ns=1_000_000)
                owner.commit()

            replayed, copied = alternate(
                [
                    (f"replay of {count:,} events, 10% liquidity changes", 1, replay),
                    ("memcpy of their records", 1, lambda: np.copyto(target, buffers[0].records())),
                ],
                options.repeat,
            )
            replayed.target = "<= 50 ms"
            report.add(copied)
            report.add(against(replayed, copied))
            assert owner.head_block == (options.repeat + 1) * (count // 300)
            assert owner.take_faults() == ([], 0)
        finally:
            owner.close(unlink=True)
    report.facts["events"] = (
        f"{count:,} over {pools:,} pools, {buffers[0].records().nbytes:,} bytes"
    )
    report.show(options)


if __name__ == "__main__":
    main()
