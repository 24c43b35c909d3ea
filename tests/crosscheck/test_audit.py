"""The audit: its numbers against theory, its kinds against optimizers whose decay is known, and what would fool it."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import odd_optimizers
import pytest
import torch

from swd_dynamics import audit
from swd_dynamics.__main__ import main
from swd_dynamics.crosscheck.audit import interpreted
from swd_dynamics.crosscheck.evidence import decay_rate
from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdaiS, AdamS
from swd_dynamics.probe.bench import DROP
from swd_dynamics.probe.response import measure_response
from swd_dynamics.rules import CATALOG
from swd_dynamics.symbolic import long_run_decay_rate

LR, DECAY = 0.01, 0.1
ARGUMENTS = {"lr": LR, "weight_decay": DECAY}
MOMENTUM = {"momentum": 0.9, **ARGUMENTS}

READ = 1e-8  # round-off of weights that grow to 30, over δ = 1e-4, a few times; and (.91)^240 of the smaller root
WINDOWED = 0.05  # R and η_eff of a window are taken some steps apart, while √v̄ moves by .07 % in a step
HALF = 0.05  # the mean of 3200 fair coins is within .03 of a half, at three standard errors

CASES = {
    "SGD": (partial(torch.optim.SGD, **ARGUMENTS), "decoupled"),
    "SGD, momentum": (partial(torch.optim.SGD, **MOMENTUM), "L2"),
    "SGD, Nesterov": (partial(torch.optim.SGD, nesterov=True, **MOMENTUM), "L2"),
    "SGDW": (partial(odd_optimizers.SGDW, **ARGUMENTS), "decoupled"),
    "SGD, no decay": (partial(torch.optim.SGD, lr=LR, momentum=0.9), "none"),
    "SGDS": (partial(SGDS, **MOMENTUM), "stable"),
    "AdamS": (partial(AdamS, **ARGUMENTS), "stable"),
    "AdaiS": (partial(AdaiS, **ARGUMENTS), "decoupled"),
    "NAdam, decoupled": (partial(torch.optim.NAdam, decoupled_weight_decay=True, **ARGUMENTS), "decoupled"),
    "norm-scaled, no decay": (odd_optimizers.NormScaled, "none"),
    "no weight_decay to set": (odd_optimizers.Undecayed, "other"),
    "sign": (odd_optimizers.SignDecay, "other"),
    "cautious": (odd_optimizers.CautiousDecay, "other"),
    "not times η": (odd_optimizers.FixedDecay, "other"),
    "half": (odd_optimizers.HalfDecay, "decoupled"),
    "matrices": (odd_optimizers.MatrixDecay, "decoupled"),
    "runaway": (odd_optimizers.Runaway, "other"),
}
WORDS = {
    "SGD": "the same as stable decay and L2",
    "SGD, momentum": "acts on for 9 steps",
    "SGD, no decay": "weight_decay is 0",
    "SGDW": "R/η_eff = 0.1 λ stands still too",
    "SGDS": "R/η_eff = λ for every weight",
    "norm-scaled, no decay": "what it does with λ = 0",
    "no weight_decay to set": "no control possible",
    "sign": "nonlinear: the first step takes off something else",
    "cautious": "of the steps nothing is taken off",
    "not times η": "R ∝ η^0.00",
    "half": "R = 0.5·ηλ",
    "matrices": "shape (8,) are not decayed",
    "runaway": "diverged",
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


@pytest.mark.parametrize("name", CASES)
def test_kinds(audits, name):
    """Assert that decay whose kind is known is found to be of that kind, for the reason that it is."""
    found = audits(name)
    assert found.kind == CASES[name][1]
    assert WORDS.get(name, "") in "; ".join(found.evidence)


def test_l2_settles_where_theory_has_it(audits):
    """Assert that L2 behind momentum takes ηλ in the first step, and 1.11e-2, the larger root's, in the long run."""
    course = audits("SGD, momentum").course["median"]
    theory = long_run_decay_rate(CATALOG["SGD"](lr=LR, momentum=0.9, weight_decay=DECAY)).value
    assert course[0] == pytest.approx(LR * DECAY, abs=READ)
    assert course[DROP - 1] == pytest.approx(float(theory), abs=READ)
    assert f"{float(theory):.3g}" == "0.0111"


def test_stable_decay_where_theory_has_it(audits):
    """Assert that SGDS takes the derived rate from the first step on, and that R/η_eff of AdamS is λ in every phase."""
    theory = float(long_run_decay_rate(CATALOG["SGDS"](lr=LR, momentum=0.9, weight_decay=DECAY)).value)
    np.testing.assert_allclose(audits("SGDS").course["median"][:DROP], theory, rtol=0, atol=READ)
    rows = audits("AdamS").rows
    assert [rows[name][4] for name in list(rows)[1:]] == pytest.approx([DECAY] * 3, rel=WINDOWED)
    assert rows["gradients / 10"][0] > 1.3 * rows["settled"][0]  # 1/√v̄ rises by 1.41


def test_halves(audits):
    """Assert that a decay that acts on half of the weights at a time is seen to: half the rate, idle half the time."""
    found = audits("cautious")
    assert found.rows["settled"][5] == pytest.approx(0.5, abs=HALF)
    assert found.seen.idle == pytest.approx(0.5, abs=HALF)


def test_the_control_is_needed():
    """Assert that without the control an optimizer that scales with ‖θ‖ would be said to decay."""
    response = measure_response(odd_optimizers.NormScaled)
    assert interpreted(response).kind == "none"
    assert interpreted(replace(response, control=None)).kind != "none"


def test_names_do_not_matter():
    """Assert that Adam under another name, with other words for its state, gets the same numbers and evidence."""
    adam, unknown = audit(partial(torch.optim.Adam, **ARGUMENTS)), audit(odd_optimizers.Zyx)
    assert (unknown.kind, unknown.evidence) == (adam.kind, adam.evidence) and adam.kind == "L2"
    for name, row in adam.rows.items():
        assert unknown.rows[name] == pytest.approx(row, rel=WINDOWED, abs=READ, nan_ok=True)
    low, high = settled(adam, "5 %"), settled(adam, "95 %")
    assert high > 30 * low  # gradients two orders of magnitude apart, but for the tails


def test_what_has_died_out_is_unknown():
    """Assert that R is not read from a change that round-off has overtaken."""
    response = measure_response(partial(torch.optim.SGD, **ARGUMENTS))
    faded = response.moved._replace(before=response.moved.before * 1e-9)
    assert np.isnan(decay_rate(faded)).all()


def test_it_prints_and_writes(audits):
    """Assert that an audit shows as text, as HTML and as JSON, with what is unknown left open."""
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


def test_on_the_command_line(capsys):
    """Assert that the command audits MODULE:CLASS with literal arguments."""
    assert main(["audit", "torch.optim:SGD", "--args", "lr=1e-2,weight_decay=0.1"]) == 0
    assert capsys.readouterr().out.startswith("SGD: decoupled (lr = 0.01, weight_decay = 0.1)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["torch.optim"], "MODULE:CLASS"),
        (["nowhere_at_all:SGD"], "cannot be imported"),
        (["torch.optim:SDG"], "it has SGD"),
        (["torch.optim:SGD", "--args", "lr=open('x')"], "give name=value"),
        (["torch.optim:SGD", "--args", "**{}"], "give name=value"),
        (["torch.optim:LBFGS"], "closure"),
    ],
)
def test_mistakes_on_the_command_line(words, message, capsys):
    """Assert that a mistake is one line and exit code 2, and that nothing given as an argument is run."""
    assert main(["audit", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and message in said
