"""The second derivatives of softmax regression, 7,850 × 7,850, and their inverses (the slides' Figure 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

import nestor
import nestor_engine as engine
from examples.data import Split, mnist_digits
from examples.paper.lab import Lab, Row
from examples.paper.networks import accuracy, cross_entropy, softmax_regression
from examples.paper.pictures import matrices
from nestor.hparams import L2
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.curvature import Curvature, Operator
from nestor_engine.responses import OuterStepContext
from nestor_engine.tensors.ravel import Ravel

SHOWN = 400  # pixels of a picture, a side


def run(lab: Lab) -> None:
    pooled = lab.sized(quick=7, usual=1, full=1)  # 4×4 pixels, or all 28×28
    n = lab.sized(quick=300, usual=1_000, full=8_000)
    point, adjoint = trained(lab, pooled, n)
    size, like = point.w.numel(), point.w.detach()
    hessian = dense(engine.Hessian().operator(point), like)
    kfac = engine.KFAC(damping=0.0, decay=0.0, fisher="exact").operator(point)
    fisher = dense(engine.EmpiricalFisher(damping=0.0, per="example").operator(point), like)
    values, vectors = torch.linalg.eigh(hessian.double() if size < 2_000 else hessian)
    exact = torch.cholesky_inverse(torch.linalg.cholesky(hessian.double())).float()
    largest = float(values[-1])

    def neumann(terms: int, values: Tensor, vectors: Tensor) -> Tensor:
        """α Σ (I − αH)^j, j ≤ terms, as a function of the eigenvalues."""
        shrunk = 1 - values / largest
        series = torch.stack([shrunk**j for j in range(terms + 1)]).sum(0) / largest
        return ((vectors * series) @ vectors.T).float()

    of_fisher = torch.linalg.eigh(fisher)
    inverses: dict[str, Tensor] = {
        "identity": torch.eye(size) / largest,
        **{f"Neumann, terms: {terms}": neumann(terms, values, vectors) for terms in (1, 5, 20)},
        "KFAC": inverse(kfac, like),
        "empirical Fisher, Neumann, terms: 20": neumann(20, of_fisher[0].clamp_max(largest), of_fisher[1]),
    }
    lab.table(
        f"Inverses of the {size:,} × {size:,} Hessian",
        [compared(name, x, exact, adjoint) for name, x in inverses.items()],
    )
    gauss_newton = agreement(point, like)
    gradient = float(point.gradient.detach().norm())
    lab.found(
        f"The Hessian of softmax regression on {n:,} digits has eigenvalues from {float(values[0]):.2g} to "
        f"{largest:.2g}. Gauss–Newton is the same matrix, because the model is linear in its weights: their products "
        f"differ by {gauss_newton:.0e}. "
        f"The gradient's norm there is {gradient:.1e}."
    )
    order = by_class(point)
    shown = {
        "Hessian": hessian,
        "KFAC": dense(kfac, like),
        "empirical Fisher": fisher,
        "inverse": exact,
        "inverse: KFAC": inverses["KFAC"],
        "inverse: Neumann, 20 terms": inverses["Neumann, terms: 20"],
        "inverse: Neumann, 1 term": inverses["Neumann, terms: 1"],
        "inverse: Fisher, Neumann, 20 terms": inverses["empirical Fisher, Neumann, terms: 20"],
        "inverse: identity": inverses["identity"],
    }
    matrices(lab.file("hessian.png"), {name: small(matrix[order][:, order]) for name, matrix in shown.items()})


def trained(lab: Lab, pooled: int, n: int) -> tuple[Linearization, Tensor]:
    """Softmax regression whose decay was tuned on the service, at the trained weights; and ∂g/∂w there."""
    images = mnist_digits()
    shrink: Callable[[Split], Split] = lambda split: (F.avg_pool2d(split[0], pooled), split[1])
    x, y = shrink(images.train)
    torch.manual_seed(0)
    model = softmax_regression(x.shape[1:], images.classes)
    problem = nestor.Problem(
        model,
        hparams=L2(model, per="global", init=-4.0),
        train_loss=cross_entropy,
        val_loss=cross_entropy,
        metrics={"accuracy": accuracy},
        train=(x[:n], y[:n]),
        val=(x[-1_000:], y[-1_000:]),
        test=shrink(images.test),
    )
    study = lab.study(images.name)
    trial = study.optimize(
        problem,
        n_steps=lab.sized(quick=20, usual=100, full=200),
        inner=nestor.Adam(3e-3),
        inner_steps=20,
        batch_size=1_000,
        outer=nestor.RMSprop(0.05),
        response=nestor.Implicit(nestor.Hessian(), nestor.WarmStarted(nestor.ConjugateGradient(10))),
        show_progress_bar=False,
    )
    trial.load_weights(model, step="latest")
    bilevel = replace(problem.bilevel(), hparams=dict(trial.hparams))
    data, w = problem.data, Ravel(bilevel.params).vector(bilevel.params)
    train, val = ({**columns, "index": torch.arange(len(columns["y"]))} for columns in (data.train, data.val))
    context = OuterStepContext.at(bilevel, w, train, val)
    return context.linearization(), context.outer().by_w


def dense(operator: Operator, like: Tensor) -> Tensor:
    """The matrix of `operator`, one product a row."""
    n = like.numel()
    rows = torch.empty(n, n)
    for i, unit in enumerate(torch.eye(n).to(like)):
        rows[i] = operator.undamped(unit)
    return (rows + rows.T) / 2


def inverse(operator: Operator, like: Tensor) -> Tensor:
    """The matrix of a closed-form inverse."""
    columns = [operator.inverse(unit) for unit in torch.eye(like.numel()).to(like)]
    return torch.stack([column for column in columns if column is not None])


def agreement(point: Linearization, like: Tensor) -> float:
    """The largest relative difference of products with the Hessian and with Gauss–Newton, of five random vectors."""
    of: Callable[[Curvature], Operator] = lambda curvature: curvature.operator(point)
    hessian, gauss_newton = of(engine.Hessian()), of(engine.GaussNewton(damping=0.0))
    vectors = torch.randn(5, like.numel(), generator=torch.Generator().manual_seed(0))
    differences = [(hessian(v) - gauss_newton(v)).norm() / hessian(v).norm() for v in vectors]
    return float(torch.stack(differences).max())


def compared(name: str, x: Tensor, exact: Tensor, adjoint: Tensor) -> Row:
    """The error of an approximation: of the matrix, and of its product with ∂g/∂w."""
    q, ours = exact @ adjoint, x @ adjoint
    return {
        "inverse": name,
        "cosine of the matrices": float((x * exact).sum() / (x.norm() * exact.norm())),
        "relative distance": float((x - exact).norm() / exact.norm()),
        "cosine of q": float(F.cosine_similarity(q, ours, dim=0)),
        "relative distance of q": float((q - ours).norm() / q.norm()),
        "slides": "shown as pictures",
    }


def by_class(point: Linearization) -> Tensor:
    """An order of the weights in which those of one class, its bias last, follow each other."""
    weight, bias = point.ravel.tree(torch.arange(point.w.numel())).values()
    return torch.cat([weight, bias[:, None]], 1).reshape(-1)


def small(matrix: Tensor) -> Tensor:
    """Magnitudes, each the largest of its neighborhood, so that a thin diagonal stays visible."""
    return F.adaptive_max_pool2d(matrix.abs()[None, None], min(SHOWN, len(matrix)))[0, 0]
