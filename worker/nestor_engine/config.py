"""A configuration with implementations of its options."""

# pyright: reportIncompatibleVariableOverride=false
# (fields cannot be set, so narrower types are sound; pyright does not read `frozen` in pydantic's model_config)

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pydantic import ConfigDict, field_validator

from nestor import options
from nestor.options import Option
from nestor_engine.implementations import implementation

if TYPE_CHECKING:
    from nestor_engine.optim.optimizers import Optimizer
    from nestor_engine.responses import Response


class Config(options.Config):
    """`nestor.Config` with implementations in place of options."""

    model_config = ConfigDict(validate_default=True)

    if TYPE_CHECKING:
        inner: Optimizer = cast(Any, None)
        outer: Optimizer = cast(Any, None)
        response: Response[Any] = cast(Any, None)

    @field_validator("inner", "outer", "response")
    @classmethod
    def _implemented(cls, option: Option) -> Option:
        return implementation(option)

    @staticmethod
    def of(config: options.Config) -> Config:
        """`config` itself if it has implementations, else a copy with implementations."""
        return config if isinstance(config, Config) else Config(**dict(config))
