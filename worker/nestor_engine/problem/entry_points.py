"""Problems that installed packages build: factories in the entry-point group `nestor.problems`.

Only what a package registers there can be called. A name is never imported because a user sent it.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch

from nestor.errors import (
    EntryPointFailed,
    EntryPointNotCallable,
    EntryPointNotFound,
    EntryPointNotImportable,
    EntryPointResultInvalid,
    FoldsWithExampleHparams,
    NestorError,
    OutOfMemory,
    is_out_of_memory,
    shown,
)
from nestor.options.presets import check_params, package_of, registered
from nestor_engine.data.splits import Data
from nestor_engine.objective import Bilevel
from nestor_engine.problem.problem import Problem
from nestor_engine.program.failures import place_of_error
from nestor_engine.tensors.random import derive_seed, randomness

SEED = "seed"  # a parameter of this name gets the trial's seed


class Trainable(Protocol):
    """What a factory makes: a `Problem`, or functions and data."""

    @property
    def data(self) -> Data:
        """The examples."""
        ...

    def bilevel(self) -> Bilevel:
        """The functions."""
        ...


@dataclass(frozen=True)
class FunctionsAndData:
    """A problem that its factory wrote as functions."""

    functions: Bilevel
    data: Data

    def bilevel(self) -> Bilevel:
        """The functions."""
        return self.functions


@dataclass(frozen=True)
class Factory:
    """An imported factory.

    Attributes:
        entry_point: module and function, as "package:factory".
        package: name and version of the package that registers it.
        parameters: those that can be given by name.
        takes_others: whether it also has `**kwargs`.
    """

    entry_point: str
    package: str
    function: Callable[..., Any]
    parameters: Mapping[str, inspect.Parameter]
    takes_others: bool

    def arguments(self, params: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """What to call the factory with; `seed` for its parameter of this name, unless `params` has one.

        Raises:
            EntryPointParamUnknown, EntryPointParamMissing
        """
        given = {SEED: seed, **params} if SEED in self.parameters else dict(params)
        required = {name: parameter.default is parameter.empty for name, parameter in self.parameters.items()}
        check_params(self.entry_point, given, required, takes_others=self.takes_others)
        return given


def find(entry_point: str, *, where: str) -> Factory:
    """Import a registered factory.

    Args:
        where: the place, for the error: "in this process", "on this worker".

    Raises:
        EntryPointNotFound, EntryPointNotImportable, EntryPointNotCallable
    """
    points = registered()
    point = points.get(entry_point)
    if point is None:
        raise EntryPointNotFound(entry_point=entry_point, where=where, known=sorted(points))
    package = package_of(point)
    try:
        function = point.load()
    except (Exception, SystemExit) as error:  # a module may raise anything
        reason = _sentence(error)
        raise EntryPointNotImportable(entry_point=entry_point, package=package, reason=reason) from error
    parameters, takes_others = _parameters(entry_point, package, function)
    return Factory(entry_point, package, function, parameters, takes_others)


def build(factory: Factory, params: Mapping[str, Any], *, seed: int, folds: bool = False) -> Trainable:
    """Call the factory: the problem is a function of the params and of the trial's seed.

    torch's, Python's and NumPy's random numbers are seeded during the call, so that the next attempt, on another
    machine, gets the same problem.

    Args:
        folds: whether the trial has folds.

    Raises:
        EntryPointParamUnknown, EntryPointParamMissing
        EntryPointFailed, OutOfMemory: the factory raised an error. Nestor's own errors stay as they are.
        EntryPointResultInvalid: it returned something else than a problem.
        FoldsWithExampleHparams: `folds`, and the problem has a hyperparameter for each training example.
    """
    arguments = factory.arguments(params, seed)
    with _seeded(derive_seed(seed, "entry point")):
        try:
            made: object = factory.function(**arguments)
        except NestorError:
            raise
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise OutOfMemory() from error
            where, reason = place_of_error(error.__traceback__), _sentence(error)
            raise EntryPointFailed(entry_point=factory.entry_point, where=where, reason=reason) from error
    if isinstance(made, Problem):
        if folds and made.hparams.by_position:
            raise FoldsWithExampleHparams
        return made
    parts = cast("tuple[object, ...]", made) if isinstance(made, tuple) else ()
    if [type(part) for part in parts] == [Bilevel, Data]:
        return FunctionsAndData(*cast("tuple[Bilevel, Data]", parts))
    raise EntryPointResultInvalid(entry_point=factory.entry_point, given=shown(cast(object, made)))


def _parameters(entry_point: str, package: str, function: object) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters that can be given by name, and whether there is a `**kwargs`."""
    if not callable(function):
        raise EntryPointNotCallable(entry_point=entry_point, package=package, reason=f"it is {shown(function)}")
    try:
        parameters = inspect.signature(function).parameters
    except (ValueError, TypeError):  # of a builtin
        return {}, True
    by_name = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if first := [n for n, p in parameters.items() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]:
        reason = f"its parameter {first[0]!r} has no name for callers"
        raise EntryPointNotCallable(entry_point=entry_point, package=package, reason=reason)
    return by_name, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0].rstrip(" .:")


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Seed the random numbers of torch, Python and NumPy, and restore their states at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        with randomness(seed, torch.device("cpu")):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
