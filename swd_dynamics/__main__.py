"""``swd-dynamics`` and ``python -m swd_dynamics``: a user's mistake is one line and exit code 2.

So is what the operating system refuses: a path that is too long, a folder that cannot be read, a full disk.
"""

import io
import os
import sys

from cyclopts import CycloptsError, MissingArgumentError, UnusedCliTokensError

from swd_dynamics.cli import app
from swd_dynamics.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 a check failed, 2 the user's mistake, 130 interrupted, 141 nobody reads what is printed.
    """
    _keep_printable()
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except UnusedCliTokensError as error:
        return _refused(f"{error}{_hint(error.unused_tokens or [])}")
    except MissingArgumentError as error:
        command = " ".join(["swd-dynamics", *(error.command_chain or ())])
        return _refused(f"{error} {command} --help shows an example.")
    except (InputError, CycloptsError) as error:
        return _refused(str(error))
    except BrokenPipeError:  # whoever read what is printed has read enough, as head does
        _print_no_more()
        return 141
    except OSError as error:
        _print_no_more()
        where = "" if error.filename is None else f"{error.filename}: "
        return _refused(f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        print("swd-dynamics: interrupted; what was finished is written", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def _refused(message: str) -> int:
    print(f"swd-dynamics: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _hint(unused: list[str]) -> str:
    """What to do with words that no option takes: arguments of an optimizer are one word."""
    is_argument = any("=" in word and not word.startswith("-") for word in unused)
    return " Put commas, not spaces, between arguments: --args lr=0.01,weight_decay=0.1" * is_argument


def _keep_printable() -> None:
    """Make printing work where a stream is closed, or cannot encode a letter like η."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell, as with >&-; it is open again, for the process's life
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _print_no_more() -> None:
    """Drop what waits to be printed if it cannot be; otherwise Python fails again as it exits."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
