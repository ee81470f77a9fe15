"""The steepest directions of an operator, from its products with a few random vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from nestor_engine.curvature import Operator

PLACES = 2**17  # of all vectors, that are combined at a time


def sketch(operator: Operator, like: Tensor, rank: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """U of shape (rank, n) and Λ of shape (rank,), descending, with Uᵀ Λ U ≈ the undamped curvature [1, Algorithm 2.1].

    There are fewer where the curvature is of lower rank. The test vectors are random signs, a byte each, and the
    products with them become U in place: where [1] decomposes matrices as large, here inner products are summed in
    float64, and matrices of (rank, rank) decomposed, twice, which is as good [2]. So rank vectors and a quarter are
    all that is held, and the products are most of the time.

    [1] Frangella, Tropp and Udell (2021), Randomized Nyström preconditioning.
    [2] Yamamoto et al. (2015), Roundoff error analysis of the CholeskyQR2 algorithm.
    """
    n, eps = like.numel(), torch.finfo(like.dtype).eps
    tests = _signs(min(rank, n), n, seed)
    rows = like.new_empty(tests.shape)
    for few, images in zip(tests.split(operator.rows_at_a_time), rows.split(operator.rows_at_a_time), strict=True):
        images.copy_(operator.undamped(few.to(like)))
    nudge = eps * float(rows.norm()) / n**0.5  # keeps the core positive definite against rounding
    core = like.new_zeros(len(tests), len(tests), dtype=torch.float64)
    for few, images in zip(tests.split(PLACES, 1), rows.split(PLACES, 1), strict=True):
        images.add_(few.to(like), alpha=nudge)
        core += few.to(core) @ images.T.to(core)
    nothing = like.new_zeros(1, n), like.new_zeros(1)
    if not torch.isfinite(core).all():  # LAPACK would raise; whoever takes products of this operator meets it, too
        return nothing
    vectors, values = _eigen(core, eps)
    if not len(values):
        return nothing
    lower = vectors / values.sqrt()  # what makes Y a B with B Bᵀ the answer; of B = Q (R lower), only Q is large
    for _ in range(2):
        combination, R = _orthonormal(rows)
        rows, lower = _combined(rows, combination), R @ lower
    rotation, roots, _ = torch.linalg.svd(lower, full_matrices=False)
    return _combined(rows, rotation), (roots**2 - nudge).clamp_min(0).to(like)


def _signs(rank: int, n: int, seed: int) -> Tensor:
    """Shape (rank, n); rows of the identity where these are all that there are."""
    if rank == n:
        return torch.eye(n, dtype=torch.int8)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (rank, n), generator=generator, dtype=torch.int8, device="cpu").mul_(2).sub_(1)


def _orthonormal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """C and R, with the columns of Q = Y C orthonormal, but for rounding, and Q R = Y, for Y with these as columns."""
    gram = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for part in rows.split(PLACES, 1):
        exact = part.double()
        gram += exact @ exact.T
    vectors, squares = _eigen(gram, torch.finfo(gram.dtype).eps)
    return vectors / squares.sqrt(), (vectors * squares.sqrt()).T


def _combined(rows: Tensor, combination: Tensor) -> Tensor:
    """The columns of Y C as rows, in place, for there may be no room for both."""
    transposed = combination.T.to(rows)
    for part in rows.split(PLACES, 1):
        part[: len(transposed)] = transposed @ part
    return rows[: len(transposed)]


def _eigen(matrix: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Those eigenvectors, as columns, and eigenvalues of a symmetric matrix that are positive beyond rounding."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    keep = values > values.max().clamp_min(0) * eps * len(matrix)
    return vectors[:, keep], values[keep]
