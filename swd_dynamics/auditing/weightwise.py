"""Decay that differs from weight to weight in a way that has a name: cautious and preconditioned."""

import numpy as np

from swd_dynamics.auditing.features import MOSTLY, REMEMBERED, SAME_RATE, SAME_RATIO, AuditFeatures, Found, Phase

# Relative: how far R/η_eff of nearly all weights may be from the median. R is averaged over 120 steps, and η_eff over
# the 10 or 20 steps that follow an impulse; √v of one weight scatters between them by up to 10 %, at β₂ = .99 or more.
WEIGHT_RATIO = 0.2
SPREAD = 2.0  # the 95th percentile of R over the 5th; with less R/η_eff could seem to be constant within its scatter


def cautious(features: AuditFeatures) -> Found | None:
    """R = cηλ on those weights alone that the step itself makes smaller."""
    if np.isnan(features.masked):
        return None
    factor = "" if abs(features.masked - 1) <= SAME_RATE else f"{features.masked:.3g}·"
    where = (
        "only of those weights that the step itself makes smaller (θ·u ≥ 0 with u = θ − θ′ of the step without decay)"
    )
    how = "with λ = 0 and this decay done by hand the steps are the same"
    return "cautious", (f"R = {factor}ηλ, but {where}: {how}",)


def preconditioned(features: AuditFeatures) -> Found | None:
    """R_i = cλη_eff,i for each weight i, with weights that have quite different η_eff."""
    phases = list(features.later.values())
    if features.memory > REMEMBERED or features.unfollowed or not all(map(_spreads, phases)):
        return None
    with np.errstate(all="ignore"):
        ratios = [phase.decay_rate / (phase.weight_decay * phase.effective_lr) for phase in phases]
    typical = np.array([np.nanmedian(ratio) for ratio in ratios])
    alike = all(_close(ratio, median) for ratio, median in zip(ratios, typical, strict=True))
    if not alike or not np.ptp(typical) <= 2 * SAME_RATIO * np.median(typical):
        return None
    unit = float(np.median(typical))
    factor = "" if abs(unit - 1) <= SAME_RATIO else f"{unit:.3g}·"
    low, high = np.nanpercentile(phases[0].decay_rate, [5, 95])
    return "preconditioned", (
        f"R = {factor}λη_eff with the η_eff of each weight, also when the gradients and η change: {low:.2g} to"
        f" {high:.2g} once settled; λθ does not join the gradient",
    )


def _spreads(phase: Phase) -> bool:
    """Whether R is above 0 for nearly all weights, and differs much between them."""
    known = phase.decay_rate[np.isfinite(phase.decay_rate)]
    if not len(known):
        return False
    low, high = np.percentile(known, [5, 95])
    return bool(low > phase.noise and high > SPREAD * low)


def _close(ratio: np.ndarray, median: float) -> bool:
    known = ratio[np.isfinite(ratio)]
    return bool(100 * np.mean(np.abs(known - median) <= WEIGHT_RATIO * abs(median)) >= MOSTLY)
