"""v̄, the mean of the second moment over all weights of all parameters, without a pass over the second moments.

The sum S of one parameter's v over its weights obeys v's own recursion, S ← β₂S + (1 − β₂)Σg², so one reduction over
the gradients gives it. Each parameter has an S of its own, because a parameter without gradient skips its step, and
groups may differ in β₂. S is float64 whatever the parameter's dtype, because a stored v drifts in bfloat16. AMSGrad's
maximum obeys no such recursion: for it a pass is needed.
"""

# pyright: reportPrivateImportUsage=false
# torch's own optimizers are built on its foreach functions, which are private by name only.

from typing import Any

import torch
from torch import Tensor

from swd_dynamics.optim.parts import Part, Scaling
from swd_dynamics.tensors.sharding import local, sum_over_shards

SUM = "exp_avg_sq_sum"
# Numbers in one float32 dot product, and in a row of a longer vector. The product loses digits with its length:
# with normal random numbers 2e-6 at 2¹⁸ and 3e-3 at 10⁸. Half the length costs calls, twice the length digits.
LONGEST_DOT, ROW = 2**18, 2**12


def next_mean_second_moment(taking: list[Part], idle: list[Part], scaling: Scaling) -> float | Tensor:
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

    Returns
    -------
    float or Tensor, shape ()
        A number if all parameters are on the CPU, else a tensor on the first parameter's device; 0 without
        parameters.
    """
    for part in taking + idle:
        _start(part)
    news = [(_maxima if _amsgrad(part) else _squares)(part, scaling) for part in taking]
    for part, new in zip(taking, sum_over_shards(news, [part.parameters for part in taking]), strict=True):
        _advance(part, new, scaling)
    shares = [_v_hat_sum(part, ahead=1) for part in taking] + [_v_hat_sum(part, ahead=0) for part in idle]
    there = next((total.device for total, _ in shares if isinstance(total, Tensor)), None)
    # Numbers stay numbers: as tensors on a device they would make it wait, and break the capture of a graph.
    total, weights = (
        sum(share[i].to(there) if isinstance(share[i], Tensor) else share[i] for share in shares) for i in (0, 1)
    )
    return total / weights if there or weights else 0.0


def _v_hat_sum(part: Part, ahead: int) -> tuple[Any, Any]:
    """Σv̂ over the weights of all parameters, and the number of weights; v̂ is that after ``ahead`` more steps.

    A parameter that has taken no step yet, because a scaler refused its first one, does not count.
    """
    beta2, sums, steps = part.group["betas"][1], part.state(SUM), part.state("step")
    weights = sum(map(Tensor.numel, part.parameters))
    if part.on_host:
        counts = [step.item() + ahead for step in steps]
        if not all(counts):  # parameters that skip the step come one by one
            return 0.0, 0
        return sum(value / (1 - beta2**count) for value, count in zip(sums, counts, strict=True)), weights
    values = torch.stack(sums)
    counts = torch.stack(steps).to(values.dtype) + ahead
    corrections = torch.where(counts > 0, 1 - beta2**counts, torch.inf).to(values.device, non_blocking=True)
    if ahead:
        return (values / corrections).sum(), weights
    return (values / corrections).sum(), weights * corrections.isfinite().all()


def _advance(part: Part, new: Tensor, scaling: Scaling) -> None:
    """Update every S to the step about to be taken; in place, because a captured graph knows its address."""
    share = 1.0 if _amsgrad(part) else 1 - part.group["betas"][1]
    if part.on_host:
        for state, value in zip(part.states, new.tolist(), strict=True):
            state[SUM] = value if share == 1 else (1 - share) * state[SUM] + share * value
    else:
        old = torch.stack(part.state(SUM))
        sums = scaling.unless_refused(new if share == 1 else (1 - share) * old + share * new, otherwise=old)
        torch._foreach_copy_(part.state(SUM), list(sums.unbind()))


def _amsgrad(part: Part) -> bool:
    return part.group.get("amsgrad", False)


def _squares(part: Part, scaling: Scaling) -> Tensor:
    """Σg² of each parameter, over the weights that are here."""
    gradients = [local(gradient) for gradient in part.gradients]
    return scaling.unscaled(sums_of_squares(gradients, huge=scaling.scale is not None), power=2)


def _maxima(part: Part, scaling: Scaling) -> Tensor:
    """Σ of AMSGrad's maximum after this step, for each parameter; needs memory for two more tensors meanwhile."""
    beta2, sums = part.group["betas"][1], []
    for gradient, state in zip(part.gradients, part.states, strict=True):
        unscaled = scaling.unscaled(local(gradient), power=1)
        v = local(state["exp_avg_sq"]).mul(beta2).addcmul_(unscaled, unscaled, value=1 - beta2)
        sums.append(torch.maximum(v, local(state["max_exp_avg_sq"]), out=v).sum(dtype=_exact(v)))
    return torch.stack(sums)


def _start(part: Part) -> None:
    """Compute S from v where the state has no S: for a new parameter, or a checkpoint of torch's Adam."""
    wanted = float if part.on_host else Tensor
    if all(isinstance(state.get(SUM), wanted) for state in part.states):
        return
    new = [i for i, state in enumerate(part.states) if SUM not in state]
    if new:
        key = "max_exp_avg_sq" if _amsgrad(part) else "exp_avg_sq"
        sums = torch.stack([local(part.states[i][key]).sum(dtype=_exact(part.parameters[i])) for i in new])
        (sums,) = sum_over_shards([sums], [[part.parameters[i] for i in new]])
        for i, value in zip(new, sums.unbind(), strict=True):
            part.states[i][SUM] = value.clone()
    # S may be new, or come from a checkpoint of another device.
    for parameter, state in zip(part.parameters, part.states, strict=True):
        value = torch.as_tensor(state[SUM], dtype=_exact(parameter))
        state[SUM] = value.item() if wanted is float else value.to(parameter.device)


def sums_of_squares(tensors: list[Tensor], huge: bool = False) -> Tensor:
    """Σg² of each of some tensors on one device, in float64 (float32 on a device without float64).

    With ``huge`` the sums may be larger than float32 can hold.

    Examples
    --------
    >>> sums_of_squares([torch.tensor([3.0, 4.0]), torch.ones(2, 2)])
    tensor([25.,  4.], dtype=torch.float64)
    """
    exact = _exact(tensors[0])
    if tensors[0].device.type == "cpu" and not torch.compiler.is_compiling():  # the dot product is faster there
        flat = [tensor if tensor.dim() == 1 else tensor.reshape(-1) for tensor in tensors]
        return torch.tensor([_dot(vector, huge) for vector in flat], dtype=exact, device="cpu")
    return torch.stack(torch._foreach_norm(tensors, 2, dtype=exact)).square()


def _dot(flat: Tensor, huge: bool) -> float:
    """Σg² of a vector: row by row if it is long, and piece by piece if it needs a wider dtype."""
    wider = torch.float32 if flat.element_size() < 4 else torch.float64 if huge else flat.dtype
    if flat.dtype != wider:
        return sum(_dot(piece.to(wider), huge) for piece in flat.split(LONGEST_DOT))
    if flat.numel() <= LONGEST_DOT:
        return torch.dot(flat, flat).item()
    rows, rest = flat.split([flat.numel() - flat.numel() % ROW, flat.numel() % ROW])
    norms = torch.linalg.vector_norm(rows.view(-1, ROW), dim=1)
    return _dot(norms, huge) + _dot(rest, huge)


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64
