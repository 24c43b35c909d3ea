"""The clipped values of a rule on its slow manifold, where a modified equation assumes that no clip is active."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import sympy
from numpy.typing import NDArray

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.letters import lettered
from swd_dynamics.symbolic.modified import modified_equation
from swd_dynamics.symbolic.notation import primed
from swd_dynamics.symbolic.trace import trace, without_bias

Array = NDArray[np.float64]


def numeric_clips(rule: UpdateRule) -> Callable[[Array, Array], list[tuple]]:
    """Each clipped value of a rule and its two limits, as a function of θ and g, with the memory at rest.

    Raises
    ------
    NotDerivable
        If the rule has no modified equation.

    Examples
    --------
    Adai's β₁ = 1 − β₀g²/⟨g²⟩ is 1 − β₀ where all gradients are equal, and may lie in [0, 1 − ε]:

    >>> from swd_dynamics.rules import Adai
    >>> clips = numeric_clips(UpdateRule(0.1, Adai(betas=(0.25, 0.5), eps=0.125)))
    >>> [(value.tolist(), low, high) for value, low, high in clips(np.zeros(2), np.ones(2))]
    [([0.75, 0.75], 0, 0.875)]
    """
    letters, values = lettered(rule)
    names, function = _compile(letters)
    numbers = [values[name] for name in names]
    return lambda theta, gradient: function(theta, gradient, numbers)


@lru_cache(maxsize=64)
def _compile(rule: UpdateRule) -> tuple[list[sympy.Symbol], Callable]:
    traced, equation = trace(rule), modified_equation(rule)
    at_rest = {symbol: before for symbol, (before, _) in equation.memory.items()}
    at_rest |= {primed(symbol): before for symbol, before in at_rest.items()}
    given = at_rest | {notation.total: traced.total}
    stages = (*traced.remembered, traced.decay_rate, traced.move)
    found = sorted({clip for stage in stages for clip in without_bias(stage).atoms(notation.clip)}, key=str)
    values = [[part.xreplace(given) for part in clip.args] for clip in found]
    plain = [[part.replace(notation.mean, sympy.Function("mean")) for part in parts] for parts in values]
    used: Any = set().union(*(part.free_symbols for parts in values for part in parts))
    letters = sorted(used - {notation.theta, notation.gradient}, key=str)
    arguments = [notation.theta, notation.gradient, letters]
    return letters, sympy.lambdify(arguments, plain, modules=[{"mean": np.mean}, "numpy"])
