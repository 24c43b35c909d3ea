"""Every quantity against float64 by hand, for each parameter, each group and all weights."""

import math

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.optim import SGDS, AdaiS, AdamS
from swd_dynamics.probe import Probe
from swd_dynamics.probe.quantities import QUANTITIES, SETS, SUMS, Quantity, chosen
from swd_dynamics.tables import UnknownName

SAME = 1e-12  # relative difference of float64 sums whose terms are added in another order
# Relative error of a root or a quotient of sums of float32 numbers, which are right to seven
# digits.
IN_FLOAT32 = 2e-6

OPTIMIZERS = {
    "SGD": lambda groups: torch.optim.SGD(groups, lr=0.1, weight_decay=0.1),
    "SGD L2": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1),
    "SGD nesterov": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.2),
    "AdamW fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
    "Adam L2": lambda groups: torch.optim.Adam(groups, lr=0.1, weight_decay=0.1),
    "Adam amsgrad": lambda groups: torch.optim.Adam(groups, lr=0.1, amsgrad=True),
    "AdamS": lambda groups: AdamS(groups, lr=0.1, weight_decay=0.1),
    "AdaiS": lambda groups: AdaiS(groups, lr=0.1, weight_decay=0.1),
}
each_optimizer = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def at_levels(values, of_group):
    """The arguments of a formula for each parameter, each group and all weights, from flat vectors."""
    groups = [[value for value, group in zip(values, of_group, strict=True) if group == g] for g in (0, 1)]
    return {
        "_parameter": list(values),
        "_group": [tuple(map(np.concatenate, zip(*group, strict=True))) for group in groups],
        "": [tuple(map(np.concatenate, zip(*values, strict=True)))],
    }


def norm(vector):
    return math.sqrt(math.fsum(vector**2))


def cos(a, b):
    return math.fsum(a * b) / norm(a) / norm(b) if norm(a) and norm(b) else math.nan


def angle(a, b):
    """The angle between two vectors, exact however small it is (Kahan)."""
    x, y = a * norm(b), b * norm(a)
    return 2 * math.atan2(norm(x - y), norm(x + y))


BY_HAND = {
    "theta_norm": lambda old, g, new, m, v, start: norm(old),
    "theta_rms": lambda old, g, new, m, v, start: math.sqrt(np.mean(old**2)),
    "gradient_norm": lambda old, g, new, m, v, start: norm(g),
    "gradient_rms": lambda old, g, new, m, v, start: math.sqrt(np.mean(g**2)),
    "update_norm": lambda old, g, new, m, v, start: norm(new - old),
    "update_rms": lambda old, g, new, m, v, start: math.sqrt(np.mean((new - old) ** 2)),
    "cos_theta_update": lambda old, g, new, m, v, start: cos(old, new - old),
    "cos_gradient_momentum": lambda old, g, new, m, v, start: cos(g, m),
    "rotation": lambda old, g, new, m, v, start: angle(old, new),
    "momentum_norm": lambda old, g, new, m, v, start: norm(m),
    "v_mean": lambda old, g, new, m, v, start: np.mean(v),
    "update_sparsity": lambda old, g, new, m, v, start: np.mean(new == old),
    "distance": lambda old, g, new, m, v, start: norm(new - start),
}


def watch(net, optimizer, steps, flat):
    """What each step did to each parameter: lists of (θ, g, θ′, m, v, θ₀), flat and in float64."""
    history, start = [], [flat(p) for p in net.parameters()]
    for _ in range(steps):
        optimizer.zero_grad()
        net.loss().backward()
        old, gradients = ([flat(x) for x in xs] for xs in (net.parameters(), (p.grad for p in net.parameters())))
        optimizer.step()
        states = [optimizer.state[p] for p in net.parameters()]
        m = [state.get("exp_avg", state.get("momentum_buffer")) for state in states]
        v = [state.get("max_exp_avg_sq", state.get("exp_avg_sq")) for state in states]
        none = [np.full(len(x), np.nan) for x in old]
        parts = (none if x[0] is None else [flat(y) for y in x] for x in (m, v))
        new = [flat(p) for p in net.parameters()]
        history.append(list(zip(old, gradients, new, *parts, start, strict=True)))
    return history


def flat(tensor):
    return tensor.detach().double().reshape(-1).numpy().copy()


@each_optimizer
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, SAME), (torch.float32, IN_FLOAT32)])
@pytest.mark.slow
def test_quantities_by_hand(network, tmp_path, make, dtype, allowed):
    """Assert that each quantity equals its formula in float64, at every level and in every step."""
    net = network(dtype=dtype)
    optimizer = make(net.groups(lr=0.03))
    with Probe(optimizer, tmp_path / "run", model=net, quantities="dynamics") as probe:
        history = watch(net, optimizer, 5, flat)
    run = probe.dataset()
    for name, formula in BY_HAND.items():
        for k, values in enumerate(history):
            for level, parts in at_levels(values, [0, 0, 1, 1]).items():
                expected = [formula(*part) for part in parts]
                found = np.atleast_1d(run[name + level].values[k])
                np.testing.assert_allclose(found, expected, rtol=allowed, atol=allowed, err_msg=f"{name}{level} {k}")


@each_optimizer
def test_rates_of_all_weights_are_those_of_each(network, make):
    """Assert that R, its spread, R/η_eff and the share of decay in Δθ follow from R of each weight."""
    net = network()
    optimizer = make(net.groups(lr=0.03))
    with Probe(optimizer, model=net, quantities="dynamics", trajectory=True) as probe:
        net.train(optimizer, 6)
    run = probe.dataset()
    rates, effective_lr = run.decay_rate_weight.values, run.effective_lr.values[:, run.weight_group]
    expected = {
        "decay_rate": rates.mean(1),
        "decay_rate_std": rates.std(1),
        "decay_rate_min": rates.min(1),
        "decay_rate_max": rates.max(1),
        "decay_ratio": (rates / effective_lr).mean(1),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(run[name], values, rtol=SAME, atol=SAME, err_msg=name)
    subtracted = rates * run.theta.values[:-1]
    fraction = np.linalg.norm(subtracted, axis=1) / np.linalg.norm(np.diff(run.theta, axis=0), axis=1)
    np.testing.assert_allclose(run.decay_fraction, fraction, rtol=SAME, atol=SAME)


def test_v_bar(network, tmp_path):
    """Assert that v̄ is the mean of v̂ over the weights of all groups, each with its own β₂."""
    net = network()
    optimizer = torch.optim.AdamW(net.groups(betas=(0.9, 0.5)), lr=0.1)
    with Probe(optimizer, tmp_path / "run", quantities=["v_bar", "effective_lr"]) as probe:
        net.train(optimizer, 3)
    v = [flat(optimizer.state[p]["exp_avg_sq"]) for p in net.parameters()]
    hats = [part / (1 - beta**3) for part, beta in zip(v, (0.999, 0.999, 0.5, 0.5), strict=True)]
    run = probe.dataset()
    np.testing.assert_allclose(run.v_bar[-1], np.concatenate(hats).mean(), rtol=SAME)
    np.testing.assert_allclose(run.effective_lr[-1], 0.1 / math.sqrt(np.concatenate(hats).mean()), rtol=SAME)


class Normalised(torch.optim.Optimizer):
    """Keeps what a test calls the second moment, and counts its steps if the test asks for it."""

    def __init__(self, parameters, moment, counts):
        super().__init__(parameters, {"lr": 0.1})
        self.kept = {"exp_avg_sq": moment} | ({"step": 1} if counts else {})

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter] |= self.kept


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize(
    ("moment", "mean"),
    [(torch.tensor([2.0, 4.0]), 3.0), (torch.tensor(4.0), math.nan), ([4.0, 4.0], math.nan)],
)
def test_second_moment_of_each_weight(moment, mean, counts):
    """Assert that v is averaged if it has one entry for each weight, and is unknown otherwise."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = Normalised([weight], moment, counts)
    with Probe(optimizer) as probe:
        optimizer.step()
    np.testing.assert_array_equal(probe.dataset().v_mean, [mean])


def test_a_parameter_without_weights_counts_for_nothing():
    """Assert that a tensor without entries does not change R of Adam's L2, nor its mean and spread."""
    runs = []
    for shapes in ([(2,)], [(2,), (0, 3)]):
        parameters = [torch.nn.Parameter(torch.ones(shape, dtype=torch.float64)) for shape in shapes]
        optimizer = torch.optim.Adam(parameters, lr=0.1, weight_decay=0.1)
        with Probe(optimizer, quantities="dynamics", trajectory=True) as probe:
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        runs.append(probe.dataset())
    for name in ("decay_rate", "decay_rate_min", "decay_rate_max", "decay_rate_std", "decay_fraction"):
        np.testing.assert_array_equal(runs[1][name], runs[0][name], err_msg=name)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
def test_tiny_angles(tmp_path, size):
    """Assert that an angle of 10⁻¹² is found with all its digits, although its cosine rounds to 1."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 0.0], dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with Probe(optimizer, tmp_path / "run") as probe:
        weight.grad = torch.tensor([0.0, -size], dtype=torch.float64)
        optimizer.step()
    assert probe.dataset().rotation.item() == pytest.approx(math.atan(size), rel=SAME)


@pytest.mark.slow
def test_long_tensors_in_float32(tmp_path):
    """Assert that sums over a million float32 weights are right to almost all digits of float32."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(1000, 1003, generator=generator))
    optimizer = torch.optim.AdamW([weight], lr=1e-3)
    with Probe(optimizer, tmp_path / "run", quantities="dynamics") as probe:
        weight.grad = torch.randn(1000, 1003, generator=generator)
        old = flat(weight)
        optimizer.step()
    run, state = probe.dataset(), optimizer.state[weight]
    parts = old, flat(weight.grad), flat(weight), flat(state["exp_avg"]), flat(state["exp_avg_sq"]), old
    for name, formula in BY_HAND.items():
        assert run[name].item() == pytest.approx(formula(*parts), rel=IN_FLOAT32, abs=1e-7), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.slow
def test_half_precision_and_strides(tmp_path, dtype):
    """Assert that half precision is widened before sums, and a transposed parameter is read right."""
    weight = torch.nn.Parameter(torch.randn(30, 40, generator=torch.Generator().manual_seed(0)).to(dtype).t())
    optimizer = torch.optim.SGD([weight], lr=0.5, momentum=0.5)
    old = flat(weight)
    with Probe(optimizer, tmp_path / "run", quantities="dynamics") as probe:
        weight.grad = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)).to(dtype)
        optimizer.step()
    run, m = probe.dataset(), flat(optimizer.state[weight]["momentum_buffer"])
    parts = old, flat(weight.grad), flat(weight), m, np.full(1200, np.nan), old
    for name in BY_HAND.keys() - {"v_mean"}:
        assert run[name].item() == pytest.approx(BY_HAND[name](*parts), rel=IN_FLOAT32), name


def test_a_quantity_of_ones_own(network, tmp_path):
    """Assert that a quantity that a user adds in a few lines is recorded at every level."""
    relative = Quantity(
        "relative_update", "‖Δθ‖/‖θ‖", ("update_update", "theta_theta"), lambda moved, before: (moved / before) ** 0.5
    )
    net = network()
    optimizer = torch.optim.AdamW(net.parameters())
    with Probe(optimizer, tmp_path / "run", quantities=["update_norm", "theta_norm", relative]) as probe:
        net.train(optimizer, 3)
    run = probe.dataset()
    for level in ("", "_group", "_parameter"):
        expected = run[f"update_norm{level}"] / run[f"theta_norm{level}"]
        np.testing.assert_allclose(run[f"relative_update{level}"], expected, rtol=SAME)
    assert run.relative_update.attrs["long_name"] == "‖Δθ‖/‖θ‖"


def test_what_overflowed_is_not_a_number():
    """Assert that a cosine and a fraction of a run that diverged are NaN where Σ(Δθ)² is infinite,
    not 0. One step before, with θ = 1e150 and Δθ = −2e153, they are the real ones.
    """
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    sgd = SGDS([weight], lr=0.5, weight_decay=0.25, momentum=0.0)
    with Probe(sgd, quantities=["cos_theta_update", "decay_fraction"]) as probe:
        for gradient in (4e153, 4e200):
            weight.data.fill_(1e150)
            weight.grad = torch.full_like(weight, gradient)
            sgd.step()
    recorded = probe.dataset()
    cosine, fraction = recorded["cos_theta_update"].values, recorded["decay_fraction"].values
    assert cosine[0] == -1 and np.isnan(cosine[1])
    decay = 0.5 * 0.25 * 1e150  # R = ηλ without momentum
    np.testing.assert_allclose(fraction, [decay / (0.5 * 4e153 + decay), np.nan], rtol=1e-12)


def test_table_and_sets():
    """Assert that each quantity has its own name in the table, sets are known, and every sum is
    used.
    """
    assert all(name == quantity.name for name, quantity in QUANTITIES.items())
    assert set(SETS["minimal"]) < set(SETS["default"]) < set(SETS["dynamics"])
    assert set(SETS["dynamics"]) | set(SETS["landscape"]) == set(QUANTITIES)
    used = {need for quantity in QUANTITIES.values() for need in quantity.needs}
    assert set(SUMS) - used == {"v_hat"}


def test_bad_choices_are_refused_in_words():
    """Assert that an unknown set, quantity, sum or level, and a quantity named twice, are refused."""
    with pytest.raises(UnknownName, match="unknown set of quantities 'defualt'; known: default"):
        chosen("defualt")
    with pytest.raises(UnknownName, match="unknown quantity 'theta'; known: theta_"):
        chosen(["theta"])
    with pytest.raises(UnknownName, match="unknown sum 'theta'; known: theta_theta"):
        Quantity("mine", "", ("theta",), np.sqrt)
    with pytest.raises(InputError, match=r"levels = .* is not allowed: give some of step, group, parameter"):
        Quantity("mine", "", ("weights",), np.sqrt, ("all",))
    with pytest.raises(InputError, match="each once"):
        chosen(["loss", "loss"])


def test_a_group_without_decay_counts_in_the_mean_ratio():
    """Assert that R/η_eff of AdamS is λ in a group, and λ times its share of all weights beside λ = 0."""
    weights = [torch.nn.Parameter(torch.ones(n, dtype=torch.float64)) for n in (6, 2)]
    optimizer = AdamS([{"params": weights[:1]}, {"params": weights[1:], "weight_decay": 0.0}], lr=0.1, weight_decay=0.2)
    with Probe(optimizer) as probe:
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    run = probe.dataset()
    np.testing.assert_allclose(run.decay_ratio_group[0], [0.2, 0.0], rtol=SAME)
    np.testing.assert_allclose(run.decay_ratio, 0.2 * 6 / 8, rtol=SAME)
