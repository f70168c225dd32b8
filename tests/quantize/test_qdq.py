"""The Q/DQ writer against the simulator, sample by sample, in the ONNX reference evaluator."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture
from hwsmpq.quantize.qdq import LAYER_OPS, PRECISION_KEY, export_onnx, write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import SCHEMES, Scheme, get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Assignment, Ladder

from .networks import LADDER, NETWORKS, Case, make_case, sqnr_db

networks = pytest.mark.parametrize("network", NETWORKS)


def write(case: Case, assignment: Assignment, folder: Path, fp32: bytes | None = None) -> onnx.ModelProto:
    path = folder / "qdq.onnx"
    write_qdq(fp32 or export_onnx(case.captured), case.captured, assignment, case.ranges, case.scheme, LADDER, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model: onnx.ModelProto, inputs: Tensor) -> Tensor:
    evaluator = ReferenceEvaluator(model)
    name = model.graph.input[0].name
    return torch.from_numpy(np.concatenate([evaluator.run(None, {name: x[None]})[0] for x in inputs.numpy()]))


def simulate(case: Case, assignment: Assignment) -> Tensor:
    return case.simulator().scores([assignment], case.inputs, lambda out, rows: out)[0]


@networks
@pytest.mark.parametrize("scheme", SCHEMES)
def test_engine_file_equals_simulator(network: str, scheme: str, tmp_path: Path) -> None:
    """Uniform at every precision, and mixtures. Sums in another order can move a value to the next level, so whole
    networks are compared by SQNR and single layers (below) almost exactly."""
    case, rng = make_case(network, scheme, n=3), random.Random(0)
    fp32 = export_onnx(case.captured)
    groups = case.captured.network.group_names
    assignments = [case.captured.network.uniform(name) for name in LADDER.names]
    assignments += [{group: rng.choice(LADDER.names) for group in groups} for _ in range(2)]
    for assignment in assignments:
        found = run(write(case, assignment, tmp_path, fp32), case.inputs[0])
        quality = [sqnr_db(a, b) for a, b in zip(simulate(case, assignment), found, strict=True)]
        print(network, scheme, assignment, quality)
        assert min(quality) > 40


@networks
@pytest.mark.parametrize("precision", LADDER.names[:-1])
def test_nodes_carry_layer_names_and_precisions(network: str, precision: str, tmp_path: Path) -> None:
    case = make_case(network)
    first = case.captured.network.group_names[0]
    assignment = case.captured.network.uniform(precision) | {first: "fp32"}
    model = write(case, assignment, tmp_path)
    nodes = {node.name: node for node in model.graph.node}
    assert len(nodes) == len(model.graph.node), "names are unique"
    initializers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    producers = {output: node for node in model.graph.node for output in node.output}
    for layer in case.captured.network.layers:
        node = nodes[layer.name]
        assert node.op_type in LAYER_OPS
        expected = assignment[case.captured.network.group_of(layer.name)]
        assert {p.key: p.value for p in node.metadata_props}[PRECISION_KEY] == expected
        source = producers.get(node.input[0])
        assert (source is not None and source.op_type == "DequantizeLinear") == (expected != "fp32")
        weight_source = producers.get(node.input[1])
        while weight_source is not None and weight_source.op_type == "Transpose":
            weight_source = producers.get(weight_source.input[0])
        if expected == "fp32":
            assert weight_source is None
            continue
        assert weight_source is not None and weight_source.op_type == "DequantizeLinear"
        integers = initializers[weight_source.input[0]]
        levels = case.scheme.weight_levels(LADDER[expected].weight_bits)
        assert integers.dtype == np.int8 and integers.shape == layer.weight_shape
        assert np.abs(integers).max() == levels
        assert initializers[weight_source.input[1]].shape == (layer.weight_shape[layer.channel_axis],)
    # A tensor that several layers of one precision read is quantized once.
    quantizers = [node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    tensors = {la.input_tensor for la in case.captured.network.layers if la.name != first}
    assert len(quantizers) == len(tensors)
    used = {name for node in model.graph.node for name in node.input}
    assert set(initializers) <= used, "no float copy of a quantized weight stays behind"


LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (6,)),
    "linear_without_bias": (lambda: nn.Linear(6, 5, bias=False), (6,)),
    "linear_tokens": (lambda: nn.Linear(6, 5), (4, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3), (3, 8)),
    "conv": (lambda: nn.Conv2d(3, 5, 3, stride=2, padding=1), (3, 7, 7)),
    "conv_same": (lambda: nn.Conv2d(3, 5, 3, padding="same"), (3, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, bias=False), (4, 7, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 5, 2), (2, 4, 4, 4)),
    "conv_transpose": (lambda: nn.ConvTranspose2d(3, 5, 3, stride=2), (3, 5, 5)),
}


@pytest.mark.parametrize("scheme", ["unsigned_activations", "signed_symmetric"])
@pytest.mark.parametrize("kind", LAYERS)
def test_one_layer_is_exact(kind: str, scheme: str, tmp_path: Path) -> None:
    """With one layer nothing can tip over: what is left is the order of float32 sums, near 140 dB."""
    torch.manual_seed(0)
    build, shape = LAYERS[kind]
    x = torch.randn(4, *shape)
    captured, rules = capture(nn.Sequential(build()).eval(), (x,)), get_scheme(scheme)
    case = Case(nn.Identity(), (x,), captured, calibrate(captured, (x,), rules, [2, 5, 8]), rules)
    for name in LADDER.names:
        model = write(case, {"0": name}, tmp_path)
        assert sqnr_db(simulate(case, {"0": name}), run(model, x)) > 110, name


def test_float32_levels_at_ties_agree(tmp_path: Path) -> None:
    """Values halfway between levels round alike (half to even) on both sides, below and at 8 bits, also when clipped."""
    rules = Scheme("test", signed_activations=False)
    x = (torch.arange(-40, 600) / 2).reshape(-1, 1) * 0.25
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    captured = capture(model, (x,))
    for bits in (3, 8):
        ladder = Ladder.parse(f"w8a{bits},fp32")
        ranges = calibrate(captured, (torch.tensor([[-1.0], [0.25 * (2**bits - 1) - 1]]),), rules, [bits], "minmax")
        name = ladder.floor
        found = Simulator(captured, ranges, rules, ladder).scores([{"0": name}], (x,), lambda out, rows: out)[0]
        write_qdq(export_onnx(captured), captured, {"0": name}, ranges, rules, ladder, tmp_path / "m.onnx")
        assert torch.equal(run(onnx.load(tmp_path / "m.onnx"), x), found)
        assert len(found.unique()) == 2**bits


def test_batch_size_is_written(tmp_path: Path) -> None:
    case = make_case("residual")
    model = onnx.load_from_string(export_onnx(case.captured, batch_size=3))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert model.opset_import[0].version == 20


def test_half_precision_is_refused(tmp_path: Path) -> None:
    case = make_case("residual")
    network = case.captured.network
    with pytest.raises(HwsmpqError, match="fp16 cannot be written"):
        write_qdq(
            export_onnx(case.captured), case.captured, network.uniform("fp16"), case.ranges, case.scheme,
            Ladder.parse("fp16,fp32"), tmp_path / "half.onnx",
        )


def test_an_operation_without_onnx_form_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(self.a(x))

    with pytest.raises(HwsmpqError, match="cannot be written as ONNX: .*bessel_j0"):
        export_onnx(capture(Odd(), (torch.randn(2, 4),)))
