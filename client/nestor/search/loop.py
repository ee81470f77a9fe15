"""The loop of a search: ask Optuna for values, tune the rest by gradient, tell Optuna how it ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nestor.callbacks import PRUNE, expect_callbacks, expect_flag, whole_number
from nestor.errors import (
    ArgumentInvalid,
    Diverged,
    OptionInvalid,
    OutOfMemory,
    SamplerFailed,
    TrialFailed,
    shown,
)
from nestor.options.config import Config
from nestor.schemas.storable import json_attributes
from nestor.search.arguments import builder, expect_instance, seconds
from nestor.search.history import ATTRIBUTE, earlier, outcome, recorded
from nestor.search.space import Space

if TYPE_CHECKING:
    from nestor.study import Callback, Study
    from nestor.trial import Trial

_LOOKING = 0.1  # seconds between two looks at the threads
_LEAVING = 1.0  # seconds for threads that only watch trials of a server


class _SearchEnded(Exception):
    """Leaves a trial whose search was interrupted; `Trial.wait` says what becomes of the trial."""


class _Asked(optuna.Study):
    """A study that proposes values and is given results; samplers that have proposed everything call its `stop`."""

    has_stopped = False

    def stop(self) -> None:
        self.has_stopped = True


class Search:
    """One call of `Study.search`; its docstring describes the arguments."""

    def __init__(
        self,
        study: Study,
        problem_fn: object,
        space: object,
        *,
        sampler: object,
        pruner: object,
        n_trials: int | None,
        n_jobs: int,
        timeout: float | None,
        config: Config | None,
        options: Mapping[str, Any],
        callbacks: Sequence[Callback],
        user_attrs: Mapping[str, Any] | None,
        show_progress_bar: bool,
        runs_elsewhere: bool,
        trial_options: Mapping[str, Any],
        check: Callable[..., object],
    ) -> None:
        """Check all that can be checked before the first trial.

        Args:
            check: raises the errors that `optimize` would raise about a configuration and `trial_options`.

        Raises:
            InvalidInput: an argument cannot be used.
        """
        expect_flag("show_progress_bar", show_progress_bar)
        expect_callbacks("study.search", callbacks, ("study", "trial"))
        self._study, self._callbacks, self._trial_options = study, callbacks, trial_options
        self._show, self._runs_elsewhere = show_progress_bar, runs_elsewhere
        expect_instance("sampler", sampler, BaseSampler, "TPESampler()")
        expect_instance("pruner", pruner, BasePruner, "MedianPruner()")
        self._n_trials = None if n_trials is None else whole_number("n_trials", n_trials, least=1)
        self._n_jobs = whole_number("n_jobs", n_jobs, least=1)
        self._ends_at = None if timeout is None else time.monotonic() + seconds(timeout)
        self._build, takes_values = builder(problem_fn)
        self._space = Space(space, config, options, problem_takes_values=takes_values)
        self._user_attrs = json_attributes(user_attrs)
        if ATTRIBUTE in self._user_attrs:
            given, expected = shown(user_attrs), f"others: {ATTRIBUTE!r} holds what the search samples"
            raise ArgumentInvalid(owner="study.search", argument="user_attrs", given=given, expected=expected)
        self._asking = threading.RLock()  # samplers, pruners and the fields below are no thread's own
        self._building = threading.Lock()  # problems draw their first weights from torch's generator
        self._begun = 0
        self._trials: list[Trial] = []
        self._failures: list[BaseException] = []  # of trials, which do not end the search
        self._broken: BaseException | None = None  # what ends the search
        check(self._space.example, user_attrs=self._user_attrs, **trial_options)
        storage = InMemoryStorage()
        ranked = study.record
        self._metric = ranked.metric
        optuna.create_study(storage=storage, study_name=study.name, direction=ranked.direction)
        self._optuna = _Asked(study.name, storage, cast("BaseSampler", sampler), cast("BasePruner", pruner))
        self._optuna.add_trials(earlier(study, self._space.distributions))

    def run(self) -> list[Trial]:
        """Run trials until there are enough; those of this search, in order of their numbers."""
        from tqdm.auto import tqdm

        with tqdm(total=self._n_trials, desc="search", unit="trial", disable=not self._show) as self._bar:
            if self._n_jobs == 1:
                self._work()
            else:
                self._work_in_threads()
        if self._broken is not None:
            raise self._broken
        if self._failures and not self._trials:
            raise self._failures[0]
        return sorted(self._trials, key=lambda trial: trial.number)

    # --- threads ----------------------------------------------------------------------------------

    def _work_in_threads(self) -> None:
        threads = [
            threading.Thread(target=self._work, name=f"nestor-search-{index}", daemon=True)
            for index in range(min(self._n_jobs, self._n_trials or self._n_jobs))
        ]
        for thread in threads:
            thread.start()
        try:
            while self._broken is None and any(thread.is_alive() for thread in threads):
                time.sleep(_LOOKING)
        except KeyboardInterrupt as error:
            kept = "The search has ended. Its finished trials are kept, and study.search continues from them."
            error.args = error.args or (kept,)
            self._broken = error
        for thread in threads:
            # In this process they leave their trials after the present step, paused. On a server, trials go on.
            thread.join(_LEAVING if self._runs_elsewhere and self._broken is not None else None)

    def _work(self) -> None:
        try:
            while (asked := self._ask()) is not None:
                self._run(asked)
        except _SearchEnded:
            pass
        except BaseException as error:
            with self._asking:
                self._broken = self._broken or error

    # --- one trial --------------------------------------------------------------------------------

    def _ask(self) -> optuna.Trial | None:
        """Values for the next trial; None: no trial begins any more."""
        with self._asking:
            is_late = self._ends_at is not None and time.monotonic() >= self._ends_at
            if is_late or self._broken or self._begun == self._n_trials or self._is_exhausted():
                return None
            try:
                asked = self._optuna.ask(self._space.distributions)
            except Exception as error:
                sampler, reason = type(self._optuna.sampler).__name__, f"{type(error).__name__}: {error}".rstrip(".")
                raise SamplerFailed(sampler=sampler, reason=reason) from error
            if self._has_all_begun(asked):
                self._optuna.tell(asked, state=TrialState.FAIL)
                return None
            self._begun += 1
            return asked

    def _is_exhausted(self) -> bool:
        if self._optuna.has_stopped:
            return True
        is_exhausted = getattr(self._optuna.sampler, "is_exhausted", None)  # of grids, perhaps by earlier searches
        return is_exhausted is not None and is_exhausted(self._optuna)

    def _has_all_begun(self, asked: optuna.Trial) -> bool:
        """Whether a sampler that proposes everything once repeats itself, since nothing else is left."""
        match self._optuna.sampler:
            case GridSampler():  # which may repeat what ran in an earlier search while there is more
                states = (TrialState.RUNNING,)
            case BruteForceSampler():
                states = None
            case _:
                return False
        others = self._optuna.get_trials(deepcopy=False, states=states)
        return any(one.params == asked.params for one in others if one.number != asked.number)

    def _run(self, asked: optuna.Trial) -> None:
        try:
            trial = self._tune(asked)
        except BaseException as error:
            if not _is_of_values(error):
                raise
            self._tell(asked, TrialState.FAIL, None)
            with self._asking:
                self._failures.append(error)
            return
        self._tell(asked, *outcome(trial.record))
        with self._asking:
            self._trials.append(trial)
            attribute = recorded(self._frozen(asked))
        if attribute != trial.record.user_attrs.get(ATTRIBUTE):  # a pruner has noted something
            trial.set_user_attr(ATTRIBUTE, attribute)

    def _tune(self, asked: optuna.Trial) -> Trial:
        values = asked.params
        config = self._space.config(values)
        with self._asking:
            attribute = recorded(self._frozen(asked))
        with self._building:
            problem = self._build(dict(values))

        def report(study: Study, trial: Trial) -> object:
            del study
            return self._report(asked, trial)

        return self._study.optimize(
            problem,
            config=config,
            callbacks=[*self._callbacks, report],
            user_attrs={**self._user_attrs, ATTRIBUTE: attribute},
            show_progress_bar=False,
            **self._trial_options,
        )

    def _report(self, asked: optuna.Trial, trial: Trial) -> object:
        step = trial.last_step
        if self._broken is not None:
            raise _SearchEnded
        if step is None or (value := step.value_of(self._metric)) is None:
            return None
        with self._asking:
            asked.report(value, step.number)
            is_last = step.number >= trial.spec.n_steps  # nothing is saved any more
            return PRUNE if not is_last and asked.should_prune() else None

    def _tell(self, asked: optuna.Trial, state: TrialState, value: float | None) -> None:
        with self._asking:
            self._optuna.tell(asked, value, state)
            if self._optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
                self._bar.set_postfix_str(f"best {self._optuna.best_value:.4g}", refresh=False)
            self._bar.update()

    def _frozen(self, asked: optuna.Trial) -> optuna.trial.FrozenTrial:
        return self._optuna.get_trials(deepcopy=False)[asked.number]


def _is_of_values(error: BaseException) -> bool:
    """Whether it may be due to the values of one trial: it failed, or its check did, or they contradict each other."""
    return isinstance(error, TrialFailed | OptionInvalid) or isinstance(error.__cause__, Diverged | OutOfMemory)
