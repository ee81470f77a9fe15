"""The data frames of a trial. `nestor.Trial` documents them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from nestor.backend import Backend
from nestor.callbacks import Entry, choice, expect_flag, index_text, whole_number
from nestor.errors import HparamNotFound, HyperparametersNotFound
from nestor.extras import require
from nestor.results.tables import distribution_row, step_rows
from nestor.results.values import Values, members
from nestor.schemas import MOST_STEPS, PER_ORDER, Form, Order, Step, TopEntry

if TYPE_CHECKING:
    import pandas  # pyright: ignore[reportMissingTypeStubs] pandas has none


def steps(recorded: Sequence[Step]) -> pandas.DataFrame:
    """A row per step, indexed by its number."""
    pd = require("pandas", what="trial.steps_dataframe", extra="viz")
    rows = step_rows(recorded)
    return pd.DataFrame(rows, columns=None if rows else [*Step.model_fields]).set_index("number")


def trajectory(backend: Backend, trial: UUID, name: str, *, quantiles: bool) -> pandas.DataFrame:
    """A row per step that has a snapshot, with the distribution of the entries under `name`."""
    expect_flag("quantiles", quantiles)
    pd = require("pandas", what="trial.trajectory", extra="viz")
    rows: list[dict[str, Any]] = []
    for step in backend.hyperparameters(trial).steps:
        try:
            values = Values(backend.snapshot(trial, step), {}).numpy()
        except HyperparametersNotFound:  # thinned out meanwhile
            continue
        rows.append({"step": step, **distribution_row(members(values, name), quantiles=quantiles)})
    return pd.DataFrame(rows).set_index("step")


def top(backend: Backend, trial: UUID, name: str, *, by: Order | str, k: int, step: int | None) -> pandas.DataFrame:
    """A row for each of the `k` entries that come first by an order, indexed by their flat indices."""
    pd = require("pandas", what="trial.top", extra="viz")
    order, most = choice("by", by, Order), whole_number("k", k, least=1, most=PER_ORDER)
    at = None if step is None else whole_number("step", step, least=0, most=MOST_STEPS)
    found = backend.top(trial, name, order, most, at)
    columns = [field for field in TopEntry.model_fields if field != "index"]
    rows = [item.model_dump() for item in found.items]
    return pd.DataFrame(rows, columns=["index", *columns]).set_index("index")


def values_of(
    backend: Backend, trial: UUID, name: str, index: Entry | Iterable[Entry], *, form: Form | str
) -> pandas.DataFrame:
    """A row per step that has a snapshot, and a column for each of some entries."""
    pd = require("pandas", what="trial.values_of", extra="viz")
    found = backend.entry_values(trial, name, index_text(index), choice("form", form, Form))
    rows, numbers = list(zip(*found.values, strict=True)), pd.Index(found.steps, name="step")
    return pd.DataFrame(rows, index=numbers, columns=list(found.names))


def example_weights(hparams: Values, name: str) -> pandas.Series:
    """The weight of each training example after the transform, indexed by its position."""
    pd = require("pandas", what="trial.example_weights", extra="viz")
    values = members(hparams.transformed, name)
    if name not in values or values[name].ndim != 1:
        raise HparamNotFound(name=name, hparams=list(values))
    return pd.Series(values[name].numpy(), name=name, index=pd.RangeIndex(len(values[name]), name="position"))
