"""A row has the gradient, the weights and the rates of the step itself, whatever else is hooked."""

import math
import os

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe
from swd_dynamics.tensors.weights import WRAPPERS, unwrapped

E1, E2 = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
# With momentum .9 and gradients e₁, e₂ the momentum is e₁, then .9e₁ + e₂.
COSINES = [1.0, 1 / math.sqrt(1.81)]
FLOAT32 = 1e-6  # relative error of sums of three float32 numbers


class Writes(torch.optim.Optimizer):
    """Gradient descent with momentum .9, which adds 1 to its gradients when a test wants it to."""

    writes = True

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            kept = self.state[parameter]
            kept.setdefault("momentum_buffer", torch.zeros_like(parameter))
            kept["momentum_buffer"].mul_(0.9).add_(parameter.grad)
            parameter.sub_(0.1 * kept["momentum_buffer"])
            if self.writes:
                parameter.grad.add_(1)


class Replaces(Writes):
    """The same, with a new tensor in the place of the gradient."""

    writes = False

    def step(self, closure=None):
        super().step()
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = torch.ones_like(parameter)


def weight():
    return torch.nn.Parameter(torch.ones(3))


def scaling(parameter, factor):
    """A hook that multiplies the gradient, as clipping does."""

    def scale(*_):
        parameter.grad.mul_(factor)

    return scale


def recorded(optimizer, parameter, gradients, before=lambda k: None):
    with Probe(optimizer) as probe:
        for k, gradient in enumerate(gradients):
            before(k)
            parameter.grad = torch.tensor(gradient)
            optimizer.step()
    assert probe.failure is None
    return probe.dataset()


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-30])
def test_a_gradient_that_nesterov_overwrites(foreach, weight_decay):
    """Assert that cos(g, m) has the gradient before the step, into which torch's kernel writes."""
    parameter = weight()
    nesterov = {"momentum": 0.9, "nesterov": True, "weight_decay": weight_decay}
    sgd = torch.optim.SGD([parameter], lr=0.1, foreach=foreach, **nesterov)
    run = recorded(sgd, parameter, [E1, E2])
    np.testing.assert_allclose(run.cos_gradient_momentum, COSINES, rtol=FLOAT32)


@pytest.mark.parametrize("kind", [Writes, Replaces])
def test_a_gradient_that_an_unknown_optimizer_changes(kind):
    """Assert that cos(g, m) has the gradient before the step of a class that nothing is known of."""
    parameter = weight()
    run = recorded(kind([parameter]), parameter, [E1, E2])
    np.testing.assert_allclose(run.cos_gradient_momentum, COSINES, rtol=FLOAT32)
    assert "cos_gradient_momentum_unknown_because" not in run.attrs


def test_an_optimizer_that_begins_to_change_gradients():
    """Assert that cos(g, m) is NaN, with a reason, only in the first step that changes g late."""
    parameter = weight()
    optimizer = Writes([parameter])

    def before(k):
        optimizer.writes = k >= 1

    run = recorded(optimizer, parameter, [E1, E1, E1], before)
    np.testing.assert_allclose(run.cos_gradient_momentum, [1, math.nan, 1], rtol=FLOAT32)
    assert "wrote into gradients" in run.attrs["cos_gradient_momentum_unknown_because"]


@pytest.mark.parametrize("attached", ["before", "after"])
def test_a_hook_that_scales_gradients(attached):
    """Assert that the gradient is the one that the step uses, whichever was registered first."""
    parameter = weight()
    sgd, probe = torch.optim.SGD([parameter], lr=1.0), None
    if attached == "before":
        probe = Probe(sgd).attach()
    sgd.register_step_pre_hook(scaling(parameter, 0.25))
    probe = probe or Probe(sgd).attach()
    parameter.grad = torch.tensor([8.0, 0, 0])
    sgd.step()
    probe.detach()
    run = probe.dataset()
    assert run.gradient_norm.item() == run.update_norm.item() == 2


def test_a_hook_that_moves_weights():
    """Assert that what a hook after the step does to the weights is not in the step's Δθ."""
    parameter = weight()
    sgd = torch.optim.SGD([parameter], lr=1.0)
    sgd.register_step_post_hook(lambda *_: parameter.data.add_(1))
    run = recorded(sgd, parameter, [[2.0, 0, 0], [0, 0, 0.0]])
    assert run.update_norm.values.tolist() == [2, 0]


@pytest.mark.parametrize("first_ends_first", [False, True])
def test_two_probes(first_ends_first):
    """Assert that two probes see the same, and leave an optimizer as they found it."""
    parameter = weight()
    sgd = torch.optim.SGD([parameter], lr=1.0)
    probes = [Probe(sgd).attach(), Probe(sgd).attach()]
    handle = sgd.register_step_pre_hook(scaling(parameter, 0.5))
    for k in range(2):
        parameter.grad = torch.tensor([2.0, 0, 0])
        sgd.step()
        if k == 0:
            probes.pop(0 if first_ends_first else -1).detach()
    handle.remove()
    probes[0].detach()
    assert probes[0].dataset().gradient_norm.values.tolist() == [1, 1]
    assert not sgd._optimizer_step_pre_hooks and not sgd._optimizer_step_post_hooks


def test_a_detached_probe_leaves_no_method():
    """Assert that an optimizer has its own methods again after the probe is detached."""
    sgd = torch.optim.SGD([weight()])
    before = set(vars(sgd))
    Probe(sgd).attach().detach()
    assert set(vars(sgd)) == before


@pytest.mark.parametrize("options", [{}, {"quantities": "dynamics", "trajectory": True}])
def test_a_model_that_is_cast(options):
    """Assert that Δθ after a cast to float64 is that of float64: η‖g‖ = 10⁻⁹·√1000."""
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(torch.ones(1000))
    sgd = torch.optim.SGD(model.parameters(), lr=1e-9)
    with Probe(sgd, **options) as probe:
        model.weight.grad = torch.ones(1000)
        sgd.step()
        sgd.zero_grad()
        model.double()
        with torch.no_grad():
            model.weight.mul_(torch.linspace(1, 2, 1000, dtype=torch.float64))
        model.weight.grad = torch.ones(1000, dtype=torch.float64)
        sgd.step()
    # θ near 2 has an absolute rounding of 2e-16, 2e-7 of a step of 1e-9.
    assert probe.dataset().update_norm[1] == pytest.approx(1e-9 * math.sqrt(1000), rel=1e-6)


def test_lookahead_takes_its_own_steps():
    """Assert that every second step of Lookahead, which goes back half of two steps, is recorded."""
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    parameter = weight()
    look = pytorch_optimizer.Lookahead(torch.optim.SGD([parameter], lr=0.1), k=2, alpha=0.5)
    run = recorded(look, parameter, [[1.0, 1.0, 1.0]] * 2)
    # The steps are −.1 and then −.1 + .1: half of the way back.
    np.testing.assert_allclose(run.update_norm, [0.1 * math.sqrt(3), 0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", sorted(WRAPPERS))
def test_a_wrapper_that_passes_steps_on(name):
    """Assert that the optimizer inside a known wrapper is the one that is recorded."""
    module, _, kind = name.rpartition(".")
    made = type(kind, (), {"__module__": module, "__qualname__": kind})
    sgd = torch.optim.SGD([weight()])
    outer, middle = type("Dynamic", (made,), {})(), made()
    outer.optimizer, middle.optimizer = middle, sgd
    assert unwrapped(outer) is sgd


@pytest.mark.slow
def test_known_wrappers_exist():
    """Assert that the installed frameworks have wrappers under the names that are unwrapped."""
    for name in sorted(WRAPPERS):
        module, _, kind = name.rpartition(".")
        assert hasattr(pytest.importorskip(module), kind), name


def test_an_unknown_wrapper_is_refused():
    """Assert that a wrapper without hooks of its own is refused, not looked through."""

    class Wrapper(torch.optim.Optimizer):
        def __init__(self, optimizer):
            self.optimizer = optimizer

    class Plain:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    for kind in (Wrapper, Plain):
        with pytest.raises(InputError, match="give the optimizer inside"):
            Probe(kind(torch.optim.SGD([weight()])))


def test_a_class_whose_step_torch_has_not_wrapped():
    """Assert that steps are seen of a class that sets up its hooks without torch's constructor."""

    class Late(torch.optim.SGD):
        def __init__(self, parameters):
            inner = torch.optim.SGD(parameters, lr=1.0)
            self.__dict__.update(inner.__dict__)

        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter.data.sub_(parameter.grad)

    parameter = weight()
    run = recorded(Late([parameter]), parameter, [E1, E2])
    assert run.update_norm.values.tolist() == [1, 1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_a_compiled_step(tmp_path):
    """Assert that the steps of a compiled AdamW are recorded: what each did to the weights, and R."""
    parameter = weight()
    adamw = torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.5)
    step, moved = torch.compile(adamw.step, backend="eager"), []
    with Probe(adamw, tmp_path / "run") as probe:
        for _ in range(3):
            before = parameter.detach().clone()
            parameter.grad = torch.ones(3)
            step()
            moved.append((parameter.detach() - before).norm().item())
    run = probe.dataset()
    assert probe.failure is None
    np.testing.assert_allclose(run.update_norm, moved, rtol=FLOAT32)
    assert run.decay_rate.values.tolist() == [0.05, 0.05, 0.05]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process can be forked on Unix only")
@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.slow
def test_a_forked_child_that_trains(tmp_path, where):
    """Assert that the steps of a forked child are not in its parent's recording."""
    parameter = weight()
    adamw = torch.optim.AdamW([parameter])

    def train(steps):
        for _ in range(steps):
            parameter.grad = torch.ones(3)
            adamw.step()

    with Probe(adamw, None if where == "memory" else tmp_path / "run") as probe:
        train(2)
        child = os.fork()
        if not child:
            try:
                train(5)
                probe.detach()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        train(1)
    run = probe.dataset()
    assert probe.failure is None
    assert run.step.values.tolist() == [1, 2, 3] and run.attrs["status"] == "finished"
