"""Optimizers by name: a class of a module, and arguments as literals."""

import ast
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from swd_dynamics.errors import InputError
from swd_dynamics.tables import listed


def imported(name: str) -> ModuleType:
    """The module of that name. Importing it runs its code, as ``python -m`` does.

    Modules in the current directory are found as well.

    Raises
    ------
    InputError
        If the module cannot be imported, for whatever reason.

    Examples
    --------
    >>> imported("fractions").Fraction(1, 2)
    Fraction(1, 2)
    """
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:  # a module may do anything when it is imported
        raise InputError(
            f"{name or 'a module without a name'} cannot be imported: {type(error).__name__}: {error}; give"
            " a module that is installed here or lies in the current directory"
        ) from error


def named_class(text: str) -> type:
    """The class that ``MODULE:CLASS`` names. Importing the module runs its code, as ``python -m`` does.

    Modules in the current directory are found as well.

    Raises
    ------
    InputError
        If the text is not of that form, the module cannot be imported, or the module has no such class.

    Examples
    --------
    >>> named_class("fractions:Fraction")
    <class 'fractions.Fraction'>
    """
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise InputError(f"{text!r} names no class: give MODULE:CLASS, as torch.optim:AdamW")
    module = imported(module_name)
    found = getattr(module, name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        known = listed(name, classes) or "none"
        raise InputError(f"{module_name} has no class {name!r}; it has {known}")
    return found


def literal_arguments(text: str | None) -> dict[str, Any]:
    """Arguments as they are written in a call. Their values are literals: nothing is evaluated.

    Raises
    ------
    InputError
        If the text does not read ``name=value,name=value``, or a value is not a literal.

    Examples
    --------
    >>> literal_arguments("lr=1e-2,betas=(.9,.99),nesterov=True")
    {'lr': 0.01, 'betas': (0.9, 0.99), 'nesterov': True}
    """
    wanted = f"arguments {text!r}: give name=value,name=value with values as 1e-2, True, (0.9, 0.99) or 'text'"
    try:
        call = ast.parse(f"arguments({text or ''})", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(wanted) from None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise InputError(wanted)
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in found:
            raise InputError(f"{wanted}, each name once")
        try:
            found[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, RecursionError, MemoryError):
            raise InputError(f"{keyword.arg} in {wanted}") from None
    return found
