"""Whether a trial's result can be relied on: evidence that is folded over its steps, and a table of verdicts on it."""

from __future__ import annotations

from nestor.results.verdicts.evidence import Evidence as Evidence
from nestor.results.verdicts.rules import LOGGED as LOGGED
from nestor.results.verdicts.rules import RULES as RULES
from nestor.results.verdicts.rules import judge as judge
from nestor.results.verdicts.rules import warning as warning
