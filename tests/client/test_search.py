"""A search: Optuna chooses what no gradient can tune, and each trial tunes the rest."""

from __future__ import annotations

import _thread
import sys
import threading
import time
import warnings
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import BruteForceSampler, GridSampler, RandomSampler, TPESampler

import nestor
from nestor.errors import (
    ArgumentInvalid,
    CheckFailed,
    ConfigInvalid,
    InvalidInput,
    MissingExtra,
    OptionGivenTwice,
    OptionOutOfRange,
    SamplerFailed,
    SearchSpaceInvalid,
    TrialFailed,
)
from nestor.schemas import State
from nestor.search.space import Space
from tests.client.conftest import NewStudy
from tests.client.problems import ridge

optuna.logging.set_verbosity(optuna.logging.WARNING)

LR: dict[str, BaseDistribution] = {"inner.lr": FloatDistribution(1e-4, 1e-1, log=True)}
QUICK: Any = {"n_steps": 3, "inner_steps": 2, "evaluate_every": 1, "show_progress_bar": False}


class _After(BasePruner):
    """Prunes all trials but the first at their second report."""

    def prune(self, study, trial):
        return trial.number > 0 and len(trial.intermediate_values) == 2


def test_each_trial_trains_with_the_values_that_optuna_chose_until_it_prunes_them(new_study: NewStudy):
    """Two at a time, in this process and on a server."""
    study, seen = new_study(), []
    solvers = CategoricalDistribution(["neumann", "conjugate_gradient"])
    space = LR | {"n": IntDistribution(10, 40), "response.solver.solver": solvers}

    def build(values):
        seen.append(values)
        return ridge(n=values["n"])

    options: Any = QUICK | {"n_steps": 12, "tags": ["searched"], "user_attrs": {"why": "a test"}}
    sampler = TPESampler(seed=0)
    trials = study.search(build, space, sampler=sampler, pruner=_After(), n_trials=3, n_jobs=2, **options)
    assert [trial.number for trial in trials] == [0, 1, 2]
    for trial in trials:
        chosen = trial.user_attrs["optuna"]["params"]
        assert chosen in seen
        assert trial.spec.inner == nestor.Adam(chosen["inner.lr"])
        assert trial.spec.response.parts()[-1].tag == chosen["response.solver.solver"]
        assert (trial.tags, trial.user_attrs["why"]) == (("searched",), "a test")
    assert len({trial.user_attrs["optuna"]["params"]["n"] for trial in trials}) > 1
    ends = sorted((trial.state.value, trial.record.step) for trial in trials)
    assert ends == [("complete", 12), ("pruned", 2), ("pruned", 2)]


class _Recording(RandomSampler):
    """Keeps what Optuna knows when it asks for values."""

    def before_trial(self, study, trial):
        self.known = [one for one in study.get_trials(deepcopy=True) if one.state.is_finished()]
        self.direction = study.direction


def test_a_search_continues_from_the_trials_of_earlier_ones():
    study = nestor.create_study()
    study.search(ridge, LR, pruner=_After(), n_trials=2, **QUICK)
    study.optimize(ridge(), user_attrs={"optuna": {"params": 5}}, **QUICK)  # of no search
    study.search(ridge, {"inner.lr": FloatDistribution(0.1, 1.0)}, n_trials=1, **QUICK)  # not logarithmic
    study.search(ridge, LR, sampler=(sampler := _Recording(seed=1)), n_trials=1, **QUICK)
    complete, pruned = sampler.known
    first, second = study.trials[:2]
    assert (complete.state.name, pruned.state.name) == ("COMPLETE", "PRUNED")
    assert complete.params == first.user_attrs["optuna"]["params"]
    assert complete.distributions == LR
    assert complete.value == first.best_value
    assert complete.intermediate_values == {step.number: step.value for step in first.steps}
    assert pruned.value == second.value
    assert sampler.direction.name == "MINIMIZE"


def brute_force() -> BruteForceSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return BruteForceSampler()


@pytest.mark.parametrize("sampler", ["grid", "brute force"])
def test_a_sampler_ends_the_search_when_it_has_proposed_everything(sampler: str):
    study, choices = nestor.create_study(), [1, 2, 3]
    make = {"grid": lambda: GridSampler({"inner_steps": choices}, seed=0), "brute force": brute_force}[sampler]
    space = {"inner_steps": CategoricalDistribution(choices)}
    options = {"n_steps": 1, "show_progress_bar": False}
    trials = study.search(ridge, space, sampler=make(), n_trials=1, **options)
    trials += study.search(ridge, space, sampler=make(), n_jobs=3, **options)  # without a number
    assert sorted(trial.spec.inner_steps for trial in trials) == choices
    assert study.search(ridge, space, sampler=make(), **options) == []


def test_a_timeout_ends_the_search_after_the_running_trial():
    slow = lambda study, trial: time.sleep(0.05)
    (trial,) = nestor.create_study().search(ridge, LR, timeout=0.1, callbacks=[slow], **QUICK)
    assert trial.state is State.complete


def test_trials_that_fail_are_told_to_optuna_and_do_not_end_the_search():
    """One diverges at its third step, one in the check at its first, and one has options that contradict each other."""
    rates = [1e-2, 1e3, 1e30]
    lr = {"inner.lr": FloatDistribution(1e-3, 1e30, log=True)}
    options = QUICK | {"n_steps": 8, "inner": nestor.SGD()}
    study = nestor.create_study()
    (trial,) = study.search(ridge, lr, sampler=GridSampler({"inner.lr": rates}, seed=0), **options)
    assert trial.spec.inner == nestor.SGD(1e-2)
    assert sorted(one.state for one in study.trials) == ["complete", "failed"]
    study.search(ridge, lr, sampler=(sampler := _Recording(seed=0)), n_trials=1, **QUICK)
    assert sorted(one.state.name for one in sampler.known) == ["COMPLETE", "FAIL"]

    space = {"response.steps": IntDistribution(1, 4), "inner_steps": CategoricalDistribution([1, 4])}
    grid = GridSampler({"response.steps": [4], "inner_steps": [1, 4]}, seed=0)
    (trial,) = nestor.create_study().search(
        ridge, space, sampler=grid, n_steps=1, response=nestor.Unrolled(1), show_progress_bar=False
    )
    assert trial.spec.inner_steps == 4

    for rate, error, sentence in ((1e3, TrialFailed, "Trial 0 failed.*diverged"), (1e30, CheckFailed, "diverged")):
        with pytest.raises(error, match=sentence):
            nestor.create_study().search(ridge, lr, sampler=GridSampler({"inner.lr": [rate]}), **options)


def test_an_error_of_the_problem_ends_the_search():
    study = nestor.create_study()

    def build(values):
        raise ZeroDivisionError

    for n_jobs in (1, 2):
        with pytest.raises(ZeroDivisionError):
            study.search(build, LR, n_trials=3, n_jobs=n_jobs, **QUICK)
    assert study.trials == []


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_pauses_the_running_trials_and_keeps_the_finished_ones(n_jobs: int):
    study, alive = nestor.create_study(), threading.active_count()

    def interrupt(study, trial):
        if trial.number == 2 and trial.last_step.number == 2:
            _thread.interrupt_main()
        if trial.number >= 2:  # the search hears of it soon
            time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt, match="paused" if n_jobs == 1 else "study.search continues"):
        study.search(ridge, LR, n_trials=9, n_jobs=n_jobs, callbacks=[interrupt], **QUICK | {"n_steps": 30})
    assert threading.active_count() == alive
    states = [trial.state for trial in study.trials]
    assert set(states) <= {State.complete, State.pruned, State.paused}
    assert 1 <= states.count(State.paused) <= n_jobs
    paused = study.get_trials(states=["paused"])[0].resume().wait()
    study.search(ridge, LR, sampler=(sampler := _Recording(seed=0)), n_trials=1, **QUICK)
    assert paused.user_attrs["optuna"]["params"] in [one.params for one in sampler.known]


class _Watched(RandomSampler):
    """Fails if two threads are in it at the same time."""

    inside = 0

    def sample_independent(self, *args):
        self.inside += 1
        time.sleep(0.01)
        assert self.inside == 1
        value = super().sample_independent(*args)
        self.inside -= 1
        return value


def test_one_thread_at_a_time_uses_the_sampler():
    trials = nestor.create_study().search(
        lambda: ridge(), LR, sampler=_Watched(), n_trials=8, n_jobs=4, **QUICK | {"n_steps": 1}
    )
    assert len({trial.spec.inner.lr for trial in trials}) == 8


IMPLICIT = nestor.Implicit(nestor.GaussNewton(), nestor.Neumann(terms=1))
SGD = nestor.SGD(0.3, momentum=0.5)
STOPPING = {"early_stopping": nestor.EarlyStopping()}
SEARCHED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {  # values, options around, options
    "a field": ({"inner_steps": 2}, {"seed": 7}, {"inner_steps": 2, "seed": 7}),
    "inside of a default": ({"outer.lr": 0.3}, {}, {"outer": nestor.Adam(0.3, eps=1e-12)}),
    "inside of an option": ({"inner.lr": 0.3}, {"inner": nestor.SGD(momentum=0.5)}, {"inner": SGD}),
    "inside of a word": ({"inner.lr": 0.3}, {"inner": "sgd"}, {"inner": nestor.SGD(0.3)}),
    "inside of JSON": ({"inner.momentum": 0.5}, {"inner": {"sgd": {"lr": 0.3}}}, {"inner": SGD}),
    "inside of a choice": ({"inner.momentum": 0.5, "inner": "sgd", "inner.lr": 0.3}, {}, {"inner": SGD}),
    "deep": (
        {"response.solver.terms": 4, "response.curvature": "hessian", "response.curvature.damping": 0.5},
        {"response": IMPLICIT},
        {"response": nestor.Implicit(nestor.Hessian(damping=0.5), nestor.Neumann(terms=4))},
    ),
    "one hyperparameter": (
        {"outer_lr.net.0.weight": 0.3},
        {"outer_lr": {"l2": 0.1}},
        {"outer_lr": {"net.0.weight": 0.3, "l2": 0.1}},
    ),
    "nothing": (
        {"autocast": None, "early_stopping.patience": 3},
        STOPPING,
        {"early_stopping": nestor.EarlyStopping(3)},
    ),
}


@pytest.mark.parametrize("case", SEARCHED)
def test_a_value_goes_to_the_option_that_its_name_says(case: str):
    values, around, expected = SEARCHED[case]
    given = {name: CategoricalDistribution([value]) for name, value in values.items()}
    space = Space(given, nestor.Config(n_steps=9), around, problem_takes_values=False)
    assert space.config(values) == space.example == nestor.Config(n_steps=9, **expected)


def test_without_optuna_the_extra_to_install_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"study.search needs optuna.*nestor\[search\]"):
        nestor.create_study().search(ridge, LR, n_trials=1, **QUICK)


ONE, SMALL = IntDistribution(1, 4), FloatDistribution(0.1, 1.0)
SPACES: dict[str, tuple[Any, dict[str, Any], type[InvalidInput], str]] = {
    "nothing": ({}, {}, ArgumentInvalid, r"study.search: space is \{\}. Pass names and distributions"),
    "a list": (["inner.lr"], {}, ArgumentInvalid, "Pass names and distributions"),
    "a number as a name": ({5: SMALL}, {}, SearchSpaceInvalid, "'5': it must be a string"),
    "a range": ({"inner.lr": (0, 1)}, {}, SearchSpaceInvalid, "is no distribution; pass one of optuna.distributions"),
    "an option that does not exist": ({"iner.lr": SMALL}, {}, SearchSpaceInvalid, "closest option is 'inner.lr'"),
    "a field": ({"inner.lrr": SMALL}, {}, SearchSpaceInvalid, "'inner.lrr': there is no such option.*'inner.lr'"),
    "a deep field": ({"response.solver.terms": ONE}, {}, SearchSpaceInvalid, "'response.solver.solver.terms'"),
    "inside of a number": ({"inner.lr.x": SMALL}, {}, SearchSpaceInvalid, "'inner.lr.x'.*it must be a number"),
    "inside of nothing": ({"folds.count": ONE}, {}, SearchSpaceInvalid, "folds is None, and so has no 'count'"),
    "a field of another": ({"inner.betas": ONE}, {"inner": nestor.SGD()}, SearchSpaceInvalid, "no such option"),
    "a bound": ({"inner.lr": FloatDistribution(-1, 1)}, {}, SearchSpaceInvalid, "inner.lr=-1.0: it must be above 0"),
    "an upper bound": ({"inner.betas": ONE}, {}, SearchSpaceInvalid, "inner.betas=1: it must be a list"),
    "a real number of steps": ({"n_steps": SMALL}, {}, SearchSpaceInvalid, "n_steps=0.1: it must be a whole number"),
    "a choice": (
        {"inner": CategoricalDistribution(["adam", "adm"])},
        {},
        SearchSpaceInvalid,
        "'adm'.*it must be one of",
    ),
    "a choice's field": (
        {"inner": CategoricalDistribution(["adam"]), "inner.momentum": SMALL},
        {},
        SearchSpaceInvalid,
        "'inner.momentum': there is no such option",
    ),
    "infinity": ({"width": CategoricalDistribution([float("inf")])}, {}, SearchSpaceInvalid, "cannot be recorded"),
    "given twice": ({"n_steps": ONE}, {"n_steps": 3}, OptionGivenTwice, "3 as a keyword, and in the space"),
    "unknown keyword": (LR, {"n_step": 3}, ConfigInvalid, "n_step: there is no such option"),
    "wrong keyword": (LR, {"inner_steps": 0}, OptionOutOfRange, "inner_steps=0: it must be at least 1"),
    "no steps": (LR, {"n_steps": None}, ConfigInvalid, "n_steps is missing"),
    "priority": (LR, {"priority": "x", "n_trials": None}, InvalidInput, "priority='x': it must be a whole number"),
    "devices": (LR, {"devices_per_trial": 0}, InvalidInput, "devices_per_trial=0: it must be at least 1"),
    "trial_timeout": (LR, {"trial_timeout": 0}, InvalidInput, "timeout=0"),
    "callbacks": (LR, {"callbacks": [5]}, ArgumentInvalid, r"callbacks\[0\] is 5. Pass a list of functions"),
    "what optimize has": (LR, {"wait": True}, ConfigInvalid, "wait: there is no such option"),
    "catch": (LR, {"catch": ()}, ConfigInvalid, "catch: there is no such option"),
    "config": (LR, {"config": 5}, ConfigInvalid, "pass nestor.Config"),
    "sampler": (LR, {"sampler": "tpe"}, ArgumentInvalid, "sampler is 'tpe'. Pass one of optuna.samplers"),
    "pruner": (LR, {"pruner": MedianPruner}, ArgumentInvalid, "pruner is .*Pass one of optuna.pruners"),
    "n_trials": (LR, {"n_trials": 0}, OptionOutOfRange, "n_trials=0: it must be a whole number, at least 1"),
    "n_jobs": (LR, {"n_jobs": -1}, OptionOutOfRange, "n_jobs=-1"),
    "timeout": (LR, {"timeout": float("nan")}, OptionOutOfRange, "timeout=nan: it must be a number of seconds"),
    "our attribute": (LR, {"user_attrs": {"optuna": 1}}, ArgumentInvalid, "'optuna' holds what the search samples"),
    "problem": (LR, {"problem_fn": 5}, ArgumentInvalid, "problem_fn is 5. Pass a function"),
    "two arguments": (LR, {"problem_fn": lambda a, b: ridge()}, ArgumentInvalid, "a function of one argument"),
    "no argument": ({"width": ONE}, {"problem_fn": lambda: ridge()}, SearchSpaceInvalid, "'width': it is not an opti"),
    "grid": (
        LR,
        {"sampler": GridSampler({"x": [1]})},
        SamplerFailed,
        "GridSampler cannot propose.*inner.lr, is not fo",
    ),
}


@pytest.mark.parametrize("case", SPACES)
def test_what_cannot_be_searched_is_refused_before_the_first_trial(case: str):
    space, given, error, sentence = SPACES[case]
    study: Any = nestor.create_study()
    options = {"problem_fn": lambda values: ridge(), "n_trials": 1, **({} if "n_steps" in space else {"n_steps": 2})}
    with pytest.raises(error, match=sentence):
        study.search(space=space, **options | given)
    assert study.trials == []
