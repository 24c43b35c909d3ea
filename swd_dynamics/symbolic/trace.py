"""A rule read as equations: its step is taken once with symbols in the place of numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sympy
from sympy import Expr, Symbol

from swd_dynamics.arithmetic import OPAQUE
from swd_dynamics.errors import InputError
from swd_dynamics.rules.decay import DecayStep
from swd_dynamics.rules.direction import Step, effective_lr_by_weight
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.symbolic import notation
from swd_dynamics.symbolic.derivation import Derivation, DerivationStep, NotDerivable, refuse_longer, stated
from swd_dynamics.symbolic.kinks import between_kinks
from swd_dynamics.symbolic.letters import exact, lettered, own_symbols
from swd_dynamics.symbolic.names import corrected_text, hatted, symbol_text
from swd_dynamics.symbolic.notation import (
    GRADIENTS,
    LAWLESS,
    SHOWN,
    PerWeight,
    cached,
    decayed,
    primed,
    shown_name,
    with_laws,
)

# The words that become functions of sympy's own.
FUNCTIONS = ("sqrt", "sign", "absolute", "heaviside", "where", "rounded")


@dataclass(frozen=True)
class Trace:
    """One step in symbols, in the stages of :meth:`~swd_dynamics.rules.update.UpdateRule.parts`.

    Attributes
    ----------
    lr : Expr — η
    total : Expr — G in θ and g
    memory : tuple of Symbol — the memory before the step
    remembered : tuple of Expr — the memory after it, in the memory before and the symbol G
    decay_rate : Expr — R, in the primed memory
    move : Expr — the direction's move, in the primed memory and the symbol G
    conditions : tuple of str — the assumptions about corrections and kinks under which the trace holds
    """

    lr: Any
    total: Expr
    memory: tuple[Symbol, ...]
    remembered: tuple[Expr, ...]
    decay_rate: Expr
    move: Expr
    conditions: tuple[str, ...] = ()

    @property
    def lr_letter(self) -> Symbol:
        """η of the time t = ηk: the symbol of the learning rate, of the largest one where weights differ in it."""
        return self.lr if isinstance(self.lr, Symbol) else notation.lr

    @property
    def displacement(self) -> Expr:
        """(θ′ − θ)/η in θ, G and the primed memory; where weights differ in η, the largest η divides."""
        unit = self.lr_letter
        if unit not in self.lr.free_symbols:
            raise NotDerivable(f"lr = {self.lr} is not one symbol: t = ηk needs lr to be a symbol or a number")
        return -self.decay_rate / unit * notation.theta - self.lr / unit * self.move

    @property
    def update(self) -> Expr:
        """θ′ in θ, G and the primed memory."""
        return (1 - self.decay_rate) * notation.theta - self.lr * self.move

    def map(self, change) -> "Trace":
        """The trace with ``change`` applied to each expression of the memory, the decay rate and the move."""
        remembered = tuple(change(e) for e in self.remembered)
        return replace(self, remembered=remembered, decay_rate=change(self.decay_rate), move=change(self.move))

    def has(self, *kinds) -> bool:
        """Whether the memory, the decay rate or the move has one of these symbols or functions in it."""
        return any(sympy.sympify(e).has(*kinds) for e in (*self.remembered, self.decay_rate, self.move))


@cached
def trace(rule: UpdateRule) -> Trace:
    """The step of a rule whose hyperparameters are symbols, at a step k later than the first."""
    direction = rule.direction
    rest = _call(direction.rest, notation.theta)
    if not isinstance(rest, tuple):
        raise NotDerivable(
            f"{_name(direction.rest)} gave {rest!r}: a direction's memory is a NamedTuple, if need be an empty one"
        )
    names = getattr(rest, "_fields", tuple(f"m_{i + 1}" for i in range(len(rest))))
    if taken := [name for name in names if shown_name(name) in {symbol.name for symbol in GRADIENTS}]:
        raise NotDerivable(f"the memory entry {taken[0]} has the symbol of θ, g, G or a rate of these: rename it")
    memory = tuple(PerWeight(name, real=True) for name in names)
    kind: Any = type(rest)
    held = kind(*memory) if hasattr(rest, "_fields") else memory
    new = kind(*map(primed, memory)) if hasattr(rest, "_fields") else tuple(map(primed, memory))
    step = Step(notation.theta, notation.total, rule.lr, notation.k)
    remembered = _call(direction.remember, held, step)
    if not isinstance(remembered, tuple) or len(remembered) != len(memory):
        raise NotDerivable(
            f"{_name(direction.remember)} gave {remembered!r}: it must return a memory like that of rest"
        )
    move = _call(direction.move, new, step)
    seen = DecayStep(
        notation.theta,
        rule.lr,
        notation.k,
        effective_lr=lambda: _call(direction.effective_lr, new, step),
        effective_lr_by_weight=lambda: _call(partial(effective_lr_by_weight, direction), new, step),
        move=lambda: move,
    )
    rate = _call(rule.decay.decay_rate, seen)
    traced = Trace(
        lr=rule.lr,
        total=with_laws(notation.gradient + _call(rule.decay.added_gradient, notation.theta)),
        memory=memory,
        remembered=tuple(with_laws(entry) for entry in remembered),
        decay_rate=with_laws(rate),
        move=with_laws(move),
        conditions=_of_one_name(rule, names),
    )
    if traced.map(without_bias).has(notation.k):
        raise NotDerivable(_of_step_number(direction, traced))
    return traced


def _of_step_number(direction: Any, traced: Trace) -> str:
    """Why a step that depends on its number has no derivation; a power βᵏ has one if it is written as decayed."""
    formulas = (*traced.remembered, traced.decay_rate, traced.move)
    powers = set().union(*(formula.atoms(sympy.Pow) for formula in formulas))
    said = (
        f"{type(direction).__name__} depends on the step number, and not only through decayed(beta, step.k), which has"
        " a limit after many steps"
    )
    if any(power.exp.has(notation.k) for power in powers):
        return f"{said}: write a bias correction as 1 - decayed(beta, step.k)"
    return f"{said}: no two of its steps are alike, so it has no equations. Steps, replay and verify need none"


def _of_one_name(rule: UpdateRule, memory: Sequence[str]) -> tuple[str, ...]:
    """What tells a rule's own symbols from those of the derivation that look the same.

    An lr that is called η is the η of the derivation.
    """
    shown = {symbol.name for symbol in SHOWN} | {*memory}
    plain = {s for s in own_symbols(rule) if type(s) is Symbol}
    own = {name for s in plain if (name := shown_name(s)) in shown and not (s == rule.lr and name == notation.lr.name)}
    return tuple(f"a hyperparameter of the rule is called {name} too: it is another {name}" for name in sorted(own))


def _call(method, *symbols):
    """The result of a method for symbols. Where the method fails, it uses more than the words that a rule may use."""
    result = _called(method, symbols)
    for formula in result if isinstance(result, tuple) else (result,):
        if isinstance(formula, sympy.Basic):
            refuse_longer(formula, _name(method))
    return result


def _called(method, symbols):
    try:
        return method(*symbols)
    except NotDerivable:
        raise
    except InputError as error:
        raise NotDerivable(f"{_name(method)} has no formula: {error}") from None
    except AttributeError as error:
        if fields := getattr(error.obj, "_fields", ()):
            raise NotDerivable(
                f"{_name(method)} reads {error.name}, which {_received(error.obj)} does not have: it has"
                f" {', '.join(fields)}"
            ) from None
        raise NotDerivable(_unreadable(method, error)) from None
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise NotDerivable(_unreadable(method, error)) from None


def _received(received: Any) -> str:
    return "step" if isinstance(received, Step) else "memory"


def _unreadable(method, error: Exception) -> str:
    return (
        f"{_name(method)} cannot be read as a formula ({type(error).__name__}: {error}): use + - * / and the"
        f" words of swd_dynamics.arithmetic, {', '.join((*FUNCTIONS, *OPAQUE))}, and no if on values"
    )


def _name(method) -> str:
    return f"{type(getattr(method, '__self__', method)).__name__}.{getattr(method, '__name__', 'call')}"


def without_bias(expression):
    """The expression after many steps, when bias corrections are 1."""
    return expression.replace(decayed, lambda beta, k: sympy.S.Zero)


def long_run(traced: Trace) -> Trace:
    """The trace after many steps and between kinks: bias corrections are 1, a maximum holds, a clip is inactive."""
    if lawless := [word.__name__ for word in LAWLESS if traced.has(word)]:
        raise NotDerivable(
            f"{' and '.join(lawless)} has no law in this derivation: only the equations of one step are known"
        )
    settled, said = between_kinks(traced.map(without_bias), traced.memory)
    if traced.has(decayed):
        said = ("many steps were taken, so that bias corrections are 1", *said)
    return replace(settled, conditions=(*traced.conditions, *said))


def trace_steps(traced: Trace) -> tuple[DerivationStep, ...]:
    """The traced step as equations, in the order in which they are computed."""
    traced, corrections = _with_hats(_in_new_memory(traced))
    steps = [stated("The gradient that the direction receives", notation.total, traced.total)]
    for symbol, expression in zip(traced.memory, traced.remembered, strict=True):
        steps.append(stated(f"The optimizer state {symbol_text(symbol)} after the step", primed(symbol), expression))
    for hat, expression in corrections.items():
        steps.append(stated(corrected_text(hat), hat, expression))
    steps.append(stated("The fraction of the weights that the step subtracts", notation.decay_rate, traced.decay_rate))
    update = replace(traced, decay_rate=notation.decay_rate).update
    steps.append(stated("The step", primed(notation.theta), update))
    return tuple(steps)


def _in_new_memory(traced: Trace) -> Trace:
    """The trace with v′ for the formula of v′ where it is in the formula of another entry, also in a mean."""
    remembered = list(traced.remembered)
    for i, (symbol, formula) in enumerate(zip(traced.memory, traced.remembered, strict=True)):
        if formula.is_Add:
            new = {formula: primed(symbol), notation.mean(formula): notation.mean(primed(symbol))}
            remembered = [e if j == i else e.xreplace(new) for j, e in enumerate(remembered)]
    return replace(traced, remembered=tuple(remembered))


def _with_hats(traced: Trace) -> tuple[Trace, dict[Symbol, Expr]]:
    """The trace with m̂ for m′/(1 − βᵏ) in its decay rate and its move, and what each such symbol stands for."""
    corrections: dict[Symbol, Expr] = {}
    for symbol in map(primed, traced.memory):
        for bias in sorted({*traced.move.atoms(decayed), *traced.decay_rate.atoms(decayed)}, key=str):
            hat = hatted(symbol)
            parts = [traced.decay_rate, traced.move]
            changed = [e.xreplace({symbol: hat * (1 - bias)}) if e.has(symbol) else e for e in parts]
            if changed != parts and not any(new.has(bias) for new in changed if new.has(hat)):
                traced = replace(traced, decay_rate=changed[0], move=changed[1])
                corrections[hat] = symbol / (1 - bias)
    return traced, corrections


def equations(rule: UpdateRule) -> Derivation:
    """The step of an optimizer as equations.

    Parameters
    ----------
    rule : UpdateRule
        Numbers in the rule become symbols; ``.values`` gives the number of each symbol.

    Returns
    -------
    Derivation
        ``.value`` is θ′ in θ, g, the memory before the step and the number k of the step.

    Examples
    --------
    >>> from swd_dynamics.rules import CATALOG
    >>> equations(CATALOG["SGDW"](lr=0.1, weight_decay=0.05)).value
    -g/10 + 199*θ/200
    """
    letters, values = lettered(rule)
    traced = trace(letters)
    new = dict(zip(map(primed, traced.memory), traced.remembered, strict=True))
    whole = traced.update.xreplace(new).xreplace({notation.total: traced.total})
    result = Derivation(f"One step: {rule.name}", {"θ′": whole}, trace_steps(traced), traced.conditions)
    return result.with_numbers(values, exact(values))
