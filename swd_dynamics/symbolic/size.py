"""How long a formula is, counted before work is done on it that might not end."""

from math import comb
from typing import Any

MANY = 10**9  # where counting stops, since an iteration of iterations would make numbers with thousands of digits


def written(expression: Any) -> int:
    """The number of parts of a formula as it would be written, in time that grows with its different parts only.

    Examples
    --------
    >>> from sympy import Symbol
    >>> x = Symbol("x")
    >>> written(x), written(x + 2), written((x + 2) * (x + 3))
    (1, 3, 7)
    """
    return _tally(expression, lambda _, parts: 1 + sum(parts))


def expanded_terms(expression: Any) -> int:
    """The largest number of terms that a formula can have once its products and powers of sums are multiplied out.

    Examples
    --------
    (x + 2)(x + 3) has at most 4 terms, and a sum of two terms to the power of 10 has 11:

    >>> from sympy import Symbol
    >>> x = Symbol("x")
    >>> expanded_terms((x + 2) * (x + 3)), expanded_terms((x + 1) ** 10)
    (4, 11)
    """
    return _tally(expression, _terms)


def _terms(part: Any, terms: list[int]) -> int:
    if part.is_Add:
        return sum(terms)
    if part.is_Mul:
        product = 1
        for count in terms:
            product = min(product * count, MANY)
        return product
    if part.is_Pow and part.exp.is_Integer and terms[0] > 1:
        power = min(abs(int(part.exp)), MANY)
        return min(comb(terms[0] + power - 1, power), MANY) if power < 100 else MANY
    return 1


def _tally(expression: Any, count: Any) -> int:
    """A number for each different part, from those of its own parts, without recursion."""
    found: dict[Any, int] = {}
    waiting = [expression]
    while waiting:
        part = waiting[-1]
        if part in found:
            waiting.pop()
        elif missing := [each for each in part.args if each not in found]:
            waiting += missing
        else:
            found[waiting.pop()] = min(count(part, [found[each] for each in part.args]), MANY)
    return found[expression]
