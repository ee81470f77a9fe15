"""Tuning inside one training run beats restarting training at equal compute, through the service."""

from __future__ import annotations

from tests.examples.conftest import Experiment


def test_dropout_and_decays_of_an_lstm_are_tuned_inside_one_training(experiment: Experiment):
    rows = experiment("language")["rows"]

    losses = {row["method"]: (row["validation"], row["test"]) for row in rows if "method" in row}
    for which in (0, 1):
        ours = float(losses["IFT (ours)"][which])
        assert ours < min(float(losses[name][which]) for name in ("random search", "TPE"))
    assert len([row for row in rows if "hyperparameter" in row]) == 9
