"""The data of the presets: handwritten digits. Workers train on them, and servers show them; neither sends them.

The splits are functions of a seed.
"""

from __future__ import annotations

import gzip
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nestor.data.draws import derive_seed, permutation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = dict[str, NDArray[Any]]

CLASSES = 10
PIXELS = 64


def splits(*, train_size: int, val_size: int, label_noise: float, seed: int) -> dict[str, Columns] | None:
    """Splits with the columns x, shape (n, 64), float32 in [0, 1], and y, shape (n,). All others are the test split.

    None if scikit-learn, whose data they are, is not installed.

    Args:
        label_noise: the fraction of the training labels that are changed to the next class.
    """
    found = _digits()
    if found is None:
        return None
    x, y = found
    order = permutation(len(x), derive_seed(seed, "split"))
    ends = {"train": (0, train_size), "val": (train_size, train_size + val_size), "test": (train_size + val_size, None)}
    made = {name: {"x": x[order[begin:end]], "y": y[order[begin:end]]} for name, (begin, end) in ends.items()}
    labels = made["train"]["y"]
    wrong = permutation(train_size, derive_seed(seed, "noise"))[: round(label_noise * train_size)]
    labels[wrong] = (labels[wrong] + 1) % CLASSES
    return made


@lru_cache(maxsize=1)
def _digits() -> tuple[NDArray[Any], NDArray[Any]] | None:
    """The 1,797 digits of 8×8 pixels in the order of their file.

    They are read from scikit-learn's file. Importing scikit-learn would import scipy, pandas and pyarrow as well, which
    takes a second and 150 MB in every runner.
    """
    import numpy as np

    scikit_learn = find_spec("sklearn")
    if scikit_learn is None or scikit_learn.origin is None:
        return None
    with gzip.open(Path(scikit_learn.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        table = np.loadtxt(file, delimiter=",")
    return (table[:, :-1] / 16).astype(np.float32), table[:, -1].astype(np.int64)
