"""Programs and data sets: what the server refuses, and that trials use only those of their owner."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import event, func, select

from nestor.program_format.limits import FORMAT
from nestor.schemas import CHUNK_BYTES
from nestor_server.models import Blob, Dataset, Program
from nestor_server.storage import tensor_blobs
from tests.server.conftest import SPEC, ok, problem
from tests.server.test_blobs import announce, digest_of, put
from tests.support.programs import TENSORS, document

GRAPHS = document()


def columns(n: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.ones((n, 2), np.float32), "y": np.arange(n)}


def upload_dataset(http, train: bytes, val: bytes, test: bytes | None = None):
    splits = {"train": train, "val": val} | ({} if test is None else {"test": test})
    return http.post("/datasets", json={name: put(http, data) for name, data in splits.items()})


def upload_program(http, graphs, tensors: bytes):
    data = graphs if isinstance(graphs, bytes) else json.dumps(graphs).encode()
    return http.post("/programs", json={"graphs": put(http, data), "tensors": put(http, tensors)})


def test_only_its_owner_can_submit_a_program_and_its_data(http, stranger, study):
    dataset = upload_dataset(http, save(columns(5)), save(columns(3)), save(columns(2)))
    assert dataset.status_code == 201
    assert dataset.json()["sizes"] == {"train": 5, "val": 3, "test": 2}
    program = upload_program(http, GRAPHS, save(TENSORS))
    assert program.status_code == 201
    assert program.json()["torch"] == "2.13"

    spec = SPEC | {"problem": {"program": program.json()["id"], "dataset": dataset.json()["id"]}}
    assert ok(http.post(f"/studies/{study}/trials", json=spec))["spec"]["problem"] == spec["problem"]
    theirs = ok(stranger.post("/studies", json={"name": "theirs"}))["id"]
    problem(stranger.post(f"/studies/{theirs}/trials", json=spec), 404, "program-not-found")
    own = ok(upload_program(stranger, GRAPHS, save(TENSORS)))["id"]
    spec["problem"]["program"] = own
    problem(stranger.post(f"/studies/{theirs}/trials", json=spec), 404, "dataset-not-found")
    assert ok(stranger.get(f"/studies/{theirs}/trials"))["items"] == []


def bf16(value: int) -> bytes:
    header = json.dumps({"x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    return len(header).to_bytes(8, "little") + header + value.to_bytes(2, "little")


def raw(header: object, data: bytes = b"") -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


X = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD_SPLITS = {
    "nothing": (b"", "eight bytes", "split-not-safetensors"),
    "cut header": (raw({"x": X})[:20], "header", "split-not-safetensors"),
    "absurd header": (b"\xff" * 8 + b"{}", "above the limit", "split-not-safetensors"),
    "no json": (raw(b"pickle" * 3), "not JSON", "split-not-safetensors"),
    "a list": (raw([1]), "not a JSON object", "split-not-safetensors"),
    "cut data": (raw({"x": X}, b"1234"), "byte", "split-not-safetensors"),
    "more data": (raw({"x": X}, b"0" * 12), "byte", "split-not-safetensors"),
    "wrong size": (raw({"x": X | {"shape": [3]}}, b"0" * 8), "does not match", "split-not-safetensors"),
    "overlap": (raw({"x": X, "y": X}, b"0" * 8), "do not follow", "split-not-safetensors"),
    "unknown type": (raw({"x": X | {"dtype": "OBJ"}}, b"0" * 8), "OBJ", "split-not-safetensors"),
    "negative shape": (raw({"x": X | {"shape": [-2]}}, b"0" * 8), "shape", "split-not-safetensors"),
    "no columns": (save({}), "no columns", "columns-missing"),
    "no examples": (save(columns(0)), "empty", "split-empty"),
    "uneven": (save({"x": np.ones((3, 2)), "y": np.arange(4)}), "x: 3, y: 4", "data-lengths-differ"),
    "a scalar": (save({"x": np.ones((), np.float32), "y": np.arange(1)}), "a scalar", "data-lengths-differ"),
    "reserved name": (save(columns() | {"index": np.arange(4)}), "'index'", "column-reserved"),
    "nan": (save({"x": np.array([1, np.nan])}), "NaN", "column-not-finite"),
    "infinite half": (save({"x": np.array([1, np.inf], np.float16)}), "infinite", "column-not-finite"),
    "infinite bfloat": (bf16(0x7F80), "infinite", "column-not-finite"),
}


@pytest.mark.parametrize(("data", "says", "code"), BAD_SPLITS.values(), ids=BAD_SPLITS)
def test_a_bad_split_is_refused_with_its_reason_and_nothing_is_kept(server, http, data, says, code):
    document = problem(upload_dataset(http, save(columns()), data), 422, code)
    assert says in document["detail"]
    assert document["context"]["split"] == "val"
    with server.sessions() as session:
        assert session.scalar(select(func.count()).where(Dataset.splits["val"].astext == digest_of(data))) == 0


@pytest.mark.parametrize("broken", [None, 21, 59])  # the tensor 21 lies across the border of two chunks
def test_each_chunk_is_read_once_however_many_tensors_it_holds(server, http, broken):
    tensors = {f"{i:02}": np.ones(40_001, np.float32) for i in range(60)} | {"integers": np.arange(100_000)}
    if broken is not None:
        tensors[f"{broken:02}"][-1] = np.nan
    digest, statements = put(http, save(tensors)), []

    def note(connection, cursor, statement, *rest):
        statements.append(statement)

    with server.sessions() as session:
        blob = session.scalars(select(Blob).where(Blob.digest == digest)).one()
        header = tensor_blobs.header(session, blob)
        engine = session.get_bind()
        event.listen(engine, "before_cursor_execute", note)
        try:
            found = tensor_blobs.first_not_finite(session, blob, header)
        finally:
            event.remove(engine, "before_cursor_execute", note)
    assert (found and found.name) == (None if broken is None else f"{broken:02}")
    assert len(statements) <= math.ceil(blob.size / CHUNK_BYTES) == 3


def test_a_number_that_is_not_finite_is_found_wherever_it_is(http):
    values = np.zeros(3_000_000, np.float32)  # three chunks
    values[2_345_678] = np.inf
    document = problem(upload_dataset(http, save({"x": values}), save(columns())), 422, "column-not-finite")
    assert "The column 'x' of the train split" in document["detail"]


def test_a_finite_bfloat_is_accepted(http):
    assert upload_dataset(http, bf16(0x3F80), bf16(0x3F80)).status_code == 201


def test_bytes_that_were_not_uploaded_are_not_found(http):
    train = put(http, save(columns()))
    other = save(columns(9))
    problem(http.post("/datasets", json={"train": train, "val": digest_of(other)}), 404, "blob-not-found")
    ok(announce(http, other))  # begun, not completed
    problem(http.post("/datasets", json={"train": train, "val": digest_of(other)}), 404, "blob-not-found")


def test_a_document_of_a_later_format_is_refused_with_its_reason(http):
    document = problem(
        upload_program(http, GRAPHS | {"format": FORMAT + 1}, save(TENSORS)), 422, "program-format-unknown"
    )
    assert f"format is {FORMAT + 1}" in document["detail"]


@pytest.mark.parametrize(
    ("tensors", "says", "code"),
    [
        (b"\x80\x04\x95 a pickle", "not safetensors", "program-invalid"),
        (save(TENSORS | {"params.w": np.array([np.nan])}), "NaN", "program-not-finite"),
        (save(TENSORS | {"params.w": np.array([np.inf])}), "infinite", "program-not-finite"),
        (save(TENSORS | {"constants.m": np.array([np.nan])}), "NaN", "program-not-finite"),
        (save(TENSORS | {"code.x": np.zeros(1)}), "'code.x'", "program-invalid"),
        (save({"params.w": np.zeros(1)}), "different hyperparameters", "program-invalid"),
    ],
    ids=["pickle", "nan", "infinite", "nan in a constant", "unknown root", "no hyperparameters"],
)
def test_bad_tensors_are_refused_with_their_reason(server, http, tensors, says, code):
    document = problem(upload_program(http, GRAPHS, tensors), 422, code)
    assert says in document["detail"]
    with server.sessions() as session:
        assert session.scalar(select(func.count()).where(Program.tensors == digest_of(tensors))) == 0


def test_a_mask_of_minus_infinity_is_accepted(server, http):
    tensors = save(TENSORS | {"constants.mask": np.array([0, -np.inf], np.float16)})
    assert upload_program(http, GRAPHS, tensors).status_code == 201
