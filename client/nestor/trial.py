"""One warm-started trajectory of weights and hyperparameters: watched, steered and read, wherever it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nestor import schemas
from nestor.backend import Backend
from nestor.callbacks import Entry, expect_callbacks, expect_flag, prunes, which_step, whole_number
from nestor.errors import (
    AttributeMissing,
    IllegalTransition,
    NestorError,
    TrialFailed,
    called_as,
    no_attribute,
)
from nestor.errors.optuna_names import TRIAL_ATTRIBUTES
from nestor.results import frames, weights
from nestor.results.html import table
from nestor.results.values import Values
from nestor.schemas import (
    DEFAULT_POINTS,
    FEWEST_POINTS,
    MOST_POINTS,
    MOST_STEPS,
    Action,
    Attempt,
    Confirmation,
    ConfirmationRun,
    EndingAction,
    Event,
    EventType,
    Form,
    HyperparameterSummary,
    Order,
    Retraining,
    State,
    Step,
    TrialPatch,
    TruthReport,
    Verdict,
    WhichStep,
)
from nestor.schemas.storable import one_attribute

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs] pandas has none
    from torch import Tensor, nn

    from nestor_engine.hparams.loss_reweighting import LossReweighting, Rater


class Trial:
    """One training with tuned hyperparameters, on a server or in this process.

    Until the trial is finished, each property fetches its present value; `record` has all of them as of one moment.
    """

    def __init__(self, backend: Backend, record: schemas.Trial) -> None:
        self._backend, self._record = backend, record
        self._last_step: Step | None = None
        self._seen_by_callback: int | None = None  # the step that callbacks are called for at the moment
        self._ends_after: int | None = None  # the step after which a callback ended the trial

    if not TYPE_CHECKING:  # type checkers know the attributes

        def __getattr__(self, name: str) -> AttributeMissing:
            raise no_attribute(self, name, TRIAL_ATTRIBUTES)

    @property
    def id(self) -> UUID:
        """Unique among all trials."""
        return self._record.id

    @property
    def number(self) -> int:
        """Unique in its study, from 0."""
        return self._record.number

    @property
    def spec(self) -> schemas.TrialSpec:
        """The problem and the options, as submitted."""
        return self._record.spec

    @property
    def user_attrs(self) -> dict[str, Any]:
        """A copy of the attributes as of now; `set_user_attr` changes them."""
        return dict(self.refresh()._record.user_attrs)

    @called_as("trial.set_user_attr")
    def set_user_attr(self, key: str, value: Any) -> None:
        """Store `value` with the trial, also after its end. Attributes that others set are kept.

        Raises:
            AttributesNotJson: `value` is not JSON-serializable.
        """
        self._record = self._backend.change_trial(self.id, TrialPatch(set_user_attrs=one_attribute(key, value)))

    @property
    def tags(self) -> tuple[str, ...]:
        """The trial's labels as of now."""
        return self.refresh()._record.tags

    @called_as("trial.set_tags")
    def set_tags(self, tags: Sequence[str]) -> None:
        """Replace all tags of the trial, also after its end.

        Raises:
            InvalidInput: a tag is empty or longer than 200 characters.
        """
        self._record = self._backend.change_trial(self.id, schemas.build(TrialPatch, {"tags": tags}))

    @property
    def note(self) -> str:
        """The trial's note as of now, in Markdown; empty: none."""
        return self.refresh()._record.note

    @called_as("trial.set_note")
    def set_note(self, note: str) -> None:
        """Replace the note of the trial, also after its end.

        Raises:
            InvalidInput: it is longer than 65,536 characters.
        """
        self._record = self._backend.change_trial(self.id, schemas.build(TrialPatch, {"note": note}))

    @property
    def record(self) -> schemas.Trial:
        """All fields as of now; one request while the trial is not finished, none after."""
        if not self._record.state.finished:
            self.refresh()
        return self._record

    @property
    def state(self) -> State:
        """queued, running, paused, complete, pruned, failed or cancelled."""
        return self.record.state

    @property
    def allowed_actions(self) -> tuple[str, ...]:
        """The actions that are possible now: "stop", "cancel", "pause", "prune", "resume", "retry", "extend"."""
        return self.record.allowed_actions

    @property
    def error(self) -> str | None:
        """Why the trial failed, as a sentence; None if it did not fail."""
        problem = self.record.error
        return None if problem is None else problem.get("detail") or problem.get("title")

    @property
    def value(self) -> float | None:
        """The study's metric, or else the loss, at the last evaluated step, on all examples that judge the trial.

        These are the held-out examples, or all validation examples if none are held out. A step is evaluated every
        `evaluate_every` steps and at the end; with early stopping, each step is. None: no step was evaluated yet.
        """
        return self.record.value

    @property
    def best_value(self) -> float | None:
        """The best `value` of any step, by the direction of the study."""
        return self.record.best_value

    @property
    def best_step(self) -> int | None:
        """The number of the first step with `best_value`, whose weights and hyperparameters are kept."""
        return self.record.best_step

    @property
    def verdict(self) -> Verdict | None:
        """Whether the result can be relied on, from all steps so far, with the reason and a remedy.

        None: there is no step yet, or an earlier version of the server recorded them.
        """
        return self.record.verdict

    @property
    def steps(self) -> list[Step]:
        """All recorded steps, in order."""
        return self._backend.steps(self.id)

    @property
    def last_step(self) -> Step | None:
        """The step that `stream`, `wait` or a callback got last; before that, the last recorded step."""
        if self._last_step is None:
            recorded = self._backend.steps(self.id, after=max(0, self.record.step - 1))
            return recorded[-1] if recorded else None
        return self._last_step

    def refresh(self) -> Trial:
        """Fetch the record anew, also of a finished trial, which may have been extended or retried."""
        self._record = self._backend.trial(self.id)
        return self

    # --- watching ---------------------------------------------------------------------------------

    @called_as("trial.stream")
    def stream(self, *, after: int = 0) -> Iterator[Step]:
        """Yield each step with a number above `after`, once and in order, as it is taken.

        A broken connection is resumed. Steps that a worker repeats after a checkpoint are not yielded again.

        Raises:
            TrialFailed: the trial failed; raised after its last step.
        """
        for _, step in self._follow(whole_number("after", after, least=0)):
            if step is not None:
                yield step
        self._raise_if_failed()

    @called_as("trial.events")
    def events(self, *, after: int = 0) -> Iterator[Event]:
        """Yield states, steps, snapshots and log lines behind event number `after`. The last event is `end`."""
        return self._backend.events(self.id, whole_number("after", after, least=0))

    @called_as("trial.wait")
    def wait(self, *, show_progress_bar: bool = False, callbacks: Sequence[Callable[[Trial], object]] = ()) -> Trial:
        """Return when the trial is finished; in this process, also when it is paused.

        Each callback is called after each step. If it returns `nestor.PRUNE` or raises `optuna.TrialPruned`, the trial
        ends as pruned; if it calls `trial.stop()`, as complete. The step that the callback saw is the last one, even
        if the worker has gone on meanwhile. Another exception, or Ctrl-C, ends the waiting; the message of the
        exception says what becomes of the trial.

        Raises:
            TrialFailed: the trial failed; its records can still be read.
        """
        expect_flag("show_progress_bar", show_progress_bar)
        expect_callbacks("trial.wait", callbacks, ("trial",))
        from nestor.results.progress.bar import Bar, show_verdict

        with Bar(self.record, show=show_progress_bar) as bar:
            try:
                for event, step in self._follow(0):
                    bar.show(event, step)
                    if step is not None:
                        self._call(callbacks, step.number)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(self._backend.detach(self._record)) from None
            except Exception as error:
                error.add_note(self._backend.detach(self._record))
                raise
        self._raise_if_failed()
        show_verdict(self.record, show=show_progress_bar)
        return self

    def _call(self, callbacks: Sequence[Callable[[Trial], object]], step: int) -> None:
        self._seen_by_callback = step
        try:
            if any(prunes(partial(callback, self)) for callback in callbacks):
                self.prune()
        finally:
            self._seen_by_callback = None

    def _follow(self, after: int) -> Iterator[tuple[Event, Step | None]]:
        seq, ended, self._ends_after = 0, False, None
        while not ended:
            ended = True
            for event in self._backend.events(self.id, seq):
                seq, step = event.seq, None
                if event.type is EventType.step and after <= event.data["number"] <= (self._ends_after or MOST_STEPS):
                    self._last_step = Step.model_validate(event.data)
                    if self._last_step.number > after:  # else recorded again, with an evaluation
                        step = self._last_step
                        after = step.number
                if event.type is EventType.end and self._ends_after is not None:
                    # It may have ended before a callback asked for that, and returns to the step of the callback.
                    ended = self.refresh()._record.state.finished
                if ended:
                    yield event, step

    def _raise_if_failed(self) -> None:
        if self.state is State.failed:
            failure = TrialFailed(number=self.number, reason=self.error or "no reason was recorded")
            raise failure from self._backend.cause(self.id) or NestorError.from_problem(self.record.error or {})

    # --- steering ---------------------------------------------------------------------------------

    def stop(self) -> Trial:
        """Complete the trial after the present step, with the result so far; in a callback, after the step that it saw.

        Raises:
            IllegalTransition: its state does not allow this.
        """
        return self._end("stop")

    def prune(self) -> Trial:
        """Give the trial up after the present step; in a callback, after the step that it saw.

        It keeps what it recorded, and can be extended. A callback can also return `nestor.PRUNE`.

        Raises:
            IllegalTransition: its state does not allow this.
        """
        return self._end("prune")

    def cancel(self) -> Trial:
        """End the trial without a result; its records stay readable.

        Raises:
            IllegalTransition: its state does not allow this.
        """
        return self._request("cancel")

    def pause(self) -> Trial:
        """Free the device after the present step; `resume` continues from there.

        Raises:
            IllegalTransition: its state does not allow this.
        """
        return self._request("pause")

    def resume(self) -> Trial:
        """Continue after a pause; while the trial still runs, withdraw a requested pause or stop.

        Raises:
            IllegalTransition: its state does not allow this.
        """
        return self._request("resume")

    def retry(self) -> Trial:
        """Queue the trial again after a failure, from its newest checkpoint and with fresh restart budgets.

        Raises:
            IllegalTransition: it did not fail.
        """
        return self._request("retry")

    @called_as("trial.extend")
    def extend(self, steps: int) -> Trial:
        """Let a complete, pruned or paused trial take `steps` more.

        Nothing is initialized again: the trajectory is that of a trial with all the steps from the start, and
        schedules continue to count. Only the outer rate "auto" follows from the number of steps: it had fallen to zero,
        and continues with that of the longer trial. A trial that ended early continues from the step that it reached.
        All these steps are taken: `timeout` and early stopping do not end the trial before.

        Raises:
            IllegalTransition: it is neither complete nor pruned nor paused.
            TooManySteps: the sum is more than a trial can count.
        """
        self._record = self._backend.extend(self.id, steps)
        return self

    @called_as("trial.prioritize")
    def prioritize(self, priority: int) -> Trial:
        """Let the trial start before waiting trials of lower priority, also of other users.

        Args:
            priority: from -1000 to 1000. 0 is the default.

        Raises:
            Forbidden: a priority above 0 requires an admin token.
        """
        self._record = self._backend.prioritize(self.id, priority)
        return self

    @called_as("trial.confirm")
    def confirm(
        self, seeds: int = 3, on: str | Sequence[str] = ("train", "train+val"), *, wait: bool = True
    ) -> Confirmation:
        """Train from the first initialization under the best hyperparameters, which stay fixed, and report both.

        A trial's weights were trained while its hyperparameters moved, so that they can know more about the validation
        data than the hyperparameters do [1]. This asks what the hyperparameters alone are worth. Each training is a
        trial of the same study, with as many inner steps as the best step had seen; trainings that exist already are
        not repeated.

        Args:
            seeds: trainings on each of `on`, with batches and random draws of their own.
            on: "train", "train+val" (training and validation data together, judged by test data alone; validation
                examples get the largest weight, where training examples have weights), or both.
            wait: return when the trainings are finished.

        Returns:
            The trial's own numbers at its best step, and those of the trainings: `print(trial.confirm())`.

        Raises:
            NotFinished: the trial may find a better step.
            NothingTuned, NothingToConfirm: the trial has no best hyperparameters of its own.
            TrialFailed: a training failed. It is raised when all have ended; `confirmation` has the others.

        [1] Vicol et al. (2022), On implicit bias in overparameterized bilevel optimization.
        """
        expect_flag("wait", wait)
        asked = schemas.build(schemas.Confirm, {"seeds": seeds, "on": (on,) if isinstance(on, str) else on})
        found = self._backend.confirm(self.id, asked, watched=wait)
        if not wait:
            return found
        self._wait_for(found.runs)
        return self.confirmation

    @property
    def confirmation(self) -> Confirmation:
        """What `confirm` has found so far.

        Raises:
            NothingToConfirm: no step of the trial was evaluated.
        """
        return self._backend.confirmation(self.id)

    @called_as("trial.truth")
    def truth(self, retrainings: int = 20, size: float = 0.1, *, wait: bool = True) -> TruthReport:
        """Whether the hypergradient predicts what training under other hyperparameters gives.

        The best hyperparameters are changed at random, again and again, and the model is trained from the first
        initialization under each of the changes, with the trial's batches and draws. The hypergradient at the end of a
        training under unchanged hyperparameters predicts the validation losses. `nestor.truth` does the same in this
        process. Each training is a trial of the same study, with as many inner steps as the best step had seen, so that
        several workers share them; trainings that exist already are not repeated.

        Args:
            retrainings: trainings under changed hyperparameters; at least 5, and at most 100.
            size: of the changes, before the transform: 0.1 multiplies most decays by 0.9 to 1.1.
            wait: return when the trainings are finished.

        Returns:
            The predicted and the real changes, their score, and a sentence: `print(trial.truth())`.

        Raises:
            NotFinished: the trial may find a better step.
            NothingTuned, NothingToConfirm: the trial has no best hyperparameters of its own.
            TrialFailed: a training failed. It is raised when all have ended; `truth_report` has the others.
        """
        expect_flag("wait", wait)
        asked = schemas.build(schemas.Retrain, {"retrainings": retrainings, "size": size})
        found = self._backend.truth(self.id, asked, watched=wait)
        if not wait:
            return found
        self._wait_for(found.runs)
        return self.truth_report(asked.size)

    @called_as("trial.truth_report")
    def truth_report(self, size: float = 0.1) -> TruthReport:
        """What `truth` has found so far with changes of this size.

        Raises:
            NothingToConfirm: no step of the trial was evaluated.
        """
        return self._backend.truth_report(self.id, schemas.build(schemas.Retrain, {"size": size}).size)

    def _wait_for(self, runs: Iterable[ConfirmationRun | Retraining]) -> None:
        """Wait until trainings have ended, and raise the error of the first that failed."""
        failures: list[TrialFailed] = []
        for run in runs:
            if not run.state.finished:
                try:
                    Trial(self._backend, self._backend.trial(run.trial)).wait()
                except TrialFailed as failure:  # the others may well succeed
                    failures.append(failure)
        if failures:
            raise failures[0]

    @property
    def attempts(self) -> list[Attempt]:
        """Who ran it, from when to when, and why each attempt ended."""
        return self._backend.attempts(self.id)

    def _end(self, action: EndingAction) -> Trial:
        after = self._seen_by_callback
        if after is None:
            return self._request(action)
        self._ends_after = after
        with suppress(IllegalTransition):  # it was canceled meanwhile
            self._record = self._backend.request(self.id, action, after)
        return self

    def _request(self, action: Action) -> Trial:
        self._record = self._backend.request(self.id, action)
        return self

    # --- hyperparameters --------------------------------------------------------------------------

    @property
    def hparams(self) -> Values:
        """The hyperparameters of the newest snapshot; of a finished trial, those of the last step."""
        return self._values(None)

    @property
    def best_hparams(self) -> Values:
        """The hyperparameters of `best_step`; before the first evaluated step, those of the newest snapshot.

        Raises:
            HyperparametersNotFound: a running trial has not stored them yet; its next checkpoint does.
        """
        return self._values(self.best_step)

    @called_as("trial.hparams_at")
    def hparams_at(self, step: int) -> Values:
        """The hyperparameters after `step`; 0 has the initial values.

        Raises:
            HyperparametersNotFound: that step has no snapshot; the message lists steps that have one.
        """
        return self._values(whole_number("step", step, least=0, most=MOST_STEPS))

    @property
    def hparams_steps(self) -> tuple[int, ...]:
        """The steps that have a snapshot, in order."""
        return self._backend.hyperparameters(self.id).steps

    @called_as("trial.load_weights")
    def load_weights(self, model: nn.Module, step: WhichStep = "best") -> int:
        """Copy trained weights and buffers into `model` by name: the problem's own, or one of its architecture.

        The default is the step to which `best_value` and `best_hparams` belong. With folds, the weights are those of
        the fold that this step trained. The model is not changed if they do not fit. Checkpoints of Nestor's earlier
        versions (format 2) do not name the weights, which are then copied in the order of the model's parameters.

        Args:
            step: "best"; "latest", the newest checkpoint, which a finished trial has of its last step; or the number
                of a step whose weights are kept.

        Returns:
            The step of the weights.

        Raises:
            CheckpointNotFound: the weights of that step are not kept. A running trial stores those of the best step
                with its next checkpoint; trials of Nestor's earlier versions kept the latest weights alone.
            InvalidInput: the model has other parameters or buffers than the trial's; the first is named.
        """
        return weights.load(self._backend.checkpoint(self.id, which_step("step", step)), model)

    @called_as("trial.state_dict")
    def state_dict(self, model: nn.Module | None = None, step: WhichStep = "best") -> dict[str, Tensor]:
        """The trained weights and buffers of a step by name, on the CPU, for `load_state_dict`.

        A checkpoint has the trained parameters and the buffers that change, each once. With `model`, frozen
        parameters, other buffers and the further names of tied weights come from it, so that the result is complete.
        Names are those of the module inside of wrappers such as DataParallel. `model` is not changed.

        Args:
            step: as in `load_weights`.

        Raises:
            CheckpointNotFound: the weights of that step are not kept.
            InvalidInput: the weights do not fit `model`, or an old checkpoint does not name them.
            MissingExtra: the engine is not installed.
        """
        return weights.state_dict(self._backend.checkpoint(self.id, which_step("step", step)), model)

    @called_as("trial.example_weights")
    def example_weights(self, name: str = "example_weights") -> pandas.Series:
        """The weight of each training example in `best_hparams`, after the transform.

        The index is the position in the training split, from 0. Folds and subsets of training steps do not change
        positions. Join to your own data by position, as in `frame.assign(weight=trial.example_weights().to_numpy())`.

        Args:
            name: of the `ExampleWeights`.

        Raises:
            HparamNotFound: the trial has no weights of that name.
            MissingExtra: pandas or the engine is not installed.
        """
        return frames.example_weights(self.best_hparams, name)

    @called_as("trial.rater")
    def rater(self, rating: LossReweighting) -> Rater:
        """A module that scores new examples, with the network of `rating` as `best_hparams` has it.

        Args:
            rating: the problem's `LossReweighting`, or another with a network of the same architecture and the same
                name. A trial on a server has the values alone, and not the class of the network.

        Raises:
            HparamNotFound: the trial has no hyperparameters of its name.
            MissingExtra: the engine is not installed.
        """
        return weights.rater(self.best_hparams, rating)

    def steps_dataframe(self) -> pandas.DataFrame:
        """One row per recorded step, indexed by `number`, with columns such as `val_metrics.accuracy`, `seconds.inner`.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return frames.steps(self.steps)

    @called_as("trial.trajectory")
    def trajectory(self, name: str, *, quantiles: bool = True) -> pandas.DataFrame:
        """The distribution of the hyperparameter `name` at each step that has a snapshot.

        Args:
            name: of a hyperparameter, or the first parts of names, whose entries are pooled.

        Returns:
            One row per step: count, min, max, mean, std and, with `quantiles`, columns such as "50%", of the entries
            before the transform.

        Raises:
            HparamNotFound: the trial has no such hyperparameter.
            MissingExtra: pandas is not installed.
        """
        return frames.trajectory(self._backend, self.id, name, quantiles=quantiles)

    @called_as("trial.hparam_summary")
    def hparam_summary(self, name: str, *, max_points: int = DEFAULT_POINTS) -> HyperparameterSummary:
        """The course of one hyperparameter at any number of entries: statistics, quantiles and histograms.

        `columns` has the steps that a plot needs, with the lowest and the highest value of each column in each of equal
        intervals. `distributions` has steps at equal distances, and the last. All are of the entries before the
        transform.

        Args:
            name: of one hyperparameter.
            max_points: of each 100,000 steps, at most so many are returned.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
        """
        most = whole_number("max_points", max_points, least=FEWEST_POINTS, most=MOST_POINTS)
        return self._backend.hyperparameter_summary(self.id, name, max_points=most)

    @called_as("trial.top")
    def top(self, name: str, *, by: Order | str = "change", k: int = 20, step: int | None = None) -> pandas.DataFrame:
        """The entries of the hyperparameter `name` that stand out at a step, the first one first.

        Args:
            by: "change", the largest change since the start of the trial; "gradient", the largest hypergradient of
                the step, whatever its sign; "highest" or "lowest", the value.
            k: how many, at most 32. Of a trial with more than 64 tensors, fewer are recorded.
            step: one with a snapshot; by default the newest. In this process, hypergradients are kept of the last step
                alone.

        Returns:
            One row per entry, indexed by its flat index: name, position, value (before the transform), used (after it),
            start, change and gradient.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
            HyperparametersNotFound: that step has no snapshot.
            EntriesNotRecorded: it is not known which entries come first.
            MissingExtra: pandas is not installed.
        """
        return frames.top(self._backend, self.id, name, by=by, k=k, step=step)

    @called_as("trial.values_of")
    def values_of(
        self, name: str, index: Entry | Iterable[Entry], *, form: Form | str = "optimized"
    ) -> pandas.DataFrame:
        """The course of some entries of the hyperparameter `name`, over the steps that have a snapshot.

        Args:
            index: of one entry, its flat index or, as a tuple, its position: 17, or (3, 5) of a matrix. Of at most 100
                entries, a list or an array of these.
            form: "optimized", before the transform; "used", after it, as the losses read them.

        Returns:
            One row per step, and one column per entry with its name, such as "example 17". Entries times steps are at
            most 10,000; of more steps, evenly chosen ones are returned.

        Raises:
            HyperparameterUnknown: the trial has no hyperparameter of that name.
            EntryUnknown, TooManyEntries: it has no such entries, or there are too many.
            OptionTypeWrong: an entry is neither a whole number nor a position.
            MissingExtra: pandas is not installed.
        """
        return frames.values_of(self._backend, self.id, name, index, form=form)

    def _values(self, step: int | None) -> Values:
        transforms = {item.name: item.transform for item in self._backend.hyperparameters(self.id).items}
        return Values(self._backend.snapshot(self.id, step), transforms)

    # --- how it looks -----------------------------------------------------------------------------

    def __repr__(self) -> str:
        known = self._record
        best = "" if known.best_value is None else f", best_value={known.best_value:.6g}"
        verdict = "" if known.verdict is None else f", verdict={known.verdict.answer!r}"
        standing = f"state={known.state.value!r}, step={known.step}/{known.n_steps}{best}{verdict}"
        return f"Trial(number={known.number}, {standing}, id='{known.id}')"

    def _repr_html_(self) -> str:
        return table([self.record])
