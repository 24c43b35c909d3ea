"""The usual optimizers by name, with torch's argument names: every direction times every place for the decay."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter, Signature, getdoc, signature
from typing import Any

from swd_dynamics.arithmetic import is_symbolic
from swd_dynamics.checks import check_argument
from swd_dynamics.errors import InputError
from swd_dynamics.rules.decay import DECAYS, Decay, mode_of
from swd_dynamics.rules.direction import Direction
from swd_dynamics.rules.directions import (
    ASGD,
    AdaBelief,
    Adadelta,
    Adafactor,
    Adagrad,
    Adai,
    Adam,
    Adamax,
    AMSGrad,
    Lion,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    ScheduleFreeAdam,
    ScheduleFreeSGD,
    Signum,
    sgd_family,
)
from swd_dynamics.rules.update import UpdateRule
from swd_dynamics.tables import Table, likeness

# What each argument means, with the symbol that formulas have for it.
MEANINGS = {
    "lr": "η > 0, the learning rate: a number, an array with a number for every weight, a schedule k → η, or a symbol",
    "weight_decay": "λ ≥ 0, the strength of the weight decay: a number, an array or a symbol",
    "lr_max": "η_max > 0, the largest learning rate of the schedule; by default lr, which is then a number",
    "momentum": "β in [0, 1); 0 is plain gradient descent",
    "dampening": "τ in [0, 1): the gradient enters the momentum with the factor 1 − τ, except at the first step",
    "nesterov": "whether to use Nesterov's momentum, which needs momentum > 0 and dampening = 0",
    "betas": "β₁ and β₂, each in [0, 1), of the running means of the gradient and of its square",
    "eps": "ε ≥ 0, which is added to √v̂",
    "Adai.betas": "β₀ > 0 and β₂ in [0, 1): β₁ = 1 − β₀·v̂/v̄ of each weight, and v is the running mean with β₂",
    "Signum.momentum": "β in [0, 1), of the running mean of the gradient; 0 is the sign of the gradient itself",
    "Lion.betas": "β₁ of the gradients in a move and β₂ of the gradients that are remembered, each in [0, 1)",
    "Muon.nesterov": "whether u looks one gradient ahead of m",
    "Muon.eps": "ε ≥ 0, the least norm by which u is divided",
    "ns_coefficients": "a, b and c of a Newton–Schulz step X ← aX + (bA + cA²)X, A = XXᵀ",
    "ns_steps": "the number of Newton–Schulz steps, less than 100",
    "adjust_lr_fn": 'what s is: "original" or None, or "match_rms_adamw"',
    "beta2_decay": "γ ≤ 0: the newest g² has the weight k^γ in the running mean of step k",
    "d": "the largest root mean square of a move relative to the weights, at least 1",
    "Adafactor.eps": "ε₁ ≥ 0 or None, the least √v; and ε₂ ≥ 0, the least root mean square of the weights",
    "etas": "η⁻ in (0, 1) and η⁺ > 1, by which a step size is multiplied where the gradient's sign changes or not",
    "step_sizes": "the least and the largest step size of a weight",
    "lambd": "l ≥ 0, of torch's own decay lθ and of ηₖ",
    "ASGD.alpha": "α ≥ 0, the power by which ηₖ decreases",
    "ASGD.coarse": "whether ηₖ is rounded to float32, as torch's is",
    "warmup_steps": "the number of steps in which η rises in proportion to k; 0 for none",
    "r": "the power of k in a step's weight in the average",
    "weight_lr_power": "q, the power of the largest η so far in a step's weight in the average",
    "ScheduleFreeSGD.momentum": "β in (0, 1): gradients are taken at y = (1−β)z + βx",
    "ScheduleFreeAdam.betas": "β in (0, 1), of y = (1−β)z + βx; β₂ in [0, 1), of the running mean of g²",
    "decay_at_y": "l ≥ 0, the authors' own decay in the step of z; weight_decay is another decay, of θ",
    "coarse": "whether Newton–Schulz steps are rounded to bfloat16, as torch's are",
    "Adai.eps": "ε in (0, 1): the largest β₁ is 1 − ε",
    "RMSprop.alpha": "α in [0, 1), of the running mean v of the squared gradient",
    "centered": "whether the square of the gradients' running mean is subtracted from v, so that v is a variance",
    "RMSprop.momentum": "β in [0, 1), of the sum of the moves; 0 is no momentum",
    "RMSprop.eps": "ε ≥ 0, which is added to √v",
    "lr_decay": "δ ≥ 0: the move of step k is divided by 1 + (k − 1)·δ",
    "initial_accumulator_value": "v₀ ≥ 0, which v has before the first step",
    "Adagrad.eps": "ε ≥ 0, which is added to √v",
    "rho": "ρ in [0, 1), of the running means of the squares of the gradient and of the move",
    "Adadelta.eps": "ε ≥ 0, which is added to both running means inside their roots",
    "Adamax.betas": "β₁ and β₂, each in [0, 1): of the running mean, and by which the largest |g| decays in each step",
    "Adamax.eps": "ε ≥ 0, which is added to |g|",
    "momentum_decay": "ψ ≥ 0, the speed with which β₁ comes to its full value: μₖ = β₁(1 − ½·.96^(kψ))",
    "RAdam.betas": "β₁ in [0, 1) and β₂ in (⅔, 1), of the running means of the gradient and of its square",
    "RAdam.eps": "ε ≥ 0, which is added to √v before its bias correction",
    "AdaBelief.betas": "β₁ and β₂, each in [0, 1), of the running means of the gradient and of (g − m)²",
    "AdaBelief.eps": "ε ≥ 0, which is added to s in every step, and to √ŝ",
}

# Where the decay enters, by the name of its mode, as the first line of an entry's docstring says it.
WHERE = {
    "L2": "L2 decay: λθ is added to the gradient",
    "decoupled": "decoupled decay: each step subtracts R·θ with R = λη",
    "stable": "stable decay: each step subtracts R·θ with R = λ·η_eff",
    "independent": "independent decay: each step subtracts R·θ with R = λη/η_max",
    "corrected": "corrected decay: each step subtracts R·θ with R = λη²/η_max",
    "cautious": "cautious decay: each step subtracts λη·θ from the weights that it does not move away from 0",
    "preconditioned": "preconditioned decay: each step subtracts R·θ with R = λ·η_eff of each weight",
}

# What a reader of one entry must know besides.
REMARKS = {
    "AdamS": "Another optimizer is called AdamS too: Zhang, Wang & Chen 2025, 2505.16363, which divides the momentum\n"
    "by √(β₂m² + (1 − β₂)g²). This one is Adam with stable weight decay: Xie, Sato & Sugiyama 2020, 2011.11152.\n\n"
    "swd_dynamics.optim.AdamS omits the decay in a step with R > 2, unless its max_decay_rate is given. This rule\n"
    "does not: as in the paper, R = λ·η_eff in every step."
}


@dataclass(frozen=True, repr=False)
class Entry:
    """A named optimizer: call it with torch's arguments to get its :class:`UpdateRule`.

    Examples
    --------
    >>> CATALOG["AdamS"](lr=1e-3, weight_decay=1e-4).decay
    Stable(weight_decay=0.0001)
    """

    name: str
    family: Callable[..., Direction]
    decay: Callable[[Any], Decay]
    weight_decay: float

    def __post_init__(self):
        object.__setattr__(self, "__doc__", _documented(self))

    def __call__(self, *positional: Any, **named: Any) -> UpdateRule:
        try:
            given = self.__signature__.bind(*positional, **named).arguments
        except TypeError as error:
            allowed = list(self.__signature__.parameters)
            unknown = ", ".join(name for name in named if name not in allowed)
            problem = f"there is no argument {unknown} here"
            if not unknown:
                problem = f"a rule takes lr first, and no parameters or model ({error})"
            raise InputError(f"{problem}; there are {', '.join(allowed)}") from None
        lr, strength = given.pop("lr", 1e-3), given.pop("weight_decay", self.weight_decay)
        if self.decay_arguments and not callable(lr):  # before lr_max, which is lr unless it is given
            check_argument("lr", lr, "(0, inf)")
        more = {name: given.pop(name, lr) for name in self.decay_arguments}
        if callable(more.get("lr_max")) and not is_symbolic(more["lr_max"]):
            raise InputError("lr is a schedule, so that this decay needs its largest learning rate too: give lr_max")
        return UpdateRule(lr, self.family(**given), self.decay(strength, **more))

    def __repr__(self) -> str:
        return f'CATALOG["{self.name}"]'

    @property
    def decay_arguments(self) -> tuple[str, ...]:
        """What the decay takes besides λ."""
        return tuple(name for name in signature(self.decay).parameters if name != "weight_decay")

    @property
    def __signature__(self) -> Signature:
        """The arguments of a call, for tools that ask."""
        taken = signature(self.family).parameters.values()
        direction = [p.replace(kind=Parameter.KEYWORD_ONLY, annotation=Parameter.empty) for p in taken]
        lr = Parameter("lr", Parameter.POSITIONAL_OR_KEYWORD, default=1e-3)
        decay = [Parameter("weight_decay", Parameter.KEYWORD_ONLY, default=self.weight_decay)]
        decay += [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in self.decay_arguments]
        return Signature([lr, *decay, *direction])


def _documented(entry: Entry) -> str:
    """The docstring of an entry: its call, its formulas, and what each argument means."""
    family: Any = entry.family
    formulas = (getdoc(family) or "").partition("\nExamples\n")[0].strip()
    arguments = []
    for name in entry.__signature__.parameters:
        arguments += [name, f"    {MEANINGS.get(f'{family.__name__}.{name}') or MEANINGS[name]}"]
    title = f"{entry.name.removesuffix(entry.decay.suffix)} with {WHERE[mode_of(entry.decay) or 'none']}."
    parts = [
        title,
        f"{entry!r}{entry.__signature__} makes the UpdateRule.",
        formulas,
        "\n".join(["Parameters", "----------", *arguments]),
        REMARKS.get(entry.name, ""),
    ]
    return "\n\n".join(filter(None, parts))


FAMILIES: dict[str, Callable[..., Direction]] = {
    "SGD": sgd_family,
    "Adam": Adam,
    "AMSGrad": AMSGrad,
    "Adai": Adai,
    "RMSprop": RMSprop,
    "Adagrad": Adagrad,
    "Adadelta": Adadelta,
    "Adamax": Adamax,
    "NAdam": NAdam,
    "RAdam": RAdam,
    "AdaBelief": AdaBelief,
    "Signum": Signum,
    "Lion": Lion,
    "Muon": Muon,
    "Adafactor": Adafactor,
    "Rprop": Rprop,
    "ASGD": ASGD,
    "ScheduleFreeSGD": ScheduleFreeSGD,
    "ScheduleFreeAdam": ScheduleFreeAdam,
}

# The default weight decays that are not 0: torch's for decoupled decay, the authors' (2011.11152) for stable decay.
WEIGHT_DECAYS = {
    "AdamW": 1e-2,
    "AdamS": 1e-4,
    "AMSGradW": 1e-2,
    "AMSGradS": 1e-4,
    "MuonW": 0.1,
}

# Well-known optimizers without a rule here. Their names look like names of the catalogue, which they are not slips of.
OTHERS = (
    *("AdaBound", "AdamP", "Adan", "ADOPT", "LAMB", "LARS", "LBFGS", "Lookahead", "MADGRAD", "Novograd", "Prodigy"),
    *("Ranger", "SGDP", "Shampoo", "SOAP", "Sophia", "SparseAdam", "Tiger", "Yogi"),
)
# Why some of them cannot have a rule, whoever writes it.
NO_RULE = {
    "LBFGS": "LBFGS is not a rule: one step evaluates the loss and the gradient up to 20 times, but a rule takes a step"
    " with one gradient",
    "SparseAdam": "SparseAdam is not a rule: a step changes only weights for which a sparse gradient has an entry, but"
    " a rule changes every weight",
}
SLIP = 0.6  # likeness from which a name counts as a misspelt name of the catalogue; "Adms" is .89 like AdamS


def _is_slip(name: str) -> bool:
    """Whether a name is like one of the catalogue, and not such a name with more around it, as MyAdamW."""
    closest = max(CATALOG, key=lambda known: likeness(name, known))
    is_inside = closest.lower() in name.lower() and len(name) > len(closest) + 1
    return likeness(name, closest) >= SLIP and not is_inside


def _advice(name: str) -> str:
    """What can be done with an optimizer that has no rule here."""
    other = next((other for other in OTHERS if name.lower().startswith(other.lower())), None)
    if not other and _is_slip(name):
        return ""
    if other in NO_RULE:
        return f"{NO_RULE[other]}. audit and record take any torch optimizer without a rule"
    name = other if other and other.lower() == name.lower() else name
    return (
        f"there is no rule for {name} here; the rules are {', '.join(CATALOG)}. audit works for any torch optimizer"
        f" without a rule, and so does record in Python. To derive or verify {name}, write its rule: it is a class with"
        " four methods, and help(swd_dynamics.rules.Direction) shows one"
    )


def _entries() -> Iterator[tuple[str, Entry]]:
    for family, direction in FAMILIES.items():
        for decay in DECAYS.values():
            if decay.suffix is not None and family in getattr(decay, "directions", FAMILIES):
                name = family + decay.suffix
                yield name, Entry(name, direction, decay, WEIGHT_DECAYS.get(name, 0.0))


ABOUT = """The optimizers by name. Call an entry with torch's arguments to get its UpdateRule:

CATALOG["AdamS"](lr=1e-3, weight_decay=0.1), or CATALOG.AdamS(lr=1e-3, weight_decay=0.1)

Besides lr and weight_decay, {families}.
help(CATALOG.AdamS) says what each argument means. Any number may also be a sympy symbol.
"""


def _families() -> str:
    """The further arguments of each family, with their defaults."""
    taken = {}
    for name, family in FAMILIES.items():
        own = ", ".join(f"{argument.name}={argument.default}" for argument in signature(family).parameters.values())
        taken.setdefault(own, []).append(name)
    return ";\n".join(f"{' and '.join(names)} rules take {own}" for own, names in taken.items())


CATALOG = Table("optimizer", ABOUT.format(families=_families()), _advice, **dict(_entries()))
