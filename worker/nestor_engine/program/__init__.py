"""A problem without its code: graphs of allowed operators, and tensors; no pickle.

`export` needs the problem's code, `load` does not. The loaded problem computes the same bits.
"""

from __future__ import annotations

from nestor_engine.program.export import Program as Program
from nestor_engine.program.export import export as export
from nestor_engine.program.load import load as load
