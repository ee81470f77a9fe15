"""GET /trials/{id}/options: what was chosen for a trial, and what it tunes."""

from __future__ import annotations

import json
import math

import numpy as np
from safetensors.numpy import save

from tests.server.conftest import Run, ok, problem
from tests.server.test_blobs import put
from tests.server.test_problems_by_upload import GRAPHS, columns, upload_dataset, upload_program
from tests.support.programs import TENSORS


def test_what_was_chosen_comes_first(http, stranger, submit):
    path = f"/trials/{submit(inner={'optimizer': 'sgd', 'lr': 0.5}, tags=['a'])['id']}/options"
    items = ok(http.get(path))["items"]
    chosen = [one for one in items if not one["is_default"]]
    assert items[: len(chosen)] == chosen
    assert [(one["name"], one["value"]) for one in chosen] == [
        ("inner.lr", 0.5),
        ("inner.optimizer", "sgd"),
        ("n_steps", 1000),
        ("tags", ["a"]),
    ]
    assert not any(one["name"].startswith(("problem", "user_attrs")) for one in items)
    again = http.get(path, headers={"If-None-Match": http.get(path).headers["ETag"]})
    assert again.status_code == 304
    problem(stranger.get(path), 404, "trial-not-found")


def test_a_preset_is_named_and_its_parameters_are_counted(http, run: Run):
    read = lambda: ok(http.get(f"{run.path}/options"))["problem"]
    (hidden,) = ok(http.get(run.path))["spec"]["problem"]["preset"]["model"]["hidden"]
    n_parameters = (64 + 1) * hidden + (hidden + 1) * 10
    shown = {"kind": "preset", "name": "digits", "parameters": n_parameters, "hyperparameters": None}
    assert read() == shown
    run.snapshot(0, {"l2.0.weight": np.zeros((3, 4), np.float32), "l2.0.bias": np.zeros(4, np.float32)})
    assert read() == shown | {"hyperparameters": 16}


def test_a_program_is_named_by_the_digest_of_its_graphs(http, submit):
    dataset = ok(upload_dataset(http, save(columns(5)), save(columns(3))))["id"]
    program = ok(upload_program(http, GRAPHS, save(TENSORS)))["id"]
    trial = submit(problem={"program": program, "dataset": dataset})
    assert ok(http.get(f"/trials/{trial['id']}/options"))["problem"] == {
        "kind": "program",
        "name": put(http, json.dumps(GRAPHS).encode()),
        "parameters": sum(math.prod(t.shape) for name, t in TENSORS.items() if name.startswith("params.")),
        "hyperparameters": None,
    }
