"""Every operation against the ONNX reference evaluator, one node at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.torch_cuda.operations import CONFIGURED, SIMPLE
from hwsmpq.hardware.torch_cuda.program import Program

OPSET = 22
RNG = np.random.default_rng(0)


def real(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return RNG.uniform(0.1, 2, size=shape).astype(np.float32)


def truth(*shape: int) -> np.ndarray:
    return RNG.integers(0, 2, shape).astype(bool)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# operation, what the network computes, what is known when it is loaded (an operand is None where it is left out; all
# are None for an embedding, whose first operand is the known one), attributes
UNARY = ("Abs", "Cos", "Erf", "Exp", "HardSwish", "Identity", "Neg", "Relu", "Sigmoid", "Sin", "Softplus", "Tanh")
BINARY = ("Add", "Div", "Equal", "Greater", "Less", "Mul", "Sub")
CASES = [
    *((name, [real(2, 3, 5)], [], {}) for name in (*UNARY, "Elu", "LeakyRelu", "LogSoftmax", "Softmax", "Gelu")),
    *((name, [real(2, 3, 5), real(3, 1)], [], {}) for name in BINARY),
    *((name, [truth(2, 3), truth(3)], [], {}) for name in ("And", "Or")),
    *((name, [positive(2, 3)], [], {}) for name in ("Log", "Reciprocal", "Sqrt")),
    *((name, [real(2, 3, 5, 4)], [ints(1, -1)], {"keepdims": k}) for name in (
        "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum") for k in (0, 1)),
    ("ReduceMean", [real(2, 3)], [], {}),
    ("Not", [truth(2, 3)], [], {}),
    ("Pow", [positive(2, 3)], [np.float32(2.5)], {}),
    ("Div", [np.array([[7, -7, 9]], np.int64), np.array([2, 2, -4], np.int64)], [], {}),
    ("Equal", [np.array([[0, 1, 1]], np.int64)], [np.array(0, np.int64)], {}),
    ("Where", [truth(2, 3), real(2, 3)], [np.float32(-1e9)], {}),
    ("Cast", [np.array([[0, 1, 2]], np.int64)], [], {"to": TensorProto.FLOAT}),
    ("Cast", [real(2, 3)], [], {"to": TensorProto.FLOAT16}),
    ("CastLike", [np.array([[0, 1, 2]], np.int64)], [np.float32(0)], {}),
    ("Elu", [real(2, 3)], [], {"alpha": 0.3}),
    ("LeakyRelu", [real(2, 3)], [], {"alpha": 0.3}),
    ("Gelu", [real(2, 3)], [], {"approximate": "tanh"}),
    ("HardSigmoid", [real(2, 30)], [], {"alpha": 1 / 6, "beta": 0.5}),
    ("HardSigmoid", [3 * real(2, 30)], [], {}),
    ("Softmax", [real(2, 3, 5)], [], {"axis": 1}),
    ("LogSoftmax", [real(2, 3, 5)], [], {"axis": 1}),
    ("MatMul", [real(2, 3, 5), real(2, 5, 4)], [], {}),
    ("MatMul", [real(2, 3, 5)], [real(5, 4)], {}),
    ("Gemm", [real(3, 5)], [real(5, 4)], {}),
    ("Gemm", [real(3, 5)], [real(4, 5), real(4)], {"transB": 1}),
    ("Conv", [real(2, 4, 9)], [real(6, 4, 3)], {}),
    ("Conv", [real(2, 4, 9, 8)], [real(6, 4, 3, 2), real(6)], {"strides": [2, 1], "pads": [1, 0, 1, 0]}),
    ("Conv", [real(2, 4, 9, 8)], [real(8, 1, 3, 3)], {"group": 4, "dilations": [2, 1]}),
    ("Conv", [real(1, 2, 5, 4, 6)], [real(3, 2, 2, 2, 2)], {}),
    ("ConvTranspose", [real(2, 4, 5, 6)], [real(4, 3, 3, 3), real(3)],
     {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("ConvTranspose", [real(2, 4, 5)], [real(4, 3, 2)], {}),
    ("BatchNormalization", [real(2, 3, 4, 4)], [positive(3), real(3), real(3), positive(3)], {"epsilon": 1e-3}),
    ("LayerNormalization", [real(2, 3, 5)], [positive(5), real(5)], {"epsilon": 1e-3}),
    ("LayerNormalization", [real(2, 3, 5)], [positive(3, 5)], {"axis": 1}),
    ("AveragePool", [real(2, 3, 9, 8)], [], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [real(2, 3, 8, 8)], [],
     {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [real(2, 3, 8)], [], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
    ("MaxPool", [real(2, 3, 9, 8)], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [real(2, 3, 9)], [], {"kernel_shape": [3], "dilations": [2], "strides": [2], "ceil_mode": 1}),
    ("GlobalAveragePool", [real(2, 3, 4, 5)], [], {}),
    ("Clip", [3 * real(2, 30)], [np.float32(0), np.float32(6)], {}),
    ("Clip", [3 * real(2, 30)], [None, np.float32(1)], {}),
    ("Clip", [3 * real(2, 30)], [np.float32(-1)], {}),
    ("Concat", [real(2, 3), real(2, 1)], [real(2, 2)], {"axis": -1}),
    ("Constant", [], [], {"value": numpy_helper.from_array(real(2, 3))}),
    ("Constant", [], [], {"value_ints": [3, -1]}),
    ("Constant", [], [], {"value_float": 2.5}),
    ("Expand", [real(3, 1)], [ints(2, 1, 4)], {}),
    ("Flatten", [real(2, 3, 4)], [], {}),
    ("Flatten", [real(2, 3, 4)], [], {"axis": 2}),
    ("Gather", [real(4, 3, 5)], [np.array(-1, np.int64)], {"axis": 1}),
    ("Gather", [real(4, 3), np.array([[0, 3], [-1, 2]], np.int64)], [], {}),
    ("Gather", [np.array([[0, 3], [1, 2]], np.int64)], None, {}),
    ("Pad", [real(2, 3, 4)], [ints(0, 1, 2, 1, 0, 3)], {}),
    ("Pad", [real(2, 3, 4)], [ints(0, 1, 2, 1, 0, 3), np.float32(1.5)], {}),
    ("Pad", [real(1, 2, 4, 5)], [ints(0, 0, 1, 2, 0, 0, 1, 3)], {"mode": "reflect"}),
    ("Pad", [real(1, 2, 4, 5)], [ints(0, 0, 1, 2, 0, 0, 1, 3)], {"mode": "edge"}),
    ("Reshape", [real(2, 3, 4)], [ints(0, -1)], {}),
    ("Reshape", [real(2, 3, 4)], [ints(4, 6)], {"allowzero": 1}),
    ("Slice", [real(5, 6, 7)], [ints(1, -3), ints(4, 2**63 - 1), ints(0, -1), ints(2, 1)], {}),
    ("Slice", [real(5, 6)], [ints(1, 0), ints(-1, 3)], {}),
    ("Split", [real(2, 7)], [ints(3, 4)], {"axis": -1}),
    ("Split", [real(2, 7)], [], {"axis": 1, "num_outputs": 2}),
    ("Squeeze", [real(2, 1, 3, 1)], [ints(1, -1)], {}),
    ("Squeeze", [real(2, 1, 3, 1)], [], {}),
    ("Unsqueeze", [real(2, 3)], [ints(-1, 0)], {}),
    ("Transpose", [real(2, 3, 4)], [], {"perm": [1, 2, 0]}),
    ("Transpose", [real(2, 3, 4)], [], {}),
    ("QuantizeLinear", [3 * real(4, 50)], [np.float32(0.02), np.int8(0)], {}),
    ("QuantizeLinear", [3 * real(4, 50)], [np.float32(0.02), np.uint8(100)], {}),
    ("QuantizeLinear", [np.arange(-9, 9, dtype=np.float32)[None] / 2], [np.float32(1), np.int8(0)], {}),  # ties
    ("QuantizeLinear", [3 * real(4, 5)], [positive(5) / 50, np.zeros(5, np.int8)], {"axis": 1}),
    ("DequantizeLinear", [RNG.integers(-128, 128, (4, 5)).astype(np.int8)], [np.float32(0.02), np.int8(0)], {}),
    ("DequantizeLinear", [RNG.integers(0, 256, (4, 5)).astype(np.uint8)], [np.float32(0.02), np.uint8(9)], {}),
    ("DequantizeLinear", [RNG.integers(-128, 128, (4, 5)).astype(np.int8)], [positive(4), np.zeros(4, np.int8)],
     {"axis": 0}),
]


def model(operation: str, computed: list, known: list | None, attributes: dict) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(computed))]
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
              for n, x in zip(names, computed, strict=True)]
    if known is None:
        known, operands = [real(9, 4)], ["k0", *names]
    else:
        operands = names + ["" if x is None else f"k{i}" for i, x in enumerate(known)]
    tensors = [numpy_helper.from_array(np.asarray(x), f"k{i}") for i, x in enumerate(known) if x is not None]
    outputs = ["y0", "y1"] if operation == "Split" else ["y0"]
    node = helper.make_node(operation, operands, outputs, name="node", **attributes)
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in outputs], tensors
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def program(proto: onnx.ModelProto, folder: Path) -> Program:
    onnx.save(proto, folder / "m.onnx")
    return Program(folder / "m.onnx", "cpu", ())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_operation_equals_the_reference(case, tmp_path):
    computed, proto = case[1], model(*case)
    expected = ReferenceEvaluator(proto).run(None, {f"x{i}": x for i, x in enumerate(computed)})
    found = program(proto, tmp_path).run([torch.from_numpy(x) for x in computed])
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert a.numpy().dtype == b.dtype
        np.testing.assert_allclose(a.numpy(), b, rtol=2e-5, atol=2e-6)


def test_every_operation_is_tested():
    assert {case[0] for case in CASES} == {*SIMPLE, *CONFIGURED}


def test_fp8_saturates_and_rounds_like_the_reference(tmp_path):
    x = np.array([[0.01, 0.3, -0.7, 1.06, 1.07, 17.0, 447.0, 500.0, -1e6, 2**-10, 3 * 2**-10]], np.float32)
    zero = helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0.0])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(np.float32(0.5), "scale"), zero],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    (expected,) = ReferenceEvaluator(proto).run(None, {"x": x})
    (found,) = program(proto, tmp_path).run([torch.from_numpy(x)])
    assert np.array_equal(found.numpy(), expected)
    assert found.max() == 224 and found.min() == -224


@pytest.mark.parametrize(
    ("operation", "computed", "known", "attributes", "why"),
    [
        ("Det", [real(2, 2)], [], {}, "no such operation"),
        ("Conv", [real(1, 2, 5, 5)], [real(3, 2, 2, 2)], {"auto_pad": "SAME_UPPER"}, "input's size"),
        ("Conv", [real(1, 2, 5, 5)], [real(3, 2, 2, 2)], {"pads": [0, 0, 1, 1]}, "unevenly"),
        ("Conv", [real(1, 2, 5, 5), real(3, 2, 2, 2)], [], {}, "weight is computed"),
        ("Gemm", [real(3, 5)], [real(5, 4)], {"alpha": 2.0}, "scales its operands"),
        ("Reshape", [real(2, 3), ints(3, 2)], [], {}, "is computed by the network"),
        ("Slice", [real(5)], [ints(4), ints(0), ints(0), ints(-1)], {}, "backwards"),
        ("Pad", [real(2, 3)], [ints(0, 1, 0, 1)], {"mode": "wrap"}, "mode"),
        ("QuantizeLinear", [real(2, 3)], [np.float32(1)], {}, "zero point"),
        ("DequantizeLinear", [np.ones((2, 5), np.uint8)], [positive(2), np.array([0, 9], np.uint8)], {"axis": 0},
         "zero point a channel"),
        ("Cast", [real(2)], [], {"to": TensorProto.STRING}, "STRING"),
    ],
)
def test_what_is_not_supported_is_named(operation, computed, known, attributes, why, tmp_path):
    with pytest.raises(HwsmpqError, match=why) as error:
        program(model(operation, computed, known, attributes), tmp_path)
    assert operation == "Cast" or f"{operation} (node)" in str(error.value)


def test_what_constants_alone_decide_is_computed_once(tmp_path):
    """A chain from two constants leaves one step: the addition of its result."""
    nodes = [
        helper.make_node("Mul", ["a", "b"], ["c"], name="known"),
        helper.make_node("Transpose", ["c"], ["d"], name="known too"),
        helper.make_node("Add", ["x", "d"], ["y"], name="add"),
        helper.make_node("Relu", ["x"], ["unread"], name="idle"),
    ]
    a, b, x = real(3, 2), real(3, 2), real(2, 3)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, x.shape)],
        [numpy_helper.from_array(a, "a"), numpy_helper.from_array(b, "b")],
    )
    made = program(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10), tmp_path)
    assert [step.name for step in made.steps] == ["add"]
    for _ in range(2):
        np.testing.assert_allclose(made.run([torch.from_numpy(x)])[0].numpy(), x + (a * b).T, rtol=1e-6)
