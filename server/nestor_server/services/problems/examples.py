"""Chosen examples of a trial's data, of which no other rows are read.

The server has the columns that were uploaded, and those of presets. Others lie in files that only workers read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from nestor.data import digits
from nestor.errors import ExamplesNotStored, ExampleUnknown, SplitNotFound, TooManyEntries
from nestor.schemas import MOST_EXAMPLES, EntryPointProblem, Examples, Preset, PresetProblem, ProgramProblem, TrialSpec
from nestor.schemas.examples import MOST_SCALAR_COLUMNS
from nestor_server.models import Blob, Dataset, Trial
from nestor_server.services.pictures import png
from nestor_server.services.pictures.positions import positions
from nestor_server.services.trials import queries
from nestor_server.storage import blobs, tensor_blobs
from nestor_server.storage.number_check import decoded
from nestor_server.storage.safetensors_header import Tensor

SplitName = Literal["train", "val", "test"]

MAX_SIDE = 256  # of a picture
LEAST_PIXELS = 16  # of a vector that is taken for a picture


class Columns(Protocol):
    """The columns of a split that the server has."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """By name."""
        ...

    @property
    def floats(self) -> frozenset[str]:
        """The names of those of floating-point numbers."""
        ...

    @property
    def version(self) -> str:
        """Equal for equal rows."""
        ...

    def rows(self, session: Session, names: Sequence[str], index: Sequence[int]) -> list[NDArray[Any]]:
        """For each of these columns, the rows of the examples, shape (examples, …)."""
        ...


@dataclass(frozen=True)
class _Uploaded:
    """Columns that are the tensors of a blob."""

    blob: Blob
    tensors: Mapping[str, Tensor]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    @property
    def floats(self) -> frozenset[str]:
        return frozenset(name for name, tensor in self.tensors.items() if "F" in tensor.dtype)

    @property
    def version(self) -> str:
        return self.blob.digest

    def rows(self, session: Session, names: Sequence[str], index: Sequence[int]) -> list[NDArray[Any]]:
        ranges: list[tuple[Blob, int, int]] = []
        for tensor in (self.tensors[name] for name in names):
            length = tensor.nbytes // tensor.shape[0]
            begins = (tensor.begin + at * length for at in index)
            ranges += ((self.blob, begin, begin + length) for begin in begins)
        pieces = blobs.gather(session, ranges) if ranges else []
        found: list[NDArray[Any]] = []
        for i, tensor in enumerate(self.tensors[name] for name in names):
            data = b"".join(pieces[i * len(index) : (i + 1) * len(index)])
            found.append(decoded(data, tensor.dtype).reshape(len(index), *tensor.shape[1:]))
        return found


@dataclass(frozen=True)
class _Made:
    """Columns of a preset."""

    arrays: Mapping[str, NDArray[Any]]
    version: str  # of the preset

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.arrays.items()}

    @property
    def floats(self) -> frozenset[str]:
        return frozenset(name for name, array in self.arrays.items() if array.dtype.kind == "f")

    def rows(self, session: Session, names: Sequence[str], index: Sequence[int]) -> list[NDArray[Any]]:
        del session
        return [self.arrays[name][np.asarray(index)] for name in names]


@dataclass(frozen=True)
class Split:
    """A split of a trial's data.

    Attributes:
        n: the number of its examples.
        elsewhere: the URI of the file, by the name of each column that the server does not have.
    """

    name: SplitName
    n: int
    columns: Columns
    elsewhere: Mapping[str, str] = field(default_factory=dict[str, str])

    def chosen(self, text: str) -> tuple[int, ...]:
        """The examples that `text` names, such as "0,17" or "0:20", in its order.

        Raises:
            ExampleUnknown: it names others.
            TooManyEntries: more than `MOST_EXAMPLES`.
        """

        def unknown(item: str) -> ExampleUnknown:
            return ExampleUnknown(split=self.name, given=item, last=self.n - 1)

        index = positions(text, self.n, MOST_EXAMPLES, unknown)
        if len(index) > MOST_EXAMPLES:
            raise TooManyEntries(n=len(index), limit=MOST_EXAMPLES)
        return index

    @property
    def pictures(self) -> dict[str, tuple[int, ...]]:
        """Channels, height and width of the columns that can be drawn, by name."""
        shapes = {name: self._picture(name, shape) for name, shape in sorted(self.columns.shapes.items())}
        return {name: shape for name, shape in shapes.items() if shape and 0 < max(shape) <= MAX_SIDE and min(shape)}

    def _picture(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """As `png.picture_shape`. A vector of a square number of floats is probably a picture, too."""
        if math.prod(shape[1:]) == 1:
            return ()
        if len(shape) == 2 and name in self.columns.floats and shape[1] >= LEAST_PIXELS:
            side = math.isqrt(shape[1])
            return (1, side, side) if side**2 == shape[1] else ()
        return png.picture_shape(shape)


def read(session: Session, owner_id: UUID, trial_id: UUID, split: SplitName, index: str) -> Examples:
    """The columns of single numbers of some examples, and which columns are pictures.

    Raises:
        TrialNotFound, SplitNotFound
        ExamplesNotStored: the server has no column of the split.
        ExampleUnknown, TooManyEntries: `index` names others than there are, or too many.
    """
    found = find(session, owner_id, trial_id, split)
    chosen = found.chosen(index)
    scalars = [name for name, shape in sorted(found.columns.shapes.items()) if math.prod(shape[1:]) == 1]
    names = scalars[:MOST_SCALAR_COLUMNS]
    rows = found.columns.rows(session, names, chosen)
    numbers = (values.astype("u1") if values.dtype.kind == "b" else values for values in rows)
    columns = {name: values.reshape(-1).tolist() for name, values in zip(names, numbers, strict=True)}
    return Examples(split=split, n=found.n, index=chosen, columns=columns, pictures=found.pictures)


def find(session: Session, owner_id: UUID, trial_id: UUID, split: SplitName) -> Split:
    """A split of a trial's data. Of uploaded columns, only the header is read.

    Raises:
        TrialNotFound
        SplitNotFound: the trial has no test split.
        ExamplesNotStored: the server has no column of the split.
    """
    trial = queries.read(session, owner_id, trial_id, Trial.spec, Trial.dataset_id)
    spec = TrialSpec.model_validate(trial.spec)
    match spec.problem:
        case ProgramProblem():
            return _of_dataset(session, owner_id, trial_id, session.get_one(Dataset, trial.dataset_id), split)
        case PresetProblem(preset=preset):
            return _of_preset(preset, spec.seed if preset.seed is None else preset.seed, split)
        case EntryPointProblem(entry_point=name):
            raise ExamplesNotStored(split=split, reason=f"a worker makes them with the entry point {name!r}")


def _of_preset(preset: Preset, seed: int, name: SplitName) -> Split:
    size = {"train_size": preset.train_size, "val_size": preset.val_size}
    made = digits.splits(**size, label_noise=preset.label_noise, seed=seed)
    if made is None:
        reason = "they are those of scikit-learn, which is not installed on the server"
        raise ExamplesNotStored(split=name, reason=reason)
    drawn = (preset.dataset, name, *size.values(), preset.label_noise, seed)
    version = hashlib.sha256(repr(drawn).encode()).hexdigest()
    return Split(name, len(made[name]["y"]), _Made(made[name], version))


def _of_dataset(session: Session, owner_id: UUID, trial_id: UUID, dataset: Dataset, name: SplitName) -> Split:
    given: str | dict[str, Any] | None = dataset.splits.get(name)
    if given is None:
        raise SplitNotFound(trial=str(trial_id), split=name, splits=sorted(dataset.splits))
    files = [] if isinstance(given, str) else cast("list[dict[str, Any]]", given["files"])
    elsewhere = {column: file["uri"] for file in files for column in file["columns"]}
    digest = given if isinstance(given, str) else given["uploaded"]
    if digest is None:
        raise not_stored(name, *sorted(elsewhere.items())[0])
    blob = blobs.find(session, owner_id, digest)
    tensors = tensor_blobs.header(session, blob).tensors
    return Split(name, dataset.sizes[name], _Uploaded(blob, tensors), elsewhere)


def not_stored(split: SplitName, column: str, uri: str) -> ExamplesNotStored:
    """The error for a column in a file."""
    return ExamplesNotStored(split=split, reason=f"a worker reads the column {column!r} from {uri}")
