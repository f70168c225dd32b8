"""Three kinds of networks to build right and wrong, and what may be wrong with engines of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hwsmpq.engine.agree import check
from hwsmpq.engine.build import ONNX_FILE, Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.target import Target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, Agreement, Assignment, LayerAudit, Manifest

Fault = Callable[[onnx.GraphProto], None]


class Faulty(Builder):
    """Changes the Q/DQ file before engines are made of it."""

    fault: Fault | None = None

    def write_onnx(self, assignment: Assignment, path: Path) -> None:
        super().write_onnx(assignment, path)
        if self.fault is not None:
            model = onnx.load(path)
            self.fault(model.graph)
            onnx.save(model, path)


def deliver_wrong(
    builder: Builder, deliver: Callable[..., Manifest], faults: Sequence[Fault], assignment: Assignment, folder: Path
) -> Manifest:
    """As ``deliver`` does, of a Q/DQ file with faults."""
    write = builder.write_onnx

    def write_wrong(assignment: Assignment, path: Path) -> None:
        write(assignment, path)
        model = onnx.load(path)
        for fault in faults:
            fault(model.graph)
        onnx.save(model, path)

    with mock.patch.object(builder, "write_onnx", write_wrong):
        return deliver(builder, assignment, folder)


def images() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )
    return net, torch.randn(40, 3, 10, 10)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.o = nn.Embedding(50, 24), nn.Linear(24, 5)
        self.a, self.b = nn.Linear(24, 24), nn.Linear(24, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = self.table(x)
        return self.o((y + self.b(self.a(y).relu())).mean(1))


def words() -> tuple[nn.Module, Tensor]:
    return Words(), torch.randint(50, (40, 7))


class Points(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        return self.o(gelu(self.b(gelu(self.a(x)))).amax(1))


def points() -> tuple[nn.Module, Tensor]:
    return Points(), torch.randn(40, 6, 32)


NETWORKS = {"images": images, "words": words, "points": points}
REDUCTIONS = {"ReduceMean": "ReduceMax", "ReduceMax": "ReduceMin", "GlobalAveragePool": "GlobalMaxPool"}
"""And what a wrong kernel may compute."""


class Case:
    """A network on a target, simulated and built."""

    def __init__(self, make: Callable[[], tuple[nn.Module, Tensor]], target: Target, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self._make = make
        model, x = make()
        self.captured, self.scheme, self.inputs = capture(model.eval(), (x,)), get_scheme(target.scheme_name), (x,)
        ranges = calibrate(self.captured, self.inputs, self.scheme, [8])
        self.simulator = Simulator(self.captured, ranges, self.scheme)
        self.builder = Faulty(self.captured, ranges, self.scheme, target)
        self.target = target

    @cached_property
    def groups(self) -> tuple[str, ...]:
        return self.captured.network.group_names

    @cached_property
    def layers(self) -> list[str]:
        return [layer.name for layer in self.captured.network.layers]

    def another(self, seed: int) -> Case:
        """Another network of the same form."""
        return Case(self._make, self.target, seed)

    def int8(self, *groups: str) -> Assignment:
        """These groups, or all, at int8."""
        return {g: "int8" if not groups or g in groups else REFERENCE for g in self.groups}

    def check(self, assignment: Assignment | None = None, other: Case | None = None) -> Agreement:
        """Of an engine, of another case if one is given."""
        assignment = assignment or self.int8()
        with (other or self).builder.temporary(assignment) as engine:
            outputs = engine_outputs(engine, self.inputs)
        return check(self.builder, self.simulator, assignment, self.inputs, outputs)

    def differing(self, damage: Callable[[Path], None] | None = None) -> dict[str, str]:
        """What layers of a delivered engine hold otherwise, after some damage to its files."""
        with TemporaryDirectory() as name:
            folder, assignment = Path(name) / "engine", self.int8()
            layers: tuple[LayerAudit, ...] = self.builder.deliver(assignment, folder).layers
            if damage is not None:
                damage(folder)
                layers = self.builder.audit(assignment, self.target.load(folder), folder)
            return {layer.layer: layer.differs for layer in layers if layer.differs}


def tensor(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(one for one in graph.initializer if one.name == name)


def scaled(layer: str, factor: float) -> Fault:
    """The scale of a layer's input is another one."""

    def change(graph: onnx.GraphProto) -> None:
        name = next((n.input[1] for n in graph.node if n.name == f"{layer}.in.quantize"), None)
        if name is not None:
            one = tensor(graph, name)
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(factor), name))

    return change


def swapped(a: str, b: str) -> Fault:
    """Two layers have each other's integers."""

    def change(graph: onnx.GraphProto) -> None:
        names = [f"{layer}.weight.int8" for layer in (a, b)]
        if {*names} <= {one.name for one in graph.initializer}:
            first, second = (numpy_helper.to_array(tensor(graph, name)) for name in names)
            tensor(graph, names[0]).CopyFrom(numpy_helper.from_array(second, names[0]))
            tensor(graph, names[1]).CopyFrom(numpy_helper.from_array(first, names[1]))

    return change


def misreduced(layer: str) -> Fault:
    """The reduction that a quantized layer reads computes something else, as some of OpenVINO do if not rewritten."""

    def change(graph: onnx.GraphProto) -> None:
        producers = {output: node for node in graph.node for output in node.output}
        node = next((n for n in graph.node if n.name == f"{layer}.in.quantize"), None)
        while node is not None and node.op_type not in REDUCTIONS:
            node = producers.get(node.input[0])
        if node is not None:
            node.op_type = REDUCTIONS[node.op_type]

    return change


def flip_in_ir(folder: Path, layer: str, is_bias: bool = False) -> None:
    """One bit of a weight or a bias in OpenVINO's file."""
    root = ElementTree.parse(folder / "model.xml").getroot()
    nodes = {node.attrib["id"]: node for node in root.iterfind("layers/layer")}
    named = {node.attrib["name"]: node for node in nodes.values()}
    edges = [edge.attrib for edge in root.iterfind("edges/edge")]
    sources = {(edge["to-layer"], edge["to-port"]): edge["from-layer"] for edge in edges}
    node = nodes[sources[named[f"{layer}/layer0"].attrib["id"], "1"]] if is_bias else named[f"{layer}/weight"]
    data = bytearray((folder / "model.bin").read_bytes())
    # A weight is a row of bytes, a bias one of floats, whose third byte tells.
    data[int(node.find("data").attrib["offset"]) + (14 if is_bias else 5)] ^= 1  # type: ignore[union-attr]
    (folder / "model.bin").write_bytes(data)


def flip_in_onnx(folder: Path, layer: str, file: str = ONNX_FILE, is_bias: bool = False) -> None:
    """One bit of a weight or a bias in an ONNX file."""
    model = onnx.load(folder / file)
    names = {one.name for one in model.graph.initializer}
    node = next(node for node in model.graph.node if node.name == layer)
    readers = [n for n in model.graph.node if node.output[0] in n.input] if node.op_type == "MatMul" else []
    if is_bias:
        candidates = [*readers[0].input] if readers else [*node.input][-1:]
    else:
        candidates = [f"{layer}.weight.int8", f"{layer}/weight"]
    one = tensor(model.graph, next(name for name in candidates if name in names))
    array = numpy_helper.to_array(one).copy()
    array.view(np.uint8).reshape(-1)[14 if is_bias else 5] ^= 1
    one.CopyFrom(numpy_helper.from_array(array, one.name))
    onnx.save(model, folder / file)
