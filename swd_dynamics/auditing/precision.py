"""What is left of an optimizer's weight decay in weights of a given type, as bfloat16, measured and in words."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from swd_dynamics.auditing.robustness import KEPT, LOST
from swd_dynamics.errors import InputError

if TYPE_CHECKING:
    from swd_dynamics.bench.interventions import Bench

UNCLEAR = 0.1  # a standard error of a share above this cannot tell KEPT from a share of 1
SAME_SHARE = 0.1  # decay and steps that are lost in shares closer than this are lost in the same way


@dataclass(frozen=True)
class InType:
    """What is left of the decay where weights and gradients are of one type, compared with the audit's own type.

    Attributes
    ----------
    dtype : str — the type
    decay_rate : float — R in full precision, once settled; NaN if unknown
    least : float — below this R, (1 − R)·θ is rounded to θ for every weight
    decay : float — the share of the shrinkage by weight decay that is left; NaN if unknown
    scatter : float — the standard error of that share
    moved : float — the share of the way that gradients alone move the weights
    steps : int — over which both shares are measured
    advice : str — what keeps the decay
    joins_gradient : bool — whether the decay is L2, which is not rounded apart from the step
    fusable : bool — whether ``fused=True`` would round decay and step together, and is not set
    failed : str — why nothing is known, or nothing

    Examples
    --------
    >>> lost = InType("bfloat16", 1e-4, 2**-9, decay=0.0, scatter=0.0, moved=1.0, steps=960)
    >>> lost.verdict, lost.is_lost
    ('lost', True)
    """

    dtype: str
    decay_rate: float
    least: float
    decay: float = math.nan
    scatter: float = math.nan
    moved: float = math.nan
    steps: int = 0
    advice: str = ""
    joins_gradient: bool = False
    fusable: bool = False
    failed: str = ""

    @property
    def verdict(self) -> str:
        """One word: "kept", "lost", "partly", "stronger", or "unknown"."""
        if not math.isfinite(self.decay) or self.scatter > UNCLEAR:
            return "unknown"
        if self.decay > 2 - KEPT:
            return "stronger"
        return "kept" if self.decay >= KEPT else "partly" if self.decay > LOST else "lost"

    @property
    def is_lost(self) -> bool:
        """Whether a part of the decay is lost that would be missed."""
        return self.verdict in ("lost", "partly")

    @property
    def words(self) -> str:
        """What happens to the decay in this type, why, and what to do: a few sentences, without the last full stop."""
        if self.failed:
            return f"in {self.dtype} nothing was measured: {self.failed}"
        share = f"{100 * self.decay:.3g} % ± {100 * self.scatter:.1g} % of it is left after {self.steps} steps"
        rate = f"R = {self.decay_rate:.2g}"
        said = {
            "kept": f"in {self.dtype} the weight decay is kept: {share}{self._though}",
            "lost": f"in {self.dtype} the weight decay is rounded away: {share}, because {self._because}",
            "partly": f"in {self.dtype} the weight decay is partly lost: {share}, because {self._because}",
            "stronger": f"in {self.dtype} the weight decay is too strong: {share}, because {rate} is rounded to whole"
            f" units in the last place. Weights in float32 (torch.autocast){' and fused=True' * self.fusable} round it"
            " less coarsely",
            "unknown": f"in {self.dtype} it cannot be told what is left of the decay, because rounding scatters the"
            " weights by more than the decay moves them",
        }[self.verdict]
        return f"{said}. {self.advice}" if self.is_lost else said

    @property
    def _though(self) -> str:
        if self.decay_rate >= self.least:
            return ""
        return (
            f", although R = {self.decay_rate:.2g} is less than half a unit in the last place, {self.least:.2g}: the"
            " decay is rounded together with the step, or in a copy with more digits"
        )

    @property
    def _because(self) -> str:
        steps = f"{100 * self.moved:.2g} % of the way without decay is left"
        if self.moved < KEPT and abs(self.decay - self.moved) <= SAME_SHARE:
            return (
                f"the steps are lost too ({steps}): a step is less than half a unit in the last place of most weights"
            )
        if self.joins_gradient:
            return "λθ is rounded in its sum with the gradient, and the step in its sum with the weight"
        how = "less than" if self.decay_rate < self.least else "close to"
        said = f"R = {self.decay_rate:.2g} is {how} half a unit in the last place, {self.least:.2g}"
        if self.moved < KEPT:
            return f"{said}, and so are most steps ({steps})"
        return f"{said}, and so are the steps of some weights" if self.verdict == "partly" else said

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; what is unknown is None."""
        numbers = ("decay_rate", "least", "decay", "scatter", "moved")
        values = {name: getattr(self, name) for name in numbers}
        known = {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in values.items()}
        return {"dtype": self.dtype, "verdict": self.verdict, **known, "steps": self.steps, "words": self.words}


def in_type(bench: "Bench", dtype: Any, decay_rate: float, *, joins_gradient: bool = False) -> InType:
    """Run an optimizer in weights of a type with decay and without, and compare both with its own full precision.

    Parameters
    ----------
    bench : Bench
    dtype : torch.dtype or str — float64, float32, bfloat16 or float16
    decay_rate : float — R in full precision
    joins_gradient : bool — whether the decay is L2

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> from swd_dynamics.bench.interventions import bench_for
    >>> bench = bench_for(partial(torch.optim.SGD, lr=0.5, weight_decay=0.0625))
    >>> in_type(bench, "bfloat16", 0.03125).verdict
    'kept'
    """
    from swd_dynamics.bench.low_precision import kept_in
    from swd_dynamics.tensors.rounding import can_fuse, dtype_of, least_decay_rate, name_of, what_to_do

    wanted = dtype_of(dtype)
    plain = InType(name_of(wanted), decay_rate, least_decay_rate(wanted), joins_gradient=joins_gradient)
    if not bench.has_decay or not abs(decay_rate) > 0:
        return _failed(plain, "there is no decay, or its rate R is unknown")
    try:
        kept = kept_in(bench, wanted, decay_rate)
    except InputError as error:
        return _failed(plain, f"{error}. Keep the weights in float32 and compute in {plain.dtype} (torch.autocast)")
    fusable = any(map(can_fuse, bench.groups()))
    advice = what_to_do(
        wanted, steps_lost=kept.moved < KEPT, joins_gradient=joins_gradient, fusable=fusable and not joins_gradient
    )
    return replace(plain, **kept._asdict(), advice=advice, fusable=fusable)


def _failed(plain: InType, why: str) -> InType:
    return InType(plain.dtype, plain.decay_rate, plain.least, failed=why)
