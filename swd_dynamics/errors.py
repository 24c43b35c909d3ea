"""Errors for people: what was wrong, the value seen, what is allowed."""

import os
import sysconfig
import traceback
from pathlib import Path

NOT_THE_USERS = (f"{Path(__file__).parent}{os.sep}", f"{sysconfig.get_path('stdlib')}{os.sep}")
INSTALLED = {"site-packages", "dist-packages"}


class InputError(ValueError):
    """A value the user gave cannot be used; the message says which, why, and what to give instead.

    In Jupyter it reads as that sentence and the lines of the user's own that led to it, without a traceback.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of the error, a string for each line."""
        lines = [f"{type(self).__name__}: {self}"]
        error: BaseException | None = self
        while error is not None:  # what it was raised from has the line in which the user's own code failed
            lines += [_where(frame) for frame in traceback.extract_tb(error.__traceback__) if _is_shown(frame)]
            error = error.__cause__
        return lines


def is_the_users(filename: str) -> bool:
    """Whether code is the user's own: neither of this package nor of an installed one, nor of Python's library.

    Examples
    --------
    >>> is_the_users("train.py"), is_the_users(__file__)
    (True, False)
    """
    return not INSTALLED.intersection(Path(filename).parts) and not filename.startswith(NOT_THE_USERS)


def _is_shown(frame: traceback.FrameSummary) -> bool:
    return bool(frame.line) and is_the_users(frame.filename)


def _where(frame: traceback.FrameSummary) -> str:
    file = Path(frame.filename)
    return f"    {f'{file.name}, ' if file.exists() else ''}line {frame.lineno}: {frame.line}"  # a cell is no file
