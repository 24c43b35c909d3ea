"""torch's generic tests of optimizers on SGDS, AdamS and AdaiS, with torch's own arguments and errors."""

import io
import math
from copy import deepcopy

import pytest
import torch
from optim.torch_inputs import NAMES, configurations, evaluated, infos, layer, small_model, trained
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from swd_dynamics.errors import InputError

pytestmark = pytest.mark.slow  # the import of torch's tests takes seconds
every_optimizer = pytest.mark.parametrize("name", NAMES)
both = pytest.mark.parametrize("named", [False, True])
# A foreach or fused kernel may take the operations of a step in another order.
ANOTHER_ORDER = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


# What torch refuses and these take: lr is read on the host in any case, and AdaiS's β₀ is no decay factor.
TENSOR_LR = "lr as Tensor doesn't work with foreach & not capturable"
ACCEPTED = {"AdamS": [TENSOR_LR], "AdaiS": [TENSOR_LR, "beta1 should be between 0 and 1"]}


def made(name, parameters, arguments):
    return infos()[name].optim_cls(parameters, **arguments)


def fused_is_refused(arguments, dtype):
    """torch's fused SGD leaves half precision weights where they are on the CPU."""
    return arguments.get("fused") and dtype in (torch.float16, torch.bfloat16)


def with_names(parameters, named):
    return [(f"name{i}", parameter) for i, parameter in enumerate(parameters)] if named else parameters


def without_names(state):
    state = deepcopy(state)
    for group in state["param_groups"]:
        group.pop("param_names", None)
    return state


def same(one, other):
    """Whether two states, or lists of tensors, are equal bit for bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


@every_optimizer
def test_errors(name):
    """Assert that what torch's optimizers refuse is refused by an error of the same kind, or a warning."""
    for error in infos()[name].optim_error_inputs_func("cpu", torch.float32):
        given = error.optimizer_error_input
        if given.desc in ACCEPTED.get(name, ()):
            continue
        parameters = given.params
        if parameters is None:
            parameters = [nn.Parameter(torch.ones(1))]
        if issubclass(error.error_type, Warning):
            with pytest.warns(error.error_type):
                made(name, parameters, given.kwargs)
        else:
            with pytest.raises(error.error_type):
                made(name, parameters, given.kwargs)


@pytest.mark.parametrize("with_schedulers", [False, True])
@pytest.mark.parametrize("contiguous", [False, True])
@every_optimizer
def test_goes_in_the_right_direction(name, contiguous, with_schedulers):
    """Assert that the loss falls, or rises with maximize, in any memory layout and under torch's schedulers."""
    for makers in infos()[name].scheduler_inputs if with_schedulers else [()]:
        for arguments in configurations(name, kernels=contiguous):
            parameters, x = layer(contiguous)
            optimizer = made(name, parameters, arguments)
            schedulers = [make(optimizer) for make in makers]
            first = loss = evaluated(optimizer, parameters, x)
            for _ in range(20):
                loss = optimizer.step(lambda: evaluated(optimizer, parameters, x))  # noqa: B023
                for scheduler in schedulers:
                    scheduler.step(*[loss.detach()] * isinstance(scheduler, ReduceLROnPlateau))
            rises = evaluated(optimizer, parameters, x) > first
            assert rises == arguments.get("maximize", False)


@every_optimizer
def test_a_group_with_its_own_lr_under_schedulers(name):
    """Assert that the loss falls where a group brings its own learning rate to torch's schedulers."""
    for makers in infos()[name].scheduler_inputs:
        (weight, bias), x = layer()
        optimizer = made(name, [{"params": [weight]}, {"params": [bias], "lr": 0.01}], {})
        schedulers = [make(optimizer) for make in makers]
        first = evaluated(optimizer, [weight, bias], x)
        for _ in range(20):
            loss = optimizer.step(lambda: evaluated(optimizer, [weight, bias], x))  # noqa: B023
            for scheduler in schedulers:
                scheduler.step(*[loss.detach()] * isinstance(scheduler, ReduceLROnPlateau))
        assert evaluated(optimizer, [weight, bias], x) < first


@every_optimizer
def test_a_tensor_for_lr(name):
    """Assert that a tensor of any number of dimensions is taken as the number in it, by every kernel."""
    for arguments in configurations(name):
        for shape in ((), (1,), (1, 1)):
            runs = []
            for lr in (torch.tensor(1e-3).item(), torch.full(shape, 1e-3)):
                parameters, x = layer()
                trained(made(name, parameters, arguments | {"lr": lr}), parameters, x, 5)
                runs.append(parameters)
            assert same(*runs)


@pytest.mark.parametrize("dtype", ANOTHER_ORDER)
@pytest.mark.parametrize("kernel", ["foreach", "fused"])
@every_optimizer
def test_kernels_agree_with_the_loop(name, kernel, dtype):
    """Assert that weights and state of foreach and fused are those of the loop, with an empty parameter as the last."""
    if kernel not in infos()[name].supported_impls:
        pytest.skip("no such kernel")
    for arguments in configurations(name, kernels=False):
        if name == "SGDS" and fused_is_refused({kernel: True}, dtype):
            continue
        runs = []
        for taken in (False, True):
            model = small_model(dtype)
            parameters = [*model.parameters(), nn.Parameter(torch.empty(0, dtype=dtype))]
            extra = {"eps": 0.1} if name == "AdamS" and dtype == torch.float16 else {}  # as torch does: 1e-8 is 0
            optimizer = made(name, parameters, arguments | extra | {"foreach": False} | {kernel: taken})
            x = torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]], dtype=dtype)
            for _ in range(7):
                optimizer.zero_grad()
                model(x).sum().backward()
                parameters[-1].grad = torch.empty_like(parameters[-1])
                optimizer.step()
            runs.append(parameters)
        torch.testing.assert_close(*runs, rtol=ANOTHER_ORDER[dtype], atol=ANOTHER_ORDER[dtype])


@pytest.mark.parametrize("kernel", ["foreach", "fused"])
@every_optimizer
def test_mixed_dtypes(name, kernel):
    """Assert that parameters of several dtypes in one group are taken by every kernel, each as if it were alone."""
    if kernel not in infos()[name].supported_impls or (name, kernel) == ("SGDS", "fused"):
        pytest.skip("no such kernel for all of these")
    runs = []
    for taken in (False, True):
        torch.manual_seed(0)
        dtypes = (torch.float64, torch.float32, torch.bfloat16)
        parameters = [nn.Parameter(torch.randn(3, 2, dtype=dtype)) for dtype in dtypes]
        optimizer = made(name, parameters, {"foreach": False} | {kernel: taken})
        for _ in range(7):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        runs.append(parameters)
    for one, other in zip(*runs, strict=True):
        tolerance = ANOTHER_ORDER[one.dtype]
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@every_optimizer
def test_another_default_dtype(name):
    """Assert that foreach works where torch's default dtype was changed after the model was made."""
    for default in (torch.float64, torch.bfloat16):
        parameters, x = layer()
        torch.set_default_dtype(default)
        try:
            optimizer = made(name, parameters, {"foreach": True})
            losses = trained(optimizer, parameters, x, 5)
        finally:
            torch.set_default_dtype(torch.float32)
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["SGDS", "AdamS"])
def test_fused_is_refused_on_meta_tensors(name):
    """Assert that a fused step on meta tensors raises and leaves no state, and one without gradients does not."""
    model = small_model().to("meta")
    optimizer = made(name, model.parameters(), {"fused": True})
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert not optimizer.state
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()


@pytest.mark.parametrize("name", ["SGDS", "AdamS"])
def test_fused_does_not_step_if_found_inf(name):
    """Assert that a fused step under ``found_inf`` moves no weight and counts no step, with and without a scale."""
    for arguments in configurations(name, kernels=False):
        for scale in (None, torch.ones(1)):
            parameters = [nn.Parameter(torch.ones(1)) for _ in range(5)]
            for parameter in parameters:
                parameter.grad = torch.ones_like(parameter)
            optimizer = made(name, parameters, arguments | {"fused": True})
            optimizer.grad_scale, optimizer.found_inf = scale, torch.ones(())
            optimizer.step()
            assert all(parameter == 1 for parameter in parameters)
            assert all(state.get("step", 0) == 0 for state in optimizer.state.values())


@every_optimizer
def test_groups_of_their_own_decay_and_lr(name):
    """Assert that the loss moves as it should with a group without decay, and that lr 1e-28 moves nothing."""
    for arguments in configurations(name):
        (weight, bias), x = layer()
        groups = [{"params": [weight], **arguments}, {"params": [bias], **arguments, "weight_decay": 0.0}]
        losses = trained(made(name, groups, {}), [weight, bias], x, 20)
        assert (losses[-1] > losses[0]) == arguments.get("maximize", False)
        (weight, bias), x = layer()
        still = nn.Parameter(torch.ones(2))
        still.grad = torch.ones_like(still)
        group = {"params": [weight, bias], "lr": 1e-3} | arguments
        losses = trained(made(name, [group, {"params": [still]}], {"lr": 1e-28}), [weight, bias], x, 20)
        assert (losses[-1] > losses[0]) == arguments.get("maximize", False)
        assert (still == 1).all()


@every_optimizer
def test_steps_that_do_nothing(name):
    """Assert that without gradients, and at zero gradients without decay, no weight moves and the closure runs."""
    for arguments in configurations(name):
        parameters = [nn.Parameter(torch.ones(5, 1)), nn.Parameter(torch.ones(0))]
        optimizer = made(name, parameters, arguments)
        assert optimizer.step(lambda: 7) == 7
        assert not optimizer.state
        if arguments.get("weight_decay"):
            continue
        for gradient in (0.0, 0.0):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, gradient)
            optimizer = made(name, parameters, arguments | {"weight_decay": 0.0})
            optimizer.step()
        assert (parameters[0] == 1).all()


@every_optimizer
def test_can_be_printed_copied_and_has_state(name):
    """Assert that a representation is there, that a copy has all public attributes, and that no state is empty."""
    for arguments in configurations(name):
        parameters, x = layer()
        optimizer = made(name, parameters, arguments)
        assert name in repr(optimizer)
        trained(optimizer, parameters, x, 3)
        public = {key for key in vars(optimizer) if not key.startswith("_")}
        assert public == {key for key in vars(deepcopy(optimizer)) if not key.startswith("_")}
        assert all(state for state in optimizer.state.values())
        assert len(optimizer.state) == (0 if name == "SGDS" and not arguments.get("momentum") else 2)


@pytest.mark.parametrize("to_named", [False, True])
@both
@every_optimizer
def test_a_state_dict_is_deterministic(name, named, to_named):
    """Assert that a loaded state goes on bit for bit as the first, with the same state_dict and with its names."""
    for arguments in configurations(name):
        parameters, x = layer()
        optimizer = made(name, with_names(parameters, named), arguments)
        trained(optimizer, parameters, x, 10)
        others = [nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        loaded = made(name, with_names(others, to_named), arguments)
        saved = optimizer.state_dict()
        kept = deepcopy(saved)
        loaded.load_state_dict(deepcopy(saved))
        assert same(saved, kept)
        for _ in range(10):
            trained(optimizer, parameters, x, 1)
            trained(loaded, others, x, 1)
            assert same(parameters, others)
        assert same(without_names(optimizer.state_dict()), without_names(loaded.state_dict()))
        loaded.param_groups.extend(loaded.param_groups)  # a repeated group looks the same
        groups = [without_names(each.state_dict())["param_groups"][-1] for each in (optimizer, loaded)]
        assert same(*groups)
        if named or to_named:
            assert loaded.state_dict()["param_groups"][0]["param_names"] == ["name0", "name1"]


@every_optimizer
def test_loads_what_older_versions_saved(name):
    """Assert that groups without newer arguments are completed, and counts that are numbers read as such."""
    for arguments in configurations(name):
        parameters, x = layer()
        optimizer = made(name, parameters, arguments)
        trained(optimizer, parameters, x, 3)
        old = deepcopy(optimizer.state_dict())
        for group in old["param_groups"]:
            for flag in infos()[name].not_og_supported_flags:
                group.pop(flag, None)
        for state in old["state"].values():
            if "step" in state:
                state["step"] = state["step"].item()
        optimizer.load_state_dict(old)
        trained(optimizer, parameters, x, 1)
        assert all(state.get("step", 4) == 4 for state in optimizer.state.values())


@both
@every_optimizer
def test_a_saved_state_is_read_with_weights_only(name, named):
    """Assert that torch.save and torch.load keep a state_dict, and that it holds nothing but weights and numbers."""
    for arguments in configurations(name):
        parameters, x = layer()
        optimizer = made(name, with_names(parameters, named), arguments)
        trained(optimizer, parameters, x, 3)
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        assert same(torch.load(file, weights_only=True), optimizer.state_dict())


@every_optimizer
def test_hooks_of_states(name):
    """Assert that hooks of saving and loading run in torch's order, and may add entries of their own to the state."""
    for arguments in configurations(name):
        parameters, x = layer()
        optimizer = made(name, parameters, arguments)
        trained(optimizer, parameters, x, 2)
        optimizer.register_state_dict_pre_hook(lambda each: each.state.update(test=1))
        optimizer.register_state_dict_post_hook(lambda _, state: state | {"had": state["state"].pop("test")})
        assert optimizer.state_dict()["had"] == 1
        saved = optimizer.state_dict() | {"state": optimizer.state_dict()["state"] | {"test": 2}}

        def last(_, state):
            state["param_groups"][0]["lr"] = 0.002

        def first(_, state):
            state = deepcopy(state)
            state["param_groups"][0]["lr"] = 0.003
            return state

        def after(each):
            each.state["after"] = each.param_groups[0]["lr"], each.state["test"]

        optimizer.register_load_state_dict_pre_hook(last)
        optimizer.register_load_state_dict_pre_hook(first, prepend=True)
        optimizer.register_load_state_dict_post_hook(after)
        optimizer.load_state_dict(saved)
        assert optimizer.state["after"] == (0.002, 2)


@every_optimizer
def test_hooks_of_steps(name):
    """Assert that global and local hooks run around each step in torch's order, and no longer once they are removed."""
    for arguments in configurations(name):
        seen = []
        optimizer = made(name, [nn.Parameter(torch.ones(2))], arguments)
        handles = [
            register_optimizer_step_pre_hook(lambda *_: seen.append(0)),  # noqa: B023
            register_optimizer_step_post_hook(lambda *_: seen.append(5)),  # noqa: B023
            optimizer.register_step_pre_hook(lambda *_: seen.append(1)),  # noqa: B023
            optimizer.register_step_post_hook(lambda *_: seen.append(2)),  # noqa: B023
        ]
        optimizer.step()
        for handle in handles:
            handle.remove()
        optimizer.step()
        assert seen == [0, 1, 2, 5]


@every_optimizer
def test_the_gradient_stays(name):
    """Assert that no step writes into p.grad."""
    for arguments in configurations(name):
        parameters, x = layer()
        optimizer = made(name, parameters, arguments)
        for _ in range(3):
            evaluated(optimizer, parameters, x)
            before = [parameter.grad.clone() for parameter in parameters]
            optimizer.step()
            assert same(before, [parameter.grad for parameter in parameters])
        assert math.isfinite(optimizer.param_groups[0]["decay_rate"])
        with pytest.raises((InputError, TypeError)):
            made(name, parameters, {"differentiable": True})
