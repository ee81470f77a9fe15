"""Learned example weights see through label noise, through the service."""

from __future__ import annotations

from tests.examples.conftest import Experiment


def test_learned_weights_tell_wrong_labels_and_beat_training_on_them(experiment: Experiment):
    rows = experiment("clean")["rows"]

    share = lambda name: next(float(r["70% noise"].split()[0]) for r in rows if r.get("training on") == name)
    (auroc,) = (float(row["70% noise"]) for row in rows if row["table"].startswith("How well"))
    assert auroc > 0.7
    assert share("both together, learned weights (ours)") > share("training data, no weights") + 5
    assert share("oracle: the examples with right labels") > share("training data, no weights") + 5
