"""Messages between supervisor and runner arrive unchanged, or are refused."""

from __future__ import annotations

import io
import os
import resource

import pytest

from nestor_worker import channel
from nestor_worker.channel import (
    Begin,
    ChannelBroken,
    Checkpoint,
    Distributed,
    Ended,
    Failed,
    LogLine,
    Result,
    Snapshot,
    Started,
    Stepped,
    Stop,
)
from nestor_worker.supervisor import buffer
from nestor_worker.supervisor.buffer import RecordBuffer

DISTRIBUTION = {"quantiles": [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0], "first": 0, "width": 1.0, "counts": [1, 0, 0, 1]}
MESSAGES = [
    Started([{"name": "l2", "shape": [2], "dtype": "float32", "transform": "exp"}]),
    Stepped({"number": 1, "val_loss": 0.1}, 2.5),
    Distributed({"number": 1, "tensors": {"l2": DISTRIBUTION}}),
    Snapshot(3, "snapshot-3.safetensors", [2]),
    Checkpoint(3, "checkpoint-3.safetensors"),
    Result(2, "result-2.safetensors"),
    LogLine(3, "two\nlines and λ", "warning"),
    Ended(3, True),
    Failed("diverged", "Step 3: …"),
    Begin(),
    Stop(),
    Stop(evaluate=True),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_survives_the_channel(message):
    line = channel.encode(message)
    assert line.count(b"\n") == 1
    assert list(channel.messages(io.BytesIO(line))) == [message]


def test_a_truncated_last_line_is_not_a_message():
    line = channel.encode(MESSAGES[0])
    assert list(channel.messages(io.BytesIO(line + line[:-5]))) == MESSAGES[:1]


def test_a_number_that_json_cannot_represent_is_never_sent():
    with pytest.raises(ValueError, match="JSON compliant"):
        channel.encode(Stepped({"val_loss": float("nan")}))


NO_MESSAGES = [
    "hello",
    "[1]",
    "null",
    '{"do": "dance"}',
    '{"do": ["stop"]}',
    '{"do": "ended"}',
    '{"do": "stop", "x": 1}',
    '{"do": "stop", "evaluate": "true"}',
    '{"do": "logline", "step": "1", "text": ""}',
    '{"do": "logline", "step": -1, "text": ""}',
    '{"do": "logline", "step": 2147483648, "text": ""}',
    '{"do": "logline", "step": true, "text": ""}',
    '{"do": "logline", "step": 1, "text": {"a": 1}}',
    '{"do": "logline", "step": 1, "text": "", "level": [1]}',
    '{"do": "logline", "step": 1, "text": "%s"}' % ("x" * (2**20 + 1)),
    '{"do": "started", "hyperparameters": {}}',
    '{"do": "result", "step": 1, "file": "%s"}' % ("x" * 256),
    '{"do": "snapshot", "step": 1, "file": "a", "replaces": ["1"]}',
    *(
        f'{{"do": "stepped", "record": {{}}, "seconds": {seconds}}}'
        for seconds in ("-1", "1e999", "NaN", '"1"', "null")
    ),
    "[" * 100_000,
    '{"do": "logline", "text": "", "step": %s}' % ("9" * 10_000),
]


@pytest.mark.parametrize("line", NO_MESSAGES, ids=lambda line: line[:60])
def test_an_invalid_message_is_refused_in_a_short_sentence(line: str):
    with pytest.raises(ChannelBroken) as refused:
        channel.decode(f"{line}\n".encode())
    assert len(str(refused.value)) < 2_000


def test_a_line_without_end_is_not_read_to_its_end():
    endless = io.BytesIO(bytes(2 * channel.MAX_LINE))
    with pytest.raises(ChannelBroken, match="longer than"):
        list(channel.messages(endless))
    assert endless.tell() == channel.MAX_LINE


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    name = channel.write_file(tmp_path, "a", b"bytes")
    assert channel.read_file(tmp_path, name, limit=5) == b"bytes"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_file_that_does_not_fit_on_the_disk_leaves_nothing_behind(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            channel.write_file(tmp_path, "a", bytes(2_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_runner_cannot_have_other_files_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    work = tmp_path / "work"
    work.mkdir()
    (work / "link").symlink_to(tmp_path / "secret")
    (work / "large").write_bytes(b"123456")
    os.mkfifo(work / "pipe")
    for name in ("../secret", str(tmp_path / "secret"), "link", "large", "absent", "."):
        with pytest.raises(ChannelBroken):
            channel.read_file(work, name, limit=5)
    assert (tmp_path / "secret").exists()


UNBOUNDED = [
    Distributed({"number": 1, "tensors": {"l2": DISTRIBUTION | change}})
    for change in ({"counts": [1] * 65}, {"quantiles": [0.0] * 8}, {"width": float("inf")}, {"counts": [-1]}, {"x": 1})
]
FORBIDDEN = [Stepped({"number": 1}), *UNBOUNDED, Stop(), Snapshot(1, "../a")]


@pytest.mark.parametrize("message", FORBIDDEN, ids=str)
def test_a_forbidden_message_of_a_runner_reaches_no_transaction(tmp_path, message):
    gathered = RecordBuffer(tmp_path, max_bytes=100)
    with pytest.raises(ChannelBroken):
        gathered.add(message)
    assert not gathered.batch()


def test_a_missing_file_reaches_no_transaction(tmp_path):
    gathered = RecordBuffer(tmp_path, max_bytes=100)
    gathered.add(Snapshot(1, "absent"))
    with pytest.raises(ChannelBroken):
        gathered.batch()
    assert not gathered.batch()


@pytest.fixture
def gathered(tmp_path) -> RecordBuffer:
    return RecordBuffer(tmp_path, max_bytes=2**30)


def test_a_batch_stays_the_same_until_it_is_recorded(gathered, tmp_path):
    """Its commit may have succeeded unnoticed. Another batch under the same number would lose its new messages."""
    gathered.add(LogLine(1, "first"))
    first = gathered.batch()
    gathered.add(LogLine(2, "second"))
    assert gathered.batch() is first
    gathered.recorded()
    second = gathered.batch()
    assert ([log.text for log in first.logs], [log.text for log in second.logs]) == (["first"], ["second"])
    assert (first.number, second.number) == (1, 2)
    gathered.recorded()
    assert not gathered.batch()


def test_files_stay_on_disk_until_they_are_recorded_with_as_many_checkpoints_as_are_kept(gathered, tmp_path):
    for step in range(5):
        gathered.add(Result(step, channel.write_file(tmp_path, f"result-{step}", b"%d" % step)))
        gathered.add(Checkpoint(step, channel.write_file(tmp_path, f"checkpoint-{step}", b"%d" % step)))
        gathered.add(Snapshot(step, channel.write_file(tmp_path, f"snapshot-{step}", b"%d" % step)))
    assert len(list(tmp_path.iterdir())) == 5 + 2 + 2
    batch = gathered.batch()
    assert [kept.step for kept in batch.checkpoints] == [kept.step for kept in batch.results] == [3, 4]
    assert [kept.step for kept in batch.snapshots] == [0, 1, 2, 3, 4]
    assert len(list(tmp_path.iterdir())) == 5 + 2 + 2
    gathered.recorded()
    assert list(tmp_path.iterdir()) == [tmp_path / "checkpoint-4"]
    assert gathered.checkpoint() == b"4"


def test_a_batch_is_no_larger_than_it_must_be(gathered, tmp_path, monkeypatch):
    monkeypatch.setattr(buffer, "LARGE_BYTES", 100)
    for step in range(3):
        gathered.add(Snapshot(step, channel.write_file(tmp_path, f"snapshot-{step}", bytes(60))))
    assert gathered.is_large
    sizes = []
    while batch := gathered.batch():
        sizes.append(len(batch.snapshots))
        gathered.recorded()
    assert sizes == [2, 1]
