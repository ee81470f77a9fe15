"""Tensors and arrays as columns: which of them torch can train on, and a sentence for the others."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# (values are of any library)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from nestor.errors import ColumnNotTensor, shown

# Torch computes with few operators in the unsigned integers of more than 8 bits.
_SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_KEPT = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
}
LARGEST = 2**63 - 1

_NUMBERS = "Pass a tensor, or an array of numbers."
_ENCODE = "Encode it as numbers, for example with numpy.unique(values, return_inverse=True)[1]."
_DATES = "Pass numbers, for example the days since the first: (values - values.min()) / numpy.timedelta64(1, 'D')."
_FILL = "Fill or drop missing values first."
COMPLEX = "Pass torch.view_as_real(values), and call torch.view_as_complex in the model."


@dataclass(frozen=True)
class Place:
    """Where a value was given, for a sentence about it.

    Attributes:
        part: a column of a DataFrame that is itself a column.
        entry: an entry of a list, or an item of a Dataset, such as "item 3".
    """

    split: str
    column: str
    part: str = ""
    entry: str = ""

    def refusal(self, reason: str, advice: str) -> ColumnNotTensor:
        """The error to raise: `reason` is a clause about "it", the column, its part or its entry."""
        subject = ", ".join(filter(None, (self.entry and f"in {self.entry}", self.part and f"in {self.part}")))
        reason = f"{subject}, {reason}" if subject else reason
        return ColumnNotTensor(split=self.split, column=self.column, reason=reason, advice=advice)


def of_tensor(values: Tensor, place: Place) -> Tensor:
    """As `values.tensor_of`, for a tensor in memory."""
    kind = type(values)
    if values.is_nested:
        advice = "Pad it with torch.nested.to_padded_tensor(values, 0.0), and mask the loss."
        raise place.refusal("it is a nested tensor", advice)
    if values.layout != torch.strided:
        raise place.refusal(f"its layout is {values.layout}", "Pass values.to_dense().")
    if values.is_quantized:
        raise place.refusal(f"it is quantized ({values.dtype})", "Pass values.dequantize().")
    if values.is_meta:
        raise place.refusal("it is on the meta device, where tensors hold no numbers", "Pass a tensor with numbers.")
    if kind is not nn.Parameter and (is_traceable_wrapper_subclass(values) or kind.__module__.startswith("torch.mask")):
        raise place.refusal(f"it is a {kind.__name__}", "Pass an ordinary tensor.")
    if values.is_complex():
        raise place.refusal(f"it is {values.dtype}", COMPLEX)
    if values.dtype in _SIGNED:
        if values.dtype is torch.uint64 and values.numel() and bool((values.view(torch.int64) < 0).any()):
            raise place.refusal("it holds integers above those of int64", "Pass smaller numbers, such as positions.")
        values = values.to(_SIGNED[values.dtype])
    if values.dtype not in _KEPT:
        raise place.refusal(f"it is {values.dtype}", "Convert it with values.float().")
    values = values.detach().as_subclass(Tensor)  # such as the images of torchvision
    if values.is_inference():
        values = values.clone()  # autograd saves no tensor that was made under torch.inference_mode
    return values.resolve_neg()  # imag returns views that are negated when they are read


def of_array(values: Any, place: Place, dtype: torch.dtype) -> Tensor:
    """As `values.tensor_of`, for what NumPy can make an array of."""
    import numpy

    if numpy.ma.is_masked(values):
        raise place.refusal("it has masked entries", "Fill them with values.filled(…), or drop these examples.")
    try:
        array: Any = numpy.asarray(values)
    except Exception as error:  # of any library
        reason = str(error).split("\n")[0].rstrip(".")
        raise place.refusal(f"NumPy cannot read the {type(values).__name__} ({shown(reason)})", _NUMBERS) from error
    kind, given = array.dtype.kind, array.dtype
    if kind not in "biuf":
        raise place.refusal(*_no_numbers(array))
    if kind == "u" and given.itemsize == 8 and array.size and int(array.max()) > LARGEST:
        raise place.refusal("it holds integers above those of int64", "Pass smaller numbers, such as positions.")
    wanted, original = given.newbyteorder("="), array
    if kind == "f":
        wanted = numpy.dtype(str(dtype).removeprefix("torch."))
    elif kind == "u" and given.itemsize > 1:
        wanted = numpy.dtype("int32" if given.itemsize == 2 else "int64")
    with numpy.errstate(over="ignore"):
        array = array.astype(wanted, copy=False)
    # Torch has no negative strides. What is read-only may be a file or another owner's memory.
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    found = torch.from_numpy(array)
    if kind == "f" and wanted.itemsize < given.itemsize and found.isinf().sum() > numpy.isinf(original).sum():
        advice = "Scale them, or train in double precision: model.double()."
        raise place.refusal(f"it holds numbers that {wanted} cannot hold", advice)
    return found


def described(values: Tensor) -> str:
    """The shape and dtype of a tensor, as a sentence names them."""
    return f"of shape {tuple(values.shape)}, {str(values.dtype).removeprefix('torch.')}"


def _no_numbers(array: Any) -> tuple[str, str]:
    """Reason and advice for an array that does not hold numbers."""
    match array.dtype.kind:
        case "U" | "S" | "T":
            return "it holds strings", _ENCODE
        case "M" | "m":
            return f"it holds times ({array.dtype})", _DATES
        case "c":
            return f"it is {array.dtype}", COMPLEX
        case "V":
            return "it is a structured array", "Pass each of its fields as a column: values['name']."
        case _:
            return of_objects(array.reshape(-1))


def of_objects(values: Any) -> tuple[str, str]:
    """Reason and advice for entries of type object, of which the first that is no number counts."""
    for number, value in enumerate(values):
        if isinstance(value, bool | int | float) or getattr(value, "ndim", None) == 0:
            if value == value:  # NaN is not equal to itself
                continue
            return f"it holds objects, and entry {number} is missing", _FILL
        reason, advice = unusable(value)
        if hasattr(value, "__array__") or type(value) in (list, tuple):
            reason, advice = f"it is a {type(value).__name__}", "Pass one array of equal rows, as numpy.stack makes it."
        return f"it holds objects, and entry {number}: {reason}", advice
    return "it holds numbers as objects", "Convert it with values.astype('float32') or values.astype('int64')."


def unusable(value: Any) -> tuple[str, str]:
    """Reason and advice for a value that no array can be made of."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return "a value is missing", _FILL
    if isinstance(value, str | bytes):
        return f"it is the text {shown(value)}", _ENCODE
    if hasattr(value, "isoformat"):
        return f"it is a {type(value).__name__}", _DATES
    if is_image(value):
        return "it is an image of PIL", "Convert it, for example with torchvision's pil_to_tensor."
    if type(value).__module__.startswith("scipy.sparse"):
        return f"it is a {type(value).__name__}", "Pass values.toarray()."
    if hasattr(value, "__getitem__") and hasattr(value, "__len__"):
        return f"it is a {type(value).__name__}", "Pass a Dataset as the whole split: its items are tuples or dicts."
    return f"it is a {type(value).__name__}", _NUMBERS


def is_image(value: Any) -> bool:
    """Whether `value` is an image of PIL, which NumPy could read, in a layout that a model does not expect."""
    return any(kind.__module__.startswith("PIL.") for kind in type(value).__mro__)
