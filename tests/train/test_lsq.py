"""Learned steps, against autograd through the same formula written with detached rounding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hwsmpq.train.lsq import FLOOR, Quantizer, straight_through


def surrogate(x: Tensor, step: Tensor, low: int, high: int, gradient_scale: float) -> Tensor:
    """LSQ as its paper's appendix writes it: gradients of step scaled, rounding passed straight through."""
    step = step.detach() + (step - step.detach()) * gradient_scale
    v = (x / step).clamp(low, high)
    return (v + (v.round() - v).detach()) * step


@pytest.mark.parametrize("shape", [(), (4, 1, 1)])
@pytest.mark.parametrize("shares", [(1.0,), (0.3, 0.7), (0.0, 0.4, 0.6)])
def test_values_and_gradients(shape: tuple[int, ...], shares: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    bounds = [(-1, 1), (-7, 7), (0, 15)][: len(shares)]
    steps = [torch.rand(shape, generator=generator) * 0.3 + 0.1 for _ in shares]
    quantizer = Quantizer(steps, bounds, n_entries=30)
    x = torch.randn(4, 5, 6, generator=generator, requires_grad=True)
    share = torch.tensor(shares, requires_grad=True)
    weight = torch.randn(4, 5, 6, generator=generator)
    y = quantizer(x, share)
    (y * weight).sum().backward()

    other_x, other_share = (t.detach().clone().requires_grad_(True) for t in (x, share))
    other_steps = [s.clone().requires_grad_(True) for s in steps]
    parts = [
        surrogate(other_x, s, *b, 1 / math.sqrt(30 * b[1])) for s, b in zip(other_steps, bounds, strict=True)
    ]
    expected = sum(p * part for p, part in zip(other_share, parts, strict=True))
    (expected * weight).sum().backward()
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(x.grad, other_x.grad)
    torch.testing.assert_close(quantizer.steps.grad, torch.stack([s.grad for s in other_steps]))
    kept = share.detach() > 0
    torch.testing.assert_close(share.grad[kept], other_share.grad[kept])


def test_a_step_cannot_vanish() -> None:
    quantizer = Quantizer([torch.tensor([[0.5], [2.0]])], [(-7, 7)], 1)
    with torch.no_grad():
        quantizer.steps.copy_(torch.tensor([[[-1.0], [3.0]]]))
    quantizer.constrain()
    assert quantizer.steps.flatten().tolist() == pytest.approx([0.5 * FLOOR, 3.0])


def test_straight_through() -> None:
    x = torch.randn(5, requires_grad=True)
    y = straight_through(x, x.detach().round())
    y.backward(torch.arange(5.0))
    assert torch.equal(y, x.detach().round()) and torch.equal(x.grad, torch.arange(5.0))


def test_levels_that_are_never_positive_train() -> None:
    """An input that is never positive has its zero point at the last level, and LSQ's scale divides by that level."""
    quantizer = Quantizer([torch.tensor(0.1)], [(-15, 0)], n_entries=30)
    x = -torch.rand(8, 30, generator=torch.Generator().manual_seed(0))
    quantizer(x, torch.ones(1)).sum().backward()
    assert quantizer.steps.grad is not None and bool(torch.isfinite(quantizer.steps.grad).all())
    mirrored = Quantizer([torch.tensor(0.1)], [(0, 15)], n_entries=30)
    mirrored(-x, torch.ones(1)).sum().backward()
    torch.testing.assert_close(mirrored.steps.grad, -quantizer.steps.grad)
