"""Learned step size quantization (LSQ; Esser, McKinstry, Bablani, Appuswamy and Modha 2020, arXiv 1902.08153)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

FLOOR = 0.1
"""Of its first value: the least that a step may become, so that nothing is divided by zero."""


class Quantizer(nn.Module):
    """A tensor quantized with learned steps, at one bit-width or as a weighted sum over several.

    Args:
        steps: first steps, one tensor a bit-width: a scalar, or one value a channel in a shape that broadcasts.
        bounds: the least and largest integer of each bit-width.
        n_entries: of the tensor that share a step (of one sample, for activations).
    """

    def __init__(self, steps: list[Tensor], bounds: list[tuple[int, int]], n_entries: int) -> None:
        super().__init__()
        self.steps = nn.Parameter(torch.stack(steps).float())
        self.register_buffer("floor", FLOOR * self.steps.detach().clone())
        self.floor: Tensor
        self.bounds = tuple(bounds)
        # Where nothing is positive, the levels lie below zero.
        self.gradient_scales = tuple(1 / math.sqrt(n_entries * (high or -low)) for low, high in bounds)

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        """sum_i shares[i] * clamp(round(x / step_i)) * step_i, in the shape of ``x``.

        Args:
            shares: (n_bit_widths,); a bit-width whose share is 0 is left out.
        """
        result: Tensor = _Quantize.apply(x, self.steps, shares, self.bounds, self.gradient_scales)
        return result

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep the steps positive; to be called after every update."""
        torch.maximum(self.steps, self.floor, out=self.steps.data)


class _Quantize(torch.autograd.Function):
    """The rounding passes gradients straight through between the bounds, and to the step as LSQ has it:

    d/dstep = round(v) - v for v = x / step between the bounds, the nearer bound elsewhere; times a scale,
    1 / sqrt(n_entries * high), or of -low where high is 0.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, steps: Tensor, shares: Tensor, bounds: tuple[tuple[int, int], ...],
        gradient_scales: tuple[float, ...],
    ) -> Tensor:
        ctx.save_for_backward(x, steps, shares)
        ctx.bounds, ctx.gradient_scales = bounds, gradient_scales
        total: Tensor | None = None
        for step, share, (low, high), factor in zip(steps, shares, bounds, shares.tolist(), strict=True):
            if factor == 0:
                continue
            part = torch.div(x, step).round_().clamp_(low, high).mul_(step * share)
            total = part if total is None else total.add_(part)
        return torch.zeros_like(x) if total is None else total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, steps, shares) = gradients, ctx.saved_tensors
        to_x = torch.zeros_like(gradient)
        to_steps, to_shares = torch.zeros_like(steps), torch.zeros_like(shares)
        rows = zip(ctx.bounds, ctx.gradient_scales, shares.tolist(), strict=True)
        for i, ((low, high), scale, share) in enumerate(rows):
            if share == 0:
                continue
            v = x / steps[i]
            q = v.round().clamp_(low, high)
            if ctx.needs_input_grad[2]:
                to_shares[i] = (gradient * q).mul_(steps[i]).sum()
            inside = torch.logical_and(v >= low, v <= high).to(v.dtype)
            to_x.addcmul_(gradient, inside, value=share)
            to_steps[i] = (q.sub_(v.mul_(inside)).mul_(gradient)).sum_to_size(steps[i].shape) * (scale * share)
        return to_x, to_steps, to_shares, None, None


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor) -> Tensor:
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0], None


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """``quantized``, with the gradient of ``x``."""
    result: Tensor = _StraightThrough.apply(x, quantized)
    return result
