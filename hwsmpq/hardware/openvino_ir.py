"""What an OpenVINO IR (``model.xml`` and ``model.bin``) holds of layers, read without OpenVINO."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq.device.openvino import FILE
from hwsmpq.device.openvino_names import COMPUTE_OPS, LAYER, PASS_THROUGH_OPS
from hwsmpq.hardware.stored import Stored, in_shape
from hwsmpq.types import Layer

TYPES = {"f32": "<f4", "f16": "<f2", "i8": "i1", "u8": "u1", "i32": "<i4", "i64": "<i8"}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {"Multiply": np.multiply, "Subtract": np.subtract}


def stored_in_ir(folder: Path, layers: Iterable[Layer]) -> dict[str, Stored]:
    """Layers whose operations have their names, those that can be read."""
    ir = _Ir(folder / FILE)
    found = {layer.name: ir.stored(layer) for layer in layers}
    return {name: one for name, one in found.items() if one is not None}


class _Ir:
    def __init__(self, path: Path) -> None:
        root = ElementTree.parse(path).getroot()
        self._layers = {node.attrib["id"]: node for node in root.iterfind("layers/layer")}
        self._by_name = {node.attrib["name"]: node for node in self._layers.values()}
        self._sources: dict[tuple[str, int], str] = {}
        self._readers: dict[str, list[ElementTree.Element]] = defaultdict(list)
        for edge in root.iterfind("edges/edge"):
            self._sources[edge.attrib["to-layer"], int(edge.attrib["to-port"])] = edge.attrib["from-layer"]
            self._readers[edge.attrib["from-layer"]].append(self._layers[edge.attrib["to-layer"]])
        self._bin = np.memmap(path.with_suffix(".bin"), np.uint8, "r")

    def stored(self, layer: Layer) -> Stored | None:
        node = self._by_name.get(f"{layer.name}{LAYER}")
        if node is None or node.attrib["type"] not in COMPUTE_OPS:
            return None
        if not layer.has_weight:
            if node.attrib["type"] != "MatMul":
                return None
            (scale, zero_point), (second, second_zero) = (self._grid(self._input(node, port)) for port in (0, 1))
            return Stored(None, scale, zero_point, second_scale=second, second_zero_point=second_zero)
        weight = self._value(self._input(node, 1))
        if weight is None:
            return None
        transposes = node.attrib["type"] == "MatMul" and _data(node).get("transpose_b") != "true"
        real = in_shape(weight, layer, transposes)
        if real is None:
            return None
        bias, read = self._bias(node), self._input(node, 0)
        x = read
        while x.attrib["type"] in PASS_THROUGH_OPS:
            x = self._input(x, 0)
        if x.attrib["type"] != "FakeQuantize":
            return Stored(real, bias=bias, inverse=self._factor(read))
        bounds = [self._value(self._input(x, port)) for port in range(1, 5)]
        low, high, least, largest = (np.empty(0) if one is None else one.reshape(-1) for one in bounds)
        if not low.size or least.size != 1:
            return Stored(real, bias=bias)
        scale = float(largest.item() - least.item()) / (int(_data(x)["levels"]) - 1)
        # A factor before a quantizer may have become a part of it.
        inverse = (largest - least) / (high - low) * self._factor(self._input(x, 0))
        return Stored(real, scale, round(-least.item() / scale), inverse, bias)

    def _grid(self, x: ElementTree.Element) -> tuple[float | None, int | None]:
        """Scale and zero point of a tensor that a product of activations reads, signed where it may be negative."""
        while x.attrib["type"] in PASS_THROUGH_OPS:
            x = self._input(x, 0)
        ends = [self._value(self._input(x, port)) for port in (3, 4)] if x.attrib["type"] == "FakeQuantize" else []
        if len(ends) < 2 or any(end is None or end.size != 1 for end in ends):
            return None, None
        least, largest = (float(end.item()) for end in ends if end is not None)
        levels = int(_data(x)["levels"])
        scale = (largest - least) / (levels - 1)
        return scale, round(-least / scale) - (levels // 2 if least < 0 else 0)

    def _factor(self, node: ElementTree.Element) -> NDArray[Any]:
        """What a tensor was multiplied by last, by one constant a last entry; additions and conversions aside."""
        found: NDArray[Any] = np.ones(1)
        while node.attrib["type"] == "Convert":
            node = self._input(node, 0)
        while (step := self._arithmetic(node)) is not None and step[0].size in (1, step[0].shape[-1]):
            constant, other = step
            found = found * constant.reshape(-1) if node.attrib["type"] == "Multiply" else found
            node = other
        return found

    def _bias(self, node: ElementTree.Element) -> NDArray[Any] | None:
        """The constant that is added to a result before anything else reads it, divided by factors that come between;
        None where there is none."""
        factor: NDArray[Any] = np.ones(1)
        while len(readers := self._readers[node.attrib["id"]]) == 1:
            (node,) = readers
            step = self._arithmetic(node)
            if step is not None and node.attrib["type"] == "Add":
                return step[0].reshape(-1) / factor
            if step is not None:
                factor = factor * step[0].reshape(-1)
            elif node.attrib["type"] not in ("Clamp", "Reshape"):  # to all of fp32: see hwsmpq.device.openvino_bf16
                break
        return None

    def _arithmetic(self, node: ElementTree.Element) -> tuple[NDArray[Any], ElementTree.Element] | None:
        """The constant that an addition or multiplication reads, and what else it reads; None for anything else."""
        if node.attrib["type"] not in ("Add", "Multiply"):
            return None
        operands = [self._input(node, port) for port in (0, 1)]
        for one, other in (operands, operands[::-1]):
            if (value := self._value(one)) is not None and value.ndim:
                return value, other
        return None

    def _input(self, node: ElementTree.Element, port: int) -> ElementTree.Element:
        return self._layers[self._sources[node.attrib["id"], port]]

    def _value(self, node: ElementTree.Element) -> NDArray[Any] | None:
        """A constant, or what operations of constants alone make of it."""
        kind, data = node.attrib["type"], _data(node)
        if kind == "Const":
            return self._constant(data)
        if kind not in ("Convert", "Reshape", "Transpose", *ARITHMETIC):
            return None
        x = self._value(self._input(node, 0))
        if x is None:
            return None
        if kind == "Convert":
            return x.astype(TYPES.get(data["destination_type"], "<f4"))
        other = self._value(self._input(node, 1))
        if other is None:
            return None
        if kind in ARITHMETIC:
            result: NDArray[Any] = ARITHMETIC[kind](x, other)
            return result
        if kind == "Transpose":
            return x.transpose(other.astype(int).tolist())
        shape = other.astype(int).tolist()
        return x.reshape([x.shape[i] if n == 0 and data.get("special_zero") == "true" else n
                          for i, n in enumerate(shape)])

    def _constant(self, data: dict[str, str]) -> NDArray[Any] | None:
        shape = [int(n) for n in data["shape"].split(",") if n.strip()]
        raw = self._bin[int(data["offset"]) :][: int(data["size"])]
        if data["element_type"] in ("i4", "u4"):
            halves = np.stack((raw & 15, raw >> 4), -1).reshape(-1)[: int(np.prod(shape))].astype(np.int8)
            return (halves - 16 * (halves > 7) if data["element_type"] == "i4" else halves).reshape(shape)
        if data["element_type"] == "bf16":  # the upper half of a float
            return (raw.view("<u2").astype("<u4") << 16).view("<f4").reshape(shape)
        if data["element_type"] not in TYPES:
            return None
        return raw.view(TYPES[data["element_type"]]).reshape(shape)


def _data(node: ElementTree.Element) -> dict[str, str]:
    found = node.find("data")
    return {} if found is None else found.attrib
