"""A problem in a form that can be shipped: graphs of allowed operators and tensors, no code, no pickle.

`export` runs where the problem's code is, `load` anywhere else; what one writes the other
differentiates to the same bits.
"""

from __future__ import annotations

from nestor_engine.program.export import Program as Program
from nestor_engine.program.export import export as export
from nestor_engine.program.load import load as load
