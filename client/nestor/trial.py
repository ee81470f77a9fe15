"""One warm-started trajectory of weights and hyperparameters: watched, steered and read, wherever it runs."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nestor import schemas
from nestor.backend import Backend
from nestor.errors import HyperparametersNotFound, NestorError, TrialFailed
from nestor.extras import require
from nestor.results import weights
from nestor.results.values import Values, members
from nestor.schemas import Action, Attempt, Event, EventType, State, Step

if TYPE_CHECKING:
    import numpy
    import pandas
    from torch import nn

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Trial:
    """A trial of a study, as it stands: until it is finished, each property asks anew.

    `record` holds all of it as of one moment.
    """

    def __init__(self, backend: Backend, record: schemas.Trial) -> None:
        self._backend, self._record = backend, record
        self._last_step: Step | None = None

    @property
    def id(self) -> UUID:
        return self._record.id

    @property
    def number(self) -> int:
        return self._record.number

    @property
    def spec(self) -> schemas.TrialCreate:
        """How it tunes."""
        return self._record.spec

    @property
    def user_attrs(self) -> dict[str, Any]:
        return dict(self._record.user_attrs)

    @property
    def record(self) -> schemas.Trial:
        if not self._record.state.finished:
            self.refresh()
        return self._record

    @property
    def state(self) -> State:
        return self.record.state

    @property
    def error(self) -> str | None:
        """What went wrong, in a sentence."""
        problem = self.record.error
        return None if problem is None else problem.get("detail") or problem.get("title")

    @property
    def value(self) -> float | None:
        """The validation loss at the last step; of a trial that holds examples out, the loss on these."""
        return self.record.value

    @property
    def best_value(self) -> float | None:
        return self.record.best_value

    @property
    def best_step(self) -> int | None:
        return self.record.best_step

    @property
    def steps(self) -> list[Step]:
        """All recorded steps."""
        return self._backend.steps(self.id)

    @property
    def last_step(self) -> Step | None:
        """The step seen last by `stream`, a callback's for example; if there was none, the last one recorded."""
        if self._last_step is None:
            recorded = self._backend.steps(self.id, after=max(0, self.record.step - 1))
            return recorded[-1] if recorded else None
        return self._last_step

    def refresh(self) -> Trial:
        self._record = self._backend.trial(self.id)
        return self

    # --- watching ---------------------------------------------------------------------------------

    def stream(self, *, after: int = 0) -> Iterator[Step]:
        """Yield each step with a number above `after`, once and in order, as it is taken.

        A connection that breaks is resumed. When a worker had to go back to a checkpoint, the steps that it
        takes again are not yielded again.

        Raises:
            TrialFailed: at the end of a trial that failed, after its last step.
        """
        for _, step in self._follow(after):
            if step is not None:
                yield step
        self._raise_if_failed()

    def events(self, *, after: int = 0) -> Iterator[Event]:
        """Yield all that happens: states, steps, snapshots, log lines. The last event is `end`."""
        return self._backend.events(self.id, after)

    def wait(self, *, show_progress_bar: bool = False, callbacks: Sequence[Callable[[Trial], None]] = ()) -> Trial:
        """Return once the trial is finished; where it runs in this process, also when it is paused.

        Each callback is called after each step. Its exception, or Ctrl-C, ends the waiting; what that means for
        the trial is said in the exception's message.

        Raises:
            TrialFailed: it failed. What it recorded can be read all the same.
        """
        from nestor.results.progress import Bar

        with Bar(self.record, show=show_progress_bar) as bar:
            try:
                for event, step in self._follow(0):
                    bar.show(event, step)
                    for callback in callbacks if step is not None else ():
                        callback(self)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(self._backend.detach(self._record)) from None
            except Exception as error:
                error.add_note(self._backend.detach(self._record))
                raise
        self._raise_if_failed()
        return self

    def _follow(self, after: int) -> Iterator[tuple[Event, Step | None]]:
        for event in self.events():
            step = None
            if event.type is EventType.step and event.data["number"] > after:
                step = self._last_step = Step.model_validate(event.data)
                after = step.number
            yield event, step

    def _raise_if_failed(self) -> None:
        if self.state is State.failed:
            failure = TrialFailed(number=self.number, reason=self.error or "no reason was recorded")
            raise failure from self._backend.cause(self.id) or NestorError.from_problem(self.record.error or {})

    # --- steering ---------------------------------------------------------------------------------

    def stop(self) -> Trial:
        """End it after the present step, complete with what it reached."""
        return self._request("stop")

    def cancel(self) -> Trial:
        """End it; what was recorded stays readable."""
        return self._request("cancel")

    def pause(self) -> Trial:
        """Free the device; `resume` goes on from the same place."""
        return self._request("pause")

    def resume(self) -> Trial:
        return self._request("resume")

    def retry(self) -> Trial:
        """Queue it again after a failure: from its newest checkpoint, and with fresh restart budgets."""
        return self._request("retry")

    def extend(self, steps: int) -> Trial:
        """Have it take `steps` more, once it is complete or paused, from the weights that it has.

        Nothing is initialised again: the trajectory is that of a trial which was given all the steps at once, and a
        schedule goes on counting where it was. A trial that was stopped early goes on from the step it reached.

        Raises:
            IllegalTransition: it is neither complete nor paused.
        """
        self._record = self._backend.extend(self.id, steps)
        return self

    def prioritise(self, priority: int) -> Trial:
        """Let it go before trials of lower priority, yours and others': from -1000 to 1000, 0 by default.

        Everybody may step back. A priority above 0 takes a token of the scope admin.
        """
        self._record = self._backend.prioritise(self.id, priority)
        return self

    @property
    def attempts(self) -> list[Attempt]:
        """Who ran it, from when to when, and why each attempt ended."""
        return self._backend.attempts(self.id)

    def _request(self, action: Action) -> Trial:
        self._record = self._backend.request(self.id, action)
        return self

    # --- hyperparameters --------------------------------------------------------------------------

    @property
    def hparams(self) -> Values:
        """The latest that were kept; those of a finished trial are the last step's."""
        return self._values(None)

    @property
    def best_hparams(self) -> Values:
        """Those of the lowest loss on held-out examples.

        Without such examples the latest: a validation batch's loss is too noisy to pick a step by.
        """
        return self._values(self.best_step if self.spec.stop_early else None)

    def hparams_at(self, step: int) -> Values:
        """Those after `step`; 0 has the initial ones.

        Raises:
            HyperparametersNotFound: nothing was kept of that step; the sentence says of which there is.
        """
        return self._values(step)

    @property
    def hparams_steps(self) -> tuple[int, ...]:
        """The steps whose hyperparameters were kept."""
        return self._backend.hyperparameters(self.id).steps

    def load_weights(self, model: nn.Module) -> int:
        """Copy the trained weights and buffers into `model` by name: the problem's own, or one of its architecture.

        They are those of the newest checkpoint; of a finished trial, those of its last step. The model is not
        changed if they do not fit. Checkpoints of Nestor's earlier versions (format 2) do not name the weights,
        which are then copied in the order of the model's parameters.

        Returns:
            The step that they are of.

        Raises:
            CheckpointNotFound: the trial has none yet.
            InvalidInput: the model has other parameters or buffers than the trial's; the first is named.
        """
        return weights.load(self._backend.checkpoint(self.id), model)

    def trajectory(self, name: str, *, quantiles: bool = True) -> pandas.DataFrame:
        """How the values under `name` were distributed, at each step that was kept.

        One row a step: count, min, max, mean, std and, with `quantiles`, columns such as "50%". Values are as
        optimised, of all members when `name` is a prefix.
        """
        pd = require("pandas", what="trial.trajectory", extra="viz")
        described = self._backend.hyperparameters(self.id)
        rows = []
        for step in described.steps:
            try:
                values = Values(self._backend.snapshot(self.id, step), {}).numpy()
            except HyperparametersNotFound:  # thinned out meanwhile
                continue
            rows.append({"step": step, **_distribution(members(values, name), QUANTILES if quantiles else ())})
        return pd.DataFrame(rows).set_index("step")

    def _values(self, step: int | None) -> Values:
        described = self._backend.hyperparameters(self.id)
        if step is not None and step not in described.steps:
            kept = ", ".join(map(str, described.steps[-20:])) or "none yet"
            what = f"of step {step} (the latest that were kept: {kept})"
            raise HyperparametersNotFound(trial=str(self.id), what=what)
        transforms = {item.name: item.transform for item in described.items}
        return Values(self._backend.snapshot(self.id, step), transforms)

    # --- how it looks -----------------------------------------------------------------------------

    def __repr__(self) -> str:
        known = self._record
        best = "" if known.best_value is None else f", best_value={known.best_value:.6g}"
        standing = f"state={known.state.value!r}, step={known.step}/{known.n_steps}{best}"
        return f"Trial(number={known.number}, {standing}, id='{known.id}')"

    def _repr_html_(self) -> str:
        return table([self.record])


def _distribution(named: dict[str, numpy.ndarray], quantiles: tuple[float, ...]) -> dict[str, float]:
    import numpy as np

    values = np.concatenate([array.ravel() for array in named.values()]).astype(np.float64)
    told = {"count": values.size, "min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std()}
    return told | {f"{q:.0%}": value for q, value in zip(quantiles, np.quantile(values, quantiles), strict=True)}


def table(records: list[schemas.Trial]) -> str:
    """Trials as an HTML table, for notebooks."""
    heads = ("trial", "state", "step", "validation loss", "best", "at step", "error")
    rows = [
        (
            record.number,
            record.state.value,
            f"{record.step} / {record.n_steps}",
            _short(record.value),
            _short(record.best_value),
            record.best_step or "",
            (record.error or {}).get("detail", ""),
        )
        for record in records
    ]
    body = "".join(_row("td", row) for row in rows)
    return f"<table><thead>{_row('th', heads)}</thead><tbody>{body}</tbody></table>"


def _row(tag: str, cells: tuple[object, ...]) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
