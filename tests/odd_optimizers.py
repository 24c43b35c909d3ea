"""Small optimizers that nobody would train with, each odd in one way. They are audited in tests."""

import os
import time

import torch
from torch.optim import Optimizer


class Odd(Optimizer):
    """Gradient descent, θ ← θ − η·pull(θ, g); ``decayed`` says what the weight decay does to θ first."""

    def __init__(self, params, lr=0.01, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def decayed(self, theta, gradient, lr, decay):
        return theta

    def pull(self, theta, gradient):
        return gradient

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                theta = self.decayed(p, p.grad, group["lr"], group["weight_decay"])
                p.copy_(theta - group["lr"] * self.pull(p, p.grad))


class NormScaled(Odd):
    """Steps in proportion to ‖θ‖, as Adafactor's; its weight_decay does nothing."""

    def pull(self, theta, gradient):
        return gradient.sign() * theta.square().mean().sqrt()


class SignDecay(Odd):
    """Subtracts ηλ·sign(θ), as an L1 penalty does."""

    def decayed(self, theta, gradient, lr, decay):
        return theta - lr * decay * theta.sign()


class CautiousDecay(Odd):
    """Decays only the weights that the gradient draws towards 0 anyway."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - lr * decay * (theta * gradient > 0))


class FixedDecay(Odd):
    """R = λ/50, whatever η is."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - 0.02 * decay)


class HalfDecay(Odd):
    """R = ηλ/2."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - lr * decay / 2)


class MatrixDecay(Odd):
    """Decoupled decay of matrices alone."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - lr * decay * (theta.ndim > 1))


class Noisy(Odd):
    """Decoupled decay, with random numbers in every step."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - lr * decay)

    def pull(self, theta, gradient):
        return gradient + torch.randn_like(gradient)


class SGDW(Odd):
    """Decoupled decay, with momentum .9."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - lr * decay)

    def pull(self, theta, gradient):
        memory = self.state[theta].setdefault("memory", torch.zeros_like(theta))
        return memory.mul_(0.9).add_(gradient)


class DecaysByDefaults(SGDW):
    """SGDW whose decay reads η from ``defaults``, which a scheduler does not change."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - self.defaults["lr"] * decay)


class Runaway(Odd):
    """Diverges at once."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * 1e3


class InnerOptimizers(Optimizer):
    """An SGDW for each tensor, made with its own λ; a later change of the groups' η is handed on, and of λ is not."""

    def __init__(self, params, **settings):
        super().__init__(params, settings)
        self.each = [SGDW([p], **settings) for group in self.param_groups for p in group["params"]]

    def step(self):
        for inner in self.each:
            inner.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            inner.step()


class Undecayed(Optimizer):
    """Steps in proportion to ‖θ‖, and has no weight_decay to set to 0."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad.sign() * p.square().mean().sqrt())


class Zyx(Optimizer):
    """Adam with L2, written again under names that say nothing."""

    def __init__(self, params, lr=0.01, weight_decay=0.1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                kept = self.state.setdefault(p, {"a": torch.zeros_like(p), "b": torch.zeros_like(p), "c": 0})
                total = p.grad + group["weight_decay"] * p
                kept["c"] += 1
                kept["a"] = 0.9 * kept["a"] + 0.1 * total
                kept["b"] = 0.999 * kept["b"] + 0.001 * total**2
                a, b = kept["a"] / (1 - 0.9 ** kept["c"]), kept["b"] / (1 - 0.999 ** kept["c"])
                p.sub_(group["lr"] * a / (b.sqrt() + 1e-8))


class LooksAhead(Odd):
    """Decoupled decay; every sixth step returns half of the way of the last six steps."""

    @torch.no_grad()
    def step(self):
        super().step()
        for group in self.param_groups:
            for p in group["params"]:
                kept = self.state[p]
                kept["step"] = kept.get("step", 0) + 1
                kept.setdefault("slow", p.clone())
                if kept["step"] % 6 == 0:
                    kept["slow"] = (kept["slow"] + p) / 2
                    p.copy_(kept["slow"])

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - lr * decay)


class Coarse(Odd):
    """Decoupled decay, with a momentum of .9 that is kept in bfloat16."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - lr * decay)

    def pull(self, theta, gradient):
        memory = self.state[theta].setdefault("memory", torch.zeros_like(theta, dtype=torch.bfloat16))
        return memory.mul_(0.9).add_(gradient.to(memory.dtype)).to(theta.dtype)


class LateDecay(Odd):
    """Decoupled decay from the second step on."""

    def decayed(self, theta, gradient, lr, decay):
        late = self.state[theta].setdefault("late", torch.zeros(()))
        factor = 1 - lr * decay * float(late)
        late.fill_(1.0)
        return theta * factor


class Normalized(Odd):
    """L2 decay; every step is divided by the norm of the gradients."""

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            norm = sum(p.grad.square().sum() for p in group["params"]).sqrt()
            for p in group["params"]:
                p.sub_(group["lr"] / norm * (p.grad + group["weight_decay"] * p))


class Still(Odd):
    """Moves no weight."""

    def step(self):
        pass


class Exits(Odd):
    """Ends the program at its third step."""

    count = 0

    def step(self):
        super().step()
        self.count += 1
        if self.count == 3:
            raise SystemExit(0)


class NoLr(Odd):
    """Has lr = None in its groups, as optimizers that find η themselves."""

    def __init__(self, params):
        super().__init__(params)
        self.param_groups[0]["lr"] = None


class Hangs(Odd):
    """Never comes back."""

    def step(self):
        time.sleep(1000)


class Crashes(Odd):
    """Ends its process at once."""

    def step(self):
        os._exit(1)


class NeedsMore(Optimizer):
    """Cannot be made with parameters alone."""

    def __init__(self, params, horizon):
        super().__init__(params, {"horizon": horizon})


class RelativeDecay(Odd):
    """Decoupled decay that depends on how η changes, not on how large it is: R = λ·η/η₀."""

    def __init__(self, params, lr=0.01, weight_decay=0.001):
        super().__init__(params, lr, weight_decay)
        self.first = lr

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - decay * lr / self.first)


class SkipsVectors(torch.optim.AdamW):
    """AdamW that never moves a vector."""

    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = p.grad if p.ndim > 1 else None
        super().step()


class Unmoved(Odd):
    """R = .955·ηλ; v begins at 1 and barely moves, and its η_eff is .955 η for all weights together."""

    def decayed(self, theta, gradient, lr, decay):
        return theta * (1 - 0.955 * lr * decay)

    def pull(self, theta, gradient):
        start = torch.linspace(0.5, 1.5, theta.numel(), dtype=theta.dtype).reshape(theta.shape).square()
        v = self.state[theta].setdefault("v", start)
        return gradient / v.lerp_(gradient.square(), 1e-7).sqrt()


class Estimating(Odd):
    """Decoupled decay, R = ηλd, with a step size d that grows with the distance from the start, as Prodigy's."""

    def __init__(self, params, lr=1.0, weight_decay=0.1):
        super().__init__(params, lr, weight_decay)
        self.param_groups[0]["d"] = 1e-3
        self.starts = [p.detach().clone() for p in self.param_groups[0]["params"]]

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        d = group["d"]
        for p, start in zip(group["params"], self.starts, strict=True):
            group["d"] += 1e-5 * float((p - start).norm())
            p.mul_(1 - group["lr"] * group["weight_decay"] * d).sub_(group["lr"] * d * p.grad)


def in_float32(kind):
    """An optimizer class that takes its steps with copies of the weights in float32."""

    class Rounded(Optimizer):
        def __init__(self, params, lr=0.01, weight_decay=0.1, **arguments):
            super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
            self.copies = [torch.nn.Parameter(p.detach().float()) for p in self.param_groups[0]["params"]]
            self.inner = kind(self.copies, lr=lr, weight_decay=weight_decay, **arguments)

        @torch.no_grad()
        def step(self):
            (group,), (inner,) = self.param_groups, self.inner.param_groups
            inner["lr"], inner["weight_decay"] = group["lr"], group["weight_decay"]
            for p, copy in zip(group["params"], self.copies, strict=True):
                copy.copy_(p)
                copy.grad = p.grad.float()
            self.inner.step()
            for p, copy in zip(group["params"], self.copies, strict=True):
                p.copy_(copy)

    return Rounded


class _Adam(Odd):
    """Adam's step by hand, with β = (.9, .999): its direction u and √v̂ + ε of each tensor."""

    def direction(self, p):
        kept = self.state.setdefault(p, {"m": torch.zeros_like(p), "v": torch.zeros_like(p), "k": 0})
        kept["k"] += 1
        kept["m"].lerp_(p.grad, 0.1)
        kept["v"].lerp_(p.grad.square(), 0.001)
        scale = (kept["v"] / (1 - 0.999 ** kept["k"])).sqrt() + 1e-8
        return kept["m"] / (1 - 0.9 ** kept["k"]) / scale, scale

    def decay_rate(self, p, direction, scale, lr, decay):
        raise NotImplementedError

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            lr, decay = group["lr"], group["weight_decay"]
            for p in group["params"]:
                direction, scale = self.direction(p)
                p.sub_(self.decay_rate(p, direction, scale, lr, decay) * p + lr * direction)


class CorrectedAdam(_Adam):
    """R = λη²/η_max, with the η at the start as η_max, as AdamC."""

    def __init__(self, params, lr=0.01, weight_decay=0.1):
        super().__init__(params, lr, weight_decay)
        self.highest = lr

    def decay_rate(self, p, direction, scale, lr, decay):
        return decay * lr**2 / self.highest


class SquaredAdam(_Adam):
    """R = 50·λη², a corrected decay whose η_max is .02 whatever the first η is."""

    def decay_rate(self, p, direction, scale, lr, decay):
        return decay * lr**2 / 0.02


class BoldAdam(_Adam):
    """R = ηλ on weights with θ·u < 0: on those that cautious decay leaves as they are."""

    def decay_rate(self, p, direction, scale, lr, decay):
        return lr * decay * (p * direction < 0)


class PreconditionedAdam(_Adam):
    """R = ηλ/(√v̂ + ε) of each weight; λθ joins neither m nor v."""

    def decay_rate(self, p, direction, scale, lr, decay):
        return lr * decay / scale


class RootPreconditionedAdam(_Adam):
    """R = ηλ/√(√v̂ + ε) of each weight: it differs as η_eff does, but is not in proportion to η_eff."""

    def decay_rate(self, p, direction, scale, lr, decay):
        return lr * decay / scale.sqrt()
