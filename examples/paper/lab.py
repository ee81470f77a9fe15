"""The context of an experiment: a service, a size, and a place for its tables, pictures and curves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import nestor
from examples.data import IMAGES, Images
from examples.data.cache import folder

Size = Literal["quick", "usual", "full"]
Row = dict[str, Any]
T = TypeVar("T")

OURS = ("mnist-digits", "fashion-mnist")  # those that are available as packages


@dataclass
class Lab:
    """One run of an experiment.

    Attributes:
        name: the experiment.
        server: the address of the service that its trials run on.
        size: "quick" for tests, "usual" for two cores without a GPU, "full" for the slides' sizes on a GPU.
        output: the directory of its pictures and curves.
        wanted: names of image data sets; by default those that are packages, and CIFAR if it is present.
        rows: all rows of all tables, each with the title of its table.
        files: pictures and curves that were drawn.
        findings: sentences.
    """

    name: str
    server: str
    size: Size
    output: Path
    wanted: tuple[str, ...] = ()
    rows: list[Row] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def sized(self, *, quick: T, usual: T, full: T) -> T:
        """The one of the three that this run asks for."""
        return {"quick": quick, "usual": usual, "full": full}[self.size]

    def images(self, *, most: int | None = None) -> list[Images]:
        """The image data sets of this run, at most `most` of them."""
        cifar = [name for name in ("cifar-10", "cifar-100") if folder(name).exists()]
        return [IMAGES[name]() for name in (self.wanted or (*OURS, *cifar))[:most]]

    def study(self, what: str, **user_attrs: Any) -> nestor.Study:
        """A study on the service. Runs of one size share it, so that the dashboard shows them side by side."""
        quick = "" if self.size == "usual" else f" ({self.size})"
        name = f"{self.name}: {what}{quick}"
        return nestor.create_study(
            name, server=self.server, load_if_exists=True, tags=("paper", self.name), user_attrs=user_attrs
        )

    def table(self, title: str, rows: Sequence[Row]) -> None:
        """Print `rows` and keep them."""
        print(f"\n{title}\n\n{render(rows)}", flush=True)
        self.rows += [{"table": title, **row} for row in rows]

    def found(self, sentence: str) -> None:
        """Print a finding and keep it."""
        print(f"\n{sentence}", flush=True)
        self.findings.append(sentence)

    def file(self, name: str) -> Path:
        """The path of a picture or of curves with this name."""
        self.output.mkdir(parents=True, exist_ok=True)
        path = self.output / name
        self.files.append(str(path))
        print(f"\nDrawn: {path}", flush=True)
        return path


def render(rows: Sequence[Row]) -> str:
    """A table in Markdown, aligned. Missing values stay empty. Lists and dicts go only to the JSON file."""
    shown = (name for row in rows for name, value in row.items() if not isinstance(value, dict | list))
    columns = list(dict.fromkeys(shown))
    cells = [columns, *([_shown(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    lines = [f"| {' | '.join(line)} |" for line in padded]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def percent(values: Iterable[float]) -> str:
    """ "91.2 ± 0.4 %": mean and standard deviation over seeds; without the deviation when there is one value."""
    shares = [100 * value for value in values]
    spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.mean(shares):.1f}{spread} %"


def spread(values: Iterable[float]) -> str:
    """ "0.123 ± 0.004": mean and standard deviation over seeds."""
    known = list(values)
    deviation = f" ± {statistics.stdev(known):.2g}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.4g}{deviation}"


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work`, and its duration in seconds."""
    began = time.monotonic()
    return work(), time.monotonic() - began


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
