"""A character LSTM on Shakespeare: dropout rates and a decay for each tensor, tuned inside one training run.

Two dropout rates and seven decays are tuned on little text, so that regularization matters. Random search and TPE
retrain for every proposal, at equal compute, counted in training gradients (see `examples.paper.retraining`). The last
row trains from the first initialization on training and validation text together, under the tuned values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
from examples.data import Split, concatenate, shakespeare
from examples.paper.lab import Lab, Row, spread
from examples.paper.pictures import curves
from examples.paper.plain import trained, tuned
from examples.paper.retraining import Found, Inside, at, search
from nestor.hparams import L2, Dropout

RANGES = {"l2": (-16.0, -5.0), "dropout": (-4.0, 1.0)}  # logarithms of decays, and logits of rates: 2 to 73 %
DECAY, RATE = -10.5, 0.18  # where tuning starts: the middle of both
OURS, REFITTED = "IFT (ours)", "IFT, refitted on both (ours)"
UNTUNED, LONGER, BOTH = "untuned", "untuned, trained as long as ours", "untuned, as long, on both"
BASELINES = ("random search", "TPE")


@dataclass(frozen=True)
class Sizes:
    n_train: int  # characters
    n_held: int  # of validation, and of test text
    length: int  # characters of a sequence
    hidden: int
    training: int  # gradients of one training run of a search
    budget: int  # total gradients
    seeds: tuple[int, ...]


QUICK = Sizes(2_000, 4_000, 16, 16, 60, 360, (0,))
USUAL = Sizes(12_000, 20_000, 32, 96, 400, 4_800, (0, 1, 2))
FULL = Sizes(2_000_000, 200_000, 128, 512, 20_000, 400_000, tuple(range(5)))
BATCH, VAL_BATCH = 32, 128
INNER, INNER_STEPS = nestor.Adam(5e-3, clip_norm=1.0), 10
OUTER = nestor.Adam(0.1)
RESPONSE = nestor.Implicit(nestor.GaussNewton(), nestor.WarmStarted(nestor.Neumann(2)))
INSIDE = Inside(RESPONSE, inner_steps=INNER_STEPS, products=4.25, val=VAL_BATCH / BATCH)


class LanguageModel(nn.Module):
    """Characters (B, T) → logits of the next one, (B, T, vocabulary)."""

    def __init__(self, vocabulary: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, hidden // 2)
        self.before = nn.Dropout(RATE)
        self.lstm = nn.LSTM(hidden // 2, hidden, batch_first=True)
        self.after = nn.Dropout(RATE)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.before(self.embed(x)))
        return self.output(self.after(states))


def run(lab: Lab) -> None:
    sizes = lab.sized(quick=QUICK, usual=USUAL, full=FULL)
    text = shakespeare()
    study = lab.study(f"{sizes.n_train:,} characters")
    inside = replace(INSIDE, warmup=sizes.training)  # tuning starts where one training run of a search ends
    n_steps = inside.steps(sizes.budget)
    found: dict[str, list[list[Found]]] = {name: [] for name in (OURS, *BASELINES)}
    refitted, learned = [], []
    plain = {UNTUNED: [], LONGER: [], BOTH: []}
    for seed in sizes.seeds:
        problem = _problem(text, sizes, seed)
        trial = study.optimize(
            problem, n_steps=n_steps, inner=INNER, inner_steps=INNER_STEPS, batch_size=BATCH, outer=OUTER,
            val_batch_size=VAL_BATCH, response=RESPONSE, seed=seed,
            warmup_steps=inside.warmup,
            evaluate_every=max(1, n_steps // 25), wait=False, show_progress_bar=False,
        )  # fmt: skip
        for name in BASELINES:  # while the trial runs
            baseline = search(
                problem,
                RANGES,
                sampler=name,
                inner=INNER,
                batch_size=BATCH,
                n_steps=sizes.training,
                budget=sizes.budget,
                seed=seed,
            )
            found[name].append(baseline)
        both = _problem(text, sizes, seed, both=True)
        as_long = inside.warmup + n_steps * inside.inner_steps  # as long as the trial trains its weights
        plain[UNTUNED].append(trained(problem, INNER, sizes.training, batch_size=BATCH, seed=seed)["test"])
        plain[LONGER].append(trained(problem, INNER, as_long, batch_size=BATCH, seed=seed)["test"])
        plain[BOTH].append(trained(both, INNER, as_long, batch_size=BATCH, seed=seed)["test"])
        found[OURS].append(inside.found(trial.wait()))
        learned.append(tuned(trial))
        confirmed = trial.confirm(seeds=1, on="train+val")
        refitted.append({"loss": confirmed.mean("train+val")["test loss"]})
    losses = {name: [curve[-1] for curve in curves_] for name, curves_ in found.items()}
    rows = [_row(name, [f.val for f in last], [f.test for f in last]) for name, last in losses.items()]
    rows += [_row(name, None, test) for name, test in plain.items()]
    rows.append(_row(REFITTED, None, refitted))
    lab.table(
        f"Cross-entropy of a character, {sizes.n_train:,} characters of training and {sizes.n_held:,} of validation "
        f"text, {sizes.budget:,} training gradients, {len(sizes.seeds)} seeds",
        rows,
    )
    names = [name for name, _ in LanguageModel(2, 2).named_parameters()]
    rates = torch.stack([values["dropout"].sigmoid() for values in learned]).mean(0)
    decays = torch.stack([values["l2"].exp() for values in learned]).mean(0)
    lab.table(
        "What was learned, mean over seeds",
        [
            {"hyperparameter": f"dropout {place}", "value": float(r)}
            for place, r in zip(("before", "after"), rates, strict=True)
        ]
        + [{"hyperparameter": f"decay of {name}", "value": float(d)} for name, d in zip(names, decays, strict=True)],
    )
    panels = {
        title: {name: at(curve, part, "loss") for name, curve in found.items()}
        for part, title in (("val", "validation loss"), ("test", "test loss"))
    }
    curves(lab.file("language.png"), panels, x="training gradients", y="cross-entropy", columns=2)
    ours, best = (
        sum(f.val["loss"] for f in losses[name]) / len(losses[name])
        for name in (OURS, min(BASELINES, key=lambda name: sum(f.val["loss"] for f in losses[name])))
    )
    lab.found(f"Validation cross-entropy {ours:.3f} by the IFT, {best:.3f} by the better search that retrains.")


def _row(name: str, val: list[dict[str, float]] | None, test: list[dict[str, float]]) -> Row:
    return {
        "method": name,
        "validation": spread(metrics["loss"] for metrics in val) if val else None,
        "test": spread(metrics["loss"] for metrics in test),
    }


def _problem(text: str, sizes: Sizes, seed: int, *, both: bool = False) -> nestor.Problem:
    """Training text from a position that the seed chooses; validation and test text from two other positions."""
    vocabulary = sorted(set(text))
    starts = torch.randint(
        len(text) // 3 - sizes.n_train - sizes.n_held, (3,), generator=torch.Generator().manual_seed(seed)
    )
    third = len(text) // 3

    def part(k: int, length: int) -> Split:
        begin = k * third + int(starts[k])
        return _sequences(text[begin : begin + length], vocabulary, sizes.length)

    train, val, test = part(0, sizes.n_train), part(1, sizes.n_held), part(2, sizes.n_held)
    if both:
        train = concatenate(train, val)
    torch.manual_seed(seed)
    model = LanguageModel(len(vocabulary), sizes.hidden)
    kinds = [
        L2(model, per="tensor", init=DECAY).bounded(*RANGES["l2"]),
        Dropout(model).bounded(*RANGES["dropout"]),
    ]
    return nestor.Problem(model, kinds, cross_entropy, cross_entropy, train=train, val=val, test=test)


def _sequences(text: str, vocabulary: list[str], length: int) -> Split:
    """Characters as numbers, and those that follow each: both of shape (sequences, length)."""
    number = {character: index for index, character in enumerate(vocabulary)}
    tokens = torch.tensor([number[character] for character in text])
    n = (len(tokens) - 1) // length
    return tokens[: n * length].view(n, length), tokens[1 : n * length + 1].view(n, length)


def cross_entropy(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs.transpose(1, 2), batch["y"], reduction="none").mean(1)
