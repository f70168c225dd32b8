"""Lowered graphs against the ONNX reference evaluator on the graphs that they were made from."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hwsmpq.device.onnxruntime.audit import weight_name
from hwsmpq.device.onnxruntime.session import open_session
from hwsmpq.hardware.onnxruntime_cpu import OnnxruntimeCpuTarget
from hwsmpq.hardware.onnxruntime_cpu.lower import lower
from hwsmpq.quantize.scheme import get_scheme

X_SCALE, X_ZERO = 0.03, 100
Y_SCALE = 0.05
BETWEEN = (
    [], ["Relu"], ["Clip"], ["Relu", "MaxPool"], ["MaxPool", "Relu"], ["Transpose"], ["Pad", "Relu"], ["Pad of 0.5"],
)
"""Operations between a convolution and the quantizer of its result."""


@dataclass
class Graph:
    """A Q/DQ graph under construction, and what it is lowered to."""

    shape: tuple[int, ...]
    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def add(self, operation: str, inputs: list[str], output: str, name: str = "", **attributes) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [output], name=name, **attributes))
        return output

    def constant(self, name: str, value) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def quantized(self, tensor: str, scale: float = X_SCALE, zero: int = X_ZERO) -> str:
        parameters = [self.constant(f"{tensor}.s", np.float32(scale)), self.constant(f"{tensor}.z", np.uint8(zero))]
        self.add("QuantizeLinear", [tensor, *parameters], f"{tensor}.q")
        return self.add("DequantizeLinear", [f"{tensor}.q", *parameters], f"{tensor}.dq")

    def weight(self, name: str, shape: tuple[int, ...], axis: int = 0) -> str:
        scales = self.rng.uniform(0.5, 1.5, shape[axis]) * 0.01
        self.constant(f"{name}.int8", self.rng.integers(-64, 65, shape).astype(np.int8))
        self.constant(f"{name}.scale", scales.astype(np.float32))
        return self.add("DequantizeLinear", [f"{name}.int8", f"{name}.scale"], f"{name}.w", axis=axis)

    def bias(self, name: str, n: int) -> str:
        return self.constant(f"{name}.b", self.rng.normal(size=n).astype(np.float32) * 0.1)

    def model(self, output: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def compare(self, output: str, least_db: float = 100, x: np.ndarray | None = None) -> dict[str, str]:
        """Check the lowered graph's result for ``x``, and say which operation became of every named node."""
        model = self.model(output)
        lowered = onnx_ir.serde.deserialize_model(model)
        lower(lowered)
        x = self.rng.normal(size=self.shape).astype(np.float32) * 2 if x is None else x
        (expected,) = ReferenceEvaluator(model).run(None, {"x": x})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lowered.onnx"
            path.write_bytes(onnx_ir.serde.serialize_model(lowered).SerializeToString())
            session = open_session(path)
        (found,) = session.run(None, {"x": x})
        assert found.shape == expected.shape
        assert 10 * np.log10(np.sum(expected**2) / max(np.sum((found - expected) ** 2), 1e-30)) > least_db
        return {str(node.name): node.op_type for node in lowered.graph if node.name}


@pytest.mark.parametrize(
    ("size", "kernel", "attributes"),
    [
        ((9, 7), (1, 1), {}),
        ((9, 7), (1, 1), {"strides": [2, 3]}),
        ((9, 7), (3, 3), {"pads": [1, 1, 1, 1]}),
        ((9, 7), (3, 2), {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
        ((11, 12), (3, 3), {"dilations": [2, 3], "pads": [2, 1, 0, 3], "strides": [3, 2]}),
        ((10,), (5,), {"pads": [2, 2], "strides": [2]}),
        ((5, 4, 6), (2, 3, 1), {"pads": [0, 1, 0, 1, 0, 0]}),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_convolution_with_a_float_result_is_a_product(size, kernel, attributes, batch):
    g = Graph((batch, 8, *size))
    g.add("Conv", [g.quantized("x"), g.weight("a", (5, 8, *kernel)), g.bias("a", 5)], "y", "a", **attributes)
    assert g.compare("y")["a"] == "MatMulIntegerToFloat"


@pytest.mark.parametrize(
    ("channels", "groups", "attributes"),
    [(3, 1, {}), (8, 8, {}), (8, 2, {}), (8, 1, {"auto_pad": "SAME_UPPER"})],
)
def test_other_convolutions_with_a_float_result_stay_float(channels, groups, attributes):
    g = Graph((1, channels, 6, 6))
    weight = g.weight("a", (16, channels // groups, 3, 3))
    g.add("Conv", [g.quantized("x"), weight, g.bias("a", 16)], "y", "a", group=groups, **attributes)
    assert g.compare("y")["a"] == "Conv"


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("between", BETWEEN, ids=" ".join)
def test_convolution_before_a_quantizer_is_one_of_integers(groups, between):
    g = Graph((1, 4, 8, 8))
    weight = g.weight("a", (8, 4 // groups, 3, 3))
    y = g.add("Conv", [g.quantized("x"), weight, g.bias("a", 8)], "t", "a", group=groups)
    for i, operation in enumerate(between):
        inputs, attributes = [y], {}
        if operation == "Clip":
            inputs += [g.constant("low", np.float32(0)), g.constant("high", np.float32(255 * Y_SCALE))]
        elif operation == "MaxPool":
            attributes = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [1, 1, 0, 0]}
        elif operation == "Transpose":
            attributes = {"perm": [0, 1, 3, 2]}
        elif operation.startswith("Pad"):
            inputs.append(g.constant("pads", np.array([0, 0, 1, 2, 0, 0, 0, 1])))
            inputs += [g.constant("value", np.float32(0.5))] if operation != "Pad" else []
            operation = "Pad"
        y = g.add(operation, inputs, f"between{i}", **attributes)
    y = g.quantized(y, Y_SCALE, 0)
    g.add("Conv", [y, g.weight("b", (8, 8, 1, 1))], "y", "b")
    # A value may round to the next level, where the order of sums or the rounding of the bias decides.
    assert g.compare("y", least_db=40)["a"] == "QLinearConv"


@pytest.mark.parametrize(
    ("operation", "bounds", "zero"),
    [("Relu", [], 100), ("Clip", [-1, 1], 100), ("Clip", [0, 6], 0), ("Clip", [0.5, 255 * Y_SCALE], 0)],
)
def test_clamp_inside_the_grid_is_kept(operation, bounds, zero):
    g = Graph((1, 8, 6, 6))
    g.add("Conv", [g.quantized("x"), g.weight("a", (8, 8, 1, 1))], "t", "a")
    g.add(operation, ["t", *(g.constant(f"bound{b}", np.float32(b)) for b in bounds)], "c", "clamp")
    g.add("Conv", [g.quantized("c", Y_SCALE, zero), g.weight("b", (8, 8, 1, 1))], "y", "b")
    operations = g.compare("y", least_db=40)
    assert (operations["a"], operations["clamp"]) == ("MatMulIntegerToFloat", operation)


def test_second_reader_gets_the_float_result():
    g = Graph((1, 8, 6, 6))
    g.add("Conv", [g.quantized("x"), g.weight("a", (8, 8, 1, 1))], "t", "a")
    g.add("Conv", [g.quantized("t", Y_SCALE), g.weight("b", (8, 8, 1, 1))], "u", "b")
    g.add("Add", ["t", "u"], "y")
    assert g.compare("y", least_db=40)["a"] == "MatMulIntegerToFloat"


def test_biases_beyond_32_bits_survive():
    """Folded batch norms leave channels with weights of about zero, whose biases are far beyond their scale."""
    g = Graph((1, 8, 6, 6))
    g.add("Conv", [g.quantized("x"), g.weight("a", (8, 8, 1, 1)), g.bias("a", 8)], "t", "a")
    g.constants["a.scale"][:3] = [1e-38, 1e-12, 1e-9]
    g.constants["a.b"][:3] = [1, 2, 3]
    g.add("Conv", [g.quantized("t", Y_SCALE), g.weight("b", (8, 8, 1, 1))], "y", "b")
    assert g.compare("y", least_db=40)["a"] == "QLinearConv"


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("kind", ["MatMul", "MatMul+Add", "Gemm"])
def test_linear_layer_is_a_product(kind, transposed):
    g = Graph((3, 12))
    shape, axis = ((7, 12), 0) if transposed else ((12, 7), 1)
    inputs = [g.quantized("x"), g.weight("a", shape, axis)]
    if kind == "Gemm":
        g.add("Gemm", [*inputs, g.bias("a", 7)], "y", "a", transB=int(transposed))
    else:
        if transposed:
            inputs[1] = g.add("Transpose", inputs[1:], "a.t", perm=[1, 0])
        g.add("MatMul", inputs, "y" if kind == "MatMul" else "t", "a")
        if kind == "MatMul+Add":
            g.add("Add", [g.bias("a", 7), "t"], "y", "sum")
    operations = g.compare("y")
    assert operations["a"] == "MatMulIntegerToFloat"
    assert "sum" not in operations


def test_scaled_gemm_stays_float():
    g = Graph((3, 12))
    g.add("Gemm", [g.quantized("x"), g.weight("a", (12, 7), 1), g.bias("a", 7)], "y", "a", alpha=2.0, beta=0.5)
    assert g.compare("y")["a"] == "Gemm"


def test_addition_of_a_tensor_is_no_bias():
    g = Graph((7, 7))
    g.add("MatMul", [g.quantized("x"), g.weight("a", (7, 7), 1)], "t", "a")
    g.add("Add", ["t", "x"], "y", "sum")
    assert g.compare("y")["sum"] == "Add"


def test_every_layer_reads_a_weight_of_its_own_name():
    """Also in fp32, behind a transpose, and where two layers share one."""
    g = Graph((3, 12))
    g.constant("w", g.rng.normal(size=(12, 12)).astype(np.float32))
    g.add("Transpose", ["w"], "wt", perm=[1, 0])
    g.add("MatMul", ["x", "wt"], "h", "first")
    g.add("MatMul", ["h", "wt"], "y", "second")
    model = onnx_ir.serde.deserialize_model(g.model("y"))
    lower(model)
    assert set(model.graph.initializers) >= {weight_name("first"), weight_name("second")}
    assert g.compare("y") == {"first": "MatMul", "second": "MatMul"}


@pytest.mark.parametrize("quantized_result", [True, False])
@pytest.mark.parametrize("groups", [1, 16])
def test_kernels_hold_the_largest_sums_of_the_scheme(groups, quantized_result):
    """Kernels that add two products in 16 bits saturate on the largest activations and weights."""
    depthwise = groups == 16
    scheme = get_scheme(OnnxruntimeCpuTarget().scheme_name)
    g = Graph((1, 16, 6, 6))
    weight = g.weight("a", (16, 16 // groups, 3, 3))
    g.constants["a.int8"][:] = scheme.weight_levels(8, depthwise)
    g.constants["a.int8"][:8] *= -1
    g.add("Conv", [g.quantized("x", zero=0), weight, g.bias("a", 16)], "t", "a", group=groups)
    if quantized_result:
        scale = 255 * X_SCALE * 0.015 * 9 * 16 / groups  # the largest sum is about 128 steps
        g.add("Conv", [g.quantized("t", scale, 128), g.weight("b", (16, 16, 1, 1))], "y", "b")
    else:
        g.add("Identity", ["t"], "y")
    g.compare("y", least_db=40, x=np.full(g.shape, 255 * X_SCALE, np.float32))
