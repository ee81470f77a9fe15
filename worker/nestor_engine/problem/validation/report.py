"""What a check found: findings, their report, and the descriptions of shapes and usual remedies."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor

from nestor.errors import (
    CheckFailed,
    FunctionFailed,
    LossNotFinite,
    LossNotScalar,
    LossNotTensor,
    NestorError,
    ProblemInvalid,
    SecondDerivativeMissing,
    WarningRaised,
    shortened,
)
from nestor_engine.data.splits import INDEX
from nestor_engine.measuring.results import is_pair
from nestor_engine.objective import Batch
from nestor_engine.problem.losses import batch_hint
from nestor_engine.problem.validation.torch_errors.derivatives import explained
from nestor_engine.problem.validation.torch_errors.hints import hint_for
from nestor_engine.program.export import Program
from nestor_engine.program.failures import place_of_error
from nestor_engine.program.quiet import hear_warnings, quiet

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing to fix (an error) or to know (a warning), with its remedy."""

    severity: Severity
    where: str
    sentence: str
    code: str = ProblemInvalid.code()  # of a class in `nestor.errors`
    cause: BaseException | None = field(default=None, repr=False, compare=False)  # raised by the author's code

    def __str__(self) -> str:
        return f"{self.severity}: {self.where}: {self.sentence}"


@dataclass(frozen=True)
class Report:
    """What `check` found. `str(report)` has one line for each finding."""

    findings: tuple[Finding, ...]
    program: Program | None = field(default=None, repr=False, compare=False)  # the export that was checked, if any

    @property
    def ok(self) -> bool:
        """Whether the problem can be trained as it is; warnings do not count."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings without the warnings, in the order of the checks."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def raise_errors(self) -> None:
        """Do nothing if the report has no errors; warnings do not count.

        Raises:
            CheckFailed: with all errors. Its `__cause__` is the first exception that the author's code raised.
        """
        if not self.ok:
            listed = [{"code": one.code, "where": one.where, "message": one.sentence} for one in self.errors]
            sentences = "\n".join(f"{error.where}: {error.sentence}" for error in self.errors)
            cause = next((error.cause for error in self.errors if error.cause), None)
            raise CheckFailed(findings=sentences, errors=listed) from cause

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings)) or "The problem is in order."


@dataclass(frozen=True)
class Called:
    """A call of a loss: its arguments, its result, and the loss as a function of outputs and batch."""

    outputs: Any
    batch: Batch
    result: Any
    loss: Callable[..., Any]

    def again(self, outputs: Any, batch: Batch) -> Any:
        """The loss as a tensor, also if it returns (sum, weight)."""
        result = self.loss(outputs, batch)
        return result[0] / result[1] if is_pair(result) else result


class Findings:
    """Collects findings while the author's code runs."""

    def __init__(self) -> None:
        self._found: list[Finding] = []
        self._returned: dict[str, Called] = {}  # loss → its last call
        self._warned = set[str]()

    def report(self) -> Report:
        """The findings so far, each once: validation and test data often have the same."""
        return Report(tuple(dict.fromkeys(self._found)))

    def recording(self, which: str, loss: Callable[..., Any]) -> Callable[..., Any]:
        """`loss`, which now also keeps its last call for `last_call(which)`."""

        @functools.wraps(loss)  # the number of its parameters matters
        def recorded(outputs: Any, batch: Batch, *rest: Any, **named: Any) -> Any:
            self._returned.pop(which, None)
            result = loss(outputs, batch, *rest, **named)

            def again(outputs: Any, batch: Batch) -> Any:
                return loss(outputs, batch, *rest, **named)

            self._returned[which] = Called(outputs, batch, result, again)
            return result

        return recorded

    def error(
        self,
        where: str,
        sentence: str,
        kind: type[NestorError] = ProblemInvalid,
        cause: BaseException | None = None,
    ) -> None:
        """Add an error; see `Finding`. `kind` is the class that gives the code."""
        self._found.append(Finding("error", where, sentence, kind.code(), cause))

    def warning(self, where: str, sentence: str, kind: type[NestorError] = ProblemInvalid) -> None:
        """Add a warning; see `Finding`. `kind` is the class that gives the code."""
        self._found.append(Finding("warning", where, sentence, kind.code()))

    @contextlib.contextmanager
    def explaining(
        self,
        where: str,
        *,
        loss: str | None = None,
        note: str = "",
        again: Callable[[], object] = lambda: None,
        **given: Any,
    ) -> Generator[None]:
        """Turn an exception of the author's code, and each warning, into a finding.

        Args:
            where: the part of the problem that runs.
            loss: if this loss returned something wrong, that is reported instead of the exception.
            note: what the author may not know about the arguments.
            again: runs the author's code, to find the line that calls an operator.
            given: the arguments to show.
        """
        try:
            with quiet(), self._hearing(where):
                yield
        except NestorError as error:
            self.error(where, str(error), type(error), error)
        except Exception as error:
            if loss is not None and not self.returned_well(loss):
                return
            first = str(error).strip().split("\n")[0].rstrip(".")
            shown = "; ".join(f"{name} {shapes(value)}" for name, value in given.items())
            known = explained(error, again)
            said = f"{known} " if known else f"{note}{remedy(first, given)}"
            self.error(
                f"{where}{place_of_error(error.__traceback__)}",
                f"{said}It raised {type(error).__name__}: {first}." + (f" It was given {shown}." if shown else ""),
                SecondDerivativeMissing if known else FunctionFailed,
                error,
            )

    @contextlib.contextmanager
    def _hearing(self, where: str) -> Generator[None]:
        """Turn warnings into findings, one for each text; numbers in it do not make another."""
        with hear_warnings() as heard:
            try:
                yield
            finally:
                for warning in heard:
                    text = warning.message.strip().split("\n")[0].rstrip(".")
                    topic = re.sub(r"\d+", "", text)
                    if topic not in self._warned and not issubclass(warning.category, DeprecationWarning):
                        self._warned.add(topic)
                        self.warning(where, f"It warns: {shortened(text, 300)}.", WarningRaised)

    def last_call(self, which: str) -> Called | None:
        """The last call of a loss; None if it raised, was not called, or `returned_well` was asked about it."""
        return self._returned.get(which)

    def returned_well(self, which: str) -> bool:
        """Whether a loss returned a finite scalar, or one finite number per example. Otherwise an error is added.

        True, too, if the loss was not called.
        """
        if which not in self._returned:
            return True
        called = self._returned.pop(which)
        outputs, batch, result = called.outputs, called.batch, called.result
        n = len(batch[INDEX])
        if is_pair(result):
            if not (torch.as_tensor(result[0]) / torch.as_tensor(result[1])).isfinite():
                self.error(
                    which,
                    "Its sum or its weight is NaN or infinite on initial weights, or the weight is 0. Look for log(0), "
                    "and for a batch of which every position is ignored.",
                    LossNotFinite,
                )
                return False
            return True
        if not isinstance(result, Tensor) or not result.is_floating_point():
            got = f"a {result.dtype} tensor" if isinstance(result, Tensor) else f"a {type(result).__name__}"
            self.error(
                which, f"It returned {got}. Return a floating-point tensor (no .item() or float()).", LossNotTensor
            )
        elif result.shape not in ((), (n,)):
            self.error(
                which,
                f"It returned shape {tuple(result.shape)} for a batch of {n}, outputs {shapes(outputs)}. Return a "
                "scalar, or one loss per example, shape (B,).",
                LossNotScalar,
            )
        elif not result.isfinite().all():
            self.error(
                which,
                "It is NaN or infinite on initial weights. Look for log(0), 0/0 or too large an initial λ.",
                LossNotFinite,
            )
        else:
            return True
        return False


def shapes(value: Any) -> str:
    """Shapes and dtypes of a tree of tensors, such as `{x: (2, 3) float32}`."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shapes(inner)}" for key, inner in cast("dict[Any, Any]", value).items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shapes, cast("list[Any]", value))) + "]"
    return type(value).__name__


def remedy(message: str, given: dict[str, Any]) -> str:
    """The usual remedy for a common failure, ending with a space; empty for other failures."""
    if hint := hint_for(message):
        return hint
    lowered = message.lower()
    if "out of bounds" in lowered or "out of range" in lowered:
        ranges = ", ".join(
            f"{name!r} runs from {int(values.min())} to {int(values.max())}"
            for name, values in given.get("batch", {}).items()
            if name != INDEX and not values.is_floating_point() and values.numel()
        )
        outputs = given.get("outputs")
        classes = (
            f" and the model returns {outputs.shape[1]} classes"
            if isinstance(outputs, Tensor) and outputs.ndim > 1
            else ""
        )
        said = f"Of the batch's integers, {ranges}{classes}. " if ranges else ""
        return said + "Labels and tokens must be counted from 0 and stay below the number of classes or embeddings. "
    if "device meta" in lowered:
        return (
            "A part of the model runs outside of the model's forward call, where it has no weights: in the backward "
            "pass (torch.utils.checkpoint) or in a loss. Run every part once, inside forward. "
        )
    if "expected scalar type" in lowered or "dtype" in lowered:
        return "Convert the column to the type that the function expects, for example with .float() or .long(). "
    return batch_hint(message, given.get("batch"))
