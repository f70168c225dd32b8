"""The operations that are layers, in one table of plain strings: for code with torch and without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["conv", "conv_transpose", "linear", "product"]
"""A product is one of two activations: a layer without a stored weight."""
WITH_WEIGHTS: frozenset[Kind] = frozenset({"conv", "conv_transpose", "linear"})


@dataclass(frozen=True)
class Operator:
    """What an operation with a weight is.

    Attributes:
        weight_axis: of the output channels in the weight.
        result_axis: of the output channels in the result.
        onnx: the operations of ONNX that compute it.
    """

    kind: Kind
    weight_axis: int
    result_axis: int
    onnx: tuple[str, ...]


_CONV = Operator("conv", 0, 1, ("Conv",))
_CONV_TRANSPOSE = Operator("conv_transpose", 1, 1, ("ConvTranspose",))
_LINEAR = Operator("linear", 0, -1, ("Gemm", "MatMul"))

OPERATORS = {
    "aten.conv1d.default": _CONV,
    "aten.conv2d.default": _CONV,
    "aten.conv3d.default": _CONV,
    "aten.conv1d.padding": _CONV,
    "aten.conv2d.padding": _CONV,
    "aten.conv3d.padding": _CONV,
    "aten.conv_transpose2d.input": _CONV_TRANSPOSE,
    "aten.linear.default": _LINEAR,
}
"""By the name of the operation in a captured graph."""
PRODUCTS = frozenset({"aten.matmul.default", "aten.bmm.default"})
"""Operations that are products where none of their operands is stored; MatMul in ONNX."""
ONNX_LAYERS = frozenset(name for operator in OPERATORS.values() for name in operator.onnx)
"""The operations of ONNX that may be layers."""
READ_SIZES = frozenset((
    *(f"aten.{name}.default" for name in (
        "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like", "full_like", "empty_like",
    )), "Shape", "Size",
))
"""Operations, of captured graphs and of ONNX, that read a tensor's sizes and none of its data."""
