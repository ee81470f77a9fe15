"""The progress bar of a trial, which also prints the engine's warnings."""

from __future__ import annotations

import logging
import sys

from nestor.lifecycle import WHY_AGAIN
from nestor.schemas import Event, EventType, State, Step, Trial

log = logging.getLogger(__name__)

STATE_TEXTS = {State.queued.value: "waiting for a worker", State.paused.value: "paused"}


class Bar:
    """The progress of one trial on stderr. It includes the steps before this process began to watch."""

    def __init__(self, trial: Trial, *, show: bool = True) -> None:
        from tqdm.auto import tqdm

        self._name = f"trial {trial.number}"
        self._bar = tqdm(total=trial.n_steps, desc=self._name, unit="step", disable=not show, dynamic_ncols=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def show(self, event: Event, step: Step | None) -> None:
        """Show an event; `step` is its content if it is one of type `step` that was not shown before."""
        if event.type is EventType.state:
            text = STATE_TEXTS.get(event.data["state"])
            self._bar.set_description(f"{self._name}, {text}" if text else self._name)
        if event.type is EventType.rewind and event.data.get("why") != WHY_AGAIN:
            why = event.data.get("why")
            what = "computed again from the last checkpoint" if why is None else f"withdrawn, because {why}"
            self._write(f"The steps after {event.data['step']} are {what}.")
        if step is None:
            return
        self._bar.set_postfix_str(summary(step), refresh=False)
        self._bar.update(step.number - self._bar.n)
        for warning in step.warnings:
            self._write(f"Step {step.number}: {warning}")

    def _write(self, line: str) -> None:
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)


def show_verdict(trial: Trial, *, show: bool = True) -> None:
    """Print the verdict on a trial to stderr. One of "no" goes into Python's log if there is nothing to `show`."""
    if trial.verdict is None:
        return
    line = f"trial {trial.number}: verdict {trial.verdict}"
    if show:
        print(line, file=sys.stderr)
    elif trial.verdict.answer == "no":
        log.warning(line)


def summary(step: Step) -> str:
    """The main numbers of a step in one line."""
    metrics = (f"{name} {value:.4g}" for name, value in step.val_metrics.items())
    judged = "all val" if step.held_out_loss is None else "held out"
    value = () if step.value is None else (f"{judged} {step.value:.4g}",)
    return ", ".join((f"val {step.val_loss:.4g}", *metrics, *value, f"|hypergradient| {step.hypergradient_norm:.2e}"))
