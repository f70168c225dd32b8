"""ONNX nodes and tensors as torch sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from hwsmpq.errors import HwsmpqError

TORCH_TYPES = {
    TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16, TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.FLOAT8E4M3FN: torch.float8_e4m3fn, TensorProto.INT8: torch.int8, TensorProto.UINT8: torch.uint8,
    TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64, TensorProto.BOOL: torch.bool,
}
PRECISIONS = {
    torch.int8: "int8", torch.float8_e4m3fn: "fp8", torch.float16: "fp16", torch.bfloat16: "bf16",
    torch.float32: "fp32",
}
"""Type of a layer's operands -> precision."""
BITS_AS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


class Node:
    """An ONNX node on its way to a torch call.

    Attributes:
        operands: names of the tensors that the call takes; shrinks as operands are read as ``numbers``.
    """

    def __init__(self, proto: onnx.NodeProto, constants: Mapping[str, Tensor]) -> None:
        self.name, self.op_type, self.domain = proto.name or proto.output[0], proto.op_type, proto.domain
        self.inputs, self.outputs = tuple(proto.input), tuple(proto.output)
        self.operands = [name for name in self.inputs if name]
        self._attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        self._constants = constants

    def attribute(self, name: str, default: Any = None) -> Any:
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def constant(self, index: int) -> Tensor | None:
        """An operand that is known when the engine is loaded; None where it is absent or computed."""
        return self._constants.get(self.inputs[index]) if index < len(self.inputs) else None

    def numbers(self, index: int) -> Any:
        """An operand as a Python number or list, no tensor of the call from now on; None where it is absent.

        Raises:
            HwsmpqError: the operand is computed by the network.
        """
        if index >= len(self.inputs) or not self.inputs[index]:
            return None
        value = self.constant(index)
        self.require(value is not None, f"operand {index} ({self.inputs[index]}) is computed by the network")
        self.operands.remove(self.inputs[index])
        return value.tolist()  # type: ignore[union-attr]

    def require(self, condition: bool, otherwise: str) -> None:
        """
        Raises:
            HwsmpqError: the condition does not hold; names the node's operation.
        """
        if not condition:
            raise HwsmpqError(
                f"operation {self.op_type} ({self.name}) does not run in torch here", otherwise,
                "replace the operation in the model, or use another target",
            )


def torch_type(data_type: int, name: str) -> torch.dtype:
    """Torch's form of an ONNX type.

    Raises:
        HwsmpqError: torch has no such type; names the tensor.
    """
    if data_type not in TORCH_TYPES:
        raise HwsmpqError(
            f"tensor {name} has the type {TensorProto.DataType.Name(data_type)}", "torch does not compute with it",
            "use precisions that the target offers (`hwsmpq targets` lists them)",
        )
    return TORCH_TYPES[data_type]


def to_tensor(proto: TensorProto) -> Tensor:
    """A tensor of an ONNX file.

    Raises:
        HwsmpqError: torch has no such type.
    """
    dtype, array = torch_type(proto.data_type, proto.name), numpy_helper.to_array(proto)
    # By its bits: numpy has no bfloat16 and no fp8 that torch would take.
    return torch.from_numpy(array.view(BITS_AS[array.dtype.itemsize]).copy()).view(dtype)
