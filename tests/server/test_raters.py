"""The network of a LossReweighting as a file, cut out of a snapshot."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load

from tests.server.conftest import Run, ok, problem

NAMES = ("bias", "layers.0.weight", "weight")


def tensors(step: int, name: str = "loss_reweighting") -> dict[str, np.ndarray]:
    """Those of a network, between other hyperparameters, which are before and behind it in the file."""
    network = {f"{name}.{part}": np.full((2, 3), step * 10 + i, np.float32) for i, part in enumerate(NAMES)}
    return {"a": np.zeros(5, np.float32), **network, "zz": np.ones(1, np.float64)}


@pytest.fixture
def path(run: Run) -> str:
    """Of a trial whose best step is 2."""
    for number in (1, 2, 3):
        run.record(1, held_out={1: 5.0, 2: 1.0, 3: 4.0}[number])
        run.snapshot(number, tensors(number))
    return f"{run.path}/rater.safetensors"


def test_the_rater_of_each_step_has_the_names_and_values_of_its_network(http, path):
    def values(**params) -> dict[str, list]:
        response = http.get(path, params=params)
        assert response.is_success, response.text
        return {name: value.flat[0].item() for name, value in load(response.content).items()}

    of_step = lambda step: {name: float(step * 10 + i) for i, name in enumerate(NAMES)}
    assert values() == values(step="best") == values(step=2) == of_step(2)
    assert values(step="latest") == values(step=3) == of_step(3)
    assert values(step=1) == of_step(1)


def test_it_is_sent_like_other_files(http, path):
    whole = http.get(path)
    head = http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("ETag", "Content-Length", "Accept-Ranges", "Content-Disposition", "Cache-Control"):
        assert head.headers[name] == whole.headers[name]
    assert 'filename="rater.safetensors"' in whole.headers["Content-Disposition"]
    assert http.get(path, headers={"If-None-Match": whole.headers["ETag"]}).status_code == 304
    part = http.get(path, headers={"Range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, whole.content[100:])
    assert http.get(path, params={"step": 3}).headers["ETag"] != whole.headers["ETag"]


def test_another_name_selects_the_network_of_that_name(http, run):
    run.record(1)
    run.snapshot(1, tensors(1) | tensors(2, "second"))
    path = f"{run.path}/rater.safetensors"
    assert load(http.get(path, params={"name": "second"}).content)["bias"].flat[0] == 20
    document = problem(http.get(path, params={"name": "third"}), 404, "rater-not-found")
    assert "Its hyperparameters are a, loss_reweighting.bias" in document["detail"]
    problem(http.get(path, params={"name": "second.bias"}), 404, "rater-not-found")  # a tensor is no network


def test_a_step_without_a_snapshot_is_named_with_those_that_have_one(http, run, path):
    document = problem(http.get(path, params={"step": 9}), 404, "hyperparameters-not-found")
    assert "of step 9 (stored: 1, 2, 3)" in document["detail"]
    for wrong in ("worst", "-1"):
        problem(http.get(path, params={"step": wrong}), 422, "validation-failed")


def test_without_a_step_there_is_no_rater(http, stranger, run, path, submit):
    empty = f"/trials/{submit()['id']}/rater.safetensors"
    assert "none was evaluated yet" in problem(http.get(empty), 404, "hyperparameters-not-found")["detail"]
    assert "yet" in problem(http.get(empty, params={"step": "latest"}), 404, "hyperparameters-not-found")["detail"]
    problem(stranger.get(path), 404, "trial-not-found")
    assert ok(http.get(run.path))["best_step"] == 2


def test_tensors_that_are_apart_are_not_sent_as_one_file(http, run):
    """Safetensors stores wide numbers first."""
    run.record(1)
    mixed = {"net.a": np.zeros(1, np.float64), "other": np.zeros(1, np.float64), "net.b": np.zeros(1, np.float32)}
    run.snapshot(1, mixed)
    response = http.get(f"{run.path}/rater.safetensors", params={"name": "net"})
    problem(response, 422, "rater-of-several-types")
