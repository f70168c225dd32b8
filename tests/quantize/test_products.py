"""Products of two activations: quantized by hand, in the ONNX reference evaluator, in training and in scores."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from attention import attention, tokens
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from hwsmpq.hardware.onnx_qdq import OnnxQdqEngine
from hwsmpq.hardware.stored import stored_in_onnx
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.layer import QuantizedLayer
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.qdq import write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.network import quantized
from hwsmpq.types import PRECISIONS, WITH_WEIGHTS, Ranges

from .networks import sqnr_db

KINDS = WITH_WEIGHTS | {"product"}
INT8 = PRECISIONS["int8"]
LEAST_DB = 60
"""A value at a tie may take the next level in another order of sums."""


class Plain(nn.Module):
    """A product of two halves of the input, the second of which is never negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] @ x[:, 3:].abs().transpose(1, 2)


def prepared(
    model: nn.Module, x: Tensor, scheme: str = "unsigned_activations", smooth: tuple[str, ...] = ()
) -> tuple[Captured, Ranges]:
    captured = capture(model.eval(), (x,), kinds=KINDS)
    smoothed = [PRECISIONS[name] for name in smooth]
    return captured, calibrate(captured, (x,), get_scheme(scheme), [8], smooth=smoothed, batch_size=len(x))


def simulated(captured: Captured, ranges: Ranges, assignment: dict[str, str], x: Tensor, scheme: str) -> Tensor:
    simulator = Simulator(captured, ranges, get_scheme(scheme))
    return simulator.scores([assignment], (x,), lambda out, rows: out)[0]


def test_both_operands_are_rounded_to_symmetric_grids() -> None:
    x = tokens()
    captured, ranges = prepared(Plain(), x)
    found = simulated(captured, ranges, {"product": "int8"}, x, "unsigned_activations")

    def rounded(y: Tensor) -> Tensor:
        scale = np.float32(float(y.abs().max()) / 127)
        return (y / scale).round() * scale

    expected = rounded(x[:, :3]) @ rounded(x[:, 3:].abs()).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert sqnr_db(Plain()(x), found) < 60, "nothing was rounded"


@pytest.mark.parametrize("scheme", ["unsigned_activations", "unsigned_activations_no_vnni", "signed_symmetric"])
def test_grids_have_no_zero_point(scheme: str) -> None:
    captured, ranges = prepared(attention(), tokens(), scheme)
    grids = {
        layer.name: [operand.grid for operand in QuantizedLayer.of(layer, INT8, ranges, get_scheme(scheme)).operands]
        for layer in captured.network.layers if not layer.has_weight
    }
    assert all(grid is not None and grid.zero_point == 0 for pair in grids.values() for grid in pair)
    ends = {name: [(grid.low, grid.high) for grid in pair if grid is not None] for name, pair in grids.items()}
    second = (-64, 64) if scheme.endswith("no_vnni") else (-128, 127)
    softmax = (-128, 127) if scheme == "signed_symmetric" else (0, 255)
    assert ends == {"product": [(-128, 127), second], "product#2": [softmax, second]}


@pytest.mark.parametrize("form", ["none", "mask", "linear"])
def test_the_file_computes_what_is_simulated(form: str, tmp_path: Path) -> None:
    x = tokens(4)
    captured, ranges = prepared(attention(form), x)
    scheme, groups = get_scheme("unsigned_activations"), captured.network.group_names
    for precisions in product(("int8", "fp32"), repeat=len(groups)):
        assignment = dict(zip(groups, precisions, strict=True))
        write_qdq(export_onnx(captured), captured, assignment, ranges, scheme, tmp_path / "a.onnx")
        model = onnx.load(tmp_path / "a.onnx")
        onnx.checker.check_model(model, full_check=True)
        evaluator, name = ReferenceEvaluator(model), model.graph.input[0].name
        found = np.concatenate([evaluator.run(None, {name: one[None]})[0] for one in x.numpy()])
        expected = simulated(captured, ranges, assignment, x, scheme.name)
        assert sqnr_db(expected, torch.from_numpy(found)) > LEAST_DB, assignment
        layers = [layer.name for layer in captured.network.layers]
        assert OnnxQdqEngine(model).realised(layers) == {
            layer: assignment[captured.network.group_of(layer)] for layer in layers
        }


@pytest.mark.parametrize("precision", ["fp8", "fp16", "bf16"])
def test_other_precisions(precision: str, tmp_path: Path) -> None:
    x = tokens(4)
    captured, ranges = prepared(attention("bias"), x, "tensorrt")
    assignment = captured.network.uniform("fp32") | dict.fromkeys(captured.network.products, precision)
    write_qdq(export_onnx(captured), captured, assignment, ranges, get_scheme("tensorrt"), tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    realised = OnnxQdqEngine(model).realised(captured.network.products)
    assert set(realised.values()) == {precision}
    expected = simulated(captured, ranges, assignment, x, "tensorrt")
    assert 15 < sqnr_db(simulated(captured, ranges, captured.network.uniform("fp32"), x, "tensorrt"), expected) < 90
    if precision != "bf16":  # which NumPy has not
        evaluator, name = ReferenceEvaluator(model), model.graph.input[0].name
        found = np.concatenate([evaluator.run(None, {name: one[None]})[0] for one in x.numpy()])
        assert sqnr_db(expected, torch.from_numpy(found)) > (LEAST_DB if precision == "fp8" else 45)


def test_the_file_says_both_scales(tmp_path: Path) -> None:
    captured, ranges = prepared(attention(), tokens())
    scheme = get_scheme("unsigned_activations")
    write_qdq(export_onnx(captured), captured, captured.network.uniform("int8"), ranges, scheme, tmp_path / "a.onnx")
    stored = stored_in_onnx(tmp_path / "a.onnx", captured.network.layers)
    for layer in captured.network.layers:
        first, *second = QuantizedLayer.of(layer, INT8, ranges, scheme).operands
        assert stored[layer.name].input_scale == first.input_scale
        assert stored[layer.name].second_scale == (second[0].input_scale if second else None)


class NonLocal(nn.Module):
    """A tensor that linear layers and a product read, with a channel that is much larger than all others."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.tensor([40.0] + [1.0] * 15) + 0.5
        return (self.query(x) @ self.key(x).transpose(1, 2) / 99).softmax(-1) @ x


def test_a_tensor_that_linear_layers_read_too_has_two_grids_and_no_factors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = tokens(8)
    captured, ranges = prepared(NonLocal(), x, smooth=("int8",))
    assert ranges.smoothed["int8"] == {}
    assignment, scheme = captured.network.uniform("int8"), get_scheme("unsigned_activations")
    write_qdq(export_onnx(captured), captured, assignment, ranges, scheme, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    quantizers = {node.name for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert quantizers == {
        "query.in.quantize", "product.in.quantize", "product.in2.quantize", "product#2.in.quantize",
        "product#2.in2.quantize",
    }
    evaluator = ReferenceEvaluator(model)
    found = np.concatenate([evaluator.run(None, {model.graph.input[0].name: one[None]})[0] for one in x.numpy()])
    expected = simulated(captured, ranges, assignment, x, scheme.name)
    assert sqnr_db(expected, torch.from_numpy(found)) > LEAST_DB


def test_walks_recompute_what_depends_on_a_product_only() -> None:
    """Assignments in one request give what each gives alone."""
    x = tokens()
    captured, ranges = prepared(attention(), x)
    groups = captured.network.group_names
    walk = [dict(zip(groups, p, strict=True)) for p in product(("int8", "fp32"), repeat=len(groups))]
    simulator = Simulator(captured, ranges, get_scheme("unsigned_activations"))
    together = simulator.scores(walk, (x,), lambda out, rows: out)
    for assignment, out in zip(walk, together, strict=True):
        assert torch.equal(out, simulated(captured, ranges, assignment, x, "unsigned_activations"))


def test_training_computes_the_same_and_passes_gradients() -> None:
    x = tokens()
    captured, ranges = prepared(attention(), x)
    scheme, assignment = get_scheme("unsigned_activations"), captured.network.uniform("int8")
    network = quantized(captured, ranges, scheme, assignment)
    out = network(x)
    torch.testing.assert_close(
        out.detach(), simulated(captured, ranges, assignment, x, scheme.name), rtol=1e-4, atol=1e-5
    )
    out.square().sum().backward()
    weight = dict(network.graph.named_parameters())["qkv.weight"].grad
    assert weight is not None and all(part.abs().max() > 0 for part in weight.chunk(3)), "queries, keys and values"
    assert network.ranges().operands == ranges.operands
