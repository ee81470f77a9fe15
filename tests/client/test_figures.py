"""Every figure shows what trials recorded, says so when there is nothing to show, and refuses what is no trial."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nestor
from nestor import Study, Trial, visualization
from nestor.errors import ArgumentInvalid, HparamNotFound, OptionInvalid
from nestor.hparams import L2, DistilledData
from tests.client.conftest import N_STEPS, Finished
from tests.client.problems import ridge

Plot = Callable[..., Any]


@pytest.fixture(scope="module")
def study() -> Study:
    """Two trials with different options, whose hyperparameters are gray images, and a decay for each weight."""
    torch.manual_seed(0)
    x0, y0 = torch.randn(12, 1, 4, 4), torch.arange(12) % 2
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    loss = lambda outputs, batch: F.cross_entropy(outputs, batch["y"])
    kinds = [DistilledData(x0), L2(net, per="weight")]
    problem = nestor.Problem(net, kinds, loss, loss, train=(x0, y0), val=(x0 + 1, y0))
    study = nestor.create_study()
    for inner in (nestor.SGD(0.1), nestor.Adam(0.001)):
        study.optimize(problem, 4, inner=inner, inner_steps=2, show_progress_bar=False)
    return study


@dataclass
class Drawn:
    data: list[dict[str, Any]]
    layout: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        return [note["text"] for note in self.layout.get("annotations", ())]


def pixels(trace: dict[str, Any]) -> np.ndarray:
    """The `z` of a trace; plotly encodes arrays."""
    z = trace["z"]
    shape = [int(size) for size in z["shape"].split(",")]
    return np.frombuffer(base64.b64decode(z["bdata"]), z["dtype"]).reshape(shape)


def drawn(figure: Any) -> Drawn:
    parts = figure.to_dict()
    return Drawn(parts["data"], parts["layout"])


def trial(study: Study) -> Trial:
    return study.trials[0]


# Figure → how it is drawn from the study, and its number of traces.
FIGURES: dict[str, tuple[Callable[[Study], Any], int]] = {
    "plot_optimization_history": (visualization.plot_optimization_history, 4),
    "plot_intermediate_values": (visualization.plot_intermediate_values, 2),
    "plot_parallel_coordinate": (visualization.plot_parallel_coordinate, 1),
    "plot_timeline": (visualization.plot_timeline, 1),
    "plot_trial": (lambda study: visualization.plot_trial(trial(study)), 4),
    "plot_diagnostics": (lambda study: visualization.plot_diagnostics(trial(study)), 4),
    "plot_hyperparameter_bands": (lambda study: visualization.plot_hyperparameter_bands(trial(study), "l2"), 7),
    "plot_hyperparameter_histograms": (
        lambda study: visualization.plot_hyperparameter_histograms(trial(study), "l2"),
        5,
    ),
    "plot_images": (lambda study: visualization.plot_images(trial(study), "distilled_data"), 12),
}


def test_the_table_has_every_figure():
    assert list(FIGURES) == [name for name in FIGURES if name in visualization.__all__]
    assert sorted(FIGURES) == sorted(visualization.__all__)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_a_title_and_valid_traces(name: str, study: Study):
    draw, n_traces = FIGURES[name]
    figure = draw(study)
    found = drawn(figure)
    assert found.layout["title"]["text"]
    assert len(found.data) == n_traces
    assert json.loads(figure.to_json())["data"]  # plotly can write it, so a browser can show it


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_of_what_is_no_trial_is_refused(name: str):
    arguments = (5, "l2") if name.startswith(("plot_hyper", "plot_images")) else (5,)
    with pytest.raises(ArgumentInvalid, match=rf"{name}: (study|trial) is 5. Pass a"):
        getattr(visualization, name)(*arguments)


@pytest.mark.parametrize(
    ("plot", "text"),
    [
        (visualization.plot_timeline, "No trial has begun."),
        (visualization.plot_parallel_coordinate, "No trial has a value."),
    ],
)
def test_a_figure_of_no_trials_says_so(plot: Plot, text: str):
    found = drawn(plot([]))
    assert not found.data
    assert found.texts == [text]


def test_the_title_of_a_history_names_the_examples_that_judge_the_trials(study: Study):
    stopping: dict[str, Any] = {"early_stopping": nestor.EarlyStopping(), "show_progress_bar": False}
    judged = nestor.create_study(metric="mae")
    held_out = judged.optimize(ridge(), 2, **stopping)
    cases = {
        "Loss on all validation examples": study,
        "Loss on held-out examples": [held_out],
        "Loss on all validation or held-out examples": [held_out, *study.trials],
        "Loss: no trial was evaluated yet": [],
        "Mae on held-out examples": judged,
    }
    for title, given in cases.items():
        assert drawn(visualization.plot_optimization_history(given)).layout["title"]["text"] == title


def test_intermediate_values_are_those_of_the_steps(finished: Finished):
    for metric in ("val_loss", "val_metrics.mae", "test_loss", "seconds.inner"):
        (curve,) = drawn(visualization.plot_intermediate_values(finished.study, metric)).data
        column = finished.trial.steps_dataframe()[metric].dropna()
        assert list(curve["x"]) == list(column.index)
        assert list(curve["y"]) == list(column)
    assert not drawn(visualization.plot_intermediate_values([])).data


@pytest.mark.parametrize("metric", ["accuracy", "val_metrics", "warnings"])
def test_a_metric_that_no_step_has_is_refused_with_those_there_are(metric: Any, study: Study):
    with pytest.raises(ArgumentInvalid, match=r"metric is .* Pass one of 'number', .*'val_loss'"):
        visualization.plot_intermediate_values(study, metric)


def test_parallel_coordinates_are_the_options_in_which_trials_differ(study: Study):
    (lines,) = drawn(visualization.plot_parallel_coordinate(study)).data
    axes = {axis["label"]: axis for axis in lines["dimensions"]}
    assert next(iter(axes)) == "best value"
    assert "inner_steps" not in axes
    assert np.allclose(10 ** np.array(axes["inner.lr"]["values"]), [0.1, 0.001])  # logarithmic: a factor of 100
    assert axes["inner.lr"]["ticktext"] == ["0.001", "0.01", "0.1"]
    optimizer = axes["inner.optimizer"]
    assert [optimizer["ticktext"][position] for position in optimizer["values"]] == ["sgd", "adam"]
    momentum = axes["inner.momentum"]  # Adam has none
    assert [momentum["ticktext"][position] for position in momentum["values"]] == ["0.0", "none"]
    alone = drawn(visualization.plot_parallel_coordinate(study.trials[0]))
    assert alone.texts == ["The trials do not differ in their options."]


def test_histograms_count_every_value_of_evenly_spaced_steps(finished: Finished):
    figure = drawn(visualization.plot_hyperparameter_histograms(finished.trial, "l2", rows=4))
    assert list(figure.layout["yaxis"]["ticktext"]) == ["0", "4", "8", str(N_STEPS)]
    assert [trace["name"] for trace in figure.data] == ["step 12", "step 8", "step 4", "step 0"]
    assert [sum(trace["customdata"]) for trace in figure.data] == [5] * 4
    first = figure.data[-1]
    (middle,) = (x for x, count in zip(first["x"], first["customdata"], strict=True) if count)
    assert middle == pytest.approx(-2.0, abs=0.2)  # where all values begin
    alone = visualization.plot_hyperparameter_histograms(finished.trial, "l2", rows=1)
    assert [trace["name"] for trace in drawn(alone).data] == [f"step {N_STEPS}"]


def test_images_are_the_pixels(study: Study):
    tuned = trial(study).hparams.numpy()["distilled_data"]
    figure = drawn(visualization.plot_images(trial(study), "distilled_data", limit=3))
    assert all(np.allclose(pixels(image), tuned[index, 0]) for index, image in enumerate(figure.data))
    assert "3 of 12 images" in figure.layout["title"]["text"]
    assert figure.texts == ["0", "1", "2"]
    before = drawn(visualization.plot_images(trial(study), "distilled_data", step=0, limit=1))
    assert np.allclose(pixels(before.data[0]), trial(study).hparams_at(0).numpy()["distilled_data"][0, 0])
    matrix = drawn(visualization.plot_images(trial(study), "l2.1.weight"))
    assert pixels(matrix.data[0]).shape == (2, 16)


@pytest.mark.parametrize(
    ("shape", "images", "kind"),
    [
        ((4, 5), 1, "heatmap"),
        ((1, 4, 5), 1, "heatmap"),
        ((3, 4, 5), 1, "image"),
        ((7, 4, 5), 7, "heatmap"),
        ((2, 1, 4, 5), 2, "heatmap"),
        ((2, 3, 4, 5), 2, "image"),
        ((2, 4, 4, 5), None, None),
        ((5,), None, None),
        ((), None, None),
        ((0, 1, 4, 5), None, None),
    ],
)
def test_shapes_of_images(shape: tuple[int, ...], images: int | None, kind: str | None, monkeypatch, study: Study):
    values = {"pixels": np.arange(np.prod(shape), dtype="float32").reshape(shape)}
    one = trial(study)
    monkeypatch.setattr("nestor.results.values.Values.numpy", lambda self: values)
    if images is None:
        with pytest.raises(
            ArgumentInvalid, match=r"plot_images: name is 'pixels' of shape .* Pass the name of one hyper"
        ):
            visualization.plot_images(one, "pixels")
        return
    figure = drawn(visualization.plot_images(one, "pixels"))
    assert [trace["type"] for trace in figure.data] == [kind] * images
    if kind == "image":
        assert pixels(figure.data[0]).shape == (4, 5, 3)
        assert (pixels(figure.data[0]).min(), pixels(figure.data[-1]).max()) == (0, 255)


def test_wrong_arguments_of_figures_are_named(study: Study):
    one = trial(study)
    for name, plot in {
        "limit": visualization.plot_images,
        "rows": visualization.plot_hyperparameter_histograms,
        "bins": visualization.plot_hyperparameter_histograms,
    }.items():
        for given in (0, -1, 1.5, True, "3"):
            with pytest.raises(OptionInvalid, match=f"{name}=.*: it must be a whole number, at least 1"):
                plot(one, "l2", **{name: given})
    for given in (3, None, []):
        with pytest.raises(ArgumentInvalid, match=r"metric is .* Pass a column of"):
            visualization.plot_intermediate_values(study, cast(Any, given))
    for plot in (visualization.plot_images, visualization.plot_hyperparameter_histograms):
        with pytest.raises(HparamNotFound):
            plot(one, "none")
    with pytest.raises(ArgumentInvalid, match=r"'l2.1.weight' of shape \(2, 16\), 'l2.1.bias'"):
        visualization.plot_images(one, "l2")


def test_the_timeline_has_a_bar_per_trial_that_began(finished: Finished):
    record = finished.trial.record
    assert record.started_at is not None
    assert record.finished_at is not None
    (bar,) = drawn(visualization.plot_timeline(finished.trial)).data
    assert list(bar["y"]) == [record.number]
    assert bar["name"] == "complete"
    assert list(bar["x"]) == [(record.finished_at - record.started_at).total_seconds() * 1000]


def test_diagnostics_are_those_of_the_steps(finished: Finished):
    norm, cosine, *_ = drawn(visualization.plot_diagnostics(finished.trial)).data
    assert list(norm["y"]) == [step.hypergradient_norm for step in finished.trial.steps]
    assert list(cosine["x"]) == list(range(2, N_STEPS + 1))
