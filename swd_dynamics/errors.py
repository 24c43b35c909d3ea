"""Errors for people: what was wrong, the value seen, what is allowed."""

import difflib
import os
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

NOT_THE_USERS = (f"{Path(__file__).parent}{os.sep}", f"{sysconfig.get_path('stdlib')}{os.sep}")
INSTALLED = {"site-packages", "dist-packages"}
Value = TypeVar("Value")


class InputError(ValueError):
    """A value the user gave cannot be used; the message says which, why, and what to give instead.

    In Jupyter it reads as that sentence and the lines of the user's own that led to it, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of the error, a string for each line."""
        lines = [f"{type(self).__name__}: {self}"]
        error: BaseException | None = self
        while error is not None:  # what it was raised from has the line in which the user's own code failed
            lines += [_where(frame) for frame in traceback.extract_tb(error.__traceback__) if _is_the_users(frame)]
            error = error.__cause__
        return lines


def _is_the_users(frame: traceback.FrameSummary) -> bool:
    installed = INSTALLED.intersection(Path(frame.filename).parts)
    return bool(frame.line) and not installed and not frame.filename.startswith(NOT_THE_USERS)


def _where(frame: traceback.FrameSummary) -> str:
    file = Path(frame.filename)
    return f"    {f'{file.name}, ' if file.exists() else ''}line {frame.lineno}: {frame.line}"  # a cell is no file


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
