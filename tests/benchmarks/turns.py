"""Times several functions in turns, so that a machine that others use is equally slow for each of them."""

import statistics
import time

WARM_UPS = 2  # calls that are not timed: the first makes an optimizer's state, and torch compiles or caches in both


def times_in_turns(functions, rounds):
    """Seconds that each function takes, one call of each in every round, after WARM_UPS calls of each.

    functions : dict of str to callable () → anything
    returns : dict of str to list of float, length rounds
    """
    taken = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(WARM_UPS):
            function()
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - start)
    return taken


def ratio(seconds, reference):
    """The median over the rounds of a function's time divided by another's in the same round."""
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=True))


def comparison(taken, reference):
    """A line for each function: its median and its shortest time, and its ratio to the function named as reference."""
    for name, seconds in taken.items():
        middle, shortest = (1e3 * seconds for seconds in (statistics.median(seconds), min(seconds)))
        times = ratio(seconds, taken[reference])
        yield f"{name:32} median {middle:9.3f} ms, shortest {shortest:9.3f} ms, {times:6.2f} × {reference}"
