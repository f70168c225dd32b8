"""Refusals say what happened and the line to change, each its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.linear(x) * mask


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else self.linear(-x)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4))


def pooled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(8))


X = torch.randn(2, 4)
IMAGE = torch.randn(2, 3, 4, 4)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...], tuple[str, ...], str, str]] = {
    # network, inputs, their names, what or why, the line to change
    "float64": (linear, (X.double(),), (), "its inputs are float64, its weights float32", "x = x.float()"),
    "16 bits": (linear, (X.half(),), (), "its inputs are float16", "x = x.float()"),
    "integers": (linear, (X.long(),), (), "called with (2, 4) int64", "x.float() and indices as x.long()"),
    "no indices": (lambda: nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)), (X,), (), "float32", "as x.long()"),
    "small for a kernel": (lambda: nn.Conv2d(3, 4, 9), (IMAGE,), (), "too small: it was called with (2, 3, 4, 4)",
                           "give samples as large as"),
    "small for a pool": (pooled, (IMAGE,), (), "too small", "give samples as large as"),
    "missing": (Masked, (X,), (), "does not take these inputs: missing a required argument: 'mask'",
                "forward(x, mask)"),
    "missing by name": (Masked, (X,), ("x",), "missing a required argument: 'mask'", "forward(x, mask)"),
    "another name": (Masked, (X, X), ("x", "masks"), "missing a required argument: 'mask'", "forward(x, mask)"),
    "too many": (linear, (X, X), (), "too many positional arguments", "forward(input)"),
    "scripted": (lambda: torch.jit.script(linear()), (X,), (), "the model is a ScriptModule", "give the nn.Module"),
    "traced": (lambda: torch.jit.trace(linear(), X), (X,), (), "the model is a ScriptModule", "give the nn.Module"),
    "holds a scripted one": (lambda: nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(4, 4))), (X,), (),
                             "holds a ScriptModule (1)", "give the nn.Module"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_what_happened_and_the_line_to_change(case: str) -> None:
    network, inputs, names, cause, fix = CASES[case]
    with pytest.raises(HwsmpqError) as refused:
        capture(network(), inputs, names)
    error = refused.value
    assert cause in f"{error.what} {error.why}" and fix in error.fix
    assert "control flow" not in str(error) and "depends on values" not in str(error)


def test_a_branch_on_values_is_called_one() -> None:
    with pytest.raises(HwsmpqError, match=r"Branches cannot be exported") as refused:
        capture(Branches(), (X,))
    assert "test_refusals.py" in refused.value.why and "depends on values of tensors" in refused.value.fix
