"""Data sets by reference over REST: what is recorded, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from sqlalchemy import select

from nestor_server.models import Blob
from nestor_server.storage import garbage_collection
from tests.server.conftest import ok, problem
from tests.server.test_blobs import digest_of, put

DIGEST = "sha256:" + "0" * 64


def column(n: int = 4, **changes: Any) -> dict[str, Any]:
    return {"source": "x", "dtype": "F32", "shape": [n, 2]} | changes


def split(*, uploaded: str | None = None, columns: Any = None, **changes: Any) -> dict[str, Any]:
    file = {"uri": "file:///data/a.safetensors", "digest": DIGEST, "columns": columns or {"x": column()}}
    return {"files": [file | changes], "uploaded": uploaded}


def test_a_data_set_by_reference_is_shown_as_it_was_recorded_to_its_owner_alone(server, http, stranger):
    labels = save({"y": np.arange(4)})
    new = {"train": split(uploaded=put(http, labels)), "val": put(http, save({"x": np.ones((3, 2), np.float32)}))}
    made = ok(http.post("/datasets", json=new))
    assert made["sizes"] == {"train": 4, "val": 3}
    shown = ok(http.get(f"/datasets/{made['id']}"))
    assert shown == made
    assert {name: shown[name] for name in ("train", "val", "test")} == new | {"test": None}
    problem(stranger.get(f"/datasets/{made['id']}"), 404, "dataset-not-found")
    with server.sessions.begin() as session:
        used = select(Blob.digest).where(garbage_collection.USED, Blob.digest == digest_of(labels))
        assert session.scalars(used).all() == [digest_of(labels)]


BAD: dict[str, tuple[Any, str, str]] = {
    "no files": ({"files": []}, "validation-failed", "train.files"),
    "neither": (5, "validation-failed", "train"),
    "a scheme": (split(uri="http://host/x.npy"), "validation-failed", "train.files.0.uri"),
    "up": (split(uri="file:///data/../x.npy"), "validation-failed", "train.files.0.uri"),
    "no digest": (split(digest="sha256:1"), "validation-failed", "train.files.0.digest"),
    "a dtype": (split(columns={"x": column(dtype="C64")}), "validation-failed", "train.files.0.columns.x.dtype"),
    "a scalar": (split(columns={"x": column(shape=[])}), "validation-failed", "train.files.0.columns.x.shape"),
    "a negative size": (
        split(columns={"x": column(shape=[-1])}),
        "validation-failed",
        "train.files.0.columns.x.shape.0",
    ),
    "two lengths": (split(columns={"x": column(), "y": column(5)}), "data-lengths-differ", "x: 4, y: 5"),
    "no examples": (split(columns={"x": column(0)}), "split-empty", "empty"),
    "the reserved name": (split(columns={"index": column()}), "column-reserved", "'index'"),
    "a blob that is not there": (split(uploaded=DIGEST), "blob-not-found", DIGEST[:20]),
}


@pytest.mark.parametrize(("train", "code", "says"), BAD.values(), ids=BAD)
def test_a_bad_reference_is_refused_with_its_reason(http, train, code, says):
    val = put(http, save({"x": np.ones((3, 2), np.float32)}))
    document = problem(http.post("/datasets", json={"train": train, "val": val}), 404 if "blob" in code else 422, code)
    assert says in [error["field"] for error in document["errors"]] or says in document["detail"]


def test_a_column_in_two_places_is_refused(http):
    uploaded = put(http, save({"x": np.ones((4, 2), np.float32)}))
    document = problem(
        http.post("/datasets", json={"train": split(uploaded=uploaded), "val": uploaded}), 422, "column-twice"
    )
    assert "two columns with the name 'x'" in document["detail"]


def test_a_wrong_uri_is_explained_in_the_words_of_the_client(http):
    document = problem(
        http.post("/datasets", json={"train": split(uri="s3://bucket"), "val": DIGEST}), 422, "validation-failed"
    )
    assert "it names no object; write s3://bucket/key" in document["errors"][0]["message"]
