"""Studies: the words that Optuna's users know, for trials that tune while they train."""

from __future__ import annotations

import html
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import UUID

from nestor import schemas
from nestor.backend import Backend
from nestor.callbacks import expect_callbacks, expect_flag, states_of, trial_id, whole_number
from nestor.entry_points import EntryPoint
from nestor.errors import (
    ArgumentInvalid,
    AttributeMissing,
    CallbacksWithoutWait,
    FoldsWithExampleHparams,
    TrialNotFinished,
    TrialNotFound,
    called_as,
    no_attribute,
    shown,
)
from nestor.errors.optuna_names import ARGUMENTS, SEARCH_ARGUMENTS, STUDY_ATTRIBUTES
from nestor.extras import require
from nestor.options.config import Config, documented, merged
from nestor.ranking import Ranking
from nestor.results import html as rendering
from nestor.results.tables import TrialTable
from nestor.results.values import Values
from nestor.schemas import StudyPatch, WarmStart
from nestor.schemas.storable import json_attributes, one_attribute
from nestor.trial import Trial

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs] pandas has none
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

    from nestor.options import EarlyStopping, Folds, Optimizer, Response
    from nestor_engine import Problem
    from nestor_engine.problem.entry_points import Trainable
    from nestor_engine.program.export import Program

Callback = Callable[["Study", Trial], object]

# The trial that the callbacks of this thread are called for.
_WATCHED: ContextVar[Trial | None] = ContextVar("watched", default=None)


class Study:
    """A named group of trials, on a server or in this process; the result of `create_study` or `load_study`.

    Unlike in Optuna, a trial is not one sampled configuration: it trains once and tunes its hyperparameters meanwhile.
    """

    def __init__(self, backend: Backend, record: schemas.Study) -> None:
        self._backend, self._record = backend, record

    if not TYPE_CHECKING:  # type checkers know the attributes

        def __getattr__(self, name: str) -> AttributeMissing:
            raise no_attribute(self, name, STUDY_ATTRIBUTES)

    @property
    def id(self) -> UUID:
        """Identifies the study in paths of the server's API."""
        return self._record.id

    @property
    def name(self) -> str:
        """Unique among your studies."""
        return self._record.name

    @property
    def record(self) -> schemas.Study:
        """The study and a summary of its trials, fetched anew."""
        self._record = self._backend.study(self.id)
        return self._record

    # --- running ----------------------------------------------------------------------------------

    @documented
    @called_as("study.optimize", **ARGUMENTS)
    def optimize(
        self,
        problem: Problem | EntryPoint,
        n_steps: int | None = None,
        *,
        config: Config | None = None,
        inner_steps: int | None = None,
        batch_size: int | None = None,
        val_batch_size: int | None = None,
        inner: Optimizer | None = None,
        outer: Optimizer | None = None,
        outer_lr: Mapping[str, float] | None = None,
        autocast: Literal["bfloat16"] | None = None,
        response: Response | None = None,
        trace: bool | None = None,
        warmup_steps: int | None = None,
        train_on: Literal["train", "train+val"] | None = None,
        folds: Folds | None = None,
        early_stopping: EarlyStopping | None = None,
        evaluate_every: int | None = None,
        seed: int | None = None,
        warm_start: Trial | WarmStart | None = None,
        priority: int = 0,
        devices_per_trial: int = 1,
        timeout: float | None = None,
        wait: bool = True,
        callbacks: Sequence[Callback] = (),
        show_progress_bar: bool = True,
        user_attrs: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        note: str = "",
    ) -> Trial:
        """Train the model of `problem` once, and tune its hyperparameters meanwhile.

        On a server, the trial runs there: this call only watches it, and Ctrl-C only stops watching. In this process,
        Ctrl-C pauses the trial, and `wait=False` runs it in a background thread.

        Args:
            problem: the model, hyperparameters, losses and data; or an entry point, which builds them where the trial
                runs.
            config: how to tune, as one value. The keywords from `n_steps` to `seed` are its fields: pass each option
                in one of the two places; `nestor.Config` has the defaults.
            warm_start: a trial of any study, whose weights and hyperparameters this one starts from; optimizers and
                steps start anew. `nestor.WarmStart(trial=trial.id, weights=False)` takes its hyperparameters alone.
            priority: of the trials that wait for a worker, those of higher priority start first, also before those
                of other users; from -1000 to 1000. A priority above 0 requires an admin token.
            devices_per_trial: devices of one worker that train together, each on its part of every batch.
            timeout: seconds of training, by the clock on the wall, after which the trial ends as complete: after the
                step in which they are over. Time in a queue or a pause does not count, and a trial that is resumed or
                moves to another worker has the rest. `trial.extend` lifts the limit.
            wait: return when the trial is finished; False: return at once, with a trial to `stream` or `wait` for.
            callbacks: called as callback(study, trial) after each step, which is `trial.last_step`. They may call
                `study.stop()`, which ends the trial after this step and keeps its result, and they may return
                `nestor.PRUNE` or raise `optuna.TrialPruned`, which ends it as pruned. They require `wait`.
            show_progress_bar: write a progress bar to stderr while this call waits.
            user_attrs: stored with the trial; any JSON-serializable values. `trial.set_user_attr` changes them.
            tags: labels of the trial. `trial.set_tags` changes them.
            note: text in Markdown. `trial.set_note` changes it.

        Raises:
            ConfigInvalid, InvalidInput: an argument is outside of its range; the message says which.
            ProblemInvalid: the problem cannot be tuned; no trial was created.
            TrialFailed: the trial failed; `study.trials` has it with its records.
        """
        expect_flag("wait", wait)
        expect_flag("show_progress_bar", show_progress_bar)
        expect_callbacks("study.optimize", callbacks, ("study", "trial"))
        if callbacks and not wait:
            raise CallbacksWithoutWait
        options = {
            "n_steps": n_steps,
            "inner_steps": inner_steps,
            "batch_size": batch_size,
            "val_batch_size": val_batch_size,
            "inner": inner,
            "outer": outer,
            "outer_lr": outer_lr,
            "autocast": autocast,
            "response": response,
            "trace": trace,
            "warmup_steps": warmup_steps,
            "train_on": train_on,
            "folds": folds,
            "early_stopping": early_stopping,
            "evaluate_every": evaluate_every,
            "seed": seed,
        }
        config = merged(config, {name: value for name, value in options.items() if value is not None})
        spec = submission(
            config,
            warm_start=WarmStart(trial=warm_start.id) if isinstance(warm_start, Trial) else warm_start,
            priority=priority,
            devices_per_trial=devices_per_trial,
            timeout=timeout,
            user_attrs=json_attributes(user_attrs),
            tags=tags,
            note=note,
            **({"problem": problem.problem} if isinstance(problem, EntryPoint) else {}),
        )
        checked, program = self._check(problem, config)
        record = self._backend.submit(
            self.id, checked, config, spec, program=program, watched=wait, show_progress_bar=show_progress_bar
        )
        trial = Trial(self._backend, record)
        if wait:
            self._watch(trial, callbacks, show_progress_bar)
        return trial

    @documented
    @called_as("study.search", **SEARCH_ARGUMENTS)
    def search(
        self,
        problem_fn: Callable[[dict[str, Any]], Problem | EntryPoint] | Callable[[], Problem | EntryPoint],
        space: Mapping[str, BaseDistribution],
        *,
        sampler: BaseSampler | None = None,
        pruner: BasePruner | None = None,
        n_trials: int | None = None,
        n_jobs: int = 1,
        timeout: float | None = None,
        trial_timeout: float | None = None,
        config: Config | None = None,
        priority: int = 0,
        devices_per_trial: int = 1,
        callbacks: Sequence[Callback] = (),
        show_progress_bar: bool = True,
        user_attrs: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        **options: Any,
    ) -> list[Trial]:
        """Let a sampler of Optuna choose what no gradient can tune; each trial tunes the rest by gradient.

        Each trial records its values as the user attribute "optuna". A later search in this study, also by another
        process, continues from all finished trials that have it and whose distributions are of the same kinds.

        Args:
            problem_fn: called before each trial, in one thread at a time, with a dictionary of the values, or without
                arguments if it takes none. It returns the problem.
            space: distributions of optuna.distributions by name. Names of options, with dots for those inside of others
                ("n_steps", "inner.lr", "response.curvature.damping", "outer_lr.l2"), set that option. All others
                are for `problem_fn`.
            sampler: from optuna.samplers; by default TPESampler(). The search ends if it has proposed everything.
            pruner: from optuna.pruners; by default MedianPruner(). It compares the values by which the study ranks, at
                the steps where they are computed, and ends trials as pruned.
            n_trials: begin so many trials; None: as many as `timeout` and `sampler` permit.
            n_jobs: so many trials at a time: in threads of this process, or watched by them on a server.
            timeout: seconds after which no trial begins; those that run are finished.
            trial_timeout: seconds of training of each trial, as `timeout` of `optimize`.
            config: the options that are not searched; or the keywords of `optimize` from `n_steps` to `seed`. Names
                with dots change a part of one of these options, or of its default.
            callbacks: as those of `optimize`, for each trial. They are called in the trial's thread.
            priority, devices_per_trial, user_attrs, tags: of each trial, as in `optimize`.
            show_progress_bar: write one progress bar for all trials to stderr.

        Returns:
            The trials of this search that did not fail, in order of their numbers. `study.best_trial` has the best.

        Raises:
            SearchSpaceInvalid: a name or a value of `space` cannot be used; no trial was created.
            InvalidInput: another argument cannot be used.
            TrialFailed, CheckFailed, OptionInvalid: the first error, if all trials failed, diverged in their checks, or
                had values that contradict each other. If only some do, the search reports this to Optuna and goes on.
            SamplerFailed: the sampler raised an error.
            MissingExtra: optuna is not installed.
        """
        require("optuna", what="study.search", extra="search")
        from nestor.search.loop import Search

        return Search(
            self,
            problem_fn,
            space,
            sampler=sampler,
            pruner=pruner,
            n_trials=n_trials,
            n_jobs=n_jobs,
            timeout=timeout,
            config=config,
            options={name: value for name, value in options.items() if value is not None},
            callbacks=callbacks,
            user_attrs=user_attrs,
            show_progress_bar=show_progress_bar,
            runs_elsewhere=self._backend.ships,
            trial_options={
                "timeout": trial_timeout,
                "priority": priority,
                "devices_per_trial": devices_per_trial,
                "tags": tags,
            },
            check=submission,
        ).run()

    def stop(self) -> None:
        """End the trial of the calling callback after its step; outside of callbacks, end all unfinished trials.

        On a server, the worker may be some steps ahead of the callback. These steps are withdrawn, and the worker
        repeats those between its last checkpoint and the callback's step: so the trial has the weights of that step.
        """
        watched = _WATCHED.get()
        if watched is not None and watched.record.study_id == self.id:
            watched.stop()
            return
        for trial in self.trials:
            if "stop" in trial.allowed_actions:
                trial.stop()

    @property
    def _ranking(self) -> Ranking:
        return Ranking.of(self.record)  # of now: it may have changed before the first trial

    def _check(self, problem: object, config: Config) -> tuple[Trainable | EntryPoint, Program | None]:
        """The problem, built if this process trains it, and its export if it leaves this process."""
        if isinstance(problem, EntryPoint):
            if self._backend.ships:  # the package need not be installed here
                return problem, None
            problem = problem.build(seed=config.seed, folds=config.folds is not None)
        from nestor_engine import Problem
        from nestor_engine.problem.entry_points import FunctionsAndData
        from nestor_engine.problem.validation.checks import check

        if isinstance(problem, FunctionsAndData):
            return problem, None
        if not isinstance(problem, Problem):
            expected = "a nestor.Problem(model, hparams, train_loss, val_loss, train=…, val=…)"
            if inspect.isroutine(problem):
                expected += " of what this function trains: Nestor calls no objective function"
            else:
                expected += " or a nestor.EntryPoint"
            raise ArgumentInvalid(owner="study.optimize", argument="problem", given=shown(problem), expected=expected)
        self._ranking.expect(problem.metrics)
        if config.folds is not None and problem.hparams.by_position:
            raise FoldsWithExampleHparams
        report = check(problem, config=config, ship=self._backend.ships)
        report.raise_errors()
        for finding in report.findings:
            warnings.warn(f"{finding.where}: {finding.sentence}", stacklevel=4)  # at the call of optimize
        return problem, report.program

    def _watch(self, trial: Trial, callbacks: Sequence[Callback], show_progress_bar: bool) -> None:
        bound = [partial(callback, self) for callback in callbacks]
        token = _WATCHED.set(trial)
        try:
            trial.wait(show_progress_bar=show_progress_bar, callbacks=bound)
        finally:
            _WATCHED.reset(token)

    # --- results ----------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Trial]:
        """All trials, in order of their numbers."""
        return self.get_trials()

    @called_as("study.get_trials", deepcopy="Leave it out: trials are read anew.")
    def get_trials(self, states: Collection[str | Enum] | None = None) -> list[Trial]:
        """The trials in order of their numbers: all, or those whose state is one of `states`.

        Args:
            states: such as `[nestor.schemas.State.complete]` or `["complete", "pruned"]`; Optuna's `TrialState`, too.

        Raises:
            ArgumentInvalid: there is no such state.
        """
        wanted = states_of("study.get_trials", states)
        return [Trial(self._backend, record) for record in self._backend.trials(self.id, wanted)]

    @called_as("study.trial")
    def trial(self, number: int) -> Trial:
        """The trial of that number.

        Raises:
            TrialNotFound: the study has no such trial.
        """
        return Trial(self._backend, self._backend.find_trial(self.id, whole_number("number", number)))

    @called_as("study.get_trial")
    def get_trial(self, trial: int | UUID | str) -> Trial:
        """A trial of this study, by its number or its id.

        Raises:
            TrialNotFound: the study has no such trial.
        """
        if not isinstance(trial, UUID | str):
            return self.trial(trial)
        found = self._backend.trial(trial_id(trial))
        if found.study_id != self.id:
            raise TrialNotFound(trial=str(trial))
        return Trial(self._backend, found)

    @property
    def best_trial(self) -> Trial:
        """The trial with the best `best_value`, by the metric and the direction of the study; it may be unfinished.

        Raises:
            TrialNotFinished: no trial has a value yet.
        """
        best = self._ranking.best_trial(self._backend.trials(self.id))
        if best is None:
            raise TrialNotFinished(study=self.name)
        return Trial(self._backend, best)

    @property
    def best_value(self) -> float:
        """The `best_value` of `best_trial`.

        Raises:
            TrialNotFinished: no trial has a value yet.
        """
        return cast(float, self.best_trial.best_value)

    @property
    def best_hparams(self) -> Values:
        """The best trial's `best_hparams`."""
        return self.best_trial.best_hparams

    @called_as("study.trials_dataframe")
    def trials_dataframe(self, *, config: bool = False, metrics: bool = True) -> pandas.DataFrame:
        """One row per trial: its course, the options in which the trials differ, last metrics and user attributes.

        Args:
            config: have a column for every option, such as `inner.lr`, and not only for those that differ.
            metrics: have the metrics of the last step, such as `val_metrics.accuracy`. This fetches a step per trial.

        Raises:
            MissingExtra: pandas is not installed.
        """
        expect_flag("config", config)
        expect_flag("metrics", metrics)
        pd = require("pandas", what="study.trials_dataframe", extra="viz")
        records = self._backend.trials(self.id)
        table = TrialTable(every=config)
        items = [
            (record, self._backend.steps(record.id, after=max(0, record.step - 1)) if metrics else ())
            for record in records
        ]
        for item in items:
            table.add(item)
        return pd.DataFrame([table.row(item) for item in items], columns=table.columns)

    # --- attributes -------------------------------------------------------------------------------

    @property
    def user_attrs(self) -> dict[str, Any]:
        """A copy; `set_user_attr` changes them."""
        return dict(self.record.user_attrs)

    @called_as("study.set_user_attr")
    def set_user_attr(self, key: str, value: Any) -> None:
        """Store `value` with the study. Attributes that others set are kept.

        Raises:
            AttributesNotJson: `value` is not JSON-serializable.
        """
        self._record = self._backend.change_study(self.id, StudyPatch(set_user_attrs=one_attribute(key, value)))

    @property
    def tags(self) -> tuple[str, ...]:
        """The study's labels as of now."""
        return self.record.tags

    @called_as("study.set_tags")
    def set_tags(self, tags: Sequence[str]) -> None:
        """Replace all tags of the study.

        Raises:
            InvalidInput: a tag is empty or longer than 200 characters.
        """
        self._record = self._backend.change_study(self.id, schemas.build(StudyPatch, {"tags": tags}))

    @property
    def note(self) -> str:
        """The study's note as of now, in Markdown; empty: none."""
        return self.record.note

    @called_as("study.set_note")
    def set_note(self, note: str) -> None:
        """Replace the note of the study.

        Raises:
            InvalidInput: it is longer than 65,536 characters.
        """
        self._record = self._backend.change_study(self.id, schemas.build(StudyPatch, {"note": note}))

    def __repr__(self) -> str:
        return f"Study(name={self.name!r}, id='{self.id}')"

    def _repr_html_(self) -> str:
        heading = f"<p><b>{html.escape(self.name)}</b> &middot; {html.escape(repr(self._backend))}</p>"
        return heading + rendering.table(self._backend.trials(self.id))


def submission(config: Config, **options: Any) -> schemas.TrialCreate:
    """The request for a trial, checked as a server checks it; the backend fills in the problem if it is uploaded.

    Raises:
        ConfigInvalid, SchemaInvalid: an option is outside of its range, or several are.
    """
    to_come = schemas.ProgramProblem(program=UUID(int=0), dataset=UUID(int=0))
    return schemas.build(schemas.TrialCreate, {"problem": to_come, **options, **dict(config)})
