"""v̄, the mean of the second moment over all weights of all parameters, without a pass over the second moments.

The sum S of one parameter's v over its weights obeys v's own recursion, S ← β₂S + (1 − β₂)Σg², so one reduction over
the gradients gives it. Each parameter has an S of its own, because a parameter without gradient skips its step, and
groups may differ in β₂. S is float64 whatever the parameter's dtype, because a stored v drifts in bfloat16. AMSGrad's
maximum obeys no such recursion: for it a pass is needed.

v is the truth, and S must follow it. The optimizer remembers which v, in which version, it left beside each S. Where
a pair of v and S is another one now (edited, loaded, copied, or stepped by another optimizer), S is compared with a
sum over v, and replaced by the sum if rounding cannot explain the difference.
"""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are built on its foreach functions, which are private by name only.

import math
from typing import Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from swd_dynamics.optim.parts import Part, Scaling, readable
from swd_dynamics.tensors.sharding import local, sum_over_shards

SUM = "exp_avg_sq_sum"
# Numbers in one float32 dot product, and in a row of a longer vector. The product loses digits with its length:
# with normal random numbers 2e-6 at 2¹⁸ and 3e-3 at 10⁸. Half the length costs calls, twice the length digits.
LONGEST_DOT, ROW = 2**18, 2**12
# Roundings of a step, each of one eps of v's dtype, by which a v that nobody has edited may leave S. A tenth of them
# would call the rounding of a float32 sum an edit; ten times as many would miss edits of 2 % at β₂ = .999.
ROUNDINGS = 16


class Mark(NamedTuple):
    """A tensor of the state as a step left it, and how often it had been written to by then."""

    tensor: ref
    versions: tuple[int, int]

    @classmethod
    def of(cls, tensor: Tensor) -> "Mark":
        return cls(ref(tensor), _versions(tensor))

    def still(self, value: Any) -> bool:
        """Whether a piece of state is this tensor, and nobody has written to it since."""
        return value is self.tensor() and value is not None and _versions(value) == self.versions


def _versions(tensor: Tensor) -> tuple[int, int]:
    """How often a tensor has been written to: a DTensor, and the tensor in it. Inference tensors do not count."""
    inner = getattr(tensor, "_local_tensor", tensor)
    return (0, 0) if inner.is_inference() else (tensor._version, inner._version)


Marks = dict[Tensor, tuple[Mark, Mark]]  # of each parameter: v's and S's


def next_mean_second_moment(taking: list[Part], idle: list[Part], scaling: Scaling, marks: Marks) -> float | Tensor:
    """v̄ of the step about to be taken; S of every parameter that takes it is updated.

    Parameters
    ----------
    taking : list of Part
        The parameters that take the step. Their state has ``step`` and ``exp_avg_sq`` (with AMSGrad also
        ``max_exp_avg_sq``) of before the step.
    idle : list of Part
        The parameters that skip this step and have taken one before. They count with their v and their own number
        of steps.
    scaling : Scaling
        The gradient scaler's scale, and whether it refuses the step.
    marks : dict
        What :func:`mark` wrote after the last step.

    Returns
    -------
    float or Tensor, shape ()
        A number if all parameters are on the CPU, else a tensor on the first accelerator; 0 without parameters.
    """
    _reconcile(taking + idle, marks)
    news = [(_maxima if _amsgrad(part) else _squares)(part, scaling) for part in taking]
    for part, new in zip(taking, sum_over_shards(news, [part.parameters for part in taking]), strict=True):
        _advance(part, new, scaling)
    shares = [_v_hat_sum(part, ahead=1) for part in taking] + [_v_hat_sum(part, ahead=0) for part in idle]
    if not shares:
        return 0.0
    devices = [total.device for total, _ in shares]
    there = next((device for device in devices if device.type != "cpu"), devices[0])
    total = sum(total.to(there, non_blocking=True) for total, _ in shares)
    weights = sum(count.to(there, non_blocking=True) if isinstance(count, Tensor) else count for _, count in shares)
    return readable(total / weights)


def mark(parts: list[Part], marks: Marks) -> None:
    """Remember after a step which v and S belong together."""
    marks.clear()
    if torch.compiler.is_compiling():
        return
    for part in parts:
        for parameter, state in zip(part.parameters, part.states, strict=True):
            marks[parameter] = Mark.of(state[_key(part)]), Mark.of(state[SUM])


def _reconcile(parts: list[Part], marks: Marks) -> None:
    """Replace every S that is not the sum of its v: of new, loaded and edited states."""
    doubtful = [some for part in parts if (some := _doubtful(part, marks))]
    if not doubtful:
        return
    found = [_totals(part) for part, _ in doubtful]
    whole = sum_over_shards(found, [part.parameters for part, _ in doubtful])
    for (part, edited), sums in zip(doubtful, whole, strict=True):
        for state in part.states:  # S may be missing, or a number of an older checkpoint, or on another device
            given = state.get(SUM, math.nan)
            if not isinstance(given, Tensor):
                given = torch.full((), given, dtype=sums.dtype, device=sums.device)
            state[SUM] = given.to(sums.device, sums.dtype, non_blocking=True)
        old = torch.stack(part.state(SUM))
        far = (old - sums).abs() > _explained(part, sums)
        torch._foreach_copy_(part.state(SUM), list(torch.where(far | old.isnan() | edited, sums, old).unbind()))


def _doubtful(part: Part, marks: Marks) -> tuple[Part, Tensor] | None:
    """The parameters of a part whose S may not be the sum of v, and whether v alone is another than it was."""
    device = part.parameters[0].device
    if torch.compiler.is_compiling() or (torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()):
        # A compiled or captured step sees no versions: the comparison becomes part of the graph.
        return part, torch.zeros(len(part.states), dtype=torch.bool, device=device)
    where, edited = [], []
    for i, (parameter, state) in enumerate(zip(part.parameters, part.states, strict=True)):
        v, total = marks.get(parameter, (None, None))
        same_total = total is not None and total.still(state.get(SUM))
        if not (same_total and v is not None and v.still(state[_key(part)])):
            where.append(i)
            edited.append(same_total)
    if not where:
        return None
    return part.subset(where), torch.tensor(edited).to(device, non_blocking=True)


def _explained(part: Part, sums: Tensor) -> Tensor:
    """How far rounding may take the sum over a stored v from S."""
    kept, beta2 = part.states[0][_key(part)].dtype, part.group["betas"][1]
    limits = torch.finfo(kept)
    underflow = limits.smallest_normal * limits.eps * max(map(Tensor.numel, part.parameters))
    return (ROUNDINGS * limits.eps * sums + underflow) / (1 - beta2)


def _totals(part: Part) -> Tensor:
    """Σv of each parameter, over the weights that are here."""
    held = (local(state[_key(part)]) for state in part.states)
    return torch.stack([v.sum(dtype=exact(v)) for v in held])


def _v_hat_sum(part: Part, ahead: int) -> tuple[Tensor, Any]:
    """Σv̂ over the weights of all parameters, and the number of weights; v̂ is that after ``ahead`` more steps.

    A parameter that has taken no step yet, because a scaler refused its first one, does not count.
    """
    sums, steps = torch.stack(part.state(SUM)), torch.stack(part.state("step"))
    counts = steps.to(sums.device, sums.dtype, non_blocking=True) + ahead
    corrections = torch.where(counts > 0, 1 - part.group["betas"][1] ** counts, torch.inf)
    weights = sum(map(Tensor.numel, part.parameters))
    # Parameters that skip the step come one by one.
    return (sums / corrections).sum(), weights if ahead else weights * corrections.isfinite().all()


def _advance(part: Part, new: Tensor, scaling: Scaling) -> None:
    """Update every S to the step about to be taken; in place, because a captured graph knows its address."""
    old, beta2 = torch.stack(part.state(SUM)), part.group["betas"][1]
    sums = new if _amsgrad(part) else beta2 * old + (1 - beta2) * new
    torch._foreach_copy_(part.state(SUM), list(scaling.unless_refused(sums, otherwise=old).unbind()))


def _amsgrad(part: Part) -> bool:
    return part.group.get("amsgrad", False)


def _key(part: Part) -> str:
    return "max_exp_avg_sq" if _amsgrad(part) else "exp_avg_sq"


def _squares(part: Part, scaling: Scaling) -> Tensor:
    """Σg² of each parameter, over the weights that are here."""
    return scaling.unscaled(sums_of_squares([local(gradient) for gradient in part.gradients]), power=2)


def _maxima(part: Part, scaling: Scaling) -> Tensor:
    """Σ of AMSGrad's maximum after this step, for each parameter; needs memory for two more tensors meanwhile."""
    beta2, sums = part.group["betas"][1], []
    for gradient, state in zip(part.gradients, part.states, strict=True):
        unscaled = scaling.unscaled(local(gradient), power=1)
        v = local(state["exp_avg_sq"]).mul(beta2).addcmul_(unscaled, unscaled, value=1 - beta2)
        sums.append(torch.maximum(v, local(state["max_exp_avg_sq"]), out=v).sum(dtype=exact(v)))
    return torch.stack(sums)


def sums_of_squares(tensors: list[Tensor]) -> Tensor:
    """Σg² of each of some tensors on one device, in float64 (float32 on a device without float64).

    The sums may be larger than the largest number of the tensors' dtype.

    Examples
    --------
    >>> sums_of_squares([torch.tensor([3.0, 4.0]), torch.ones(2, 2)])
    tensor([25.,  4.], dtype=torch.float64)
    """
    dtype = exact(tensors[0])
    if tensors[0].device.type == "cpu" and not torch.compiler.is_compiling():  # the dot product is faster there
        flat = [tensor if tensor.dim() == 1 else tensor.reshape(-1) for tensor in tensors]
        return torch.tensor([_sum_of_squares(vector) for vector in flat], dtype=dtype, device="cpu")
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype)).square()


def _sum_of_squares(flat: Tensor) -> float:
    """Σg² of a vector in float32 where that is enough: in float64 where the squares are too large for it."""
    total = _dot(flat, torch.promote_types(flat.dtype, torch.float32))
    return total if math.isfinite(total) else _dot(flat, torch.float64)


def _dot(flat: Tensor, dtype: torch.dtype) -> float:
    """Σg² of a vector: row by row if it is long, and piece by piece if it needs a wider dtype."""
    if flat.dtype != dtype:
        return sum(_dot(piece.to(dtype), dtype) for piece in flat.split(LONGEST_DOT))
    if flat.numel() <= LONGEST_DOT:
        return torch.dot(flat, flat).item()
    rows, rest = flat.split([flat.numel() - flat.numel() % ROW, flat.numel() % ROW])
    norms = torch.linalg.vector_norm(rows.view(-1, ROW), dim=1)
    return _dot(norms, dtype) + _dot(rest, dtype)


def exact(tensor: Tensor) -> torch.dtype:
    """The dtype of sums and of v̄: float64, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
