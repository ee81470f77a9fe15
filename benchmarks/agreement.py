"""Compare Neumann hypergradients with those of other libraries: `python -m benchmarks.agreement`.

Exits with 1 if a hypergradient differs by more than 1e-6 of its length in float32. curvlinops is not included: it
needs a module and does not support hyperparameters.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

from benchmarks.installed import install_peers
from benchmarks.peers import LIBRARIES
from benchmarks.problem import SMALL, TERMS
from nestor_engine import Bilevel, Hessian, Implicit, Neumann
from nestor_engine.responses import OuterStepContext
from nestor_engine.tensors.ravel import Ravel

TOLERANCE = 1e-6  # relative


def ours(terms: int) -> Tensor:
    """The hypergradient of `Implicit(Hessian(), Neumann(terms, alpha))`, all hyperparameters in one vector."""
    names = ("decay", "examples")
    listed = lambda hparams: [hparams[name] for name in names]
    bilevel = Bilevel(
        params=SMALL.weights,
        buffers={},
        hparams=dict(zip(names, SMALL.hparams, strict=True)),
        transforms={},
        prepare=lambda hparams, batch: batch,
        forward=lambda params, buffers, hparams, batch: (params, buffers),
        criterion=lambda weights, hparams, batch: SMALL.inner(weights, listed(hparams)),
        penalty=lambda params, hparams: params[0].new_zeros(()),
        evaluate=lambda params, buffers, hparams, batch: {"loss": SMALL.outer(params, listed(hparams))},
    )
    context = OuterStepContext.at(bilevel, Ravel(bilevel.params).vector(bilevel.params), {}, {})
    got = Implicit(Hessian(), Neumann(terms, alpha=SMALL.alpha)).hypergradient_at(context).gradient
    return flat(listed(got))


def flat(gradient: list[Tensor]) -> Tensor:
    return torch.cat([g.detach().double().reshape(-1) for g in gradient])


def main() -> int:
    """Print the table and return the exit code."""
    install_peers()
    differences = []
    print(f"{'relative difference to Nestor, float32':40}", *(f"{terms:>4} terms" for terms in TERMS))
    for library, hypergradient in LIBRARIES.items():
        if library == "curvlinops":
            continue
        row = []
        for terms in TERMS:
            mine = ours(terms)
            row.append(float((flat(hypergradient(SMALL, terms)) - mine).norm() / mine.norm()))
        differences += row
        print(f"{library:40}", *(f"{difference:10.1e}" for difference in row))
    agreed = all(difference <= TOLERANCE for difference in differences)  # NaN counts as disagreement
    print(f"largest: {max(differences):.1e}; {'agreed' if agreed else 'NOT agreed'} to {TOLERANCE:.0e}")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
