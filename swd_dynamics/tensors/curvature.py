"""The largest eigenvalues of the loss's Hessian, or of the Hessian preconditioned as in Adam.

The Hessian is never formed. A product H·v is the gradient of v·∇L: the graph of ∇L is made once at
each point, and each product is one backward pass through it. The eigenvalues are found by Rayleigh
and Ritz's method in a subspace, which grows by the residual of the first eigenpair that is not
found yet (Davidson's method without a preconditioner). The first search starts from k vectors, so
that equal eigenvalues are found. Later searches start from the last eigenvectors.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from swd_dynamics.checks import check, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.tensors.preconditioner import preconditioner_of, working

# Norm of the noise that is added to the last eigenvectors (norm 1), so that none of them is
# orthogonal to an eigenvector that has become the largest since. With half of it such an
# eigenvector is found later; twice as much noise takes more products.
NOISE = 0.03
# The least tolerance in units of the dtype's eps. Products with a Hessian are not more accurate:
# with half of it a search may never converge; twice as much refuses tolerances that can be reached.
DIGITS = 10


class Spectrum(NamedTuple):
    """The k largest eigenvalues λ₁ ≥ λ₂ ≥ … that were found, and how accurate they are.

    values : Tensor, float64, shape (k,)
        Rayleigh quotients. Where they have not converged, they are lower bounds of the eigenvalues,
        up to round-off.
    residuals : Tensor, float64, shape (k,)
        ‖Hv − λv‖ of each. Some eigenvalue is at most that far from λ; if the next one is Δ away, it
        is about ‖Hv − λv‖²/Δ from λ.
    converged : Tensor, bool, shape (k,)
        Whether the residual is at most the tolerance × the largest |Rayleigh quotient| so far.
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


class Curvature:
    """The k largest eigenvalues of the Hessian of a loss, at the parameters' present values.

    H = ∇²L(θ). With an optimizer like Adam, H is D^(−½)·∇²L·D^(−½) with D = √v̂ + ε, which has the
    eigenvalues of D⁻¹∇²L: these are what the learning rate multiplies (:func:`preconditioner_of`).
    Largest means algebraically largest: negative eigenvalues come last.

    Gradients do not change, and neither do the states of torch's random generators.

    Parameters
    ----------
    loss : callable () → Tensor, shape ()
        The loss on a fixed batch, of the model as it is; called once each time. Its side effects
        are not undone. In training mode, for example, batch norm changes its running statistics:
        put such a model into evaluation mode.
    parameters : iterable of Tensor
        The loss is differentiated with respect to these. Parameters that do not require a gradient
        at that time are left out.
    k : int
        The number of eigenvalues, ≥ 1.
    optimizer : torch.optim.Optimizer, optional
        The optimizer that has D; D = 1 for SGD and optimizers like it.
    tolerance : float
        An eigenpair is found when ‖Hv − λv‖ ≤ tolerance·‖H‖, where ‖H‖ is the largest |Rayleigh
        quotient| so far. That also bounds the error of λ, which in practice is nearer to
        tolerance²·‖H‖.
    max_products : int
        The number of Hessian-vector products in a call, at most; ≥ k. Eigenvalues that are not
        found by then are NaN.
    seed : int
        Seed of the first start, and of the noise in later starts.

    Raises
    ------
    InputError
        If an argument is out of range, there are fewer than k weights, the weights are not real
        tensors of one dtype on one device, the tolerance is finer than the dtype, the loss is not
        one number that depends on the weights, or D is not known.

    Assumes that torch can differentiate ∇L, which it cannot for fused attention, for example. An
    eigenvalue whose eigenvector is almost orthogonal to the start can be missed, as in every method
    that does not form the matrix.

    Source: Davidson 1975, J. Comput. Phys. 17, 87; Pearlmutter 1994, Neural Comput. 6, 147.
    Eigenvalues during training: Cohen et al. 2021, 2103.00065, and those of D⁻¹H: Cohen et al.
    2022, 2207.14484.

    Examples
    --------
    L = ½(θ₁² + 4θ₂² − 9θ₃²) has the Hessian diag(1, 4, −9).

    >>> theta = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    >>> spectrum = torch.tensor([1.0, 4.0, -9.0])
    >>> curvature = Curvature(lambda: (spectrum * theta**2).sum() / 2, [theta], k=2)
    >>> curvature.eigenvalues().round(decimals=12)
    tensor([4., 1.], dtype=torch.float64)
    """

    def __init__(
        self,
        loss: Callable[[], Tensor],
        parameters: Iterable[Tensor],
        k: int = 3,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        tolerance: float = 1e-4,
        max_products: int = 500,
        seed: int = 0,
    ):
        self.loss = loss
        self.parameters = list(parameters)
        self.k = whole_number("k", k, 1)
        self.optimizer = optimizer
        check("tolerance", tolerance, "(0, 1)")
        self.tolerance = tolerance
        self.max_products = whole_number("max_products", max_products, self.k)
        self.random = torch.Generator().manual_seed(whole_number("seed", seed, 0))
        self.last: Tensor | None = None  # eigenvectors, shape (k, n)
        self._divisor(self._trained())  # refuses wrong arguments now, not during training

    def eigenvalues(self) -> Tensor:
        """λ₁ ≥ … ≥ λ_k at the present weights, float64 on the CPU.

        NaN where an eigenvalue was not found, or L or H is not finite.
        """
        found = self.spectrum()
        return torch.where(found.converged, found.values, torch.nan)

    def spectrum(self) -> Spectrum:
        """The eigenpairs at the present weights with their residuals, converged or not.

        The search starts from the eigenvectors of the last call.
        """
        trained = self._trained()
        divisor = self._divisor(trained)
        product = _hessian_product(self.loss, trained, 1.0 if divisor is None else divisor.rsqrt())
        start, warm = self._start(trained)
        found = top_eigenpairs(product, start, self.tolerance, self.max_products, warm)
        if found.vectors.isfinite().all():
            self.last = found.vectors
        return found

    def _divisor(self, trained: Sequence[Tensor]) -> Tensor | None:
        return None if self.optimizer is None else preconditioner_of(self.optimizer, trained)

    def _trained(self) -> list[Tensor]:
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        weights = sum(parameter.numel() for parameter in trained)
        if weights < self.k:
            seen = f"k = {self.k} is more than the {weights} weights that require a gradient"
            raise InputError(f"{seen}: give a smaller k")
        _check_alike(trained)
        finest = DIGITS * torch.finfo(trained[0].dtype).eps
        if self.tolerance < finest:
            raise InputError(
                f"tolerance = {self.tolerance} is finer than the rounding of {trained[0].dtype}:"
                f" give at least {finest:.1e}, or parameters of a wider dtype"
            )
        return trained

    def _start(self, trained: Sequence[Tensor]) -> tuple[Tensor, bool]:
        """The last eigenvectors with some noise, and True.

        Noise alone and False in the first call, or when other weights require a gradient.
        """
        shape = (self.k, sum(parameter.numel() for parameter in trained))
        dtype = working(trained[0].dtype)
        noise = torch.randn(shape, generator=self.random, dtype=dtype).to(trained[0].device)
        if self.last is None or self.last.shape != shape:
            return noise, False
        return self.last.to(noise) + NOISE / shape[1] ** 0.5 * noise, True


def top_eigenpairs(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    tolerance: float,
    max_products: int,
    warm: bool = False,
) -> Spectrum:
    """The eigenpairs of the largest eigenvalues of a symmetric matrix, given its products.

    Parameters
    ----------
    product : callable (Tensor, shape (n,)) → Tensor, shape (n,)
        v ↦ Hv.
    start : Tensor, shape (k, n)
        k linearly independent rows, where k eigenvalues are wanted.
    tolerance, max_products
        As in :class:`Curvature`.
    warm : bool
        Whether the rows are almost the eigenvectors. Then the search starts from their sum alone,
        which takes fewer products. The rows themselves join the subspace at the end, to show what
        is missing.

    All values are NaN if a product was not finite.

    Examples
    --------
    >>> matrix, start = torch.tensor([2.0, 5.0, -7.0]), torch.ones(1, 3, dtype=torch.float64)
    >>> top_eigenpairs(lambda v: v * matrix, start, 1e-6, 9).values.round(decimals=9)
    tensor([5.], dtype=torch.float64)
    """
    k, n = start.shape
    begun = start.sum(0, keepdim=True) if warm else start
    space = _Subspace(product, begun, capacity=min(n, max(4 * k, k + 24)))
    if warm:
        space.search(k, tolerance, max_products)
        for row in start[1:]:
            space.take(space.orthogonal(row), max_products)
    return space.search(k, tolerance, max_products)


class _Subspace:
    """Orthonormal rows V, their products HV, and VHVᵀ in float64 on the CPU with its eigenvalues.

    A full subspace is cut to the better half of its Ritz vectors, which takes no products.
    """

    def __init__(self, product: Callable[[Tensor], Tensor], start: Tensor, capacity: int):
        self.product = product
        self.products = 0
        self.size = 0
        self.vectors = start.new_empty(capacity, start.shape[1])
        self.images = torch.empty_like(self.vectors)
        self.matrix = torch.zeros(capacity, capacity, dtype=torch.float64)
        self.norm = 0.0  # the largest |Rayleigh quotient| so far
        for row in start:
            self._add(self.orthogonal(row))
        self._solve()

    def search(self, k: int, tolerance: float, max_products: int) -> Spectrum:
        """Grow until the k largest eigenpairs are found, or until growing is not possible."""
        found, going = self.best(k, tolerance), True
        while going and not found.converged.all() and found.values.isfinite().all():
            first = int(found.converged.int().argmin())
            going = self._improve(first, tolerance, max_products)
            found = self.best(k, tolerance)
        return found

    def best(self, k: int, tolerance: float) -> Spectrum:
        """The k largest eigenpairs of H restricted to the subspace."""
        vectors, residuals = self._pairs(slice(k))
        lengths = torch.linalg.vector_norm(residuals, dim=1).double().cpu()
        converged = lengths <= tolerance * self.norm
        return Spectrum(self.values[:k], lengths, converged, vectors, self.products)

    def take(self, vector: Tensor, max_products: int) -> bool:
        """Grow by a vector that is orthogonal to the subspace.

        False if the subspace is the whole space, or no product is left.
        """
        if self.products >= max_products or self.size == self.vectors.shape[1]:
            return False
        if self.size == len(self.vectors):
            self._cut(self.size // 2)
        self._add(vector)
        self._solve()
        return True

    def orthogonal(self, vector: Tensor) -> Tensor:
        """A unit vector, made orthogonal to the subspace to all digits."""
        basis = self.vectors[: self.size]
        rest = torch.addmv(vector, basis.T, basis @ vector, alpha=-1)
        return rest / torch.linalg.vector_norm(rest)

    def _improve(self, i: int, tolerance: float, max_products: int) -> bool:
        """Grow by residuals of eigenpair i until it is found; False if that is not possible."""
        residual = self._pairs(slice(i, i + 1))[1][0]
        while self.take(residual, max_products):
            residual = self._pairs(slice(i, i + 1))[1][0]
            if not torch.linalg.vector_norm(residual) > tolerance * self.norm:
                return True
        return False

    def _pairs(self, which: slice) -> tuple[Tensor, Tensor]:
        """Ritz vectors x and their residuals Hx − λx, which are orthogonal to the subspace."""
        rotation = self.rotation[:, which].T.to(self.vectors)
        values = self.values[which].to(self.vectors)
        vectors = rotation @ self.vectors[: self.size]
        return vectors, rotation @ self.images[: self.size] - values[:, None] * vectors

    def _add(self, vector: Tensor) -> None:
        """Add the part of a vector that is outside the subspace, which takes one product."""
        self.vectors[self.size] = self.orthogonal(vector)
        m, self.size = self.size, self.size + 1
        self.images[m] = self.product(self.vectors[m])
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


def _hessian_product(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    scale: Tensor | float,
) -> Callable[[Tensor], Tensor]:
    """v ↦ S·∇²L·S·v at the present weights, with a diagonal S. The loss is evaluated once, here."""
    devices = [parameter.device for parameter in parameters[:1] if parameter.is_cuda]
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        value = loss()
        _check_loss(value)
        gradients = torch.autograd.grad(
            value,
            parameters,
            create_graph=True,
            materialize_grads=True,
        )
        gradient = torch.cat([each.reshape(-1) for each in gradients])
    scale = scale * torch.where(value.detach().reshape(()).isfinite(), 1.0, torch.nan)

    def product(vector: Tensor) -> Tensor:
        if not gradient.requires_grad:  # the loss is linear
            return torch.zeros_like(vector) * scale
        along = (scale * vector).to(gradient.dtype)
        columns = torch.autograd.grad(
            gradient,
            parameters,
            along,
            retain_graph=True,
            materialize_grads=True,
        )
        return scale * torch.cat([column.reshape(-1) for column in columns]).to(vector.dtype)

    return product


def _check_alike(parameters: Sequence[Tensor]) -> None:
    first = parameters[0]
    for i, parameter in enumerate(parameters):
        whole = parameter.is_floating_point() and not hasattr(parameter, "full_tensor")
        if not whole or parameter.dtype != first.dtype or parameter.device != first.device:
            raise InputError(
                f"parameter {i} is a {type(parameter).__name__} of {parameter.dtype} on"
                f" {parameter.device}, parameter 0 is of {first.dtype} on {first.device}: give real"
                " parameters of one dtype on one device, which are not sharded"
            )


def _check_loss(value) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        is_tensor = isinstance(value, Tensor)
        seen = f"a tensor of shape {tuple(value.shape)}" if is_tensor else repr(value)
        raise InputError(f"the loss is {seen}: it must be a tensor with one number")
    if not value.requires_grad:
        advice = "compute the loss from them, without detach or item"
        raise InputError(f"the loss does not depend on the parameters: {advice}")
