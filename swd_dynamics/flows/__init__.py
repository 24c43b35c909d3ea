"""What an optimizer looks like in continuous time."""

from swd_dynamics.flows.assumptions import AssumptionFailed
from swd_dynamics.flows.central import CentralFlow, CentralSolution
from swd_dynamics.flows.flow import Flow
from swd_dynamics.flows.grid import grid
from swd_dynamics.flows.linearisation import Linearisation
from swd_dynamics.flows.ode import FlowDiverged, Solution
from swd_dynamics.flows.sde import SDE, Ensemble

__all__ = [
    "SDE",
    "AssumptionFailed",
    "CentralFlow",
    "CentralSolution",
    "Ensemble",
    "Flow",
    "FlowDiverged",
    "Linearisation",
    "Solution",
    "grid",
]
