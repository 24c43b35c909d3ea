"""One file per claim: derive, simulate, record, compare, draw."""

from importlib import import_module

from swd_dynamics.studies.study import Findings, Outcome, Setting, Study
from swd_dynamics.tables import Table

# In the order in which a reader should meet them. A new study is a file in this folder and a line here.
MODULES: Table[str] = Table("study")
MODULES.update(
    {
        "update-rules": "update_rules",
        "decay-rate": "decay_rate",
        "fixed-points": "fixed_points",
        "modified-equation": "modified_equation",
        "two-limits": "two_limits",
        "stability": "stability",
        "stability-chart": "stability_chart",
        "edge-of-stability": "edge_of_stability",
        "central-flow": "central_flow",
        "settled-oscillation": "settled_oscillation",
        "sharpness-under-schedules": "schedules",
        "stationary-noise": "stationary_noise",
        "equilibrium": "equilibrium",
        "end-of-training": "end_of_training",
        "dead-weights": "dead_weights",
        "drop-in": "drop_in",
        "transformer": "transformer",
        "gpu": "gpu",
        "lost-decay": "lost_decay",
        "memory-of-updates": "memory_of_updates",
        "lr-decay-coupling": "lr_decay_coupling",
        "gradient-norm": "gradient_norm",
        "width": "width",
        "optimizer-table": "optimizer_table",
        "sgd-generalization": "sgd_generalization",
        "learning-curves": "learning_curves",
        "batch-size": "batch_size",
    }
)


def load(name: str) -> Study:
    """The study of that name; its module is imported by this call.

    Raises
    ------
    UnknownName
        With the known names.

    Examples
    --------
    >>> load("stability").name
    'stability'
    """
    return import_module(f"swd_dynamics.studies.{MODULES[name]}").STUDY


__all__ = ["MODULES", "Findings", "Outcome", "Setting", "Study", "load"]
