"""Products of two activations through the whole path: the plan is the best of all, and folders know them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from attention import N_CHANNELS, attention, tokens
from torch import Tensor, nn

from hwsmpq.cli.tree import network_tree
from hwsmpq.hardware.onnx_qdq import OnnxQdqTarget
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.costs import counted_costs
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.evaluate.contribute import contribute
from hwsmpq.pipeline.prepare.calibrate import calibrate
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run
from hwsmpq.types import WITH_WEIGHTS, Settings

LADDER = ("w4a4", "int8", "fp32")
SETTINGS = Settings(
    task="attention", target="onnx-qdq", ladder=LADDER, value="mse", n_pairs=2, n_score_samples=16, additive=True
)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend, self.head = attention(), nn.Linear(N_CHANNELS, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attend(x).mean(1))


def task() -> Task:
    torch.manual_seed(0)
    net, x = Classifier().eval(), tokens(64)
    with torch.no_grad():
        labels = net(x).argmax(1)
    return Task(net, tokens(16), (x, labels), name="attention")


def test_the_plan_is_the_best_of_all_assignments(tmp_path: Path) -> None:
    """Under the same contributions, with BitOps counted by hand: products run w4a4 in int8."""
    run = Run(tmp_path / "run", SETTINGS, task())
    budgets = resolve_budgets(run, bitops="int8")
    budgets = (replace(budgets[0], limit=0.8 * budgets[0].limit),)
    plan, phi, network = search(run, budgets), contribute(run).phi, prepare(run).network
    products = {f"attend.{name}" for name in ("product", "product#2")}
    assert products == set(network.products)
    n_bits = {"w4a4": (4, 4), "int8": (8, 8), "fp32": (32, 32)}
    found = []
    for names in product(LADDER, repeat=len(network.groups)):
        assignment = dict(zip(network.group_names, names, strict=True))
        if any(assignment[name] == "w4a4" for name in products):
            continue
        bitops = sum(
            layer.n_macs * n_bits[assignment[layer.name]][0] * n_bits[assignment[layer.name]][1]
            for layer in network.layers
        )
        assert bitops == counted_costs(network, assignment)[0]
        if bitops <= budgets[0].limit:
            found.append((sum(phi[group][name] for group, name in assignment.items()), assignment))
    assert plan.assignment == max(found, key=lambda one: one[0])[1]
    assert set(network.uniform("w4a4").values()) == {"w4a4", "int8"}


def test_a_folder_of_a_version_without_products_is_calibrated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as earlier:
        earlier.setattr(OnnxQdqTarget, "kinds", WITH_WEIGHTS)
        before = calibrate(Run(folder, SETTINGS, task()))
    assert before.operands == {}
    after = Run(folder, SETTINGS, task())
    ranges = calibrate(after)
    assert ranges.model_sha256 == before.model_sha256, "it is the same model"
    assert ranges.operands.keys() == set(after.network.products) and len(ranges.operands) == 2
    assert ranges.layers["attend.qkv"] == before.layers["attend.qkv"]


def test_excluded_products_stay_in_full_precision(tmp_path: Path) -> None:
    network = Run(tmp_path, replace(SETTINGS, exclude=("type:product",)), task()).network
    assert {network.uniform("int8")[name] for name in network.products} == {"fp32"}


def test_how_a_product_is_shown(tmp_path: Path) -> None:
    from io import StringIO

    from rich.console import Console

    console = Console(file=StringIO(), width=150)
    network = Run(tmp_path, SETTINGS, task()).network
    console.print(network_tree(network, "net"))
    share = f"{576 / sum(layer.n_macs for layer in network.layers):.1%} of MACs"
    lines = [line for line in console.file.getvalue().splitlines() if "product" in line]  # type: ignore[attr-defined]
    assert [line.lstrip("│├└─ ") for line in lines] == [
        f"product  {share}  product, 2x6x8 by 2x8x6 to 2x6x6, 576 MACs",
        f"product#2  {share}  product, 2x6x6 by 2x6x8 to 2x6x8, 576 MACs",
    ]
