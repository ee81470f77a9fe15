"""Stackelberg games and GANs: a leader with a follower, and the cost of ignoring the follower's response.

The follower is the trained module, the leader the hyperparameters. Two games have equilibria that are known in closed
form; two GANs, on a ring of Gaussians and on handwritten digits, have a discriminator that follows its generator.
Simultaneous gradient descent is the response `DirectOnly`: it uses the leader's gradient without a response.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

import nestor
from examples.paper.lab import Lab, spread
from examples.paper.pictures import pictures
from examples.paper.plain import tuned
from nestor import Hessian, Implicit
from nestor.hparams import Submodule

SIMULTANEOUS = "none (simultaneous)"
EXACT = Implicit(Hessian(damping=0.0), nestor.Direct())
SMALL_GAMES = {
    SIMULTANEOUS: nestor.DirectOnly(),
    "T1-T2": Implicit(Hessian(damping=0.0), nestor.Identity()),
    "IFT, Neumann 5": Implicit(Hessian(damping=0.0), nestor.Neumann(terms=5)),
    "IFT, exact": EXACT,
}
GANS = {
    SIMULTANEOUS: nestor.DirectOnly(),
    "unrolled, 5 steps": nestor.Unrolled(steps=5),
    "IFT": Implicit(nestor.GaussNewton(damping=0.1), nestor.WarmStarted(nestor.Neumann(2))),
}
CODE = 8  # dimensions of the generator's noise
SAMPLES = 2_000  # from a trained generator


@dataclass(frozen=True)
class Sizes:
    game_steps: int
    gan_steps: int
    hidden: int
    batch: int
    seeds: tuple[int, ...]
    gans: tuple[str, ...]
    followers: tuple[str, ...] = tuple(SMALL_GAMES)  # responses
    discriminators: tuple[str, ...] = tuple(GANS)


QUICK = Sizes(150, 30, 32, 128, (0,), ("ring",), (SIMULTANEOUS, "IFT, exact"), ("IFT",))
USUAL = Sizes(600, 800, 64, 256, (0, 1, 2), ("ring", "digits"))
FULL = Sizes(2_000, 25_000, 128, 512, tuple(range(10)), ("ring", "digits"))


def run(lab: Lab) -> None:
    sizes = lab.sized(quick=QUICK, usual=USUAL, full=FULL)
    duopoly(lab, sizes)
    quadratic(lab, sizes)
    for name in sizes.gans:
        gan(lab, sizes, DATA[name]())


# --- games with known equilibria --------------------------------------------------------------------


class Follower(nn.Module):
    """A player's move, a vector of shape (n,); the data only set the batch size: (B, 1) → (B, n)."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.move = nn.Parameter(torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        return self.move.expand(x.shape[0], -1)


def play(
    study: nestor.Study,
    follower: Callable[[Tensor, Tensor], Tensor],
    leader: Callable[[Tensor, Tensor], Tensor],
    *,
    n_follower: int,
    start: Tensor,
    n_steps: int,
    response: nestor.Response,
    metrics: dict[str, Callable[[Tensor, Tensor], Tensor]],
    inner: nestor.SGD,
    outer: nestor.SGD,
) -> nestor.Trial:
    """A game of two losses, functions of (follower's move, leader's move), each lowered by its player."""
    of_moves = lambda function: lambda out, batch, hparams: function(out[0], hparams["leader"])
    nothing = {"x": torch.ones(1, 1)}
    problem = nestor.Problem(
        Follower(n_follower), {"leader": start}, of_moves(follower), of_moves(leader), train=nothing, val=nothing,
        metrics={name: of_moves(metric) for name, metric in metrics.items()},
    )  # fmt: skip
    return study.optimize(
        problem, n_steps=n_steps, inner=inner, outer=outer, response=response, show_progress_bar=False
    )


def duopoly(lab: Lab, sizes: Sizes) -> None:
    """Two firms choose quantities λ and w at the price 1 − λ − w, and one of them chooses first [1].

    A leader sells 1/2 and earns 1/8. A player that ignores the response ends at Cournot's equilibrium, sells 1/3 and
    earns 1/9. The follower's response is −1/2. T1–T2 uses 1 for its curvature, which is 2, and so −1 for the response.

    [1] von Stackelberg (1934), Marktform und Gleichgewicht.
    """
    profit = lambda own, other: (own * (1 - own - other)).sum()
    study, rows = lab.study("duopoly"), []
    for name in sizes.followers:
        trial = play(
            study, lambda w, lead: -profit(w, lead), lambda w, lead: -profit(lead, w),
            n_follower=1, start=torch.zeros(1), n_steps=sizes.game_steps, response=SMALL_GAMES[name],
            metrics={"sold": lambda w, lead: lead.sum(), "answer": lambda w, lead: w.sum()},
            inner=nestor.SGD(0.2, steps=5), outer=nestor.SGD(0.1),
        )  # fmt: skip
        last = trial.steps[-1]
        sold, answer = last.val_metrics["sold"], last.val_metrics["answer"]
        rows.append({"response": name, "leader sells": sold, "follower sells": answer, "leader earns": -last.val_loss})
    lab.table("Duopoly: Stackelberg's equilibrium is (1/2, 1/4), Cournot's (1/3, 1/3)", rows)


def quadratic(lab: Lab, sizes: Sizes) -> None:
    """f(w, λ) = wᵀAw/2 − wᵀBλ and g(w, λ) = ‖w − Re‖²/2 − c‖λ − e‖²/2 with R = A⁻¹B and 0 < c < σ_min(R)².

    If the follower plays w = Rλ, the leader's loss is (λ − e)ᵀ(RᵀR − cI)(λ − e)/2, strictly convex with its
    minimum at e: the only equilibrium. But ∂g/∂λ = −c (λ − e) by itself points away from e, wherever the follower is.
    """
    generator = torch.Generator().manual_seed(0)
    m, n = 5, 8
    spread_out = torch.randn(n, n, generator=generator)
    a = torch.eye(n) + 0.3 * spread_out @ spread_out.T / n
    b = torch.randn(n, m, generator=generator) / m**0.5
    e = torch.linspace(-1, 1, m)
    answer = torch.linalg.solve(a, b)
    c = 0.5 * float(torch.linalg.svdvals(answer).min()) ** 2
    aim = answer @ e
    study, rows = lab.study("quadratic"), []
    for name in sizes.followers:
        trial = play(
            study, lambda w, lead: 0.5 * w @ (a @ w) - w @ (b @ lead),
            lambda w, lead: 0.5 * (w - aim).square().sum() - 0.5 * c * (lead - e).square().sum(),
            n_follower=n, start=torch.zeros(m), n_steps=sizes.game_steps, response=SMALL_GAMES[name],
            metrics={"distance": lambda w, lead: torch.linalg.vector_norm(lead - e)},
            inner=nestor.SGD(0.2, steps=1), outer=nestor.SGD(0.1),
        )  # fmt: skip
        away = [step.val_metrics["distance"] for step in trial.steps]
        rows.append(
            {"response": name, "at the start": away[0], "half way": away[len(away) // 2], "at the end": away[-1]}
        )
    lab.table(f"Quadratic game, {m} and {n} dimensions: distance of the leader from the equilibrium", rows)
    left = {row["response"]: row["at the end"] for row in rows}
    lab.found(
        f"Simultaneous gradient descent ends {left[SIMULTANEOUS]:.3g} away from the equilibrium and the implicit "
        f"function theorem {left['IFT, exact']:.3g} away."
    )


# --- generative adversarial networks ----------------------------------------------------------------


@dataclass(frozen=True)
class Real:
    """The data that a generator should learn.

    Attributes:
        x: examples, shape (n, dimensions).
        modes: samples (k, dimensions) → the mode that each is near, or −1, shape (k,).
        drawn: samples → one or more pictures.
        arranged: those of all methods → rows of pictures, by title.
    """

    name: str
    x: Tensor
    n_modes: int
    modes: Callable[[Tensor], Tensor]
    drawn: Callable[[Tensor], Tensor]
    arranged: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda drawn: drawn


class Game(nn.Module):
    """(real, noise) → the discriminator's logits of both, of shape (B,). The generator is not trained: it leads."""

    def __init__(self, dimensions: int, hidden: int) -> None:
        super().__init__()
        self.generator = _mlp(CODE, hidden, dimensions)
        self.discriminator = _mlp(dimensions, hidden, 1)
        self.generator.requires_grad_(False)

    def forward(self, real: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.discriminator(real).squeeze(1), self.discriminator(self.generator(noise)).squeeze(1)


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, outputs)
    )


def follow(logits: tuple[Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
    """The discriminator's loss; the generator's is its negative."""
    real, fake = logits
    return F.softplus(-real) + F.softplus(fake)


def lead(logits: tuple[Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
    return -follow(logits, batch)


def gan(lab: Lab, sizes: Sizes, real: Real) -> None:
    study, rows, drawn = lab.study(f"GAN, {real.name}"), [], {}
    for name in sizes.discriminators:
        response = GANS[name]
        covered, near, seconds = [], [], []
        for seed in sizes.seeds:
            trial = _trained(study, real, sizes, response, seed)
            samples = _samples(trial, real, sizes)
            modes = real.modes(samples)
            counts = torch.bincount(modes[modes >= 0], minlength=real.n_modes)
            covered.append(float((counts >= SAMPLES / 100).sum()))
            near.append(float((modes >= 0).float().mean()))
            seconds.append(sum(step.seconds["inner"] + step.seconds["hypergradient"] for step in trial.steps))
            if seed == sizes.seeds[0]:
                drawn[name] = real.drawn(samples)
        each = sum(seconds) / len(seconds) / sizes.gan_steps
        rows.append(
            {
                "discriminator's response": name,
                f"modes covered, of {real.n_modes}": spread(covered),
                "samples near a mode": spread(near),
                "milliseconds a step": round(1000 * each),
            }
        )
    drawn["real"] = real.drawn(real.x[:SAMPLES])
    pictures(lab.file(f"games-{real.name}.png"), real.arranged(drawn), columns=20, clip=(0, 1))
    lab.table(
        f"GAN, {real.name}: {sizes.gan_steps:,} steps of the generator, each of 5 of the discriminator, "
        f"{len(sizes.seeds)} seeds",
        rows,
    )


def _trained(study: nestor.Study, real: Real, sizes: Sizes, response: nestor.Response, seed: int) -> nestor.Trial:
    torch.manual_seed(seed)
    model = Game(real.x.shape[1], sizes.hidden)
    noise = lambda: torch.randn(len(real.x), CODE)
    split = lambda: {"x": real.x, "noise": noise()}
    problem = nestor.Problem(
        model, Submodule(model, "generator"), follow, lead, train=split(), val=split(), inputs=("x", "noise")
    )
    return study.optimize(
        problem,
        n_steps=sizes.gan_steps,
        inner=nestor.Adam(1e-3, betas=(0.5, 0.999), steps=5, batch_size=sizes.batch),
        outer=nestor.Adam(1e-3, betas=(0.5, 0.999), batch_size=sizes.batch),
        response=response,
        seed=seed,
        show_progress_bar=False,
    )


def _samples(trial: nestor.Trial, real: Real, sizes: Sizes) -> Tensor:
    generator = Game(real.x.shape[1], sizes.hidden).generator
    values = {name.removeprefix("generator."): value for name, value in tuned(trial).items()}
    with torch.no_grad():
        return functional_call(
            generator, values, torch.randn(SAMPLES, CODE, generator=torch.Generator().manual_seed(0))
        )


def ring() -> Real:
    """Eight Gaussians on a ring of radius 2, as in Metz et al. (2017), Unrolled generative adversarial networks."""
    deviation, n = 0.05, 10_000
    angles = torch.arange(8) * (2 * math.pi / 8)
    centers = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    generator = torch.Generator().manual_seed(0)
    x = centers[torch.randint(8, (n,), generator=generator)] + deviation * torch.randn(n, 2, generator=generator)

    def modes(samples: Tensor) -> Tensor:
        distance, nearest = torch.cdist(samples, centers).min(1)
        return torch.where(distance < 4 * deviation, nearest, -1)

    def drawn(samples: Tensor) -> Tensor:
        """A picture (1, 1, 160, 160) of where samples are, between −2.5 and 2.5."""
        at = ((samples.clamp(-2.49, 2.49) + 2.5) / 5 * 160).long()
        counts = torch.zeros(160, 160).index_put((at[:, 1], at[:, 0]), torch.ones(len(at)), accumulate=True)
        return (1 - counts / 2).clamp(0, 1)[None, None]

    def in_one_row(pictures: dict[str, Tensor]) -> dict[str, Tensor]:
        return {" · ".join(pictures): torch.cat(list(pictures.values()))}

    return Real("ring", x, 8, modes, drawn, in_one_row)


def digits() -> Real:
    """scikit-learn's 1,797 handwritten digits, 8×8; a sample's mode is its class if a classifier is sure of it."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    torch.manual_seed(0)
    classifier = _mlp(64, 64, 10)
    optimizer = torch.optim.Adam(classifier.parameters(), 3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(classifier(x), y).backward()
        optimizer.step()

    def modes(samples: Tensor) -> Tensor:
        with torch.no_grad():
            sure, predicted = classifier(samples).softmax(1).max(1)
        return torch.where(sure > 0.9, predicted, -1)

    return Real("digits", x, 10, modes, lambda samples: samples[:20].reshape(-1, 1, 8, 8))


DATA = {"ring": ring, "digits": digits}
