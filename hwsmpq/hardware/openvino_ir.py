"""What an OpenVINO IR (``model.xml`` and ``model.bin``) holds of layers, read without OpenVINO."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwsmpq.device.openvino import COMPUTE_OPS, FILE, LAYER, PASS_THROUGH_OPS
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
        for edge in root.iterfind("edges/edge"):
            self._sources[edge.attrib["to-layer"], int(edge.attrib["to-port"])] = edge.attrib["from-layer"]
        self._bin = np.memmap(path.with_suffix(".bin"), np.uint8, "r")

    def stored(self, layer: Layer) -> Stored | None:
        node = self._by_name.get(f"{layer.name}{LAYER}")
        if node is None or node.attrib["type"] not in COMPUTE_OPS:
            return None
        weight = self._value(self._input(node, 1))
        if weight is None:
            return None
        transposes = node.attrib["type"] == "MatMul" and _data(node).get("transpose_b") != "true"
        real = in_shape(weight, layer, transposes)
        if real is None:
            return None
        x = self._input(node, 0)
        while x.attrib["type"] in PASS_THROUGH_OPS:
            x = self._input(x, 0)
        if x.attrib["type"] != "FakeQuantize":
            return Stored(real)
        low, high = (self._value(self._input(x, port)) for port in (3, 4))
        if low is None or high is None or low.size != 1:
            return Stored(real)
        scale = float(high.item() - low.item()) / (int(_data(x)["levels"]) - 1)
        return Stored(real, scale, round(-low.item() / scale))

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
        if data["element_type"] not in TYPES:
            return None
        return raw.view(TYPES[data["element_type"]]).reshape(shape)


def _data(node: ElementTree.Element) -> dict[str, str]:
    found = node.find("data")
    return {} if found is None else found.attrib
