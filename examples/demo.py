"""A real tuning job on real data, through the complete service, compared with its baselines.

    make demo

The data are handwritten digits: 1,000 training examples, of which 45 % have the label of the next digit, and 100 clean
validation examples. One weight for each training example and one decay for each tensor are tuned by gradient inside one
training run. Then each trial is confirmed: the network trains once more from its first initialization, on training and
validation data together, under the tuned values. All figures are accuracies on test data that steer nothing, averaged
over seeds that no choice was made on.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import nestor
from examples.service import running_service
from nestor.hparams import L2, ExampleWeights

SEEDS = (10, 11, 12)
N_TRAIN, N_VAL, LABEL_NOISE = 1_000, 100, 0.45
N_STEPS = 300  # outer steps, of five inner ones each
DECAYS = (-9.0, -4.5, -3.0)  # logarithms; the grid of the baselines
MILD_DECAYS = DECAYS[:2]  # the largest is never the best on training data with clean labels
INITIAL_DECAY = -4.5
INNER, INNER_STEPS, BATCH = nestor.Adam(1e-3), 5, 128
OUTPUT = Path("demo-output")
TUNED = "tuned, confirmed on all data"

Split = tuple[Tensor, Tensor]


def main() -> None:
    torch.set_num_threads(1)
    started = time.monotonic()
    OUTPUT.mkdir(exist_ok=True)
    with running_service() as server, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        print(f"Nestor runs at {server}")
        baselines = [pool.submit(baseline_accuracies, seed) for seed in SEEDS]
        study = nestor.create_study("demo: noisy digits", server=server, load_if_exists=True)
        trials, confirmed, seconds = [], [], []
        for seed in SEEDS:
            train, val, test = digits(seed)
            began = time.monotonic()
            trial = study.optimize(
                problem(seed, train, val, test),
                n_steps=N_STEPS,
                seed=seed,
            )
            seconds.append(time.monotonic() - began)
            trials.append(trial)
            confirmed.append(trial.confirm(seeds=1, on="train+val"))
        rows = {TUNED: [found.mean("train+val")["test accuracy"] for found in confirmed]}
        rows["tuned, as the best step left it"] = [found.tuned.test_metrics["accuracy"] for found in confirmed]
        for name in (found := [future.result() for future in baselines])[0]:
            rows[name] = [accuracies[name] for accuracies in found]
        report(rows, trials, statistics.mean(seconds))
        print(f"The demo took {time.monotonic() - started:.0f} s.")


def digits(seed: int) -> tuple[Split, Split, Split]:
    """Training data with wrong labels, clean validation data, and the other digits as test data."""
    images, labels = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    x, y = torch.tensor(images, dtype=torch.float32)[order] / 16, torch.tensor(labels)[order]
    wrong = torch.rand(N_TRAIN, generator=generator) < LABEL_NOISE
    noisy = torch.where(wrong, (y[:N_TRAIN] + 1) % 10, y[:N_TRAIN])
    rest = N_TRAIN + N_VAL
    return (x[:N_TRAIN], noisy), (x[N_TRAIN:rest], y[N_TRAIN:rest]), (x[rest:], y[rest:])


def cross_entropy(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return F.cross_entropy(outputs, batch["y"], reduction="none")


def accuracy(outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return (outputs.argmax(1) == batch["y"]).float()


def problem(seed: int, train: Split, val: Split, test: Split, decay: float = INITIAL_DECAY) -> nestor.Problem:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return nestor.Problem(
        model,
        hparams=[L2(model, per="tensor", init=decay), ExampleWeights(len(train[0]))],
        train_loss=cross_entropy,
        val_loss=cross_entropy,
        metrics={"accuracy": accuracy},
        train=train,
        val=val,
        test=test,
    )


def concatenate(a: Split, b: Split) -> Split:
    return torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])


def trained_accuracies(
    seed: int, train: Split, val: Split, test: Split, *, decay: float = INITIAL_DECAY
) -> tuple[float, float]:
    """Validation and test accuracy of plain training with as many inner steps as a trial."""
    stated = problem(seed, train, val, test, decay)
    bilevel, data = stated.bilevel(), stated.data
    fitted = nestor.fit(bilevel, data.train, n_steps=INNER_STEPS * N_STEPS, inner=INNER, batch_size=BATCH, seed=seed)
    evaluations = [
        nestor.evaluate(bilevel, fitted.params, fitted.buffers, bilevel.hparams, split)
        for split in (data.val, data.splits["test"])
    ]
    return evaluations[0]["accuracy"], evaluations[1]["accuracy"]


def baseline_accuracies(seed: int) -> dict[str, float]:
    """Test accuracy of each baseline. The last two use the decay that is best on the test data."""
    torch.set_num_threads(1)
    train, val, test = digits(seed)

    def grid(on: Split, decays: tuple[float, ...]) -> list[tuple[float, float]]:
        return [trained_accuracies(seed, on, val, test, decay=decay) for decay in decays]

    noisy = grid(train, DECAYS)
    return {
        "untuned": noisy[DECAYS.index(INITIAL_DECAY)][1],
        "grid": max(noisy)[1],
        "validation data alone": max(on_test for _, on_test in grid(val, MILD_DECAYS)),
        "both together": max(on_test for _, on_test in grid(concatenate(train, val), MILD_DECAYS)),
    }


def report(rows: dict[str, list[float]], trials: list[nestor.Trial], seconds: float) -> None:
    figure = nestor.visualization.plot_optimization_history(trials)
    plot = OUTPUT / "trajectory.html"
    figure.write_html(plot)
    print(f"\n{'test accuracy':32}{'mean':>8}" + "".join(f"{f'seed {seed}':>10}" for seed in SEEDS))
    for name, values in rows.items():
        print(f"{name:32}{statistics.mean(values):8.1%}" + "".join(f"{value:10.1%}" for value in values))
    mean = {name: f"{100 * statistics.mean(values):.1f} %" for name, values in rows.items()}
    count = sum(value.size for value in trials[0].hparams.numpy().values())
    print(f"\nThe trajectories are plotted in {plot}.\n")
    print(
        f"test accuracy {mean[TUNED]} tuned · "
        f"{mean['untuned']} untuned · {mean['grid']} grid · "
        f"{mean['validation data alone']} validation data alone · {mean['both together']} both together · "
        f"{count:,} hyperparameters · {N_STEPS} steps · {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
