"""Weights in several tensors with shapes: the catalogue on them, and a direction that needs matrices."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from tolerances import round_off

from swd_dynamics.arithmetic import each, matmul, mean, norm, sign, transpose
from swd_dynamics.errors import InputError
from swd_dynamics.rules import CATALOG, Stable, UpdateRule
from swd_dynamics.rules.directions.sgd import Momentum
from swd_dynamics.rules.shaped import is_by_tensor
from swd_dynamics.symbolic import NotDerivable, equations, modified_equation, stability_limit

STEPS = 10
LR, BETA, LAMBDA = 0.1, 0.8, 0.05
KINDS = {"numpy": np.asarray, "torch": torch.from_numpy}


def orthogonal(x):
    """UVᵀ of a matrix UΣVᵀ, and the sign of a vector."""
    if x.ndim < 2:
        return sign(x)
    u, _, vt = (torch if isinstance(x, torch.Tensor) else np).linalg.svd(x, full_matrices=False)
    return matmul(u, vt)


@dataclass(frozen=True)
class Orthogonalised:
    """Momentum whose move is orthogonalised tensor by tensor: η_eff is η over the root mean square of each tensor."""

    momentum: Any

    def rest(self, theta):
        return Momentum(0 * theta)

    def remember(self, memory, step):
        return Momentum(self.momentum * memory.m + step.gradient)

    def move(self, memory, step):
        return each(orthogonal, memory.m)

    def effective_lr(self, memory, step):
        return step.lr / each(lambda m: mean(m * m) ** 0.5, memory.m)


@dataclass(frozen=True)
class NewtonSchulz(Orthogonalised):
    """The same of matrices by Newton–Schulz iterations, X ← 3/2·X − 1/2·XXᵀX, in words of the arithmetic alone."""

    iterations: int

    def move(self, memory, step):
        x = memory.m / norm(memory.m)
        for _ in range(self.iterations):
            x = 1.5 * x - 0.5 * matmul(matmul(x, transpose(x)), x)
        return x


def stream():
    """A matrix and a vector to start from, and gradients of both for every step."""
    generator = np.random.default_rng(3)
    theta = generator.normal(size=(3, 2)), generator.normal(size=4)
    gradients = [(generator.normal(size=(3, 2)), generator.normal(size=4)) for _ in range(STEPS)]
    return theta, gradients


def run(rule, kind):
    """The weights after every step, each step as one flat vector."""
    theta, gradients = stream()
    given = [[kind(tensor) for tensor in each_step] for each_step in gradients]
    states = accumulate(given, rule, initial=rule.start([kind(tensor) for tensor in theta]))
    return np.array([flat(state.theta) for state in states])


def flat(tensors):
    return np.concatenate([np.ravel(tensor) for tensor in tensors])


def by_hand():
    """Orthogonalised momentum with stable decay in plain numpy, a matrix and a vector side by side."""
    (matrix, vector), gradients = stream()
    m_matrix, m_vector, course = np.zeros((3, 2)), np.zeros(4), [flat((matrix, vector))]
    for g_matrix, g_vector in gradients:
        m_matrix, m_vector = BETA * m_matrix + g_matrix, BETA * m_vector + g_vector
        u, _, vt = np.linalg.svd(m_matrix, full_matrices=False)
        matrix = (1 - LAMBDA * LR / np.sqrt((m_matrix**2).mean())) * matrix - LR * u @ vt
        vector = (1 - LAMBDA * LR / np.sqrt((m_vector**2).mean())) * vector - LR * np.sign(m_vector)
        course.append(flat((matrix, vector)))
    return np.array(course)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_direction_of_matrices(kind):
    """Assert that a direction may treat each tensor as a matrix or a vector, with a decay rate for each tensor."""
    expected = by_hand()
    found = run(UpdateRule(LR, Orthogonalised(BETA), Stable(LAMBDA)), kind)
    assert np.linalg.norm(found - expected, axis=1).max() <= round_off(STEPS, expected[0])


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_newton_schulz_in_words(kind):
    """Assert that matrix product, transpose and norm suffice to make a matrix orthogonal, as its SVD does."""
    theta, gradients = stream()
    by_words, by_svd = (
        UpdateRule(LR, direction).parts(UpdateRule(LR, direction).start([kind(theta[0])]), [kind(gradients[0][0])])
        for direction in (NewtonSchulz(BETA, 40), Orthogonalised(BETA))
    )
    assert np.abs(flat(by_words.move) - flat(by_svd.move)).max() <= round_off(40, theta[0].ravel())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", [name for name in CATALOG if not is_by_tensor(CATALOG[name]())])
def test_the_catalogue_on_several_tensors(name, kind):
    """Assert that several tensors are stepped as the one vector of all their weights is, with the same means."""
    rule = CATALOG[name](lr=LR, weight_decay=LAMBDA)
    theta, gradients = stream()
    states = accumulate(map(flat, gradients), rule, initial=rule.start(flat(theta)))
    expected = np.array([state.theta for state in states])
    assert np.linalg.norm(run(rule, kind) - expected, axis=1).max() <= round_off(STEPS, expected[0])


def test_gradients_of_another_number_of_tensors():
    """Assert that a gradient with a tensor too few is refused."""
    rule = CATALOG["SGD"](lr=LR)
    with pytest.raises(InputError, match="1 and 2 tensors"):
        rule(rule.start([np.ones(2), np.ones(3)]), [np.ones(2)])


def test_words_of_matrices_have_no_law():
    """Assert that the equations of one step show the words of matrices, and that further derivations are refused."""
    rule = UpdateRule(LR, NewtonSchulz(BETA, 1))
    assert r"^{\top}" in " ".join(step.latex() for step in equations(rule).steps)
    for derive in (modified_equation, stability_limit):
        with pytest.raises(NotDerivable, match="matmul and transpose and norm"):
            derive(rule)
