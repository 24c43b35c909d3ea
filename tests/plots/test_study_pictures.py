"""The figures of studies, drawn from small made-up data: each is the picture in ``baseline``.

After a change that is meant to be seen, draw the pictures again and look at each of them::

    python -m pytest tests/plots/test_study_pictures.py --mpl-generate-path=tests/plots/baseline
"""

import numpy as np
import pytest
from tolerances import PICTURE

from swd_dynamics.studies import decay_rate, fixed_points, modified_equation, stability

DPI = 45  # dots per inch, as for the other pictures
compared = pytest.mark.mpl_image_compare(style="default", tolerance=PICTURE, savefig_kwargs={"dpi": DPI})


@compared
@pytest.mark.slow
def test_stability():
    """Assert that the runs of two decays share a plane, with a line for each, and that both limits are marked."""
    lrs, edges, planes = np.geomspace(0.01, 5.0, 8), {}, {}
    grid = np.linspace(0, 5, 11) / lrs[:, None]
    for mode, start, slope in (("L2", 3.8, 1.0), ("stable", 3.8, 19.0)):
        line = np.maximum(0, start - slope * lrs) / lrs
        method = stability.methods("heavy ball")[mode]
        planes[mode] = stability.Boundary("heavy ball", method, lrs, grid, grid < line[:, None], line, line)
    ratios = np.linspace(0.9, 1.1, 6)
    for mode, limit in (("L2", 4.0), ("stable", 2.0)):
        edges[mode] = stability.Edge(mode, limit, limit, ratios, ratios, lambda lr, limit=limit: lr / limit)
    return stability.draw((planes, edges))


@compared
@pytest.mark.slow
def test_decay_rate():
    """Assert that each task has R/η_eff of Adam's three decays, and that the fall of AdamW's is marked."""
    steps, curves, one = np.arange(1, 91), {}, np.full((1, 90), 0.01)
    spread = one * np.outer([0.4, 1.2, 12.0], 1 + 0.1 * np.sin(steps))
    falling = one * np.where(steps <= 60, 10 ** (-steps / 20), 0.01)
    rising = one * np.where(steps <= 60, 1.6, 16.0)
    for where, moving, by_noise in (("digits", falling, one[:0]), ("quadratic", rising, one * [[10.0], [0.5]])):
        for name, ratio, by_rule in (("Adam", spread, by_noise), ("AdamW", moving, moving), ("AdamS", one, one)):
            seen = np.broadcast_to(ratio, (3, 90))
            curves[where, name] = decay_rate.RatioCurves(seen, by_rule, by_rule)
    return decay_rate.draw(curves)


@compared
@pytest.mark.slow
def test_fixed_points():
    """Assert that the weights at rest have a panel for exact and one for noisy gradients."""
    optimum, curve = np.array([-3.0, -1.0, 2.0]), np.linspace(-3, 3, 13)
    s = fixed_points.NOISE
    exact, noisy = fixed_points.Panel(), fixed_points.Panel()
    for mode, slope, bound in (("L2", 2 / 3, 9), ("decoupled", 1, 2), ("stable", 1, 1.5)):
        for there, x in ((exact.points, optimum), (exact.lines, curve)):
            there[mode] = x, np.clip(slope * x, -bound, bound)
    for mode, fraction in (("L2", 0 * s + 2 / 3), ("decoupled", 2 / (2 + s)), ("stable", 20 / (20 + s))):
        noisy.points[mode] = noisy.lines[mode] = s, fraction
    return fixed_points.draw({"full_batch": exact, "noise": noisy})


@compared
@pytest.mark.slow
def test_modified_equation():
    """Assert that errors have slopes 1 and 2, and that the ratio of the two second-order decays is marked."""
    lr, errors = 0.01 / 2.0 ** np.arange(5), modified_equation.FlowErrors()
    for method in modified_equation.SGD_METHODS:
        for order in (1, 2):
            errors.orders["network", method.name, order] = {"lr": lr, "error": (10 * lr) ** order}
    errors.parting = {beta: (1 + beta) / (1 - beta) for beta in (0.5, 0.9)}
    return modified_equation.draw(errors)
