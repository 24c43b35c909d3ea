"""The loss around the weights, as an optimizer sees it: sharpness, its slope, and the critical step.

All of it is measured at the weights before a step, with the preconditioner D of that step.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from swd_dynamics.checks import shown, whole_number
from swd_dynamics.errors import InputError
from swd_dynamics.probe.critical import critical_step
from swd_dynamics.probe.quantities import QUANTITIES, Quantity
from swd_dynamics.tensors.curvature import Curvature
from swd_dynamics.tensors.eigenpairs import Spectrum
from swd_dynamics.tensors.evaluation import plain_arithmetic, unchanged_buffers
from swd_dynamics.tensors.preconditioner import step_divisor
from swd_dynamics.tensors.slopes import slope_of_curvature
from swd_dynamics.tensors.sums import Column, Entry
from swd_dynamics.tensors.weights import Layout

EIGENVALUES, CRITICAL = "eigenvalues", "critical_step"
SLOPES = ("slope_theta", "slope_descent")
OF_LANDSCAPE = (EIGENVALUES, *SLOPES, CRITICAL)
# The share of the sharpness from which on a direction counts as one that oscillates at the edge of
# stability. There several curvatures are within some percent of the limit.
NEAR = 0.9
# The relative error of a loss, in units of its dtype's eps.
ROUNDING = 8


@dataclass(frozen=True)
class Landscape:
    """Which loss a probe looks at, for the quantities that describe the loss around the weights.

    Each measurement evaluates the loss at other weights than the present ones and waits for the
    device. Weights, gradients, the buffers of modules (running statistics of batch norm, for example)
    and torch's random generators are put back, so that the training stays the same. Dropout takes the
    same mask in each evaluation of a measurement.

    Sharpness and slopes need second and third derivatives. Only while they are measured,
    ``scaled_dot_product_attention`` is computed by matrix products instead of a fused kernel. A
    compiled model is evaluated by the code from which it was compiled.

    What is measured belongs to ``loss``. In full-batch training give the training loss. In training on
    minibatches give the mean loss on one fixed set of data, as large as you can pay for, and not the
    batch of the step: the sharpness of a small batch is larger than that of all data.

    Where the groups' learning rates differ, the sharpness is that which the recorded ``lr``, their
    mean η̄ over the weights, multiplies: η of each weight divided by η̄ multiplies D⁻¹H. Where their decay
    rates differ, as without decay of biases, ⟨θ, ∇S⟩ has each θ times R/R̄, so that the recorded
    ``decay_rate``, the mean R̄, multiplies it. Weights that do not require a gradient are left out.

    **Costs.** On a transformer of a million weights, with a loss on as many data as a training batch,
    the critical step took as long as 2 training steps, the sharpness with k = 1 as long as 50, and
    with k = 3 as 80 to 130. ``lifting_decay`` took some ten more than the sharpness. On m times the
    data each takes m times as long. So ``every=50`` makes the training 4 % longer for the critical
    sharpness alone, ``every=1000`` 5 % for the sharpness, and ``every=2000`` 4 to 7 % for k = 3. A
    search starts from the last eigenvectors, and takes some 20 to 40 products with the Hessian, of 2
    to 3 training steps each.

    Parameters
    ----------
    loss : callable () → Tensor, shape ()
        The loss of the model as it is, in the mode in which it is, on the same data each time. Side
        effects other than on modules' buffers are not undone. If it computes in half precision inside
        (autocast), the critical step is only as good as a change of this loss.
    every : int
        Measured are the steps n, 2n, 3n, … that are recorded. The other rows are NaN.
    k, tolerance, max_products, seed
        As for :class:`~swd_dynamics.tensors.Curvature`.

    Raises
    ------
    InputError
        If ``loss`` is not a function or ``every`` is not a whole number ≥ 1.

    Examples
    --------
    f = ½·4θ² has the sharpness 4, also seen from the loss along the step, which is −η·4θ:

    >>> from swd_dynamics.probe import Probe
    >>> weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    >>> sgd, loss = torch.optim.SGD([weight], lr=0.125), lambda: 2 * weight.square().sum()
    >>> names = ["sharpness", "critical_step", "critical_sharpness"]
    >>> with Probe(sgd, quantities=names, landscape=Landscape(loss, k=1)) as probe:
    ...     loss().backward()
    ...     _ = sgd.step()
    >>> [probe.dataset()[name].item() for name in names]
    [4.0, 4.0, 4.0]

    Training on minibatches, with the loss on all data measured in every fourth step:

    >>> from swd_dynamics import record
    >>> model, x = torch.nn.Linear(3, 1), torch.ones(64, 3)
    >>> adam = torch.optim.AdamW(model.parameters(), lr=0.01)
    >>> around = Landscape(lambda: model(x).square().mean(), every=4, k=1)
    >>> batch = lambda step: model(x[:8]).square().mean()
    >>> run = record(adam, batch, 8, quantities="landscape", landscape=around, trajectory=False)
    >>> run.sharpness.notnull().values.nonzero()[0] + 1
    array([4, 8])
    """

    loss: Callable[[], Tensor]
    every: int = 1
    k: int = 3
    tolerance: float = 1e-4
    max_products: int = 1000
    seed: int = 0

    def __post_init__(self):
        if not callable(self.loss):
            seen = f"loss = {type(self.loss).__name__} is not allowed"
            raise InputError(f"{seen}: give a function of no arguments that computes the loss")
        whole_number("every", self.every, 1)
        whole_number("k", self.k, 1)


def needs_landscape(quantities: Iterable[Quantity]) -> list[str]:
    """The names of the quantities that need a landscape."""
    return [each.name for each in quantities if set(each.needs) & set(OF_LANDSCAPE)]


def check_landscape(landscape: Landscape | None, quantities: Iterable[Quantity]) -> None:
    """Refuse quantities without the landscape that they need, and a landscape without a use.

    Raises
    ------
    InputError
    """
    asked = needs_landscape(quantities)
    if landscape is not None and not isinstance(landscape, Landscape):
        raise InputError(f"landscape = {shown(landscape)} is not a Landscape: give landscape=Landscape(loss)")
    if landscape is None and asked:
        raise InputError(
            f"{asked[0]} needs the loss around the weights: give landscape=Landscape(loss), with a"
            " function of no arguments that computes the loss on a fixed batch"
        )
    if landscape is not None and not asked:
        known = ", ".join(needs_landscape(QUANTITIES.values()))
        raise InputError(f"landscape is given, but no quantity needs it: record some of {known}")


class Surveyor:
    """Measures the landscape around the steps of an optimizer.

    Parameters
    ----------
    landscape : Landscape
    optimizer : torch.optim.Optimizer
    layout : Layout
    columns : iterable of str
        Out of ``OF_LANDSCAPE``.

    Raises
    ------
    InputError
        If parameters are sharded, the loss cannot be differentiated with respect to them, or an
        eigenvalue or slope is asked for and the optimizer's preconditioner is not known.
    """

    def __init__(
        self,
        landscape: Landscape,
        optimizer: torch.optim.Optimizer,
        layout: Layout,
        columns: Iterable[str],
    ):
        self.landscape, self.optimizer, self.columns = landscape, optimizer, frozenset(columns)
        self.parameters = list(layout.parameters)
        if layout.is_sharded:
            raise InputError("the loss around sharded weights is not measured: omit landscape")
        self._curvature: Curvature | None = None
        if self.columns - {CRITICAL}:
            self._curvature = Curvature(
                landscape.loss, self.parameters, landscape.k, optimizer=optimizer,
                tolerance=landscape.tolerance, max_products=landscape.max_products,
                seed=landscape.seed,
            )  # fmt: skip
        if CRITICAL in self.columns:
            _check_wide(self.parameters)
        self._before: list[Tensor] | None = None  # θ before a step that is measured
        self._decays = [1.0] * len(self.parameters)
        self._critical = 1.0  # the last critical step

    def before(self, step: int | None) -> None:
        """Keep the weights from which a step starts, if the step is measured; None is never."""
        due = step is not None and step % self.landscape.every == 0
        self._before = [p.detach().clone() for p in self.parameters] if due else None

    def after(self, decay_rates: Sequence[Entry], took: Sequence[bool]) -> dict[str, Column]:
        """The columns of the step that was just taken; none if it is not measured.

        Parameters
        ----------
        decay_rates : sequence of float, Tensor or None
            R of each parameter; NaN or None if it is not known.
        took : sequence of bool
            Whether each parameter took the step.
        """
        before, self._before = self._before, None
        if before is None:
            return {}
        self._decays = relative_decays(decay_rates, [took[i] * p.numel() for i, p in enumerate(self.parameters)])
        found: dict[str, Column] = {}
        with self._at(before) as after, unchanged_buffers():
            if self._curvature is not None:
                found |= self._curved(self._curvature)
            if CRITICAL in self.columns:
                found[CRITICAL] = [self._critical_step(before, after)]
        return {name: entries for name, entries in found.items() if name in self.columns}

    @contextmanager
    def _at(self, weights: list[Tensor]) -> Iterator[list[Tensor]]:
        """Put the parameters at other weights, and bit for bit back at the end."""
        kept = [parameter.detach().clone() for parameter in self.parameters]
        try:
            self._put(weights)
            yield kept
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, weights: Iterable[Tensor]) -> None:
        for parameter, weight in zip(self.parameters, weights, strict=True):
            parameter.copy_(weight)

    def _curved(self, curvature: Curvature) -> dict[str, Column]:
        spectrum = curvature.spectrum()
        values = torch.where(spectrum.converged, spectrum.values, torch.nan)
        slopes = self._slopes(spectrum) if self.columns & set(SLOPES) else (torch.nan, torch.nan)
        columns = [values.tolist(), *([slope] for slope in slopes)]
        return dict(zip((EIGENVALUES, *SLOPES), columns, strict=True))

    def _slopes(self, spectrum: Spectrum) -> tuple[float, float]:
        """⟨Rθ/R̄, ∇S⟩ and ⟨−D⁻¹g, ∇S⟩, without what oscillates at the edge of stability.

        S = uᵀHu with uᵀDu = 1. What is left out of a vector w is u·uᵀDw, for each direction whose
        curvature is near to S.
        """
        trained = [parameter for parameter in self.parameters if parameter.requires_grad]
        near = spectrum.converged & (spectrum.values >= NEAR * spectrum.values[0])
        if not near[0]:
            return torch.nan, torch.nan
        decays = zip(self.parameters, self._decays, strict=True)
        theta = torch.cat([decay * p.detach().reshape(-1) for p, decay in decays if p.requires_grad])
        divisor = step_divisor(self.optimizer, trained)
        divisor = torch.ones_like(theta) if divisor is None else divisor
        vectors = spectrum.vectors[near.to(spectrum.vectors.device)]
        critical = vectors * divisor.rsqrt()
        gradient, slope = slope_of_curvature(self.landscape.loss, trained, critical[0])
        moves = divisor.isfinite()  # a weight that has taken no step has D = ∞
        weighted = critical * torch.where(moves, divisor, 0.0)

        def along(vector: Tensor) -> float:
            settled = moves * vector - critical.T @ (weighted @ vector)
            return float(settled.double() @ slope.double())

        return along(theta.to(critical)), along(-gradient / divisor)

    def _critical_step(self, before: list[Tensor], after: list[Tensor]) -> float:
        steps = [new - old for new, old in zip(after, before, strict=True)]
        if not any(step.any() for step in steps):
            return torch.nan
        first = self.parameters[0]
        devices = [first.device] if first.is_cuda else []

        def loss(s: float) -> float:
            self._put(old + s * step for old, step in zip(before, steps, strict=True))
            with (
                plain_arithmetic(first.device.type),
                torch.random.fork_rng(devices=devices),
                torch.no_grad(),
            ):
                value = torch.as_tensor(self.landscape.loss())
            return float(value)

        found = critical_step(loss, self._critical, ROUNDING * torch.finfo(first.dtype).eps)
        if found > 0 and found < torch.inf:
            self._critical = found
        return found


def relative_decays(decay_rates: Sequence[Entry], weights: Sequence[int]) -> list[float]:
    """R/R̄ of each parameter, with the mean R̄ over the weights; 1 where R̄ is 0 or not known.

    Parameters
    ----------
    decay_rates : sequence of float, Tensor or None
        R of each parameter.
    weights : sequence of int
        The number of weights of each parameter that took the step.

    Examples
    --------
    A matrix of 6 weights decays and a bias of 2 does not, so that R̄ = ¾·R of the matrix.

    >>> relative_decays([0.03, 0.0], [6, 2])
    [1.3333333333333333, 0.0]
    """
    rates = [math.nan if rate is None else float(rate) for rate in decay_rates]
    total = sum(rate * count for rate, count in zip(rates, weights, strict=True))
    if not math.isfinite(total) or total == 0:
        return [1.0] * len(rates)
    return [rate * sum(weights) / total for rate in rates]


def _check_wide(parameters: Iterable[Tensor]) -> None:
    for parameter in parameters:
        if torch.finfo(parameter.dtype).bits < 32:
            raise InputError(
                f"the critical step is not measured where weights are {parameter.dtype}: θ + sΔθ, rounded to that, is"
                " another point. Omit critical_step and critical_sharpness, or keep the weights in float32 and compute"
                " in half precision by torch.autocast"
            )
