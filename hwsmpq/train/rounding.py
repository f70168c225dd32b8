"""Learned rounding of weights, and activations that are quantized at random while it is learned.

Every weight gets an offset of at most half a level before it is rounded to nearest, so that it can be rounded the other
way (as in AdaRound, Nagel et al. 2020, arXiv 2004.10568). Offsets follow the sign of their gradients with a rate that
falls to 0 (Cheng et al. 2023, arXiv 2309.05516), which comes further in hundreds of iterations than AdaRound's soft
rounding with a penalty, made for tens of thousands (docs/benchmarks.md). Activations are dropped to full precision at
random as in QDrop (Wei, Gong, Li, Liu and Yu 2022, arXiv 2203.05740).

Both stand in for a :class:`~hwsmpq.train.lsq.Quantizer` of a network while a block of it learns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hwsmpq.train.lsq import Quantizer, straight_through

MOST_OFFSET = 0.5
"""Of a level: neighbours on the grid are what a weight can become."""
SLICE = 2**18
"""Entries of activations that are worked on together: what a processor's second cache holds."""


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
    """A quantizer of activations, of one bit-width, that leaves every entry as it is with some probability.

    Args:
        probability: between 0 and 1.
    """

    def __init__(self, quantizer: Quantizer, probability: float) -> None:
        super().__init__()
        self.quantizer, self._probability = quantizer, probability

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        of, quantized = self.quantizer, drawn(x, 1 - self._probability)
        result: Tensor = _Dropped.apply(x, of.steps, quantized, of.bounds[0], of.gradient_scales[0])
        return result


class _Dropped(torch.autograd.Function):
    """Entries quantized where ``quantized`` is true, with LSQ's gradients.

    A quantizer y = step * f(x / step) has step * dy/dstep = y - x * dy/dx, and so has one that drops: gradients need
    nothing but x and y. All passes over a slice of the samples find it in the processor's cache.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, steps: Tensor, quantized: Tensor, bounds: tuple[int, int], gradient_scale: float
    ) -> Tensor:
        y, step = torch.empty_like(x), steps[0]
        for part, chosen, out in _slices(x, quantized, y):
            torch.div(part, step, out=out).round_().clamp_(*bounds).mul_(step)
            torch.lerp(part, out, chosen.to(x.dtype), out=out)
        ctx.save_for_backward(x, steps, quantized, y)
        ctx.bounds, ctx.gradient_scale = bounds, gradient_scale
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, steps, quantized, y) = gradients, ctx.saved_tensors
        low, high = (float(bound * steps[0]) for bound in ctx.bounds)
        to_x, to_step = torch.empty_like(x), torch.zeros_like(steps)
        for part, chosen, out, to_out, to_part in _slices(x, quantized, y, gradient, to_x):
            slope = part.clamp(low, high).eq_(part).sub_(1).mul_(chosen).add_(1)
            torch.mul(to_out, slope, out=to_part)
            to_step += slope.mul_(part).sub_(out).mul_(to_out).sum()
        return to_x, to_step.mul_(-ctx.gradient_scale / steps), None, None, None


def _slices(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same few samples of each tensor, one after the other."""
    n = max(SLICE // max(tensors[0][0].numel(), 1), 1)
    return zip(*(x.split(n) for x in tensors), strict=True)


def mixed(x: Tensor, other: Tensor, probability: float) -> Tensor:
    """``x`` with every entry replaced by that of ``other`` with some probability."""
    return torch.lerp(x, other, drawn(x, probability).to(x.dtype))


def drawn(x: Tensor, probability: float) -> Tensor:
    """True with some probability (1/256 to 255/256, in such steps), in the shape of ``x`` and as it lies in memory.

    Of random bytes, since a random number an entry takes longer than a convolution.
    """
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    chosen = words.view(torch.uint8)[: x.numel()] < round(256 * probability)
    return chosen.as_strided(x.shape, torch.empty_like(x, device="meta").stride())
