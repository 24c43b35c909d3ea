"""Errors for people: what was wrong, the value seen, what is allowed."""

import difflib
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

NOT_THE_USERS = (str(Path(__file__).parent), sysconfig.get_path("stdlib"))  # where code is that the user did not write
Value = TypeVar("Value")


class InputError(ValueError):
    """A value the user gave cannot be used; the message says which, why, and what to give instead.

    In Jupyter it reads as that sentence and the lines of the user's own that led to it, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of the error, a string for each line."""
        frames = traceback.extract_tb(self.__traceback__)
        own = [f for f in frames if not f.filename.startswith(NOT_THE_USERS) and "site-packages" not in f.filename]
        lines = [f"    line {frame.lineno}: {frame.line}" for frame in own if frame.line]
        return [f"{type(self).__name__}: {self}", *lines]


class UnknownName(InputError, KeyError):
    """A name that is not in a table; the message lists the known names, nearest first."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


class Table(dict[str, Value]):
    """A dictionary whose lookup of an unknown name says which names there are.

    Examples
    --------
    >>> table = Table("colour", red=1, green=2)
    >>> table
    Table of colour: red, green
    >>> table["gren"]
    Traceback (most recent call last):
    swd_dynamics.errors.UnknownName: unknown colour 'gren'; known: green, red
    """

    def __init__(self, kind: str, /, **entries: Value):
        super().__init__(entries)
        self.kind = kind

    def __repr__(self) -> str:
        return f"Table of {self.kind}: {', '.join(self)}"

    def __missing__(self, name: str):
        raise UnknownName(f"unknown {self.kind} {name!r}; known: {', '.join(nearest(str(name), self))}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names, the one most like ``name`` first."""

    def likeness(other: str) -> float:
        return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()

    return sorted(known, key=likeness, reverse=True)
