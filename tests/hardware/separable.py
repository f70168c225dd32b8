"""A network of depthwise convolutions whose results are read in every way that matters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def depthwise(n: int) -> nn.Conv2d:
    return nn.Conv2d(n, n, 3, padding=1, groups=n)


class Separable(nn.Module):
    """Images (n, 3, 8, 8) to logits (n, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise, self.project = nn.Conv2d(3, 8, 3, padding=1), depthwise(8), nn.Conv2d(8, 8, 1)
        self.expand, self.pooled = nn.Conv2d(8, 16, 1), depthwise(16)
        self.left, self.right = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.swished, self.after = depthwise(8), nn.Conv2d(8, 8, 1)
        self.added = depthwise(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        x = self.project(functional.relu6(self.depthwise(x)))
        x = functional.relu(self.expand(x))
        x = functional.max_pool2d(functional.relu(self.pooled(x)), 2)
        x = self.left(x) + self.right(x)
        x = self.after(functional.hardswish(self.swished(x)))
        x = x + self.added(x)
        return self.head(x.mean((2, 3)))


def separable() -> Separable:
    """With random weights, and activations of about one everywhere."""
    torch.manual_seed(0)
    net = Separable().eval()
    with torch.no_grad():
        for module in net.children():
            module.weight.mul_(2)
    return net


def images(n: int) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
