"""Is a hypergradient true? Its prediction is compared with what retraining under other hyperparameters gives."""

from __future__ import annotations

from nestor.results.trainings.truth import Truth as Truth
from nestor_engine.retraining.changes import changed_by as changed_by
from nestor_engine.retraining.changes import nudged as nudged
from nestor_engine.retraining.changes import nudges as nudges
from nestor_engine.retraining.predictions import predicted as predicted
from nestor_engine.retraining.predictions import with_predictions as with_predictions
from nestor_engine.retraining.truth import retrained as retrained
from nestor_engine.retraining.truth import truth as truth
from nestor_engine.retraining.truth import unmoved as unmoved
