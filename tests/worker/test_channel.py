"""What goes over the line between supervisor and runner arrives as it was said, or is refused."""

from __future__ import annotations

import io
import os

import pytest

from nestor_worker import channel
from nestor_worker.channel import ChannelBroken, Checkpoint, Ended, Failed, Said, Snapshot, Started, Stepped, Stop
from nestor_worker.gathering import Gathering

MESSAGES = [
    Started([{"name": "l2", "shape": [2], "dtype": "float32", "transform": "exp"}], "cpu", 0),
    Stepped({"number": 1, "val_loss": 0.1}),
    Snapshot(3, "snapshot-3.safetensors", 2),
    Checkpoint(3, "checkpoint-3.safetensors"),
    Said(3, "two\nlines and λ", "warning"),
    Ended(3, True),
    Failed("diverged", "Diverged", "Step 3: …"),
    Stop(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_survives_the_line(message):
    line = channel.encode(message)
    assert line.count(b"\n") == 1
    assert list(channel.messages(io.BytesIO(line))) == [message]


def test_a_last_line_that_death_cut_off_is_no_message():
    line = channel.encode(MESSAGES[0])
    assert list(channel.messages(io.BytesIO(line + line[:-5]))) == MESSAGES[:1]


def test_a_number_that_json_does_not_have_never_leaves():
    with pytest.raises(ValueError, match="JSON compliant"):
        channel.encode(Stepped({"val_loss": float("nan")}))


@pytest.mark.parametrize(
    "line", [b"hello\n", b"[1]\n", b'{"do": "dance"}\n', b'{"do": "ended"}\n', b'{"do": "stop", "x": 1}\n']
)
def test_what_is_no_message_is_refused(line: bytes):
    with pytest.raises(ChannelBroken):
        channel.decode(line)


def test_a_file_is_read_once_and_removed(tmp_path):
    name = channel.write_file(tmp_path, "a", b"bytes")
    assert channel.take_file(tmp_path, name, limit=5) == b"bytes"
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
            channel.take_file(work, name, limit=5)
    assert (tmp_path / "secret").exists()


@pytest.mark.parametrize("message", [Stepped({"number": 1}), Stop(), Snapshot(1, "absent")], ids=str)
def test_what_a_runner_may_not_say_reaches_no_transaction(tmp_path, message):
    gathered = Gathering(tmp_path, max_bytes=100)
    with pytest.raises(ChannelBroken):
        gathered.add(message)
    assert not gathered.take()
