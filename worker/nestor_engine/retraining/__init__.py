"""Is a hypergradient true? Its prediction is compared with what retraining under other hyperparameters gives."""

from __future__ import annotations

from nestor_engine.retraining.changes import nudges as nudges
from nestor_engine.retraining.truth import Training as Training
from nestor_engine.retraining.truth import Truth as Truth
from nestor_engine.retraining.truth import predicted as predicted
from nestor_engine.retraining.truth import truth as truth
