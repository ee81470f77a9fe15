"""The steepest directions of an operator, from its products with a few random vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from nestor_engine.curvature import Operator
from nestor_engine.tensors.linalg import eigh, svd, vector_norm

PLACES = 2**17  # entries of each vector that are combined at a time


def sketch(operator: Operator, like: Tensor, rank: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """U of shape (rank, n) and Λ of shape (rank,), descending, with Uᵀ Λ U ≈ the undamped curvature [1, Algorithm 2.1].

    There are fewer rows if the curvature has a lower rank. The test vectors are random signs, one byte each, and the
    products with them become U in place. [1] decomposes matrices of shape (rank, n). Here inner products are summed in
    float64 and matrices of shape (rank, rank) are decomposed, twice, which is as accurate [2]. So the memory is that of
    1.25 × rank vectors, and the products take most of the time.

    [1] Frangella, Tropp and Udell (2021), Randomized Nyström preconditioning.
    [2] Yamamoto et al. (2015), Roundoff error analysis of the CholeskyQR2 algorithm.
    """
    n, eps = like.numel(), torch.finfo(like.dtype).eps
    tests = _signs(min(rank, n), n, seed)
    rows = like.new_empty(tests.shape)
    for few, images in zip(
        torch.split(tests, operator.rows_at_a_time), torch.split(rows, operator.rows_at_a_time), strict=True
    ):
        images.copy_(operator.undamped(few.to(like)))
    nudge = eps * float(vector_norm(rows)) / n**0.5  # keeps the core positive definite against rounding
    core = like.new_zeros(len(tests), len(tests), dtype=torch.float64)
    for few, images in zip(torch.split(tests, PLACES, 1), torch.split(rows, PLACES, 1), strict=True):
        images.add_(few.to(like), alpha=nudge)
        core += few.to(core) @ images.T.to(core)
    nothing = like.new_zeros(1, n), like.new_zeros(1)
    if not torch.isfinite(core).all():  # LAPACK would raise; the solver reports the non-finite products
        return nothing
    vectors, values = _eigen(core, eps)
    if not len(values):
        return nothing
    lower = vectors / values.sqrt()  # B = Y lower has B Bᵀ ≈ the curvature; of B = Q (R lower), only Q is large
    for _ in range(2):
        combination, R = _orthonormal(rows)
        rows, lower = _combined(rows, combination), R @ lower
    rotation, roots, _ = svd(lower, full_matrices=False)
    return _combined(rows, rotation), (roots**2 - nudge).clamp_min(0).to(like)


def _signs(rank: int, n: int, seed: int) -> Tensor:
    """Random signs, shape (rank, n); the identity if rank = n."""
    if rank == n:
        return torch.eye(n, dtype=torch.int8)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (rank, n), generator=generator, dtype=torch.int8, device="cpu").mul_(2).sub_(1)


def _orthonormal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """C and R for Y = rowsᵀ: the columns of Q = Y C are orthonormal up to rounding, and Q R = Y."""
    gram = rows.new_zeros(len(rows), len(rows), dtype=torch.float64)
    for part in torch.split(rows, PLACES, 1):
        exact = part.double()
        gram += exact @ exact.T
    vectors, squares = _eigen(gram, torch.finfo(gram.dtype).eps)
    return vectors / squares.sqrt(), (vectors * squares.sqrt()).T


def _combined(rows: Tensor, combination: Tensor) -> Tensor:
    """The columns of Y C as rows, in place, because both may not fit into memory."""
    transposed = combination.T.to(rows)
    for part in torch.split(rows, PLACES, 1):
        part[: len(transposed)] = transposed @ part
    return rows[: len(transposed)]


def _eigen(matrix: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The eigenvectors, as columns, and eigenvalues of a symmetric matrix; only the eigenvalues above rounding."""
    values, vectors = eigh((matrix + matrix.T) / 2)
    keep = values > values.max().clamp_min(0) * eps * len(matrix)
    return vectors[:, keep], values[keep]
