"""The live proof for as long as one likes: `python tests/soak.py --seconds 1200`.

Runs on the installed package, like the tests. A difference ends it with what differs; at the end, and
once a minute, it prints its totals.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from node.proof import Proof


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--transport", choices=("ws", "ipc", "http"), default="ws")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.transport}, {options.seconds:g} s", flush=True)
    chance = random.Random(options.seed)
    with (
        tempfile.TemporaryDirectory(prefix="psa-soak-") as folder,
        Proof(
            Path(folder),
            f"psa-soak-{os.getpid()}",
            seed=options.seed,
            pools=12,
            transport=options.transport,
            # Without it this node moves states of a few blocks ago to disk and loses some.
            node_options=("--prune-history", "400"),
        ) as proof,
    ):
        proof.wait_live()
        began = told = time.monotonic()
        while (now := time.monotonic()) < began + options.seconds:
            if chance.random() < 0.05:
                proof.reorg(chance.randrange(1, 11), chance.choice(("anvil_reorg", "evm_revert")))
            else:
                proof.block(chance.randrange(20))
            if chance.random() < 0.1:
                proof.quotes(500)
                proof.swaps(5)
            if now >= told + 60:
                told = now
                print(f"{now - began:.0f} s: {proof.totals}", flush=True)
        proof.equal(every_word=True)
        assert proof.undisturbed(), proof.writer_log()[-4000:]
        print(f"{time.monotonic() - began:.0f} s: {proof.totals}, 0 differences")


if __name__ == "__main__":
    main()
