"""What the experiments of the slides must show, each run for real in its quick form."""

from __future__ import annotations

from pathlib import Path

from matplotlib.image import imread

from tests.examples.conftest import Experiment


def drawn(result: dict) -> None:
    """Every picture exists and is not uniform."""
    assert result["files"]
    for file in result["files"]:
        assert imread(Path(file)).std() > 0.01, file


def test_a_decay_for_every_weight_fits_training_and_validation_data_whole_and_test_data_not(experiment: Experiment):
    result = experiment("overfit")
    assert [row["network"] for row in result["rows"]] == ["linear", "MLP", "AlexNet", "ResNet-18"]
    for row in result["rows"]:
        # One of fifty examples may be missed: processors round differently, and the quick form ends early.
        assert min(row["training"], row["validation"]) >= 0.98, row
        assert row["test"] < 0.9, row
    drawn(result)


def test_more_of_the_inverse_is_nearer_to_the_exact_hypergradient(experiment: Experiment):
    result = experiment("inverse")
    cosine = {row["method"]: row["cosine, median"] for row in result["rows"]}
    assert cosine["identity"] < cosine["Neumann 5"] < cosine["CG 20"] < cosine["direct"]
    for row in result["rows"]:
        assert row["agrees with the service to"] < 1e-3, "the points that are compared must be the trial's own"
        assert row["failed"] is None
    drawn(result)


def test_kfac_is_the_nearest_inverse_of_softmax_regression(experiment: Experiment):
    result = experiment("hessian")
    distance = {row["inverse"]: row["relative distance"] for row in result["rows"]}
    assert min(distance, key=distance.__getitem__) == "KFAC"
    assert distance["identity"] > distance["Neumann, terms: 5"] > distance["Neumann, terms: 20"]
    drawn(result)


def test_ten_distilled_digits_teach_more_than_ten_real_ones_and_less_than_all(experiment: Experiment):
    result = experiment("distill")
    (row,) = result["rows"]
    accuracy = {name: values[0] for name, values in row["accuracies"].items()}
    assert accuracy["random examples"] + 0.2 < accuracy["distilled"] < accuracy["all data"]
    drawn(result)


def test_a_decay_for_every_weight_overfits_the_validation_data_unless_examples_take_turns(experiment: Experiment):
    result = experiment("partition")
    shares = {row["hyperparameters"]: row for row in result["rows"] if "validation share" in row}
    gap = lambda row: float(row["test loss"]) - float(row["validation loss"])
    assert gap(shares[12_730]) > gap(shares[1]) + 0.2
    remedies = {row["remedy"]: row for row in result["rows"] if "outer steps" in row}
    assert gap(remedies["folds"]) < gap(remedies["none"]) - 0.1
    assert float(remedies["early stopping"]["outer steps"]) < float(remedies["none"]["outer steps"])
    drawn(result)
