"""Which node of an optimised graph computes a layer, and in what precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hwsmpq.device.onnxruntime.nodes import Node

INT8_KERNELS = {"QLinearConv", "MatMulIntegerToFloat"}
FLOAT_KERNELS = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"}
PRECISIONS = {**dict.fromkeys(INT8_KERNELS, "int8"), **dict.fromkeys(FLOAT_KERNELS, "fp32")}
BLOCKED = "_nchwc"
"""Ends the name of a convolution in the blocked fp32 layout, which is called after the tensor that it writes."""


def weight_name(layer: str) -> str:
    """The initializer that a layer reads in an engine's file."""
    return f"{layer}/weight"


@dataclass(frozen=True)
class Kernel:
    """A node of the optimised graph. ``precision`` is the operation where it is of no known precision."""

    node: str
    precision: str


def kernels(file: Sequence[Node], optimised: Sequence[Node]) -> dict[str, Kernel]:
    """Layer -> its kernel, for every layer that is found, from the nodes of an engine's file and those that the runtime
    made of them.

    A layer is known by the initializer that it reads. Only the blocked fp32 convolutions have weights of their own;
    these are known by the first tensor behind the layer that is one's result, since other nodes may have been fused in.
    """
    # What else reads a weight, such as an embedding, is no kernel of the layer.
    last = sorted(optimised, key=lambda node: node.operation in PRECISIONS)
    readers = {name: node for node in last for name in node.inputs}
    blocked = {node.name[: -len(BLOCKED)]: node for node in optimised if node.name.endswith(BLOCKED)}
    found = {}
    for node in file:
        weight = weight_name(node.name)
        if weight not in node.inputs:
            continue
        kernel = readers.get(weight)
        if kernel is None:
            kernel = next((blocked.pop(name) for name in _behind(node, file) if name in blocked), None)
        if kernel is not None:
            found[node.name] = Kernel(kernel.name, PRECISIONS.get(kernel.operation, kernel.operation))
    return found


def _behind(node: Node, file: Sequence[Node]) -> Iterator[str]:
    """The result of a layer, and the tensors after it up to the first that has several readers."""
    while True:
        (tensor,) = node.outputs[:1]
        yield tensor
        readers = [reader for reader in file if tensor in reader.inputs]
        if len(readers) != 1 or weight_name(readers[0].name) in readers[0].inputs:
            return
        (node,) = readers
