"""Files for parsers of old opsets: valid there, and what they compute is what the newer file computes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.lowering import lower
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.qdq import write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import PRECISION_KEY, OnnxForm

SCHEME = get_scheme("tensorrt")
WEAK = OnnxForm(16, strongly_typed=False)


class Block(nn.Module):
    """A layer norm, both forms of gelu, reductions, a split and a softmax between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.LayerNorm(16, eps=1e-6), nn.Linear(16, 24), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, middle, right = self.first(self.norm(x)).split(8, dim=-1)
        y = functional.gelu(left) + functional.gelu(middle, approximate="tanh") * right.softmax(-1)
        return self.second(y).mean(dim=1) + y.amax(dim=(1, 2), keepdim=False)[:, None] - y.sum(dim=1)[:, :4]


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.mish(self.norm(self.conv(functional.pad(x, (0, 1, 0, 1)))))
        return self.head(functional.avg_pool2d(functional.relu6(x), 2).mean(dim=(2, 3)))


def captured_of(kind: type[nn.Module]) -> tuple[Captured, Tensor]:
    torch.manual_seed(0)
    model, inputs = kind().eval(), torch.randn(6, *((5, 16) if kind is Block else (3, 9, 9)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return capture(model, (inputs,)), inputs


def run(model: bytes, inputs: Tensor) -> Tensor:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return torch.cat([torch.from_numpy(session.run(None, {name: x[None].numpy()})[0]) for x in inputs])


def lowered(model: bytes, opset: int) -> bytes:
    found = ir.serde.deserialize_model(onnx.load_model_from_string(model))
    lower(found, opset)
    return ir.serde.serialize_model(found).SerializeToString()


@pytest.mark.parametrize("opset", [13, 16])
@pytest.mark.parametrize("kind", [Block, Images])
def test_a_lowered_file_computes_the_same(kind: type[nn.Module], opset: int) -> None:
    captured, inputs = captured_of(kind)
    newer = export_onnx(captured)
    older = lowered(newer, opset)
    model = onnx.load_model_from_string(older)
    onnx.checker.check_model(model, full_check=True)
    assert ([o.version for o in model.opset_import], model.ir_version) == ([opset], 8)
    torch.testing.assert_close(run(older, inputs), run(newer, inputs), rtol=1e-5, atol=1e-5)
    assert {node.name for node in model.graph.node} >= {layer.name for layer in captured.network.layers}
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used


def test_statistics_of_normalizations_are_noted_as_fp32() -> None:
    model = onnx.load_model_from_string(lowered(export_onnx(captured_of(Block)[0]), 16))
    precisions = [(n.op_type, p.value) for n in model.graph.node for p in n.metadata_props if p.key == PRECISION_KEY]
    noted = {operation for operation, precision in precisions if precision == "fp32"}
    assert noted == {"ReduceMean", "Sub", "Mul", "Add", "Sqrt", "Div"}


@pytest.mark.parametrize("kind", [Block, Images])
def test_an_untyped_file_is_float_but_for_its_quantizers(kind: type[nn.Module], tmp_path: Path) -> None:
    captured, inputs = captured_of(kind)
    ranges, newer = calibrate(captured, (inputs,), SCHEME, [8]), export_onnx(captured)
    layers = [layer.name for layer in captured.network.layers]
    assignment = {g: ("int8", "fp16")[i % 2] for i, g in enumerate(captured.network.group_names)}
    precisions = {la: assignment[captured.network.group_of(la)] for la in layers}
    write_qdq(newer, captured, assignment, ranges, SCHEME, tmp_path / "m.onnx", WEAK)
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    nodes, made = {n.name: n for n in model.graph.node}, {o: n for n in model.graph.node for o in n.output}
    types = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in model.graph.initializer}
    assert set(types.values()) <= {"FLOAT", "INT64", "INT8"}
    for layer, precision in precisions.items():
        assert {p.key: p.value for p in nodes[layer].metadata_props}[PRECISION_KEY] == precision
        source = made.get(nodes[layer].input[1])
        while source is not None and source.op_type == "Transpose":
            source = made.get(source.input[0])
        if precision == "int8":
            # From a float initializer: TensorRT 8.5 has no constants of eight bits.
            quantize = made[source.input[0]]
            assert [source.op_type, quantize.op_type] == ["DequantizeLinear", "QuantizeLinear"]
            assert len(source.input) == len(quantize.input) == 3 and types[quantize.input[0]] == "FLOAT"
        else:
            assert source is None
    assert "Cast" not in {n.op_type for n in model.graph.node}
    in_int8 = {g: "int8" for g in captured.network.group_names}
    write_qdq(newer, captured, in_int8, ranges, SCHEME, tmp_path / "m.onnx", WEAK)
    simulated = Simulator(captured, ranges, SCHEME).scores([in_int8], (inputs,), lambda out, rows: out)[0]
    found = run((tmp_path / "m.onnx").read_bytes(), inputs)
    error = (found - simulated).square().sum(1)
    assert float((10 * torch.log10(simulated.square().sum(1) / error)).median()) > 60


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (onnx.helper.make_node("BitwiseNot", ["i"], ["y"], "odd"), "no BitwiseNot in opset 16"),
        (onnx.helper.make_node("Pad", ["x", "pads"], ["y"], "odd", mode="wrap"), "wrapping"),
        (onnx.helper.make_node("ReduceMax", ["x", "i"], ["y"], "odd"), "constant"),
        (onnx.helper.make_node("Cast", ["x"], ["y"], "odd", to=onnx.TensorProto.BFLOAT16), "BFLOAT16"),
    ],
    ids=lambda value: value.op_type if isinstance(value, onnx.NodeProto) else "",
)
def test_what_has_no_older_form_is_refused_by_name(node: onnx.NodeProto, said: str) -> None:
    kinds = {"x": onnx.TensorProto.FLOAT, "i": onnx.TensorProto.INT64}
    graph = onnx.helper.make_graph(
        [node], "g", [onnx.helper.make_tensor_value_info(name, kind, [2]) for name, kind in kinds.items()],
        [onnx.helper.make_empty_tensor_value_info("y")], [onnx.numpy_helper.from_array(np.array([1, 1]), "pads")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    with pytest.raises(HwsmpqError, match="odd") as error:
        lower(ir.serde.deserialize_model(model), 16)
    assert re.search(said, error.value.why)
