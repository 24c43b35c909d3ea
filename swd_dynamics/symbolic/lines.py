"""Formulas as lines that fit a terminal."""

import shutil
import textwrap
from typing import Any

import sympy

from swd_dynamics.symbolic.arrange import arranged, free_names, is_cubic, named_parts, plus_minus, shortest
from swd_dynamics.symbolic.printer import approximated, has_decimals, text

BREAKS = (
    " = ",
    " ≈ ",
    " + ",
    " − ",
    ", ",
    "·",
    ")(",
    "/",
)  # where a line may be broken, before the sign; first the first four


def terminal_width() -> int:
    """The number of columns of the terminal; 100 where the output is not a terminal."""
    return shutil.get_terminal_size((100, 24)).columns


def formula_lines(name: str, expression: Any, width: int, decimals: bool | None = None) -> list[str]:
    """``name = expression`` as lines of at most ``width`` columns, broken before + and −; a root with its value."""
    if isinstance(expression, sympy.MatrixBase):
        return _matrix_lines(name, expression, width, decimals)
    if is_cubic(expression):
        said = f"the {len(expression)} roots of the polynomial in the last step (in radicals: .results[{name!r}])"
        return textwrap.wrap(f"{name}: {said}", width)
    if isinstance(expression, tuple) and (pair := plus_minus(expression)):
        (half, product), (b, c) = pair, free_names(expression)
        lines = [f"{name} = {b} ± √({b}² − {c})"]
        is_decimal = has_decimals(sympy.Tuple(*pair)) if decimals is None else decimals
        said = text(shortest(half), True) if is_decimal else f"({text(shortest(2 * half), False)})/2"
        sides = said, text(product, is_decimal)
        return lines + [line for each in zip((b, c), sides, strict=True) for line in wrapped(" = ".join(each), width)]
    if isinstance(expression, tuple):
        return [line for each in expression for line in formula_lines(name, each, width, decimals)]
    said = approximated(text(arranged(expression), decimals), expression, text, "≈")
    lines = wrapped(f"{name} = {said}", width)
    if len(lines) == 1 or not isinstance(expression, sympy.Expr):
        return lines
    whole, parts = named_parts(expression)
    given = [line for part in parts.items() for line in formula_lines(*part, width, decimals)]
    return [*wrapped(f"{name} = {text(arranged(whole), decimals)}", width), *given]


def equation_lines(equation: Any, width: int) -> list[str]:
    """An equation, or an expression alone, as lines; an equation of vectors as one equation for each entry."""
    if not isinstance(equation, sympy.Eq):
        return wrapped(text(arranged(equation)), width)
    left, right = equation.args
    if not isinstance(left, sympy.MatrixBase | sympy.MatrixExpr):
        drawn = arranged(equation)
        return wrapped(f"{text(drawn.lhs)} = {text(drawn.rhs)}", width)
    sides = zip(_entries(left), _entries(right), strict=True)
    return [line for pair in sides for line in wrapped(" = ".join(map(text, pair)), width)]


def _entries(vector: Any) -> list[Any]:
    """The entries of a column: of a sum and a product of matrices, each coefficient as it is written best."""
    if isinstance(vector, sympy.MatAdd):
        return [sympy.Add(*parts) for parts in zip(*map(_entries, vector.args), strict=True)]
    if isinstance(vector, sympy.MatMul):
        matrix, state = vector.args
        rows = arranged(sympy.ImmutableMatrix(matrix)).tolist()
        return [sympy.Add(*(a * s for a, s in zip(row, sympy.flatten(state), strict=True))) for row in rows]
    return [*arranged(sympy.ImmutableMatrix(vector))]


def _matrix_lines(name: str, matrix: Any, width: int, decimals: bool | None) -> list[str]:
    """A matrix as a grid where it fits, and otherwise one line for each entry that is not 0."""
    drawn = [[text(entry, decimals) for entry in row] for row in arranged(sympy.ImmutableMatrix(matrix)).tolist()]
    sizes = [max(map(columns, column)) for column in zip(*drawn, strict=True)]
    if columns(name) + sum(sizes) + 3 * len(sizes) + 6 > width:
        entries = {f"{name}{_index(i, j, matrix.cols)}": e for i, row in enumerate(drawn) for j, e in enumerate(row)}
        return [line for entry, said in entries.items() if said != "0" for line in wrapped(f"{entry} = {said}", width)]
    ends = [("(", ")")] if len(drawn) == 1 else [("⎛", "⎞"), *[("⎜", "⎟")] * (len(drawn) - 2), ("⎝", "⎠")]
    lines = []
    for number, (row, (left, right)) in enumerate(zip(drawn, ends, strict=True)):
        cells = "   ".join(cell + " " * (size - columns(cell)) for cell, size in zip(row, sizes, strict=True))
        lines.append((f"{name} = " if number == 0 else " " * (columns(name) + 3)) + f"{left} {cells} {right}")
    return lines


def _index(row: int, column: int, columns: int) -> str:
    digits = f"{row + 1}{column + 1}" if columns > 1 else f"{row + 1}"
    return digits.translate(str.maketrans("123456789", "₁₂₃₄₅₆₇₈₉"))


def columns(said: str) -> int:
    """The columns that a text takes in a terminal: a dot or a hat over a letter takes none."""
    return sum(not 0x300 <= ord(letter) < 0x370 for letter in said)


def wrapped(said: str, width: int) -> list[str]:
    """A formula broken into lines before its outermost + and −, and inside brackets only where that is not enough.

    Examples
    --------
    >>> print(*wrapped("p = z² − (1 + β − ηh)z + β", 20), sep="\\n")
    p = z² − (1 + β − ηh)z
        + β
    """
    if columns(said) <= width:
        return [said]
    left = columns(said.partition(" = ")[0]) + 3
    indent = " " * left if left <= width / 4 else "    "  # a short name on the left, or a whole formula
    depths = _depths(said)
    for signs in (BREAKS[1:4] if left <= width / 4 else BREAKS[:4], BREAKS):
        for depth in range(max(depths) + 1):
            places = [i for i in range(1, len(said)) if depths[i] <= depth and _breaks(said, i, signs)]
            lines = _filled(said, places, width, indent)
            if max(map(columns, lines)) <= width:
                return lines
    return lines


def _depths(said: str) -> list[int]:
    """The number of brackets around each letter."""
    depths, depth = [], 0
    for letter in said:
        depth -= letter in ")⟩"
        depths.append(depth)
        depth += letter in "(⟨"
    return depths


def _breaks(said: str, place: int, signs: tuple[str, ...]) -> bool:
    return any(said.startswith(sign, place) for sign in signs)


def _filled(said: str, places: list[int], width: int, indent: str) -> list[str]:
    parts = [said[i:j] for i, j in zip([0, *places], [*places, len(said)], strict=True)]
    lines = [parts[0]]
    for part in parts[1:]:
        if columns(lines[-1] + part) <= width:
            lines[-1] += part
        else:
            lines.append(indent + part.removeprefix(" "))
    return lines
