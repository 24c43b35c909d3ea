"""The continuous-time dynamics of weight decay: derived, simulated, and checked against real optimizers.

>>> import swd_dynamics as sd
>>> rule = sd.CATALOG["SGDS"](lr=0.1, momentum=0.75, weight_decay=0.5)
>>> sd.fixed_point(rule).value
h*θ⋆/(h + 1/2)

Every name is imported when it is first used: torch, sympy and matplotlib only with what needs them.
"""

import sys
from importlib import import_module
from pathlib import Path

_HOMES = {
    "CATALOG": "rules",
    "DECAYS": "rules",
    "UpdateRule": "rules",
    "as_rule": "rules",
    "L2": "rules",
    "Decoupled": "rules",
    "Stable": "rules",
    "Independent": "rules",
    "Corrected": "rules",
    "Cautious": "rules",
    "Preconditioned": "rules",
    "equations": "symbolic",
    "side_by_side": "jupyter",
    "modified_equation": "symbolic",
    "fixed_point": "symbolic",
    "stability_limit": "symbolic",
    "edge": "symbolic",
    "settled_oscillation": "symbolic",
    "long_run_decay_rate": "symbolic",
    "stationary_covariance": "symbolic",
    "noise_floor": "symbolic",
    "stochastic_equation": "symbolic",
    "equilibrium": "symbolic",
    "linear_map": "symbolic",
    "eigenvalues": "symbolic",
    "lettered": "symbolic",
    "numeric_equation": "symbolic",
    "NotDerivable": "symbolic",
    "CentralFlow": "flows",
    "Flow": "flows",
    "SDE": "flows",
    "grid": "flows",
    "phase_plane": "planes",
    "Sliders": "plots",
    "TASKS": "tasks",
    "SGDS": "optim",
    "AdamS": "optim",
    "AdaiS": "optim",
    "WithDecay": "optim",
    "Probe": "probe",
    "record": "probe",
    "sweep": "sweeping",
    "open_recording": "recording",
    "replay": "crosscheck",
    "recorded_rule": "crosscheck",
    "convergence_order": "crosscheck",
    "equivalent_weight_decay": "crosscheck",
    "explain": "crosscheck",
    "verify": "verification",
    "audit": "auditing",
    "Ledger": "verdict",
    "Verdict": "verdict",
    "judge": "verdict",
    "InputError": "errors",
}
_FOLDERS = (
    "arithmetic",
    "auditing",
    "bench",
    "crosscheck",
    "flows",
    "optim",
    "planes",
    "plots",
    "probe",
    "recording",
    "rules",
    "studies",
    "sweeping",
    "symbolic",
    "tasks",
    "tensors",
    "verification",
)

__all__ = [*_HOMES, *_FOLDERS]  # noqa: PLE0604 (all are strings)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name in _FOLDERS:
        return import_module(f"swd_dynamics.{name}")
    if name in _HOMES:
        return getattr(import_module(f"swd_dynamics.{_HOMES[name]}"), name)
    if name == "__version__":
        return import_module("importlib.metadata").version("swd-dynamics")  # takes as long as a light command
    if homes := _rooms_with(name):
        raise AttributeError(f"swd_dynamics has no {name!r}: it is in swd_dynamics.{' and swd_dynamics.'.join(homes)}")
    listed = import_module("swd_dynamics.tables").listed
    raise AttributeError(f"swd_dynamics has no {name!r}; it has {listed(name, __all__)}")


def _rooms_with(name: str) -> list[str]:
    """The folders whose ``__all__`` has a name, read as text: to import all of them would take seconds."""
    doors = {each: Path(__file__).parent / each / "__init__.py" for each in _FOLDERS}
    return [each for each, door in doors.items() if door.exists() and f'    "{name}",\n' in door.read_text("utf-8")]


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
if _shell is not None:
    import_module("swd_dynamics.jupyter").show_in(_shell)
