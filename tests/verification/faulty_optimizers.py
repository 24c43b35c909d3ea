"""AdamW, AdamS and SGDS written out, each with one fault at a time that optimizers in the wild have had."""

import torch


class Adam(torch.optim.Optimizer):
    """Adam with decoupled or, with ``stable``, stable decay; correct without a fault."""

    def __init__(self, params, lr=1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, stable=False, fault=""):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.stable, self.fault, self.k = stable, fault, 0

    @torch.no_grad()
    def step(self, closure=None):
        """One step: all moments first, because v̄ is over all groups."""
        self.k += 2 if self.fault == "every step counted twice" else 1
        for group in self.param_groups:
            for p in group["params"]:
                self._remember(p, group, self.state[p])
        v_bar = self._v_bar()
        for group in self.param_groups:
            for p in group["params"]:
                self._move(p, group, self.state[p], v_bar)

    def _remember(self, p, group, state):
        beta1, beta2 = group["betas"][::-1] if self.fault == "betas swapped" else group["betas"]
        gradient = p.grad.clip(-1, 1) if self.fault == "gradient clipped" else p.grad
        if self.fault == "L2":
            gradient = gradient + group["weight_decay"] * p
        if not state:
            state["m"], state["v"] = torch.zeros_like(p), torch.zeros_like(p)
        if self.fault == "single precision":
            state["m"], state["v"] = state["m"].float().double(), state["v"].float().double()
        if self.fault == "state in single precision":
            gradient = gradient.float()
            state["m"], state["v"] = state["m"].float(), state["v"].float()
        state["m"] = beta1 * state["m"] + (1 - beta1) * gradient
        state["v"] = beta2 * state["v"] + (1 - beta2) * gradient**2
        state["c1"], state["c2"] = 1 - beta1 ** self._count(group), 1 - beta2 ** self._count(group)
        if self.fault == "betas swapped in corrections":
            state["c1"], state["c2"] = state["c2"], state["c1"]
        if self.fault in ("no correction of m", "no correction"):
            state["c1"] = 1
        if self.fault in ("no correction of v", "no correction"):
            state["c2"] = 1
        state["v_hat"] = state["v"] / state["c2"]
        if self.fault.startswith("v corrected in place"):
            state["v"] = state["v_hat"]

    def _count(self, group):
        if self.fault == "one count":  # which every tensor raises, in both places in which it is read
            self.reads = getattr(self, "reads", 0) + 1
            return (self.reads + 1) // 2
        if self.fault == "one count in a group":
            group["reads"] = group.get("reads", 0) + 1
            return (group["reads"] + 1) // 2
        return self.k

    def _v_bar(self):
        v_hats = [state["v_hat"] for state in self.state.values()]
        if self.fault == "v_bar a mean of means":
            return torch.stack([v_hat.mean() for v_hat in v_hats]).mean()
        return torch.cat([v_hat.reshape(-1) for v_hat in v_hats]).mean()

    def _rate(self, p, group, state, v_bar):
        if self.fault == "L2" or (self.fault == "no decay of vectors" and p.ndim < 2):
            return 0.0
        weight_decay = self.param_groups[0]["weight_decay"] if self.fault == "first group" else group["weight_decay"]
        if self.fault == "other sign":
            weight_decay = -weight_decay
        if self.fault == "weight decay off by a thousandth":
            weight_decay = weight_decay * 1.001
        rate = weight_decay if self.fault == "not times lr" else weight_decay * group["lr"]
        if self.fault == "first lr":
            rate = weight_decay * group.setdefault("first_lr", group["lr"])
        if self.fault.startswith("default lr"):
            rate = weight_decay * self.defaults["lr"]
        if self.fault == "one rate":
            rate = self.defaults["weight_decay"] * self.defaults["lr"]
        if not self.stable or self.fault == "decoupled":
            return rate
        if self.fault == "v_bar of each tensor":
            v_bar = state["v_hat"].mean()
        root = (v_bar + group["eps"] * (self.fault == "eps in v_bar")).sqrt()
        return rate / (root + group["eps"] * self.fault.endswith("eps on v_bar"))

    def _move(self, p, group, state, v_bar):
        rate, eps = self._rate(p, group, state, v_bar), group["eps"]
        if self.fault == "eps doubled":
            eps = 2 * eps
        root = (state["v_hat"] + eps).sqrt() if self.fault == "eps inside" else state["v_hat"].sqrt() + eps
        lr = self.defaults["lr"] if self.fault == "default lr in both" else group["lr"]
        if self.fault == "half of default lr":
            lr = (lr + self.defaults["lr"]) / 2
        step = lr * state["m"] / state["c1"] / root
        if self.fault == "decay after":
            p.sub_(step).mul_(1 - rate)
        else:
            p.mul_(1 - rate).sub_(step)


class SGDS(torch.optim.Optimizer):
    """SGD with stable decay, or decoupled decay without ``stable``; correct without a fault."""

    def __init__(self, params, lr=1e-2, momentum=0.9, dampening=0.0, weight_decay=0.1, stable=True, fault=""):
        super().__init__(params, {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay})
        self.stable, self.fault = stable, fault

    @torch.no_grad()
    def step(self, closure=None):
        """One step."""
        for group in self.param_groups:
            for p in group["params"]:
                rate = self._rate(group)
                step = self._step(p, group, self.state[p])
                if self.fault == "constant":
                    p.sub_(step).sub_(rate)
                elif self.fault == "decay after":
                    p.sub_(step).mul_(1 - rate)
                else:
                    p.mul_(1 - rate).sub_(step)

    def _rate(self, group):
        rate = group["weight_decay"] * (1.0 if self.fault == "not times lr" else group["lr"])
        if not self.stable or self.fault == "decoupled":
            return rate
        dampening = 0.0 if self.fault == "undampened decay" else group["dampening"]
        return rate * (1 - dampening) / (1 - group["momentum"])

    def _step(self, p, group, state):
        momentum, gain = group["momentum"], 1 - group["dampening"]
        gradient = p.grad * group["lr"] if self.fault == "lr in momentum" else p.grad
        if self.fault == "average":
            gain = 1 - momentum
        if "m" not in state:
            first = gain if self.fault in ("average", "first dampened") else 1.0
            state["m"] = gradient if self.fault == "gradient kept" else first * gradient
        elif self.fault == "gradient kept":  # not a copy: the next gradient is written into it
            state["m"].mul_(momentum).add_(gradient, alpha=gain)
        else:
            state["m"] = momentum * state["m"] + gain * gradient
        return state["m"] if self.fault == "lr in momentum" else group["lr"] * state["m"]
