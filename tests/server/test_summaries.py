"""The course of one hyperparameter: which steps an answer has, what it costs, and what old trials say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert

from nestor import lifecycle
from nestor.schemas import Distribution, Distributions, HyperparameterInfo, TensorSummary
from nestor_server.models import Distribution as Row
from nestor_server.models import Step, Trial
from nestor_server.services.records import summaries, thinning
from tests.server.conftest import Run, ok, problem, step

FIELDS = tuple(TensorSummary.model_fields)
INFO = HyperparameterInfo(name="decay", shape=(100,), dtype="float32", transform="exp", least=-9.0)
OTHER = HyperparameterInfo(name="l2", shape=(), dtype="float32", transform="identity")


def distribution(number: int) -> Distribution:
    return Distribution(quantiles=(0, 1, 2, 3, 4, 5, 6.5 + number), first=-number, width=0.25, counts=(1, 0, number))


def distributions(*numbers: int) -> dict[str, Any]:
    return {"distributions": tuple(Distributions(number=n, tensors={"decay": distribution(n)}) for n in numbers)}


def summary(number: int, **changes: float | None) -> TensorSummary:
    given = {"min": -number, "max": number, "mean": 0.5, "std": 1 / number, "gradient_norm": 0.1, "update_norm": 0.2}
    return TensorSummary.model_validate(given | changes)
