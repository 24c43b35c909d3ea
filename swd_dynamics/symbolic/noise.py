"""The noise of weights that train with noisy gradients, on f = ½h(θ − θ⋆)².

Independent noise ξ of variance σ² in each gradient makes of the linear map state′ = A·state + constant + b·ξ. The
covariance Σ of (θ, memory) that a step leaves as it is solves the Lyapunov equation

    Σ = AΣAᵀ + σ²bbᵀ

of which only Var θ = Σ₁₁ and the correlation ρ₁ = (AΣ)₁₁/Σ₁₁ of successive weights are wanted. Both are rational
functions of the coefficients of two polynomials, the characteristic polynomial p of A and q of the response q/p of θ
to the noise. The functions are found once for each degree, and then the coefficients are put in: to solve the Lyapunov
equation of AdamS entry by entry takes a minute.
"""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any, NamedTuple, cast

import sympy
from sympy import Expr, Matrix, Symbol
from sympy.polys.matrices.exceptions import DMNonInvertibleMatrixError

from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable, stated
from swd_dynamics.symbolic.form import one_minus, with_letters_below
from swd_dynamics.symbolic.letters import lettered
from swd_dynamics.symbolic.linear import READABLE, LinearMap, derived_from_map, find_linear_map, with_numbers_if_large
from swd_dynamics.symbolic.names import symbol_text
from swd_dynamics.symbolic.notation import Letter, PerWeight, cached, noise, z
from swd_dynamics.symbolic.trace import Trace, trace, without_bias

NOISY = "every gradient has noise of variance σ², independent of θ and of the noise of other steps"
BELOW = "h is below stability_limit(rule), where Var θ diverges"
ENDLESS = "Var θ grows without end: at h = {h} nothing pulls the weights back"


class Stationary(NamedTuple):
    """The variance of θ for noise of variance 1, and 1 − ρ₁, where ρ₁ is the correlation of successive weights."""

    variance: Expr
    gap: Expr


def stationary_covariance(rule: UpdateRule) -> Derivation:
    """The variance of the weights about their rest point, f = ½h(θ − θ⋆)² with noise in the gradient.

    The covariance Σ of (θ, memory) solves Σ = AΣAᵀ + σ²bbᵀ, with A of the linear map and b the response to a unit of
    gradient. The preconditioner of an adaptive direction is frozen. The value that it has where the noise is much
    larger than the gradient, v = σ², is a result of its own: where v is more than that, put in your own v.

    Returns
    -------
    Derivation
        ``.results``: ``Var θ``, the correlation ``ρ₁`` of successive weights, and the value of each frozen entry of the
        memory that follows from σ.

    Raises
    ------
    NotDerivable
        If the rule has no linear map, or more than three entries of the state and a symbol.

    Notes
    -----
    Var θ diverges exactly at the stability limit: the denominator is the product of Jury's conditions. Source: Åström
    1970, "Introduction to Stochastic Control Theory", ch. 5, for the variance as a function of two polynomials; Mandt,
    Hoffman & Blei 2017, 1704.04289, for SGD in continuous time.

    Examples
    --------
    Gradient descent has Var θ = ησ²/(h(2 − ηh)):

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> found = stationary_covariance(UpdateRule(0.5, SGD()))(h=2, sigma=1)
    >>> found.results
    {'Var θ': 1/4, 'ρ₁': 0}

    Beyond the limit h = 4 it is ∞, and no correlation is left to be told:

    >>> stationary_covariance(UpdateRule(0.5, SGD()))(h=5, sigma=1).results
    {'Var θ': oo, 'ρ₁': nan}
    """
    title = "The stationary covariance on f = ½h(θ − θ⋆)², with noise"
    return derived_from_map(rule, title, _covariance(rule), infinite=("Var θ",), undefined=("ρ₁",))


def noise_floor(rule: UpdateRule) -> Derivation:
    """The loss that noise adds, ½h·Var θ for each weight: training does not get below it at this learning rate.

    Returns
    -------
    Derivation
        ``.value`` is ΔL = ½h·Var θ, ∞ where h is beyond the stability limit; the other results are those of
        :func:`stationary_covariance`.

    Raises NotDerivable as :func:`stationary_covariance` does.

    Examples
    --------
    Gradient descent has ΔL = ησ²/(2(2 − ηh)), which hardly depends on h where η is small:

    >>> from swd_dynamics.rules import SGD, UpdateRule
    >>> noise_floor(UpdateRule(0.5, SGD()))(h=2, sigma=1).value
    1/4
    """
    covariance = _covariance(rule)

    def derive(found: LinearMap, numbers: dict):
        results, steps = covariance(found, numbers)
        floor = one_minus(sympy.factor(notation.curvature * results["Var θ"] / 2))
        said = stated("The mean of f exceeds its value without noise by ½h·Var θ", Letter("ΔL"), floor)
        return {"ΔL": floor, **{name: results[name] for name in results if name != "ρ₁"}}, (*steps, said)

    return derived_from_map(rule, "The noise floor of f = ½h(θ − θ⋆)²", derive, infinite=("ΔL", "Var θ"))


def _covariance(rule: UpdateRule):
    """What :func:`~swd_dynamics.symbolic.linear.derived_from_map` is given to derive Var θ and ρ₁."""

    def derive(found: LinearMap, numbers: dict) -> tuple[dict[str, Any], Sequence[DerivationStep]]:
        refuse_jumps(lettered(rule)[0])
        moments = moments_of(found.matrix, found.response, numbers)
        variance, rho = one_minus(moments.variance * noise**2), 1 - one_minus(moments.gap)
        steps = [*lyapunov_steps(found.matrix, found.response)]
        steps.append(stated("Solved for the variance of θ", Letter("Var θ"), variance))
        steps.append(stated("The correlation of θ with θ one step later, (AΣ)₁₁/Σ₁₁", Letter("ρ₁"), rho))
        wanted = variance.xreplace(found.roots).free_symbols
        settled = {positive(symbol): value for symbol, value in settled_by_noise(lettered(rule)[0]).items()}
        values = {symbol: value for symbol, value in settled.items() if value is not None and symbol in wanted}
        steps += [stated(MEAN_SQUARE.format(symbol_text(s)), s, value) for s, value in values.items()]
        said = [NOISY, BELOW, *([] if not values else [MUCH_LARGER])]
        steps += [DerivationStep(sentence, None) for sentence in said]
        return {"Var θ": variance, "ρ₁": rho, **{symbol.name: value for symbol, value in values.items()}}, steps

    return derive


def refuse_jumps(rule: UpdateRule) -> None:
    """Raise NotDerivable where R of a rule in symbols depends on a sign: the average over noise has no formula here."""
    rate: Any = without_bias(sympy.sympify(trace(rule).decay_rate))
    cases = [condition for choice in rate.atoms(sympy.Piecewise) for _, condition in choice.args]
    if any(isinstance(s, PerWeight) for each in (*cases, *rate.atoms(sympy.sign)) for s in each.free_symbols):
        raise NotDerivable(
            "the decay rate depends on a sign, which noise turns again and again: what noise and decay do together has"
            " no formula here. Measure it on a run"
        )


MEAN_SQUARE = "Where the gradient is noise, {0} has the mean at which it comes to rest"
MUCH_LARGER = (
    "the values of what is frozen hold where the noise is much larger than the gradient without noise, and β₂ is near 1"
)


def moments_of(
    matrix: Matrix, response: Matrix, numbers: Mapping[Any, Any], free: Collection[Symbol] = (notation.curvature,)
) -> Stationary:
    """Var θ for noise of variance 1 and 1 − ρ₁, where state′ = matrix·state + response·ξ.

    Parameters
    ----------
    matrix : Matrix, shape (n, n); response : Matrix, shape (n, 1)
    numbers : dict of Symbol to number — put in where n > 3
    free : symbols that may be without a number even where n > 3

    Raises
    ------
    NotDerivable
        If nothing pulls θ back, or n > 3 and a symbol that is not free has no number.

    Examples
    --------
    θ′ = aθ + ξ has the variance 1/(1 − a²) and ρ₁ = a:

    >>> a = Symbol("a", positive=True)
    >>> moments_of(Matrix([[a]]), Matrix([1]), {})
    Stationary(variance=1/((1 - a)*(a + 1)), gap=1 - a)
    """
    both = with_numbers_if_large(matrix.row_join(response), dict(numbers))
    if matrix.rows > READABLE and (unknown := both.free_symbols - {*free}):
        names = ", ".join(sorted(map(notation.shown_name, unknown)))
        raise NotDerivable(
            f"the covariance of {matrix.rows} entries of the state has no formula that can be read: give numbers for"
            f" {names} to the rule"
        )
    return _moments(cast(Any, sympy.ImmutableMatrix(both)))


@lru_cache(maxsize=128)
def _moments(both: Any) -> Stationary:
    """The same of the matrix A|b."""
    masked, sums = with_letters_below(both)
    p, q = _response(masked[:, :-1], masked[:, -1:])
    if both.rows > READABLE:
        variance, gap = _solved(p[1:], q[1:])
    else:
        variance, gap = _put_in(p[1:], q[1:])
    return Stationary(*(one_minus(sympy.factor(part.xreplace(sums))) for part in (variance, gap)))


def _response(matrix: Any, column: Any) -> tuple[list[Any], list[Any]]:
    """The coefficients of p and q, from zⁿ on, of the response q(z)/p(z) of θ: by Cramer's rule for (z − A)x = b."""
    size = matrix.rows
    rest = z * sympy.eye(size) - matrix
    replaced = column.row_join(rest[:, 1:])
    polynomials = [sympy.Poly(each.det(method="berkowitz"), z) for each in (rest, replaced)]
    p, q = ([each.coeff_monomial(z ** (size - i)) for i in range(size + 1)] for each in polynomials)
    if sum(p) == 0 or sum((-1) ** i * c for i, c in enumerate(p)) == 0:  # a root at ±1, which noise may not excite
        return _excited(*polynomials)
    return p, q


def _excited(whole: sympy.Poly, part: sympy.Poly) -> tuple[list[Any], list[Any]]:
    """The coefficients of p and q without the factors that they share."""
    above, below = sympy.fraction(sympy.cancel(part.as_expr() / whole.as_expr()))
    p, q = (sympy.Poly(each, z) for each in (below, above))
    lead, powers = p.LC(), [z**power for power in range(int(p.degree()), -1, -1)]
    return [p.coeff_monomial(power) / lead for power in powers], [q.coeff_monomial(power) / lead for power in powers]


@lru_cache(maxsize=READABLE + 1)
def _in_letters(size: int) -> tuple[tuple[Symbol, ...], tuple[Symbol, ...], Expr, Expr]:
    """The coefficients p₁ … and q₁ … as symbols, and the variance and 1 − ρ₁ in them."""
    p, q = (tuple(Letter(f"{name}{i}") for i in range(1, size + 1)) for name in "pq")
    variance, gap = _solved(p, q)
    return p, q, cast(Expr, sympy.factor(variance)), cast(Expr, sympy.factor(gap))


def _put_in(p: Sequence[Any], q: Sequence[Any]) -> tuple[Any, Any]:
    p_letters, q_letters, variance, gap = _in_letters(len(p))
    coefficients = dict(zip((*p_letters, *q_letters), map(sympy.factor, (*p, *q)), strict=True))
    return sympy.factor(_divided(variance, coefficients)), sympy.factor(_divided(gap, coefficients))


def _divided(formula: Any, coefficients: dict) -> Any:
    """A fraction of polynomials in p₁, …, q₁, … with their values put in; NotDerivable where it is divided by 0."""
    above, below = (cast(Any, part).xreplace(coefficients) for part in sympy.fraction(formula))
    if sympy.factor(below) == 0:
        raise NotDerivable(ENDLESS.format(h=0))
    return above / below


def _solved(p: Sequence[Any], q: Sequence[Any]) -> tuple[Any, Any]:
    """The variance Σ₁₁ and 1 − ρ₁, from q(z)q(1/z) = p(z)c(1/z) + c(z)p(1/z), a linear system for the polynomial c.

    The left side over p(z)p(1/z) is the spectrum of θ, which is c(z)/p(z) + c(1/z)/p(1/z). The expansion of
    c/p in powers of 1/z has half of the variance as its first coefficient, and the covariance of successive weights as
    its second one.
    """
    p, q, size = [1, *p], [0, *q], len(p)
    system = sympy.zeros(size + 1, size + 2)
    for lag in range(size + 1):
        for i in range(size + 1 - lag):
            system[lag, i] += p[i + lag]
            system[lag, i + lag] += p[i]
            system[lag, -1] += q[i] * q[i + lag]
    domain = system.to_DM(field=True)
    try:
        c = domain[:, :-1].lu_solve(domain[:, -1:]).to_Matrix()
    except DMNonInvertibleMatrixError:
        raise NotDerivable(ENDLESS.format(h=0)) from None
    variance, covariance = 2 * c[0], c[1] - c[0] * p[1]
    return variance, sympy.cancel(1 - covariance / variance) if variance != 0 else sympy.S.One


def lyapunov_steps(matrix: Any, response: Any) -> list[DerivationStep]:
    """The response b to noise and the Lyapunov equation, entry by entry up to three entries of the state."""
    size = matrix.rows
    column = Matrix([Letter(f"b{_digits(i)}") for i in range(size)])
    steps = [stated("A unit that is added to the gradient adds b to the state", column, response)]
    if size > READABLE:
        return steps
    pairs = [*combinations_with_replacement(range(size), 2)]
    entries = {pair: PerWeight(f"Σ{_digits(*pair)}", real=True) for pair in pairs}
    after = []
    for i, j in pairs:
        shares = {(k, m): matrix[i, k] * matrix[j, m] + int(k != m) * matrix[i, m] * matrix[j, k] for k, m in pairs}
        added = response[i] * response[j] * noise**2
        after.append(sum((shares[pair] * entries[pair] for pair in pairs), added))
    done = "A step leaves the covariance Σ of the state as it is: Σ = AΣAᵀ + σ²bbᵀ"
    return [*steps, stated(done, Matrix([*entries.values()]), Matrix(after))]


def _digits(*indices: int) -> str:
    return "".join("₁₂₃₄₅₆₇₈₉"[i] if i < 9 else f"_{i + 1}" for i in indices)


def positive(symbol: Symbol) -> Symbol:
    return PerWeight(symbol.name, positive=True)


@cached
def settled_by_noise(rule: UpdateRule) -> dict[Symbol, Expr | None]:
    """The mean of each frozen entry of the memory where the gradient is noise of variance σ², of a rule in symbols.

    An entry that is made of squares of gradients and of the moving memory has the mean that its own step leaves as it
    is, with E[G²] = σ². None for an entry with no such mean: a maximum, and a sum without end.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> settled_by_noise(lettered(CATALOG["AdamW"](lr=0.1))[0])
    {v: σ**2}
    """
    found, traced = find_linear_map(rule), trace(rule).map(without_bias)
    return settled_entries(traced, found.state[1:], _memory_covariance(found))


def settled_entries(traced: Trace, moving: Sequence[Symbol], covariance: Matrix | None) -> dict[Symbol, Expr | None]:
    """The mean of each entry of the memory that is not among the moving ones, whose covariance is given.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> traced = trace(lettered(CATALOG["RMSprop"](lr=0.1))[0])
    >>> settled_entries(traced, (), None)
    {v: σ**2}
    """
    entries = dict(zip(traced.memory, traced.remembered, strict=True))
    waiting = [symbol for symbol in traced.memory if symbol not in moving]
    settled: dict[Symbol, Expr | None] = dict.fromkeys(waiting)
    for _ in waiting:  # an entry may need the means of others, as Adadelta's u needs v
        known = {symbol: value for symbol, value in settled.items() if value is not None}
        for symbol in waiting:
            if settled[symbol] is None:
                mean = expected(without_means(entries[symbol].xreplace(known)), moving, covariance)
                settled[symbol] = _rest(symbol, mean, {*traced.memory} - {symbol})
    return settled


def without_means(expression: Any) -> Any:
    """The expression with x for its mean over weights, where all weights have noise of the same variance."""
    return expression.replace(notation.mean, lambda x: x)


def expected(expression: Any, moving: Sequence[Symbol], covariance: Matrix | None) -> Any:
    """The mean of a quadratic function of G and of the moving memory, which are independent; None for others."""
    inputs = (notation.total, *moving)
    if not expression.is_polynomial(*inputs):
        return None
    polynomial = sympy.Poly(expression, *inputs)
    if polynomial.total_degree() > 2 or (moving and covariance is None and polynomial.free_symbols & {*moving}):
        return None
    total = sympy.S.Zero
    for powers, coefficient in polynomial.terms():
        total += coefficient * _moment(powers, covariance)
    return total


def _moment(powers: tuple[int, ...], covariance: Matrix | None) -> Any:
    if sum(powers) == 0:
        return sympy.S.One
    at = [i for i, power in enumerate(powers) for _ in range(power)]
    if len(at) == 1 or (0 in at and at != [0, 0]):
        return sympy.S.Zero
    return noise**2 if at == [0, 0] else cast(Matrix, covariance)[at[0] - 1, at[1] - 1]


def _rest(symbol: Symbol, mean: Any, others: set[Symbol]) -> Expr | None:
    """Where an entry with this mean after the step comes to rest; None where there is no such place."""
    if mean is None or mean.free_symbols & others or not mean.is_polynomial(symbol):
        return None
    polynomial = sympy.Poly(mean - symbol, symbol)
    if polynomial.degree() != 1:
        return None
    slope, rest = polynomial.all_coeffs()
    return cast(Expr, one_minus(sympy.factor(-rest / slope)))


def _memory_covariance(found: LinearMap) -> Matrix | None:
    """The covariance of the moving memory where the gradient is noise, by its own Lyapunov equation; None if large."""
    size = len(found.state) - 1
    if not size or size > 2:
        return None
    matrix, column = cast(Any, found.matrix)[1:, 1:], cast(Any, found.response)[1:, :]
    pairs = [*combinations_with_replacement(range(size), 2)]
    unknown = {pair: sympy.Dummy() for pair in pairs}
    sigma = Matrix(size, size, lambda i, j: unknown[min(i, j), max(i, j)])
    balance = matrix * sigma * matrix.T + noise**2 * column * column.T - sigma
    solution = sympy.solve([balance[pair] for pair in pairs], [*unknown.values()], dict=True)
    return cast(Matrix, sigma.xreplace(solution[0]).applyfunc(sympy.factor)) if solution else None
