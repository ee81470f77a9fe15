"""Chosen examples of a trial's data: their labels, and pictures of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save
from sqlalchemy import update

from nestor.data import digits
from nestor.schemas import MOST_EXAMPLES, Preset
from nestor.schemas.examples import MOST_SCALAR_COLUMNS
from nestor_server.models import Trial
from nestor_server.services.pictures import examples as pictures
from nestor_server.services.problems import examples
from nestor_worker.runner import presets
from tests.server.conftest import Run, ok, problem
from tests.server.test_blobs import put
from tests.server.test_entries import linear, owner_of, pixels, received
from tests.server.test_references import split

KB = 1024
N = 40
Columns = dict[str, np.ndarray]
WithData = Callable[..., Run]


def random(*shape: int, dtype: str = "f4") -> np.ndarray:
    return np.asarray(np.random.default_rng(len(shape)).normal(size=(N, *shape)) * 50, dtype)


COLUMNS: Columns = {
    "flag": np.arange(N) % 3 == 0,
    "label": np.arange(N) % 10,
    "target": random(1, dtype="f8"),
    "big": np.full(N, 2**63 - 1),
    "vector": random(64),
    "gray": random(5, 4),
    "channel": np.asarray(random(1, 5, 4) % 200, "u1"),
    "color": random(3, 5, 4, dtype="f2"),
    # no pictures:
    "ids": random(64, dtype="i4"),
    "short": random(9),
    "odd": random(65),
    "channels": random(2, 5, 4),
    "volume": random(3, 3, 5, 4),
    "wide": random(2, 257),
}
PICTURES = {"channel": [1, 5, 4], "color": [3, 5, 4], "gray": [1, 5, 4], "vector": [1, 8, 8]}


@pytest.fixture
def with_data(http, run: Run) -> WithData:
    """The trial `run` with a data set, whose splits are columns to upload, or as the route takes them."""

    def make(**splits: Columns | dict[str, Any]) -> Run:
        given = {name: of if "files" in of else put(http, save(of)) for name, of in ({"val": COLUMNS} | splits).items()}
        dataset = ok(http.post("/datasets", json=given))["id"]
        spec = {"problem": {"program": dataset, "dataset": dataset}, "n_steps": 10}
        with run.server.sessions.begin() as session:
            session.execute(update(Trial).where(Trial.id == run.id).values(spec=spec, dataset_id=UUID(dataset)))
        return run

    return make


def read(http, run: Run, index: str, **params: Any) -> dict[str, Any]:
    return ok(http.get(f"{run.path}/examples", params={"index": index} | params))


def drawn(http, run: Run, index: str, **params: Any) -> np.ndarray:
    return pixels(http.get(f"{run.path}/examples/image.png", params={"index": index} | params))


# --- labels ---------------------------------------------------------------------------------------


def test_chosen_examples_have_their_numbers_and_the_names_of_their_pictures(http, with_data):
    run = with_data(train=COLUMNS)
    found = read(http, run, "17,3,0:2,17")
    chosen = [17, 3, 0, 1, 17]
    assert {name: found[name] for name in ("split", "n", "index", "pictures")} == {
        **{"split": "train", "n": N, "index": chosen, "pictures": PICTURES}
    }
    assert found["columns"] == {
        "big": [2**63 - 1] * 5,
        "flag": [int(COLUMNS["flag"][i]) for i in chosen],
        "label": [int(COLUMNS["label"][i]) for i in chosen],
        "target": [COLUMNS["target"][i, 0] for i in chosen],
    }


def test_each_split_has_its_own_examples(http, with_data):
    run = with_data(train={"y": np.arange(5)}, val={"y": np.arange(7) + 10}, test={"y": np.arange(9) + 20})
    for name, first in (("train", 0), ("val", 10), ("test", 20)):
        assert read(http, run, "1", split=name)["columns"] == {"y": [first + 1]}
    run = with_data(train={"y": np.arange(5)})
    missing = problem(http.get(f"{run.path}/examples?index=0&split=test"), 404, "split-not-found")
    assert "'train', 'val'" in missing["detail"]


@pytest.mark.parametrize(
    ("index", "code"),
    [
        (f"0:{N},0:{N},0:{N}", "too-many-entries"),
        (str(N), "example-unknown"),
        ("-1", "example-unknown"),
        ("", "example-unknown"),
        ("1.5", "example-unknown"),
        (None, "validation-failed"),
    ],
)
def test_examples_that_do_not_exist_and_too_many_are_refused(http, with_data, index: str | None, code: str):
    run = with_data(train=COLUMNS)
    for route in ("examples", "examples/image.png"):
        response = http.get(f"{run.path}/{route}", params={} if index is None else {"index": index})
        document = problem(response, 422, code)
    assert code != "example-unknown" or f"0 to {N - 1}" in document["detail"]
    assert len(read(http, run, f"0:{N},0:{N},0:{MOST_EXAMPLES - 2 * N}")["index"]) == MOST_EXAMPLES


def test_of_many_columns_the_first_are_shown(http, with_data):
    run = with_data(train={f"c{i:03}": np.arange(3) for i in range(100)})
    assert [*read(http, run, "2")["columns"]] == [f"c{i:03}" for i in range(MOST_SCALAR_COLUMNS)]


def test_bfloat16_columns_are_read(http, with_data, run):
    columns = {"x": torch.randn(3, 4, 4).bfloat16(), "y": torch.randn(3).bfloat16()}
    digest = put(http, safetensors.torch.save(columns))
    dataset = ok(http.post("/datasets", json={"train": digest, "val": digest}))["id"]
    with_data(train=COLUMNS)
    with run.server.sessions.begin() as session:
        session.execute(update(Trial).where(Trial.id == run.id).values(dataset_id=UUID(dataset)))
    assert read(http, run, "0:3")["columns"] == {"y": columns["y"].tolist()}
    assert drawn(http, run, "0:3").shape == (9, 9)


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", PICTURES)
def test_pictures_lie_in_a_grid_from_their_smallest_to_their_largest_number(http, with_data, column: str):
    run = with_data(train=COLUMNS)
    chosen, (channels, height, width) = [17, 3, 0, 1, 17], PICTURES[column]
    rows = COLUMNS[column][chosen].reshape(5, channels, height, width).astype("f8")
    levels = linear(rows, rows.min(), rows.max())
    expected = np.full((2 * height + 1, 3 * width + 2, channels), 255, "u1")
    for i, picture in enumerate(levels):
        top, left = i // 3 * (height + 1), i % 3 * (width + 1)
        expected[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    image = drawn(http, run, "17,3,0:2,17", column=column, columns=3)
    np.testing.assert_array_equal(image, expected.reshape(image.shape))
    scaled = drawn(http, run, "17,3,0:2,17", column=column, columns=3, scale=2)
    np.testing.assert_array_equal(scaled, image.repeat(2, 0).repeat(2, 1))


def test_the_first_column_of_pictures_is_drawn_by_default(http, with_data):
    run = with_data(train=COLUMNS)
    np.testing.assert_array_equal(drawn(http, run, "0:5"), drawn(http, run, "0:5", column="channel"))


def test_what_is_no_picture_is_not_found_with_what_is(http, with_data):
    run = with_data(train=COLUMNS, val={"y": np.arange(3)})
    for column in (*(COLUMNS.keys() - PICTURES), "nothing"):
        response = http.get(f"{run.path}/examples/image.png", params={"index": "0", "column": column})
        document = problem(response, 404, "pictures-not-found")
        assert f"in the column {column!r}; its columns of pictures are 'channel', 'color'" in document["detail"]
    none = problem(http.get(f"{run.path}/examples/image.png?index=0&split=val"), 404, "pictures-not-found")
    assert "The val split has no pictures;" in none["detail"]
    large = http.get(f"{run.path}/examples/image.png", params={"index": f"0:{N}", "scale": 64})
    problem(large, 422, "picture-too-large")


def test_a_picture_is_immutable_and_its_etag_is_that_of_what_is_drawn(http, with_data):
    run = with_data(train=COLUMNS)
    path, tags = f"{run.path}/examples/image.png", set[str]()
    ways: list[dict[str, Any]] = [{}, {"scale": 2}, {"columns": 1}, {"column": "gray"}, {"index": "1,0"}]
    for params in ways:
        response = http.get(path, params={"index": "0,1"} | params)
        assert "immutable" in response.headers["Cache-Control"]
        tags.add(tag := response.headers["ETag"])
        again = http.get(path, params={"index": "0,1"} | params, headers={"If-None-Match": tag})
        assert again.status_code == 304
    assert len(tags) == len(ways)


# --- data that the server does not have -----------------------------------------------------------


def test_of_a_split_in_files_the_uploaded_columns_are_shown(http, with_data):
    labels = put(http, save({"y": np.arange(4), "z": np.ones((4, 8, 8))}))
    run = with_data(train=split(uploaded=labels), val=split(uri="s3://bucket/a.parquet"))
    found = read(http, run, "2,3")
    assert (found["columns"], found["pictures"]) == ({"y": [2, 3]}, {"z": [1, 8, 8]})
    assert drawn(http, run, "0").shape == (8, 8)
    elsewhere = http.get(f"{run.path}/examples/image.png", params={"index": "0", "column": "x"})
    document = problem(elsewhere, 404, "examples-not-stored")
    assert "a worker reads the column 'x' from file:///data/a.safetensors" in document["detail"]
    for route in ("examples", "examples/image.png"):
        document = problem(http.get(f"{run.path}/{route}?index=0&split=val"), 404, "examples-not-stored")
        assert "The server has no copy of the val examples" in document["detail"]
        assert "from s3://bucket/a.parquet" in document["detail"]


def test_the_data_of_an_entry_point_are_made_by_the_worker(http, submit):
    trial = submit(problem={"entry_point": "package:factory"})
    document = problem(http.get(f"/trials/{trial['id']}/examples?index=0"), 404, "examples-not-stored")
    assert "with the entry point 'package:factory'" in document["detail"]


def test_a_stranger_sees_no_example(stranger, with_data):
    run = with_data(train=COLUMNS)
    for route in ("examples", "examples/image.png"):
        problem(stranger.get(f"{run.path}/{route}?index=0"), 404, "trial-not-found")


# --- presets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset_seed", "seed"), [(None, 5), (7, 5)])
def test_the_examples_of_a_preset_are_those_that_a_worker_trains_on(http, submit, preset_seed, seed):
    preset = {"train_size": 100, "val_size": 50, "label_noise": 0.45, "seed": preset_seed}
    run = Run.__new__(Run)
    run.path = f"/trials/{submit(problem={'preset': preset}, seed=seed)['id']}"
    data = presets.build(Preset.model_validate(preset), seed=seed if preset_seed is None else preset_seed).data
    for name, of in data.splits.items():
        chosen = [0, 17, len(of["y"]) - 1]
        found = read(http, run, ",".join(map(str, chosen)), split=name)
        assert (found["n"], found["columns"]) == (len(of["y"]), {"y": of["y"][chosen].tolist()})
        assert found["pictures"] == {"x": [1, 8, 8]}
        images = of["x"][chosen].numpy().reshape(3, 8, 8)
        expected = linear(images, images.min(), images.max())
        image = drawn(http, run, ",".join(map(str, chosen)), split=name, columns=1)
        np.testing.assert_array_equal(image[:8], expected[0])
        np.testing.assert_array_equal(image[18:], expected[2])


def test_a_server_without_scikit_learn_says_so(run, monkeypatch):
    monkeypatch.setattr(digits, "_digits", lambda: None)
    with run.server.sessions() as session, pytest.raises(examples.ExamplesNotStored, match="scikit-learn"):
        examples.read(session, owner_of(run), run.id, "train", "0")


# --- what is read ---------------------------------------------------------------------------------


def test_no_other_rows_are_read(http, with_data, run):
    rng = np.random.default_rng(0)
    n, side = 20_000, 16
    with_data(train={"x": rng.normal(size=(n, side * side)).astype("f4"), "y": np.arange(n)})
    chosen = ",".join(str(i) for i in range(0, n, n // 50))
    with run.server.sessions() as session:
        with received() as sizes:
            found = examples.read(session, owner_of(run), run.id, "train", chosen)
        assert found.columns["y"] == list(range(0, n, n // 50))
        assert len(sizes) <= 8
        assert sum(sizes) < 16 * KB
        with received() as sizes:
            picture = pictures.picture(session, owner_of(run), run.id, "train", chosen)
        assert sum(sizes) < 16 * KB
        with received() as sizes:
            assert picture.png(session).startswith(b"\x89PNG")
        assert len(sizes) == 1
        assert sum(sizes) < 50 * (4 * side * side + KB)
