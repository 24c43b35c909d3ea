"""The largest eigenvalues of the loss's Hessian, or of the Hessian preconditioned as in Adam.

The Hessian is never formed. A product H·v is the gradient of v·∇L: the graph of ∇L is made once at
each point, and each product is one backward pass through it. The first search starts from k random
vectors, so that equal eigenvalues are found. Later searches start from the last eigenvectors.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from swd_dynamics.checks import check, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.tensors.eigenpairs import DIGITS, Spectrum, top_eigenpairs
from swd_dynamics.tensors.evaluation import differentiable_twice
from swd_dynamics.tensors.preconditioner import step_divisor, working

# Norm of the noise that is added to the last eigenvectors (norm 1), so that none of them is
# orthogonal to an eigenvector that has become the largest since. With a tenth of it 1 % of the
# eigenvalues of a tight cluster that changes its order are overlooked; twice as much takes 1 % more
# products.
NOISE = 0.3


class Curvature:
    """The k largest eigenvalues of the Hessian of a loss, at the parameters' present values.

    H = ∇²L(θ). With an optimizer like Adam, H is D^(−½)·∇²L·D^(−½) with D = √v̂ + ε, which has the
    eigenvalues of D⁻¹∇²L: these are what the learning rate multiplies
    (:func:`~swd_dynamics.tensors.preconditioner_of`). Where the learning rates of the optimizer's
    groups differ, D of each weight is also multiplied by η̄/η, with its own η and the mean η̄ over all
    weights, so that the eigenvalues are those that η̄ multiplies.
    Largest means algebraically largest: negative eigenvalues come last.

    Gradients do not change, and neither do the states of torch's random generators. Autocast and
    inference mode around the call do not reach the loss: autocast belongs inside of ``loss``, and
    then the tolerance must be as coarse as its narrow dtype.

    Parameters
    ----------
    loss : callable () → Tensor, shape ()
        The loss on a fixed batch, of the model as it is; called once each time. Its side effects
        are not undone. In training mode, for example, batch norm changes its running statistics:
        put such a model into evaluation mode.
    parameters : iterable of Tensor, or one Tensor
        The loss is differentiated with respect to these. A tensor that is given twice, as tied
        weights are, counts once. Parameters that do not require a gradient at that time are left
        out. A parameter that the loss does not use adds zeros to the spectrum.
    k : int
        The number of eigenvalues, ≥ 1.
    optimizer : torch.optim.Optimizer, optional
        The optimizer that has D; D = 1 for SGD and optimizers like it.
    tolerance : float
        An eigenpair is found when ‖Hv − λv‖ ≤ tolerance·‖H‖, where ‖H‖ is the largest modulus of
        a Rayleigh quotient so far. That also bounds the error of λ, which in practice is nearer to
        tolerance²·‖H‖.
    max_products : int
        The number of Hessian-vector products in a call, at most; ≥ k. Eigenvalues that are not
        found and checked by then are NaN.
    seed : int
        Seed of the first start, of the noise in later starts, and of the final checks.

    Raises
    ------
    InputError
        If an argument is out of range, there are fewer than k weights, the weights are not real
        tensors of one dtype on one device, the tolerance is finer than the dtype, the loss is not
        one number that depends on some of the weights, or D is not known.

    Assumes that torch can differentiate ∇L. For that, ``scaled_dot_product_attention`` is computed by
    matrix products (``SDPBackend.MATH``) instead of a fused kernel, and a compiled model by the code
    from which it was compiled. An eigenvalue whose eigenvector is almost orthogonal to the start and
    to the fresh vector of the final check can be overlooked, as in every method that does not form
    the matrix
    (:func:`~swd_dynamics.tensors.eigenpairs.top_eigenpairs`).

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
        parameters: Iterable[Tensor] | Tensor,
        k: int = 3,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        tolerance: float = 1e-4,
        max_products: int = 1000,
        seed: int = 0,
    ):
        if not callable(loss):
            seen = f"loss = {type(loss).__name__} is not allowed"
            raise InputError(f"{seen}: give a function of no arguments that computes the loss")
        self.loss = loss
        self.parameters = _distinct(parameters)
        self.k = whole_number("k", k, 1)
        self.optimizer = optimizer
        check("tolerance", tolerance, "(0, 1)")
        self.tolerance = tolerance
        self.random = torch.Generator().manual_seed(whole_number("seed", seed, 0))
        self.last: Tensor | None = None  # eigenvectors, shape (k, n)
        self._divisor(self._trained())  # refuses wrong arguments now, not during training
        self.max_products = whole_number("max_products", max_products, 1)
        if self.max_products < self.k:
            seen = f"max_products = {max_products} is too few for k = {self.k} eigenvalues"
            raise InputError(f"{seen}: give a smaller k, or max_products ≥ {self.k}")

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
        with differentiable_twice(trained[0].device.type):
            divisor = self._divisor(trained)
            start, warm = self._start(trained)
            scale = torch.ones_like(start[0]) if divisor is None else divisor.rsqrt()
            found = top_eigenpairs(
                _hessian_product(self.loss, trained, scale),
                start,
                self.tolerance,
                self.max_products,
                warm=warm,
                random=self.random,
                least=_smallest(trained[0].dtype) * float(torch.linalg.vector_norm(scale)),
            )
        if found.vectors.isfinite().all():
            self.last = found.vectors
        return found

    def _divisor(self, trained: Sequence[Tensor]) -> Tensor | None:
        return None if self.optimizer is None else step_divisor(self.optimizer, trained)

    def _trained(self) -> list[Tensor]:
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        if not trained:
            given = len(self.parameters)
            raise InputError(
                f"none of the {given} parameters requires a gradient: give those that are trained,"
                " as model.parameters()"
            )
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
        noise = torch.randn(shape, generator=self.random, dtype=dtype, device="cpu")
        noise = noise.to(trained[0].device)
        if self.last is None or self.last.shape != shape:
            return noise, False
        return self.last.to(noise) + NOISE / shape[1] ** 0.5 * noise, True


def _hessian_product(
    loss: Callable[[], Tensor],
    parameters: Sequence[Tensor],
    scale: Tensor | float,
) -> Callable[[Tensor], Tensor]:
    """v ↦ S·∇²L·S·v at the present weights, with a diagonal S. The loss is evaluated once, here."""
    devices = [parameter.device for parameter in parameters[:1] if parameter.is_cuda]
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        value = loss()
        check_loss(value)
        found = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
        check_used(parameters, found)
        pieces = zip(parameters, found, strict=True)
        gradients = [torch.zeros_like(p) if each is None else each for p, each in pieces]
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


def _smallest(dtype: torch.dtype) -> float:
    """The smallest positive number of a dtype."""
    return torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps


def _distinct(parameters: Iterable[Tensor] | Tensor) -> list[Tensor]:
    """The parameters as a list, each once."""
    if isinstance(parameters, Tensor):
        return [parameters]
    advice = "give tensors, as model.parameters()"
    kind = type(parameters).__name__
    if isinstance(parameters, torch.nn.Module) or not isinstance(parameters, Iterable):
        raise InputError(f"parameters = {kind} is not allowed: {advice}")
    listed = list(parameters)
    for i, parameter in enumerate(listed):
        if not isinstance(parameter, Tensor):
            seen = f"parameter {i} is a {type(parameter).__name__}"
            raise InputError(f"{seen}, in a {kind}: {advice}")
    return list({id(parameter): parameter for parameter in listed}.values())


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


def check_used(parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Refuse parameters of which the loss uses none, and copies that the loss does not use."""
    unused = [i for i, gradient in enumerate(gradients) if gradient is None]
    if len(unused) == len(parameters):
        raise InputError(
            "the loss does not depend on any of the parameters: give those from which it is"
            " computed, not copies of them"
        )
    for i in unused:
        if not parameters[i].is_leaf:
            raise InputError(
                f"parameter {i} was computed from other tensors, and the loss does not use it: give"
                " the parameters from which the loss is computed"
            )


def check_loss(value) -> None:
    if not isinstance(value, Tensor) or value.numel() != 1:
        is_tensor = isinstance(value, Tensor)
        seen = f"a tensor of shape {tuple(value.shape)}" if is_tensor else repr(value)
        raise InputError(f"the loss is {seen}: it must be a tensor with one number")
    if not value.requires_grad:
        advice = "compute the loss from them, without detach or item"
        raise InputError(f"the loss does not depend on the parameters: {advice}")
