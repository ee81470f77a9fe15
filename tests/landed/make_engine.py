"""Wrote the checkpoints and programs of this folder, in the version of commit 975f0e6: never write them anew.

git worktree add ../landed 975f0e6 && make -C ../landed install
cp -r tests/landed ../landed/tests/ && cp tests/engine/pins.py ../landed/tests/engine/
cd ../landed && .venv/bin/python -m tests.landed.make_engine
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nestor_engine as engine
from tests.engine.pins import interrupted, trajectory
from tests.landed import CHECKPOINTS, CONTINUED, SHIPPED, checkpoint_of, program_of
from tests.landed.problems import PROBLEMS

MORE = 3  # steps after the checkpoint

default = engine.Implicit()
on_sketch = engine.PreconditionedCG(2, engine.NystromSketch(rank=5, refresh=3))
on_kfac = engine.PreconditionedCG(2, engine.KFAC(fisher="exact"))
richardson = engine.Richardson(1, preconditioner=engine.NystromSketch(rank=5))
kfac = engine.Implicit(engine.KFAC(), engine.Direct())
CONFIGS = {  # the step of the checkpoint, and the config
    "adam": (4, {"inner": engine.Adam(2e-2), "response": default}),
    "adam in float32": (4, {"inner": engine.Adam(2e-2), "response": default}),
    "sgd": (
        3,
        {
            "inner": engine.SGD(0.05, momentum=0.9, nesterov=True, schedule=engine.CosineDecay(20, warmup=4)),
            "outer": engine.SGD(0.1, momentum=0.5, clip_norm=0.5),
            "outer_lr": {"l2": 0.2},
        },
    ),
    "folds": (4, {"folds": engine.Folds(3), "stop_early": engine.EarlyStopping(share=0.3)}),
    "folds, one not begun": (
        3,
        {"folds": engine.Folds(3, every=2), "stop_early": engine.EarlyStopping(share=0.3), "inner": engine.SGD(0.2)},
    ),
    "folds of batch norm and kfac": (3, {"folds": engine.Folds(2), "response": kfac}),
    "kfac": (4, {"response": kfac, "inner": engine.RMSprop(1e-2, momentum=0.5)}),
    "kfac before cg": (4, {"response": engine.Implicit(engine.GaussNewton(), engine.WarmStarted(on_kfac))}),
    "batch norm": (4, {"inner": engine.AdamW(2e-2), "outer": engine.Adam(0.05), "response": default}),
    "sketch": (4, {"response": engine.Implicit(engine.GaussNewton(), engine.WarmStarted(on_sketch))}),
    "richardson": (4, {"response": engine.Implicit(engine.GaussNewton(), engine.WarmStarted(richardson))}),
    "hypernetwork": (4, {"response": engine.Hypernetwork(rank=3, steps=2)}),
    "unrolled": (4, {"response": engine.Unrolled(2)}),
}

SHIPS = ["adam", "adam in float32", "batch norm", "unrolled"]


def config_of(name: str) -> engine.Config:
    step, parts = CONFIGS[name]
    inner = parts.get("inner", engine.Adam(2e-2))
    inner = type(inner)(**{**vars(inner), "steps": 3, "batch_size": 7})
    parts = {"outer": engine.RMSprop(0.05, batch_size=6), "warmup_steps": 2, "evaluate_every": 2, **parts}
    return engine.Config(n_steps=step + MORE, seed=3, **{**parts, "inner": inner})


def make_checkpoint(name: str) -> dict[str, Any]:
    config = config_of(name)
    checkpoint = interrupted(PROBLEMS[name](), config, CONFIGS[name][0])
    checkpoint_of(name).write_bytes(checkpoint)
    return {"config": engine.describe(config), "continued": trajectory(PROBLEMS[name](), config, checkpoint)}


def make_program(name: str) -> dict[str, Any]:
    problem, config = PROBLEMS[name](), config_of(name)
    program, directory = problem.export(), program_of(name)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "graphs.json").write_bytes(program.graphs)
    (directory / "tensors.safetensors").write_bytes(program.tensors)
    for split, data in problem.data.save().items():
        (directory / f"{split}.safetensors").write_bytes(bytes(data))
    return {"config": engine.describe(config), "trajectory": trajectory(problem, config)}


def write(path: Path, recorded: dict[str, Any]) -> None:
    rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in recorded.items()]
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    CHECKPOINTS.mkdir(exist_ok=True)
    write(CONTINUED, {name: make_checkpoint(name) for name in CONFIGS})
    write(SHIPPED, {name: make_program(name) for name in SHIPS})
