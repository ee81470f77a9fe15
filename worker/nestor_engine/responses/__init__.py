"""How to differentiate: ways to dF/dλ, one a file."""

from __future__ import annotations

from nestor_engine.responses.direct_only import DirectOnly as DirectOnly
from nestor_engine.responses.hypernetwork import Hypernetwork as Hypernetwork
from nestor_engine.responses.implicit import Implicit as Implicit
from nestor_engine.responses.response import Hypergradient as Hypergradient
from nestor_engine.responses.response import OuterStepContext as OuterStepContext
from nestor_engine.responses.response import Response as Response
from nestor_engine.responses.unrolled import Unrolled as Unrolled
