"""The audit: its rates compared with theory, its kinds with optimizers whose decay is known, and what would fool it."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import odd_optimizers
import pytest
import pytorch_optimizer
import torch

from swd_dynamics import audit
from swd_dynamics.__main__ import main
from swd_dynamics.auditing.audit import interpreted
from swd_dynamics.auditing.kind import kind_of
from swd_dynamics.auditing.rates import Reader
from swd_dynamics.bench.interventions import bench_for
from swd_dynamics.bench.precision import DOUBLE, FINE
from swd_dynamics.bench.response import BRIEF, Perturbation, measure_response, readable_of
from swd_dynamics.bench.streams import DROP
from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdaiS, AdamS, WithDecay
from swd_dynamics.rules import CATALOG
from swd_dynamics.symbolic import long_run_decay_rate

pytestmark = pytest.mark.slow  # drives each optimizer many times

LR, DECAY = 0.01, 0.1
ARGUMENTS = {"lr": LR, "weight_decay": DECAY}
MOMENTUM = {"momentum": 0.9, **ARGUMENTS}

READ = 1e-8  # round-off of weights that grow to 30, divided by δ = 1e-4, several times; the smaller root: .91^240
WINDOWED = 0.05  # R and η_eff of a window are taken some steps apart, while √v̄ moves by .07 % in a step
ENVELOPE = 0.02  # relative error of 1 − √β as it is measured
PERIODS = 0.01  # of .5: whole periods are averaged, up to a shrinking by 1e-3 a step that is not quite linear
SCATTER = 0.25  # ‖g‖ of six large gradients scatters by 25 % from step to step; 16 steps and 120 are averaged
HALF = 0.05  # the mean of 3200 fair coins is within .03 of a half, at three standard errors

CASES = {
    "SGD": (partial(torch.optim.SGD, **ARGUMENTS), "all the same"),
    "SGD, momentum": (partial(torch.optim.SGD, **MOMENTUM), "L2"),
    "SGDW": (partial(odd_optimizers.SGDW, **ARGUMENTS), "decoupled"),
    "SGD, no decay": (partial(torch.optim.SGD, lr=LR, momentum=0.9), "none"),
    "SGDS": (partial(SGDS, **MOMENTUM), "stable"),
    "AdamS": (partial(AdamS, **ARGUMENTS), "stable"),
    "AdaiS": (partial(AdaiS, **ARGUMENTS), "decoupled"),
    "NAdam, decoupled": (partial(torch.optim.NAdam, decoupled_weight_decay=True, **ARGUMENTS), "decoupled"),
    "no weight_decay to set": (odd_optimizers.Undecayed, "other"),
    "sign": (odd_optimizers.SignDecay, "other"),
    "cautious": (odd_optimizers.CautiousDecay, "cautious"),
    "bold Adam": (odd_optimizers.BoldAdam, "other"),
    "not times η": (odd_optimizers.FixedDecay, "independent"),
    "corrected Adam": (odd_optimizers.CorrectedAdam, "corrected"),
    "squared Adam": (odd_optimizers.SquaredAdam, "corrected"),
    "preconditioned Adam": (odd_optimizers.PreconditionedAdam, "preconditioned"),
    "root-preconditioned Adam": (odd_optimizers.RootPreconditionedAdam, "other"),
    "first η": (partial(odd_optimizers.DecaysByDefaults, **ARGUMENTS), "other"),
    "half": (odd_optimizers.HalfDecay, "decoupled"),
    "matrices": (odd_optimizers.MatrixDecay, "all the same"),
    "still": (odd_optimizers.Still, "other"),
    "runaway": (odd_optimizers.Runaway, "other"),
    "SGDS, beyond 1": (partial(SGDS, lr=0.1, momentum=0.75, weight_decay=3.0), "stable"),
    "SGDW, quick": (partial(odd_optimizers.SGDW, lr=0.1, weight_decay=10.0), "decoupled"),
    "SGD, quick": (partial(torch.optim.SGD, lr=0.1, weight_decay=5.0), "all the same"),
    "SGDW, weak": (partial(odd_optimizers.SGDW, lr=1e-6, weight_decay=1e-4), "decoupled"),
    "SGDW in float32": (partial(odd_optimizers.in_float32(odd_optimizers.SGDW), **ARGUMENTS), "decoupled"),
    "SGDS in float32": (partial(odd_optimizers.in_float32(SGDS), **MOMENTUM), "stable"),
    "SGD, momentum, uphill": (partial(torch.optim.SGD, maximize=True, **MOMENTUM), "L2"),
    "SGDS, uphill": (partial(SGDS, maximize=True, **MOMENTUM), "stable"),
    "relative": (odd_optimizers.RelativeDecay, "independent"),
    "relative to 1": (partial(odd_optimizers.RelativeDecay, lr=1.0), "independent"),
    "vectors stay": (partial(odd_optimizers.SkipsVectors, **ARGUMENTS), "decoupled"),
    "v barely moves": (odd_optimizers.Unmoved, "decoupled"),
    "estimating": (odd_optimizers.Estimating, "decoupled"),
}
WORDS = {
    "SGD": "neither momentum",
    "SGD, momentum": "the effect lasts about 9 steps",
    "SGD, no decay": "switch it on with --args weight_decay=0.1",
    "SGDW": "R/η_eff = 0.1 λ is constant too",
    "SGDS": "R/η_eff = λ for every weight",
    "no weight_decay to set": "no control is possible",
    "sign": "nonlinear: the decay of the first step",
    "cautious": "R = ηλ, but only of those weights that the step itself makes smaller",
    "not times η": "R = 0.02·λ, whatever η is",
    "corrected Adam": "R = λ·η²/η₀, with the first η as η₀",
    "squared Adam": "R = 50·λη²",
    "preconditioned Adam": "R = λη_eff with the η_eff of each weight",
    "half": "R = 0.5·ηλ",
    "matrices": "shape (8,) do not decay",
    "still": "no weight moved",
    "runaway": "diverged",
    "SGDS, beyond 1": "renewed before each step",
    "SGD, quick": "neither momentum",
    "SGDS in float32": "rounded to float32",
    "SGDS, uphill": "follow the gradient upwards",
    "relative": "R = λ·η/η₀",
    "vectors stay": "shape (8,) never move",
    "v barely moves": "R = 0.955·ηλ",
    "estimating": "R = ηλ·d",
}


@pytest.fixture(scope="module")
def audits():
    """Each case audited once, when it is first asked for."""
    done = {}

    def audited(name):
        if name not in done:
            done[name] = audit(CASES[name][0])
        return done[name]

    return audited


def settled(found, column="R"):
    return found.to_dict()["phases"]["settled"][column]


QUICK = {  # R = ηλ/(1 − β) of SGDS, and R = ηλ
    "SGDS, beyond 1": 0.1 * 3.0 / 0.25,
    "SGDW, quick": 1.0,
    "SGD, quick": 0.5,
}


@pytest.mark.parametrize(("name", "rate"), QUICK.items())
def test_quick_decay_has_its_rate_in_every_phase(audits, name, rate):
    """Assert that R is known in every phase although a perturbation lasts a few steps, at R = 1 a single one."""
    rates = [row[0] for row in audits(name).rows.values()]
    assert rates == pytest.approx([rate, rate, rate, rate / 2], abs=READ)


def test_a_weak_decay_is_not_idle(audits):
    """Assert that R = ηλ = 1e-10 is above the round-off of weights that stay small, and acts in every step."""
    found = audits("SGDW, weak")
    assert found.features.idle == 0
    assert found.rows["settled"][5] == pytest.approx(1.0, rel=1e-2)  # round-off is 1e-12, R 1e-10


def test_rounding_to_float32_is_read_through(audits):
    """Assert that R = ηλ/(1−β), η_eff = η/(1−β) and R/η_eff = λ are within 1 % where weights have 24 bits."""
    rate, _, _, effective_lr, ratio, _ = audits("SGDS in float32").rows["settled"]
    assert (rate, effective_lr, ratio) == pytest.approx((LR * DECAY / 0.1, LR / 0.1, DECAY), rel=0.01)


def test_a_constant_preconditioner_is_not_taken_for_stable_decay(audits):
    """Assert that R/η_eff = λ throughout does not make decay stable if v, and so η_eff/η, hardly moves."""
    features = audits("v barely moves").features
    assert features.ratio_over_decay == pytest.approx(1, abs=0.05) and not features.tells_stable


@pytest.mark.parametrize("rates", [(-2e-3, -2.01e-3), (1e-14, 3e-14), (1e-3, 1.01e-3)])
def test_equal_rates_are_not_listed_as_different(audits, rates):
    """Assert that rates of parameters that differ by 1 %, or by round-off, are not told apart, of either sign."""
    features = audits("sign").features
    alike = replace(features, by_parameter=[((6, 4), rates[0]), ((8,), rates[1])])
    assert "on shape" not in "; ".join(kind_of(alike)[1])


@pytest.mark.parametrize("name", CASES)
def test_kinds(audits, name):
    """Assert that decay whose kind is known is found to be of that kind, for the reason that it is."""
    found = audits(name)
    assert found.kind == CASES[name][1]
    assert WORDS.get(name, "") in "; ".join(found.reasons)


@pytest.mark.parametrize("name", ["QHM", "Yogi"])  # two of its optimizers with an argument fixed_decay
def test_fixed_decay_of_a_library_is_independent(name):
    """Assert that R = λ is found where an optimizer of pytorch_optimizer is told to leave η out of its decay."""
    made = getattr(pytorch_optimizer, name)
    found = audit(partial(made, lr=LR, weight_decay=1e-3, weight_decouple=True, fixed_decay=True))
    assert found.kind == "independent" and found.reasons[0].startswith("R = λ, whatever η is")
    assert [row[0] for row in found.rows.values()] == pytest.approx([1e-3] * 4, rel=READ / 1e-3)


def test_what_was_given_is_said():
    """Assert that Muon of a library is made from groups with use_muon, decays both by ηλ, and that this is said."""
    settings = {"adamw_lr": LR, "adamw_wd": DECAY, **ARGUMENTS}
    found = audit(partial(pytorch_optimizer.Muon, **settings))
    assert found.kind == "decoupled" and "groups with use_muon=True for a matrix" in "; ".join(found.reasons)
    assert [row[5] for row in found.rows.values()] == pytest.approx([1.0] * 4, rel=READ / (LR * DECAY))


def test_decay_of_fadam_is_preconditioned():
    """Assert that FAdam, which takes float32 only, divides λθ by its √v as its paper says (arXiv 2405.12807)."""
    found = audit(partial(pytorch_optimizer.FAdam, **ARGUMENTS))
    assert found.kind == "preconditioned" and "it was given parameters in float32" in found.reasons


@pytest.mark.parametrize(("normalized", "kind"), [(True, "corrected"), (False, "decoupled")])
def test_adamc_of_a_library_corrects_normalized_layers(normalized, kind):
    """Assert that AdamC corrects the decay of groups that are marked as normalized, and of no others."""

    def factory(params, **changed):
        groups = [{"params": list(params), "normalized": normalized}]
        return pytorch_optimizer.AdamC(groups, **(ARGUMENTS | changed))

    assert audit(factory, **ARGUMENTS).kind == kind


def with_decay(params, decay, lr_max=None, lr=LR, weight_decay=DECAY):
    """SGD with momentum, whose steps are the quickest, or Adam where its second moment is needed."""
    own = torch.optim.Adam(params, lr) if decay == "preconditioned" else torch.optim.SGD(params, lr, momentum=0.9)
    return WithDecay(own, decay, weight_decay, lr_max)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"decay": "decoupled"}, "decoupled"),
        ({"decay": "independent"}, "independent"),
        ({"decay": "corrected", "lr_max": LR}, "corrected"),
        ({"decay": "cautious"}, "cautious"),
        ({"decay": "preconditioned"}, "preconditioned"),
    ],
    ids=lambda value: value["decay"] if isinstance(value, dict) else "",
)
def test_decay_beside_any_optimizer_has_the_kind_it_is_given(settings, kind):
    """Assert that WithDecay, which knows nothing of the audit, is found to have the decay that it was asked for."""
    assert audit(partial(with_decay, **settings), lr=LR, weight_decay=DECAY).kind == kind


def test_corrected_decay_falls_with_the_square(audits):
    """Assert that R of corrected decay falls to a quarter when η is halved, from λη as it was."""
    rates = [row[0] for row in audits("corrected Adam").rows.values()]
    assert rates == pytest.approx([LR * DECAY] * 3 + [LR * DECAY / 4], abs=READ)


def test_each_weight_has_its_own_ratio(audits):
    """Assert that R_i/η_eff,i is λ for the median weight in each phase, while R differs fifty times between weights."""
    features = audits("preconditioned Adam").features
    for phase in features.later.values():
        assert np.median(phase.decay_rate / phase.effective_lr) == pytest.approx(DECAY, rel=WINDOWED)
    low, high = np.percentile(features.phases["settled"].decay_rate, [5, 95])
    assert high > 50 * low


def test_l2_settles_where_theory_has_it(audits):
    """Assert that R of L2 with momentum is ηλ in the first step, and in the long run 1.11e-2, by the larger root."""
    course = audits("SGD, momentum").course["median"]
    theory = long_run_decay_rate(CATALOG["SGD"](lr=LR, momentum=0.9, weight_decay=DECAY)).value
    assert course[0] == pytest.approx(LR * DECAY, abs=READ)
    assert course[DROP - 1] == pytest.approx(float(theory), abs=READ)
    assert f"{float(theory):.3g}" == "0.0111"


def test_stable_decay_where_theory_has_it(audits):
    """Assert that SGDS has the derived rate from the first step on, and that R/η_eff of AdamS is λ in every phase."""
    theory = float(long_run_decay_rate(CATALOG["SGDS"](lr=LR, momentum=0.9, weight_decay=DECAY)).value)
    np.testing.assert_allclose(audits("SGDS").course["median"][:DROP], theory, rtol=0, atol=READ)
    rows = audits("AdamS").rows
    assert [rows[name][4] for name in list(rows)[1:]] == pytest.approx([DECAY] * 3, rel=WINDOWED)
    assert rows["gradients / 10"][0] > 1.3 * rows["settled"][0]  # 1/√v̄ rises by 1.41


def test_halves(audits):
    """Assert that decay which acts on half of the weights at a time has half the rate, and is idle half the time."""
    found = audits("cautious")
    assert found.rows["settled"][5] == pytest.approx(0.5, abs=HALF)
    assert found.features.idle == pytest.approx(0.5, abs=HALF)


@pytest.mark.parametrize("momentum", [0.95, 0.99])
def test_an_oscillation_has_the_rate_of_its_envelope(momentum):
    """Assert that L2 with ηλ > (1−√β)² is found to oscillate at 1 − √β a step, and that no delay is stated."""
    found = audit(partial(torch.optim.SGD, momentum=momentum, **ARGUMENTS))
    for phase in ("settled", "gradients / 10"):
        assert found.rows[phase][0] == pytest.approx(1 - np.sqrt(momentum), rel=ENVELOPE)
    said = "; ".join(found.reasons)
    assert found.features.oscillates and "envelope" in said and "the effect lasts" not in said
    assert all(found.to_dict()[number] is None for number in ("delay", "lr_exponent", "decay_exponent"))


@pytest.mark.parametrize(
    ("memory", "delay", "is_stated"), [(0.9, 9.0, True), (0.9, -0.0115, False), (0.9, 0.2, False), (0.0, -0.008, False)]
)
def test_a_duration_is_stated_only_where_there_is_one(audits, memory, delay, is_stated):
    """Assert that no duration is stated where it would be negative, or where an effect remains in the state."""
    found = audits("SGD, momentum")
    printed = str(replace(found, features=replace(found.features, memory=memory, delay=delay)))
    assert (f"lasts {delay:.3g} steps" in printed) == is_stated and ("after it was undone" in printed) == is_stated


@pytest.mark.parametrize(("name", "is_adapting"), [("AdamS", True), ("SGD, momentum", False), ("sign", False)])
def test_a_state_that_still_adapts_is_told(audits, name, is_adapting):
    """Assert that it is said where η_eff/η changes without a change of the gradients: v forgets in 1/(1−β₂) steps."""
    assert ("still adapting" in str(audits(name))) == is_adapting


@pytest.mark.parametrize(("name", "changes"), [("NAdam, decoupled", "η_eff and R/η_eff"), ("AdamS", "R and η_eff")])
def test_what_still_adapts_is_what_follows_the_state(audits, name, changes):
    """Assert that decoupled R = ηλ is not said to adapt, but η_eff is; stable R = λη_eff adapts with η_eff."""
    assert f"There {changes} would change further" in " ".join(str(audits(name)).split())


def test_a_decay_that_ignores_schedules_is_told(audits):
    """Assert that R stays ηλ of the first η after η was halved, and that this is the reason and the note below."""
    found = audits("first η")
    assert found.rows["lr / 2"][0] == pytest.approx(LR * DECAY, rel=READ)
    assert found.features.keeps_first_lr and "ignores schedules" in found.reasons[0]
    printed = " ".join(str(found).split())
    assert "R is proportional to the η that the optimizer was built with and to λ." in printed
    assert found.kind == "other"
    assert not any(audits(name).features.keeps_first_lr for name in ("not times η", "NAdam, decoupled", "AdamS"))


def test_periods_are_averaged_out():
    """Assert that an optimizer that goes half of its way back every six steps decays half as much in every phase."""
    found = audit(odd_optimizers.LooksAhead)
    rows = list(found.rows.values())[1:]
    assert [row[5] for row in rows] == pytest.approx([0.5] * 3, rel=PERIODS)


def in_groups(params, kind, decays):
    """Biases first, as is common."""
    parts = [p for p in params if p.ndim < 2], [p for p in params if p.ndim > 1]
    groups = [{"params": part, "weight_decay": decay} for part, decay in zip(parts, decays, strict=True)]
    return kind(groups, lr=LR)


HEAVY_BALL = partial(torch.optim.SGD, momentum=0.9)


@pytest.mark.parametrize(("kind", "expected"), [(odd_optimizers.SGDW, "decoupled"), (HEAVY_BALL, "L2")])
def test_a_group_without_decay_may_come_first(kind, expected):
    """Assert that the decay of the second group is found, and that the first is said not to decay."""
    found = audit(partial(in_groups, kind=kind, decays=(0.0, DECAY)))
    assert (found.kind, found.features.weight_decay) == (expected, DECAY)
    assert "parameters of shape (8,) do not decay" in found.reasons


def test_groups_with_two_decays():
    """Assert that R = ηλ is found where λ differs from group to group."""
    found = audit(partial(in_groups, kind=odd_optimizers.SGDW, decays=(DECAY / 2, DECAY)))
    assert found.kind == "decoupled" and found.reasons[0].startswith("R = ηλ: ")
    assert found.rows["settled"][5] == pytest.approx(1.0, abs=READ / (LR * DECAY))


def test_stable_or_not_needs_a_whole_impulse():
    """Assert that SGDS is stable with momentum .99, and that with .999 its η_eff is unknown, and so is its kind."""
    found = audit(partial(SGDS, momentum=0.99, **ARGUMENTS))
    assert found.kind == "stable"
    assert [row[4] for row in list(found.rows.values())[1:]] == pytest.approx([DECAY] * 3, rel=WINDOWED)
    said = "; ".join(audit(partial(SGDS, momentum=0.999, **ARGUMENTS)).reasons)
    assert "η_eff is unknown, so that stable decay cannot be recognised" in said and ": not stable" not in said
    assert "nan" not in said


def test_a_coarse_state_is_told():
    """Assert that a momentum in bfloat16 is named, η/(1−β) found by strong impulses, and nothing called nonlinear."""
    found = audit(odd_optimizers.Coarse)
    said = "; ".join(found.reasons)
    assert found.kind == "decoupled" and found.features.coarse == ("bfloat16",) and "bfloat16" in said
    assert "η_eff is known to 25 %" in said and "nonlinear" not in said
    assert settled(found, "η_eff") == pytest.approx(LR / 0.1, rel=0.25)
    assert found.to_dict()["lr_exponent"] is None


def test_what_is_below_the_residue_is_no_growth(audits):
    """Assert that R < 0 is told where the control is constant, and not where the control moves ten times as much."""
    features = audits("SGD").features
    phase = features.phases["settled"]._replace(decay_rate=np.full(32, -1e-6))
    grows = replace(features, phases={**features.phases, "settled": phase})
    covered = phase._replace(control=np.full(32, 1e-5))
    hidden = replace(features, phases={**features.phases, "settled": covered})
    told = ["; ".join(kind_of(one)[1]) for one in (grows, hidden)]
    assert "R < 0" in told[0] and "R < 0" not in told[1]


def test_inner_optimizers_get_the_weight_decay_of_a_partial():
    """Assert that λ = 0 reaches the inner optimizers of a class whose λ is bound by a partial."""
    found = audit(partial(odd_optimizers.InnerOptimizers, **ARGUMENTS))
    assert found.kind == "decoupled"
    assert found.rows["settled"][0] == pytest.approx(LR * DECAY, rel=READ / (LR * DECAY))


@pytest.mark.parametrize("stated", [DECAY, 0.0])
def test_decay_that_lambda_does_not_switch_off(stated):
    """Assert that decay which remains with λ = 0 is told, with its R, whatever λ the parameter groups state."""

    def factory(params):
        optimizer = odd_optimizers.InnerOptimizers(params, **ARGUMENTS)
        for group in optimizer.param_groups:
            group["weight_decay"] = stated
        return optimizer

    found = audit(factory)
    assert found.kind == "other" and "with λ = 0 a perturbation of the weights still shrinks" in found.reasons[0]
    assert [shape for shape, _ in found.features.kept] == [(6, 4), (8,)]
    assert [rate for _, rate in found.features.kept] == pytest.approx([LR * DECAY] * 2, rel=READ / (LR * DECAY))


def test_a_tensor_that_keeps_its_decay():
    """Assert that a tensor which λ = 0 does not reach is named, and is not said to be without decay."""

    def factory(params):
        optimizer = odd_optimizers.InnerOptimizers(params, **ARGUMENTS)
        first, step = optimizer.each[0].param_groups[0], optimizer.step

        def follow():
            first["weight_decay"] = optimizer.param_groups[0]["weight_decay"]
            step()

        optimizer.step = follow
        return optimizer

    found = audit(factory)
    said = "; ".join(found.reasons)
    assert found.kind == "decoupled" and "R = 0.001 on shape (8,)" in said and "do not decay" not in said


def test_late_decay_is_not_said_of_every_phase():
    """Assert that an optimizer whose first step decays nothing has R = ηλ in every later phase."""
    said = audit(odd_optimizers.LateDecay).reasons
    assert "R = ηλ for every weight, in every later phase" in said and "the first step has no decay" in said


def test_the_norm_of_the_gradients_stays():
    """Assert that η_eff of steps divided by ‖g‖ is η/‖g‖, though a gradient in 16 is 0 where impulses are given."""
    found = audit(odd_optimizers.Normalized)
    rows = list(found.rows.values())[1:]
    assert [row[4] for row in rows] == pytest.approx([DECAY] * 3, rel=SCATTER)


def test_the_control_is_needed():
    """Assert that without the control an optimizer that scales with ‖θ‖ would be said to decay."""
    response = measure_response(odd_optimizers.NormScaled)
    found = interpreted(response)
    assert found.kind == "none" and "behaves as with λ = 0" in found.reasons[0]
    assert interpreted(replace(response, control=None)).kind != "none"


def test_names_do_not_matter():
    """Assert that Adam under another name, with other words for its state, gets the same numbers and reasons."""
    adam, unknown = audit(partial(torch.optim.Adam, **ARGUMENTS)), audit(odd_optimizers.Zyx)
    assert (unknown.kind, unknown.reasons) == (adam.kind, adam.reasons) and adam.kind == "L2"
    for name, row in adam.rows.items():
        assert unknown.rows[name] == pytest.approx(row, rel=WINDOWED, abs=READ, nan_ok=True)
    low, high = settled(adam, "5 %"), settled(adam, "95 %")
    assert high > 30 * low  # gradients two orders of magnitude apart, without the tails


def test_what_has_died_out_is_unknown():
    """Assert that R is not read from a change that round-off has overtaken."""
    bench = bench_for(partial(torch.optim.SGD, **ARGUMENTS))
    base, reader = bench.run(BRIEF), Reader(readable_of(FINE.move, DOUBLE), enough=10)
    moved = Perturbation(np.full(base.before.shape[1], FINE.move)).followed(bench, base, BRIEF)
    assert np.isfinite(reader.steps(moved)).all()
    assert np.isnan(reader.steps(moved._replace(before=moved.before * 1e-9))).all()


def test_it_prints_and_writes(audits):
    """Assert that an audit shows as text, as HTML and as JSON, and that unknown numbers are None in JSON."""
    found = audits("no weight_decay to set")
    assert str(found).startswith("Undecayed: other") and "R/η_eff" in str(found)
    assert found._repr_html_().count("<tr>") == 5
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["weight_decay"] is None and data["phases"]["first step"]["η_eff"] is None
    assert settled(audits("SGD")) == LR * DECAY


def test_what_cannot_be_audited_is_refused():
    """Assert that an optimizer that needs a closure is refused with a reason."""
    with pytest.raises(InputError, match="closure"):
        audit(torch.optim.LBFGS)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (odd_optimizers.Exits, "Exits fails at step 3: SystemExit"),
        (odd_optimizers.NoLr, "lr = None in a parameter group"),
        (torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=LR), "a finished SGD is not callable"),
        (torch.nn.Linear(2, 1), "is a model .* lambda params"),
    ],
    ids=["exits", "no lr", "finished", "model"],
)
def test_what_ends_an_audit_is_an_input_error(factory, message):
    """Assert that an exit in a late step, lr = None, a finished optimizer and a model are reported as an InputError."""
    with pytest.raises(InputError, match=message):
        audit(factory)


def test_on_the_command_line(capsys):
    """Assert that the command audits MODULE:CLASS with literal arguments."""
    assert main(["audit", "torch.optim:SGD", "--args", "lr=1e-2,weight_decay=0.1"]) == 0
    assert capsys.readouterr().out.startswith("SGD: all the same (lr = 0.01, weight_decay = 0.1)")


def test_decay_that_is_switched_off_is_no_table(capsys):
    """Assert that an optimizer whose default λ is 0 is said to have its decay switched off, and shows no rates."""
    assert main(["audit", "torch.optim:SGD"]) == 0
    head, reason = capsys.readouterr().out.splitlines()
    assert head.startswith("SGD: none") and "weight_decay=0.1" in reason


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["torch.optim"], "MODULE:CLASS"),
        (["nowhere_at_all:SGD"], "cannot be imported"),
        (["torch.optim:SDG"], "it has SGD"),
        (["torch.optim:SGD", "--args", "lr=open('x')"], "give name=value"),
        (["torch.optim:SGD", "--args", "**{}"], "give name=value"),
        (["torch.optim:LBFGS"], "closure"),
        (["torch.optim:SGD", "--args", "lr=1e-2", "weight_decay=0.1"], "commas, not spaces"),
    ],
)
def test_mistakes_on_the_command_line(words, message, capsys):
    """Assert that a mistake is one line and exit code 2, and that nothing given as an argument is run."""
    assert main(["audit", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
