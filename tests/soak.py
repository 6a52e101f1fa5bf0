"""The live proof for as long as one likes: `python tests/soak.py --seconds 1200`.

Runs on the installed package, like the tests. A difference ends it with what differs; at the end, and
once a minute, it prints its totals. With `--faults` the node fails and lies by a seeded schedule
(tests/doubles/faults.py); the exit code is 1 when a reader saw a wrong state as live, an arena stayed live
behind the chain, or did not come back.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from chains.proof import Proof
from chains.storm import Storm


def storm(seed: int, seconds: float, embedded: bool, keeps_logs: bool) -> int:
    """Exit code."""
    folder = Path(tempfile.mkdtemp(prefix="psa-soak-"))
    print(f"seed {seed}, {seconds:g} s, logs in {folder}", flush=True)
    name = f"psa-soak-{os.getpid()}"
    found = Storm(folder, name, seed=seed, seconds=seconds, embedded=embedded).run()
    print(found)
    if found.is_good and not keeps_logs:
        shutil.rmtree(folder)
    return 0 if found.is_good else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--transport", choices=("ws", "ipc", "http"), default="ws")
    parser.add_argument("--faults", action="store_true", help="a node that fails and lies")
    parser.add_argument("--embedded", action="store_true", help="the writer's own bridge")
    parser.add_argument("--keep", action="store_true", help="leave the logs where they are")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # its processes end with it
    if options.faults:
        sys.exit(storm(options.seed, options.seconds, options.embedded, options.keep))
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
