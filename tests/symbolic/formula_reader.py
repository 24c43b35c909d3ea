"""A reader of printed formulas that knows nothing of the printer: it evaluates their text at numbers."""

import math
import re

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
CLOSING = {"(": ")", "⟨": "⟩", "|": "|"}
FUNCTIONS = {
    "max": max,
    "min": min,
    "sign": lambda x: math.copysign(1, x),
    "clip": lambda x, low, high: min(max(x, low), high),
}


class FormulaReader:
    """The value of a formula where ⟨x⟩ is x, as for a single weight."""

    def __init__(self, said: str, numbers: dict[str, float]):
        self.said, self.numbers, self.place, self.sizes = re.sub(r"\s+", " ", said), numbers, 0, 0

    def value(self) -> float:
        """The value of the whole text."""
        value = self._sum()
        assert self.place == len(self.said), f"{self.said[self.place :]!r} is left"
        return value

    def _next(self, *signs: str) -> str:
        sign = next((sign for sign in signs if self.said.startswith(sign, self.place)), "")
        self.place += len(sign)
        return sign

    def _sum(self) -> float:
        value = -self._product() if self._next("−") else self._product()
        while sign := self._next(" + ", " − "):
            value += self._product() * (1 if sign == " + " else -1)
        return value

    def _case(self, value: float) -> float:
        """The value itself, or in "value if a < b, else other" the one of both that is meant."""
        if not self._next(" if "):
            return value
        low, _, high = self._sum(), self._next(" < "), self._sum()
        assert self._next(", else ")
        other = self._case(self._sum())
        return value if low < high else other

    def _product(self) -> float:
        value = self._power()
        while self.place < len(self.said):
            if self._next("·"):
                value *= self._power()
            elif self._next("/"):
                value /= self._power()
            elif self.said[self.place] in " ,)⟩" or (self.said[self.place] == "|" and self.sizes):
                break
            else:
                value *= self._power()
        return value

    def _power(self) -> float:
        value = self._unit()
        if digits := re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹]+").match(self.said, self.place):
            self.place = digits.end()
            return value ** int(digits[0].translate(SUPERSCRIPTS))
        if self._next("ᵏ"):
            return value ** self.numbers["k"]
        return value ** self._unit() if self._next("^") else value

    def _unit(self) -> float:
        if self._next("√"):
            return math.sqrt(self._unit())
        if opened := self._next(*CLOSING):
            self.sizes += opened == "|"
            value = self._case(self._sum())
            assert self._next(CLOSING[opened])
            self.sizes -= opened == "|"
            return abs(value) if opened == "|" else value
        if called := re.compile(rf"({'|'.join(FUNCTIONS)})\(").match(self.said, self.place):
            self.place = called.end()
            arguments = [self._sum()]
            while self._next(", "):
                arguments.append(self._sum())
            assert self._next(")")
            return FUNCTIONS[called[1]](*arguments)
        if digits := re.compile(r"\d+(\.\d+)?(e[+-]\d+)?").match(self.said, self.place):
            self.place = digits.end()
            return float(digits[0])
        name = self._next(*sorted(self.numbers, key=len, reverse=True))
        assert name, f"{self.said[self.place :]!r} is not a symbol"
        return self.numbers[name]
