"""What a checkpoint names, which models it refuses, and checkpoints of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor.errors import CheckpointFormatUnknown, StateInvalid
from nestor_engine.hparams import L2
from nestor_engine.hparams.decay import Per
from nestor_engine.objective import Tensors
from nestor_engine.tensors.serialization import to_safetensors
from nestor_engine.training.state import FoldState


class UpDown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(4, 4)
        self.down = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


class DownUp(UpDown):
    """The same names and shapes in another order."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.down = nn.Linear(4, 4)
        self.up = nn.Linear(4, 4)


def normed(width: int = 4, *, affine: bool = True, running: bool = True) -> nn.Module:
    norm = nn.BatchNorm1d(width, affine=affine, track_running_stats=running)
    return nn.Sequential(nn.Linear(4, width), norm, nn.Linear(width, 4))


def problem(model: nn.Module, per: Per = "tensor", features: int = 4) -> engine.Problem:
    torch.manual_seed(1)
    x, y = torch.randn(12, features), torch.arange(12) % 4
    losses = lambda outputs, batch: F.cross_entropy(outputs, batch["y"])
    return engine.Problem(model, L2(model, per=per), losses, losses, train=(x, y), val=(x[:6], y[:6]))


def seeded(make, *args, **options) -> nn.Module:
    torch.manual_seed(0)
    return make(*args, **options)


def config(**parts) -> engine.Config:
    trained = {"inner": engine.Adam(1e-2), "inner_steps": 2, "batch_size": 5, "warmup_steps": 1}
    return engine.Config(**{"n_steps": 4, **trained, "outer": engine.Adam(0.05), **parts})


FOLDS = {"folds": engine.Folds(2), "early_stopping": engine.EarlyStopping(fraction=0.3)}


def states(stated: engine.Problem, config: engine.Config, state: engine.State | None = None) -> list[engine.State]:
    return [step.state for step in engine.optimize(stated.bilevel(), stated.data, config, state)]


def last(model: nn.Module, **parts) -> engine.State:
    return states(problem(model), config(**parts))[-1]


def metadata(data: bytes) -> dict:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["nestor"])


# --- names ----------------------------------------------------------------------------------------


def test_a_checkpoint_names_every_tensor_and_opens_without_nestor():
    model = seeded(normed)
    state = last(model)
    held = safetensors.torch.load(state.save())
    state_dict = {key.split(".", 1)[1]: value for key, value in held.items() if key.startswith(("params.", "buffers."))}
    other = normed()
    other.load_state_dict(state_dict, strict=True)
    assert torch.equal(torch.cat([p.detach().flatten() for p in other.parameters()]), state.weights)
    assert held["hparams.l2"].shape == (6,)
    assert {key.split(".")[0] for key in held} == {
        "params",
        "buffers",
        "hparams",
        "inner",
        "outer",
        "memory",
        "previous",
    }
    assert metadata(state.save())["format"] == 3


def test_the_trainings_of_inactive_folds_have_names_too():
    state = last(seeded(normed), **FOLDS)
    (fold,) = state.inactive_folds
    held = safetensors.torch.load(state.save())
    assert held[f"folds.{fold}.params.0.weight"].shape == (4, 4)
    assert not torch.equal(held[f"folds.{fold}.params.0.weight"], held["params.0.weight"])
    assert held[f"folds.{fold}.buffers.1.running_mean"].shape == (4,)


def test_parameters_of_nested_trees_are_named_by_their_paths_and_keep_their_order():
    bilevel = problem(seeded(UpDown)).bilevel()
    nested = {"z": {"b": torch.ones(2), "a": torch.zeros(3)}, "y": [torch.full((1, 2), 2.0)]}
    sgd = engine.SGD()
    start = engine.State.initial(replace(bilevel, params=nested, initial=lambda params, hparams: params), sgd, sgd)
    back = engine.State.load(start.save())
    assert back.layout is not None
    assert (back.layout, back.layout.names) == (start.layout, ("z.b", "z.a", "y.0"))
    assert torch.equal(back.weights, start.weights.cpu())


# --- what it does not fit -------------------------------------------------------------------------

OTHERS = {
    "another shape": (lambda: nn.Linear(4, 6), lambda: nn.Linear(6, 4), r"parameter 'weight' has the shape \(6, 4\)"),
    "missing": (lambda: nn.Linear(4, 4), lambda: UpDown(), "lacks the parameter 'up.weight'"),
    "unexpected": (
        lambda: nn.Linear(4, 4), lambda: nn.Linear(4, 4, bias=False), "holds a parameter 'bias', which the problem",
    ),
    "missing buffer": (lambda: normed(running=False), normed, "lacks the buffer '1.running_mean'"),
    "unexpected buffer": (normed, lambda: normed(running=False), "holds a buffer '1.num_batches_tracked'"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_another_architecture_is_refused_naming_the_first_difference(name: str):
    of, into, sentence = OTHERS[name]
    state, other = last(seeded(of)), into()
    stated = problem(other, features=next(other.parameters()).shape[1])
    with pytest.raises(StateInvalid, match=sentence):
        engine.start_from(stated.bilevel(), engine.State.load(state.save()))
    with pytest.raises(StateInvalid, match=sentence):
        states(stated, config(), engine.State.load(state.save()))


def test_other_hyperparameters_are_refused_by_name():
    state, model = last(seeded(UpDown)), UpDown()
    with pytest.raises(StateInvalid, match=r"lacks the hyperparameter 'l2\.up\.weight'"):
        engine.start_from(problem(model, per="weight").bilevel(), state)
    with pytest.raises(StateInvalid, match=r"lacks the hyperparameter 'l2\.up\.weight'"):
        engine.start_from(problem(model, per="weight").bilevel(), state.hparams)


def test_a_warm_start_takes_parameters_by_name_and_to_continue_exactly_takes_their_order():
    state = engine.State.load(last(seeded(UpDown)).save())
    bilevel = engine.start_from(problem(DownUp()).bilevel(), state)
    assert list(bilevel.params) == ["down.weight", "down.bias", "up.weight", "up.bias"]
    assert all(torch.equal(value, state.params[name]) for name, value in bilevel.params.items())
    with pytest.raises(StateInvalid, match=r"another order, 'up\.weight' where the problem has 'down\.weight'"):
        states(problem(DownUp()), config(), state)


@pytest.mark.parametrize(("version", "remedy"), [(4, "install that version"), (1, "start a new trial")])
def test_another_format_is_refused_with_what_to_do(version: int, remedy: str):
    data = to_safetensors({"weights": torch.ones(3)}, {"nestor": json.dumps({"format": version})})
    with pytest.raises(CheckpointFormatUnknown, match=rf"has format {version}; .* reads formats 2 to 3\. .*{remedy}"):
        engine.State.load(data)


@pytest.mark.parametrize("key", ["params.stranger", "unheard.of", "folds.1.unheard.of"])
def test_a_tensor_that_no_checkpoint_has_is_refused(key: str):
    data = last(seeded(normed), **FOLDS).save()
    tensors = safetensors.torch.load(data) | {key: torch.ones(1)}
    if key.startswith("folds"):
        key = f"folds.{next(iter(metadata(data)['folds']))}.unheard.of"
        tensors[key] = tensors.pop("folds.1.unheard.of")
    with pytest.raises(StateInvalid, match="cannot be read"):
        engine.State.load(to_safetensors(tensors, {"nestor": json.dumps(metadata(data))}))


# --- format 2 -------------------------------------------------------------------------------------


def in_format_2(state: engine.State) -> bytes:
    """A checkpoint as the last version with this format wrote it."""

    def training(fold: FoldState, prefix: str = "") -> Tensors:
        groups = {"buffers": fold.buffers, "inner": fold.optimizer_state, "memory": fold.response}
        named = {f"{group}/{name}": value for group, of in groups.items() for name, value in of.items()}
        return {f"{prefix}{key}": value for key, value in {"weights": fold.weights, **named}.items()}

    tensors = training(state.active_fold)
    for group in ("hparams", "previous"):
        tensors |= {f"{group}/{name}": value for name, value in getattr(state, group).items()}
    for hparam, named in state.outer_optimizer_state.items():
        tensors |= {f"outer/{name}/{hparam}": value for name, value in named.items()}
    for number, fold in state.inactive_folds.items():
        tensors |= training(fold, f"resting/{number}/")
    counters = {
        "format": 2,
        "seed": state.seed,
        "step": state.step,
        "inner_steps": state.active_fold.inner_steps,
        "inner_gradient_start": state.active_fold.inner_gradient_start,
        "warned": state.warned,
        "resting": {fold: [of.inner_steps, of.inner_gradient_start] for fold, of in state.inactive_folds.items()},
        "held_out": state.held_out,
        "held_out_best": state.held_out_best,
        "waited": state.steps_since_best,
    }
    return to_safetensors(tensors, {"nestor": json.dumps(counters)})


@pytest.mark.parametrize("parts", [{}, FOLDS], ids=["alone", "folds"])
def test_a_checkpoint_of_format_2_goes_on_bit_for_bit(parts: dict):
    whole = states(problem(seeded(normed)), config(**parts))
    landed = in_format_2(whole[1])
    for data in (landed, engine.State.load(landed).save()):  # also once it was written again, still without names
        resumed = states(problem(seeded(normed)), config(**parts), engine.State.load(data))
        assert [state.save() for state in resumed] == [state.save() for state in whole[2:]]


def test_of_format_2_the_number_of_weights_is_compared_and_a_warm_start_goes_by_position():
    state = engine.State.load(in_format_2(last(seeded(UpDown))))
    with pytest.raises(StateInvalid, match="has 40 weights and the problem has 20"):
        engine.start_from(problem(nn.Linear(4, 4)).bilevel(), state)
    bilevel = engine.start_from(problem(UpDown()).bilevel(), state)
    assert torch.equal(torch.cat([value.flatten() for value in bilevel.params.values()]), state.weights)
