"""A small network as Q/DQ ONNX, with every kind of layer, and the Network that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from hwsmpq.types import Assignment, Group, Layer, Network, Read

INPUT_SHAPE = (1, 3, 12, 12)
# CPUs without a dot-product instruction add two unsigned-by-signed products in 16 bits, which overflows beyond 64.
MAX_WEIGHT = 63

# name, ONNX operation, weight shape, output-channel axis, input tensor, output tensor, attributes
LAYERS = (
    ("stem.0", "Conv", (8, 3, 3, 3), 0, "x", "t0", {"pads": [1, 1, 1, 1]}),
    ("block.conv1", "Conv", (8, 8, 3, 3), 0, "r0", "t1", {"pads": [1, 1, 1, 1]}),
    ("block.conv2", "Conv", (8, 8, 3, 3), 0, "r1", "t2", {"pads": [1, 1, 1, 1]}),
    ("left", "Conv", (16, 8, 1, 1), 0, "r2", "t3", {}),
    ("right", "Conv", (16, 8, 3, 3), 0, "r2", "t4", {"pads": [1, 1, 1, 1]}),
    ("depthwise", "Conv", (16, 1, 3, 3), 0, "r3", "t5", {"pads": [1, 1, 1, 1], "group": 16}),
    ("up", "ConvTranspose", (16, 8, 2, 2), 1, "r5", "t6", {"strides": [2, 2]}),
    ("hidden", "MatMul", (8, 12), 1, "flat", "t7", {}),
    ("head.fc", "Gemm", (10, 12), 0, "r7", "y", {"transB": 1}),
)
OTHERS = {  # layer -> the nodes that follow it
    "stem.0": [("Relu", ["t0"], "r0")],
    "block.conv1": [("Relu", ["t1"], "r1")],
    "block.conv2": [("Add", ["t2", "r0"], "sum"), ("Relu", ["sum"], "r2")],
    "right": [("Add", ["t3", "t4"], "branches"), ("Relu", ["branches"], "r3")],
    "depthwise": [("Relu", ["t5"], "r5")],
    "up": [("Relu", ["t6"], "r6"), ("GlobalAveragePool", ["r6"], "pooled"), ("Flatten", ["pooled"], "flat")],
    "hidden": [("Add", ["t7", "hidden.bias"], "biased"), ("Relu", ["biased"], "r7")],
}
SHAPES = {  # of what layers read and write, without the batch
    "x": (3, 12, 12), **dict.fromkeys(("t0", "r0", "t1", "r1", "t2", "r2"), (8, 12, 12)),
    **dict.fromkeys(("t3", "t4", "r3", "t5", "r5"), (16, 12, 12)), "t6": (8, 24, 24), "flat": (8,), "t7": (12,),
    "r7": (12,), "y": (10,),
}
NAMES = tuple(layer[0] for layer in LAYERS)
GROUPS = (*(Group(n, (n,)) for n in NAMES[:3]), Group("left", ("left", "right")), *(Group(n, (n,)) for n in NAMES[5:]))


def zero_point(tensor: str) -> int:
    """Signed tensors need one; after a ReLU it is zero."""
    return 100 if tensor in ("x", "flat") else 0


def network() -> Network:
    """The network's description."""
    layers = tuple(
        Layer(
            name, "linear" if len(shape) == 2 else "conv_transpose" if op == "ConvTranspose" else "conv",
            f"{name}.weight", shape, axis, source, SHAPES[source], SHAPES[output], int(np.prod(shape)),
            int(np.prod(shape)), shape[axis],
        )
        for name, op, shape, axis, source, output, _ in LAYERS
    )
    writers = {
        "x": None, "r0": "stem.0", "r1": "block.conv1", "r2": "block.conv2", "r3": "right", "r5": "depthwise",
        "flat": "up", "r7": "hidden",
    }
    reads = tuple(Read(tensor, writer, int(np.prod(SHAPES[tensor]))) for tensor, writer in writers.items())
    return Network("0" * 64, layers, GROUPS, reads, 0)


def write(
    path: Path, layer_precisions: Assignment, seed: int = 0, zero_points: Mapping[str, int] = MappingProxyType({}),
    signed: bool = False,
) -> None:
    """Write the network with Q/DQ on the inputs of the layers that are int8: unsigned with a zero point, or signed."""
    rng = np.random.default_rng(seed)
    nodes, tensors = [], []

    def add(name: str, value: np.ndarray) -> str:
        tensors.append(numpy_helper.from_array(value, name))
        return name

    add("hidden.bias", rng.normal(size=12).astype(np.float32))
    quantized: set[str] = set()
    for name, op, shape, axis, source, output, attributes in LAYERS:
        n_inputs = int(np.prod(shape)) // shape[axis]
        scales = rng.uniform(0.5, 1.5, shape[axis]).astype(np.float32) * np.float32(2.5 / MAX_WEIGHT / n_inputs**0.5)
        integers = rng.integers(-MAX_WEIGHT, MAX_WEIGHT + 1, shape).astype(np.int8)
        integers.flat[0] = MAX_WEIGHT + 1  # needs the eighth bit
        along = [1] * len(shape)
        along[axis] = -1
        data, weight = source, f"{name}.weight"
        if layer_precisions[name] == "int8":
            add(f"{weight}.q", integers)
            add(f"{weight}.scale", scales)
            nodes.append(helper.make_node("DequantizeLinear", [f"{weight}.q", f"{weight}.scale"], [weight], axis=axis))
            data = f"{source}.dq"
            if source not in quantized:
                quantized.add(source)
                add(f"{source}.scale", np.float32(0.03))
                zero = np.int8(0) if signed else np.uint8(zero_points.get(source, zero_point(source)))
                add(f"{source}.zero", zero)
                parameters = [f"{source}.scale", f"{source}.zero"]
                nodes.append(helper.make_node("QuantizeLinear", [source, *parameters], [f"{source}.q"]))
                nodes.append(helper.make_node("DequantizeLinear", [f"{source}.q", *parameters], [data]))
        else:
            add(weight, integers.astype(np.float32) * scales.reshape(along))
        inputs = [data, weight]
        if op != "MatMul":
            inputs.append(add(f"{name}.bias", rng.normal(size=shape[axis]).astype(np.float32) * 0.1))
        nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        nodes += [helper.make_node(kind, list(ins), [out]) for kind, ins, out in OTHERS.get(name, ())]
    graph = helper.make_graph(
        nodes, "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, INPUT_SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 10))], tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def sample(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=INPUT_SHAPE).astype(np.float32)
