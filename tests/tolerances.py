"""How far apart two numbers may be in a test, and why. Algebra needs none of these: there a difference is 0."""

import math
import sys

# One float64 step is a dozen operations, each right to half an eps; the errors are of either sign, so that √steps of
# them add up. Relative to ‖θ₀‖.
ROUND_OFF = 8 * sys.float_info.epsilon

# A number printed in a table with three digits.
THREE_DIGITS = 5e-3

# A formula in radicals, put into numbers: cancellation inside a cubic's roots costs half of the digits at worst.
RADICALS = math.sqrt(sys.float_info.epsilon)

# Observed orders on a smooth problem, at steps small enough that the next order bends the line by less than this.
SLOPE = 0.05

# The error solve_ivp is asked for. The smallest distance between iterates and flow that an order is read from is a
# thousand times as large.
SOLVER = 1e-13

# A solved flow against a closed form: solve_ivp holds its tolerance of 1e-12 per step, and takes some hundred steps.
SOLVED = 1e-8


def round_off(steps, theta):
    """What ``steps`` steps from θ, of a norm of 1 at least, may differ by between two ways of computing them."""
    return ROUND_OFF * math.sqrt(steps) * max(1.0, math.sqrt(sum(float(weight) ** 2 for weight in theta)))


# Root mean square difference of two pictures, in levels of 0 to 255. The same matplotlib draws the same pixels, except
# where round-off moves an edge; another colour for one decay mode gives 1.8 or more, and a text set otherwise some 30.
PICTURE = 1.0
