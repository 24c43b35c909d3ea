"""The largest eigenvalues of a symmetric matrix that is known only by its products with vectors.

They are found by Rayleigh and Ritz's method in a subspace, which grows by the residual of the first
eigenpair that is not found yet (Davidson's method without a preconditioner). At the end Lanczos'
method starts from a fresh random vector, to see whether an eigenvalue was overlooked.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# What rounding leaves of a product or of a vector, in units of the dtype's eps. With half of it a
# search may never converge; twice as much refuses tolerances that can be reached.
DIGITS = 10
# The probability, at most, that Lanczos' method overlooks a larger eigenvalue in the final check.
# A tenth of it takes some 10 % more products; ten times as much promises nothing.
OVERLOOKED = 0.1
# The final check takes at most so many times the products that the search took. With half of it,
# 1 % of the eigenvalues of a tight cluster that changes its order are overlooked after a warm
# start; doubled, an eigenvalue that is almost equal to the next one takes twice the products.
LONGEST = 2


class Spectrum(NamedTuple):
    """The k largest eigenvalues λ₁ ≥ λ₂ ≥ … that were found, and how accurate they are.

    values : Tensor, float64, shape (k,)
        Rayleigh quotients. Where they have not converged, they are lower bounds of the eigenvalues,
        up to round-off.
    residuals : Tensor, float64, shape (k,)
        ‖Hv − λv‖ of each. Some eigenvalue is at most that far from λ; if the next one is Δ away, it
        is about ‖Hv − λv‖²/Δ from λ.
    converged : Tensor, bool, shape (k,)
        Whether the residual is at most the tolerance × the largest |Rayleigh quotient| so far, and
        so are the residuals of all larger eigenvalues. All are False if ``max_products`` ended the
        final check, or if products underflow.
    vectors : Tensor, shape (k, n)
        The eigenvectors, as orthonormal rows, of the parameters' dtype, or float32 if that is
        narrower.
    products : int
        The number of products with H.
    """

    values: Tensor
    residuals: Tensor
    converged: Tensor
    vectors: Tensor
    products: int


def top_eigenpairs(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    tolerance: float,
    max_products: int,
    *,
    warm: bool = False,
    random: torch.Generator | None = None,
    least: float = 0.0,
) -> Spectrum:
    """The eigenpairs of the largest eigenvalues of a symmetric matrix, given its products.

    An eigenvalue can be overlooked if the start has hardly any part along its eigenvector. So in
    the end m steps of Lanczos' method start from a fresh random vector outside the subspace. If an
    eigenvalue larger than λ_k was overlooked, m steps miss it with a probability of at most
    1.648·√n·exp(−(2m − 1)·√ε), where ε is the distance from λ_k to the largest eigenvalue that they
    see below it, in units of the width of the spectrum. m is so large that this is small, but the
    check is at most twice as long as the search was.

    Parameters
    ----------
    product : callable (Tensor, shape (n,)) → Tensor, shape (n,)
        v ↦ Hv.
    start : Tensor, shape (k, n)
        k linearly independent rows, where k eigenvalues are wanted.
    tolerance, max_products
        As in :class:`~swd_dynamics.tensors.Curvature`.
    warm : bool
        Whether the rows are almost the eigenvectors. Then the search starts from their sum alone,
        which takes fewer products. The rows themselves join the subspace later, to show what is
        missing.
    random : torch.Generator, optional
        Of the fresh vectors; by default a new one.
    least : float
        The norm of the error of Hv, ‖v‖ = 1, where products underflow.

    All values are NaN if a product was not finite.

    Source: Kuczyński & Woźniakowski 1992, SIAM J. Matrix Anal. Appl. 13, 1094, theorem 4.2.

    Examples
    --------
    >>> matrix, start = torch.tensor([2.0, 5.0, -7.0]), torch.ones(1, 3, dtype=torch.float64)
    >>> top_eigenpairs(lambda v: v * matrix, start, 1e-6, 9).values.round(decimals=9)
    tensor([5.], dtype=torch.float64)
    """
    k, n = start.shape
    random = torch.Generator().manual_seed(0) if random is None else random
    space = _Subspace(product, n, min(n, max(4 * k, k + 24)), tolerance, max_products)
    space.begin(start.sum(0, keepdim=True) if warm else start)
    if warm:
        space.search(k)
        for row in start[1:]:
            space.take(row)
    space.search(k)
    checked = False
    while not checked and space.best(k).converged.all() and space.products < max_products:
        checked = space.confirms(k, random)
        space.search(k)
    found = space.best(k)
    seen = tolerance * space.norm * space.scale
    if (checked or space.is_whole) and (seen == 0 or seen >= least):
        return found
    return found._replace(converged=torch.zeros_like(found.converged))


class _Subspace:
    """Orthonormal rows V, their products HV, and VHVᵀ in float64 on the CPU with its eigenvalues.

    HV is kept in units of a power of 2 near the largest entry of the first product, so that norms
    neither underflow nor overflow. A full subspace is cut to the better half of its Ritz vectors,
    which takes no products.
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        n: int,
        capacity: int,
        tolerance: float,
        max_products: int,
    ):
        self.product, self.n, self.capacity = product, n, capacity
        self.tolerance, self.max_products = tolerance, max_products
        self.products = 0
        self.size = 0
        self.scale = 0.0  # 0 until a product is not zero
        self.matrix = torch.zeros(capacity, capacity, dtype=torch.float64, device="cpu")
        self.norm = 0.0  # the largest |Rayleigh quotient| so far, in units of the scale

    @property
    def is_whole(self) -> bool:
        """Whether the subspace is the whole space."""
        return self.size == self.n

    def begin(self, rows: Tensor) -> None:
        """Span the subspace by the first rows."""
        self.vectors = rows.new_empty(self.capacity, self.n)
        self.images = torch.empty_like(self.vectors)
        for row in rows:
            unit = self._orthogonal(row)
            if unit is not None:
                self._add(unit)
        self._solve()

    def search(self, k: int) -> None:
        """Grow until the k largest eigenpairs are found, or until growing is not possible."""
        found, going = self.best(k), True
        while going and not found.converged.all() and found.values.isfinite().all():
            going = self._improve(int(found.converged.int().argmin()))
            found = self.best(k)

    def confirms(self, k: int, random: torch.Generator) -> bool:
        """Whether Lanczos' method from a fresh random vector leaves the k largest eigenvalues alone.

        False if it shows an eigenvalue that was overlooked, or no product is left.
        """
        fresh = torch.randn(self.n, generator=random, dtype=self.vectors.dtype, device="cpu")
        vector, found = fresh.to(self.vectors.device), self.values[:k]
        for steps in range(1, LONGEST * self.products + 1):
            if not self.take(vector):  # a subspace that is closed under H has nothing to add
                return self.is_whole or self.products < self.max_products
            if not float((self.values[:k] - found).max()) <= self.tolerance * self.norm:
                return False
            if self._chance(k, steps) < OVERLOOKED:
                return True
            vector = self.images[self.size - 1].clone()
        return True

    def best(self, k: int) -> Spectrum:
        """The k largest eigenpairs of H restricted to the subspace."""
        vectors, residuals = self._pairs(slice(k))
        lengths = torch.linalg.vector_norm(residuals, dim=1).double().cpu()
        # Where an eigenvalue is not found, the places of all smaller ones are not known.
        converged = (lengths <= self.tolerance * self.norm).cumprod(0).bool()
        unit = self.scale or 1.0
        return Spectrum(self.values[:k] * unit, lengths * unit, converged, vectors, self.products)

    def take(self, vector: Tensor) -> bool:
        """Grow by the part of a vector that is outside the subspace.

        False if there is no such part, or no product is left.
        """
        if self.products >= self.max_products or self.is_whole:
            return False
        unit = self._orthogonal(vector)
        if unit is None:
            return False
        if self.size == self.capacity:
            self._cut(self.size // 2)
        self._add(unit)
        self._solve()
        return True

    def _orthogonal(self, vector: Tensor) -> Tensor | None:
        """A unit vector, made orthogonal to the subspace to all digits; None if only rounding is left."""
        basis, whole = self.vectors[: self.size], torch.linalg.vector_norm(vector)
        rest = torch.addmv(vector, basis.T, basis @ vector, alpha=-1)
        length = torch.linalg.vector_norm(rest)
        if not length > DIGITS * torch.finfo(vector.dtype).eps * whole:
            return None
        rest = rest / length
        # Rounding left a part inside the subspace, at most a tenth. The second time it leaves none.
        rest = torch.addmv(rest, basis.T, basis @ rest, alpha=-1)
        return rest / torch.linalg.vector_norm(rest)

    def _chance(self, k: int, steps: int) -> float:
        """The probability, at most, that so many steps of Lanczos' method miss what is above λ_k."""
        low, following, kth = self.values[[-1, k, k - 1]].tolist()
        kth += self.tolerance * self.norm
        gap = (kth - following) / (kth - low) if kth > low else 0.0
        return 1.648 * math.sqrt(self.n) * math.exp(-(2 * steps - 1) * math.sqrt(max(gap, 0.0)))

    def _improve(self, i: int) -> bool:
        """Grow by residuals of eigenpair i until it is found; False if that is not possible."""
        residual = self._pairs(slice(i, i + 1))[1][0]
        while self.take(residual):
            residual = self._pairs(slice(i, i + 1))[1][0]
            if not torch.linalg.vector_norm(residual) > self.tolerance * self.norm:
                return True
        return False

    def _pairs(self, which: slice) -> tuple[Tensor, Tensor]:
        """Ritz vectors x and their residuals Hx − λx, which are orthogonal to the subspace."""
        rotation = self.rotation[:, which].T.to(self.vectors)
        values = self.values[which].to(self.vectors)
        vectors = rotation @ self.vectors[: self.size]
        return vectors, rotation @ self.images[: self.size] - values[:, None] * vectors

    def _add(self, unit: Tensor) -> None:
        """Add a unit vector that is orthogonal to the subspace, which takes one product."""
        m, self.size = self.size, self.size + 1
        self.vectors[m] = unit
        image = self.product(unit)
        if self.scale == 0:
            self.scale = _power_of_two(image)
        self.images[m] = image / self.scale if self.scale else image
        self.products += 1
        column = (self.vectors[: m + 1] @ self.images[m]).double().cpu()
        self.matrix[m, : m + 1], self.matrix[: m + 1, m] = column, column

    def _solve(self) -> None:
        """The eigenvalues of VHVᵀ, largest first, and its eigenvectors; NaN if it is not finite."""
        small = self.matrix[: self.size, : self.size]
        if not small.isfinite().all():
            self.values = torch.full_like(small[0], torch.nan)
            self.rotation = torch.full_like(small, torch.nan)
            return
        self.values, self.rotation = (part.flip(-1) for part in torch.linalg.eigh(small))
        self.norm = max(self.norm, float(self.values.abs().max()))

    def _cut(self, size: int) -> None:
        rotation = self.rotation[:, :size].T.to(self.vectors)
        for rows in (self.vectors, self.images):
            rows[:size] = rotation @ rows
        self.matrix[:size, :size] = (self.vectors[:size] @ self.images[:size].T).double().cpu()
        self.size = size


def _power_of_two(image: Tensor) -> float:
    """The largest power of 2 that no entry exceeds, and that is a normal number; 0 for zeros or NaN."""
    size = float(image.abs().max())
    if not 0 < size < math.inf:
        return 0.0
    return max(2.0 ** (math.frexp(size)[1] - 1), torch.finfo(image.dtype).tiny)
