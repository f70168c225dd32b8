"""How far results may differ that only rounding, or another kernel of the same network, sets apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


def answers_agree(expected: Tensor, found: Tensor) -> bool:
    """Whether both logits (n, n_classes) give the same classes, wherever the first is ahead of the second by more than
    the largest difference can turn; that must be most samples."""
    first, second = expected.topk(2, dim=1).values.T
    sure = first - second > 2 * (expected - found).abs().max()
    return bool(sure.float().mean() > 0.5) and torch.equal(expected[sure].argmax(1), found[sure].argmax(1))


def within_answers(accuracy: float, n_samples: int, n_answers: int = 1) -> object:
    """The accuracy, give or take the answers that may lie on the boundary between two classes."""
    return pytest.approx(accuracy, abs=(n_answers + 0.01) / n_samples)
