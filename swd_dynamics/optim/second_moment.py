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

from swd_dynamics.optim.parts import Part, Scaling
from swd_dynamics.tensors.sharding import local, sum_over_shards

SUM = "exp_avg_sq_sum"
# Numbers in one float32 dot product, and in a row of a longer vector. The product loses digits with its length:
# with normal random numbers 2e-6 at 2¹⁸ and 3e-3 at 10⁸. Half the length costs calls, twice the length digits.
LONGEST_DOT, ROW = 2**18, 2**12
# Roundings of a step, each of one eps of v's dtype, by which a v that nobody has edited may leave S. A tenth of them
# would call the rounding of a float32 sum an edit; ten times as many would miss edits of 2 % at β₂ = .999.
ROUNDINGS = 16


class Mark(NamedTuple):
    """v and S as a step left them, and how often each had been written to by then."""

    v: ref
    v_version: int
    total: ref
    total_version: int


Marks = dict[int, Mark]  # by the id of the parameter


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
        A number if all parameters are on the CPU, else a tensor on an accelerator; 0 without parameters.
    """
    _reconcile(taking + idle, marks)
    news = [(_maxima if _amsgrad(part) else _squares)(part, scaling) for part in taking]
    for part, new in zip(taking, sum_over_shards(news, [part.parameters for part in taking]), strict=True):
        _advance(part, new, scaling)
    shares = [_v_hat_sum(part, ahead=1) for part in taking] + [_v_hat_sum(part, ahead=0) for part in idle]
    # Numbers stay numbers: as tensors on a device they would make it wait, and break the capture of a graph.
    there = next((total.device for total, _ in shares if isinstance(total, Tensor)), None)
    total, weights = (
        sum(share[i].to(there) if isinstance(share[i], Tensor) else share[i] for share in shares) for i in (0, 1)
    )
    return total / weights if there or weights else 0.0


def mark(parts: list[Part], marks: Marks) -> None:
    """Remember after a step which v and S belong together."""
    marks.clear()
    if torch.compiler.is_compiling():
        return
    for part in parts:
        key = _key(part)
        for parameter, state in zip(part.parameters, part.states, strict=True):
            v, total = state[key], state[SUM]
            marks[id(parameter)] = Mark(ref(v), _version(v), ref(total), _version(total))


def _version(tensor: Any) -> int:
    """How often a tensor has been written to: a DTensor, and the tensor in it."""
    try:
        own = tensor._version
        return own if type(tensor) is Tensor else own + getattr(tensor, "_local_tensor", tensor)._version
    except (AttributeError, RuntimeError):  # not a tensor, or an inference tensor, which does not count
        return -1


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
    where, edited, key = [], [], _key(part)
    for i, (parameter, state) in enumerate(zip(part.parameters, part.states, strict=True)):
        v, total, last = state[key], state.get(SUM), marks.get(id(parameter))
        same_v = last is not None and last.v() is v and last.v_version == _version(v)
        same_total = last is not None and last.total() is total and last.total_version == _version(total)
        if not (same_v and same_total):
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
    return torch.stack([v.sum(dtype=sum_dtype(v)) for v in held])


def _v_hat_sum(part: Part, ahead: int) -> tuple[Any, Any]:
    """Σv̂ over the weights of all parameters, and the number of weights; v̂ is that after ``ahead`` more steps.

    A parameter that has taken no step yet, because a scaler refused its first one, does not count.
    """
    beta2, steps, sums = part.group["betas"][1], part.state("step"), torch.stack(part.state(SUM))
    weights = sum(map(Tensor.numel, part.parameters))
    if part.on_host:
        counts = [step.item() + ahead for step in steps]
        if not all(counts):  # parameters that skip the step come one by one
            return 0.0, 0
        return sum(value / (1 - beta2**count) for value, count in zip(sums.tolist(), counts, strict=True)), weights
    counts = torch.stack(steps).to(sums.dtype) + ahead
    corrections = torch.where(counts > 0, 1 - beta2**counts, torch.inf).to(sums.device, non_blocking=True)
    return (sums / corrections).sum(), weights if ahead else weights * corrections.isfinite().all()


def _advance(part: Part, new: Tensor, scaling: Scaling) -> None:
    """Update every S to the step about to be taken; in place, because a captured graph knows its address."""
    sums, beta2, amsgrad = part.state(SUM), part.group["betas"][1], _amsgrad(part)
    if part.on_host and not amsgrad and scaling.found_inf is None:
        torch._foreach_mul_(sums, beta2)
        torch._foreach_add_(sums, ((1 - beta2) * new).tolist())
        return
    advanced = new if amsgrad else torch.stack(sums).mul_(beta2).add_(new, alpha=1 - beta2)
    if scaling.found_inf is not None:
        advanced = scaling.unless_refused(advanced, otherwise=torch.stack(sums))
    torch._foreach_copy_(sums, list(advanced.unbind()))


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
        sums.append(torch.maximum(v, local(state["max_exp_avg_sq"]), out=v).sum(dtype=sum_dtype(v)))
    return torch.stack(sums)


def sums_of_squares(tensors: list[Tensor]) -> Tensor:
    """Σg² of each of some tensors on one device, in float64 (float32 on a device without float64).

    The sums may be larger than the largest number of the tensors' dtype.

    Examples
    --------
    >>> sums_of_squares([torch.tensor([3.0, 4.0]), torch.ones(2, 2)])
    tensor([25.,  4.], dtype=torch.float64)
    """
    dtype = sum_dtype(tensors[0])
    if tensors[0].device.type == "cpu" and not torch.compiler.is_compiling():  # the dot product is faster there
        flat = [tensor if tensor.dim() == 1 else tensor.reshape(-1) for tensor in tensors]
        return torch.tensor([_sum_of_squares(vector) for vector in flat], dtype=dtype, device="cpu")
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=dtype)).square()


def _sum_of_squares(flat: Tensor) -> float:
    """Σg² of a vector in float32 where that is enough: in float64 where the squares are too large for it."""
    total = _dot(flat, torch.float64 if flat.dtype == torch.float64 else torch.float32)
    return total if math.isfinite(total) else _dot(flat, torch.float64)


def _dot(flat: Tensor, dtype: torch.dtype) -> float:
    """Σg² of a vector: row by row if it is long, and piece by piece if it needs a wider dtype."""
    if flat.dtype == dtype and flat.numel() <= LONGEST_DOT:
        return torch.dot(flat, flat).item()
    if flat.dtype != dtype:
        return sum(_dot(piece.to(dtype), dtype) for piece in flat.split(LONGEST_DOT))
    rows, rest = flat.split([flat.numel() - flat.numel() % ROW, flat.numel() % ROW])
    norms = torch.linalg.vector_norm(rows.view(-1, ROW), dim=1)
    return _dot(norms, dtype) + _dot(rest, dtype)


def sum_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of sums and of v̄: float64, where the device has it."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64
