"""Decay of all weights alike whose rate follows another power of the learning rate than the first."""

import numpy as np

from swd_dynamics.auditing.features import EXPONENT, SAME_RATE, AuditFeatures, Found, Phase


def power_of_lr(features: AuditFeatures) -> Found | None:
    """Independent or corrected decay: R of every weight is ∝ ηᵃ within a run, and ∝ ηᵇ from one run to another.

    Within a run η is halved by its parameter groups, as a schedule does. From one run to another the optimizer is made
    with half the η. Independent decay has b = 0, and a = 0 (R = cλ) or a = 1 (R = cλη/η₀); corrected decay has a = 2.
    Decoupled decay, with a = b = 1, is none of the two.
    """
    phases, late = features.uniform_phases
    if not {"settled", "gradients / 10", "lr / 2"} <= phases.keys() or features.follows:
        return None
    constant, slow = ([*phases.values()][:-1], phases["lr / 2"])
    if not _equal(constant):
        return None
    within = float(np.log2(phases["gradients / 10"].typical / slow.typical))
    unit, share = float(phases["settled"].unit), float(phases["settled"].share)
    kind, said = _independent(features.lr_exponent, within, unit, share)
    if not kind:
        kind, said = _corrected(features, within, unit)
    but = ("the first step has no decay",) if late else ()
    return (kind, (f"{said} for every weight, also when the gradients change", *but)) if kind else None


def _equal(phases: list[Phase]) -> bool:
    """Whether R is the same in these phases, in which η is the same."""
    rates = np.array([phase.typical for phase in phases])
    return bool(np.ptp(rates) <= SAME_RATE * np.median(rates))


def _independent(between: float, within: float, unit: float, share: float):
    """Its kind and its R in words; two empty words if it is another decay.

    Where R of another run is unknown, R = λ in units in which R is not ηλ is taken for independent.
    """
    unknown = np.isnan(between) and abs(share - 1) <= SAME_RATE < abs(unit - 1)
    if not (abs(between) <= EXPONENT or unknown):
        return "", ""
    factor = "" if abs(share - 1) <= SAME_RATE else f"{share:.3g}·"
    if abs(within) <= EXPONENT:
        return "independent", f"R = {factor}λ, whatever η is,"
    if abs(within - 1) <= EXPONENT:
        return "independent", f"R = {factor}λ·η/η₀, with the first η as η₀,"
    return "", ""


def _corrected(features: AuditFeatures, within: float, unit: float):
    """As for independent decay."""
    if not abs(within - 2) <= EXPONENT:
        return "", ""
    if abs(features.lr_exponent - 2) <= EXPONENT:
        return "corrected", f"R = {unit / features.lr:.3g}·λη²"
    factor = "" if abs(unit - 1) <= SAME_RATE else f"{unit:.3g}·"
    return "corrected", f"R = {factor}λ·η²/η₀, with the first η as η₀,"
