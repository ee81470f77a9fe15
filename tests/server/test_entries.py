"""Single entries of hyperparameters: exact values, few bytes read, and clear refusals."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load, save
from sqlalchemy import cast, delete, event, func, insert, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Engine

from nestor.program_format.safetensors_header import described, written
from nestor.results.entries import course_steps
from nestor.schemas import MAX_NUMBERS, PER_ORDER, HyperparameterInfo, Order, RecordedEntries
from nestor.schemas.entries import COMPARED, MOST_RECORDED
from nestor_engine.hparams import TRANSFORMS
from nestor_server.app import create_app
from nestor_server.models import BlobChunk, Snapshot, Study, Trial
from nestor_server.scheduling import recording, rollback
from nestor_server.services.pictures import colors, heat_map, png
from nestor_server.storage import blobs, selection
from nestor_worker.runner.recorded_entries import recorded_entries
from testbed.server import Server
from tests.server.conftest import Run, ok, problem

LARGE = 10_000_000
KB = 1024


def write(
    run: Run,
    step: int,
    tensors: dict[str, np.ndarray],
    start: dict[str, np.ndarray] | None = None,
    gradient: dict[str, np.ndarray] | None = None,
    **described: Any,
) -> None:
    """A snapshot as a worker records it, with the entries that stand out if `start` is given."""
    infos = tuple(
        HyperparameterInfo(name=name, shape=values.shape, dtype=str(values.dtype), transform="exp", **described)
        for name, values in tensors.items()
    )
    entries = None
    if start is not None:
        now, begin, slope = (
            {name: torch.from_numpy(values) for name, values in of.items()} for of in (tensors, start, gradient or {})
        )
        entries = recorded_entries(now, begin, slope, dict.fromkeys(now, "exp"))
    run.record(0, snapshots=(recording.TensorFile(step, save(tensors), entries=entries),), hyperparameters=infos)


def normal(*shape: int, seed: int = 0, dtype: str = "f4") -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


# --- slices ---------------------------------------------------------------------------------------

CUTS: dict[str, Any] = {
    "3": np.s_[3],
    "-1": np.s_[-1],
    "2:5": np.s_[2:5],
    "2:": np.s_[2:],
    ":-4": np.s_[:-4],
    ":": np.s_[:],
    "4:100": np.s_[4:],
    "3,0:2": np.s_[3, 0:2],
    " 3 , 1 ": np.s_[3, 1],
    "1:4,2": np.s_[1:4, 2],
    ":,1:3": np.s_[:, 1:3],
    ":,:,2": np.s_[:, :, 2],
    "0:6,:,1:3": np.s_[0:6, :, 1:3],
    "5,2,3": np.s_[5, 2, 3],
}


@pytest.mark.parametrize("text", CUTS)
def test_a_slice_is_what_numpy_selects(http, run, text: str):
    values = normal(6, 4, 5)
    write(run, 0, {"a": normal(7, dtype="f8"), "w": values, "z": normal(3)})
    path, expected = f"{run.path}/hyperparameters/w", values[CUTS[text]]
    file = http.get(path, params={"slice": text, "format": "npy"})
    np.testing.assert_array_equal(np.load(io.BytesIO(file.content)), expected, strict=True)
    whole = http.get(path, params={"slice": text}).content
    np.testing.assert_array_equal(load(whole)["w"], expected, strict=True)
    for start, stop in ((0, 1), (7, 90), (len(whole) - 5, len(whole))):
        part = http.get(path, params={"slice": text}, headers={"Range": f"bytes={start}-{stop - 1}"})
        assert (part.status_code, part.content) == (206, whole[start:stop])
    again = http.get(path, params={"slice": text}, headers={"If-None-Match": file.headers["ETag"]})
    assert again.status_code == 200  # of another format
    assert http.get(path, params={"slice": text}, headers={"If-None-Match": again.headers["ETag"]}).status_code == 304


def test_slices_of_equal_size_have_different_etags(http, run):
    write(run, 0, {"w": normal(6, 4, 5)})
    cuts = ["0:2,0:2", "0:2,1:3", "1:3,0:2", "0:2,2:4"]
    tags = {http.get(f"{run.path}/hyperparameters/w", params={"slice": cut}).headers["ETag"] for cut in cuts}
    assert len(tags) == len(cuts)


@pytest.mark.parametrize(
    "text",
    ["6", "-7", "6:8", "3:3", "4:2", "0,0,0,0", "::2", "0:6:1", "a", "", "1,", "1.5", "...", "None", "١", "9" * 30],
)
def test_a_slice_that_selects_nothing_is_refused(http, run, text: str):
    write(run, 0, {"w": normal(6, 4, 5)})
    document = problem(http.get(f"{run.path}/hyperparameters/w", params={"slice": text}), 422, "slice-invalid")
    assert "such as 10:20 or 3,0:5" in document["detail"]


def test_a_slice_of_too_many_places_is_refused(http, run):
    write(run, 0, {"w": normal(selection.MAX_PIECES + 1, 2)})
    path = f"{run.path}/hyperparameters/w"
    assert http.get(path, params={"slice": f"0:{selection.MAX_PIECES},0"}).is_success
    document = problem(http.get(path, params={"slice": ":,0"}), 422, "slice-too-fine")
    assert "4,097 places" in document["detail"]


def test_a_step_is_immutable_once_a_checkpoint_follows_it(http, run):
    write(run, 0, {"w": normal(4, 3, 3)})
    run.record(5)
    write(run, 5, {"w": normal(4, 3, 3, seed=1)})
    paths = ("hyperparameters.safetensors", "hyperparameters/w", "hyperparameters/w/image.png")

    def cached(step: int | None) -> set[str]:
        params = {} if step is None else {"step": step}
        return {http.get(f"{run.path}/{path}", params=params).headers["Cache-Control"] for path in paths}

    # A lost worker's steps are computed again, and another device may round differently.
    assert cached(0) == cached(5) == cached(None) == {"private, no-cache"}
    run.checkpoint()
    assert cached(0) == cached(5) == {"private, max-age=31536000, immutable"}
    assert cached(None) == {"private, no-cache"}
    run.record(1)
    write(run, 6, {"w": normal(4, 3, 3, seed=2)})
    assert cached(6) == {"private, no-cache"}


# --- courses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
def test_entries_of_every_type_have_the_values_of_the_file(http, run, dtype: str):
    steps = {step: (100 * normal(5, 6, seed=step, dtype="f8")).astype(dtype) for step in (0, 1, 4)}
    for step, values in steps.items():
        write(run, step, {"a": normal(3, dtype="f8"), "w": values, "z": normal(3)})
    found = ok(http.get(f"{run.path}/hyperparameters/w/values", params={"index": "0, 29,2.3,0"}))
    assert (found["steps"], found["index"], found["form"]) == ([0, 1, 4], [0, 29, 15, 0], "optimized")
    assert found["values"] == [[float(values.flat[i]) for values in steps.values()] for i in (0, 29, 15, 0)]


def test_entries_of_bfloat16_are_exact(http, run):
    values = torch.randn(4, 3, dtype=torch.bfloat16)
    data = written(described([("w", "BF16", (4, 3), 24)])) + values.view(torch.uint16).numpy().tobytes()
    infos = (HyperparameterInfo(name="w", shape=(4, 3), dtype="bfloat16", transform="exp"),)
    run.record(0, snapshots=(recording.TensorFile(0, data),), hyperparameters=infos)
    found = ok(http.get(f"{run.path}/hyperparameters/w/values", params={"index": "0,11"}))
    assert found["values"] == [[float(values[0, 0])], [float(values[3, 2])]]
    top = ok(http.get(f"{run.path}/hyperparameters/w/top", params={"by": "highest", "k": 1}))
    assert top["items"][0]["value"] == float(values.max())


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_values_as_they_are_used_are_those_of_the_transform(http, run, transform: str):
    values = np.array([-800.0, -40.0, -1.0, 0.0, 0.5, 40.0, 300.0, 800.0])
    info = HyperparameterInfo(name="w", shape=(8,), dtype="float64", transform=transform)
    run.record(0, snapshots=(recording.TensorFile(0, save({"w": values})),), hyperparameters=(info,))
    params = {"index": "0,1,2,3,4,5,6,7", "form": "used"}
    found = ok(http.get(f"{run.path}/hyperparameters/w/values", params=params))
    expected = TRANSFORMS[transform](torch.from_numpy(values)).tolist()
    assert [float(value) for (value,) in found["values"]] == pytest.approx(expected, rel=1e-14)


def test_of_many_steps_evenly_chosen_ones_are_read(http, run):
    for step in range(60):
        write(run, step, {"w": np.full(2, step, "f4")})
    path = f"{run.path}/hyperparameters/w/values"
    assert ok(http.get(path, params={"index": "1"}))["values"] == [[float(step) for step in range(60)]]
    few = ok(http.get(path, params={"index": "1", "max_points": 7}))
    assert few["steps"] == few["values"][0] == [0, 9, 19, 29, 39, 49, 59]
    later = ok(http.get(path, params={"index": "1", "after": 57}))
    assert later["steps"] == [58, 59]
    assert ok(http.get(path, params={"index": "0,1", "after": 59}))["values"] == [[], []]


def test_entries_times_steps_are_bounded():
    for entries in (1, 3, 100):
        chosen = course_steps(range(10**6), entries, None)
        assert entries * len(chosen) <= MAX_NUMBERS
        assert (chosen[0], chosen[-1]) == (0, 10**6 - 1)
        assert chosen == sorted(set(chosen))


@pytest.mark.parametrize(
    ("index", "code"),
    [
        ("30", "entry-unknown"),
        ("5.0", "entry-unknown"),
        ("0.6", "entry-unknown"),
        ("0.0.0", "entry-unknown"),
        ("-1", "entry-unknown"),
        ("a", "entry-unknown"),
        ("", "entry-unknown"),
        ("1,,2", "entry-unknown"),
        ("1e3", "entry-unknown"),
        (",".join(["0"] * 101), "too-many-entries"),
    ],
)
def test_entries_that_do_not_exist_are_refused(http, run, index: str, code: str):
    write(run, 0, {"w": normal(5, 6)})
    problem(http.get(f"{run.path}/hyperparameters/w/values", params={"index": index}), 422, code)


# --- entries that stand out -----------------------------------------------------------------------


def first(scores: np.ndarray, k: int) -> list[int]:
    flat = scores.astype("f8").flatten()
    return sorted(range(flat.size), key=lambda i: (-flat[i], i))[:k]


@pytest.mark.parametrize("by", Order)
@pytest.mark.parametrize("shape", [(), (7,), (200, 30)])
def test_top_entries_are_those_of_a_full_sort(http, run, by: Order, shape: tuple[int, ...]):
    start, value, gradient = (
        {"a": normal(40, seed=seed), "w": np.asarray(normal(*shape, seed=seed).round(1))} for seed in range(3)
    )
    axes = tuple(f"axis{dim}" for dim in range(len(shape)))
    write(run, 0, start, start)
    write(run, 9, value, start, gradient, of="part", axes=axes)
    path = f"{run.path}/hyperparameters/w/top"
    w, g, s = (of["w"].astype("f8") for of in (value, gradient, start))
    scores = {Order.change: abs(w - s), Order.gradient: abs(g), Order.highest: w, Order.lowest: -w}[by]
    for k in (1, 5, PER_ORDER):
        found = ok(http.get(path, params={"by": by.value, "k": k}))
        assert (found["step"], found["by"], found["name"]) == (9, by, "w")
        assert [item["index"] for item in found["items"]] == first(scores, k)
    for item in found["items"]:
        at = tuple(item["position"])
        assert at == np.unravel_index(item["index"], shape)
        assert item["name"] == ", ".join(["part", *(f"{axis} {i}" for axis, i in zip(axes, at, strict=True))])
        assert (item["value"], item["start"], item["gradient"]) == (w[at], s[at], g[at])
        assert item["change"] == w[at] - s[at]
        assert item["used"] == pytest.approx(math.exp(w[at]))


def test_before_the_first_step_there_are_no_gradients_and_no_changes(http, run):
    write(run, 0, start := {"w": normal(100)}, start)
    path = f"{run.path}/hyperparameters/w/top"
    document = problem(http.get(path, params={"by": "gradient"}), 404, "entries-not-recorded")
    assert "before the first step there is no hypergradient" in document["detail"]
    items = ok(http.get(path))["items"]
    assert [(item["index"], item["change"], item["gradient"]) for item in items] == [(i, 0, None) for i in range(20)]


def test_of_a_snapshot_of_an_earlier_version_small_tensors_are_compared_as_they_are_read(http, run):
    start, value = ({"s": normal(500, seed=seed), "l": normal(65_537, seed=seed)} for seed in range(2))
    write(run, 0, start)
    write(run, 3, value)
    path = f"{run.path}/hyperparameters"
    found = ok(http.get(f"{path}/s/top", params={"k": 30}))
    assert [item["index"] for item in found["items"]] == first(abs(value["s"].astype("f8") - start["s"]), 30)
    for name, by in (("s", "gradient"), ("l", "change")):
        document = problem(http.get(f"{path}/{name}/top", params={"by": by}), 404, "entries-not-recorded")
        assert "an earlier version of Nestor recorded the snapshot" in document["detail"]


@pytest.mark.parametrize(("n", "recorded_of_each"), [(COMPARED, 0), (COMPARED + 1, 6)])
def test_of_many_tensors_fewer_entries_are_recorded_and_not_more_than_these_are_returned(
    http, run, n: int, recorded_of_each: int
):
    """Of small ones nothing, if there are no gradients."""
    start, value = ({f"w{i:03}": normal(n, seed=1000 * seed + i) for i in range(150)} for seed in range(2))
    write(run, 0, start, start)
    write(run, 1, value, start)
    with run.server.sessions() as session:
        recorded = RecordedEntries.model_validate(session.get_one(Snapshot, (run.id, 1)).entries)
    assert max((len(one.index) for one in recorded.tensors.values()), default=0) <= 3 * recorded_of_each
    path = f"{run.path}/hyperparameters/w149/top"
    for k in (1, 20):  # what was recorded, and more, for which a tensor of this size is compared as it is read
        found = ok(http.get(path, params={"k": k}))
        assert [item["index"] for item in found["items"]] == first(abs(value["w149"].astype("f8") - start["w149"]), k)
    problem(http.get(path, params={"by": "gradient"}), 404, "entries-not-recorded")
    write(run, 2, value, start, start)
    items = ok(http.get(path, params={"by": "gradient"}))["items"]
    most = min(20, RecordedEntries.per_order([n] * 150))
    assert [item["index"] for item in items] == first(abs(start["w149"]), most)


@pytest.mark.parametrize("sizes", [[10**7], [10**5] * 40, [2000] * 1024, [64] * 1024, [64], [10] * 300])
def test_the_recorded_entries_of_a_snapshot_take_at_most_256_kb(run, sizes: list[int]):
    k = RecordedEntries.per_order(sizes)
    of_each = [min(size, k * (1 if size <= COMPARED else len(Order))) for size in sizes]
    assert sum(of_each) <= MOST_RECORDED
    longest = -1.2345678901234567e-30
    tensors = {
        f"weights_of_layer_{i}": {"index": [size - 1] * n, "gradient": [longest] * n}
        for i, (size, n) in enumerate(zip(sizes, of_each, strict=True))
    }
    moved = dict.fromkeys(tensors, 1 / 3)
    entries = RecordedEntries.model_validate({"k": k, "tensors": tensors, "moved": moved}).model_dump(mode="json")
    with run.server.sessions() as session:
        nbytes = session.scalar(select(func.pg_column_size(cast(entries, JSONB))))
    assert nbytes <= 256_000


@pytest.mark.parametrize("route", ["", "/top", "/values?index=0", "/image.png"])
def test_what_does_not_exist_is_not_found(http, stranger, run, route: str):
    path = f"{run.path}/hyperparameters/w{route}"
    of_snapshot = route in ("", "/image.png")  # the others read what the trial has declared, which is nothing yet
    problem(http.get(path), 404, "hyperparameters-not-found" if of_snapshot else "hyperparameter-unknown")
    write(run, 0, start := {"w": normal(4, 3, 3)}, start)
    assert http.get(path).is_success
    unknown = problem(http.get(path.replace("/w", "/v")), 404, "hyperparameter-unknown")
    assert "no hyperparameter 'v'; it has 'w'." in unknown["detail"]
    problem(stranger.get(path), 404, "trial-not-found")
    if "values" not in route:
        missing = problem(http.get(path, params={"step": 7}), 404, "hyperparameters-not-found")
        assert "of step 7 (stored: 0)" in missing["detail"]


@pytest.mark.parametrize("route", ["/top", "/values?index=0,3", "/image.png"])
def test_a_client_that_has_the_present_version_gets_304(http, run, route: str):
    write(run, 0, start := {"w": normal(4, 3, 3)}, start)
    path = f"{run.path}/hyperparameters/w{route}"
    tag = http.get(path).headers["ETag"]
    assert http.get(path, headers={"If-None-Match": tag}).status_code == 304
    run.record(1)
    write(run, 1, {"w": normal(4, 3, 3, seed=1)}, start)
    assert http.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_a_step_that_is_withdrawn_and_taken_again_has_its_entries(http, run):
    write(run, 0, start := {"w": normal(100)}, start)
    run.record(3)
    run.checkpoint()
    run.record(2)
    value, gradient = {"w": normal(100, seed=1)}, {"w": normal(100, seed=2)}
    write(run, 5, value, start, gradient)
    before = ok(http.get(f"{run.path}/hyperparameters/w/top", params={"by": "gradient"}))
    with run.server.sessions.begin() as session:
        rollback.roll_back(session, run.id)
    assert ok(http.get(f"{run.path}/hyperparameters/w/top"))["step"] == 0
    write(run, 5, value, start, gradient)
    assert ok(http.get(f"{run.path}/hyperparameters/w/top", params={"by": "gradient"})) == before


# --- pictures -------------------------------------------------------------------------------------


def pixels(response: httpx.Response) -> np.ndarray:
    assert response.is_success, response.text
    assert response.headers["Content-Type"] == "image/png"
    return np.array(Image.open(io.BytesIO(response.content)))


def linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return ((values.astype("f8").clip(low, high) - low) * (255 / (high - low))).round().astype("u1")


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_pictures_lie_in_a_grid(http, run, channels: int | None):
    values = normal(*(12, 5, 4) if channels is None else (12, channels, 5, 4))
    write(run, 0, {"w": values})
    params = {"index": "2:6,11", "columns": 3, "low": -1.5, "high": 2}
    image = pixels(http.get(f"{run.path}/hyperparameters/w/image.png", params=params))
    assert image.shape == ((11, 14, 3) if channels == 3 else (11, 14))
    expected = np.full((11, 14, channels or 1), 255, "u1")
    for i, number in enumerate([2, 3, 4, 5, 11]):
        top, left = i // 3 * 6, i % 3 * 5
        picture = values[number].reshape(channels or 1, 5, 4).transpose(1, 2, 0)
        expected[top : top + 5, left : left + 4] = linear(picture, -1.5, 2)
    np.testing.assert_array_equal(image, expected.reshape(image.shape))
    scaled = pixels(http.get(f"{run.path}/hyperparameters/w/image.png", params=params | {"scale": 3}))
    np.testing.assert_array_equal(scaled, image.repeat(3, 0).repeat(3, 1))
    assert pixels(http.get(f"{run.path}/hyperparameters/w/image.png")).shape[:2] == (3 * 6 - 1, 4 * 5 - 1)


def cell_means(values: np.ndarray, cells: tuple[int, int]) -> np.ndarray:
    """By the definition: row r of n lies in the row r · cells // n."""
    matrix = values.reshape(1, -1) if values.ndim == 1 else values.reshape(len(values), -1)
    rows, columns = (np.arange(n) * k // n for n, k in zip(matrix.shape, cells, strict=True))
    sums, counts = np.zeros(cells), np.zeros(cells)
    np.add.at(sums, (rows[:, None], columns[None]), matrix.astype("f8"))
    np.add.at(counts, (rows[:, None], columns[None]), 1)
    return sums / counts


@pytest.mark.parametrize("chunk", [4 * KB, 4 * KB * KB], ids=["in pieces", "at once"])
@pytest.mark.parametrize(
    ("shape", "cells"),
    [
        ((5,), (1, 5)),
        ((5000,), (1, 1024)),
        ((7, 9), (7, 9)),
        ((300, 70), (256, 70)),
        ((3, 5000), (3, 256)),
        ((700, 513), (256, 256)),
        ((6, 2, 3, 40), (6, 240)),
    ],
)
def test_a_heat_map_has_the_means_of_its_cells(run, shape, cells, chunk: int, monkeypatch):
    monkeypatch.setattr(heat_map, "CHUNK_BYTES", chunk)
    values = normal(*shape)
    write(run, 0, {"a": normal(3, dtype="f8"), "w": values})
    with run.server.sessions() as session:
        found = png.picture(session, owner_of(run), run.id, "w")
        means = heat_map.means(session, found.blob, found.tensor)
        image = np.array(Image.open(io.BytesIO(found.png(session))).convert("RGB"))
    np.testing.assert_allclose(means, cell_means(values, cells), rtol=1e-12, atol=1e-12)
    low, high = np.percentile(means, colors.CLIPPED)
    palette = np.frombuffer(colors.viridis(), "u1").reshape(256, 3)
    np.testing.assert_array_equal(image, palette[linear(means, low, high)])


def owner_of(run: Run) -> UUID:
    with run.server.sessions() as session:
        return session.scalars(select(Study.owner_id).join(Trial).where(Trial.id == run.id)).one()


def test_numbers_that_are_equal_or_not_finite_are_drawn(http, run):
    odd = np.array([[np.nan, 1.0], [np.inf, -np.inf]], "f4")
    write(run, 0, {"equal": np.ones((3, 3), "f4"), "odd": odd, "none": np.full((2, 2), np.nan, "f4")})
    path = f"{run.path}/hyperparameters"
    assert (pixels(http.get(f"{path}/equal/image.png")) == 128).all()
    assert (pixels(http.get(f"{path}/equal/image.png", params={"low": 2})) == 0).all()
    assert (pixels(http.get(f"{path}/equal/image.png", params={"high": 0})) == 255).all()
    assert pixels(http.get(f"{path}/odd/image.png", params={"low": 0, "high": 2})).tolist() == [[0, 128], [255, 0]]
    assert pixels(http.get(f"{path}/none/image.png")).shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "params", "code"),
    [
        ("scalar", {}, "picture-impossible"),
        ("matrix", {"index": "0:2"}, "picture-impossible"),
        ("matrix", {"columns": 2}, "picture-impossible"),
        ("matrix", {"scale": 33}, "picture-too-large"),
        ("pictures", {"index": "0,1:3000", "scale": 64}, "picture-too-large"),
        ("many", {"index": "0:2000"}, "picture-too-large"),
        ("pictures", {"index": "10"}, "entry-unknown"),
        ("pictures", {"index": "5:5"}, "entry-unknown"),
        ("pictures", {"index": "-1"}, "entry-unknown"),
        ("pictures", {"index": "1:2:3"}, "entry-unknown"),
        ("pictures", {"low": 1, "high": 1}, "range-empty"),
        ("matrix", {"low": 2, "high": 1}, "range-empty"),
        ("matrix", {"low": "nan"}, "validation-failed"),
        ("matrix", {"scale": 0}, "validation-failed"),
        ("pictures", {"columns": 0}, "validation-failed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(http, run, name: str, params: dict[str, Any], code: str):
    tensors = {"matrix": normal(40, 40), "pictures": normal(10, 40, 40), "many": normal(3000, 2, 2)}
    write(run, 0, tensors | {"scalar": np.zeros((), "f4")})
    problem(http.get(f"{run.path}/hyperparameters/{name}/image.png", params=params), 422, code)


# --- what is read ---------------------------------------------------------------------------------


@contextmanager
def received() -> Iterator[list[int]]:
    """The bytes of each statement's result, as PostgreSQL sends them."""
    sizes: list[int] = []

    def measure(connection: Any, cursor: Any, *_: Any) -> None:
        result = cursor.pgresult
        if result is not None:
            cells = ((row, column) for row in range(result.ntuples) for column in range(result.nfields))
            sizes.append(sum(len(result.get_value(*cell) or b"") for cell in cells))

    event.listen(Engine, "after_cursor_execute", measure)
    try:
        yield sizes
    finally:
        event.remove(Engine, "after_cursor_execute", measure)


@pytest.fixture(scope="module")
def large(server: Server) -> Iterator[tuple[TestClient, str]]:
    """A client of a server in this process, and a trial with snapshots of ten million entries."""
    token = server.new_token()
    with server.http(token) as http:
        study = ok(http.post("/studies", json={"name": "large"}))["id"]
        trial = ok(http.post(f"/studies/{study}/trials", json={"problem": {"preset": {}}, "n_steps": 10}))["id"]
    run = Run(server, UUID(trial))
    start = {"w": normal(2500, 4000), "p": normal(100, 3, 28, 28)}
    write(run, 0, start, start)
    for step in (1, 2):
        value, gradient = ({name: normal(*w.shape, seed=step + seed) for name, w in start.items()} for seed in (0, 9))
        write(run, step, value, start, gradient)
    settings = server.settings.model_copy(update={"reap_seconds": 1e6})  # whose statements would count as well
    client = TestClient(create_app(settings), headers={"Authorization": f"Bearer {token}"})
    with client:
        yield client, f"/api/v1{run.path}/hyperparameters"


@pytest.mark.parametrize(
    ("route", "statements", "in_all", "at_once"),
    [
        ("w?slice=1000:1100,5", 8, 8 * KB, 8 * KB),
        ("w?slice=17", 8, 24 * KB, 17 * KB),
        ("w/top?by=change&k=32", 10, 24 * KB, 8 * KB),
        ("w/top?by=gradient", 10, 24 * KB, 8 * KB),
        ("w/values?index=0,17,9999999", 10, 8 * KB, 4 * KB),
        ("p/image.png?index=0:10", 8, 100 * KB, 100 * KB),
        ("w/image.png", 40, 40 * KB * KB, 4 * KB * KB + 16),  # each number once, 4 MiB at a time
    ],
)
def test_nothing_is_read_whole(large, route: str, statements: int, in_all: int, at_once: int):
    client, path = large
    with received() as sizes:
        response = client.get(f"{path}/{route}")
    assert response.is_success, response.text
    assert len(sizes) <= statements, sizes
    assert max(sizes) <= at_once, sizes
    assert sum(sizes) <= in_all, sizes


def test_the_recorded_entries_of_a_large_snapshot_stay_within_their_bound(large, server):
    with server.sessions() as session:
        for entries in session.scalars(select(Snapshot.entries).where(Snapshot.entries.is_not(None))):
            recorded = RecordedEntries.model_validate(entries)
            assert sum(len(one.index) for one in recorded.tensors.values()) <= MOST_RECORDED


def test_ranges_that_go_over_the_end_of_a_chunk_are_complete(run):
    data = np.random.default_rng(0).integers(0, 256, 1000, dtype="u1").tobytes()
    with run.server.sessions.begin() as session:
        blob = blobs.store(session, owner_of(run), data)
        session.execute(delete(BlobChunk).where(BlobChunk.blob_id == blob.id))
        for start in range(0, 1000, 7):  # an upload may be cut anywhere
            part = data[start : start + 7]
            session.execute(insert(BlobChunk).values(blob_id=blob.id, start=start, size=len(part), data=part))
        ranges = [(blob, start, stop) for start, stop in ((0, 8), (5, 9), (6, 7), (7, 14), (0, 1000), (990, 1000))]
        assert blobs.gather(session, ranges) == [data[start:stop] for _, start, stop in ranges]
