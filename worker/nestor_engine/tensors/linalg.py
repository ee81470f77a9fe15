"""The functions of torch.linalg that the engine calls, with types: torch binds them from C without annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:

    def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
        """Eigenvalues, ascending, and eigenvectors, as columns, of symmetric matrices."""
        ...

    def qr(A: Tensor) -> tuple[Tensor, Tensor]:
        """Q with orthonormal columns and an upper triangular R, with A = Q R."""
        ...

    def solve_ex(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """The solution of A x = B, and a number that is not zero if A is singular; it raises nothing."""
        ...

    def svd(A: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """U, singular values, descending, and Vᴴ."""
        ...

    def vector_norm(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """The Euclidean norm of all entries, shape (); `dtype` is that of the sum."""
        ...

else:
    from torch.linalg import eigh as eigh
    from torch.linalg import qr as qr
    from torch.linalg import solve_ex as solve_ex
    from torch.linalg import svd as svd
    from torch.linalg import vector_norm as vector_norm
