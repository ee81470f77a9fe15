"""Decays of parts and features, the names of several kinds, and initial values that look transformed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import nestor_engine as engine
from nestor import errors
from nestor.errors import NestorError
from nestor_engine.hparams import (
    L1,
    L2,
    Augmentation,
    Custom,
    Dropout,
    ExampleWeights,
    GroupWeights,
    Hyperparameters,
    InitializationScale,
    LabelCorrection,
    LabelSmoothing,
    LossReweighting,
    compose,
)
from nestor_engine.problem.validation.checks import check
from tests.engine.cases import cross_entropy

X, Y = torch.randn(12, 5), torch.arange(12) % 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 4), nn.GELU())
        self.head = nn.Linear(4, 3)
        self.header = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.header(self.head(self.body(x))) * self.scale


def shapes(hparams: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in compose(hparams).init.items()}


def penalty(kinds: Any, model: nn.Module) -> Tensor:
    composed = compose(kinds)
    found = composed.penalty(dict(model.named_parameters()), composed.values(composed.init))
    assert found is not None
    return found.detach()


# --- parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only", "parameters"),
    [
        ("head.", {"head.weight", "head.bias"}),
        ("head", {"head.weight", "head.bias"}),
        ("body.0.weight", {"body.0.weight"}),
        (["body.", "scale"], {"body.0.weight", "body.0.bias", "scale"}),
    ],
)
@pytest.mark.parametrize("kind", [L1, L2])
def test_a_part_is_what_begins_with_whole_parts_of_a_name(kind: Any, only: Any, parameters: set[str]):
    model = Net()
    name = kind.__name__.lower()
    assert set(shapes(kind(model, only=only))) == {f"{name}.{parameter}" for parameter in parameters}


@pytest.mark.parametrize("per", ["global", "tensor", "input", "output", "channel", "weight"])
def test_decays_of_all_parts_add_up_to_the_decay_of_the_model(per: Any):
    model, parts = Net(), ["body.", "head.", "header.", "scale"]
    for kind in (L1, L2):
        whole = penalty(kind(model, per=per, init=-1.0), model)
        torch.testing.assert_close(
            penalty([kind(model, only=part, per=per, init=-1.0) for part in parts], model), whole
        )


def test_a_part_of_the_initial_weights_is_scaled():
    model = Net()
    kind = InitializationScale(model, only="head", init=math.log(2.0))
    params = {name: p.detach() for name, p in model.named_parameters()}
    scaled = kind.initial(params, {name: value.exp() for name, value in kind.init.items()})
    for name, value in params.items():
        torch.testing.assert_close(scaled[name], 2 * value if name.startswith("head.") else value)


# --- features ---------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[nn.Module, dict[str, tuple[int, ...]], int, int]] = {
    # module, shapes of its weights, dimension of the inputs, dimension of the outputs
    "linear": (nn.Linear(3, 2), {"weight": (2, 3)}, 1, 0),
    "convolution": (nn.Conv2d(3, 4, 2), {"weight": (4, 3, 2, 2)}, 1, 0),
    "grouped convolution": (nn.Conv1d(4, 6, 3, groups=2), {"weight": (6, 2, 3)}, 1, 0),
    "transposed convolution": (nn.ConvTranspose2d(3, 4, 2), {"weight": (3, 4, 2, 2)}, 0, 1),
    "embedding": (nn.Embedding(7, 3), {"weight": (7, 3)}, 0, 1),
    "bag of embeddings": (nn.EmbeddingBag(7, 3), {"weight": (7, 3)}, 0, 1),
    "recurrent": (nn.GRU(3, 2), {"weight_ih_l0": (6, 3), "weight_hh_l0": (6, 2)}, 1, 0),
    "norm": (nn.GroupNorm(2, 4), {}, 1, 0),
    "parametrized": (
        parametrizations.orthogonal(nn.Linear(3, 3)),
        {"parametrizations.weight.original": (3, 3)},
        1,
        0,
    ),
    "parametrized embedding": (
        parametrizations.weight_norm(nn.Embedding(7, 3)),
        {"parametrizations.weight.original0": (7, 1), "parametrizations.weight.original1": (7, 3)},
        0,
        1,
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_feature_has_a_decay_and_biases_and_norms_have_one(name: str):
    module, weights, inputs, outputs = LAYERS[name]
    assert {n: tuple(p.shape) for n, p in module.named_parameters() if p.ndim > 1} == weights
    per = {"input": inputs, "output": outputs}
    for granularity, dim in per.items():
        found = shapes(L2(module, per=granularity))  # pyright: ignore[reportArgumentType]: one of its words
        for parameter, p in module.named_parameters():
            expected = () if p.ndim < 2 else (p.shape[dim],)
            assert found[f"l2.{parameter}"] == expected
    for parameter, p in module.named_parameters():
        filters = (p.shape[outputs],) if p.ndim > 2 else ()
        assert shapes(L2(module, per="channel"))[f"l2.{parameter}"] == filters


@pytest.mark.parametrize("name", LAYERS)
def test_the_decay_of_a_feature_reaches_its_own_weights(name: str):
    module, weights, inputs, outputs = LAYERS[name]
    for per, dim in (("input", inputs), ("output", outputs)):
        kind = L2(module, per=per)  # pyright: ignore[reportArgumentType]: one of its words
        for parameter, shape in weights.items():
            for feature in range(shape[dim]):
                values = {n: torch.zeros_like(v) for n, v in kind.init.items()}
                values[f"l2.{parameter}"][feature] = 1.0
                params = dict(module.named_parameters())
                expected = 0.5 * params[parameter].select(dim, feature).square().sum()
                torch.testing.assert_close(kind.penalty(params, values), expected)


def test_gpt2_s_layers_have_their_inputs_first():
    layers = pytest.importorskip("transformers.pytorch_utils")
    module = layers.Conv1D(2, 3)  # three inputs, two outputs
    assert module.weight.shape == (3, 2)
    assert shapes(L2(module, per="input")) == {"l2.weight": (3,), "l2.bias": ()}


def test_weights_without_modules_have_their_outputs_first():
    tree = {"w": torch.ones(4, 2), "b": torch.ones(4)}
    assert shapes(L2(tree, per="input")) == {"l2.w": (2,), "l2.b": ()}


# --- names ------------------------------------------------------------------------------------------


def test_several_kinds_of_one_model_need_no_names():
    model = Net()
    assert list(shapes([L2(model, only="body.", per="tensor"), L2(model, only="head.", per="weight")])) == [
        *("l2.body", "l2.head.weight", "l2.head.bias")
    ]
    twice = [L2(model, per="global"), L2(model, per="tensor"), L2(model, only="head", per="global")]
    assert list(shapes(twice)) == ["l2", "l2_2", "l2.head"]
    assert list(shapes([L2(model, only="head"), L2(model, only="head")]))[2:] == ["l2_2.head.weight", "l2_2.head.bias"]
    assert list(shapes([L2(model, per="global", only=["head", "body"]), L1(model, per="global")])) == [
        *("l2.head+body", "l1")
    ]
    assert list(shapes([ExampleWeights(4), {"temperature": 0.5}, ExampleWeights(4), GroupWeights("y", 3)])) == [
        *("example_weights", "temperature", "example_weights_2", "group_weights")
    ]
    networks = [LossReweighting(nn.Linear(5, 1)), LossReweighting(nn.Linear(1, 1), reads="loss")]
    assert list(shapes(networks))[2:] == ["loss_reweighting_2.weight", "loss_reweighting_2.bias"]


def test_a_numbered_kind_reads_its_own_values_and_keeps_its_bounds():
    model = Net()
    composed = compose([L2(model, per="global", init=-1.0), L2(model, per="global", init=-3.0).bounded(-4.0, -2.0)])
    assert composed.bounds == {"l2_2": (-4.0, -2.0)}
    squares = sum(float(p.detach().square().sum()) for p in model.parameters())
    found = float(penalty(composed, model))
    assert found == pytest.approx(0.5 * (math.exp(-1) + math.exp(-3)) * squares, rel=1e-5)


def test_two_decays_are_each_tuned():
    model = Net()
    kinds = [L2(model, per="global", init=-3.0), L2(model, per="tensor", init=-3.0), {"unread": torch.zeros(())}]
    posed = engine.Problem(model, kinds, cross_entropy, cross_entropy, train=(X, Y), val=(X[:6], Y[:6]))
    config = engine.Config(n_steps=2, inner=engine.SGD(0.1), inner_steps=1, outer=engine.SGD(0.1))
    *_, last = engine.optimize(posed.bilevel(), posed.data, config)
    changed = {name for name, value in posed.hparams.init.items() if not torch.equal(last.state.hparams[name], value)}
    assert changed == {"l2", "l2_2"}


def test_a_list_may_hold_dicts_and_compositions():
    model = Net()
    composed = compose([{"task": torch.zeros(2)}, compose([L2(model, per="global")]), L2(model, per="global")])
    assert [type(kind) for kind in composed.kinds] == [Custom, L2, L2]
    assert list(composed.init) == ["task", "l2", "l2_2"]


# --- initial values -----------------------------------------------------------------------------------

DROPPING = nn.Sequential(nn.Dropout(0.6), nn.Linear(5, 3))
SUSPICIOUS: dict[str, tuple[Callable[[], Hyperparameters], str]] = {
    "l2": (lambda: L2(Net(), init=1e-4), r"L2\(init=0.0001\) starts at exp\(0.0001\) = 1.0001.*logarithm, -9.21034"),
    "l2 of features": (lambda: L2(Net(), per="input", init=0.01), r"L2\(init=0.01\)"),
    "l2 of one": (lambda: L2(Net(), init=0), r"L2\(init=0\) starts with a decay of exp\(0\) = 1"),
    "l1": (lambda: L1(Net(), init=1e-3), r"L1\(init=0.001\)"),
    "scale": (lambda: InitializationScale(Net(), init=0.5), "its logarithm, -0.693147"),
    "weights": (lambda: ExampleWeights(12, init=0.9), r"sigmoid\(0.9\) = 0.710949.*its logit, 2.19722"),
    "positive": (lambda: ExampleWeights(12, init=0.1, transform="softplus"), "its inverse softplus, -2.25217"),
    "labels": (lambda: LabelCorrection(Y, 3, strength=0.9), "probability 0.9 was meant, pass 2.89037"),
    "custom": (lambda: Custom({"rate": torch.tensor(0.1)}, {"rate": "exp"}), "The hyperparameter 'rate' starts at"),
}


@pytest.mark.parametrize("name", SUSPICIOUS)
def test_an_initial_value_that_looks_transformed_is_remarked_on_once(name: str):
    make, sentence = SUSPICIOUS[name]
    (remark,) = compose(make()).remarks
    assert re.search(sentence, remark)


@pytest.mark.parametrize(
    "kind",
    [
        *(L2(Net()), L2(Net(), init=-0.5), L2(Net(), init=1.5), L1(Net()), InitializationScale(Net())),
        *(Dropout(DROPPING), LabelSmoothing(3, init=0.6), GroupWeights("y", 3, init=[1.2, 1.5, 2.0])),
        *(ExampleWeights(12), ExampleWeights(12, init=0.5, transform="identity"), Augmentation(channels=1)),
        *(LabelCorrection(Y, 3), Custom({"t": torch.tensor(0.1)}), Custom({"t": torch.zeros(())}, {"t": "exp"})),
    ],
    ids=repr,
)
def test_usual_initial_values_are_not_remarked_on(kind: Hyperparameters):
    assert compose(kind).remarks == ()


def test_check_reports_the_remark_as_a_warning():
    model = Net()
    posed = engine.Problem(model, L2(model, init=1e-4), cross_entropy, cross_entropy, train=(X, Y), val=(X, Y))
    (finding,) = check(posed, ship=False).findings
    assert finding.severity == "warning"
    assert "L2(init=0.0001)" in finding.sentence


# --- how they look ------------------------------------------------------------------------------------


def test_a_repr_names_options_and_tensors():
    model = Net()
    assert repr(L2(model, per="global", only="head")) == "L2(per='global', only=['head'], l2.head: ())"
    assert repr(ExampleWeights(4)) == "ExampleWeights(example_weights: (4,))"
    assert repr(L2(model)).endswith("…, 52 numbers in 7 tensors)")
    posed = engine.Problem(
        model, [L2(model, per="global"), {"t": X}], cross_entropy, cross_entropy, train=(X, Y), val=(X, Y)
    )
    assert repr(posed) == (
        "Problem(Net with 52 trained parameters, [L2(per='global', l2: ()), Custom(t: (12, 5))], "
        "sizes={'train': 12, 'val': 12}, columns={'x': (5,), 'y': ()})"
    )


# --- refusals -----------------------------------------------------------------------------------------


def pose(kinds: Any, model: nn.Module | None = None) -> engine.Problem:
    return engine.Problem(model or Net(), kinds, cross_entropy, cross_entropy, train=(X, Y), val=(X, Y))


def of_a_part(**options: Any) -> object:
    model = Net()
    return pose([L2(model.body, **options)], model).bilevel()


untyped: Any = L2
REFUSED: dict[str, tuple[Callable[[], object], type[NestorError], str]] = {
    "unknown part": (
        lambda: L2(Net(), only="hed."),
        errors.PartNotFound,
        r"L2\(only='hed'\).*the parts are 'scale', 'body', 'head', 'header'",
    ),
    "half of a name": (lambda: L1(Net(), only="hea"), errors.PartNotFound, r"L1\(only='hea'\)"),
    "no part": (lambda: L2(Net(), only=[]), errors.ArgumentInvalid, r"only is \[\]"),
    "an empty part": (lambda: L2(Net(), only=""), errors.ArgumentInvalid, "only is ''"),
    "a module": (lambda: untyped(Net(), only=[nn.Linear(1, 1)]), errors.ArgumentInvalid, "such as only='head.'"),
    "a number": (lambda: untyped(Net(), only=3), errors.ArgumentInvalid, "only is 3"),
    "a frozen part": (
        lambda: L2(_frozen(), only="head"),
        errors.ModelHasNoParameters,
        r"only=\['head'\].: this part of the model has no parameter",
    ),
    "made from a part": (of_a_part, errors.MadeForPart, r"part 'body'.*L2\(model, only='body'\)"),
    "made from a part of a part": (
        lambda: of_a_part(only="0.weight"),
        errors.MadeForPart,
        r"L2\(model, only='body.0.weight'\)",
    ),
    "made from another": (lambda: pose(L2(nn.Linear(9, 9))).bilevel(), errors.MadeForAnotherModel, "another model"),
    "parameters": (lambda: L2(Net().parameters()), errors.ArgumentInvalid, "Pass the model"),
    "unknown granularity": (lambda: untyped(Net(), per="layer"), errors.ChoiceUnknown, "'input', 'output', 'channel'"),
    "a scale of inputs": (
        lambda: InitializationScale(Net(), per="input"),  # pyright: ignore[reportArgumentType]: refused
        errors.ChoiceUnknown,
        "'global', 'tensor'",
    ),
    "a name twice": (
        lambda: pose([L2(Net(), per="global", name="a"), L1(Net(), per="global", name="a")]),
        errors.HparamsNameTaken,
        "named 'a'",
    ),
    "a name of a dict": (lambda: pose([L2(Net(), per="global"), {"l2": X}]), errors.HparamsNameTaken, "in the dict"),
    "a model as a kind": (lambda: pose([Net()]), errors.ArgumentInvalid, r"hparams\[0\] is Net"),
    "a class as a kind": (lambda: pose([L2]), errors.ArgumentInvalid, r"such as L2\(model\)"),
    "a tensor as a kind": (lambda: pose(X), errors.ArgumentInvalid, r"a tensor of shape \(12, 5\)"),
    "text as a kind": (lambda: pose("l2"), errors.ArgumentInvalid, "hparams is 'l2'"),
    "nothing": (lambda: pose(None), errors.ArgumentInvalid, "hparams is None"),
    "a kind in a dict": (lambda: pose({"decay": L2(Net())}), errors.ArgumentInvalid, "the tensor 'decay'"),
    "a number as a name": (lambda: pose([{1: X}]), errors.ArgumentInvalid, "a name is 1"),
    "a transform of nothing": (lambda: Custom({"a": X}, {"b": "exp"}), errors.ArgumentInvalid, "not among the tensors"),
}


def _frozen() -> nn.Module:
    model = Net()
    model.head.requires_grad_(False)
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_with_a_remedy(name: str):
    make, kind, sentence = REFUSED[name]
    with pytest.raises(kind, match=sentence):
        make()
