"""The callbacks record what a plain loop records; a framework that is not installed is skipped."""

import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from swd_dynamics.errors import InputError
from swd_dynamics.probe import Probe
from swd_dynamics.probe.callbacks import lightning_callback, trainer_callback
from swd_dynamics.recording import open_recording

# Warnings of the frameworks are ignored. Warnings of this package are errors, as in all tests.
pytestmark = [
    pytest.mark.filterwarnings(r"default:::(lightning|transformers|accelerate)\b"),
    pytest.mark.slow,  # Lightning and transformers are imported, which takes seconds
]

BATCHES, BATCH = 5, 4  # batches of an epoch, and samples of a batch
# Relative difference in float64 after ten steps: the gradients of two losses are added, or the
# gradient of their mean is computed.
ROUNDED = 1e-12


def samples():
    draw = torch.Generator().manual_seed(5)
    shapes = {"x": 3, "labels": 2}
    return [
        {name: torch.randn(size, generator=draw, dtype=torch.float64) for name, size in shapes.items()}
        for _ in range(BATCHES * BATCH)
    ]


class Layer(torch.nn.Module):
    """A linear layer with its squared error in float64, which may fail at its fourth batch."""

    def __init__(self, error=None):
        super().__init__()
        draw = torch.Generator().manual_seed(7)
        self.linear = torch.nn.Linear(3, 2, dtype=torch.float64)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        self.error, self.seen, self.losses = error, [], []

    def forward(self, x, labels):
        if self.error is not None and len(self.seen) == 3:
            raise self.error
        loss = (self.linear(x) - labels).square().mean()
        self.seen.append({"x": x, "labels": labels})
        self.losses.append(loss.item())
        return {"loss": loss}

    def weights(self):
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters()])


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, weight_decay=0.1)  # does not count its steps


def lightning_module(layer, make):
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def training_step(self, batch, index):
            return self.layer(**batch)["loss"]

        def configure_optimizers(self):
            return make(self.layer.parameters())

    return Module()


def fit(folder, module, callback=None, epochs=2, resume=False, **options):
    from lightning.pytorch import Trainer

    quiet = ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing")
    options |= dict.fromkeys(quiet, False) | {"default_root_dir": folder, "accelerator": "cpu"}
    trainer = Trainer(callbacks=callback, max_epochs=epochs, **options)
    batches = torch.utils.data.DataLoader(samples(), BATCH)
    trainer.fit(module, batches, ckpt_path=folder / "checkpoint" if resume else None)
    trainer.save_checkpoint(folder / "checkpoint")


def train_with_lightning(folder, layer, callback=None, *, make=adamw, accumulate=1, clip=0.0, **options):
    module = lightning_module(layer, make)
    fit(folder, module, callback, accumulate_grad_batches=accumulate, gradient_clip_val=clip, **options)


def hugging_face_trainer(folder, layer, callback=None, *, make=adamw, accumulate=1, clip=0.0, epochs=2, kind=None):
    import transformers

    arguments = transformers.TrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=accumulate,
        max_grad_norm=clip,
        lr_scheduler_type="constant",
        save_strategy="epoch",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    callbacks, optimizers = [] if callback is None else [callback], (make(layer.parameters()), None)
    kind = kind or transformers.Trainer
    return kind(layer, arguments, train_dataset=samples(), callbacks=callbacks, optimizers=optimizers)


def train_with_transformers(folder, layer, callback=None, *, resume=False, **options):
    with callback or nullcontext():
        hugging_face_trainer(folder, layer, callback, **options).train(resume_from_checkpoint=resume)


class Framework(NamedTuple):
    callback: Any
    train: Any
    divides_by_all: bool  # whether an epoch's last gradient is divided by the full number of batches
    at_interrupt: type  # the error that the caller sees


FRAMEWORKS = {
    "lightning": Framework(lightning_callback, train_with_lightning, True, SystemExit),
    "transformers": Framework(trainer_callback, train_with_transformers, False, KeyboardInterrupt),
}


@pytest.fixture
def lightning():
    return pytest.importorskip("lightning.pytorch")


@pytest.fixture
def transformers():
    pytest.importorskip("accelerate")
    return pytest.importorskip("transformers")


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    request.getfixturevalue(request.param)
    return FRAMEWORKS[request.param]


def plainly(path, batches, *, make=adamw, accumulate=1, clip=0.0, divides_by_all=False):
    """The recording of a plain loop, in which a step takes the mean loss of some batches."""
    layer = Layer()
    optimizer = make(layer.parameters())
    epochs = [batches[k : k + BATCHES] for k in range(0, len(batches), BATCHES)]
    with Probe(optimizer, path, model=layer) as probe:
        for group in (epoch[k : k + accumulate] for epoch in epochs for k in range(0, BATCHES, accumulate)):
            optimizer.zero_grad()
            loss = torch.stack([layer(**batch)["loss"] for batch in group]).mean()
            (loss * len(group) / accumulate if divides_by_all else loss).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(layer.parameters(), clip)
            probe.observe(loss=loss)
            optimizer.step()
    return probe.dataset()


def assert_same(recorded, expected):
    np.testing.assert_array_equal(recorded.step, expected.step)
    assert set(recorded.data_vars) == set(expected.data_vars)
    assert np.isfinite(expected.loss).all()
    for name in expected.data_vars:
        np.testing.assert_allclose(recorded[name], expected[name], rtol=ROUNDED, atol=ROUNDED, err_msg=name)


@pytest.mark.parametrize("clip", [0.0, 0.01], ids=["", "clipped"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_recording_is_that_of_a_plain_loop(framework, tmp_path, accumulate, clip):
    """Assert that every quantity is a plain loop's: clipped gradients, mean losses, short epochs."""
    layer = Layer()
    callback = framework.callback(tmp_path / "run", seed=3)
    framework.train(tmp_path, layer, callback, accumulate=accumulate, clip=clip)
    run = open_recording(tmp_path / "run")
    assert run.attrs["status"] == "finished" and run.attrs["seed"] == 3
    assert [name.split(".")[-1] for name in run.parameter.values] == ["weight", "bias"]
    assert len(layer.seen) == 2 * BATCHES
    options = {"accumulate": accumulate, "clip": clip, "divides_by_all": framework.divides_by_all}
    assert_same(run, plainly(tmp_path / "plain", layer.seen, **options))


def test_a_running_sum_of_losses_does_not_warn(framework, tmp_path, monkeypatch):
    """Assert that a callback that observes the sum so far after each batch does not warn of several losses."""
    said = []
    monkeypatch.setattr("swd_dynamics.probe.losses.warn", said.append)
    callback = framework.callback(tmp_path / "run")
    framework.train(tmp_path, Layer(), callback, accumulate=BATCHES)
    assert open_recording(tmp_path / "run").sizes["step"] == 2 and said == []


def test_training_is_left_as_it_is(framework, tmp_path):
    """Assert that the weights are bit for bit those without a callback, and no hook is left."""
    bare, watched = Layer(), Layer()
    callback = framework.callback(tmp_path / "run")
    framework.train(tmp_path / "watched", watched, callback, accumulate=2)
    framework.train(tmp_path / "bare", bare, accumulate=2)
    assert torch.equal(watched.weights(), bare.weights())
    (probe,) = callback.probes
    assert type(probe.optimizer) is torch.optim.AdamW and probe.failure is None
    assert not probe.optimizer._optimizer_step_pre_hooks and not probe.optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("at the fourth")], ids=["interrupt", "failure"])
def test_end_of_a_training_that_does_not_reach_it(framework, tmp_path, error):
    """Assert that a training that fails or is interrupted has its steps, and its status says why."""
    interrupted = isinstance(error, KeyboardInterrupt)
    with pytest.raises(framework.at_interrupt if interrupted else RuntimeError):
        framework.train(tmp_path, Layer(error), framework.callback(tmp_path / "run"))
    run = open_recording(tmp_path / "run")
    assert run.attrs["status"] == ("interrupted" if interrupted else "failed: RuntimeError('at the fourth')")
    np.testing.assert_array_equal(run.step, [1, 2, 3])


@pytest.mark.parametrize("make", [adamw, sgd])
def test_resumed_run_is_one_run(framework, tmp_path, make):
    """Assert that training from a checkpoint continues the run, even without a step count."""
    first, second = Layer(), Layer()
    framework.train(tmp_path, first, framework.callback(tmp_path / "run"), make=make, epochs=1)
    callback = framework.callback(tmp_path / "run", resume=True)
    framework.train(tmp_path, second, callback, make=make, epochs=2, resume=True)
    expected = plainly(tmp_path / "plain", first.seen + second.seen, make=make)
    assert expected.sizes["step"] == 2 * BATCHES
    assert_same(open_recording(tmp_path / "run"), expected)


def test_taken_folder_stops_before_the_first_step(framework, tmp_path):
    """Assert that a folder with another run is refused before any training."""
    framework.train(tmp_path, Layer(), framework.callback(tmp_path / "run"), epochs=1)
    layer = Layer()
    with pytest.raises(InputError, match="holds a run"):
        framework.train(tmp_path, layer, framework.callback(tmp_path / "run"))
    assert not layer.seen


def test_lightning_several_optimizers(lightning, tmp_path):
    """Assert that each optimizer has a folder, and the loss of its own closure or NaN."""

    def training_step(module, batch, index):
        module.automatic_optimization = False
        closing, plain = module.optimizers()

        def closure():
            closing.zero_grad(), plain.zero_grad()
            loss = module.layer(**batch)["loss"]
            module.manual_backward(loss)
            return loss

        closing.step(closure)
        plain.step()

    layer = Layer()
    module = lightning_module(layer, lambda parameters: tuple(torch.optim.SGD([each], lr=0.1) for each in parameters))
    module.automatic_optimization = False
    type(module).training_step = training_step
    fit(tmp_path, module, lightning_callback(tmp_path / "run"), epochs=1)
    weight, bias = (open_recording(tmp_path / "run" / f"optimizer_{k}") for k in range(2))
    assert (weight.parameter.item(), bias.parameter.item()) == ("layer.linear.weight", "layer.linear.bias")
    np.testing.assert_array_equal(weight.loss, layer.losses)
    assert bias.sizes["step"] == BATCHES and np.isnan(bias.loss).all()


def test_lightning_without_optimizer(lightning, tmp_path):
    """Assert that a training without an optimizer is refused, with advice."""
    module = lightning_module(Layer(), lambda parameters: [])
    module.automatic_optimization = False
    with pytest.raises(InputError, match="no optimizer"):
        fit(tmp_path, module, lightning_callback(tmp_path / "run"))


def test_lightning_closure_called_again(lightning, tmp_path):
    """Assert that if a step evaluates several losses, that at the step's first weights is recorded."""
    layer, callback = Layer(), lightning_callback(tmp_path / "run")
    lbfgs = partial(torch.optim.LBFGS, lr=0.1, max_iter=3)
    train_with_lightning(tmp_path, layer, callback, make=lbfgs)
    assert len(layer.losses) == 3 * 2 * BATCHES
    np.testing.assert_array_equal(open_recording(tmp_path / "run").loss, layer.losses[::3])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_scaled_losses(lightning, tmp_path, accumulate):
    """Assert that a scaler does not change losses, and its skipped steps are none, also resumed."""
    from lightning.pytorch.plugins.precision import MixedPrecision

    class Overflowing(Layer):
        def forward(self, x, labels):
            output = super().forward(x, labels)
            return {"loss": output["loss"] * (torch.inf if len(self.seen) == 2 else 1)}

    def train(layer, **options):
        mixed = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
        callback = lightning_callback(tmp_path / "run", resume=True)
        train_with_lightning(tmp_path, layer, callback, accumulate=accumulate, plugins=[mixed], **options)
        return layer.losses

    losses = train(Overflowing(), epochs=1)
    kept = [losses[k] for k in (0, 2, 3, 4)] if accumulate == 1 else [(losses[2] + losses[3]) / 2, losses[4]]
    np.testing.assert_allclose(open_recording(tmp_path / "run").loss, kept, rtol=ROUNDED)
    train(Layer(), resume=True)
    np.testing.assert_array_equal(open_recording(tmp_path / "run").step, np.arange(1, 2 * len(kept) + 2))


def test_transformers_training_without_an_end(transformers, tmp_path):
    """Assert that without ``with`` a failed training stays running until the next training ends it."""
    layer = Layer(RuntimeError("at the fourth"))
    trainer = hugging_face_trainer(tmp_path, layer, trainer_callback(tmp_path / "run", resume=True))
    training_step = trainer.training_step
    with pytest.raises(RuntimeError, match="fourth"):
        trainer.train()
    assert open_recording(tmp_path / "run").attrs["status"] == "running"
    layer.error = None
    trainer.train()
    run = open_recording(tmp_path / "run")
    assert run.attrs["status"] == "finished" and trainer.training_step == training_step
    np.testing.assert_array_equal(run.step, np.arange(1, 3 + 2 * BATCHES + 1))
    np.testing.assert_array_equal(run.loss, layer.losses)


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_goes_on(transformers, tmp_path, make, resume):
    """Assert that a second training with the same optimizer, counted from 0, goes on in the run."""
    layer, callback = Layer(), trainer_callback(tmp_path / "run", resume=resume)
    trainer = hugging_face_trainer(tmp_path, layer, callback, make=make)
    trainer.train()
    trainer.train()
    run = open_recording(tmp_path / "run")
    assert run.step.values.tolist() == list(range(1, 4 * BATCHES + 1))
    np.testing.assert_array_equal(run.loss, layer.losses)


def test_a_training_with_another_optimizer(transformers, tmp_path):
    """Assert that a training with another optimizer has a folder of its own."""
    callback = trainer_callback(tmp_path / "run")
    for _ in range(2):
        hugging_face_trainer(tmp_path, Layer(), callback, make=adamw).train()
    for name in ("run", "run_2"):
        run = open_recording(tmp_path / name)
        assert run.sizes["step"] == 2 * BATCHES and run.attrs["status"] == "finished"


def test_transformers_look_for_a_batch_size(transformers, tmp_path):
    """Assert that a try with a smaller batch size goes on in the recording of the first try."""

    class FailsOnce(Layer):
        def forward(self, x, labels):
            try:
                return super().forward(x, labels)
            except RuntimeError:
                self.error = None
                raise

    layer = FailsOnce(RuntimeError("CUDA out of memory."))
    trainer = hugging_face_trainer(tmp_path, layer, trainer_callback(tmp_path / "run"))
    trainer.args.auto_find_batch_size = True
    trainer.train()
    run = open_recording(tmp_path / "run")
    assert run.attrs["status"] == "finished"
    np.testing.assert_array_equal(run.step, np.arange(1, run.sizes["step"] + 1))
    assert run.sizes["step"] > 3 + 2 * BATCHES  # smaller batches are more steps


def test_transformers_loss_of_ones_own(transformers, tmp_path):
    """Assert that the loss is the one that the user's own Trainer computes, not the model's."""

    class Doubling(transformers.Trainer):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    layer, callback = Layer(), trainer_callback(tmp_path / "run")
    hugging_face_trainer(tmp_path, layer, callback, kind=Doubling).train()
    np.testing.assert_array_equal(open_recording(tmp_path / "run").loss, 2 * np.array(layer.losses))


def test_transformers_callback_without_a_trainer(transformers, tmp_path):
    """Assert that without a Trainer the callback records, and losses are NaN."""
    layer, callback = Layer(), trainer_callback(tmp_path / "run")
    optimizer = sgd(layer.parameters())
    callback.on_train_begin(None, transformers.TrainerState(), None, model=layer, optimizer=optimizer)
    callback.on_step_begin(None, None, None)
    optimizer.step()
    callback.on_train_end(None, None, None)
    run = open_recording(tmp_path / "run")
    assert run.attrs["status"] == "finished" and run.sizes["step"] == 1 and np.isnan(run.loss).all()


@pytest.mark.parametrize(
    ("make", "missing", "advice"),
    [
        (lightning_callback, ("lightning", "lightning.pytorch", "pytorch_lightning"), "pip install lightning"),
        (trainer_callback, ("transformers",), "pip install transformers accelerate"),
    ],
)
def test_missing_package(monkeypatch, make, missing, advice):
    """Assert that the error says what to install."""
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=advice):
        make("run")


@pytest.mark.parametrize("installed", [False, True])
def test_lightning_under_its_other_name(monkeypatch, installed):
    """Assert that the callback is one of ``pytorch_lightning`` if only that is installed or in use."""
    other = ModuleType("pytorch_lightning")
    other.Callback = type("Callback", (), {})
    monkeypatch.setitem(sys.modules, "pytorch_lightning", other)
    if installed:
        monkeypatch.delitem(sys.modules, "lightning.pytorch", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    assert isinstance(lightning_callback("run"), other.Callback)


def test_broken_package(monkeypatch, tmp_path):
    """Assert that a package that is installed, but lacks another package, is not called missing."""
    (tmp_path / "transformers.py").write_text("import not_there_at_all")
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        trainer_callback("run")


def test_frameworks_are_imported_late():
    """Assert that the module imports none of the frameworks."""
    names = "{'lightning', 'pytorch_lightning', 'transformers', 'accelerate'}"
    check = f"import sys, swd_dynamics.probe.callbacks; sys.exit(bool({names} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], timeout=60, check=False).returncode == 0
