"""How steps and trials are compared and judged: `nestor.ranking.Ranking` and verdicts in the database."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.options import Frozen
from nestor.ranking import Ranking
from nestor.results.progress.pace import Sparkline
from nestor.results.verdicts import Evidence, judge
from nestor_server.models import Step, Study, Trial

MAX = sys.float_info.max  # PostgreSQL orders infinity and NaN above it


def of_trial(session: Session, trial_id: UUID) -> Ranking:
    """The ranking of the study of a trial; that of a purged study does not matter."""
    query = select(Study.metric, Study.direction).join(Trial, Trial.study_id == Study.id).where(Trial.id == trial_id)
    row = session.execute(query).one_or_none()
    return Ranking() if row is None else Ranking(*row)


def best_recorded(session: Session, trial_id: UUID) -> tuple[int | None, float | None, float | None]:
    """The best of a trial's recorded steps, its value, and the value of the last step that was evaluated."""
    ranking = of_trial(session, trial_id)
    value = _value_of(ranking.metric)
    is_finite = value.between(-MAX, MAX)
    ordered = value if ranking.direction == "minimize" else value.desc()
    steps = select(Step.number, value).where(Step.trial_id == trial_id)
    # Of equal values the first is the best, as in Ranking.
    best = session.execute(steps.where(is_finite).order_by(ordered, Step.number).limit(1)).one_or_none()
    last = session.execute(
        select(value, is_finite)
        .where(Step.trial_id == trial_id, Step.data["value"].as_float().is_not(None))
        .order_by(Step.number.desc())
        .limit(1)
    ).one_or_none()
    number, best_value = best or (None, None)
    return number, best_value, last[0] if last is not None and last[1] else None


def _value_of(metric: str | None) -> ColumnElement[float]:
    """schemas.Step.value_of, in SQL."""
    return (Step.data["value"] if metric is None else Step.data["metrics"][metric]).as_float()


STEPS_AT_ONCE = 1000  # read from the database


def recorded_course(session: Session, trial_id: UUID) -> tuple[Evidence, Sparkline]:
    """Folded over all recorded steps of a trial, which are read in order."""
    query = select(Step.data).where(Step.trial_id == trial_id).order_by(Step.number)
    read = session.scalars(query.execution_options(yield_per=STEPS_AT_ONCE))
    # An earlier version may have recorded fields that there are no more.
    steps = ({name: data[name] for name in schemas.Step.model_fields if name in data} for data in read)
    return course_after(Evidence(), Sparkline(), map(schemas.Step.model_validate, steps), of_trial(session, trial_id))


def course_after(
    evidence: Evidence, sparkline: Sparkline, steps: Iterable[schemas.Step], ranking: Ranking
) -> tuple[Evidence, Sparkline]:
    """With more steps, which come after those before."""
    for step in steps:
        evidence = evidence.after(step, ranking)
        sparkline = sparkline.after(step.number, step.value_of(ranking.metric))
    return evidence, sparkline


def verdict(
    evidence: dict[str, Any] | None,
    hyperparameters: list[dict[str, Any]] | None,
    spec: dict[str, Any],
    error: dict[str, Any] | None,
) -> schemas.Verdict | None:
    """The verdict on a trial with these columns."""
    start: dict[str, Any] = spec.get("warm_start") or {}
    return judge(
        None if evidence is None else Evidence.from_json(evidence),
        n_hparams=sum(math.prod(info["shape"]) for info in hyperparameters or ()),
        folds=spec.get("folds") is not None,
        tunes=spec.get("response", {}).get("kind") != Frozen.tag,
        validation_trains=spec.get("train_on") == "train+val",
        retrains=start.get("nudge") is not None,
        error=error,
    )
