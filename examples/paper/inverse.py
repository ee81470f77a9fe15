"""Compare inverse approximations during tuning, with the exact hypergradient beside (the slides' Figure 5)."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
from examples.data import Split
from examples.paper.lab import Lab, Row
from examples.paper.networks import accuracy, cross_entropy
from examples.paper.pictures import Curve, curves
from nestor import ConjugateGradient, Direct, GaussNewton, Hessian, Identity, Implicit, Neumann, WarmStarted
from nestor.errors import TrialFailed
from nestor.hparams import L2
from nestor_engine import Step, optimise
from nestor_engine.flat import Ravel
from nestor_engine.responses import Moment, Response

N_TRAIN, N_VAL = 200, 200
INNER_STEPS = 10
METHODS: dict[str, Response] = {
    "identity": Implicit(Hessian(), Identity()),
    "Neumann 1": Implicit(Hessian(), Neumann(1)),
    "Neumann 5": Implicit(Hessian(), Neumann(5)),
    "Neumann 20": Implicit(Hessian(), Neumann(20)),
    "CG 20": Implicit(Hessian(), ConjugateGradient(20)),
    "KFAC": Implicit(nestor.KFAC(), Direct()),
    "Gauss–Newton (default)": Implicit(GaussNewton(), WarmStarted(Neumann(2))),
    "Fisher, Neumann 20": Implicit(nestor.EmpiricalFisher(per="example"), Neumann(20)),
    "Nyström 20": Implicit(GaussNewton(), nestor.Nystrom(rank=20)),
    "unrolled 10": nestor.Unrolled(INNER_STEPS),
    "hypernetwork": nestor.Hypernetwork(rank=8, steps=5),
    "direct": Implicit(Hessian(), Direct()),
}
NAMES = {
    "cosine with the exact hypergradient": "cosine",
    "distance from the exact hypergradient, relative to its length": "distance",
    "validation loss": "loss",
}
QUICKLY = ("identity", "Neumann 5", "CG 20", "direct")
NETWORKS: dict[str, tuple[Callable[[], nn.Module], float]] = {  # and the inner learning rate
    "softmax regression": (lambda: nn.Linear(64, 10), 3e-2),
    "network": (lambda: nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10)), 1e-2),
}


@dataclass(frozen=True)
class Told:
    """How far a method's hypergradients were from the exact ones, at some of its steps, and how it fared."""

    at: list[int]
    cosines: list[float]
    distances: list[float]
    val_losses: list[float]  # of every step
    test_accuracy: float
    differs: float  # the largest relative difference of the service's validation losses from our own
    failed: str = ""


def run(lab: Lab) -> None:
    methods = {name: METHODS[name] for name in (QUICKLY if lab.size == "quick" else METHODS)}
    rows: list[Row] = []
    panels: dict[str, dict[str, dict[str, Curve]]] = {}
    networks = list(NETWORKS)[: lab.sized(quick=1, usual=2, full=2)]
    for network in networks:
        study = lab.study(network)
        for name, response in methods.items():
            told = compared(lab, study, network, response, name)
            rows.append(row_of(network, name, told))
            steps = [float(number) for number in range(1, len(told.val_losses) + 1)]
            at = [float(number) for number in told.at]
            shown = ((at, told.cosines), (at, told.distances), (steps, told.val_losses))
            for what, curve in zip(NAMES, shown, strict=True):
                panels.setdefault(what, {}).setdefault(network, {})[name] = curve
            print(f"{network}, {name}: cosine {rows[-1]['cosine, median']:.2f}", flush=True)
    lab.table("Inverse approximations against the exact hypergradient (float64), each along its own trial", rows)
    for what, panel in panels.items():
        log = "" if what.startswith("cosine") else "y"
        curves(lab.file(f"inverse-{NAMES[what]}.png"), panel, x="outer step", y=what, log=log, columns=2)
    for network in networks:
        lab.found(finding(network, [row for row in rows if row["model"] == network]))


def finding(network: str, rows: list[Row]) -> str:
    """What the slides say of this, and what was seen."""
    by_method = {row["method"]: row for row in rows}
    direct, nearest = by_method["direct"], max(rows, key=lambda row: row["cosine, median"])
    lowest = min(rows, key=lambda row: row["validation loss, last"])
    broke = direct["failed"] or direct["cosine, worst"] < 0.9
    return (
        f"{network}: the slides saw exact inversion fail eventually from numerical errors; here the dense solve in "
        f"single precision {'fails, too' if broke else 'does not'}: its worst cosine with the exact hypergradient is "
        f"{direct['cosine, worst']:.3f}, its largest relative distance {direct['distance, worst']:.1e}. Nearest in the "
        f"median is {nearest['method']} ({nearest['cosine, median']:.3f}). The lowest validation loss at the end is "
        f"that of {lowest['method']} ({lowest['validation loss, last']:.3g}); direct has "
        f"{direct['validation loss, last']:.3g}."
    )


def row_of(network: str, method: str, told: Told) -> Row:
    return {
        "model": network,
        "method": method,
        "cosine, median": statistics.median(told.cosines),
        "cosine, worst": min(told.cosines),
        "distance, median": statistics.median(told.distances),
        "distance, worst": max(told.distances),
        "validation loss, last": told.val_losses[-1],
        "test accuracy": told.test_accuracy,
        "failed": told.failed or None,
        "steps": told.at,
        "cosines": told.cosines,
        "distances": told.distances,
        "agrees with the service to": told.differs,
    }


def compared(lab: Lab, study: nestor.Study, network: str, response: Response, name: str) -> Told:
    """A trial on the service; and its points computed again here, each with the exact hypergradient beside."""
    n_steps = lab.sized(quick=12, usual=150, full=1_000)
    every = lab.sized(quick=4, usual=10, full=20)
    problem, build = problem_of(network), NETWORKS[network]
    options = {
        "inner": nestor.Adam(build[1], steps=INNER_STEPS, batch_size=N_TRAIN),
        "outer": nestor.RMSprop(0.1),
        "response": response,
        "warmup_steps": 200,
        "evaluate_every": every,
    }
    failed = ""
    try:
        trial = study.optimize(
            problem, n_steps=n_steps, show_progress_bar=False, user_attrs={"method": name}, **options
        )
    except TrialFailed as error:
        trial, failed = study.trials[-1], str(error)
    recorded = trial.steps
    at, cosines, distances, differences = [], [], [], []
    for step, ours, exact in points(problem, nestor.Config(n_steps=len(recorded), **options), every):
        at.append(step.number)
        cosines.append(float(F.cosine_similarity(ours, exact, dim=0)))
        distances.append(float((ours - exact).norm() / exact.norm()))
        seen = recorded[step.number - 1].val_loss
        differences.append(abs(step.val_loss - seen) / seen)
    last = [step.test_metrics["accuracy"] for step in recorded if step.test_metrics][-1]
    losses = [step.val_loss for step in recorded]
    return Told(at, cosines, distances, losses, last, max(differences), failed)


def points(problem: nestor.Problem, config: nestor.Config, every: int) -> Iterator[tuple[Step, Tensor, Tensor]]:
    """Every so many steps: the step, its hypergradient, and the exact one at the same weights and hyperparameters."""
    bilevel, data = problem.bilevel(), problem.data
    hparams = bilevel.hparams
    precise = replace(bilevel, params={name: p.double() for name, p in bilevel.params.items()})
    as_double = lambda columns: {n: v.double() if v.is_floating_point() else v for n, v in columns.items()}
    whole = lambda columns: as_double(columns) | {"index": torch.arange(len(columns["y"]))}
    for step in optimise(bilevel, data, config):
        if step.number % every == 0:
            moment = Moment(
                precise, Ravel(precise.params), step.state.weights.double(), precise.buffers, as_double(hparams),
                whole(data.train), whole(data.val),
            )  # fmt: skip
            exact = METHODS["direct"].hypergradient(moment, {}).gradient
            names = sorted(exact)
            joined = lambda named, names=names: torch.cat([named[name].double().reshape(-1) for name in names])
            yield step, joined(step.state.previous), joined(exact)
        hparams = step.state.hparams


def problem_of(network: str) -> nestor.Problem:
    """Handwritten digits, 8×8, with a decay for every weight."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    part: Callable[[slice], Split] = lambda rows: (x[order[rows]], y[order[rows]])
    torch.manual_seed(0)
    model = NETWORKS[network][0]()
    return nestor.Problem(
        model,
        hparams=L2(model, per="weight", init=-4.0),
        train_loss=cross_entropy,
        val_loss=cross_entropy,
        metrics={"accuracy": accuracy},
        train=part(slice(N_TRAIN)),
        val=part(slice(N_TRAIN, N_TRAIN + N_VAL)),
        test=part(slice(N_TRAIN + N_VAL, None)),
    )
