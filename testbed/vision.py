"""timm, transformers and peft for tests and benchmarks, also where the C++ operators of torchvision cannot be loaded.

PyPI's torchvision is built for torch with CUDA, and does not load into torch's CPU build: "operator torchvision::nms
does not exist". timm requires torchvision, and transformers and peft import it if it is installed. No model of the
tests calls its operators, so it is enough to declare those that its import registers something for.
Both take these libraries from this module, never by themselves.
"""

from __future__ import annotations

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: torch.library.Library | None = None  # its declarations last as long as this object

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::" not in str(error):
        raise
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    import torchvision

import peft  # noqa: E402  # behind the declarations
import timm  # noqa: E402  # behind the declarations
import transformers  # noqa: E402  # behind the declarations

__all__ = ["peft", "timm", "torchvision", "transformers"]
