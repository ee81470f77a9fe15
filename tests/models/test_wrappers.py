"""A wrapper stands for the module inside, and what cannot be trained is named before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nestor
from nestor.errors import (
    ArgumentInvalid,
    LazyParameters,
    ModelNotSupported,
    NestorError,
    NotExportable,
    ParametersComplex,
    ParametersWithoutValues,
)
from nestor_engine.hparams import L2, Dropout, Submodule
from tests.models.comparing import CLASSES, FEATURES, columns, cross_entropy, numbers, problem


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, CLASSES))


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group, which DistributedDataParallel needs."""
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    made: Any = torch.compile(model, backend="eager")  # importing another backend takes seconds
    return made


def with_compiled_head(model: nn.Sequential) -> nn.Module:
    model[3] = compiled(model[3])
    return model


def with_compiled_forward(model: nn.Sequential) -> nn.Module:
    model.compile(backend="eager")
    return model


WRAPPERS: dict[str, Callable[[nn.Sequential], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": nn.parallel.DistributedDataParallel,
    "torch.compile": compiled,
    "torch.compile around DataParallel": lambda model: compiled(nn.DataParallel(model)),
    "a compiled part": with_compiled_head,
    "a compiled forward": with_compiled_forward,
    "a distributed part": lambda model: nn.Sequential(nn.DataParallel(model)),
    "symbolic trace": torch.fx.symbolic_trace,
}
OUTSIDE = [name for name in WRAPPERS if "part" not in name]


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_model_trains_as_the_model_inside(name: str):
    expected, given = problem(plain()), problem(WRAPPERS[name](plain()))
    assert numbers(given.bilevel(), given.data) == numbers(expected.bilevel(), expected.data)


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_are_those_of_the_module_inside(name: str):
    assert list(problem(WRAPPERS[name](plain())).bilevel().params) == list(dict(plain().named_parameters()))


@pytest.mark.parametrize(
    "kind", [L2, lambda model: L2(model, per="input", only="3"), Dropout, lambda model: Submodule(model, "0")]
)
def test_kinds_made_from_wrapper_and_module_are_the_same(kind: Callable[[nn.Module], Any]):
    model = plain()
    model[0].requires_grad_(False)
    wrapper = nn.DataParallel(model)
    data = columns()
    for made_from, given in ((wrapper, model), (model, wrapper), (wrapper, wrapper)):
        stated = nestor.Problem(given, kind(made_from), cross_entropy, cross_entropy, train=data, val=data)
        assert stated.bilevel().hparams.keys() == kind(model).init.keys()


def test_weights_are_loaded_into_a_wrapper():
    model = plain()
    trial = nestor.create_study().optimize(
        problem(model), n_steps=1, inner=nestor.Adam(0.1), inner_steps=1, show_progress_bar=False
    )
    inside, wrapped = plain(), plain()
    trial.load_weights(inside)
    trial.load_weights(compiled(nn.DataParallel(wrapped)))
    assert all(torch.equal(p, q) for p, q in zip(inside.parameters(), wrapped.parameters(), strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(inside.parameters(), model.parameters(), strict=True))


# --- refusals -----------------------------------------------------------------------------------------


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(FEATURES, CLASSES, dtype=torch.complex64))


def scripted(model: nn.Module) -> Any:
    return torch.jit.script(model)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*[Ll]azy.*:UserWarning")
@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (lambda: scripted(plain()), ModelNotSupported, "The model is a TorchScript module.*Pass the torch.nn.Module"),
        (lambda: nn.Sequential(plain(), scripted(plain())), ModelNotSupported, "part '1' is a TorchScript module"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), LazyParameters, r"'0\.weight'.*Call the model on one batch first"),
        (lambda: nn.Sequential(plain(), nn.LazyBatchNorm1d(affine=False)), LazyParameters, r"'1\.running_mean'"),
        (lambda: plain().to("meta"), ParametersWithoutValues, r"'0\.weight' is on the meta device.*to_empty"),
        (Complex, ParametersComplex, r"'w' is torch\.complex64.*torch\.complex in forward"),
        (lambda: nn.ModuleList([plain()]), ArgumentInvalid, r"model is ModuleList.*with a forward"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused_at_once(
    model: Callable[[], nn.Module], error: type[NestorError], words: str
):
    with pytest.raises(error, match=words):
        problem(model())


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.full((x.shape[0],), 3)
        packed = nn.utils.rnn.pack_padded_sequence(x.view(-1, 4, 2), lengths, batch_first=True)
        return self.head(self.rnn(packed)[1][-1])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Packed, "it packs sequences.*mask the loss"),
        (lambda: nn.Sequential(plain(), nn.BatchNorm1d(3, momentum=None)), r"BatchNorm\(momentum=None\).*such as 0\.1"),
    ],
)
def test_what_only_this_process_can_train_is_refused_by_name_when_it_is_shipped(
    model: Callable[[], nn.Module], words: str
):
    stated = problem(model())
    assert numbers(stated.bilevel(), stated.data)
    with pytest.raises(NotExportable, match=words):
        stated.export()
