"""Fills a database by SQL: studies, trials and steps by the ten thousand in seconds."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, Integer, cast, column, func, insert, literal, select, true, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from nestor import schemas
from nestor.lifecycle import distribution_interval
from nestor.schemas import HyperparameterInfo, State, TensorSummary
from nestor_server.models import Distribution, Step, StepNumbers, Study, Trial
from nestor_server.services.records import thinning

NUMBER = column("n", Integer)
NAMES = ("decay", "weights.0", "weights.1")
DISTRIBUTION = schemas.Distribution(
    quantiles=(-4.7534242, -1.6448536, -0.6744898, 0.0001234, 0.6744897, 1.6448537, 4.8916383),
    first=-39,
    width=0.125,
    counts=tuple(round(10**6 * math.exp(-((i - 39.5) ** 2) / 128) / 20) for i in range(64)),
)


def studies(session: Session, like: UUID, n: int) -> list[UUID]:
    """`n` more studies of the owner of the study `like`."""
    values = {"id": func.gen_random_uuid(), "name": func.concat("study ", func.gen_random_uuid())}
    return list(session.scalars(_copies(Study, like, n, values).returning(Study.id)))


def trials(session: Session, like: UUID, n: int, *, study: UUID, state: State, first: int = 0) -> None:
    """`n` copies of the trial `like` in a study, in `state`, with numbers from `first`."""
    values: dict[str, Any] = {
        "id": func.gen_random_uuid(),
        "study_id": literal(study),
        "number": NUMBER + (first - 1),
        "state": literal(state.value),
        "lease_owner": None,
        "lease_expires_at": None,
    }
    values |= (
        {"finished_at": func.now()} if state.finished else {"claimed_at": None, "queued_at": func.clock_timestamp()}
    )
    session.execute(_copies(Trial, like, n, values))
    session.execute(update(Study).where(Study.id == study).values(next_number=first + n))


def steps(session: Session, trial: UUID, n: int) -> None:
    """Steps 1 to `n` of a trial that has none, as `step` makes them, and the distributions that are kept of them."""
    data = step(1).model_dump(mode="json")
    number = cast(NUMBER, Integer)
    changing = func.jsonb_build_object(
        "number", number, "train_loss", 2.3025851 / number, "val_loss", 1.6094379 / number
    )
    offset = session.scalars(select(Trial.seq).where(Trial.id == trial)).one()
    made = select(literal(trial), number, number + offset, literal(data, JSONB).op("||")(changing))
    made = made.select_from(func.generate_series(1, n).alias("n"))
    session.execute(insert(Step).from_select(["trial_id", "number", "seq", "data"], made))
    values = {name: Step.data[name].as_float() for name in thinning.NUMERIC}
    recorded = select(Step.trial_id, Step.number, *values.values()).where(Step.trial_id == trial)
    session.execute(insert(StepNumbers).from_select(["trial_id", "number", *values], recorded))
    named = {name: DISTRIBUTION.model_dump(mode="json") for name in NAMES}
    interval = distribution_interval(n, len(NAMES))
    numbers = func.generate_series(0, n, interval).alias("n")
    kept = select(literal(trial), number, literal(named, JSON)).select_from(numbers)
    session.execute(insert(Distribution).from_select(["trial_id", "number", "data"], kept))
    declared = [HyperparameterInfo(name=name, shape=(10**6,), dtype="float32", transform="exp") for name in NAMES]
    changes = {"seq": Trial.seq + n, "step": n, "best_step": n}
    changes["hyperparameters"] = [info.model_dump(mode="json") for info in declared]
    session.execute(update(Trial).where(Trial.id == trial).values(**changes))


def step(number: int) -> schemas.Step:
    """A step with the fields that a usual one has."""
    summary = TensorSummary(
        min=-3.1, max=1.7, mean=-0.4142135, std=0.7320508, gradient_norm=0.0271828, update_norm=0.0161803,
        touched=1.0, gradient_cosine=0.8660254,
    )  # fmt: skip
    return schemas.Step(
        number=number,
        train_loss=2.3025851 / number,
        val_loss=1.6094379 / number,
        val_examples=256,
        value=1.6094379 / number,
        metrics={"accuracy": 1 - 1 / (number + 1)},
        val_metrics={"accuracy": 0.9375},
        hypergradient_norm=0.0314159,
        hypergradient_cosine=0.7071068,
        inner_gradient_norm=0.2236068,
        inner_gradient_ratio=0.1414214,
        outcome="truncated",
        residual=0.3333333,
        products=2,
        traced=True,
        alpha=0.125,
        alpha_norm=0.9,
        hyperparameters=dict.fromkeys(NAMES, summary),
        seconds={"inner": 0.0123, "hypergradient": 0.0234, "evaluation": 0.0045, "products": 0.0187, "data": 0.0011},
    )


def _copies(table: type[Study] | type[Trial], like: UUID, n: int, values: dict[str, Any]) -> Any:
    """The statement that inserts `n` copies of the row `like`, with other `values` in some columns."""
    columns = table.__table__.columns
    chosen = {one.name: values.get(one.name, one) for one in columns if one.computed is None}
    row = [literal(None, columns[name].type) if value is None else value for name, value in chosen.items()]
    numbers = func.generate_series(1, n).alias("n")
    copies = select(*row).select_from(table.__table__.join(numbers, true())).where(columns["id"] == like)
    return insert(table).from_select(list(chosen), copies)
