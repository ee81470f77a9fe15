"""What Optuna must know of a trial: recorded as an attribute of the trial, and read again when a search continues."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, cast

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from nestor.options.base import plain
from nestor.schemas import State
from nestor.schemas import Trial as TrialRecord

if TYPE_CHECKING:
    from nestor.study import Study

ATTRIBUTE = "optuna"
"""The user attribute of a trial that holds its sampled values, their distributions, and what the sampler noted."""
_STATES = {State.complete: TrialState.COMPLETE, State.pruned: TrialState.PRUNED}


def outcome(trial: TrialRecord) -> tuple[TrialState, float | None]:
    """How a trial ended, in Optuna's words, with the value by which studies rank it if it is complete."""
    state, value = _STATES.get(trial.state, TrialState.FAIL), trial.best_value
    if state is not TrialState.COMPLETE:
        return state, None
    return (TrialState.FAIL, None) if value is None or math.isnan(value) else (state, value)


def recorded(trial: FrozenTrial) -> dict[str, Any]:
    """The attribute of the trial of Nestor's that has these values."""
    distributions = {name: json.loads(distribution_to_json(found)) for name, found in trial.distributions.items()}
    noted = json.loads(json.dumps(trial.system_attrs))  # as the trial will have it: tuples as lists
    return {"params": plain(trial.params), "distributions": distributions, "system_attrs": noted}


def earlier(study: Study, space: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
    """The finished trials of earlier searches in this study, except those whose values another space had."""
    finished = study.get_trials(states=[state for state in State if state.finished])
    trials: list[FrozenTrial] = []
    metric = study.record.metric
    for trial in finished:
        read = _read(trial.record.user_attrs.get(ATTRIBUTE), space)
        if read is None:
            continue
        params, distributions, system_attrs = read
        state, value = outcome(trial.record)
        by_step = {step.number: step.value_of(metric) for step in trial.steps}
        reported = {number: found for number, found in by_step.items() if found is not None}
        if state is TrialState.PRUNED and reported and not math.isnan(last := reported[max(reported)]):
            value = last  # as Optuna has it
        trials.append(
            create_trial(
                state=state,
                value=value,
                params=params,
                distributions=distributions,
                system_attrs=system_attrs,
                intermediate_values=reported,
            )
        )
    return trials


def _read(
    attribute: object, space: Mapping[str, BaseDistribution]
) -> tuple[dict[str, Any], dict[str, BaseDistribution], dict[str, Any]] | None:
    """The parts of an attribute; None if a search did not write it, or had other kinds of distributions."""
    if not isinstance(attribute, dict):
        return None
    parts = [cast("dict[str, Any]", attribute).get(name) for name in ("params", "distributions", "system_attrs")]
    if not all(isinstance(part, dict) for part in parts):
        return None
    params, written, system_attrs = cast("list[dict[str, Any]]", parts)
    try:
        distributions = {name: json_to_distribution(json.dumps(one)) for name, one in written.items()}
        for name in _common(distributions, space):
            check_distribution_compatibility(distributions[name], space[name])
        create_trial(state=TrialState.FAIL, params=params, distributions=distributions)
    except (ValueError, TypeError, KeyError, AttributeError):  # of Optuna, about what users may have changed
        return None
    return params, distributions, system_attrs


def _common(one: Collection[str], other: Collection[str]) -> list[str]:
    return [name for name in one if name in other]
