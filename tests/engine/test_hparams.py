"""Every kind of hyperparameters changes training as documented, and its hypergradient is dF/dλ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor import errors
from nestor.errors import NestorError, ProblemInvalid
from nestor_engine.curvature import Curvature
from nestor_engine.hparams import (
    L1,
    L2,
    TRANSFORMS,
    Augmentation,
    ClassWeights,
    DistilledData,
    Dropout,
    ExampleWeights,
    GroupWeights,
    Hyperparameters,
    InitializationScale,
    LabelCorrection,
    LabelSmoothing,
    LossReweighting,
    LossWeights,
    Submodule,
    UNet,
)
from nestor_engine.objective import Batch, Tensors
from nestor_engine.responses import OuterStepContext
from nestor_engine.tensors.random import randomness
from tests.engine.cases import SEED, Dense, cross_entropy, whole
from tests.engine.device import DEVICE

F64 = torch.float64
N, CLASSES = 14, 3
Y = torch.arange(N) % CLASSES
SOURCE = (torch.arange(N) > 9).long()  # two sources of data, of ten and four examples


class Blur(nn.Module):
    """(x, ε) → x + a linear map of both: an augmentation for rows of features."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + 0.3 * self.linear(torch.cat([x, noise], 1))


class Tempered(Hyperparameters):
    """A buffer of the model as a hyperparameter."""

    def __init__(self) -> None:
        self.init = {"temperature": torch.tensor(0.3, dtype=F64)}
        self.transforms = {"temperature": "exp"}

    def tensors(self, values: Tensors) -> Tensors:
        return {"0.temperature": values["temperature"]}


class Warm(nn.Module):
    temperature: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.ones((), dtype=F64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.temperature


def problem(kinds: Callable[[nn.Module, Tensor], list[Hyperparameters]], *layers: nn.Module) -> engine.Problem:
    """Softmax regression with a fixed decay that makes its minimum unique, and the kinds under test."""
    torch.manual_seed(SEED)
    x, xv = torch.randn(N, 5, dtype=F64), torch.randn(6, 5, dtype=F64)
    model = nn.Sequential(*layers, nn.Linear(5, CLASSES)).double()
    hparams = [*kinds(model, x), L2(model, per="global", init=-1.0, name="fixed")]
    for kind in hparams:
        kind.init = {name: value.double() for name, value in kind.init.items()}
    train, val = {"x": x, "y": Y, "source": SOURCE}, {"x": xv, "y": torch.arange(6) % CLASSES}
    loss = two_tasks if any(kind.tasks for kind in hparams) else cross_entropy
    return engine.Problem(model, hparams, loss, cross_entropy, train=train, val=val)


def two_tasks(outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
    return {"labels": cross_entropy(outputs, batch), "size": outputs.square().mean(1)}


def _mlp(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 4), nn.GELU(), nn.Linear(4, 1)).double()


KINDS: dict[str, Callable[[], engine.Problem]] = {
    "l1": lambda: problem(lambda model, x: [L1(model, init=-2.0, epsilon=0.5)]),
    "l2 for each input": lambda: problem(lambda model, x: [L2(model, per="input", init=-2.0)]),
    "l2 for each output": lambda: problem(lambda model, x: [L2(model, per="output", init=-2.0)]),
    "l2 for each filter": lambda: problem(
        lambda model, x: [L2(model, per="channel", init=-2.0)],
        nn.Unflatten(1, (1, 5)),
        nn.Conv1d(1, 1, 1),
        nn.Flatten(),
    ),
    "l2 of two parts": lambda: problem(
        lambda model, x: [
            L2(model, only="0.weight", per="tensor", init=-2.0),
            L1(model, only="0.bias", init=-2.0, epsilon=0.5),
        ]
    ),
    "group_weights by softmax": lambda: problem(lambda model, x: [GroupWeights("source", 2)]),
    "group_weights by sigmoid": lambda: problem(lambda model, x: [GroupWeights("source", 2, normalize="sigmoid")]),
    "class_weights": lambda: problem(lambda model, x: [ClassWeights(CLASSES, init=[1.0, 2.0, 0.5])]),
    "label_smoothing": lambda: problem(lambda model, x: [LabelSmoothing(CLASSES, dtype=F64)]),
    "label_smoothing for each class": lambda: problem(
        lambda model, x: [LabelSmoothing(CLASSES, per="class", dtype=F64), ClassWeights(CLASSES)]
    ),
    "loss_weights": lambda: problem(lambda model, x: [LossWeights(["labels", "size"])]),
    "label_correction": lambda: problem(lambda model, x: [LabelCorrection(Y, CLASSES, dtype=F64)]),
    "distilled_data": lambda: problem(lambda model, x: [DistilledData(x)]),
    "distilled_data with labels": lambda: problem(
        lambda model, x: [DistilledData(x), LabelCorrection(Y, CLASSES, strength=1.0, dtype=F64)]
    ),
    "augmentation": lambda: problem(lambda model, x: [Augmentation(Blur().double())]),
    "loss_reweighting": lambda: problem(lambda model, x: [LossReweighting(_mlp(5))]),
    "dropout": lambda: problem(lambda model, x: [Dropout(model, temperature=0.5)], nn.Dropout(0.3), nn.Dropout(0.2)),
    "submodule": lambda: problem(lambda model, x: [Submodule(model, "0")], nn.Linear(5, 5).requires_grad_(False)),
    "temperature": lambda: problem(lambda model, x: [Tempered()], Warm()),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_hypergradient_is_the_slope_of_the_objective_after_training_again(name: str):
    dense = Dense.of(KINDS[name]())
    dense.w = dense.minimizer(dense.bilevel.hparams)

    got = _implicit(dense, engine.Hessian(), engine.Direct())

    assert all(gradient.any() for gradient in got.values())
    direction = {hparam: torch.randn_like(gradient) for hparam, gradient in got.items()}
    along = sum(float((gradient * direction[hparam]).sum()) for hparam, gradient in got.items())
    assert along == pytest.approx(dense.retrained_slope(direction), rel=1e-5)


@pytest.mark.parametrize("name", [name for name in KINDS if "_weights" in name or "smoothing" in name or "l2 " in name])
@pytest.mark.parametrize("curvature", [engine.Hessian(), engine.GaussNewton(0.0)], ids=repr)
def test_away_from_the_minimum_the_hypergradient_is_that_of_a_dense_matrix(name: str, curvature: Curvature):
    dense = Dense.of(KINDS[name]())
    matrix = dense.hessian() if isinstance(curvature, engine.Hessian) else dense.gauss_newton()
    expected = dense.hypergradient(torch.linalg.inv(matrix))

    got = _implicit(dense, curvature, engine.Direct())

    for hparam in expected:
        torch.testing.assert_close(got[hparam], expected[hparam])


def test_a_reweighting_by_losses_has_the_hypergradient_of_weights_that_do_not_follow():
    dense = Dense.of(problem(lambda model, x: [LossReweighting(_mlp(1), reads="loss", positive="softplus")]))
    expected = dense.hypergradient(torch.linalg.inv(dense.hessian()))

    got = _implicit(dense, engine.Hessian(), engine.Direct())

    assert got["loss_reweighting.0.weight"].any()
    for hparam in expected:
        torch.testing.assert_close(got[hparam], expected[hparam])


def _implicit(dense: Dense, curvature: Curvature, solver: engine.Direct) -> Tensors:
    context = OuterStepContext.at(dense.bilevel, dense.w, dense.train, dense.val)
    with randomness(SEED, DEVICE):
        return engine.Implicit(curvature, solver).hypergradient_at(context).gradient


def test_all_kinds_compose_and_a_trajectory_resumes_bitwise():
    torch.manual_seed(SEED)
    x = torch.randn(N, 1, 5, 5)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Linear(36, CLASSES))
    kinds = [
        *(L2(model, per="tensor"), L1(model, per="global"), DistilledData(x), Augmentation(UNet(1, width=4, depth=1))),
        *(LabelCorrection(Y, CLASSES), ExampleWeights(N), Dropout(model), InitializationScale(model)),
        *(LabelSmoothing(CLASSES), ClassWeights(CLASSES), L2(model, only="0", per="channel")),
        *(LossReweighting(nn.Linear(1, 1), reads="loss"), {"unread": torch.zeros(())}),
    ]
    stated = engine.Problem(model, kinds, cross_entropy, cross_entropy, train=(x, Y), val=(x, Y))
    config = engine.Config(n_steps=2, inner=engine.Adam(1e-2), inner_steps=1, batch_size=7, outer=engine.Adam(0.01))
    steps = list(engine.optimize(stated.bilevel(), stated.data, config))
    first = engine.State.load(steps[0].state.save())

    *_, resumed = engine.optimize(stated.bilevel(), stated.data, config, first)

    assert resumed.state.save() == steps[-1].state.save()
    still = {n for n, value in stated.bilevel().hparams.items() if torch.equal(value, steps[-1].state.hparams[n])}
    assert still == {"initialization_scale", "unread"}


# --- L1 and L2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["global", "tensor", "weight"])
def test_decays_of_every_granularity_add_the_same_penalty_when_equal(per):
    model = nn.Linear(3, 2).double()
    w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    params = dict(model.named_parameters())
    for kind, expected in (
        (L2(model, per=per, init=-1.0), 0.5 * (w**2).sum()),
        (L1(model, per=per, init=-1.0, epsilon=1e-8), w.abs().sum()),
    ):
        values = {name: value.exp() for name, value in kind.init.items()}
        penalty = kind.penalty(params, values).detach()
        torch.testing.assert_close(penalty, expected.detach() * torch.tensor(-1.0, dtype=F64).exp(), rtol=1e-6, atol=0)


def test_hyperparameters_of_weights_take_the_dtype_of_the_model():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 2)).double()
    for kind in (L1(model), L2(model, per="global"), Dropout(model), InitializationScale(model)):
        assert {value.dtype for value in kind.init.values()} == {F64}


# --- labels and data ----------------------------------------------------------------------------------


def test_a_label_starts_at_its_strength_and_follows_the_example_s_index():
    kind = LabelCorrection(Y, CLASSES, strength=2.0, dtype=F64)
    index = torch.tensor([4, 0])
    labels = kind.prepare(kind.init, {"y": Y[index], "index": index})["y"]
    given = 1 / (1 + (CLASSES - 1) * torch.tensor(-2.0, dtype=F64).exp())
    torch.testing.assert_close(labels[[0, 1], Y[index]], given.expand(2))
    torch.testing.assert_close(labels.sum(1), torch.ones(2, dtype=F64))


@pytest.mark.parametrize("kind", ["noise", "examples", "means"])
def test_a_distilled_set_starts_balanced_and_is_a_function_of_its_seed(kind):
    generator = torch.Generator(DEVICE).manual_seed(0)
    y = torch.arange(30) % 3
    x = torch.randn(30, 2, 2, generator=generator) + 10.0 * y.view(-1, 1, 1)
    x0, y0 = DistilledData.start(x, y, per_class=2, kind=kind, seed=1)
    again, _ = DistilledData.start(x, y, per_class=2, kind=kind, seed=1)
    assert y0.tolist() == [0, 0, 1, 1, 2, 2]
    assert x0.shape == (6, 2, 2)
    assert torch.equal(x0, again)
    if kind == "examples":
        assert all(any(torch.equal(row, other) for other in x[y == label]) for row, label in zip(x0, y0, strict=True))
    if kind == "means":
        torch.testing.assert_close(x0[:2].mean(0), x[y == 0].mean(0))


@pytest.mark.cpu
def test_one_distilled_image_for_each_class_trains_a_classifier():
    """A small form of the slides' experiment: one example per class represents the validation data."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    y = torch.arange(150) % 3
    x = torch.randn(150, 6, generator=generator) + 3 * F.one_hot(y, 6)
    torch.manual_seed(SEED)
    model = nn.Linear(6, 3)
    train = DistilledData.start(x, y)
    mean = lambda outputs, batch: F.cross_entropy(outputs, batch["y"])
    accuracy = lambda outputs, batch: (outputs.argmax(1) == batch["y"]).float()
    kinds = [DistilledData(train[0]), L2(model, per="global", init=-4.0)]
    stated = engine.Problem(model, kinds, mean, mean, train=train, val=(x, y), metrics={"accuracy": accuracy})
    config = engine.Config(n_steps=60, inner=engine.SGD(0.3), inner_steps=3, outer=engine.Adam(0.1))
    bilevel = stated.bilevel()

    def refitted(hparams: Tensors) -> float:
        fitted = engine.fit(bilevel, train=stated.data.train, n_steps=75, inner=engine.SGD(0.3), hparams=hparams)
        return engine.evaluate(bilevel, fitted.params, fitted.buffers, hparams, stated.data.val)["accuracy"]

    *_, last = engine.optimize(bilevel, stated.data, config)

    assert refitted(bilevel.hparams) < 0.6
    assert refitted(last.state.hparams) > 0.9


# --- networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 3)])
def test_a_unet_starts_as_the_identity_for_images_of_any_size(height: int, width: int):
    image = torch.randn(2, 3, height, width)
    assert torch.equal(UNet(3, noise=2)(image, torch.randn(2, 2, height, width)), image)


def test_an_augmentation_draws_afresh_and_leaves_its_network_alone():
    network = Blur().double()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    kind = Augmentation(network)
    batch = {"x": torch.zeros(4, 5, dtype=F64), "index": torch.arange(4)}
    first, second = (kind.prepare(kind.init, batch)["x"] for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_network_in_evaluation_mode_may_hold_batch_norm():
    network = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    batch = whole({"x": torch.randn(6, 5, dtype=F64)})
    losses = torch.ones(6, dtype=F64)
    kind = LossReweighting(network)
    with pytest.raises(ProblemInvalid, match=r"writes into its buffer '1\..*evaluation mode"):
        kind.weigh(losses, kind.init, batch)
    kind = LossReweighting(network.eval())
    assert kind.weigh(losses, kind.init, batch).shape == (6,)


# --- the start ----------------------------------------------------------------------------------------


def test_a_refit_starts_from_the_scaled_weights():
    stated = problem(lambda model, x: [InitializationScale(model)])
    bilevel = stated.bilevel()
    hparams = bilevel.hparams | {"initialization_scale": torch.tensor([1.0, 0.0], dtype=F64)}
    fitted = engine.fit(bilevel, stated.data.train, n_steps=1, inner=engine.SGD(1e-12), hparams=hparams)
    expected = torch.e * bilevel.params["0.weight"]
    torch.testing.assert_close(fitted.params["0.weight"], expected)
    torch.testing.assert_close(fitted.params["0.bias"], bilevel.params["0.bias"])


def test_the_implicit_hypergradient_of_the_start_is_exactly_zero():
    dense = Dense.of(problem(lambda model, x: [InitializationScale(model, per="global")]))
    assert _implicit(dense, engine.Hessian(), engine.Direct())["initialization_scale"] == 0


# --- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message", "kind"),
    [
        (lambda: L1(nn.Linear(2, 2), epsilon=0.0), "kink at zero", errors.OptionOutOfRange),
        (lambda: L2(nn.Identity()), "no parameter that requires a gradient", errors.ModelHasNoParameters),
        (lambda: InitializationScale(nn.Linear(2, 2), per="weight"), "choose one of", errors.ChoiceUnknown),  # pyright: ignore[reportArgumentType]: refused
        (lambda: LabelCorrection(torch.tensor([0, 3]), 3), "the labels run from 0 to 3", errors.LabelsOutOfRange),
        (lambda: LabelCorrection(torch.rand(4, 3), 3), r"pass labels.argmax\(1\)", errors.ColumnUnusable),
        (lambda: DistilledData(torch.arange(4)), "tokens have none", errors.ColumnUnusable),
        (
            lambda: DistilledData.start(torch.rand(3, 2), torch.tensor([0, 0, 1]), per_class=2, kind="means"),
            "examples of class 1, and there are 1",
            errors.TooFewExamples,
        ),
        (
            lambda: DistilledData.start(torch.rand(3, 2), torch.arange(3), kind="zeros"),  # pyright: ignore[reportArgumentType]: refused
            "choose one of 'noise'",
            errors.ChoiceUnknown,
        ),
        (lambda: Augmentation(), "Pass one of them", errors.AugmentationAmbiguous),
        (lambda: Augmentation(nn.Identity()), "no parameters to tune", errors.NothingToTune),
        (
            lambda: LossReweighting(nn.Linear(1, 1), positive="identity"),  # pyright: ignore[reportArgumentType]: refused
            "choose one of 'sigmoid'",
            errors.ChoiceUnknown,
        ),
        (lambda: Dropout(nn.Linear(2, 2)), "found no nn.Dropout", errors.DropoutNotFound),
        (
            lambda: Dropout(nn.Sequential(nn.Dropout(0.0), nn.Linear(2, 2))),
            "strictly between 0 and 1",
            errors.DropoutRateOutOfRange,
        ),
        (lambda: Dropout(nn.Dropout(0.1), temperature=0.0), "must be positive", errors.OptionOutOfRange),
        (lambda: Dropout(nn.Dropout(0.1), per="weight"), "choose one of 'layer', 'global'", errors.ChoiceUnknown),  # pyright: ignore[reportArgumentType]: refused
        (
            lambda: Submodule(nn.Sequential(nn.Linear(2, 2)), "1"),
            "no part '1'; its parts are '0'",
            errors.SubmoduleNotFound,
        ),
        (lambda: Submodule(nn.Sequential(nn.ReLU()), "0"), "no parameters to tune", errors.NothingToTune),
        (
            lambda: Submodule(nn.Sequential(nn.Linear(2, 2)), "0"),
            r"model\.0\.requires_grad_\(False\)",
            errors.SubmoduleNotFrozen,
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(make: Callable[[], object], message: str, kind: type[NestorError]):
    with pytest.raises(kind, match=message):
        make()


def test_a_part_that_is_tuned_may_not_be_trained_as_well():
    model = nn.Sequential(nn.Linear(5, 5).requires_grad_(False), nn.Linear(5, CLASSES))
    other = nn.Sequential(nn.Linear(5, CLASSES))
    kind, data = Submodule(model, "0"), (torch.randn(N, 5), Y)
    model[0].requires_grad_(True)
    for given, message in ((model, "would train it, too"), (other, "made for another model")):
        with pytest.raises(ProblemInvalid, match=message):
            engine.Problem(given, kind, cross_entropy, cross_entropy, train=data, val=data).bilevel()


def test_two_kinds_may_not_supply_the_same_tensor():
    model = nn.Sequential(nn.Dropout(0.1), nn.Linear(5, CLASSES))
    data = torch.randn(N, 5), Y
    twice = engine.Problem(
        model, [Dropout(model), Dropout(model, name="again")], cross_entropy, cross_entropy, train=data, val=data
    )
    with pytest.raises(ProblemInvalid, match=r"supply the model's tensor '0\.rate'"):
        twice.bilevel()


def test_a_kind_may_supply_what_is_not_trained_only():
    with pytest.raises(ProblemInvalid, match="neither a buffer nor a frozen parameter of the model"):
        problem(lambda model, x: [Tempered()], nn.Identity()).bilevel()


def test_transforms_are_applied_once_for_each_evaluation():
    """There may be as many hyperparameters as weights, and many evaluations in an outer step."""
    posed = problem(lambda model, x: [L2(model), ExampleWeights(len(x))])
    bilevel, calls = posed.bilevel(), []

    def values(hparams: Tensors) -> Tensors:
        calls.append(hparams)
        return bilevel.values(hparams)

    counted = replace(bilevel, values=values)
    sgd = engine.SGD(0.1)
    config = engine.Config(n_steps=2, inner=sgd, inner_steps=5, outer=sgd, warmup_steps=3)
    steps = engine.optimize(counted, posed.data, config)
    next(steps)
    # For the initial weights, the warm-up, five inner steps, the validation loss and all products at one point.
    assert len(calls) == 5
    next(steps)
    assert len(calls) == 5 + 3 + 1  # the last step is evaluated on all validation examples
    for hparam, transform in posed.hparams.transforms.items():
        assert torch.equal(bilevel.values(bilevel.hparams)[hparam], TRANSFORMS[transform](bilevel.hparams[hparam]))
