"""Compare the products of KFAC with those of curvlinops: `python -m benchmarks.kfac_against_curvlinops`.

curvlinops is an independent implementation for modules with hooks. Nestor differs by design in what this does not
compare: any criterion and forward function instead of three losses and two modules; a diagonal for other parameters,
which curvlinops does not support; the penalty; running averages; and random signs instead of sampled labels, which also
work for criteria that are not likelihoods.
"""

# install_peers puts the libraries elsewhere than into .venv, so a type checker does not find them.
# pyright: reportMissingImports=false

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

import nestor_engine as engine
from benchmarks.installed import install_peers
from nestor_engine.autodiff.linearization import Linearization
from nestor_engine.hparams import Custom
from nestor_engine.tensors.ravel import Ravel

LOSSES = {
    "cross-entropy": (nn.CrossEntropyLoss(), lambda n: torch.arange(n) % 3),
    "squared error": (nn.MSELoss(), lambda n: torch.randn(n, 3, dtype=torch.float64)),
}
MODELS = {
    "MLP": (lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 3, bias=False)), (4,)),
    "CNN": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(36, 3)),
        (2, 5, 5),
    ),
}


def main() -> None:
    install_peers()
    from curvlinops import FisherType, KFACLinearOperator

    fishers = {"exact": FisherType.TYPE2, "empirical": FisherType.EMPIRICAL}
    torch.manual_seed(0)
    for model_name, (make, shape) in MODELS.items():
        for loss_name, (loss, targets) in LOSSES.items():
            for fisher, theirs in fishers.items():
                model, x, y = make().double(), torch.randn(12, *shape, dtype=torch.float64), targets(12)
                ours = _ours(model, loss, x, y, fisher)
                parameters = list(model.parameters())
                other = KFACLinearOperator(
                    model, loss, parameters, [(x, y)], fisher_type=theirs, separate_weight_and_bias=False
                )
                v = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
                # curvlinops divides the squared gradient by the number of outputs; Nestor uses the loss unchanged.
                scale = 3 if loss_name == "squared error" and fisher == "empirical" else 1
                difference = float((scale * ours(v) - other @ v).norm() / (other @ v).norm())
                print(f"{model_name:4} {loss_name:14} {fisher:10} relative difference {difference:.1e}")


def _ours(model: nn.Module, loss: nn.Module, x: torch.Tensor, y: torch.Tensor, fisher) -> engine.curvature.Operator:
    per_example = {nn.CrossEntropyLoss: F.cross_entropy, nn.MSELoss: F.mse_loss}[type(loss)]
    scaled = lambda outputs, batch, hparams: per_example(outputs, batch["y"]) * hparams["scale"]
    scale = Custom({"scale": torch.ones((), dtype=x.dtype)})
    problem = engine.Problem(model, scale, scaled, scaled, train=(x, y), val=(x, y))
    bilevel, ravel = problem.bilevel(), Ravel(problem.bilevel().params)
    batch = {"x": x, "y": y, "index": torch.arange(len(x))}
    point = Linearization(bilevel, ravel, ravel.vector(bilevel.params), bilevel.buffers, bilevel.hparams, batch)
    return engine.KFAC(0.0, fisher=fisher).operator(point)


if __name__ == "__main__":
    main()
