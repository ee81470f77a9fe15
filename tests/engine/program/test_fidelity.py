"""What is trained is what was written: each program is served with its own gradients, or a finding names the cause."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as D
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from nestor import Config
from nestor.errors import NestorError
from nestor_engine import DirectOnly, Hessian, Implicit, Problem, optimize
from nestor_engine.hparams import L2, Custom, ExampleWeights
from nestor_engine.objective import Bilevel
from nestor_engine.problem.validation.checks import check
from nestor_engine.program import load

N, CLASSES = 24, 3
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(N) % CLASSES
TARGET = torch.randn(N, generator=torch.Generator().manual_seed(2))
TOKENS = torch.randint(0, 9, (N, 5), generator=torch.Generator().manual_seed(3))


def ce(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(out, batch["y"])


class Net(nn.Module):
    """Two layers with a function between them, which also gets the first layer."""

    def __init__(self, between: Callable[[Tensor], Any] = torch.tanh, out: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.between = nn.Linear(6, 8), nn.Linear(8, out), between

    def forward(self, x: Tensor) -> Any:
        return self.b(self.between(self.a(x)))


def stated(
    model: nn.Module,
    train_loss: Callable[..., Any] = ce,
    val_loss: Callable[..., Any] | None = None,
    *,
    x: Tensor = X,
    y: Tensor = Y,
    hparams: Any = None,
) -> Problem:
    return Problem(model, hparams or L2(model, init=-4.0), train_loss, val_loss or train_loss, train=(x, y), val=(x, y))


# --- custom Functions and hooks -------------------------------------------------------------------


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return g * (z.abs() < 1) * (1 + z)


class Scaled(torch.autograd.Function):
    """In the newer style, with a constant, two results, and a saved result."""

    @staticmethod
    def forward(z: Tensor, factor: float = 3.0) -> tuple[Tensor, Tensor]:
        return z.sin(), z * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor]) -> None:
        ctx.factor = inputs[1]
        ctx.save_for_backward(inputs[0], output[0])

    @staticmethod
    def backward(ctx: Any, g: Tensor, h: Tensor) -> tuple[Tensor, None]:
        z, sine = ctx.saved_tensors
        return 2 * g * z.cos() * sine + h * ctx.factor, None


class Drawn(torch.autograd.Function):
    """Draws in forward, and keeps what it drew as an attribute."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.p, ctx.shape = z.sigmoid(), z.shape
        drawn = torch.bernoulli(ctx.p)
        ctx.save_for_backward(drawn, z)
        return drawn

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        drawn, z = ctx.saved_tensors
        return (g * ctx.p * (1 + drawn) * z).reshape(ctx.shape)


class Twice(torch.autograd.Function):
    """Calls another Function in its backward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z * 1

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * Reverse.apply(g)


class Largest(torch.autograd.Function):
    """Has a result without a gradient."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> tuple[Tensor, Tensor]:
        value, at = z.max(1, keepdim=True)
        ctx.mark_non_differentiable(at)
        ctx.save_for_backward(at, z)
        return value, at

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> Tensor:
        at, z = ctx.saved_tensors
        return torch.zeros_like(z).scatter(1, at, 3 * g)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * (1 - ctx.saved_tensors[0].tanh() ** 2)


sign = Sign.apply  # as in torch's tutorial: a variable keeps the method itself


def largest(z: Tensor) -> Tensor:
    value, at = Largest.apply(z)
    return z * value + at


def hooked(*hooks: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    def function(z: Tensor) -> Tensor:
        z = z * 1
        for hook in hooks:
            z.register_hook(hook)
        return z.tanh()

    return function


def masked_parameter() -> nn.Module:
    model = Net()
    model.a.weight.register_hook(lambda g: g * (torch.arange(8) > 3)[:, None])
    return model


def pruned() -> nn.Module:
    model = Net()
    prune.l1_unstructured(model.a, "weight", 0.5)
    model.a.weight = model.a.weight.detach()  # what pruning stored has a history, which no copy can have
    return model


class Bag(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag, self.head = nn.EmbeddingBag(9, 4, **options), nn.Linear(4, CLASSES)

    def forward(self, t: Tensor) -> Tensor:
        return self.head(self.bag(t))


def inference(values: Tensor) -> Tensor:
    with torch.inference_mode():
        return values * 1


def made_under_inference() -> nn.Module:
    with torch.inference_mode():
        return Net()


SERVED: dict[str, Callable[[], Problem]] = {
    "gradient reversal": lambda: stated(Net(lambda z: Reverse.apply(z.tanh()))),
    "straight-through": lambda: stated(Net(sign)),
    "two results": lambda: stated(Net(lambda z: sum(Scaled.apply(z)))),
    "arguments by keyword": lambda: stated(Net(lambda z: sum(Scaled.apply(z, factor=2.0)))),
    "draws in forward": lambda: stated(Net(Drawn.apply)),
    "a Function in a backward": lambda: stated(Net(Twice.apply)),
    "a result without gradient": lambda: stated(Net(largest)),
    "a Function in the loss": lambda: stated(Net(), lambda out, batch: ce(Reverse.apply(out) + out * 3, batch)),
    "a Function of hyperparameters": lambda: stated(
        Net(),
        lambda out, batch, h: ce(out * Reverse.apply(h["scale"]), batch),
        ce,
        hparams=Custom({"scale": torch.tensor(1.5)}),
    ),
    "a hook on an activation": lambda: stated(Net(hooked(lambda g: g.clamp(-1e-3, 1e-3)))),
    "two hooks on an activation": lambda: stated(Net(hooked(lambda g: g + 0.1, lambda g: g * 2))),
    "a hook that only looks": lambda: stated(Net(hooked(lambda g: None))),
    "a mask of a parameter's gradient": lambda: stated(masked_parameter()),
    "weight norm": lambda: stated(nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)), nn.Linear(8, 3))),
    "a pruned layer": lambda: stated(pruned()),
    "bags, mean": lambda: stated(Bag(), x=TOKENS),
    "bags, sum with padding": lambda: stated(Bag(mode="sum", padding_idx=0), x=TOKENS),
    "bags, max with padding": lambda: stated(Bag(mode="max", padding_idx=2), x=TOKENS),
    "distances": lambda: stated(Net(lambda z: torch.cdist(z, torch.eye(8), compute_mode="use_mm_for_euclid_dist"))),
    "data made under inference mode": lambda: stated(Net(), x=inference(X)),
    "a model made under inference mode": lambda: stated(made_under_inference()),
    "losses of examples": lambda: stated(
        Net(), lambda out, batch: F.cross_entropy(out, batch["y"], reduction="none"), hparams=ExampleWeights(N)
    ),
    "a Gaussian likelihood": lambda: stated(
        Net(out=2), lambda out, batch: F.gaussian_nll_loss(out[:, 0], batch["y"].float(), out[:, 1].exp())
    ),
    "torch.distributions": lambda: stated(Net(), likelihoods),
    "a mean over positions that count": lambda: stated(
        Net(), lambda out, batch: F.cross_entropy(out, batch["y"], ignore_index=1)
    ),
}
NAMED = ("a mask of a parameter's gradient", "a mean over positions that count")  # served, and yet said


def likelihoods(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The sum of those that have second derivatives; each one checks its arguments."""
    a, b, c = out.unbind(1)
    positive, counts = F.softplus(b) + 0.1, batch["y"].float()
    terms = [
        D.Normal(a, positive).log_prob(counts),
        D.Laplace(a, positive).log_prob(counts),
        D.Cauchy(a, positive).log_prob(counts),
        D.Gumbel(a, positive).log_prob(counts),
        D.StudentT(3.0, a, positive).log_prob(counts),
        D.LogNormal(a, positive).log_prob(counts + 1),
        D.Gamma(positive, c.exp()).log_prob(counts + 1),
        D.Beta(positive, c.exp()).log_prob((counts + 1) / 4),
        D.Poisson(positive).log_prob(counts),
        D.Bernoulli(logits=a).log_prob(counts.clamp(max=1)),
        D.Geometric(a.sigmoid()).log_prob(counts),
        D.NegativeBinomial(3, logits=a).log_prob(counts),
        D.Categorical(logits=out).log_prob(batch["y"]),
        D.OneHotCategorical(logits=out).log_prob(F.one_hot(batch["y"], CLASSES).float()),
        D.Dirichlet(out.exp()).log_prob(F.one_hot(batch["y"], CLASSES) / 2 + 1 / 6),
        D.MultivariateNormal(out, torch.eye(CLASSES)).log_prob(torch.zeros(CLASSES)),
        D.Independent(D.Normal(out, 1.0), 1).log_prob(torch.zeros(CLASSES)),
        D.MixtureSameFamily(D.Categorical(logits=out), D.Normal(out, 1.0)).log_prob(counts),
        D.kl_divergence(D.Normal(a, positive), D.Normal(0.0, 1.0)),
    ]
    return -torch.stack(terms).mean()


def derivatives(functions: Bilevel, at: Bilevel) -> list[Tensor]:
    """The training loss's gradients, and one product with its second derivatives, by weights and hyperparameters."""
    params, hparams = ({n: t.detach().clone().requires_grad_() for n, t in g.items()} for g in (at.params, at.hparams))
    free = [*params.values(), *hparams.values()]
    columns = X if at.params.get("bag.weight") is None else TOKENS
    torch.manual_seed(3)
    loss, _ = functions.train_loss(params, at.buffers, hparams, {"x": columns, "y": Y, "index": torch.arange(N)})
    slopes = torch.autograd.grad(loss, free, create_graph=True, allow_unused=True, materialize_grads=True)
    along = torch.stack([(s * (1 + torch.arange(s.numel()).view_as(s))).sum() for s in slopes]).sum()
    return [*slopes, *torch.autograd.grad(along, free, allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("name", SERVED)
def test_a_program_has_the_derivatives_of_the_problem(name: str):
    problem = SERVED[name]()
    report = check(problem)
    assert report.ok, report
    assert bool(report.findings) == (name in NAMED), report
    assert report.program is not None
    here = problem.bilevel().untransformed()
    there = load(report.program.graphs, report.program.tensors)
    for ours, theirs in zip(derivatives(here, here), derivatives(there, here), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    config = Config(n_steps=1, inner_steps=1, batch_size=8, response=Implicit(Hessian(damping=0.03)))
    steps = [next(iter(optimize(f, problem.data, config))) for f in (here, there)]
    assert steps[0].val_loss == pytest.approx(steps[1].val_loss, rel=1e-5)
    assert steps[0].hypergradient_norm == pytest.approx(steps[1].hypergradient_norm, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"mode": "sum", "padding_idx": 0}, {"mode": "max", "padding_idx": 2}], ids=str)
def test_bags_of_embeddings_are_those_of_torch(options: dict[str, Any]):
    model = Bag(**options)
    bilevel = stated(model, x=TOKENS).bilevel()
    outputs, _ = bilevel.forward(bilevel.params, bilevel.buffers, bilevel.hparams, {"x": TOKENS})
    torch.testing.assert_close(outputs, model(TOKENS))


def test_the_mask_of_a_gradient_keeps_its_weights_in_a_trial():
    model = masked_parameter()
    problem = stated(model)
    (step,) = optimize(problem.bilevel(), problem.data, Config(n_steps=1, inner_steps=3, batch_size=8))
    trained = step.state.with_layout(problem.bilevel().params).params["a.weight"]
    before = dict(model.named_parameters())["a.weight"].detach()
    assert torch.equal(trained[:4], before[:4])
    assert not torch.equal(trained[4:], before[4:])


# --- findings --------------------------------------------------------------------------------------


class Detached(Net):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)).detach())


class Reentrant(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(checkpoint(lambda z: torch.tanh(self.a(z)), x, use_reentrant=True))


class Writing(Net):
    def forward(self, x: Tensor) -> Tensor:
        x *= 0.5
        return super().forward(x)


class Offsets(Bag):
    def forward(self, t: Tensor) -> Tensor:
        return self.head(self.bag(t.flatten(), torch.arange(0, t.numel(), t.shape[1])))


class Warning(Net):
    def forward(self, x: Tensor) -> Tensor:
        warnings.warn(f"this part is slow for {len(x)} rows", stacklevel=1)
        return super().forward(x)


class Backward(Net):
    def __init__(self) -> None:
        super().__init__()
        self.a.register_full_backward_hook(lambda module, given, grads: tuple(2 * g for g in given if g is not None))
        self.b.register_full_backward_hook(lambda module, given, grads: tuple(2 * g for g in given))


class Looking(Net):
    def __init__(self) -> None:
        super().__init__()
        self.b.register_full_backward_hook(lambda module, given, grads: None)


class Late(Net):
    def forward(self, x: Tensor) -> Tensor:
        z = self.a(x)
        h = z.tanh()
        z.register_hook(lambda g: 2 * g)
        return self.b(h)


class Dirty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.mark_dirty(z)
        return z.mul_(2)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


def accumulating() -> nn.Module:
    model = Net()
    model.a.weight.register_post_accumulate_grad_hook(lambda p: None)
    return model


def accuracy(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (out.argmax(1) == batch["y"]).float().mean()


def ctc(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
    n = len(out)
    logs = out.log_softmax(1).expand(4, n, CLASSES)
    return F.ctc_loss(logs, (batch["y"][:, None] % 2 + 1), torch.full((n,), 4), torch.ones(n, dtype=torch.long))


def regression(loss: Callable[[Tensor, Tensor], Tensor], out: int = 1) -> Problem:
    return stated(Net(out=out), lambda out, batch: loss(out, batch["y"]), y=TARGET)


def contrastive(out: Tensor, batch: dict[str, Tensor]) -> Tensor:
    unit = F.normalize(out, dim=1)
    return F.cross_entropy(unit @ unit.T / 0.5, torch.arange(len(out)))


class Prototypes(nn.Module):
    """A loss with parameters, which nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.eye(CLASSES))

    def forward(self, out: Tensor, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(out @ self.centers.T, batch["y"])


def distilled(teacher: nn.Module) -> Callable[[Tensor, dict[str, Tensor]], Tensor]:
    return lambda out, batch: F.mse_loss(out, teacher(batch["x"]))


FINDINGS: dict[str, tuple[Callable[[], Problem], bool, str, tuple[str, ...]]] = {
    # name → problem, whether for a server, severity, and words of the findings
    "a detached backbone under a decay": (
        lambda: stated(Detached()), False, "warning", ("'a.weight': It does not reach train_loss", "unused.weight"),
    ),
    "reentrant checkpointing": (
        lambda: stated(Reentrant()), False, "warning", ("'a.weight': It does not reach train_loss", "requires_grad"),
    ),
    "reentrant checkpointing, on a server": (
        lambda: stated(Reentrant()), True, "error", ("Call those parts directly",),
    ),
    "nothing is trained": (
        lambda: stated(Net(), lambda out, batch: out.argmax(1).float().mean(), ce), False, "error",
        ("train_loss: No parameter reaches it",),
    ),
    "a loss with parameters of its own": (
        lambda: stated(Net(), Prototypes()), False, "warning",
        ("train_loss: It reads tensors that require gradients and are no parameters of the model; shapes: (3, 3)",),
    ),
    "a teacher that requires gradients": (
        lambda: stated(Net(), distilled(Net()), ce), False, "warning", ("of the model; shapes: (3, 8), (8,",),
    ),
    "one_hot without its classes, on a server": (
        lambda: stated(Net(), lambda out, batch: F.mse_loss(out, F.one_hot(batch["y"]).float())), True, "error",
        ("train_loss cannot be exported", "Pass it num_classes."),
    ),
    "an accuracy to tune by": (lambda: stated(Net(), ce, accuracy), False, "error", ("val_loss: It has no gradient",)),
    "a detached validation loss": (
        lambda: stated(Net(), ce, lambda out, batch: ce(out, batch).detach()), False, "error",
        ("val_loss: It has no gradient",),
    ),
    "a validation loss of signs": (
        lambda: stated(Net(), ce, lambda out, batch: out.sign().mean()), False, "warning",
        ("val_loss: Its gradient is exactly zero",),
    ),
    "a layer behind a step": (
        lambda: stated(Net(torch.sign)), False, "warning", ("'a.weight': The gradient of train_loss", "exactly zero"),
    ),
    "a gradient that is not finite": (
        lambda: stated(Net(lambda z: (z * 0).norm(dim=1, keepdim=True).expand(-1, 8).sqrt())), False, "error",
        ("'a.weight': The gradient of train_loss with respect to it is NaN",),
    ),
    "bags with offsets": (
        lambda: stated(Offsets(), x=TOKENS), False, "error",
        ("It uses embedding_bag (in 'bag'", "cannot differentiate twice", "nn.Embedding"),
    ),
    "ctc": (lambda: stated(Net(), ctc, ce), False, "error", ("It uses ctc_loss", "line", "cannot differentiate twice")),
    "a backward that is differentiable once": (
        lambda: stated(Net(Once.apply)), False, "error", ("The backward of the torch.autograd.Function Once is not",),
    ),
    "a compiled layer": (
        lambda: stated(Net(torch.compile(torch.tanh, backend="aot_eager"))), False, "error", ("torch.compile",),
    ),
    "an input that is overwritten": (lambda: stated(Writing()), False, "error", ("It writes into its input 'x'",)),
    "a warning of the model": (lambda: stated(Warning()), False, "warning", ("It warns: this part is slow",)),
    "(B, 1) against (B,)": (
        lambda: regression(lambda out, y: ((out - y) ** 2).mean()), False, "warning",
        ("broadcasts outputs of shape", "column 'y'"),
    ),
    "(B, 1) against (B,), in torch's loss": (
        lambda: regression(F.mse_loss), False, "warning", ("It warns: Using a target size", "broadcasts outputs"),
    ),
    "(B,) against (B, 1)": (
        lambda: stated(Net(), lambda out, batch: (out[:, 0] - batch["y"]).abs().sqrt().mean(), y=TARGET[:, None]),
        False, "warning", ("The loss of one example depends on the others",),
    ),
    "a contrastive loss": (
        lambda: stated(Net(), contrastive, ce), False, "warning", ("That is right for a contrastive",),
    ),
    "a sum": (
        lambda: stated(Net(), lambda out, batch: F.cross_entropy(out, batch["y"], reduction="sum"), ce), False,
        "warning", ("train_loss: It grows with the number of examples",),
    ),
    "a hook on accumulated gradients": (
        lambda: stated(accumulating()), False, "error", ("'a.weight': It has a hook", "register_post_accumulate"),
    ),
    "a backward hook of a module, on a server": (
        lambda: stated(Backward()), True, "error", ("The backward hooks of 'a' (Linear), 'b' (Linear) do not run",),
    ),
    "a backward hook that only looks, on a server": (
        lambda: stated(Looking()), True, "warning", ("The backward hooks of 'b' (Linear) do not run",),
    ),
    "a hook behind its use, on a server": (lambda: stated(Late()), True, "error", ("registered after its tensor was",)),
    "a Function that writes, on a server": (
        lambda: stated(Net(lambda z: Dirty.apply(z * 1))), True, "error", ("Dirty", "writes into its argument"),
    ),
    "a loop over the batch, on a server": (
        lambda: stated(Net(lambda z: torch.stack([row.tanh() for row in z]))), True, "error",
        ("it loops over the examples of a batch in Python",),
    ),
    "cdist": (
        lambda: stated(Net(lambda z: torch.cdist(z, torch.eye(8)))), False, "error",
        ("It uses cdist (in Net", "Pass compute_mode='use_mm_for_euclid_dist'"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FINDINGS)
def test_what_would_not_train_as_written_is_said(name: str):
    make, ship, severity, words = FINDINGS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they are findings
        report = check(make(), ship=ship)
    assert report.ok == (severity == "warning"), report
    for word in words:
        assert word in str(report)
    assert all(len(str(finding)) < 700 for finding in report.findings)


@pytest.mark.parametrize("name", [name for name, (_, ship, *_) in FINDINGS.items() if not ship])
def test_what_passes_a_check_trains(name: str):
    problem = FINDINGS[name][0]()
    if check(problem, ship=False).ok:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (step,) = optimize(problem.bilevel(), problem.data, Config(n_steps=1, batch_size=8))
        assert step.hypergradient_norm >= 0


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_check_without_gradients_says_so(context: Any):
    problem = stated(Net())
    with context():
        assert f"torch.{context.__name__}(), where nothing can be trained" in str(check(problem))


@pytest.mark.parametrize(("response", "ok"), [(Implicit(), False), (DirectOnly(), True)], ids=["implicit", "direct"])
def test_a_check_takes_the_step_of_the_given_configuration(response: Any, ok: bool):
    hparams = Custom({"temperature": torch.zeros(())})
    tempered = lambda out, batch, h: ce(out * h["temperature"].exp(), batch)
    problem = stated(Offsets(), ce, tempered, x=TOKENS, hparams=hparams)
    report = problem.check(Config(n_steps=9, response=response))
    assert ("one outer step: It uses embedding_bag" in str(report)) != ok


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda z: torch.stack([row.tanh() for row in z]), "it loops over the examples of a batch in Python"),
        (lambda z: torch.stack([z[i] for i in range(z.shape[0])]), "in place of a Python loop over it"),
        (lambda z: z.view(7, 8), "Write x.shape[0] or -1 for the batch"),
        (lambda z: z if len(z) > 4 else -z, "do not branch on the batch size"),
        (lambda z: torch.cdist(z, torch.eye(8)), "Pass compute_mode='use_mm_for_euclid_dist'"),
    ],
)
def test_a_refused_batch_size_is_told_with_what_helps(between: Any, words: str):
    with pytest.raises(NestorError) as refused:
        stated(Net(between)).export()
    assert words in str(refused.value)


def test_a_function_that_cannot_be_exported_is_named_by_the_export_itself():
    with pytest.raises(NestorError, match=r"the backward of Dirty cannot be exported: it writes into its argument"):
        stated(Net(lambda z: Dirty.apply(z * 1))).export()


def test_an_export_leaves_functions_as_they_were():
    before = torch.autograd.Function.apply.__func__.__code__
    with contextlib.suppress(NestorError):
        stated(Net(lambda z: Dirty.apply(z * 1))).export()
    assert torch.autograd.Function.apply.__func__.__code__ is before
