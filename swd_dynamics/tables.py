"""Tables of named things: the error for an unknown name lists the known names, the nearest first."""

import difflib
from collections.abc import Iterable
from typing import TypeVar

from swd_dynamics.errors import InputError

Value = TypeVar("Value")


class UnknownName(InputError, KeyError):
    """A name that is not in a table; the message lists the known names, nearest first."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


class Table(dict[str, Value]):
    """A dictionary whose error for an unknown name lists the known names.

    Examples
    --------
    >>> table = Table("colour", red=1, green=2)
    >>> table
    Table of colour: red, green
    >>> table["gren"]
    Traceback (most recent call last):
    swd_dynamics.tables.UnknownName: unknown colour 'gren'; known: green, red
    """

    def __init__(self, kind: str, /, **entries: Value):
        super().__init__(entries)
        self.kind = kind

    def __repr__(self) -> str:
        return f"Table of {self.kind}: {', '.join(self)}"

    def __missing__(self, name: str):
        raise UnknownName(f"unknown {self.kind} {name!r}; known: {', '.join(nearest(str(name), self))}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names, sorted by their likeness to ``name``."""

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    return sorted(known, key=likeness, reverse=True)
