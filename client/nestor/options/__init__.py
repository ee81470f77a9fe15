"""How to tune: every option once, with its default, range, unit and meaning, without torch.

A class here is what a user writes, what crosses the wire, and what `docs/options.md` lists. `nestor_engine` adds the
code that computes it. A new solver is a class in `solvers.py` and a file in `nestor_engine/solvers`.
"""

from __future__ import annotations

from nestor.options.base import OPTIONS as OPTIONS
from nestor.options.base import Option as Option
from nestor.options.config import Config as Config
from nestor.options.curvatures import *
from nestor.options.evaluation import *
from nestor.options.optimizers import *
from nestor.options.presets import *
from nestor.options.responses import *
from nestor.options.schedules import *
from nestor.options.solvers import *


def public_names() -> list[str]:
    """The options that are names of `nestor`."""
    return ["Config", *(name for name, cls in OPTIONS.items() if cls.is_public)]


def public_option(name: str) -> type[Option] | type[Config] | None:
    """The option that `nestor` has under a name; None if no option has it."""
    if name == "Config":
        return Config
    found = OPTIONS.get(name)
    return found if found is not None and found.is_public else None
