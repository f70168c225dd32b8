"""Budgets given as precisions, on a target that does not run what is asked of every layer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.costs import counted_costs
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Plan, Settings

pytest.importorskip("onnxruntime")


class Separable(nn.Module):
    """Images (n, 4, 8, 8) to logits (n, 4). ONNX Runtime has no int8 depthwise convolution before a hard swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth, self.head = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.hardswish(self.depth(self.stem(x))).mean((2, 3)))


@pytest.mark.parametrize("kind", ["bitops", "size_mb"])
def test_a_precision_as_a_limit_is_that_of_its_engine(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    model, x = Separable().eval(), torch.randn(64, 4, 8, 8)
    settings = Settings(target="onnxruntime-cpu", cost="bitops", n_pairs=2, n_score_samples=8, n_candidates=1)
    run = Run(tmp_path, settings, Task(model, x[:16], (x, model(x).argmax(1))))
    budgets = resolve_budgets(run, **{kind: "int8"})
    plan = search(run, budgets)
    assert set(plan.assignment.values()) == {"int8", "fp32"} and run.read(Plan).budgets == budgets
    counted = dict(zip(("bitops", "size_mb"), counted_costs(run.network, plan.assignment), strict=True))
    assert counted[kind] == pytest.approx(budgets[0].limit)
