"""Activations that are quantized at random: what is quantized is as the quantizer has it, gradients too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hwsmpq.train import rounding
from hwsmpq.train.lsq import Quantizer
from hwsmpq.train.rounding import RandomlyDropped, drawn

ONE = torch.ones(1)


def image_batch() -> Tensor:
    x = torch.randn(5, 8, 6, 6, generator=torch.Generator().manual_seed(1))
    return x.to(memory_format=torch.channels_last).requires_grad_()


def gradients(y: Tensor, x: Tensor, quantizer: Quantizer) -> tuple[Tensor, Tensor]:
    towards = torch.randn(y.shape, generator=torch.Generator().manual_seed(2))
    to_x, to_steps = torch.autograd.grad(y, (x, quantizer.steps), towards)
    return to_x, to_steps


@pytest.mark.parametrize("n_in_a_slice", [1, 600, 10**6])
@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_entries_are_quantized_or_left(probability: float, n_in_a_slice: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "SLICE", n_in_a_slice)
    quantizer, x = Quantizer([torch.tensor(0.3)], [(-4, 3)], 288), image_batch()
    torch.manual_seed(3)
    y = RandomlyDropped(quantizer, probability)(x, ONE)
    torch.manual_seed(3)
    chosen = drawn(x, 1 - probability)
    expected = torch.where(chosen, quantizer(x, ONE), x)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-7)
    for one, other in zip(gradients(y, x, quantizer), gradients(expected, x, quantizer), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(7, 3, 5, 5), (11,), (4, 9)])
def test_as_many_are_drawn_as_asked(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    x = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
    assert drawn(x, 0.5).shape == x.shape and drawn(x, 0.5).stride() == x.stride()
    torch.manual_seed(4)
    n, p = 40_000, 0.25
    assert abs(float(drawn(torch.empty(n), p).float().mean()) - p) < 6 * (p * (1 - p) / n) ** 0.5
