"""The engine of any batch size beside the certified one: there where it computes the same, else the cause is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwsmpq.device.runtime import Engine
from hwsmpq.engine import dynamic
from hwsmpq.engine.build import Builder
from hwsmpq.engine.dynamic import BATCHES, DYNAMIC, with_dynamic_batch
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import LayerAudit, Manifest

N = 6


class Attention(nn.Module):
    """Takes sizes apart and together again, where an export may bake a batch in; with an additive bias, as BEiT's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.head = nn.Conv2d(1, 24, 2, 2), nn.Linear(24, 72), nn.Linear(24, 5)
        self.token, self.bias = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 4, 17, 17))

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 4, 6).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, self.bias).transpose(1, 2).reshape(n, t, 24)
        return self.head(mixed[:, 0] * scale)


@pytest.fixture(scope="module")
def one_linear() -> Captured:
    return capture(nn.Linear(4, 4).eval(), (torch.randn(3, 4),))


@pytest.fixture(scope="module")
def captured() -> Captured:
    torch.manual_seed(0)
    return capture(Attention().eval(), samples())


def samples() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(N, 1, 8, 8), torch.rand(N, 1) + 0.5


class Case:
    """A network and what builds its engines."""

    def __init__(self, captured: Captured, target: str, batch: int = 1) -> None:
        self.target, self.inputs = get_target(target), captured.example
        reason = self.target.unavailable()
        if reason:
            pytest.skip(reason)
        if len(self.inputs) == 2:
            self.inputs = samples()
        scheme = get_scheme(self.target.scheme_name)
        captured = captured.with_ties(self.target.ties(captured))
        ranges = calibrate(captured, self.inputs, scheme, [8])
        self.simulator = Simulator(captured, ranges, scheme)
        self.builder = Builder(captured, ranges, scheme, self.target, batch)
        self.assignment = captured.network.uniform("int8")

    def deliver(self, folder: Path) -> Manifest:
        manifest = self.builder.deliver(self.assignment, folder)
        return with_dynamic_batch(manifest, self.builder, self.simulator, self.inputs, folder)


@pytest.mark.parametrize(("target", "batch"), [("openvino-cpu", 1), ("onnxruntime-cpu", 2)])
def test_it_gives_what_the_certified_engine_gives(
    captured: Captured, target: str, batch: int, tmp_path: Path
) -> None:
    case = Case(captured, target, batch)
    manifest = case.deliver(tmp_path / "engine")
    found = manifest.dynamic_batch
    assert found is not None and found.agreement is not None and found.agreement.agrees and found.batches == BATCHES
    assert f"{DYNAMIC}/qdq.onnx" in manifest.files
    engine = case.target.load(tmp_path / "engine" / DYNAMIC)
    static = engine_outputs(case.target.load(tmp_path / "engine"), case.inputs, batch)
    for n in (1, 3, N):
        outputs = engine_outputs(engine, tuple(x[:n] for x in case.inputs), n)
        assert torch.linalg.norm(outputs - static[:n]) < 0.05 * torch.linalg.norm(static[:n])
    index = torch.arange(sum(BATCHES)) % N
    parts = [tuple(x[rows] for x in case.inputs) for rows in index.split(list(BATCHES))]
    outputs = torch.cat([engine_outputs(engine, part, len(part[0])) for part in parts])
    apart = float(torch.linalg.norm(outputs - static[index]) / torch.linalg.norm(static[index]))
    assert found.from_certified == pytest.approx(apart, rel=1e-3, abs=1e-9)
    assert f"by {found.from_certified:.2g} from the certified engine's" in found.said


def test_where_nothing_runs_it_its_layers_are_compared(captured: Captured, tmp_path: Path) -> None:
    manifest = Case(captured, "tensorrt-rtx:sm89").deliver(tmp_path / "engine")
    assert manifest.dynamic_batch is not None
    assert (manifest.dynamic_batch.why_not, manifest.dynamic_batch.agreement) == ("", None)
    assert "outputs were not checked" in manifest.dynamic_batch.said
    assert f"{DYNAMIC}/engine.plan" in manifest.files


def test_one_that_computes_something_else_is_not_delivered(
    captured: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a batch baked into it: every row of a batch gets the first row's output."""

    def first_row(engine: Engine, inputs: tuple[Tensor, ...], batch: int) -> Tensor:
        return engine_outputs(engine, inputs, batch)[:1].expand(batch, -1)

    monkeypatch.setattr(dynamic, "engine_outputs", first_row)
    manifest = Case(captured, "onnxruntime-cpu").deliver(tmp_path / "engine")
    assert manifest.dynamic_batch is not None and "outputs differ" in manifest.dynamic_batch.why_not
    assert not (tmp_path / "engine" / DYNAMIC).exists() and not any(DYNAMIC in name for name in manifest.files)


def test_one_whose_layers_run_otherwise_is_not_delivered(
    one_linear: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def audit(builder: Builder, *args: Any) -> tuple[LayerAudit, ...]:
        rows = real(builder, *args)
        return tuple(replace(row, realised="fp32") for row in rows) if builder._takes_any_batch else rows

    real = Builder.audit
    monkeypatch.setattr(Builder, "audit", audit)
    found = Case(one_linear, "onnx-qdq").deliver(tmp_path / "engine").dynamic_batch
    (layer,) = one_linear.network.layers
    assert found is not None and found.why_not == f"{layer.name} would run in fp32, not int8"
    assert not (tmp_path / "engine" / DYNAMIC).exists()


def test_a_network_without_one_says_why(one_linear: Captured, tmp_path: Path) -> None:
    """An operation knows one sample only."""
    captured = one_linear.with_weights({})
    case = Case(captured, "onnx-qdq")
    (linear,) = captured.layer_nodes.values()
    with captured.graph.graph.inserting_after(linear):
        fixed = captured.graph.graph.call_function(torch.ops.aten.reshape.default, (linear, [1, 4]))
    linear.replace_all_uses_with(fixed, lambda user: user is not fixed)
    captured.graph.recompile()
    found = case.deliver(tmp_path / "engine").dynamic_batch
    assert found is not None and not (tmp_path / "engine" / DYNAMIC).exists()
    said = found.said
    assert said.startswith("no engine of any batch size: the network cannot be written as ONNX") and "\n" not in said
