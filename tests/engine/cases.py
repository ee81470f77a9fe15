"""The cases that every curvature and every solver is tested on, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor_engine.autodiff.kernels import native_recurrence, twice_differentiable
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature import Curvature
from nestor_engine.data.splits import INDEX
from nestor_engine.hparams import L2, Custom, ExampleWeights
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.tensors.random import randomness
from nestor_engine.tensors.ravel import Ravel
from tests.engine.device import DEVICE

SEED = 7


def hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """The dense second derivative of a function of one tensor."""
    found = torch.autograd.functional.hessian(function, at)
    assert isinstance(found, Tensor)
    return found


def cross_entropy(outputs: Tensor, batch: Batch) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def squared(outputs: Tensor, batch: Batch) -> Tensor:
    return 0.5 * (outputs - F.one_hot(batch["y"], outputs.shape[-1])).square().sum(-1)


def _problem(model: nn.Module, x: Tensor, classes: int, n_val: int = 6) -> engine.Problem:
    y = torch.arange(len(x)) % classes
    hparams = [L2(model.double(), per="tensor", init=-1.0), ExampleWeights(len(x) - n_val)]
    for kind in hparams:
        kind.init = {name: value.double() for name, value in kind.init.items()}
    return engine.Problem(
        model, hparams, cross_entropy, cross_entropy, train=(x[n_val:], y[n_val:]), val=(x[:n_val], y[:n_val])
    )


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embed(tokens)
        return self.head((h + self.mix(h, h, h, need_weights=False)[0]).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Tied(nn.Module):
    """One matrix read twice, and a parameter that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 5)
        self.head = nn.Linear(5, 6, bias=False)
        self.head.weight = self.embed.weight
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(tokens).sum(1)))


def softmax_regression() -> engine.Problem:
    return _problem(nn.Linear(5, 3), torch.randn(20, 5, dtype=torch.float64), 3)


def mlp() -> engine.Problem:
    return _problem(
        nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3)), torch.randn(20, 5, dtype=torch.float64), 3
    )


def cnn(*, train: bool) -> engine.Problem:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )
    model[1].train(train)
    return _problem(model, torch.randn(16, 1, 6, 6, dtype=torch.float64), 3)


def dropout() -> engine.Problem:
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 3))
    return _problem(model, torch.randn(20, 5, dtype=torch.float64), 3)


def lstm() -> engine.Problem:
    return _problem(Recurrent(), torch.randn(14, 6, 4, dtype=torch.float64), 3)


def attention() -> engine.Problem:
    return _problem(Attention(), torch.randint(0, 11, (14, 5)), 3)


def tied() -> engine.Problem:
    return _problem(Tied(), torch.randint(0, 6, (16, 4)), 6)


def ridge() -> tuple[Bilevel, engine.Data]:
    """min ½‖Xw − y‖²/n + ½ Σ exp(λ) w², one λ for each weight; the weights are a nested pytree."""
    generator = torch.Generator(DEVICE).manual_seed(SEED)
    x, xv = (torch.randn(n, 4, dtype=torch.float64, generator=generator) for n in (30, 20))
    truth = torch.tensor([1.0, -2.0, 0.8, 0.5], dtype=torch.float64)
    y, yv = (a @ truth + 0.3 * torch.randn(len(a), dtype=torch.float64, generator=generator) for a in (x, xv))

    def weights(params) -> Tensor:
        return torch.cat([params["head"][0], params["tail"]["w"]])

    bilevel = Bilevel(
        params={"head": [torch.zeros(2, dtype=torch.float64)], "tail": {"w": torch.zeros(2, dtype=torch.float64)}},
        buffers={},
        hparams={"decay": torch.tensor([-1.0, 0.0, -2.0, -1.5], dtype=torch.float64)},
        transforms={"decay": "exp"},
        prepare=lambda hparams, batch: batch,
        forward=lambda params, buffers, hparams, batch: (batch["x"] @ weights(params), buffers),
        criterion=lambda outputs, hparams, batch: 0.5 * (outputs - batch["y"]).square().mean(),
        penalty=lambda params, hparams: 0.5 * (hparams["decay"].exp() * weights(params).square()).sum(),
        evaluate=lambda params, buffers, hparams, batch: {
            "loss": 0.5 * (batch["x"] @ weights(params) - batch["y"]).square().mean()
        },
    )
    return bilevel, engine.Data.of(train=(x, y), val=(xv, yv))


def ridge_minimizer(data: engine.Data, decay: Tensor) -> Tensor:
    x, y = data.train["x"], data.train["y"]
    return torch.linalg.solve(x.T @ x / len(x) + torch.diag(decay.exp()), x.T @ y / len(x))


def quadratic(matrix: list[list[float]]) -> tuple[Bilevel, engine.Data]:
    """f = ½ oᵀAo − λᵀo, the mean over examples o = w + x: the Hessian is A, by definition."""
    curvature = torch.tensor(matrix, dtype=torch.float64)
    n = len(curvature)
    bilevel = Bilevel(
        params=torch.linspace(0.5, 1.0, n, dtype=torch.float64),
        buffers={},
        hparams={"pull": torch.ones(n, dtype=torch.float64)},
        transforms={"pull": "identity"},
        prepare=lambda hparams, batch: batch,
        forward=lambda params, buffers, hparams, batch: (params + batch["x"], buffers),
        criterion=lambda o, hparams, batch: (0.5 * ((o @ curvature) * o).sum(1) - o @ hparams["pull"]).mean(),
        penalty=lambda params, hparams: params.new_zeros(()),
        predict=lambda params, buffers, hparams, batch: params + batch["x"],
        val_loss=lambda outputs, hparams, batch: 0.5 * outputs.square().sum(1).mean(),
    )
    x = torch.randn(6, n, dtype=torch.float64)
    return bilevel, engine.Data.of(train=(x, x), val=(x[:3], x[:3]))


def embedding() -> engine.Problem:
    return _problem(nn.Embedding(6, 3), torch.randint(0, 6, (16,)), 3)


PROBLEMS: dict[str, Callable[[], engine.Problem]] = {
    "softmax regression": softmax_regression,
    "GELU MLP": mlp,
    "CNN, BatchNorm in training mode": lambda: cnn(train=True),
    "CNN, BatchNorm in evaluation mode": lambda: cnn(train=False),
    "dropout": dropout,
    "LSTM": lstm,
    "attention and embedding": attention,
    "embedding": embedding,
    "shared weights and an unused parameter": tied,
}
FUNCTIONS: dict[str, Callable[[], tuple[Bilevel, engine.Data]]] = {
    "quadratic": lambda: quadratic([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 0.6]]),
    "one weight": lambda: quadratic([[2.0]]),
    "ridge regression": ridge,
}
CASES = (*FUNCTIONS, *PROBLEMS)


def build(name: str) -> engine.Problem:
    torch.manual_seed(SEED)
    return PROBLEMS[name]()


def posed(name: str) -> tuple[Bilevel, engine.Data]:
    torch.manual_seed(SEED)
    if name in FUNCTIONS:
        return FUNCTIONS[name]()
    problem = build(name)
    return problem.bilevel(), problem.data


def whole(columns: Tensors) -> Batch:
    first = next(iter(columns.values()))
    return {**columns, INDEX: torch.arange(len(first), device=first.device)}


class Dense:
    """Second derivatives the slow way: one backward pass for each row, in float64."""

    def __init__(self, bilevel: Bilevel, data: engine.Data) -> None:
        self.bilevel = bilevel
        self.functions = bilevel.untransformed()
        self.ravel = Ravel(bilevel.params)
        self.w = self.ravel.vector(bilevel.params)
        self.train, self.val = whole(data.train), whole(data.val)

    @staticmethod
    def of(problem: engine.Problem) -> Dense:
        return Dense(problem.bilevel(), problem.data)

    def linearization(self) -> Linearization:
        b = self.bilevel
        with randomness(SEED, self.w.device):
            return Linearization(b, self.ravel, self.w, b.buffers, b.hparams, self.train)

    def loss(self, w: Tensor, hparams: Tensors) -> Tensor:
        with randomness(SEED, self.w.device), twice_differentiable():
            return self.bilevel.train_loss(self.ravel.tree(w), self.bilevel.buffers, hparams, self.train)[0]

    def outer(self, w: Tensor, hparams: Tensors) -> Tensor:
        with native_recurrence():
            return self.functions.val_loss_at(self.ravel.tree(w), self.bilevel.buffers, hparams, self.val)

    def hessian(self) -> Tensor:
        return hessian(lambda w: self.loss(w, self.bilevel.hparams), self.w)

    def gauss_newton(self) -> Tensor:
        b, functional = self.functions, torch.autograd.functional
        batch = b.prepare(b.hparams, self.train)

        def outputs(w: Tensor) -> Tensor:
            with randomness(SEED, self.w.device), twice_differentiable():
                return b.forward(self.ravel.tree(w), b.buffers, b.hparams, batch)[0].reshape(-1)

        at = outputs(self.w)
        shape = b.forward(self.ravel.tree(self.w), b.buffers, b.hparams, batch)[0].shape
        jacobian = functional.jacobian(outputs, self.w)  # (outputs, n)
        inner = hessian(lambda o: b.criterion(o.reshape(shape), b.hparams, batch), at)
        penalty = hessian(lambda w: b.penalty(self.ravel.tree(w), b.hparams), self.w)
        return jacobian.T @ inner @ jacobian + penalty

    def fisher(self, per: str) -> Tensor:
        """The empirical Fisher matrix from explicit gradients, of the whole loss or of each example's."""
        b, functional = self.functions, torch.autograd.functional
        if per == "batch":
            gradient = functional.jacobian(lambda w: self.loss(w, b.hparams), self.w)
            return torch.outer(gradient, gradient)
        batch = b.prepare(b.hparams, self.train)

        def losses(w: Tensor) -> Tensor:
            with randomness(SEED, self.w.device), twice_differentiable():
                outputs = b.forward(self.ravel.tree(w), b.buffers, b.hparams, batch)[0]
            each = [{name: column[i : i + 1] for name, column in batch.items()} for i in range(len(outputs))]
            return torch.stack([b.criterion(outputs[i : i + 1], b.hparams, one) for i, one in enumerate(each)])

        gradients = functional.jacobian(losses, self.w)  # (B, n)
        penalty = hessian(lambda w: b.penalty(self.ravel.tree(w), b.hparams), self.w)
        return gradients.T @ gradients / len(gradients) + penalty

    def minimizer(self, hparams: Tensors) -> Tensor:
        """w*(λ), by Newton's method from the present weights."""
        w = self.w
        for _ in range(20):
            w = w.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(w, hparams), w, create_graph=True)
            rows = [torch.autograd.grad(g, w, retain_graph=True)[0] for g in gradient]
            w = w.detach() - torch.linalg.solve(torch.stack(rows), gradient.detach())
            if gradient.norm() < 1e-10:  # before this step, so that the error is its square
                return w
        raise AssertionError("Newton's method found no minimum; this is no case for it.")

    def retrained_slope(self, direction: Tensors, step: float = 1e-4) -> float:
        """The derivative of F along a direction, by training to the minimum on both sides."""
        values = []
        for shift in (step, -step):
            shifted = {name: value + shift * direction[name] for name, value in self.bilevel.hparams.items()}
            values.append(float(self.outer(self.minimizer(shifted), shifted)))
        return (values[0] - values[1]) / (2 * step)

    def hypergradient(self, inverse: Tensor) -> Tensors:
        """dF/dλ with a dense inverse, from the mixed derivatives row by row."""
        hparams = {name: value.clone().requires_grad_() for name, value in self.bilevel.hparams.items()}
        w = self.w.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(w, hparams), w, create_graph=True)
        (b,) = torch.autograd.grad(self.outer(w, hparams), w)
        q = inverse @ b
        rows = [
            torch.autograd.grad(g, list(hparams.values()), retain_graph=True, allow_unused=True)
            for g in gradient
            if g.requires_grad
        ]
        return {
            name: -sum(
                (q[i] * (torch.zeros_like(v) if row[k] is None else row[k]) for i, row in enumerate(rows)),
                start=torch.zeros_like(v),
            )
            for k, (name, v) in enumerate(hparams.items())
        }


def dense_of(model: nn.Module, x: Tensor, y: Tensor, loss: Callable[[Tensor, Batch], Tensor] = cross_entropy) -> Dense:
    """A case without a penalty: the hyperparameter scales the loss by one."""
    scaled = lambda outputs, batch, hparams: loss(outputs, batch) * hparams["scale"]
    scale = Custom({"scale": torch.ones((), dtype=torch.float64)})
    return Dense.of(engine.Problem(model.double(), scale, scaled, scaled, train=(x, y), val=(x, y)))


@functools.cache
def dense(name: str) -> Dense:
    """One case at its initial weights, built once per session; do not change it."""
    return Dense(*posed(name))


@functools.cache
def matrix(name: str, curvature: Curvature) -> Tensor:
    """The dense matrix of a curvature without its damping, shape (n, n), built once per session."""
    match curvature:
        case engine.Hessian():
            return dense(name).hessian()
        case engine.GaussNewton():
            return dense(name).gauss_newton()
        case engine.EmpiricalFisher(per=per):
            return dense(name).fisher(per)
        case engine.KFAC():
            # Its own products: test_kfac compares them with closed forms, and a benchmark with curvlinops.
            return curvature.operator(dense(name).linearization())(torch.eye(len(dense(name).w), dtype=torch.float64))
    raise TypeError(curvature)
