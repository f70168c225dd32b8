"""Learned rounding of weights (AdaRound; Nagel, Amjad, van Baalen, Louizos and Blankevoort 2020, arXiv 2004.10568), and
activations that are quantized at random (QDrop; Wei, Gong, Li, Liu and Yu 2022, arXiv 2203.05740).

Both stand in for a :class:`~hwsmpq.train.lsq.Quantizer` of a network while a block of it learns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hwsmpq.train.lsq import Quantizer

STRETCH = (-0.1, 1.1)
"""The range of the sigmoid before it is cut to 0 .. 1, so that it reaches both ends (equation 23)."""


class LearnedRounding(nn.Module):
    """A weight whose entries learn to be rounded down or up; its steps stay.

    Args:
        weight: in full precision, any shape.
        quantizer: that rounds it to nearest.
    """

    def __init__(self, weight: Tensor, quantizer: Quantizer) -> None:
        super().__init__()
        self._step, self._bounds = quantizer.steps.detach()[0], quantizer.bounds[0]
        levels = weight.detach() / self._step
        self._floor = levels.floor()
        low, high = STRETCH
        # Soft at first: what comes out is the weight itself.
        fraction = (levels - self._floor).clamp(1e-3, 1 - 1e-3)
        self.logits = nn.Parameter(((fraction - low) / (high - fraction)).log())

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """The weight, between its neighbours on the grid."""
        return self._on_grid(self._share_up())

    def penalty(self, beta: float) -> Tensor:
        """The sum over entries of what keeps them from lying between two levels: 1 - |2 h - 1|^beta (equation 24)."""
        return (1 - (2 * self._share_up() - 1).abs().pow(beta)).sum()

    @torch.no_grad()
    def rounded(self) -> Tensor:
        """The weight on the grid."""
        return self._on_grid((self.logits >= 0).to(self.logits.dtype))

    def _share_up(self) -> Tensor:
        low, high = STRETCH
        return (torch.sigmoid(self.logits) * (high - low) + low).clamp(0, 1)

    def _on_grid(self, up: Tensor) -> Tensor:
        return (self._floor + up).clamp(*self._bounds) * self._step


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
