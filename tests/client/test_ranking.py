"""Which number compares steps and trials, as pure functions."""

from __future__ import annotations

import pytest

from nestor.errors import LossMaximized, MetricUnknown, RankingDiffers
from nestor.ranking import Ranking
from nestor.schemas import Direction, StudyPatch


@pytest.mark.parametrize(("direction", "sign"), [("minimize", 1), ("maximize", -1)])
def test_only_a_value_that_is_finite_and_lower_or_higher_is_better(direction: Direction, sign: int):
    is_better = Ranking("f1", direction).is_better
    assert is_better(1.0 * sign, None)
    assert is_better(0.5 * sign, 1.0 * sign)
    assert not is_better(1.0 * sign, 1.0 * sign)
    assert not is_better(2.0 * sign, 1.0 * sign)
    for value in (None, float("nan"), float("inf"), float("-inf")):
        assert not is_better(value, 1.0)
        assert not is_better(value, None)


def test_the_best_is_the_first_of_equals_and_none_without_values():
    ranking = Ranking("f1", "maximize")
    pairs = [("a", None), ("b", 0.5), ("c", 0.7), ("d", 0.7)]
    assert ranking.best(pairs, lambda pair: pair[1]) == ("c", 0.7)
    assert ranking.best(pairs[:1], lambda pair: pair[1]) is None


def test_a_ranking_refuses_problems_without_its_metric_and_requests_for_another():
    ranking = Ranking("f1", "maximize")
    with pytest.raises(MetricUnknown, match="by the metric 'f1', and the metrics of the problem are: 'mae'"):
        ranking.expect(["mae"])
    Ranking().expect([])
    ranking.expect_same("digits", None, None)
    ranking.expect_same("digits", "f1", "maximize")
    with pytest.raises(RankingDiffers, match=r"ranks its trials by f1 \(maximize\), and this asks for f1 \(minimize\)"):
        ranking.expect_same("digits", None, "minimize")


NAMED: list[tuple[dict[str, str | None], Ranking]] = [
    ({}, Ranking("f1", "maximize")),
    ({"metric": "auc"}, Ranking("auc", "maximize")),
    ({"direction": "minimize"}, Ranking("f1")),
    ({"direction": None}, Ranking("f1")),
    ({"metric": None, "direction": None}, Ranking()),
]


@pytest.mark.parametrize(("patch", "after"), NAMED, ids=str)
def test_a_patch_changes_what_it_names_of_a_ranking_until_there_are_trials(patch, after):
    ranking, change = Ranking("f1", "maximize"), StudyPatch(**patch)
    assert ranking.changed(change, study="digits", has_trials=False) == after
    if after == ranking:
        assert ranking.changed(change, study="digits", has_trials=True) == ranking
    else:
        with pytest.raises(RankingDiffers, match=r"'digits' ranks its trials by f1 \(maximize\)"):
            ranking.changed(change, study="digits", has_trials=True)
    with pytest.raises(LossMaximized):
        ranking.changed(StudyPatch(metric=None), study="digits", has_trials=False)
