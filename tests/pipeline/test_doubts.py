"""What is said of a task before anything is searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Budget, Plan, Settings


def error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets).abs().mean(1)


def network(n_outputs: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, n_outputs)).eval()


def searched(folder: Path, task: Task) -> tuple[Plan, list[str]]:
    said: list[str] = []
    run = Run(folder, Settings(target="onnx-qdq", ladder=("w2a2", "int8", "fp32")), task, notify=said.append)
    return search(run, [Budget("max_drop", 0)]), said


def regression(higher_is_better: bool) -> Task:
    net = network(5)
    x = torch.randn(160, 16, generator=torch.Generator().manual_seed(1))
    y = net(x).detach()
    return Task(net, x[:40], (x[40:], y[40:]), metric=error, loss=error, higher_is_better=higher_is_better)


def test_an_error_that_is_stated_as_one_is_not_traded_for_a_larger_one(tmp_path: Path) -> None:
    plan, said = searched(tmp_path, regression(higher_is_better=False))
    assert set(plan.assignment.values()) == {"fp32"} and plan.predicted_drop_points == 0
    assert not any("higher_is_better" in one or "chance" in one for one in said)


def test_an_error_that_is_taken_for_a_score_is_told_by_the_loss(tmp_path: Path) -> None:
    _, said = searched(tmp_path, regression(higher_is_better=True))
    assert any("Task(higher_is_better=False)" in one for one in said)


def test_the_check_costs_two_evaluations_that_the_search_needs_as_well(tmp_path: Path, monkeypatch: Any) -> None:
    rows: list[int] = []
    scores = Simulator.scores

    def counted(self: Simulator, assignments: Any, inputs: Any, *how: Any) -> torch.Tensor:
        rows.append(len(assignments) * len(inputs[0]))
        return scores(self, assignments, inputs, *how)

    net = network(10)
    x = torch.randn(400, 16, generator=torch.Generator().manual_seed(1))
    task = Task(net, x[:40], (x[40:], net(x[40:]).argmax(1)))
    said: list[str] = []
    run = Run(tmp_path, Settings(target="onnx-qdq", ladder=("w6a6", "int8", "fp32")), task, notify=said.append)
    prepare(run)
    monkeypatch.setattr(Simulator, "scores", counted)
    plan = search(run, [Budget("max_drop", 50)])
    assert plan.assignment == prepare(run).network.uniform("w6a6") and any("no contributions" in one for one in said)
    assert sum(rows) == 2 * len(run.parts[0])


def test_a_network_near_chance_is_told_with_the_commonest_causes(tmp_path: Path) -> None:
    net = network(10)
    x = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    right = net(x).argmax(1)
    wrong_order = Task(net, x[:40], (x[40:], (right[40:] + 1) % 10))
    said = searched(tmp_path / "wrong", wrong_order)[1]
    assert any("hardly better than chance" in one and "class order" in one for one in said)
    assert not any("chance" in one for one in searched(tmp_path / "right", Task(net, x[:40], (x[40:], right[40:])))[1])


def test_few_samples_tell_nothing_of_a_metric_without_a_scale(tmp_path: Path) -> None:
    net = network(1)
    x = torch.randn(60, 16, generator=torch.Generator().manual_seed(1))
    y = net(x).detach() + 0.1 * torch.randn(60, 1, generator=torch.Generator().manual_seed(2))
    task = Task(net, x[:40], (x[40:], y[40:]), metric="spearman", loss=error)
    assert not any("chance" in one for one in searched(tmp_path, task)[1])
