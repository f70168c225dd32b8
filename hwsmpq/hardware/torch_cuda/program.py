"""A Q/DQ ONNX graph as a list of torch calls.

Every node runs as it is written, but what depends on constants alone is computed when the program is made, and a layer
between 8-bit Q/DQ that is a product of matrices multiplies its 8-bit operands.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.torch_cuda.node import PRECISIONS, Node, to_tensor, torch_type
from hwsmpq.hardware.torch_cuda.operations import Call, call_of
from hwsmpq.hardware.torch_cuda.products import quantized_layer
from hwsmpq.types import ONNX_LAYERS


class Event(Protocol):
    """A point on the time line of the device."""

    def record(self) -> None: ...


@dataclass(frozen=True)
class Step:
    """One call. ``operands`` and ``results`` name tensors, ``dead`` those that no later step reads.

    ``precision`` is what a layer multiplies in; None where the step is no layer.
    """

    name: str
    call: Call
    operands: tuple[str, ...]
    results: tuple[str, ...]
    precision: str | None
    dead: tuple[str, ...] = ()


class Program:
    """The calls of a graph, its weights on a device.

    Args:
        path: the ONNX file; layers' nodes are named by layer.
        device: where torch computes.
        computed: names of the precisions that the device multiplies matrices in.

    Attributes:
        inputs: name -> (shape, type).
        steps: in order.

    Raises:
        HwsmpqError: the file is no ONNX model, or holds an operation or type that is not supported (names it).
    """

    def __init__(self, path: Path, device: str, computed: Collection[str]) -> None:
        graph = _read(path).graph
        constants = {proto.name: to_tensor(proto) for proto in graph.initializer}
        self.inputs = {
            value.name: (
                tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
                torch_type(value.type.tensor_type.elem_type, value.name),
            )
            for value in graph.input
            if value.name not in constants
        }
        self._outputs = [value.name for value in graph.output]
        nodes = [Node(proto, constants) for proto in graph.node]
        producers = {output: node for node in nodes for output in node.outputs}
        steps = []
        for node in nodes:
            known = all(name in constants for name in node.operands)
            layer = quantized_layer(node, producers) if node.op_type in ONNX_LAYERS and not known else None
            if layer is not None and layer.precision in computed:
                operands = (layer.source, *node.operands[2:])
                steps.append(Step(node.name, layer.call(device), operands, node.outputs, layer.precision))
            elif known:
                constants |= _results(_as_written(node), constants)
            else:
                steps.append(_as_written(node))
        self.steps = _live(steps, self._outputs)
        used = {name for step in self.steps for name in step.operands} | set(self._outputs)
        self._constants = {name: place(x, device) for name, x in constants.items() if name in used}

    def run(self, inputs: Sequence[Tensor], events: Sequence[Event] = ()) -> list[Tensor]:
        """Outputs for inputs on the device.

        Args:
            events: none, or one for the start and one for the end of every step, which are recorded on the way.
        """
        tensors = self._constants | dict(zip(self.inputs, inputs, strict=True))
        if events:
            events[0].record()
        for i, step in enumerate(self.steps):
            tensors |= _results(step, tensors)
            for name in step.dead:
                del tensors[name]
            if events:
                events[i + 1].record()
        return [tensors[name] for name in self._outputs]


def place(x: Tensor, device: str) -> Tensor:
    """On the device; images and their kernels with channels innermost in memory."""
    return x.to(device, memory_format=torch.channels_last) if x.ndim == 4 else x.to(device)


def _read(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except (OSError, DecodeError) as error:
        raise HwsmpqError(f"{path} is not a readable ONNX model", str(error), "build the engine again") from error


def _as_written(node: Node) -> Step:
    weight = node.constant(1) if node.op_type in ONNX_LAYERS else None
    precision = None if weight is None else PRECISIONS.get(weight.dtype)
    call = call_of(node)  # which takes from the operands what it needs to know now
    return Step(node.name, call, tuple(node.operands), node.outputs, precision)


def _results(step: Step, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    result = step.call(*(tensors[name] for name in step.operands))
    return dict(zip(step.results, [result] if isinstance(result, Tensor) else result, strict=False))


def _live(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[Step, ...]:
    """Steps that the outputs depend on, each with the operands that die with it."""
    needed, kept = set(outputs), []
    for step in reversed(steps):
        if not needed.isdisjoint(step.results):
            kept.append(replace(step, dead=tuple(set(step.operands) - needed)))
            needed |= set(step.operands)
    return tuple(reversed(kept))
