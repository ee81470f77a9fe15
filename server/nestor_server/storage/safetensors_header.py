"""A tensor of a safetensors file as a file of its own, without torch."""

from __future__ import annotations

from nestor.program_format.safetensors_header import Header as Header
from nestor.program_format.safetensors_header import Malformed as Malformed
from nestor.program_format.safetensors_header import Tensor as Tensor
from nestor.program_format.safetensors_header import described, written

NUMPY = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


def safetensors_prefix(*tensors: Tensor) -> bytes:
    """The bytes before the data in a safetensors file of these tensors alone, in this order."""
    return written(described((one.name, one.dtype, one.shape, one.nbytes) for one in tensors))


def npy_prefix(tensor: Tensor) -> bytes:
    """The header of an .npy file (format 1.0).

    Raises:
        Malformed: numpy has no such data type.
    """
    if tensor.dtype not in NUMPY:
        raise Malformed(f"numpy has no {tensor.dtype}")
    header = repr({"descr": NUMPY[tensor.dtype], "fortran_order": False, "shape": tensor.shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
