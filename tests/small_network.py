"""The small network that the probe is tried on."""

import torch


class Network(torch.nn.Module):
    """3-4-2 tanh, float64, with its data and loss."""

    def __init__(self, dtype=torch.float64, device="cpu"):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first, self.last = (torch.nn.Linear(*shape, dtype=dtype, device=device) for shape in ((3, 4), (4, 2)))
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype).to(device)
        self.x, self.y = (torch.randn(8, n, generator=generator, dtype=dtype).to(device) for n in (3, 2))

    def loss(self, k=0):
        return (self.last(torch.tanh(self.first(self.x))) - self.y).square().mean()

    def groups(self, **last):
        """Two parameter groups: the first layer, and the last with arguments of its own."""
        return [{"params": self.first.parameters()}, {"params": self.last.parameters(), **last}]

    def train(self, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            self.loss().backward()
            optimizer.step()
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters()])
