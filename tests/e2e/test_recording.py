"""arena-record and arena-replay: what was sent is what is kept and served again, at its own times.

Streams come from the demo's recordings through a real socket; the expected frames are cut from their bytes
here. That a replayed chain gives the node's state is shown on a live chain.
"""

import contextlib
import json
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.history import frames_of
from chains.proof import Proof
from doubles.feed_server import FeedServer
from oracle import wire_oracle as oracle
from roles.processes import ReaderProcess, WriterProcess

import arena.writer.demo
from arena.errors import Deserialization
from arena.writer.producers.recording import FRAMES, HEADER, Cutter, load_recording, read_chunks
from arena.writer.producers.recording_file import RecordingFile

BIN = Path(sys.executable).parent
DEMO = Path(arena.writer.demo.__file__).parent
STREAM = (DEMO / "chain_reorg.exex").read_bytes()
SECONDS = 30.0


def begins_at(frame: bytes) -> int | None:
    """Block number of a BeginBlock frame of the exex dialect."""
    return int.from_bytes(frame[16:24], "little") if frame[4] == 1 else None


def between() -> list[int]:
    """Offsets behind which no block and no reorg is open."""
    found, offset, is_reorg = [], 0, False
    for frame in frames_of(STREAM):
        offset += len(frame)
        is_reorg = (is_reorg or frame[4] == 6) and frame[4] != 8
        if frame[4] in (3, 8) and not is_reorg:
            found.append(offset)
    return found


BETWEEN = between()


class Record:
    """`arena-record` as a process; a context manager that ends it with SIGTERM."""

    def __init__(self, folder: Path, source: Path, *more: str) -> None:
        self.file = folder / "stream.rec"
        self.log = folder / "record.log"
        command = [str(BIN / "arena-record"), str(self.file), "--socket", str(source), *more]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait_blocks(self, count: int) -> None:
        limit = time.monotonic() + SECONDS
        while not self.file.exists() or blocks_of(self.file) < count:
            assert time.monotonic() < limit, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS) == 0, self.log.read_text()

    def __enter__(self) -> "Record":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(SECONDS)


def blocks_of(path: Path) -> int:
    try:
        return load_recording(path).block_count
    except Deserialization:
        return 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FeedServer]:
    with FeedServer(tmp_path / "feed.sock", STREAM, tmp_path / "stream.bin") as made:
        yield made


def end_blocks(data: bytes) -> int:
    return sum(frame[4] == 3 for frame in frames_of(data))


def replayed(path: Path, folder: Path, *options: str) -> tuple[bytes, list[tuple[float, int]]]:
    """All bytes a client gets, reconnecting once disconnected, and when how many had come, the
    first time being that of the first connection."""
    place = folder / "replay.sock"
    command = [str(BIN / "arena-replay"), str(path), "--socket", str(place), "--linger", "0"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + SECONDS
    data = bytearray()
    times: list[tuple[float, int]] = []
    try:
        while process.poll() is None:
            assert time.monotonic() < limit
            with socket.socket(socket.AF_UNIX) as client:
                asked_at = time.monotonic()
                if client.connect_ex(str(place)):
                    time.sleep(0.01)
                    continue
                if not times:
                    times.append((asked_at, 0))
                with contextlib.suppress(ConnectionResetError):  # never accepted any more
                    while chunk := client.recv(1 << 16):
                        data += chunk
                        times.append((time.monotonic(), len(data)))
    finally:
        process.kill()
        _, problem = process.communicate()
    assert process.returncode == 0, problem
    return bytes(data), times


@pytest.mark.slow
def test_what_was_sent_is_kept_and_served_again(server: FeedServer, tmp_path: Path) -> None:
    with Record(tmp_path, server.socket_path) as record:
        server.await_clients(1)
        server.drip(0, len(STREAM), 1000, pause=0.002)
        record.wait_blocks(end_blocks(STREAM))
        record.stop()
    kept = load_recording(record.file)
    assert kept.data == STREAM
    assert kept.block_count == end_blocks(STREAM)
    assert list(kept.arrivals_ns) == sorted(kept.arrivals_ns)
    assert record.file.stat().st_size < len(STREAM)
    data, _ = replayed(record.file, tmp_path, "--at-once")
    assert data == STREAM


@pytest.mark.slow
def test_a_connection_joined_in_mid_block_begins_with_the_next(
    server: FeedServer, tmp_path: Path
) -> None:
    frames = frames_of(STREAM)
    second = [i for i, frame in enumerate(frames) if begins_at(frame) is not None][1]
    cut = len(b"".join(frames[: second - 2]))
    with Record(tmp_path, server.socket_path) as record:
        server.await_clients(1)
        server.send(cut, len(STREAM))
        record.wait_blocks(end_blocks(STREAM) - 1)
        record.stop()
    assert load_recording(record.file).data == b"".join(frames[second:])


@pytest.mark.slow
def test_connections_are_kept_apart(server: FeedServer, tmp_path: Path) -> None:
    """Whole blocks of both, nothing of the block that was cut; a client is disconnected between."""
    frames = frames_of(STREAM)
    starts = [i for i, frame in enumerate(frames) if begins_at(frame) is not None]
    first = len(b"".join(frames[: starts[5]]))
    third = len(b"".join(frames[: starts[5] + 1]))
    later = len(b"".join(frames[: starts[6]]))
    with Record(tmp_path, server.socket_path) as record:
        server.await_clients(1)
        server.send(0, third)
        server.drop()
        server.await_clients(2)
        server.send(later, len(STREAM))
        record.wait_blocks(end_blocks(STREAM) - 1)
        record.stop()
    kept = load_recording(record.file)
    assert kept.data == STREAM[:first] + STREAM[later:]
    assert len(kept.breaks) == 1
    data, _ = replayed(record.file, tmp_path, "--at-once")
    assert data == kept.data


@pytest.mark.slow
def test_blocks_are_served_at_the_times_they_came(server: FeedServer, tmp_path: Path) -> None:
    frames = frames_of(STREAM)
    starts = [i for i, frame in enumerate(frames) if begins_at(frame) is not None][:5]
    ends = [len(b"".join(frames[:index])) for index in starts[1:]]
    with Record(tmp_path, server.socket_path) as record:
        server.await_clients(1)
        at, sent = 0, []
        for end in ends:
            sent.append(time.time_ns())
            server.send(at, end)
            at = end
            time.sleep(0.4)
        record.wait_blocks(len(ends))
        record.stop()
    kept = load_recording(record.file)
    assert all(came >= at for came, at in zip(kept.arrivals_ns, sent, strict=True))
    apart = (kept.arrivals_ns[-1] - kept.arrivals_ns[0]) / 1e9
    assert apart > 0.4 * (len(ends) - 2)  # the first may be looked at late
    for speed in (1.0, 4.0):
        data, times = replayed(record.file, tmp_path, "--speed", str(speed))
        assert data == STREAM[: ends[-1]]
        assert times[-1][0] - times[0][0] >= apart / speed


@pytest.mark.slow
def test_a_killed_recorder_loses_only_what_was_not_written(
    server: FeedServer, tmp_path: Path
) -> None:
    half = BETWEEN[len(BETWEEN) // 2]
    with Record(tmp_path, server.socket_path) as record:
        server.await_clients(1)
        server.send(0, half)
        record.wait_blocks(end_blocks(STREAM[:half]))
        record.process.kill()
        record.process.wait()
    before = load_recording(record.file).data
    assert before == STREAM[:half]
    with Record(tmp_path, server.socket_path) as record:
        server.await_clients(2)
        server.send(half, len(STREAM))
        record.wait_blocks(end_blocks(STREAM))
        record.stop()
    kept = load_recording(record.file)
    assert kept.data == STREAM
    assert len(kept.breaks) == 1


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of several chunks."""
    folder = tmp_path_factory.mktemp("recorded")
    with (
        FeedServer(folder / "feed.sock", STREAM, folder / "stream.bin") as server,
        Record(folder, server.socket_path) as record,
    ):
        server.await_clients(1)
        at = 0
        for end in (BETWEEN[4], BETWEEN[8], len(STREAM)):
            server.send(at, end)
            at = end
            record.wait_blocks(end_blocks(STREAM[:end]))
        record.stop()
    assert len(list(read_chunks(record.file))) >= 3
    return record.file


@pytest.mark.slow
def test_a_truncated_file_gives_a_prefix(recorded: Path, tmp_path: Path) -> None:
    whole = recorded.read_bytes()
    cut = tmp_path / "cut.rec"
    for size in range(8, len(whole), 97):
        cut.write_bytes(whole[:size])
        ends = [header.end for header, _ in read_chunks(cut)]
        expected = [header.end for header, _ in read_chunks(recorded) if header.end <= size]
        assert ends == expected
        if expected:
            assert STREAM.startswith(load_recording(cut).data)
        else:
            with pytest.raises(Deserialization):
                load_recording(cut)


@pytest.mark.slow
def test_a_flipped_bit_is_noticed(recorded: Path, tmp_path: Path, rng: random.Random) -> None:
    """In the last chunk it may be one that was not written out; anywhere else it is an error, and
    nothing goes on with such a file."""
    whole = recorded.read_bytes()
    *others, _ = [header.end for header, _ in read_chunks(recorded)]
    lengths = [end + 40 for end in others[:-1]]  # of the content, in a header in the middle
    broken = tmp_path / "broken.rec"
    for at in (*lengths, *(rng.randrange(len(whole)) for _ in range(300))):
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.randrange(8)
        broken.write_bytes(changed)
        if at < others[-1]:
            with pytest.raises(Deserialization):
                load_recording(broken)
            with pytest.raises(Deserialization):
                RecordingFile(broken)
            assert broken.read_bytes() == changed
        else:
            found = load_recording(broken).data
            assert STREAM.startswith(found)
            assert len(found) < len(STREAM)


def test_the_index_names_the_blocks_of_each_chunk(recorded: Path) -> None:
    spans = [
        (header.first_block, header.last_block)
        for header, _ in read_chunks(recorded)
        if header.kind == FRAMES
    ]
    assert spans[0][0] == load_recording(recorded).first_block
    assert all(first <= last for first, last in spans)
    later = load_recording(recorded, from_block=spans[2][0])
    assert later.first_block == spans[2][0]
    assert STREAM.endswith(later.data)
    with pytest.raises(Deserialization, match="holds no block"):
        load_recording(recorded, from_block=10**6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--states", "s.jsonl"], "ValueError"),
        (["--from-block", "1000000"], "Deserialization"),
        (["--speed", "1", "--rate", "2"], ""),
    ],
)
def test_replay_refusals(recorded: Path, tmp_path: Path, options: list[str], name: str) -> None:
    command = [str(BIN / "arena-replay"), str(recorded), "--socket", str(tmp_path / "r.sock")]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=SECONDS, cwd=tmp_path
    )
    assert done.returncode == 2, done
    assert name in done.stderr


def test_a_file_that_is_no_recording_is_left_alone(server: FeedServer, tmp_path: Path) -> None:
    (tmp_path / "stream.rec").write_bytes(b"precious")
    with Record(tmp_path, server.socket_path) as record:
        assert record.process.wait(SECONDS) == 2
        assert "arena-record: Deserialization: " in record.log.read_text()
    assert record.file.read_bytes() == b"precious"


@pytest.mark.slow
def test_a_second_recorder_of_one_file_is_refused(server: FeedServer, tmp_path: Path) -> None:
    with Record(tmp_path, server.socket_path) as record:
        server.await_clients(1)
        server.send(0, BETWEEN[3])
        record.wait_blocks(end_blocks(STREAM[: BETWEEN[3]]))
        command = [
            str(BIN / "arena-record"),
            str(record.file),
            "--socket",
            str(tmp_path / "x.sock"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 2
        assert "is being written by another" in done.stderr
        record.stop()
    assert load_recording(record.file).data == STREAM[: BETWEEN[3]]


@pytest.mark.slow
def test_a_full_disk_ends_the_recording_with_what_was_written(
    server: FeedServer, tmp_path: Path
) -> None:
    """The limit on a file's size stands in for the end of the disk."""
    with Record(tmp_path, server.socket_path) as record:
        server.await_clients(1)
        server.send(0, BETWEEN[3])
        record.wait_blocks(end_blocks(STREAM[: BETWEEN[3]]))
        size = record.file.stat().st_size
        resource.prlimit(record.process.pid, resource.RLIMIT_FSIZE, (size + 100, size + 100))
        server.send(BETWEEN[3], len(STREAM))
        assert record.process.wait(SECONDS) == 2
        text = record.log.read_text()
        assert "arena-record: OSError: File too large: " in text
        assert str(record.file) in text
    assert record.file.stat().st_size == size
    assert load_recording(record.file).data == STREAM[: BETWEEN[3]]


def test_the_header_has_64_bytes() -> None:
    assert HEADER.size == 64


@pytest.mark.node
def test_a_recorded_live_chain_gives_the_nodes_state(tmp_path: Path, arena_name: str) -> None:
    """From its first state, and from the one kept last before a later block."""
    live = tmp_path / "live"
    live.mkdir()
    with Proof(live, arena_name, seed=71, pools=3) as proof:
        proof.wait_live()
        with Record(
            tmp_path, proof.socket, "--arena", arena_name, "--states-every", "15"
        ) as record:
            while "event=states_kept" not in record.log.read_text():
                proof.trade(1)
                time.sleep(0.05)
            for turn in range(40):
                proof.block()
                if turn % 8 == 7:
                    proof.reorg(3, "anvil_reorg")
                if turn == 20:
                    while record.log.read_text().count("event=states_kept") < 2:
                        proof.trade(1)
                        time.sleep(0.05)
                    proof.trade(5)
                    second = proof.node.block()["number"]
            proof.trade(5)
            proof.equal()
            block = proof.node.block()
            truth = proof.truth(block["hash"])
            limit = time.monotonic() + SECONDS
            while load_recording(record.file).last_block < block["number"]:
                assert time.monotonic() < limit, record.log.read_text()
                time.sleep(0.1)
            record.stop()
    with pytest.raises(Deserialization, match="holds no block"):
        load_recording(record.file, from_block=10**6)
    for from_block in (None, second):
        play(record.file, tmp_path, f"{arena_name}-again", block["number"], truth, from_block)


def play(
    recording: Path,
    folder: Path,
    name: str,
    last: int,
    truth: dict[str, Any],
    from_block: int | None,
) -> None:
    place, states = folder / "again.sock", folder / f"again-{from_block}.jsonl"
    command = [str(BIN / "arena-replay"), str(recording), "--socket", str(place), "--at-once"]
    command += ["--states", str(states), "--linger", "60"]
    if from_block is not None:
        command += ["--from-block", str(from_block)]
    (folder / f"writer-{from_block}").mkdir()
    with (
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as replay,
        WriterProcess(folder / f"writer-{from_block}", name=name, socket=place, states=states),
        ReaderProcess(folder, name) as reader,
    ):
        try:
            reader.expect(last, truth, settle=True, seconds=SECONDS)
            head = json.loads(states.read_text().split("\n")[0])["head_block"]
            assert from_block is None or head <= from_block
        finally:
            replay.terminate()


def test_the_end_of_a_reorg_that_lost_messages_hides_no_block() -> None:
    """Its frame is a faulty one; what it brought belongs to it, and the next block is cut as any."""
    no_range = {"first_block": None, "last_block": None, "block_count": 0}
    messages: list[dict[str, Any]] = [
        {"type": "ReorgStart", "stream_seq": 1, "old_range": no_range, "new_range": no_range},
        {"type": "ReorgComplete", "stream_seq": 5, "final_tip_block": 3},
    ]
    for number in (4, 5):
        seq = 6 + 2 * (number - 4)
        begin = {"block_number": number, "block_timestamp": 9, "base_fee_per_gas": 7}
        begin |= {"type": "BeginBlock", "stream_seq": seq, "is_revert": False}
        end = {"type": "EndBlock", "stream_seq": seq + 1, "block_number": number, "num_updates": 0}
        messages += [begin, end]
    cutter = Cutter()
    begin_first = {**messages[2], "stream_seq": 0 - 1 + 2**64, "block_number": 3}
    end_first = {**messages[3], "stream_seq": 0, "block_number": 3}
    steps = [
        cutter.step(oracle.stream_of([message], "g15"))
        for message in (begin_first, end_first, *messages)
    ]
    assert [step.ended for step in steps] == [(), (3,), (), (), (), (4,), (), (5,)]
    assert [step.closes for step in steps] == [False, False, False, True, *[False] * 4]
    assert [index for index, step in enumerate(steps) if step.status] == [3]


def test_states_of_a_block_that_is_reverted_later_are_not_used(tmp_path: Path) -> None:
    """From every block, with states kept wherever an arena can have been looked at."""
    path, cutter = tmp_path / "stream.rec", Cutter()
    kept: list[tuple[int, int]] = []  # (block number, offset behind it)
    reverted: set[int] = set()
    offset = number = 0
    writing = RecordingFile(path)
    writing.connect()
    for frame in frames_of(STREAM):
        offset += len(frame)
        begun = begins_at(frame)
        if begun is not None:
            reverted |= {at for block, at in kept if block >= begun}
            number = begun
        writing.add(frame, offset, cutter.step(frame), is_between=cutter.is_between)
        if offset in BETWEEN:
            writing.add_states(number, str(offset).encode())
            kept.append((number, offset))
    writing.close()
    valid = [(block, at) for block, at in kept if at not in reverted]
    assert len(reverted) >= 5
    for from_block in range(valid[0][0], load_recording(path).last_block):
        found = load_recording(path, from_block=from_block)
        states = max((block, at) for block, at in valid if block <= from_block)
        assert (found.states_block, found.states) == (states[0], str(states[1]).encode())
        assert STREAM.endswith(found.data)
        begun = [at for at in map(begins_at, frames_of(found.data)) if at is not None]
        assert begun[0] == min(begun) == states[0] + 1
    assert load_recording(path).states_block == valid[0][0]
