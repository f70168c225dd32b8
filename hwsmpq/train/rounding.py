"""Learned rounding of weights, and activations that are quantized at random while it is learned.

Every weight gets an offset of at most half a level before it is rounded to nearest, so that it can be rounded the other
way (as in AdaRound, Nagel et al. 2020, arXiv 2004.10568). Offsets follow the sign of their gradients with a rate that
falls to 0 (Cheng et al. 2023, arXiv 2309.05516), which comes further in hundreds of iterations than AdaRound's soft
rounding with a penalty, made for tens of thousands (docs/benchmarks.md). Activations are dropped to full precision at
random as in QDrop (Wei, Gong, Li, Liu and Yu 2022, arXiv 2203.05740).

Both stand in for a :class:`~hwsmpq.train.lsq.Quantizer` of a network while a block of it learns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwsmpq.train.lsq import Quantizer, straight_through

MOST_OFFSET = 0.5
"""Of a level: neighbours on the grid are what a weight can become."""


class LearnedRounding(nn.Module):
    """A weight whose entries learn to be rounded down or up; its steps stay.

    Args:
        weight: in full precision, any shape.
        quantizer: that rounds it to nearest.
    """

    def __init__(self, weight: Tensor, quantizer: Quantizer) -> None:
        super().__init__()
        self._step, self._bounds = quantizer.steps.detach()[0], quantizer.bounds[0]
        self._levels = weight.detach() / self._step
        self.offset = nn.Parameter(torch.zeros_like(self._levels))

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """The weight on the grid, with the gradient of the offset passed straight through."""
        levels = self._levels + self.offset
        return straight_through(levels, levels.detach().round()).clamp(*self._bounds) * self._step

    @torch.no_grad()
    def descend(self, rate: float) -> None:
        """Move offsets by ``rate`` against the sign of their gradient, which is then forgotten."""
        assert self.offset.grad is not None
        self.offset.sub_(self.offset.grad.sign_(), alpha=rate).clamp_(-MOST_OFFSET, MOST_OFFSET)
        self.offset.grad = None

    @torch.no_grad()
    def rounded(self) -> Tensor:
        """The weight on the grid."""
        return (self._levels + self.offset).round().clamp(*self._bounds) * self._step


class RandomlyDropped(nn.Module):
    """A quantizer of activations that leaves every entry as it is with some probability.

    Args:
        probability: 0 quantizes everything.
    """

    def __init__(self, quantizer: Quantizer, probability: float) -> None:
        super().__init__()
        self.quantizer, self._probability = quantizer, probability

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        return mixed(self.quantizer(x, shares), x, self._probability)


def mixed(x: Tensor, other: Tensor, probability: float) -> Tensor:
    """``x`` with every entry replaced by that of ``other`` with some probability."""
    return torch.where(torch.rand_like(x) < probability, other, x) if probability else x
