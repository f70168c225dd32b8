"""Weight-only layers on OpenVINO: integers stay integers in the file and in the kernels, and the audit tells it.

On linear layers, and on a vision transformer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from hwsmpq.device.openvino import OpenvinoEngine
from hwsmpq.device.runtime import UNATTRIBUTED
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Assignment, Ladder, Network, Precision, Ranges

LADDER = Ladder.parse("w4a16,int8,w8a16,fp32")
SQNR_DB = 60
"""What the simulator's rounding to fp16, which the engine does not do, leaves at least."""
MIXED_SQNR_DB = 45
"""It also moves single activations of int8 layers by one level."""


@dataclass(frozen=True, eq=False)
class Case:
    """A network with its simulator and builder, samples, and engines that were built."""

    network: Network
    simulator: Simulator
    builder: Builder
    inputs: tuple[Tensor, ...]
    ranges: Ranges
    engines: dict[tuple[str, ...], OpenvinoEngine] = field(default_factory=dict)

    @staticmethod
    def of(model: nn.Module, x: Tensor, ladder: Ladder = LADDER) -> Case:
        target, captured = get_target("openvino-cpu"), capture(model, (x,))
        captured = captured.with_substitutes(substitutes(target, captured.network, ladder))
        scheme = get_scheme(target.scheme_name)
        ranges = calibrate(captured, (x,), scheme, [8], smooth=[p for p in ladder.precisions if not p.is_float])
        builder = Builder(captured, ranges, scheme, target)
        return Case(captured.network, Simulator(captured, ranges, scheme), builder, (x,), ranges)

    @property
    def layers(self) -> list[str]:
        return [layer.name for layer in self.network.layers]

    def assigned(self, *names: str) -> Assignment:
        return self.network.realise(dict(zip(self.network.group_names, names, strict=True)))

    def expected(self, assignment: Assignment) -> dict[str, str]:
        return {layer: assignment[self.network.group_of(layer)] for layer in self.layers}

    def engine(self, assignment: Assignment) -> OpenvinoEngine:
        key = tuple(assignment.values())
        if key not in self.engines:
            engine = self.builder.engine(assignment)
            assert isinstance(engine, OpenvinoEngine)
            self.engines[key] = engine
        return self.engines[key]

    def worst_sqnr_db(self, assignment: Assignment) -> float:
        """Of single samples, between engine and simulator."""
        simulated = self.simulator.scores([assignment], self.inputs, lambda out, rows: out)[0].flatten(1)
        measured = engine_outputs(self.engine(assignment), self.inputs).flatten(1)
        ratio = simulated.square().sum(1) / (simulated - measured).square().sum(1)
        return float(10 * torch.log10(ratio).min())


def linears(*shape: int, decades: float = 0) -> Case:
    """Four linear layers with and without biases, on ``shape`` (n, ..., 256). The gate is a kernel of its own, whose
    origins the plugin also writes to what reads its cast.

    Args:
        decades: that the sizes of what layers read reach over, and of their weights the other way around.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(256, 128), nn.GELU(), nn.Linear(128, 384, bias=False), nn.GLU(), nn.Linear(192, 64), nn.SiLU(),
        nn.Linear(64, 10),
    )
    size = torch.logspace(-decades / 2, decades / 2, 256)
    with torch.no_grad():
        model[0].weight /= size
        model[4].weight /= size[:192]
        model[2].weight[:192] *= size[:192, None]  # the gate's other half stays
    return Case.of(model, torch.randn(*shape) * size)


@pytest.fixture(scope="module")
def rows() -> Case:
    return linears(6, 256)


@pytest.fixture(scope="module")
def sequences() -> Case:
    return linears(6, 5, 256)


@pytest.mark.parametrize(("inputs", "names"), [
    ("rows", ("w4a16",) * 4), ("rows", ("w8a16",) * 4), ("rows", ("w4a16", "int8", "w8a16", "fp32")),
    ("rows", ("fp32", "w8a16", "int8", "w4a16")), ("sequences", ("w4a16",) * 4),
    ("sequences", ("int8", "w4a16", "fp32", "w8a16")), ("sequences", ("w8a16", "fp32", "w4a16", "int8")),
])
def test_engine_runs_and_computes_what_was_asked(
    inputs: str, names: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    case: Case = request.getfixturevalue(inputs)
    assignment = case.assigned(*names)
    assert case.engine(assignment).realised(case.layers) == case.expected(assignment)
    assert case.worst_sqnr_db(assignment) > (MIXED_SQNR_DB if "int8" in names else SQNR_DB)


@pytest.mark.parametrize("shape", [(40, 256), (40, 5, 256)], ids=["rows", "sequences"])
def test_inputs_divided_by_factors_compute_what_was_asked(shape: tuple[int, ...]) -> None:
    case = linears(*shape, decades=2)
    for names in (("w4a16",) * 4, ("w8a16",) * 4, ("w4a16", "w8a16", "w4a16", "fp32")):
        assert len(case.ranges.smoothed[names[0]]) > 1
        assignment = case.assigned(*names)
        engine = case.engine(assignment)
        assert engine.realised(case.layers) == case.expected(assignment)
        assert case.worst_sqnr_db(assignment) > SQNR_DB
        audits = case.builder.audit(assignment, engine, engine._path.parent)
        assert not {one.layer: one.differs for one in audits if one.differs}


def test_kernels_agree_with_the_audit(rows: Case) -> None:
    """An independent reading: kernels of int8 layers are called ..._I8."""
    engine = rows.engine(rows.assigned("w4a16", "int8", "w8a16", "fp32"))
    nodes = engine._compiled.get_runtime_model().get_ordered_ops()
    info = [{key: n.rt_info[key].astype(str) for key in ("layerType", "primitiveType")} for n in nodes]
    kernels = [i["primitiveType"].upper() for i in info if i["layerType"] == "FullyConnected"]
    assert [kernel.endswith("_I8") for kernel in kernels] == [False, True, False, False]


def test_counters_time_every_layer(rows: Case) -> None:
    engine = rows.engine(rows.assigned("w4a16", "int8", "w8a16", "fp32"))
    times = engine.layer_ms(rows.layers, [x[:1].numpy() for x in rows.inputs], n_repeats=10)
    assert set(times) == {*rows.layers, UNATTRIBUTED} and all(times[layer] > 0 for layer in rows.layers)


def test_file_has_the_size_that_the_network_counts(rows: Case) -> None:
    sizes = {}
    for name in LADDER.names:
        sizes[name] = rows.engine(rows.network.uniform(name))._path.with_suffix(".bin").stat().st_size
        counted = sum(rows.network.size_bytes(g, Precision.parse(name)) for g in rows.network.group_names)
        # On top come constants of shapes, and of activations' grids.
        assert counted <= sizes[name] + 1 and sizes[name] < 1.02 * counted + 512
    assert sizes["w4a16"] < 0.55 * sizes["int8"] and sizes["int8"] < 0.3 * sizes["fp32"]


def test_any_runtime_leaves_the_inputs_as_they_are(rows: Case) -> None:
    import openvino

    path = rows.engine(rows.network.uniform("w8a16"))._path
    assert openvino.Core().compile_model(path, "CPU").get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0


def test_what_runs_is_what_is_kept_in_integers() -> None:
    """Of odd shapes the plugin dequantizes some weights to fp32: those that the target says it does not run."""
    torch.manual_seed(0)
    shapes = [(64, 4), (4, 3), (3, 8), (8, 1), (1, 64), (64, 2), (2, 128), (128, 1)]
    model = nn.Sequential(*(nn.Linear(*shape) for shape in shapes))
    case, target = Case.of(model, torch.randn(4, 64), Ladder.parse("int8,fp32")), get_target("openvino-cpu")
    realised = case.engine(dict.fromkeys(case.network.group_names, "w8a16")).realised(case.layers)
    assert realised == {
        layer.name: "w8a16" if target.runs(layer, "w8a16") else "fp32" for layer in case.network.layers
    }
    blocks = [target.runs(layer, "w4a16") for layer in case.network.layers]
    assert blocks == [n_inputs in (64, 128) and n_outputs > 1 for n_inputs, n_outputs in shapes]


def test_convolutions_run_the_next_precision_above() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(),
        nn.Linear(32, 10),
    )
    case = Case.of(model, torch.randn(4, 3, 8, 8))
    assert case.network.substitutes == {
        "0": {"w4a16": "int8", "w8a16": "fp32"}, "6": {"w4a16": "int8"}
    }
    assignment = case.network.uniform("w4a16")
    assert case.engine(assignment).realised(case.layers) == {"0": "int8", "4": "w4a16", "6": "int8"}
    assert case.worst_sqnr_db(assignment) > MIXED_SQNR_DB


@pytest.fixture(scope="module")
def vit() -> Case:
    torch.manual_seed(0)
    model = VisionTransformer(32, 8, num_layers=1, num_heads=2, hidden_dim=64, mlp_dim=128, num_classes=10)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # zeros without training
    return Case.of(model, torch.randn(3, 3, 32, 32))


def test_vision_transformer_is_captured_by_its_weights(vit: Case) -> None:
    """Query, key and value are one weight there, and the products of attention have none."""
    block, n_tokens = "encoder.layers.encoder_layer_0.", 17
    assert {layer.name.removeprefix(block): (layer.weight_shape, layer.n_macs) for layer in vit.network.layers} == {
        "conv_proj": ((64, 3, 8, 8), (n_tokens - 1) * 64 * 3 * 8 * 8),
        "self_attention": ((192, 64), n_tokens * 192 * 64),
        "self_attention.out_proj": ((64, 64), n_tokens * 64 * 64),
        "mlp.0": ((128, 64), n_tokens * 128 * 64),
        "mlp.3": ((64, 128), n_tokens * 64 * 128),
        "heads.head": ((10, 64), 640),
    }
    assert all(len(group.layers) == 1 for group in vit.network.groups)


@pytest.mark.parametrize("names", [
    ("int8",) * 6, ("int8", "w4a16", "w4a16", "w4a16", "w4a16", "w4a16"),
    ("fp32", "int8", "w8a16", "w4a16", "int8", "w8a16"),
], ids="-".join)
def test_vision_transformer_runs_and_computes_what_was_asked(vit: Case, names: tuple[str, ...]) -> None:
    assignment = vit.assigned(*names)
    assert vit.engine(assignment).realised(vit.layers) == vit.expected(assignment)
    assert vit.worst_sqnr_db(assignment) > MIXED_SQNR_DB
