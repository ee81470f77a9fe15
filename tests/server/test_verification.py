"""What a server knows of running uploads, and the check of numbers while they arrive."""

from __future__ import annotations

import hashlib
import json
import os
import random
from uuid import uuid4

import numpy as np
import pytest
from safetensors.numpy import save

from nestor_server.models import Blob
from nestor_server.storage.number_check import NumberCheck
from nestor_server.storage.verification import Verification, Verifications

TENSORS = {
    "a": np.array([1.0, np.nan, np.inf]),
    "b": np.zeros(0, np.float32),
    "c": np.array([[1, np.inf], [2, 3]], np.float32),
    "d": np.ones(5, np.float16),
    "e": np.array([-np.inf, np.nan], np.float16),
    "f": np.array([2**15 - 1, -1], np.int16),  # as a half it is a NaN
    "g": np.array(-np.inf),
    "h": np.array([True, False, True]),
}


def checked(data: bytes, cuts: list[int], size: int | None = None) -> dict[str, list[int]]:
    """What is found if `data` arrives in the pieces that end at `cuts`."""
    check, start = NumberCheck(len(data) if size is None else size), 0
    for cut in [*cuts, len(data)]:
        check.update(data[start:cut])
        start = cut
    return check.not_finite


def names(data: bytes, found: dict[str, list[int]]) -> dict[str, set[str]]:
    """The names in place of the positions."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    in_order = sorted(header, key=lambda name: header[name]["data_offsets"])
    return {kind: {in_order[position] for position in positions} for kind, positions in found.items()}


def file(entries: dict[str, object], numbers: bytes) -> bytes:
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + numbers


@pytest.mark.parametrize("seed", range(30))
def test_what_is_not_finite_is_found_however_the_bytes_are_cut(seed):
    data, draw = save(TENSORS), random.Random(seed)
    cuts = sorted(draw.choices(range(len(data)), k=draw.choice((0, 1, 5, 100))))
    assert names(data, checked(data, cuts)) == {"nan": {"a", "e"}, "infinite": {"c", "g"}}


def test_bytes_that_arrive_one_by_one_are_checked():
    data = save(TENSORS)
    assert names(data, checked(data, list(range(len(data))))) == {"nan": {"a", "e"}, "infinite": {"c", "g"}}


@pytest.mark.parametrize(
    ("number", "found"), [(0x3F80, ([], [])), (0x7F80, ([], [0])), (0xFF80, ([], [0])), (0x7FC0, ([0], []))]
)
def test_bfloats_are_checked(number, found):
    data = file({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, 2 * number.to_bytes(2, "little"))
    assert checked(data, [len(data) - 3]) == {"nan": found[0], "infinite": found[1]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"short",
        b"\xff" * 100,
        bytes(100),
        file({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 8]}}, b"\xff" * 8),
        save({"x": np.array([np.nan])})[:-1],
        save({"x": np.array([np.nan])})[:20],
    ],
)
def test_other_files_have_no_numbers(data):
    assert checked(data, [3, 9]) == {"nan": [], "infinite": []}


def test_the_memory_of_a_check_is_that_of_its_header():
    data = save({f"{i:05}": np.ones(100, np.float32) for i in range(1000)})
    check = NumberCheck(len(data))
    start = 8 + int.from_bytes(data[:8], "little")
    check.update(data[: start - 1])
    assert check.nbytes == pytest.approx(start, rel=0.01)
    check.update(data[start - 1 :])
    assert check.nbytes < 10_000
    announced = NumberCheck(2**33)
    announced.update((2**24 + 1).to_bytes(8, "little") + bytes(1000))  # a header above the limit is not waited for
    assert announced.nbytes < 1000


def test_a_state_does_not_change_when_bytes_follow():
    data = save({"x": np.array([1.0, 2.0, np.nan])})
    before = Verification(len(data)).after(data[:-8])
    finite = before.after(np.array([3.0]).tobytes())
    assert before.after(data[-8:]).not_finite == {"nan": [0], "infinite": []}
    assert before.digest == "sha256:" + hashlib.sha256(data[:-8]).hexdigest()
    assert before.not_finite == finite.not_finite == {"nan": [], "infinite": []}
    assert before.position == len(data) - 8
    assert before.after(data[-8:]).digest == "sha256:" + hashlib.sha256(data).hexdigest()


def upload(offset: int) -> Blob:
    return Blob(id=uuid4(), size=100, offset=offset)


def test_the_states_that_were_not_continued_for_longest_are_dropped():
    one = Verification(100).after(os.urandom(10))
    states, uploads = Verifications(3 * one.nbytes), [upload(10) for _ in range(4)]
    for blob in uploads[:3]:
        states.keep(blob.id, one)
    states.keep(uploads[0].id, one)
    states.keep(uploads[3].id, one)
    assert [states.of(blob).position for blob in uploads] == [10, 0, 10, 10]


def test_a_state_is_used_up_to_the_offset_of_its_upload_and_replaced_by_later_ones_only():
    states, blob = Verifications(10_000), upload(20)
    early = Verification(100).after(bytes(10))
    late = early.after(bytes(10))
    states.keep(blob.id, late)
    states.keep(blob.id, early)
    assert states.of(blob) is late
    blob.offset = 15  # a database that was put back
    assert states.of(blob).position == 0
    assert states.of(upload(20)).position == 0


def test_nothing_is_kept_of_an_upload_that_ended():
    states, blob = Verifications(10_000), upload(100)
    states.keep(blob.id, Verification(100).after(bytes(10)))
    states.keep(blob.id, Verification(100).after(bytes(100)))
    assert states.of(blob).position == 0
