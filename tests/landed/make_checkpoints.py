"""Wrote the checkpoints of this folder. Their point is that the version of commit 975f0e6 did: never write them anew.

git worktree add ../landed 975f0e6 && cp -r tests/landed tests/engine/pins.py ../landed/…
cd ../landed && PYTHONPATH=client:server:worker:. python -m tests.landed.make_checkpoints
"""

from __future__ import annotations

import json

import nestor_engine as engine
from tests.engine.pins import interrupted, trajectory
from tests.landed import CHECKPOINTS, CONTINUED, checkpoint_of
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

if __name__ == "__main__":
    told = {}
    CHECKPOINTS.mkdir(exist_ok=True)
    for name, (step, parts) in CONFIGS.items():
        inner = parts.pop("inner", engine.Adam(2e-2))
        inner = type(inner)(**{**vars(inner), "steps": 3, "batch_size": 7})
        parts = {"outer": engine.RMSprop(0.05, batch_size=6), "warmup_steps": 2, "evaluate_every": 2, **parts}
        config = engine.Config(n_steps=step + MORE, inner=inner, seed=3, **parts)
        checkpoint = interrupted(PROBLEMS[name](), config, step)
        checkpoint_of(name).write_bytes(checkpoint)
        continued = trajectory(PROBLEMS[name](), config, checkpoint)
        told[name] = {"config": engine.describe(config), "continued": continued}
    rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in told.items()]
    CONTINUED.write_text("{\n" + ",\n".join(rows) + "\n}\n")
