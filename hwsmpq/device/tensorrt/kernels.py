"""The kernels of an engine, and the precision that they run every layer in.

Builders describe their kernels in two forms: the listing that the log ends with at detailed verbosity (available where
no GPU is), and the JSON of the engine inspector (see :mod:`hwsmpq.device.tensorrt.inspector`). Both become
:class:`Kernel`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwsmpq.device.files import write_bytes
from hwsmpq.device.runtime import NOT_AUDITED
from hwsmpq.errors import HwsmpqError

ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\]")
HELPERS = {
    "kgen", "signal", "wait", "reformat", "shape_call", "constant", "noop", "pointwise", "pointwisev2", "maxpool",
    "caskpooling",
}
"""Kinds of kernels that move, convert or combine elements, and multiply nothing."""
CAST, QUANTIZE = ".in.cast", ".in.quantize"
"""What the Q/DQ writer appends to a layer's name for the nodes that convert its input."""
FOREIGN = "{ForeignNode["
"""How 8.x names a kernel that a compiler of its own made of many nodes, and of whose inside it says nothing."""
FLOATS = {"Half", "BFloat16", "Float"}
PRECISIONS = {
    # (type of the weight, type of the activation) -> precision
    ("Int8", "Int8"): "int8",
    ("FP8", "FP8"): "fp8",
    ("Int4", "Half"): "w4a16",
    ("Int8", "Half"): "w8a16",
    ("Half", "Half"): "fp16",
    ("BFloat16", "BFloat16"): "bf16",
    ("Float", "Float"): "fp32",
}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and element type (the runtime's name: Float, Half, BFloat16, Int8, FP8, Int4) of a tensor in an engine."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether it has more than one dimension worth the name, as weights have and biases and scales have not."""
        return sum(n > 1 for n in self.shape) > 1


@dataclass(frozen=True)
class Kernel:
    """One kernel of an engine.

    Attributes:
        name: what the profiler calls it.
        kind: the runtime's word for what it does, in lower case (``correlation``, ``gemm``, ``kgen``).
        inputs, constants, outputs: its tensors; weights that are known when the engine is built are constants.
        layers: names of the ONNX nodes that it computes.
    """

    name: str
    kind: str
    inputs: tuple[TensorInfo, ...]
    constants: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[str, ...]

    @property
    def is_opaque(self) -> bool:
        return self.name.startswith(FOREIGN)


def parse_listing(text: str) -> tuple[Kernel, ...]:
    """Read the listing that a builder logs at detailed verbosity: the lines between ``Layers:`` and ``I/O Tensors:``.

    Raises:
        HwsmpqError: the text holds no kernel.
    """
    found = tuple(_listed(line) for line in text.splitlines() if line.startswith("Name: "))
    if not found:
        raise HwsmpqError(
            "the builder lists no kernels", "the audit reads them from its log at detailed verbosity",
            "report the version of the runtime (`hwsmpq targets` prints it)",
        )
    return found


def _listed(line: str) -> Kernel:
    name, kind = re.match(r"Name: (.*?), LayerType: (\w+)", line).groups()  # type: ignore[union-attr]
    return Kernel(
        name, kind.lower(), _tensors(line, "Inputs"), _tensors(line, "Constants"), _tensors(line, "Outputs"),
        tuple(dict.fromkeys(ONNX_LAYER.findall(line))),
    )


def _tensors(line: str, field: str) -> tuple[TensorInfo, ...]:
    """Tensors of one field: the braces from its opening bracket up to the next field."""
    match = re.search(rf"{field}: \[(.*?)\](?=, (?:Constants|Outputs|TacticName): |$)", line)
    entries = re.findall(r"Dimensions: \[([\d,]*)\].*?Datatype: (\w+)", match[1]) if match else []
    return tuple(TensorInfo(tuple(int(n) for n in dims.split(",") if n), dtype) for dims, dtype in entries)


def realised(kernels: Sequence[Kernel], layer: str) -> str:
    """Precision that a layer runs in; where no precision has the types found, they are named (``Int8 x Float``).

    A weight that another kernel of the engine dequantizes at every inference counts as what the layer then reads: such
    a layer computes in floating point. What no kernel names, where some name nothing, is :data:`NOT_AUDITED`.

    Raises:
        HwsmpqError: no kernel computes the layer.
    """
    if is_hidden(kernels, layer):
        return NOT_AUDITED
    kernel = computing(kernels, layer)
    weight = _weight(kernel).dtype
    # A kernel that also adds a residual has further inputs, of other types.
    activations = [tensor.dtype for tensor in kernel.inputs] or [weight]
    # A kernel that also converts its input shows it as it was before. Both operands of a product of floats are of one
    # type; other products are told apart by the node that converts.
    if weight in FLOATS or layer + QUANTIZE in kernel.layers:
        activations.append(weight)
    elif layer + CAST in kernel.layers:
        activations.append("Half")
    found = (PRECISIONS[weight, activation] for activation in activations if (weight, activation) in PRECISIONS)
    return next(found, f"{weight} x {activations[0]}")


def _weight(kernel: Kernel) -> TensorInfo:
    """The largest constant; or, where the weight is no constant, what is left of the inputs after the activation and
    after a residual (which has the shape of the result)."""
    constants = [tensor for tensor in kernel.constants if tensor.is_matrix]
    shapes = {tensor.shape for tensor in kernel.outputs}
    computed = [tensor for tensor in kernel.inputs[1:] if tensor.shape not in shapes]
    return max(constants or computed or kernel.constants or kernel.inputs, key=lambda tensor: tensor.n_elements)


def is_hidden(kernels: Sequence[Kernel], layer: str) -> bool:
    """Whether a layer can only be inside of a kernel that does not name what it computes."""
    return any(kernel.is_opaque for kernel in kernels) and not any(layer in kernel.layers for kernel in kernels)


def computing(kernels: Sequence[Kernel], layer: str) -> Kernel:
    """The kernel that multiplies the layer's input and weight.

    Raises:
        HwsmpqError: no kernel computes the layer.
    """
    of_layer = [kernel for kernel in kernels if layer in kernel.layers]
    if not of_layer:
        raise HwsmpqError(
            f"layer {layer!r} is not in the engine", "no kernel names it as its origin",
            "build the engine from an ONNX file whose nodes carry the layers' names",
        )
    multiplying = [kernel for kernel in of_layer if kernel.kind not in HELPERS] or of_layer
    # Several where the runtime split the layer: the one named after it does the product.
    return max(multiplying, key=lambda kernel: kernel.name.startswith(layer))


def write_kernels(kernels: Sequence[Kernel], path: Path) -> None:
    """Keep the kernels of an engine beside it, as JSON."""
    write_bytes(path, json.dumps([asdict(kernel) for kernel in kernels], indent=1).encode())


def read_kernels(path: Path) -> tuple[Kernel, ...]:
    """What :func:`write_kernels` wrote.

    Raises:
        HwsmpqError: the file is missing or is not such a list.
    """
    def tensors(entries: list[dict[str, Any]]) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(tuple(entry["shape"]), entry["dtype"]) for entry in entries)

    try:
        return tuple(
            Kernel(
                entry["name"], entry["kind"], tensors(entry["inputs"]), tensors(entry["constants"]),
                tensors(entry["outputs"]), tuple(entry["layers"]),
            )
            for entry in json.loads(path.read_text())
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HwsmpqError(f"cannot read the kernels in {path}", str(error), "build the engine again") from error
