"""Tables of named things: the error for an unknown name lists known names, the nearest first."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from functools import partial
from textwrap import fill
from typing import Any, TypeVar

from swd_dynamics.errors import InputError

Value = TypeVar("Value")

LINE = 100  # columns of a table that is printed
FEW, NEAREST = 12, 5  # an error lists so few names completely, and otherwise the nearest


class UnknownName(InputError, KeyError):
    """A name that is not in a table; the message lists the nearest known names."""

    def __str__(self) -> str:  # KeyError would print the message in quotes
        return str(self.args[0])


class UnknownAttribute(UnknownName, AttributeError):
    """A name that is not in a table, written after a dot."""


class Table(dict[str, Value]):
    """A dictionary whose error for an unknown name lists the known names. ``table.name`` is ``table["name"]``.

    Parameters
    ----------
    kind : str
        What an entry is, in one or two words.
    about : str
        What ``help(table)`` says before it lists the entries, each with the first line of its own docstring.
    advice : callable (name) → str, optional
        What can be done about a name that is not in the table, in whole sentences; empty where the name looks like a
        slip, so that the error lists the known names.
    **entries
        A name that a method of dictionaries has, as ``items``, is found only in brackets.

    Examples
    --------
    >>> table = Table("colour", red=1, green=2)
    >>> table
    Table of colour: red, green
    >>> table.red
    1
    >>> table["gren"]
    Traceback (most recent call last):
    swd_dynamics.tables.UnknownName: unknown colour 'gren'; known: green, red
    """

    def __init__(self, kind: str, about: str = "", advice: Callable[[str], str] | None = None, /, **entries: Value):
        super().__init__(entries)
        self.kind, self.advice = kind, advice
        self.__doc__ = _documented(about or f"{self}.", entries)

    def __repr__(self) -> str:
        return fill(f"Table of {self.kind}: {', '.join(self)}", LINE, subsequent_indent="    ", break_long_words=False)

    def __missing__(self, name: str):
        raise UnknownName(self._unknown(name))

    def __getattr__(self, name: str) -> Value:  # only for names that a dictionary does not have
        if name.startswith("_"):  # a tool asks for a method of its own, perhaps of a table that is not yet made
            raise AttributeError(name)
        if name not in self:
            raise UnknownAttribute(self._unknown(name))
        return self[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *filter(str.isidentifier, self)})

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _unknown(self, name: object) -> str:
        shown = getattr(name, "__name__", str(name))  # of a class that was given in place of its name
        advice = self.advice(shown) if self.advice else ""
        return advice or f"unknown {self.kind} {name!r}; known: {listed(shown, self)}"


def preset(function: Callable[..., Value], **arguments: Any) -> Callable[..., Value]:
    """The function with some arguments given, and with its docstring, which :func:`functools.partial` would hide.

    Examples
    --------
    >>> preset(nearest, known=["red", "green"])("gren")
    ['green', 'red']
    """
    made = partial(function, **arguments)
    made.__doc__ = function.__doc__
    return made


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names: first those that contain ``name``, then the others, both sorted by their likeness to it."""
    return sorted(known, key=lambda other: (name.lower() in other.lower(), likeness(name, other)), reverse=True)


def in_any_case(name: str, known: Iterable[str]) -> str:
    """The known name that differs from ``name`` only in capitals, if there is exactly one; otherwise ``name`` itself.

    Examples
    --------
    >>> in_any_case("RED", ["red", "green"]), in_any_case("RED", ["Red", "red"])
    ('red', 'RED')
    """
    found = [other for other in known if other.lower() == name.lower()]
    return found[0] if len(found) == 1 else name


def listed(name: str, known: Iterable[str]) -> str:
    """The known names for a message, the nearest to ``name`` first: all if they are few, otherwise the nearest.

    Examples
    --------
    >>> listed("gren", ["red", "green"])
    'green, red'
    >>> listed("x7", (f"x{i}" for i in range(20)))
    'x7, x17, x0, x1, x2 and 15 more'
    """
    names = nearest(name, known)
    if len(names) <= FEW:
        return ", ".join(names)
    return f"{', '.join(names[:NEAREST])} and {len(names) - NEAREST} more"


def likeness(name: str, other: str) -> float:
    """From 0 to 1, whatever the capitals."""
    return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()


def _documented(about: str, entries: dict) -> str:
    """The docstring of a table: what it is, and a line for each entry that has a docstring."""
    lines = []
    for name, entry in entries.items():
        own = (inspect.getdoc(entry) or "") if callable(entry) else ""
        lines += [f"{name} : {own.partition(chr(10))[0]}"] if own else []
    return "\n".join([inspect.cleandoc(about), *(["", "Entries", "-------", *lines] if lines else [])])
