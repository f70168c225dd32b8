"""Three kinds of networks to build right and wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hwsmpq.engine.agree import check
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.target import Target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, Agreement, Assignment, LayerAudit

Fault = Callable[[onnx.GraphProto], None]
TARGETS = ("openvino-cpu", "onnxruntime-cpu")


class Faulty(Builder):
    """Changes the Q/DQ file before engines are made of it."""

    fault: Fault | None = None

    def write_onnx(self, assignment: Assignment, path: Path) -> None:
        super().write_onnx(assignment, path)
        if self.fault is not None:
            model = onnx.load(path)
            self.fault(model.graph)
            onnx.save(model, path)


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


def rows() -> tuple[nn.Module, Tensor]:
    net = nn.Sequential(nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 5))
    return net, torch.randn(40, 32)


NETWORKS = {"images": images, "words": words, "rows": rows}


class Case:
    """A network on a target, simulated and built."""

    def __init__(self, make: Callable[[], tuple[nn.Module, Tensor]], target: Target, seed: int = 0) -> None:
        if (reason := target.unavailable()) is not None:
            pytest.skip(reason)
        torch.manual_seed(seed)
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

    def int8(self, *groups: str) -> Assignment:
        """These groups, or all, at int8."""
        return {g: "int8" if not groups or g in groups else REFERENCE for g in self.groups}

    def check(self, assignment: Assignment | None = None, other: Case | None = None) -> Agreement:
        """Of an engine, of another case if one is given."""
        assignment = assignment or self.int8()
        outputs = engine_outputs((other or self).builder.engine(assignment), self.inputs)
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
