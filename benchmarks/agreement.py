"""Whether Betty, TorchOpt and hypergrad compute the same Neumann hypergradients: `python -m benchmarks.agreement`.

They are installed into an environment of their own, which shares this one's torch. Exits with 1 where a hypergradient
differs by more than 1e-6 of its length, in float32.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.problem import ALPHA, HPARAMS, TERMS, WEIGHTS, inner, outer
from nestor_engine import Bilevel, Hessian, Implicit, Neumann
from nestor_engine.flat import Ravel
from nestor_engine.responses import Moment

TOLERANCE = 1e-6  # relative
ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nestor" / "peers"
# Without their dependencies, which are here already or not needed: betty's are written in a form that pip refuses.
PEERS = "betty-ml==0.1.1 torchopt==0.7.3 hypergrad==0.0.1 optree==0.17.0 graphviz==0.21".split()


def peers() -> dict[str, list[list[float]]]:
    """library → the hypergradient at each number of terms."""
    python = CACHE / "bin" / "python"
    installed = CACHE / "installed.txt"
    if not installed.exists() or installed.read_text().split() != PEERS:
        venv.create(CACHE, clear=True, with_pip=True)
        (packages,) = (CACHE / "lib").glob("python*/site-packages")
        shared = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "shared.pth").write_text("\n".join(shared) + "\n")
        subprocess.run([python, "-m", "pip", "install", "-qq", "--no-deps", *PEERS], check=True)
        installed.write_text(" ".join(PEERS))
    done = subprocess.run([python, "-m", "benchmarks.peers"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def ours(terms: int) -> Tensor:
    """The hypergradient of `Implicit(Hessian(), Neumann(terms, alpha=ALPHA))`, all hyperparameters in one vector."""
    names = ("decay", "examples")
    listed = lambda hparams: [hparams[name] for name in names]
    bilevel = Bilevel(
        params=WEIGHTS,
        buffers={},
        hparams=dict(zip(names, HPARAMS, strict=True)),
        transforms={},
        prepare=lambda hparams, batch: batch,
        forward=lambda params, buffers, hparams, batch: (params, buffers),
        criterion=lambda weights, hparams, batch: inner(weights, listed(hparams)),
        penalty=lambda params, hparams: params[0].new_zeros(()),
        evaluate=lambda params, buffers, hparams, batch: {"loss": outer(params, listed(hparams))},
    )
    ravel = Ravel(bilevel.params)
    moment = Moment(bilevel, ravel, ravel.vector(bilevel.params), {}, bilevel.hparams, {}, {})
    got = Implicit(Hessian(), Neumann(terms, alpha=ALPHA)).hypergradient(moment, {}).gradient
    return torch.cat([value.double().reshape(-1) for value in listed(got)])


def main() -> int:
    """Print the table, and answer with the process's exit code."""
    differences = []
    print(f"{'relative difference to Nestor, float32':40}", *(f"{terms:>4} terms" for terms in TERMS))
    for library, answers in peers().items():
        row = []
        for terms, answer in zip(TERMS, answers, strict=True):
            mine = ours(terms)
            row.append(float((torch.tensor(answer, dtype=torch.float64) - mine).norm() / mine.norm()))
        differences += row
        print(f"{library:40}", *(f"{difference:10.1e}" for difference in row))
    agreed = all(difference <= TOLERANCE for difference in differences)  # phrased so that NaN disagrees
    print(f"largest: {max(differences):.1e}; {'agreed' if agreed else 'NOT agreed'} to {TOLERANCE:.0e}")
    return 0 if agreed else 1


if __name__ == "__main__":
    sys.exit(main())
