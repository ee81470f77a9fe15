"""Problems that installed packages build: on the workers of a server, or in this process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from nestor.errors import ArgumentInvalid, EntryPointParamNotJson, shown
from nestor.extras import engine
from nestor.options.base import plain
from nestor.schemas import EntryPointProblem, build

if TYPE_CHECKING:
    from nestor_engine.problem.entry_points import Trainable
    from nestor_engine.problem.validation.report import Report


class EntryPoint:
    """A problem that a package builds where the trial runs: for what cannot be exported, or has data of its own.

    `study.optimize(nestor.EntryPoint("package:factory", width=8))` calls `factory(width=8)`. The package registers the
    factory in its entry-point group `nestor.problems`. On a server, the operator installs the package on the workers;
    `Client.presets` and `nestor presets` list what is installed. If the factory has a parameter `seed` and it is not
    given, it gets the trial's.

    Args:
        entry_point: module and function, as the package registers them.
        params: arguments of the factory; what JSON can hold. Tuples arrive as lists.

    Raises:
        OptionInvalid: `entry_point` is not written like "package:factory".
        EntryPointParamNotJson: JSON cannot hold a value.
    """

    def __init__(self, entry_point: str, /, **params: Any) -> None:
        sent = {name: _as_json(entry_point, name, value) for name, value in params.items()}
        self.problem = build(EntryPointProblem, {"entry_point": entry_point, "params": sent})

    def check(self, *, seed: int = 0) -> Report:
        """Build the problem in this process, run one batch through every path, and report mistakes.

        Whether it can be exported does not matter. Functions and data, which are not a `Problem`, cannot be checked.

        Raises:
            EntryPointInvalid: as `build`.
            ArgumentInvalid: the factory returned functions and data.
        """
        check = engine("nestor_engine.problem.validation.checks", what="nestor.EntryPoint").check
        from nestor_engine import Problem

        built = self.build(seed=seed)
        if not isinstance(built, Problem):
            given, expected = "(Bilevel, Data)", "an entry point whose factory returns a nestor.Problem"
            raise ArgumentInvalid(owner="EntryPoint.check", argument="problem", given=given, expected=expected)
        return check(built, ship=False)

    def build(self, *, seed: int = 0, folds: bool = False) -> Trainable:
        """Call the factory in this process.

        Args:
            seed: the trial's.
            folds: whether the trial has folds, which hyperparameters of single examples do not support.

        Raises:
            EntryPointInvalid: there is no such factory here, it does not take the params, or it fails.
            FoldsWithExampleHparams: `folds`, and the problem has a hyperparameter for each training example.
            MissingExtra: the engine is not installed.
        """
        factories = engine("nestor_engine.problem.entry_points", what="nestor.EntryPoint")
        factory = factories.find(self.problem.entry_point, where="in this process")
        return factories.build(factory, self.problem.params, seed=seed, folds=folds)

    def __eq__(self, other: object) -> bool:
        return self.problem == other.problem if isinstance(other, EntryPoint) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.problem.entry_point)

    def __repr__(self) -> str:
        params = [f"{name}={value!r}" for name, value in self.problem.params.items()]
        return f"EntryPoint({', '.join([repr(self.problem.entry_point), *params])})"


def _as_json(entry_point: str, name: str, value: Any) -> Any:
    """What a worker will read: numbers of NumPy as those of Python, tuples as lists."""
    try:
        return json.loads(json.dumps(plain(value), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise EntryPointParamNotJson(entry_point=entry_point, param=name, given=shown(value)) from error
