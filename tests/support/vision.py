"""torchvision for tests of real models, without its C++ operators.

PyPI's torchvision is built for torch with CUDA, and does not load into torch's CPU build: "operator torchvision::nms
does not exist". timm requires torchvision, and transformers and peft import it if it is installed. No model of the
tests calls its operators, so it is enough to declare those that its import registers something for.
Tests import timm, transformers and peft behind this module.
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

__all__ = ["torchvision"]
