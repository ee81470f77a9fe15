"""Every method is one line of JSON and runs on a worker."""

from __future__ import annotations

from testbed.api import PRESET, Api
from testbed.worker import Worker

PRECONDITIONED = {"gauss_newton": "nystrom_sketch", "hessian": "kfac", "empirical_fisher": "adam_diagonal"}
METHODS = [
    {"implicit": {"curvature": "hessian", "solver": "identity"}},
    {"implicit": {"curvature": "hessian", "solver": {"neumann": {"terms": 3, "alpha": 0.1}}}},
    {"implicit": {"curvature": {"hessian": {"damping": 0.5}}, "solver": "direct"}},
    {"implicit": {"curvature": {"empirical_fisher": {"per": "example"}}, "solver": "conjugate_gradient"}},
    {"implicit": {"curvature": "gauss_newton", "solver": {"nystrom": {"rank": 5}}}},
    {"implicit": {"curvature": "kfac", "solver": "direct"}},
    *(
        {
            "implicit": {
                "curvature": curvature,
                "solver": {"warm_started": {"solver": {"preconditioned_cg": {"preconditioner": preconditioner}}}},
            }
        }
        for curvature, preconditioner in PRECONDITIONED.items()
    ),
    {"unrolled": {"steps": 2}},
    {"hypernetwork": {"rank": 4}},
    "direct_only",
]
INNER = {
    "optimizer": "adamw", "lr": 1e-3, "clip_norm": 1.0,
    "schedule": {"cosine_decay": {"steps": 10, "warmup": 2}},
}  # fmt: skip
HYPERPARAMETERS = ["l2", {"kind": "l1", "per": "global"}, "example_weights"]


def test_every_method_runs_through_the_service(api: Api, worker: Worker):
    submitted = {
        str(method): api.submit(
            2,
            problem={"preset": {**PRESET, "hyperparameters": HYPERPARAMETERS}},
            response=method,
            inner=INNER,
            inner_steps=3,
            batch_size=20,
            outer_lr={"l1": 0.1},
            autocast="bfloat16",
        )
        for method in METHODS
    }
    ended = {method: api.until(trial, "complete", "failed") for method, trial in submitted.items()}
    assert {method: trial["error"] for method, trial in ended.items() if trial["error"]} == {}
    for trial in submitted.values():
        api.expect_whole(trial, 2)
