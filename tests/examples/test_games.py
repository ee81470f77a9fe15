"""The slides' question about games, answered through the service."""

from __future__ import annotations

import pytest

from tests.examples.conftest import Experiment


def test_a_leader_that_sees_the_response_reaches_stackelbergs_equilibrium(experiment: Experiment):
    result = experiment("games")

    table = lambda start: {row["response"]: row for row in result["rows"] if row["table"].startswith(start)}
    duopoly, quadratic = table("Duopoly"), table("Quadratic")
    assert duopoly["IFT, exact"]["leader sells"] == pytest.approx(1 / 2, abs=1e-3)
    assert duopoly["IFT, exact"]["leader earns"] == pytest.approx(1 / 8, abs=1e-3)
    assert duopoly["none (simultaneous)"]["leader sells"] == pytest.approx(1 / 3, abs=1e-3)
    assert duopoly["none (simultaneous)"]["leader earns"] == pytest.approx(1 / 9, abs=1e-3)
    assert quadratic["IFT, exact"]["at the end"] < 0.01 * quadratic["IFT, exact"]["at the start"]
    assert quadratic["none (simultaneous)"]["at the end"] > 2 * quadratic["none (simultaneous)"]["at the start"]
    assert "IFT" in {row.get("discriminator's response") for row in result["rows"]}
