"""A SiLU network whose gradient is written out by hand in numpy: fast, and independent of any automatic derivative."""

import numpy as np


class HandNetwork:
    """8-16-16-1 on random data, half the mean squared error. ``start`` is after a stretch of slow gradient descent."""

    sizes = (8, 16, 16, 1)

    def __init__(self, seed: int = 0, samples: int = 50):
        generator = np.random.default_rng(seed)
        self.x = generator.standard_normal((samples, self.sizes[0]))
        self.y = generator.standard_normal((samples, self.sizes[-1]))
        parts = []
        for rows, columns in zip(self.sizes, self.sizes[1:], strict=False):
            parts += [generator.standard_normal(rows * columns) / np.sqrt(rows), np.zeros(columns)]
        self.first = np.concatenate(parts)

    def start(self, steps: int, lr: float = 0.02) -> np.ndarray:
        theta = self.first.copy()
        for _ in range(steps):
            theta -= lr * self.gradient(theta)
        return theta

    def loss(self, theta) -> float:
        _, values, _ = self._forward(theta)
        return 0.5 * float(np.mean((values[-1] - self.y) ** 2))

    def gradient(self, theta) -> np.ndarray:
        layers, values, slopes = self._forward(theta)
        error, parts = (values[-1] - self.y) / len(self.x), []
        for i in reversed(range(len(layers))):
            parts += [error.sum(0), (values[i].T @ error).ravel()]
            if i:
                error = (error @ layers[i][0].T) * slopes[i - 1]
        return np.concatenate(parts[::-1])

    def _forward(self, theta):
        layers, at = [], 0
        for rows, columns in zip(self.sizes, self.sizes[1:], strict=False):
            end = at + rows * columns
            layers.append((theta[at:end].reshape(rows, columns), theta[end : end + columns]))
            at = end + columns
        values, slopes = [self.x], []
        for i, (weights, bias) in enumerate(layers):
            z = values[-1] @ weights + bias
            if i < len(layers) - 1:
                sigmoid = 1 / (1 + np.exp(-z))
                slopes.append(sigmoid * (1 + z * (1 - sigmoid)))
                z = z * sigmoid
            values.append(z)
        return layers, values, slopes
