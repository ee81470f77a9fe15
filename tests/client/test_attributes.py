"""User attributes that JSON cannot hold are named, with what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from nestor.errors import AttributesNotJson
from nestor.results.attributes import plain


def endless() -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    attrs["self"] = attrs
    return attrs


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a number of NumPy": (lambda: {"lr": np.float32(0.1)}, "the attribute 'lr' is a float32. Pass numbers"),
    "an integer of NumPy": (lambda: {"seeds": [1, np.int64(2)]}, "the attribute 'seeds'.1 is a int64. Pass"),
    "a tensor": (lambda: {"a": {"b": torch.ones(2)}}, "the attribute 'a'.b is a Tensor. Pass"),
    "a set": (lambda: {"a": {1}}, "the attribute 'a' is a set. Pass"),
    "NaN": (lambda: {"a": float("nan")}, "the attribute 'a' is nan. Pass"),
    "a tuple as a name": (lambda: {(1, 2): 3}, "the name (1, 2) is a tuple. Pass"),
    "a lone surrogate": (
        lambda: {"a": "\ud800"},
        "the attribute 'a' is '\\ud800', which has characters that cannot be",
    ),
    "a lone surrogate in a name": (lambda: {"\ud800": 1}, "the name '\\ud800' has characters that cannot be encoded"),
    "itself": (endless, "they hold themselves, or are nested too deeply"),
    "a list": (lambda: [1], "[1] is not a dictionary. Pass"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_attribute_that_json_cannot_hold_is_named(name: str):
    attrs, sentence = REFUSED[name]
    with pytest.raises(AttributesNotJson) as refused:
        plain(attrs())
    assert str(refused.value).startswith(f"User attributes must be what JSON can hold: {sentence}")


def test_attributes_are_what_json_gives_back():
    assert plain(None) == {}
    assert plain({"a": (1, 2.5), 3: None, "ü": True}) == {"a": [1, 2.5], "3": None, "ü": True}
