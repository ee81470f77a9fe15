"""Loads what every trial needs, before the runner has one."""

from __future__ import annotations

from collections.abc import Callable


def load(has_begun: Callable[[], bool]) -> None:
    """Import what trials need and, until one has begun, run a tiny trial.

    torch loads much of its differentiation code at first use. The tiny trial leaves torch's random state unchanged.

    Args:
        has_begun: whether the runner has received its trial; the tiny trial then ends early.
    """
    import torch

    from nestor.options import MLPPreset
    from nestor.schemas import Preset
    from nestor_engine import Config, optimize, program
    from nestor_worker.runner import presets

    del program
    torch.set_num_threads(1)
    if has_begun():
        return
    random_state = torch.get_rng_state()
    problem = presets.build(Preset(model=MLPPreset(hidden=(1,)), train_size=10, val_size=10), seed=0)
    for _ in optimize(problem.bilevel(), problem.data, Config(n_steps=2, evaluate_every=1)):
        if has_begun():
            break
    torch.set_rng_state(random_state)
