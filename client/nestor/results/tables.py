"""Steps and trials as table rows, for CSV files and data frames."""

from __future__ import annotations

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar, cast

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from nestor.options.base import Option
from nestor.schemas import OptionRow, Step, Trial, TrialSpec

if TYPE_CHECKING:
    import numpy

Item = TypeVar("Item")

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins so
NO_OPTIONS = {"problem", "user_attrs"}  # fields of a specification
NESTED = (
    "val_metrics",
    "metrics",
    "test_metrics",
    "predicted",
    "seconds",
)  # their entries become columns such as val_accuracy


def flat(step: Step) -> dict[str, Any]:
    """One step as one row: its mappings as columns of their own, its warnings in one cell."""
    row = step.model_dump()
    for name in NESTED:
        prefix = name.removesuffix("_metrics")
        row |= {f"{prefix}_{key}": value for key, value in row.pop(name).items()}
    return row | {"warnings": " ".join(step.warnings)}


def _cell(value: Any) -> Any:
    """How a CSV file has a value: what is not a number or a text as JSON, times as in ISO 8601, nothing for None.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, which spreadsheets do not show.
    """
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool | dict | list | tuple):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


class Table(ABC, Generic[Item]):
    """A table that is written in two passes: `add` finds the columns, `row` gives the values."""

    @abstractmethod
    def add(self, item: Item) -> None:
        """Find the columns of an entry."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """All columns, in order."""

    @abstractmethod
    def row(self, item: Item) -> dict[str, Any]:
        """The values of an entry that was added, by column; those that it lacks are left out."""

    def csv(self, items: Iterable[Item] | None = None) -> str:
        """The rows of entries as CSV; without entries, the header."""
        stream = io.StringIO(newline="")
        writer = csv.DictWriter(stream, self.columns, extrasaction="ignore")  # what was recorded since the first pass
        if items is None:
            writer.writeheader()
        else:
            writer.writerows({name: _cell(value) for name, value in self.row(item).items()} for item in items)
        return stream.getvalue()


class StepTable(Table[Step]):
    """One row per step, with nested values as JSON."""

    def __init__(self) -> None:
        self._columns: dict[str, None] = {}

    def add(self, item: Step) -> None:
        """Find the columns of a step."""
        self._columns |= dict.fromkeys(self.row(item))

    @property
    def columns(self) -> list[str]:
        """The fields of steps; those of nested mappings as columns of their own."""
        return [*self._columns] or [*Step.model_fields]

    def row(self, item: Step) -> dict[str, Any]:
        """As `flat`, with a list of warnings."""
        return flat(item) | {"warnings": item.warnings}


def write_csv(steps: Iterable[Step], stream: TextIO) -> None:
    """Write a header and one row per step, with nested values as JSON.

    `stream` must not translate newlines (`newline=""`).
    """
    steps, table = [*steps], StepTable()
    for step in steps:
        table.add(step)
    stream.write(table.csv() + table.csv(steps))


TRIAL_FIELDS = ("number", "state", "step", "n_steps", "value", "best_value", "best_step", "started_at", "finished_at")


def step_rows(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """One row per step, with entries of mappings as columns such as `val_metrics.accuracy`."""
    return [dotted(step.model_dump()) | {"warnings": " ".join(step.warnings)} for step in steps]


def trial_row(record: Trial) -> dict[str, Any]:
    """What a trial's record says of its course, with user attributes as columns `user_attrs_<key>`."""
    row = {field: getattr(record, field) for field in TRIAL_FIELDS} | {"state": record.state.value, "duration": None}
    row |= {"verdict": None, "verdict_code": None}
    if record.verdict is not None:
        row |= {"verdict": record.verdict.answer, "verdict_code": record.verdict.code}
    if record.started_at is not None and record.finished_at is not None:
        row["duration"] = record.finished_at - record.started_at
    return row | {f"user_attrs_{key}": value for key, value in record.user_attrs.items()}


def option_rows(records: Sequence[Trial], *, every: bool = False) -> list[dict[str, Any]]:
    """The options of each trial, as columns such as `inner.lr`: those in which the trials differ, or all.

    An option that only some trials have, such as the momentum of their inner optimizer, is None in the others.
    """
    options = _Options()
    for record in records:
        options.add(record)
    return [options.row(record, every=every) for record in records]


def flat_options(spec: TrialSpec) -> dict[str, Any]:
    """The options by name; an empty mapping leaves no entry."""
    return dotted(spec.model_dump(mode="json", exclude=NO_OPTIONS))


def option_table(spec: TrialSpec) -> tuple[OptionRow, ...]:
    """The options, first those that differ from their defaults, and each part by name."""
    defaults = dict(_defaults(spec, None, ""))
    rows = [
        OptionRow(
            name=name,
            value=value,
            default=defaults.get(name),
            is_default=name in defaults and defaults[name] == value,
        )
        for name, value in flat_options(spec).items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.is_default, row.name)))


def _defaults(chosen: Option | BaseModel, usual: object, prefix: str) -> Iterator[tuple[str, Any]]:
    """The defaults of the fields of what was chosen; fields that must be given have none.

    Args:
        usual: what has the defaults, if it is of the same class: `outer` is an RMSprop with a learning rate of its own.
    """
    fields: dict[str, FieldInfo] = cast("Any", type(chosen)).__pydantic_fields__
    for name, field in fields.items():
        value = getattr(chosen, name)
        default = getattr(usual, name) if type(usual) is type(chosen) else field.get_default(call_default_factory=False)
        if name == getattr(chosen, "tag_key", None):
            yield f"{prefix}{name}", usual.tag if isinstance(usual, Option) else None
        elif isinstance(value, Option | BaseModel):
            yield from _defaults(value, default, f"{prefix}{name}.")
        elif default is not PydanticUndefined:
            yield f"{prefix}{name}", to_jsonable_python(default)


class _Options:
    """The options of trials, and whether the trials differ in them; updated trial by trial."""

    def __init__(self) -> None:
        self._first: dict[str, Any] | None = None
        self._names: dict[str, bool] = {}  # whether the trials differ

    def add(self, record: Trial) -> None:
        row = flat_options(record.spec)
        if self._first is None:
            self._first = row
        for name in self._names | row:
            differs = row.get(name) != self._first.get(name)
            self._names[name] = self._names.get(name, False) or differs

    def row(self, record: Trial, *, every: bool) -> dict[str, Any]:
        row = flat_options(record.spec)
        return {name: row.get(name) for name in self.names(every=every)}

    def names(self, *, every: bool) -> list[str]:
        return [name for name, differs in self._names.items() if every or differs]


TrialAndLast = tuple[Trial, Sequence[Step]]  # a trial, and its last step if its metrics are wanted


class TrialTable(Table[TrialAndLast]):
    """One row per trial: its course, user attributes, the options in which the trials differ, and its last metrics."""

    def __init__(self, *, every: bool = False) -> None:
        self._every, self._options = every, _Options()
        self._attributes: dict[str, None] = {}
        self._metrics: dict[str, None] = {}

    def add(self, item: TrialAndLast) -> None:
        """Find the columns of a trial."""
        record, last = item
        self._options.add(record)
        self._attributes |= dict.fromkeys(trial_row(record))
        self._metrics |= dict.fromkeys(metric_row(last))

    @property
    def columns(self) -> list[str]:
        """Those of the trial, its user attributes, options and metrics, in this order."""
        own = self._attributes or dict.fromkeys((*TRIAL_FIELDS, "duration", "verdict", "verdict_code"))
        return [*dict.fromkeys((*own, *self._options.names(every=self._every), *self._metrics))]

    def row(self, item: TrialAndLast) -> dict[str, Any]:
        """The values of a trial."""
        record, last = item
        # In this order, because `n_steps` has the extensions.
        return self._options.row(record, every=self._every) | trial_row(record) | metric_row(last)


def metric_row(last: Sequence[Step]) -> dict[str, float]:
    """The metrics of the last of some steps, as columns such as `val_metrics.accuracy`; none without steps."""
    if not last:
        return {}
    return dotted(
        {"val_metrics": last[-1].val_metrics, "metrics": last[-1].metrics, "test_metrics": last[-1].test_metrics}
    )


def dotted(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dots between the parts of a name; an empty mapping leaves no entry."""
    row: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            row |= dotted(cast("Mapping[str, Any]", value), f"{prefix}{name}.")
        else:
            row[f"{prefix}{name}"] = value
    return row


def distribution_row(named: Mapping[str, numpy.ndarray], *, quantiles: bool) -> dict[str, float]:
    """Count, min, max, mean and std of all entries together and, with `quantiles`, columns such as "50%"."""
    import numpy as np

    values = np.concatenate([array.ravel() for array in named.values()]).astype(np.float64)
    shares = QUANTILES if quantiles else ()
    summary = {
        "count": values.size,
        "min": values.min(),
        "max": values.max(),
        "mean": values.mean(),
        "std": values.std(),
    }
    return summary | {f"{q:.0%}": value for q, value in zip(shares, np.quantile(values, shares), strict=True)}
