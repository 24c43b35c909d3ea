"""What an atlas measures besides the kind of decay: whether decay survives in bfloat16, and the answer to a spike."""

import math
from collections.abc import Callable
from typing import Any

from swd_dynamics.errors import InputError

KEPT, LOST = 0.8, 0.2  # the share of the decay that is left in bfloat16: kept from here on, lost up to here


def robustness(factory: Callable[..., Any], decay_rate: float | None) -> dict[str, Any]:
    """The share of weak and of strong decay that is left in bfloat16, and the steps after a spike of the gradients.

    Parameters
    ----------
    factory : callable (parameters, **changed arguments) → torch.optim.Optimizer
    decay_rate : float or None
        The R that an audit measured; None: unknown.

    Returns
    -------
    dict
        ``bfloat16``: ``weak`` and ``strong``, the shares for R = 2⁻¹¹ and 2⁻⁶, or ``failed``, the reason; ``spike``:
        ``peak``, ``lowest``, ``recovery``, ``followed``, as in :class:`~swd_dynamics.bench.spikes.SpikeResponse`, or
        ``failed``. Unknown numbers are None.

    Examples
    --------
    >>> import torch
    >>> from functools import partial
    >>> found = robustness(partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, foreach=False), decay_rate=0.001)
    >>> bfloat16_in_words(found["bfloat16"]), found["spike"]["recovery"]
    ('lost', None)
    """
    from swd_dynamics.bench.interventions import bench_for
    from swd_dynamics.bench.low_precision import STRONG, WEAK, kept_in_bfloat16
    from swd_dynamics.bench.spikes import spike_response

    bench = bench_for(factory)

    def shares() -> dict[str, float]:
        rate = math.nan if decay_rate is None else decay_rate
        return {name: kept_in_bfloat16(bench, rate, wanted) for name, wanted in (("weak", WEAK), ("strong", STRONG))}

    return {"bfloat16": _told(shares), "spike": _told(lambda: spike_response(bench)._asdict())}


def _told(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is measured, or why it cannot be; a number that is not finite is None."""
    try:
        numbers = measure()
    except InputError as error:
        return {"failed": str(error)}
    return {name: value if isinstance(value, int) else _rounded(value) for name, value in numbers.items()}


def _rounded(value: float | None) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def bfloat16_in_words(bfloat16: dict[str, Any]) -> str:
    """Whether weak decay, R = 2⁻¹¹, is kept in bfloat16, lost, or left in part; "–" if it is unknown.

    Examples
    --------
    >>> [bfloat16_in_words({"weak": share}) for share in (1.02, 0.5, 0.0, None)]
    ['kept', 'partly (0.50)', 'lost', '–']
    >>> bfloat16_in_words({"failed": "no such type"})
    'fails'
    """
    if "failed" in bfloat16:
        return "fails"
    share = bfloat16.get("weak")
    if share is None:
        return "–"
    if share >= KEPT:
        return "kept"
    return f"partly ({share:.2f})" if share > LOST else "lost"


def spike_in_words(spike: dict[str, Any]) -> str:
    """The largest step after a spike, and after how many steps their size is usual again.

    Examples
    --------
    >>> spike_in_words({"peak": 7.77, "lowest": 0.1, "recovery": None, "followed": 240})
    '7.8×, > 240 steps'
    """
    peak = spike.get("peak")
    if peak is None:
        return "–"
    recovery = spike["recovery"]
    steps = f"> {spike['followed']} steps" if recovery is None else f"{recovery} step{'s' * (recovery != 1)}"
    return f"{peak:.2g}×, {steps}" if peak < 100 else f"{peak:.0f}×, {steps}"
