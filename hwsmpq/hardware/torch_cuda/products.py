"""Products of 8-bit matrices: what linear layers and pointwise convolutions between Q/DQ become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hwsmpq.hardware.torch_cuda.node import PRECISIONS, Node
from hwsmpq.hardware.torch_cuda.operations import Call, along, call_of, is_plain_gemm

MIN_ROWS, MULTIPLE = 32, 16
"""cuBLAS takes 8-bit matrices of more than 16 rows, whose other sizes are multiples of 16: others are padded."""


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer whose input and weight are 8-bit numbers of one type.

    Attributes:
        source: name of the quantized input.
        values: the weight, (n_outputs, n_inputs).
        scales: product of the scales of input and weight, (n_outputs,) float32.
        strides: of a pointwise convolution; None for a linear layer.
    """

    source: str
    values: Tensor
    scales: Tensor
    strides: tuple[int, ...] | None

    @property
    def precision(self) -> str:
        return PRECISIONS[self.values.dtype]

    def call(self, device: str) -> Call:
        """The layer on quantized input (n, ..., n_inputs), or (n, n_inputs, ...) for a convolution, and bias."""
        product = _Product(self.values, self.scales, device)
        if self.strides is None:
            return product
        wanted = (..., *(slice(None, None, stride) for stride in self.strides))
        # In channels_last neither movedim copies anything.
        return lambda x, bias=None: product(x[wanted].movedim(1, -1), bias).movedim(-1, 1)


def quantized_layer(node: Node, producers: Mapping[str, Node]) -> QuantizedLayer | None:
    """The 8-bit form of a layer's node; None if its operands are no 8-bit numbers or it is no matrix product."""
    weight = _dequantized(node.inputs[1], producers)
    dequantize = producers.get(node.inputs[0])
    if weight is None or dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    scale, zero = dequantize.constant(1), dequantize.constant(2)
    values, scales = weight
    if scale is None or scale.numel() != 1 or zero is None or zero.dtype != values.dtype or bool(zero.float().any()):
        return None
    strides = None
    if node.op_type == "Conv" and _is_pointwise(node, values):
        strides = tuple(node.attribute("strides", [1] * (values.ndim - 2)))
        values, scales = values.flatten(1), scales.flatten(1)
    elif node.op_type == "MatMul" or (node.op_type == "Gemm" and is_plain_gemm(node)):
        if not node.attribute("transB", 0):
            values, scales = values.t(), scales.t()
    else:
        return None
    if scales.shape[1] != 1:
        return None  # one scale an input, by which a product cannot be multiplied
    return QuantizedLayer(dequantize.inputs[0], values, (scale * scales[:, 0]).expand(len(values)), strides)


def _is_pointwise(node: Node, weight: Tensor) -> bool:
    return (
        weight.shape[2:].numel() == 1 and node.attribute("group", 1) == 1 and not any(node.attribute("pads", []))
        and node.attribute("auto_pad", "NOTSET") == "NOTSET"
    )


def _dequantized(name: str, producers: Mapping[str, Node]) -> tuple[Tensor, Tensor] | None:
    """Integers of a weight behind DequantizeLinear (and transpositions), and the scales that broadcast to it."""
    node = producers.get(name)
    if node is None or node.op_type not in ("Transpose", "DequantizeLinear"):
        return None
    if node.op_type == "Transpose":
        found, transpose = _dequantized(node.inputs[0], producers), call_of(node)
        return found and (transpose(found[0]), transpose(found[1]))
    values, scales, zero = (node.constant(i) for i in range(3))
    if values is None or scales is None or node.attribute("block_size", 0) or (zero is not None and zero.float().any()):
        return None
    scales = along(scales, values.ndim, node.attribute("axis", 1))
    return values, scales.reshape(scales.shape or [1] * values.ndim).float()


class _Product:
    """Rows of 8-bit numbers times a weight, scaled to float32."""

    def __init__(self, values: Tensor, scales: Tensor, device: str) -> None:
        n_outputs, n_inputs = values.shape
        padded = _padded(values.contiguous(), -n_outputs % MULTIPLE, -n_inputs % MULTIPLE)
        # Column-major, which is the one order of the second matrix that the kernels of all GPUs take.
        self._weight, self._scales = padded.to(device).t(), scales.to(device)
        self._one = torch.ones((), device=device)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., n_inputs) -> (..., n_outputs) float32."""
        rows = x.flatten(0, -2).contiguous()
        padded = _padded(rows, max(0, MIN_ROWS - len(rows)), self._weight.shape[0] - rows.shape[1])
        scaled = self._multiply(padded)[: len(rows), : len(self._scales)] * self._scales
        return (scaled if bias is None else scaled.add_(bias)).unflatten(0, x.shape[:-1])

    def _multiply(self, rows: Tensor) -> Tensor:
        if rows.dtype == torch.int8:
            return torch._int_mm(rows, self._weight)
        return torch._scaled_mm(rows, self._weight, self._one, self._one, out_dtype=torch.float32)


def _padded(matrix: Tensor, n_rows: int, n_columns: int) -> Tensor:
    """With zeros below and to the right."""
    if not n_rows and not n_columns:
        return matrix
    # As bytes: padding knows no fp8, whose zero is the zero byte.
    return functional.pad(matrix.view(torch.int8), (0, n_columns, 0, n_rows)).view(matrix.dtype)
