"""Losses and metrics of a split of several chunks are those of scikit-learn, here and from a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torch import Tensor, nn
from torch.nn import functional as F

import nestor_engine as engine
from nestor.errors import BilevelIncomplete, OutputNotJoinable, SumAndWeightInvalid
from nestor_engine.hparams import L2
from nestor_engine.measuring.reads import Reads
from nestor_engine.objective import Batch, Bilevel, Tensors
from nestor_engine.program import load

N, CLASSES, LENGTH, IGNORED = 2500, 3, 6, -100  # three chunks, the last of which is odd


def rows(generator: torch.Generator) -> Tensors:
    """Sorted by class, so that a chunk lacks classes."""
    y = torch.arange(N) * CLASSES // N
    x = torch.randn(N, 5, generator=generator) + 0.5 * F.one_hot(y, 5)
    tokens = torch.randint(0, CLASSES, (N, LENGTH), generator=generator)
    lengths = 1 + torch.arange(N) * (LENGTH - 1) // N
    return {
        "x": x,
        "y": y,
        "target": x[:, 0] + 0.3 * torch.randn(N, generator=generator),
        "tokens": tokens.masked_fill(torch.arange(LENGTH) >= lengths[:, None], IGNORED),
    }


@cache
def columns() -> Tensors:
    return rows(torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Returns one score for each class, one for each class and token, a number, and what no metric reads."""

    def __init__(self, form: Callable[..., Any] = dict) -> None:
        super().__init__()
        self.head, self.token_head = nn.Linear(5, CLASSES), nn.Linear(5, LENGTH * CLASSES)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        tokens = self.token_head(x).reshape(-1, LENGTH, CLASSES)
        return self.form(logits=self.head(x), tokens=tokens, number=x[:, 1], hidden=[x.repeat(1, 50)])


@dataclass
class Outputs:
    logits: Tensor
    tokens: Tensor
    number: Tensor
    hidden: list[Tensor]


def of(outputs: Any, name: str) -> Tensor:
    return outputs[name] if isinstance(outputs, dict) else getattr(outputs, name)


# --- metrics in torch, and scikit-learn's on the same outputs -------------------------------------


def hits(outputs: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Right positives, positives and members of class 1."""
    chosen, members = of(outputs, "logits").argmax(1) == 1, batch["y"] == 1
    return (chosen & members).sum(), chosen.sum(), members.sum()


def precision(outputs: Any, batch: Batch) -> Tensor:
    right, chosen, _ = hits(outputs, batch)
    return right / chosen


def recall(outputs: Any, batch: Batch) -> Tensor:
    right, _, members = hits(outputs, batch)
    return right / members


def f1(outputs: Any, batch: Batch) -> Tensor:
    right, chosen, members = hits(outputs, batch)
    return 2 * right / (chosen + members)


def auc(outputs: Any, batch: Batch) -> Tensor:
    """From ranks [Mann and Whitney]; tied scores share one."""
    score, positive = of(outputs, "logits")[:, 1].contiguous(), (batch["y"] == 1).double()
    ordered = score.sort().values
    low, high = torch.searchsorted(ordered, score), torch.searchsorted(ordered, score, right=True)
    ranks, n = (low + high + 1) / 2, positive.sum()
    return ((ranks * positive).sum() - n * (n + 1) / 2) / (n * (positive.shape[0] - n))


def accuracy(outputs: Any, batch: Batch) -> Tensor:
    return (of(outputs, "logits").argmax(1) == batch["y"]).float().mean()


def right(outputs: Any, batch: Batch) -> Tensor:
    return (of(outputs, "logits").argmax(1) == batch["y"]).float()


def r2(outputs: Any, batch: Batch) -> Tensor:
    error = (of(outputs, "number") - batch["target"]).square().sum()
    return 1 - error / (batch["target"] - batch["target"].mean()).square().sum()


def token_loss(outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits, labels = of(outputs, "tokens").reshape(-1, CLASSES), batch["tokens"].reshape(-1)
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum"), (labels != IGNORED).sum()


def perplexity(outputs: Any, batch: Batch) -> Tensor:
    total, weight = token_loss(outputs, batch)
    return (total / weight).exp()


def token_accuracy(outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    labels = batch["tokens"]
    return (of(outputs, "tokens").argmax(2) == labels).sum().float(), (labels != IGNORED).sum()


METRICS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (precision, recall, f1, auc, accuracy, right, r2, token_loss, perplexity, token_accuracy)
}


def from_scikit_learn(outputs: Any, batch: Batch) -> dict[str, float]:
    y, logits = batch["y"].numpy(), of(outputs, "logits").numpy()
    tokens, labels = of(outputs, "tokens").reshape(-1, CLASSES), batch["tokens"].reshape(-1)
    kept = labels != IGNORED
    loss = sklearn.log_loss(labels[kept].numpy(), tokens[kept].double().softmax(1).numpy())
    is_one = {"y_true": y == 1, "y_pred": logits.argmax(1) == 1}
    share = sklearn.accuracy_score(y, logits.argmax(1))
    return {
        "precision": sklearn.precision_score(**is_one),
        "recall": sklearn.recall_score(**is_one),
        "f1": sklearn.f1_score(**is_one),
        "auc": sklearn.roc_auc_score(y == 1, logits[:, 1]),
        "accuracy": share,
        "right": share,
        "r2": sklearn.r2_score(batch["target"].numpy(), of(outputs, "number").numpy()),
        "token_loss": loss,
        "perplexity": math.exp(loss),
        "token_accuracy": sklearn.accuracy_score(labels[kept].numpy(), tokens[kept].argmax(1).numpy()),
    }


def problem(form: Callable[..., Any] = dict, metrics: dict[str, Any] | None = None, val_loss: Any = token_loss) -> Any:
    torch.manual_seed(0)
    net = Net(form)
    train_loss = lambda out, batch: F.cross_entropy(of(out, "logits"), batch["y"])
    split = columns()
    return engine.Problem(
        net, L2(net, per="global"), train_loss, val_loss, train=split, val=split, test=split, metrics=metrics
    )


def evaluated(bilevel: Bilevel, split: Tensors | None = None) -> dict[str, float]:
    return engine.evaluate(bilevel, bilevel.params, bilevel.buffers, bilevel.hparams, split or columns())


@pytest.mark.parametrize(("form", "names"), [(dict, METRICS), (Outputs, ("auc", "token_accuracy"))])
def test_metrics_of_a_split_are_those_of_scikit_learn(form: Callable[..., Any], names: Iterable[str]):
    stated = problem(form, {name: METRICS[name] for name in names})
    with torch.no_grad():
        theirs = from_scikit_learn(stated.model(columns()["x"]), columns())
    expected = {name: theirs[name] for name in names} | {"loss": theirs["token_loss"]}
    assert evaluated(stated.bilevel()) == pytest.approx(expected, rel=1e-5)

    program = stated.export()
    assert evaluated(load(program.graphs, program.tensors)) == pytest.approx(expected, rel=1e-5)


def test_scikit_learns_functions_can_be_metrics():
    def with_sklearn(outputs: dict[str, Tensor], batch: Batch) -> Any:
        return sklearn.f1_score(batch["y"] == 1, outputs["logits"].argmax(1).numpy() == 1)

    def of_lists(outputs: dict[str, Tensor], batch: Batch) -> float:
        return sum(outputs["logits"].argmax(1).tolist()) / len(batch["y"])

    def with_numpy(outputs: dict[str, Tensor], batch: Batch) -> Any:
        return np.asarray(outputs["number"]).mean()

    def of_arrays(outputs: dict[str, Tensor], batch: Batch) -> Any:
        return np.asarray(outputs["number"]).sum(), len(batch["y"])

    given = {f.__name__: f for f in (with_sklearn, of_lists, with_numpy, of_arrays)}
    stated = problem(metrics=given)
    with torch.no_grad():
        outputs = stated.model(columns()["x"])
        expected: dict[str, Any] = {name: function(outputs, columns()) for name, function in given.items()}
    expected["of_arrays"] = expected["of_arrays"][0] / N
    found = evaluated(stated.bilevel())
    assert {name: found[name] for name in given} == pytest.approx(expected, rel=1e-5)


def test_a_loss_of_sums_and_weights_steers_by_its_mean():
    bilevel = problem().bilevel()
    mean = problem(val_loss=lambda out, batch: torch.div(*token_loss(out, batch))).bilevel()
    response = engine.Implicit(engine.GaussNewton(), engine.Neumann(1, alpha=0.1))
    config = engine.Config(n_steps=1, inner_steps=1, batch_size=100, val_batch_size=700, response=response)
    data = engine.Data.of(train=columns(), val=columns())
    (one,) = engine.optimize(bilevel, data, config)
    (other,) = engine.optimize(mean, data, config)
    assert one.val_loss == pytest.approx(other.val_loss, rel=1e-6)
    assert one.hypergradient_norm == pytest.approx(other.hypergradient_norm, rel=1e-5)


def test_a_weight_that_depends_on_hyperparameters_has_a_gradient():
    def weighed(outputs: Tensor, batch: Batch, hparams: Tensors) -> tuple[Tensor, Tensor]:
        weights = torch.stack([batch["x"][:, 0], torch.ones(6)]).T.exp() @ hparams["mix"]
        return (weights * F.cross_entropy(outputs, batch["y"], reduction="none")).sum(), weights.sum()

    def gradient(val_loss: Callable[..., Any]) -> Tensor:
        torch.manual_seed(0)
        net = nn.Linear(2, 2)
        data = torch.randn(6, 2), torch.arange(6) % 2
        train_loss = lambda out, batch: F.cross_entropy(out, batch["y"])
        stated = engine.Problem(net, {"mix": torch.tensor([1.0, 2.0])}, train_loss, val_loss, train=data, val=data)
        config = engine.Config(n_steps=1, inner_steps=1, response=engine.DirectOnly())
        (step,) = engine.optimize(stated.bilevel(), stated.data, config)
        return step.state.previous["mix"]

    torch.testing.assert_close(
        gradient(weighed), gradient(lambda out, batch, hparams: torch.div(*weighed(out, batch, hparams)))
    )


def test_only_what_a_metric_reads_is_kept(monkeypatch: pytest.MonkeyPatch):
    given: list[Any] = []

    def seen(outputs: dict[str, Any], batch: Batch) -> Tensor:
        given.append(outputs)
        return outputs["number"].max()

    found = evaluated(problem(metrics={"seen": seen, "token_accuracy": token_accuracy}).bilevel())
    assert found["seen"] == pytest.approx(columns()["x"][:, 1].max().item())
    assert len(given) == 2  # the first chunk, which shows what it reads, and everything
    assert given[-1]["number"].shape == (N,)
    assert given[-1]["hidden"][0].device.type == given[-1]["tokens"].device.type == "meta"
    given.clear()
    evaluated(problem(metrics={"seen": seen}).bilevel(), {name: values[:9] for name, values in columns().items()})
    assert len(given) == 1


def test_reads_sees_every_way_to_read_a_tensor():
    with torch.no_grad():
        ways: dict[str, Callable[[Tensor], object]] = {
            "operator": lambda t: t + 1,
            "index": lambda t: t[0],
            "position": lambda t: torch.arange(9)[t.long()],
            "method": lambda t: t.argmax(),
            "numpy": lambda t: t.numpy(),
            "array": np.asarray,
            "list": lambda t: t.tolist(),
            "item": lambda t: t[:1].item(),
            "iteration": lambda t: next(iter(t)),
            "sequence": lambda t: torch.stack([t, t]),
            "keyword": lambda t: F.mse_loss(input=torch.zeros(3), target=t),
            "operator of torch": lambda t: torch.ops.aten.sin.default(t),
            "in place": lambda t: torch.zeros(3).add_(t),
        }
        for name, read in ways.items():
            tensor, other = torch.ones(3), torch.ones(3)
            with Reads() as reads:
                read(tensor)
            assert reads.has_seen(tensor), name
            assert not reads.has_seen(other), name


class Shapes(nn.Module):
    """Outputs with their examples in other places than the first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Any]:
        logits = self.head(x)
        return {
            "logits": logits,
            "transposed": logits.T,
            "flat": logits.reshape(-1),
            "mean": x.mean(),
            "constant": torch.arange(4),
            "count": torch.tensor(len(x)),
            "varying": x[: len(x) // 3, 0].sum() * torch.ones(len(x) % 7),
            "text": "a name",
        }


def test_outputs_of_other_forms_are_joined_or_refused():
    def found(metric: Callable[..., Any]) -> float:
        net = Shapes()
        loss = lambda out, batch: F.cross_entropy(out["logits"], batch["y"])
        stated = engine.Problem(net, L2(net), loss, loss, train=columns(), val=columns(), metrics={"metric": metric})
        bilevel = stated.bilevel()
        return evaluated(bilevel)["metric"]

    def same(out: dict[str, Any], batch: Batch) -> bool:
        assert out["text"] == "a name"
        assert torch.equal(out["constant"], torch.arange(4))
        expected = out["logits"]
        return torch.equal(out["transposed"].T, expected) and torch.equal(out["flat"].reshape(-1, CLASSES), expected)

    assert found(same) == 1.0
    assert found(lambda out, batch: out["mean"]) == pytest.approx(columns()["x"].mean().item(), abs=1e-6)
    for name in ("count", "varying"):
        with pytest.raises(OutputNotJoinable, match=r"'metric' reads an output of shape .* Return the pair"):
            found(lambda out, batch, name=name: out[name].float().sum())


PAIRS: dict[str, Any] = {
    "of rows": lambda out, batch: (of(out, "number"), len(batch["y"])),
    "of weights per row": lambda out, batch: (of(out, "number").sum(), torch.ones(len(batch["y"]))),
    "of texts": lambda out, batch: ("1", 2),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_that_is_no_sum_and_weight_is_refused(name: str):
    with pytest.raises(SumAndWeightInvalid, match=r"The metric 'pair' .* Return two scalars: the sum"):
        evaluated(problem(metrics={"pair": PAIRS[name]}).bilevel())


def test_metrics_that_are_not_finite_are_recorded_and_said_once():
    values = {"undefined": math.nan, "large": math.inf, "small": -math.inf}
    metrics = {name: lambda out, batch, value=value: out["number"].mean() * 0 + value for name, value in values.items()}
    stated = problem(metrics=metrics)
    config = engine.Config(n_steps=2, inner_steps=1, batch_size=100, evaluate_every=1)
    first, second = engine.optimize(stated.bilevel(), stated.data, config)
    for recorded in (first.record()["val_metrics"], second.record()["test_metrics"]):
        assert recorded == {"undefined": "NaN", "large": "Infinity", "small": "-Infinity"}
    assert sum("The metric 'large' is inf on validation data" in warning for warning in first.warnings) == 1
    assert not any("The metric" in warning for warning in second.warnings)
    assert second.val_metrics["large"] == math.inf


def test_a_bilevel_of_means_is_evaluated_as_before():
    def evaluate(params: Tensors, buffers: Tensors, values: Tensors, batch: Batch) -> Tensors:
        errors = (batch["x"] @ params["w"] - batch["target"]).square()
        return {"loss": errors.mean(), "error": errors.mean().sqrt()}

    parts: dict[str, Any] = {
        "params": {"w": torch.zeros(5)},
        "buffers": {},
        "hparams": {"decay": torch.zeros(())},
        "transforms": {},
        "prepare": lambda values, batch: batch,
        "forward": lambda params, buffers, values, batch: (batch["x"] @ params["w"], buffers),
        "criterion": lambda outputs, values, batch: (outputs - batch["target"]).square().mean(),
        "penalty": lambda params, values: values["decay"].exp() * params["w"].square().sum(),
    }
    bilevel = Bilevel(**parts, evaluate=evaluate)
    target = columns()["target"]
    chunks = target.split(1024)
    means = sum(chunk.square().mean().sqrt().item() * len(chunk) for chunk in chunks) / N
    assert evaluated(bilevel) == pytest.approx({"loss": target.square().mean().item(), "error": means}, rel=1e-5)
    step = next(engine.optimize(bilevel, engine.Data.of(columns(), columns()), engine.Config(n_steps=1)))
    assert step.val_metrics["error"] == pytest.approx(math.sqrt(step.val_loss), rel=1e-5)
    with pytest.raises(BilevelIncomplete, match="needs the functions predict and val_loss, or evaluate"):
        Bilevel(**parts)
