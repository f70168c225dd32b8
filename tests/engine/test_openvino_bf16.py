"""Layers in bf16 on OpenVINO: engines compute them as simulated, keep the others, and say so in their files."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwsmpq.device.openvino import FILE, OpenvinoEngine
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.openvino_cpu import OpenvinoCpuTarget
from hwsmpq.hardware.targets import get_target, target_for
from hwsmpq.model.capture import capture
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import PRECISIONS, Assignment, Settings

EXACT_DB = 90
"""Above what one tensor rounded at another place leaves."""


@pytest.fixture(autouse=True, scope="module")
def _has_bf16() -> None:
    target = get_target("openvino-cpu")
    if target.unavailable():
        pytest.skip(str(target.unavailable()))
    if "bf16" not in target.native:
        pytest.skip(str(target.why_not("bf16")))


class Residual(nn.Module):
    """Sums of layers, a depthwise one, and a gate from a mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.project, self.second, self.head = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.stem(x))
        y = nn.functional.relu6(self.depthwise(x))
        gate = nn.functional.hardsigmoid(self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()))
        x = x + self.project(y * gate)
        x = x + self.second(x)
        return self.head(x.mean((2, 3)))


class Case:
    def __init__(self, model: nn.Module, *shape: int) -> None:
        torch.manual_seed(0)
        for p in model.parameters():
            nn.init.kaiming_normal_(p) if p.ndim > 1 else nn.init.normal_(p, std=0.3)
        self.inputs = (torch.randn(8, *shape),)
        captured, target = capture(model.eval(), self.inputs), get_target("openvino-cpu")
        scheme = get_scheme(target.scheme_name)
        ranges = calibrate(captured, self.inputs, scheme, [8], smooth=[PRECISIONS["int8"]])
        self.network, self.simulator = captured.network, Simulator(captured, ranges, scheme)
        self.builder = Builder(captured, ranges, scheme, target)

    def assigned(self, *names: str) -> Assignment:
        return dict(zip(self.network.group_names, names, strict=True))

    def engine(self, assignment: Assignment) -> OpenvinoEngine:
        engine = self.builder.engine(assignment)
        assert isinstance(engine, OpenvinoEngine)
        return engine

    def realised(self, engine: OpenvinoEngine) -> Assignment:
        found = engine.realised([layer.name for layer in self.network.layers])
        return {self.network.group_of(layer): precision for layer, precision in found.items()}

    def simulated(self, assignment: Assignment) -> Tensor:
        return self.simulator.scores([assignment], self.inputs, lambda out, rows: out)[0]


def sqnr_db(signal: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(signal.square().sum() / (signal - other).square().sum().clamp_min(1e-30)))


def most_db(signal: Tensor, other: Tensor) -> float:
    """What half of the samples are above: in the others a value on a tie may take the other level."""
    return statistics.median(sqnr_db(a, b) for a, b in zip(signal, other, strict=True))


CHAINS: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "convolution": lambda: (nn.Sequential(nn.Conv2d(3, 16, 3)), (3, 12, 12)),
    "without a bias": lambda: (nn.Sequential(nn.Conv2d(3, 16, 3, bias=False)), (3, 12, 12)),
    "linear": lambda: (nn.Sequential(nn.Linear(64, 32)), (64,)),
    "activation between": lambda: (
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.Hardswish(), nn.Conv2d(16, 16, 3)), (3, 12, 12)
    ),
    "transposed": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 2, 2), nn.ReLU(),
                                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)), (3, 12, 12)),
    "transposed in groups": lambda: (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 16, 3, groups=2),
                                                   nn.ReLU(), nn.Conv2d(16, 8, 3)), (3, 12, 12)),
    "pooled": lambda: (
        nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        (3, 12, 12),
    ),
}


@pytest.mark.parametrize("name", CHAINS)
def test_kernels_round_where_the_simulator_does(name: str) -> None:
    model, shape = CHAINS[name]()
    case = Case(model, *shape)
    assignment = case.network.uniform("bf16")
    engine = case.engine(assignment)
    assert case.realised(engine) == assignment
    simulated, full = case.simulated(assignment), case.simulated(case.network.uniform("fp32"))
    assert sqnr_db(simulated, engine_outputs(engine, case.inputs)) > EXACT_DB
    assert sqnr_db(full, simulated) < EXACT_DB / 1.5, "bf16 is visible"


class Between(nn.Module):
    """Layers ``a`` and ``b``, and what is between them: a function of the result and of a third layer."""

    def __init__(
        self, a: nn.Module, between: Callable[[Tensor, nn.Module], Tensor], b: nn.Module,
        third: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.a, self.between, self.b, self.third = a, between, b, third or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x), self.third))


IMAGE, TOKENS = (4, 8, 8), (10, 16)
BETWEEN: dict[str, Callable[[], tuple[nn.Module, tuple[int, ...]]]] = {
    "mean": lambda: (
        Between(nn.Conv2d(4, 16, 3), lambda y, _: y.relu().mean((2, 3)), nn.Linear(16, 8)), IMAGE
    ),
    "mean that keeps": lambda: (
        Between(nn.Conv2d(4, 16, 3), lambda y, _: y.relu().mean((2, 3), keepdim=True), nn.Conv2d(16, 8, 1)), IMAGE
    ),
    "average pool": lambda: (
        Between(nn.Conv2d(4, 16, 3), lambda y, _: nn.functional.avg_pool2d(y.relu(), 2), nn.Conv2d(16, 8, 3)), IMAGE
    ),
    "softmax": lambda: (Between(nn.Conv2d(4, 16, 3), lambda y, _: y.softmax(1), nn.Conv2d(16, 8, 3)), IMAGE),
    "gate": lambda: (
        Between(nn.Conv2d(4, 16, 3), lambda y, _: y * y.mean((2, 3), keepdim=True).sigmoid(), nn.Conv2d(16, 8, 3)),
        IMAGE,
    ),
    "chain": lambda: (
        Between(nn.Conv2d(4, 16, 3), lambda y, _: (y * y.sigmoid() + y) * 0.5, nn.Conv2d(16, 8, 3)), IMAGE
    ),
    "sum of layers": lambda: (
        Between(nn.Conv2d(4, 16, 3), lambda y, third: (third(y.relu()) + y).relu(), nn.Conv2d(16, 8, 3),
                nn.Conv2d(16, 16, 3, padding=1)), IMAGE,
    ),
    "bias of tokens": lambda: (
        Between(nn.Linear(16, 32), lambda y, _: nn.functional.gelu(y), nn.Linear(32, 8)), TOKENS
    ),
    "norm": lambda: (Between(nn.Linear(16, 32), lambda y, norm: norm(y), nn.Linear(32, 8), nn.LayerNorm(32)), TOKENS),
    "norm of a sum": lambda: (
        Between(nn.Linear(16, 16), lambda y, norm: norm(y + nn.functional.gelu(y)), nn.Linear(16, 8),
                nn.LayerNorm(16)), TOKENS,
    ),
    "first token": lambda: (
        Between(nn.Linear(16, 32), lambda y, norm: norm(y)[:, 0], nn.Linear(32, 8), nn.LayerNorm(32)), TOKENS
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_results_are_rounded_where_they_are_written(name: str) -> None:
    """Also where integers are read: then only what no kernel computes together with the quantizer."""
    model, shape = BETWEEN[name]()
    case = Case(model, *shape)
    names, last = case.network.group_names, case.network.group_of("b")
    for before, behind in (("bf16", "bf16"), ("bf16", "int8"), ("bf16", "fp32"), ("int8", "bf16")):
        assignment = {group: behind if group == last else before for group in names}
        engine = case.engine(assignment)
        assert case.realised(engine) == assignment
        found = most_db(case.simulated(assignment), engine_outputs(engine, case.inputs))
        assert found > EXACT_DB, (assignment, found)


def test_a_quantizer_that_stands_alone_reads_fp32_beside_bf16() -> None:
    """The plugin gives it no attribute of its own: behind a choice of tokens it read bf16 (class attention)."""
    model = nn.Sequential(nn.Linear(16, 16), Between(
        nn.Linear(16, 32), lambda y, norm: norm(y)[:, 0], nn.Linear(32, 8), nn.LayerNorm(32)
    ))
    case = Case(model, *TOKENS)
    assignment = case.assigned("bf16", "fp32", "int8")
    engine = case.engine(assignment)
    assert case.realised(engine) == assignment
    assert most_db(case.simulated(assignment), engine_outputs(engine, case.inputs)) > EXACT_DB


@pytest.fixture(scope="module")
def residual() -> Case:
    return Case(Residual(), 3, 12, 12)


def mixtures(case: Case, n: int, seed: int) -> list[Assignment]:
    rng = random.Random(seed)
    return [case.assigned(*rng.choices(("int8", "bf16", "fp32"), k=len(case.network.groups))) for _ in range(n)]


def test_mixtures_of_three_run_and_compute_what_was_asked(residual: Case) -> None:
    """Also that they compile at all: a sum in fp32 of a layer in bf16 has no kernel."""
    full = residual.simulated(residual.network.uniform("fp32"))
    for assignment in [residual.network.uniform("bf16"), *mixtures(residual, 16, 0)]:
        engine = residual.engine(assignment)
        assert residual.realised(engine) == assignment
        found, simulated = engine_outputs(engine, residual.inputs), residual.simulated(assignment)
        assert sqnr_db(simulated, found) > min(sqnr_db(full, simulated), 50), assignment


def test_plain_call_computes_what_is_certified(residual: Case) -> None:
    """Without any setting, in the order of sums that one thread has."""
    import openvino

    x = residual.inputs[0][:1].numpy()
    for assignment in [residual.network.uniform("fp32"), residual.network.uniform("bf16"), *mixtures(residual, 4, 1)]:
        engine = residual.engine(assignment)
        plain = openvino.Core().compile_model(engine._path, "CPU")
        found, expected = plain([x])[0], engine.infer([x])[0]
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), assignment


def test_fp32_layers_stay_in_fp32_beside_bf16() -> None:
    """The plugin makes one operation of product and bias, and another of a squeeze, without what keeps them in fp32."""
    case = Case(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)), 3, 8, 8)
    assignment = case.assigned("bf16", "fp32")
    engine = case.engine(assignment)
    assert case.realised(engine) == assignment
    assert sqnr_db(case.simulated(assignment), engine_outputs(engine, case.inputs)) > EXACT_DB


def test_chain_of_products_in_one_kernel_is_told_as_it_runs() -> None:
    """One kernel computes a small chain, and all of it in bf16 if any of it is."""
    case = Case(nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32)), 64)
    engine = case.engine(case.assigned("bf16", "fp32"))
    realised = case.realised(engine)
    assert sqnr_db(case.simulated(realised), engine_outputs(engine, case.inputs)) > EXACT_DB


def test_weights_are_stored_in_half_the_bytes(residual: Case) -> None:
    sizes = {
        name: residual.engine(residual.network.uniform(name))._path.with_suffix(".bin").stat().st_size
        for name in ("bf16", "fp32")
    }
    n_weights = sum(layer.n_weights for layer in residual.network.layers)
    assert sizes["fp32"] - sizes["bf16"] == pytest.approx(2 * n_weights, rel=0.05)


def test_default_ladder_is_resolved_once(tmp_path: Path) -> None:
    run = Run(tmp_path, Settings("hwsmpq.quickstart.task:task"))
    assert run.ladder.names == run.settings.ladder == ("int8", "bf16", "fp32")


def test_processor_without_bf16_refuses_it_by_name(
    residual: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwsmpq.device import openvino

    residual.builder.write(residual.network.uniform("bf16"), tmp_path / "engine")
    monkeypatch.setattr(openvino, "_computes_in_bf16", lambda: False)
    target = OpenvinoCpuTarget()
    assert target.default_ladder == ("int8", "fp32") and target_for(("int8", "bf16")) == "openvino-cpu"
    with pytest.raises(HwsmpqError, match="no bf16 here") as error:
        Run(tmp_path / "run", Settings("hwsmpq.quickstart.task:task", ladder=("int8", "bf16")))
    assert "avx512_bf16" in str(error.value.why)
    assert (tmp_path / "engine" / FILE).is_file()
    with pytest.raises(HwsmpqError, match="computes in bf16"):
        target.load(tmp_path / "engine")
