"""``swd-dynamics`` and ``python -m swd_dynamics``: a user's mistake is one line and exit code 2."""

import os
import sys

from cyclopts import CycloptsError

from swd_dynamics.cli import app
from swd_dynamics.errors import InputError


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code.

    0 done, 1 a check departed, 2 the user's mistake, 130 interrupted, 141 nobody reads what is printed.
    """
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except (InputError, CycloptsError) as error:
        print(f"swd-dynamics: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read what is printed has read enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("swd-dynamics: interrupted; what was finished is written", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
