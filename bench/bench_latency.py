"""From a block that is due to a waiting reader's quote on it: how long, and how far above two wake-ups?

A real arena-writer process reads a real Unix socket; blocks of three updates come every two milliseconds; a
reader process waits in Arena.wait_block and quotes a pool. Baseline, in turns with it: C processes that do
nothing but wake each other (floor.c), through a socket as the writer is, and on a futex as the reader is.
With --realtime all of them run under SCHED_FIFO, which takes away what other programs on the machine do.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Report, Row, arguments
from live import PACE_NS, hex_keys, latency, random_keys, renumber, write_states
from workload import blocks, encode

import arena
from arena.native import lib

FLOOR = Path(__file__).with_name("floor.c")


def compile_floor(folder: Path) -> Path | None:
    """The program of two wake-ups; None without a C compiler."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    program = folder / "floor"
    subprocess.run([compiler, "-O2", "-o", str(program), str(FLOOR)], check=True)
    return program


def floor_samples(program: Path, count: int) -> list[float]:
    done = subprocess.run(
        [str(program), str(count), str(PACE_NS)], capture_output=True, text=True, check=True
    )
    return [int(line) / 1e9 for line in done.stdout.split()]


def measure(report: Report, program: Path | None, folder: Path, rounds: int, count: int) -> None:
    raw = random_keys(2_000)
    path, states = folder / "feed.sock", folder / "states.jsonl"
    write_states(states, hex_keys(raw))
    name = f"psa-bench-latency-{os.getpid()}"
    command = [str(Path(sys.executable).parent / "arena-writer"), "run", "--name", name]
    floor = Row("two wake-ups in C", 1)
    row = Row("", 1)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        writer = subprocess.Popen(
            [*command, "--socket", str(path), "--states", str(states)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            connection, _ = server.accept()
            first = blocks(raw[:-3], 300, 0.1, first=2, seed=0)
            connection.sendall(renumber([encode(first, lib.PSA_DIALECT_EXEX)])[0])
            with arena.attach(name, timeout=60) as pools:
                while pools.phase != "live" or pools.head_block < 2:
                    assert writer.poll() is None, writer.stderr.read().decode()[-2000:]  # type: ignore[union-attr]
                    time.sleep(0.01)
                head = pools.head_block
                for _ in range(rounds):
                    if program is not None:
                        floor.add_round(floor_samples(program, count))
                    found = latency(connection, name, raw, head, count)
                    row.name, row.note = found.name, found.note
                    row.add_round(found.samples)
                    head += count
                assert pools.phase == "live"
                assert pools.head_block == head
        finally:
            writer.terminate()
            writer.communicate()
    report.add(row)
    if program is None:
        print("skipped: two wake-ups in C, for want of a compiler (cc, gcc or clang)")
        return
    report.add(floor)
    row.ratio = report.compare(row, floor, at_most=2)


def main() -> None:
    options = arguments(__doc__ or "", switches={"realtime": "run everything under SCHED_FIFO"})
    report = Report((__doc__ or "").splitlines()[0])
    rounds, count = (2, 50) if options.smoke else (options.repeat, 400)
    report.facts["scheduling"] = "SCHED_FIFO" if options.realtime else "as it was"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        program = compile_floor(folder)
        if options.realtime:  # every process started from here on has it, too
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        measure(report, program, folder, rounds, count)
    report.show(options)


if __name__ == "__main__":
    main()
