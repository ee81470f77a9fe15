"""The file formats of common data sets. The Python version of CIFAR is not supported, because it is a pickle."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from examples.data.cache import DataMissing

UNSIGNED_BYTES = 0x08  # the only element type of MNIST and similar data sets


def read_idx(file: Path) -> Tensor:
    """An IDX file of unsigned bytes [1], gzipped or not.

    Returns:
        A uint8 tensor of the shape in the file's header.

    Raises:
        DataMissing: It is not an IDX file, or it is incomplete.

    [1] http://yann.lecun.com/exdb/mnist/
    """
    content = file.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != bytes((0, 0, UNSIGNED_BYTES)):
        raise DataMissing(f"{file} is not an IDX file of unsigned bytes. Fetch it again.")
    rank = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", count=min(rank, (len(content) - 4) // 4), offset=4))
    begin = 4 + 4 * rank
    if len(shape) != rank or len(content) != begin + math.prod(shape):
        raise DataMissing(
            f"{file} has the shape {shape}, but contains {max(0, len(content) - begin):,} bytes. Fetch it again."
        )
    return torch.tensor(np.frombuffer(content, np.uint8, offset=begin).reshape(shape))


def read_cifar(files: list[Path], *, label_bytes: int) -> tuple[Tensor, Tensor]:
    """CIFAR's binary version [1]: for each image its labels, one byte each, the finest last, then 3,072 color bytes.

    Returns:
        Images of shape (n, 3, 32, 32), uint8, and labels of shape (n,).

    Raises:
        DataMissing: A file does not consist of complete images.

    [1] https://www.cs.toronto.edu/~kriz/cifar.html
    """
    size, rows = label_bytes + 3 * 32 * 32, []
    for file in files:
        content = np.frombuffer(file.read_bytes(), np.uint8)
        if not len(content) or len(content) % size:
            raise DataMissing(
                f"{file} contains {len(content):,} bytes, which is not a multiple of the {size:,} bytes of an image. "
                "Fetch the binary version again."
            )
        rows.append(content.reshape(-1, size))
    everything = torch.tensor(np.concatenate(rows))
    return everything[:, label_bytes:].reshape(-1, 3, 32, 32), everything[:, label_bytes - 1].long()


def read_words(file: Path) -> list[str]:
    """Mikolov's version of the Penn Treebank: words separated by blanks, one sentence per line, which gets `<eos>`."""
    return [word for line in file.read_text(encoding="utf-8").splitlines() for word in (*line.split(), "<eos>")]
