"""Oscillations at the edge of stability that have settled: where they are, and how runs beside them depart.

A settled oscillation is an orbit θ̄ ± δ of period two. Its two conditions have the mean and half the difference of the
gradients at its two points: mean = −(R/η_eff)·θ̄, difference = h_max·δ. So all optimizers with the same R/η_eff and the
same limit h_max have the same orbit, whatever their momentum and their decay mode.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy
import torch
from scipy.optimize import brentq
from torch.nn.utils import vector_to_parameters

from swd_dynamics.rules import State
from swd_dynamics.studies.edge_runs import gradient_of
from swd_dynamics.studies.methods import Method
from swd_dynamics.studies.modified_equation import real_run
from swd_dynamics.studies.training import LATE
from swd_dynamics.symbolic import BurstRoots, NumericOscillation, lettered, notation, numeric_oscillation
from swd_dynamics.symbolic.edge import edge_parts
from swd_dynamics.tasks import Task

SLOW, EARLY = 0.05, 370  # learning rate and number of the steps to a point below the edge
BEFORE = 1500  # steps of gradient descent at the edge before Newton's method; from 900 it does not converge
PATIENCE, IMPATIENCE = 300.0, 4.0  # the first time step t = η_eff·k of the implicit Euler method, and its growth
SOLVED = 1e-10  # ‖change of θ̄ and δ‖ at which Newton's method ends; the next change would be round-off
MOST = 40  # changes after which it has not converged; it takes 8
APART = 3e-3  # distance along u of the Hessians whose differences are third and fourth derivatives
KICK = 1e-6  # relative change of δ at the start of a run; 1e5 times more is still linear, and round-off is 1e-9 of it
POLES = 4  # of a fitted run: a pair of roots of the oscillation and a pair for all that fades sooner


@dataclass(frozen=True)
class Surroundings:
    """The loss around an oscillation, in the eigenvectors j of a Hessian.

    Attributes
    ----------
    curvatures, slopes : array, shape (n,) — hⱼ and the slope of the sharpness along j
    """

    curvatures: np.ndarray
    slopes: np.ndarray


@dataclass(frozen=True)
class SettledOrbit:
    """An orbit θ̄ ± δ of period two at the edge of stability.

    Attributes
    ----------
    ratio, limit : float — R/η_eff and h_max
    mean, turned : array, shape (n,) — θ̄ and δ
    fourth : float — L₄, the fourth derivative of the loss along the critical direction
    averaged, plain : Surroundings — with the Hessian of L̄ = L + ½σ²S, and with that of L alone
    """

    ratio: float
    limit: float
    mean: np.ndarray
    turned: np.ndarray
    fourth: float
    averaged: Surroundings
    plain: Surroundings

    @property
    def variance(self) -> float:
        """σ²."""
        return float(self.turned @ self.turned)

    def roots(self, oscillation: NumericOscillation, around: Surroundings | None = None) -> BurstRoots:
        """The derived roots of perturbations of this orbit."""
        found = self.averaged if around is None else around
        return oscillation.roots(found.curvatures, found.slopes, fourth_derivative=self.fourth, variance=self.variance)


class OrbitFinder:
    """Finds the settled orbits of a task. Its Hessian is torch's."""

    def __init__(self, task: Task):
        self.task, self.gradient, self._model = task, gradient_of(task), task.fresh().model

    def hessian(self, theta: np.ndarray) -> np.ndarray:
        """H at θ, shape (n, n)."""
        parameters = list(self._model.parameters())
        vector_to_parameters(torch.tensor(theta), parameters)
        loss = self.task.full_loss(self._model)
        gradient = torch.cat([each.reshape(-1) for each in torch.autograd.grad(loss, parameters, create_graph=True)])
        every = torch.eye(len(gradient), dtype=gradient.dtype)
        rows = torch.autograd.grad(gradient, parameters, every, is_grads_batched=True)
        found = torch.cat([each.reshape(len(gradient), -1) for each in rows], dim=1).numpy()
        return (found + found.T) / 2

    def first(self, ratio: float, limit: float) -> SettledOrbit:
        """The orbit that gradient descent comes to from the start of the task."""
        theta, lr, last = self.task.theta, 2 / (limit + ratio), []
        for _ in range(EARLY):
            theta = theta - SLOW * self.gradient(theta)
        for _ in range(BEFORE):
            theta = theta - lr * (self.gradient(theta) + ratio * theta)
            last = [*last[-2:], theta]
        mean, turned = (last[0] + 2 * last[1] + last[2]) / 4, (last[0] - 2 * last[1] + last[2]) / 4
        return self._settled(mean, turned, ratio, limit, PATIENCE)

    def beside(self, orbit: SettledOrbit, *, ratio: float, limit: float) -> SettledOrbit:
        """The orbit with another R/η_eff or limit, near to a given one."""
        return self._settled(orbit.mean, orbit.turned, ratio, limit, np.inf)

    def _settled(self, mean, turned, ratio: float, limit: float, time: float) -> SettledOrbit:
        """Newton's method, at first as implicit Euler steps of the slow flow dθ̄/dt = −E g − ratio·θ̄."""
        one = np.eye(len(mean))
        for _ in range(MOST):
            ahead, behind = self.gradient(mean + turned), self.gradient(mean - turned)
            off = np.concatenate([(ahead + behind) / 2 + ratio * mean, (ahead - behind) / 2 - limit * turned])
            h_ahead, h_behind = self.hessian(mean + turned), self.hessian(mean - turned)
            both, odd = (h_ahead + h_behind) / 2, (h_ahead - h_behind) / 2
            matrix = np.block([[both + (ratio + 1 / time) * one, odd], [odd, both - limit * one]])
            change = np.linalg.solve(matrix, -off)
            mean, turned = mean + change[: len(mean)], turned + change[len(mean) :]
            if np.linalg.norm(change) <= SOLVED:
                return self._described(mean, turned, ratio, limit)
            time *= IMPATIENCE
        raise RuntimeError(f"Newton's method has found no orbit with R/η_eff = {ratio:g} and the limit {limit:g}")

    def _described(self, mean: np.ndarray, turned: np.ndarray, ratio: float, limit: float) -> SettledOrbit:
        here = self.hessian(mean)
        values, vectors = np.linalg.eigh(here)
        u = vectors[:, -1]
        ahead, behind = self.hessian(mean + APART * u), self.hessian(mean - APART * u)
        third, fourth = (ahead - behind) / (2 * APART), (ahead - 2 * here + behind) / APART**2
        slope = third @ u
        # S = uᵀHu, and u turns with θ by Σ eⱼ⟨eⱼ, dH u⟩/(S − hⱼ)
        turn = third @ vectors[:, :-1] / np.sqrt(values[-1] - values[:-1])
        bend = fourth + 2 * turn @ turn.T
        averaged = here + 0.5 * (turned @ turned) * bend
        around = [_in_eigenvectors(matrix, slope) for matrix in (averaged, here)]
        return SettledOrbit(ratio, limit, mean, turned, float(u @ fourth @ u), *around)


def _in_eigenvectors(matrix: np.ndarray, slope: np.ndarray) -> Surroundings:
    values, vectors = np.linalg.eigh(matrix)
    return Surroundings(values, vectors.T @ slope)


def at_orbit(orbit: SettledOrbit, name: str, weight_decay: float, **arguments) -> Method:
    """The method with the learning rate at which its limit is that of the orbit."""
    start = Method(name, {"lr": 1 / orbit.limit, "weight_decay": weight_decay, **arguments})
    letters, values = lettered(start.rule())
    limit = sympy.lambdify(notation.lr, edge_parts(letters).limit.xreplace(values | {notation.lr: notation.lr}))
    lr: Any = brentq(lambda lr: limit(lr) - orbit.limit, 0.01 / orbit.limit, 4 / orbit.limit)
    return Method(name, start.arguments | {"lr": float(lr)})


def starting_at(orbit: SettledOrbit, method: Method, kick: float) -> State:
    """The state of a method on an orbit whose δ is larger by a share ``kick``, memory included.

    The memory is at rest at θ̄ and turns over with δ: it solves M = A(θ̄, M) + bE[g], and −M = A(δ, M) + b·h_max·δ.
    """
    rule = method.rule()
    found, rest = numeric_oscillation(rule), rule.direction.rest(orbit.mean)
    from_theta, kept, gain = found.matrix[1:, :1], found.matrix[1:, 1:], found.response[1:, None]
    one, delta = np.eye(len(kept)), (1 + kick) * orbit.turned
    resting = np.linalg.solve(one - kept, (from_theta - orbit.ratio * gain) @ orbit.mean[None])
    turning = np.linalg.solve(-one - kept, (from_theta + orbit.limit * gain) @ delta[None])
    return State(orbit.mean + delta, type(rest)(*(resting + turning)), LATE)


def sizes(task: Task, orbit: SettledOrbit, method: Method, kick: float, steps: int) -> np.ndarray:
    """The size of the oscillation of a torch run along δ, in units of ‖δ‖, shape (steps − 1,)."""
    theta = real_run(task, method, method.arguments["lr"], starting_at(orbit, method, kick), steps)
    along = np.diff(theta, 2, axis=0) @ orbit.turned / (4 * orbit.variance)
    return along * (-1.0) ** np.arange(len(along))


def fitted_root(task: Task, orbit: SettledOrbit, method: Method, steps: int) -> complex:
    """The root of the oscillation of two torch runs that start with a slightly larger and a slightly smaller δ."""
    ahead, behind = (sizes(task, orbit, method, kick, steps) for kick in (KICK, -KICK))
    return leading_root(ahead - behind)


def leading_root(signal: np.ndarray) -> complex:
    """The root s, with a frequency > 0, of the strongest oscillation exp(s·k) in a signal, by the matrix pencil method.

    Source: Hua & Sarkar 1990, doi 10.1109/29.56027.

    Examples
    --------
    >>> k = np.arange(60)
    >>> s = leading_root(np.exp(-0.02 * k) * np.cos(0.3 * k) + 0.2 * np.exp(-0.3 * k))
    >>> round(s.real, 9), round(s.imag, 9)
    (-0.02, 0.3)
    """
    rows = len(signal) // 2
    windows = np.lib.stride_tricks.sliding_window_view(signal, rows)
    _, sizes, basis = np.linalg.svd(windows, full_matrices=False)
    kept = basis[: min(POLES, int((sizes > 1e-12 * sizes[0]).sum()))].T
    factors: Any = np.linalg.eigvals(np.linalg.lstsq(kept[:-1], kept[1:], rcond=None)[0]).astype(complex)
    powers = factors[None, :] ** np.arange(len(signal))[:, None]
    strength = np.linalg.lstsq(powers, signal.astype(complex), rcond=None)[0]
    total = np.abs(strength) * np.linalg.norm(powers, axis=0)
    turning = (factors.imag > 1e-6) & (np.abs(np.angle(factors)) < np.pi / 2)
    return complex(np.log(factors[np.argmax(total * turning)]))
