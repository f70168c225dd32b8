"""Which node of an optimised graph computes a layer, and in what precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from hwsmpq.hardware.onnxruntime_cpu.lower import weight_name

INT8_KERNELS = {"QLinearConv", "MatMulIntegerToFloat"}
FLOAT_KERNELS = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
PRECISIONS = {**dict.fromkeys(INT8_KERNELS, "int8"), **dict.fromkeys(FLOAT_KERNELS, "fp32")}
BLOCKED = "_nchwc"
"""Ends the name of a convolution in the blocked fp32 layout, which is called after the tensor that it writes."""


@dataclass(frozen=True)
class Kernel:
    """A node of the optimised graph. ``precision`` is the operation where it is of no known precision."""

    node: str
    precision: str


def kernels(lowered: onnx.GraphProto, optimised: onnx.GraphProto) -> dict[str, Kernel]:
    """Layer -> its kernel, for every layer that is found.

    A layer is known by the initializer that it reads. Only the blocked fp32 convolutions have weights of their own;
    these are known by the first tensor behind the layer that is one's result, since other nodes may have been fused in.
    """
    # What else reads a weight, such as an embedding, is no kernel of the layer.
    last = sorted(optimised.node, key=lambda node: node.op_type in PRECISIONS)
    readers = {name: node for node in last for name in node.input}
    blocked = {node.name.removesuffix(BLOCKED): node for node in optimised.node if node.name.endswith(BLOCKED)}
    found = {}
    for node in lowered.node:
        weight = weight_name(node.name)
        if weight not in node.input:
            continue
        kernel = readers.get(weight)
        if kernel is None:
            kernel = next((blocked.pop(name) for name in _behind(node, lowered) if name in blocked), None)
        if kernel is not None:
            found[node.name] = Kernel(kernel.name, PRECISIONS.get(kernel.op_type, kernel.op_type))
    return found


def _behind(node: onnx.NodeProto, graph: onnx.GraphProto) -> Iterator[str]:
    """The result of a layer, and the tensors after it up to the first that has several readers."""
    while True:
        (tensor,) = node.output[:1]
        yield tensor
        readers = [reader for reader in graph.node if tensor in reader.input]
        if len(readers) != 1 or weight_name(readers[0].name) in readers[0].input:
            return
        (node,) = readers
