"""The character transformer: its text and windows, its formula, its start, its derivatives and its errors."""

import math
from functools import partial
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch
from scipy.special import erf, log_softmax, softmax
from torch.nn.attention import SDPBackend, sdpa_kernel

from swd_dynamics.errors import InputError
from swd_dynamics.tasks import character_transformer
from swd_dynamics.tasks.text import corpus

# Round-off of a float64 computation of a few hundred operations on numbers of the order of 1.
ROUND_OFF = 1e-12
# Rounding a float64 to float32.
SINGLE = np.finfo(np.float32).eps / 2
# A test of a mean square from N draws is wrong once in a million seeds.
STANDARD_ERRORS = 5

TEXT = "\n".join(topics.values())
ALPHABET = sorted(set(TEXT))
TRAINING = len(TEXT) * 9 // 10

tiny = partial(
    character_transformer, width=8, layers=2, heads=2, length=6, windows=10, batch_size=5, dtype=torch.float64
)


class Unigram(torch.nn.Module):
    """Scores that do not depend on what is read; it keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.scores = torch.nn.Parameter(torch.linspace(-1, 2, len(ALPHABET), dtype=torch.float64))

    def forward(self, codes):
        self.seen = codes
        return self.scores.expand(*codes.shape, -1)


def characters(codes):
    return ["".join(ALPHABET[code] for code in row.tolist()) for row in codes]


@torch.no_grad()
def held_out_loss(task):
    """The mean loss over windows of the last tenth of the text, which no batch comes from."""
    text, length = corpus().held_out, task.description["length"]
    characters_read = length * task.description["windows"]
    inputs = text[:characters_read].view(-1, length)
    scores = task.model(inputs).flatten(0, 1)
    return torch.nn.functional.cross_entropy(scores, text[1 : characters_read + 1]).item()


def test_the_corpus_is_the_whole_text():
    """Assert that the codes spell the text of pydoc_data, in nine tenths and one, with a code for every character."""
    alphabet, training, held_out = corpus()
    assert alphabet == "".join(ALPHABET)
    assert characters([training, held_out]) == [TEXT[:TRAINING], TEXT[TRAINING:]]


@pytest.mark.parametrize("batch_size", [1, 60])
@pytest.mark.slow
def test_batches_are_windows_of_the_training_text(batch_size):
    """Assert that each step reads so many pieces of the first nine tenths, others in another step or seed."""
    task, other, model = (
        tiny(length=40, batch_size=batch_size),
        tiny(length=40, batch_size=batch_size, seed=1),
        Unigram(),
    )
    read = []
    for made, step in ((task, 0), (task, 1), (other, 0)):
        made.batch_loss(model, step)
        read.append(characters(model.seen))
    assert all(len(window) == 40 and window in TEXT[:TRAINING] for windows in read for window in windows)
    assert [len(windows) for windows in read] == 3 * [batch_size]
    assert read[0] != read[1]
    assert read[0] != read[2]


def test_batches_do_not_depend_on_the_order_of_calls():
    """Assert that step 3's loss is the same first or last."""
    losses = [tiny().loss(step).item() for step in range(4)]
    assert tiny().loss(3).item() == losses[3]
    assert len(set(losses)) == 4


@pytest.mark.parametrize("windows", [1, 10, 90])
@pytest.mark.slow
def test_full_loss_is_that_of_the_windows_it_says(windows):
    """Assert that the full loss is the mean cross-entropy of the next characters of tiles at equal distances."""
    task, model, length = tiny(length=500, windows=windows), Unigram(), 500
    loss = task.full_loss(model).item()
    tiles = (TRAINING - 1) // length
    starts = [i * tiles // windows * length for i in range(windows)]
    assert characters(model.seen) == [TEXT[start : start + length] for start in starts]
    assert len(set(starts)) == windows
    next_ones = "".join(TEXT[start + 1 : start + length + 1] for start in starts)
    expected = -log_softmax(model.scores.detach().numpy())[[ALPHABET.index(letter) for letter in next_ones]].mean()
    assert loss == pytest.approx(expected, rel=ROUND_OFF)


def normalised(x, gain, shift):
    variance = x.var(axis=-1, keepdims=True)
    return (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(variance + 1e-5) * gain + shift  # LayerNorm's ε, in torch too


def attended(x, heads):
    """Σ over earlier positions j of softmax(qᵢ·kⱼ/√d)·vⱼ, head by head, of x = (q, k, v), shape (length, 3·width)."""
    query, key, value = (part.reshape(len(x), heads, -1) for part in np.split(x, 3, axis=-1))
    scores = np.einsum("ihd,jhd->hij", query, key) / math.sqrt(query.shape[-1])
    weights = softmax(np.where(np.tri(len(x)), scores, -np.inf), axis=-1)
    return np.einsum("hij,jhd->ihd", weights, value).reshape(len(x), -1)


def by_hand(model, codes, heads):
    """Scores of the next character for one window of codes, shape (length, vocabulary), in numpy."""
    weights = [weight.detach().numpy() for weight in model.parameters()]
    x = weights[0][codes] + weights[1][: len(codes)]
    for i in range(2, len(weights) - 4, 12):
        gain, shift, w, b, w_out, b_out, mlp_gain, mlp_shift, w1, b1, w2, b2 = weights[i : i + 12]
        x = x + attended(normalised(x, gain, shift) @ w.T + b, heads) @ w_out.T + b_out
        h = normalised(x, mlp_gain, mlp_shift) @ w1.T + b1
        x = x + (h * (1 + erf(h / math.sqrt(2))) / 2) @ w2.T + b2
    gain, shift, w, b = weights[-4:]
    return normalised(x, gain, shift) @ w.T + b


def moved(task):
    """The task at weights that are not special: no bias is 0."""
    task.set_theta(np.random.default_rng(0).normal(size=task.theta.shape))
    return task


@pytest.mark.parametrize("read", [6, 4])
def test_scores_by_hand(read):
    """Assert that a window's scores are those of the formula, also those of a window that is shorter."""
    task = moved(tiny())
    codes = corpus().training[:read]
    scores = task.model(codes[None])[0].detach().numpy()
    assert np.abs(scores - by_hand(task.model, codes.numpy(), heads=2)).max() < ROUND_OFF * np.abs(scores).max()


def test_nothing_is_seen_before_it_is_read():
    """Assert that another character at position 3 changes the scores from there on, and none before."""
    task = moved(tiny())
    codes = corpus().training[:6].repeat(2, 1)
    codes[1, 3] = (codes[1, 3] + 1) % len(ALPHABET)
    change = (task.model(codes)[1] - task.model(codes)[0]).abs().amax(dim=-1)
    assert change[:3].max() < ROUND_OFF
    assert change[3:].min() > 1e-3  # of scores of the order of 1


@pytest.mark.parametrize(("width", "layers", "heads", "length"), [(128, 5, 4, 64), (6, 2, 3, 5)])
def test_number_of_weights(width, layers, heads, length):
    """Assert that there are layers·(12·width² + 13·width) + (2V + length + 2)·width + V weights."""
    vocabulary = len(ALPHABET)
    counted = layers * (12 * width**2 + 13 * width) + (2 * vocabulary + length + 2) * width + vocabulary
    assert character_transformer(width, layers, heads, length).theta.size == counted


def test_initial_weights():
    """Assert that matrices are N(0, 0.02²), those into the stream less by √(2·layers), biases 0 and gains 1."""
    for name, parameter in character_transformer(layers=3).model.named_parameters():
        weight = parameter.detach().double()
        if weight.ndim == 1:
            gain = name.endswith(("norm.weight", "attention.0.weight", "mlp.0.weight"))
            assert (weight == float(gain)).all(), name
        else:
            deviation = 0.02 / math.sqrt(6) if name.endswith(("mixed.weight", "mlp.3.weight")) else 0.02
            error = STANDARD_ERRORS * math.sqrt(2 / weight.numel())  # a squared normal draw has twice its mean squared
            assert (weight**2).mean().item() == pytest.approx(deviation**2, rel=error), name


@pytest.mark.slow
def test_initial_loss_is_that_of_ignorance():
    """Assert that the first loss is log V but for what the first scores, of deviation 0.02·√width, make of it."""
    task = character_transformer(windows=32, batch_size=8)
    for loss in (task.loss(0).item(), task.full_loss(task.model).item(), held_out_loss(task)):
        assert loss == pytest.approx(math.log(len(ALPHABET)), abs=0.02 * math.sqrt(128))


def test_start_in_single_precision():
    """Assert that a float32 model starts at the float64 one's weights, rounded."""
    double, single = tiny().theta, tiny(dtype=torch.float32).theta
    assert (np.abs(single - double) <= SINGLE * np.abs(double)).all()


def test_a_batch_has_second_derivatives_by_the_explicit_formula():
    """Assert that without fused attention a batch's loss is the same, and its Hessian symmetric: u·Hv = v·Hu."""
    task = moved(tiny())
    weights = list(task.model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        loss = task.loss(0)
    assert loss.item() == pytest.approx(task.loss(0).item(), rel=ROUND_OFF)
    gradient = torch.nn.utils.parameters_to_vector(torch.autograd.grad(loss, weights, create_graph=True))
    u, v = torch.randn(2, len(gradient), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hu, hv = (torch.autograd.grad(gradient, weights, along, retain_graph=True) for along in (u, v))
    one, other = (a @ torch.cat([part.flatten() for part in b]) for a, b in ((u, hv), (v, hu)))
    assert abs(one - other) < ROUND_OFF * len(gradient)
    assert abs(one) > 1e-3  # the product of two random vectors with a Hessian that is not 0


@pytest.mark.slow
def test_training_lowers_both_losses():
    """Assert that thirty steps of AdamW take a quarter off the loss, on what is trained on and on what is held out."""
    task = tiny(width=16, layers=1, length=16, windows=50, batch_size=16)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.01)
    before = task.full_loss(task.model).item(), held_out_loss(task)
    for step in range(30):
        optimizer.zero_grad()
        task.loss(step).backward()
        optimizer.step()
    assert task.full_loss(task.model).item() < before[0] * 3 / 4
    assert held_out_loss(task) < before[1] * 3 / 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 3}, "heads = 3 is not allowed: it must divide width = 8; give one of 1, 2, 4, 8"),
        ({"heads": 0}, "heads = 0 is not allowed: it must be a whole number ≥ 1"),
        ({"width": 0}, "width = 0 is not allowed"),
        ({"layers": 1.5}, "layers = 1.5 is not allowed"),
        ({"length": 0}, f"length = 0 is not allowed: it must be a whole number from 1 to {len(TEXT) - TRAINING - 1}"),
        ({"length": len(TEXT)}, f"length = {len(TEXT)} is not allowed"),
        ({"windows": 10**6}, f"windows = 1000000 .* a whole number from 1 to {(TRAINING - 1) // 6}"),
        ({"batch_size": 0}, "batch_size = 0 is not allowed"),
        ({"seed": -1}, "seed = -1 is not allowed"),
        ({"dtype": torch.int64}, "dtype = torch.int64 is not allowed"),
        ({"device": "abacus"}, "device = 'abacus' .* cannot be used"),
    ],
)
def test_errors_are_clear(wrong, message):
    """Assert that what cannot be used is refused with its value and what is allowed."""
    with pytest.raises(InputError, match=message):
        tiny(**wrong)
