"""An engine that computes something else is seen by its outputs, and where it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hwsmpq.engine.agree import check, locate
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.target import Target
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, Agreement, Assignment

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
    def __init__(self, make: Callable[[], tuple[nn.Module, Tensor]], target: Target, seed: int = 0) -> None:
        if (reason := target.unavailable()) is not None:
            pytest.skip(reason)
        torch.manual_seed(seed)
        model, x = make()
        self.captured, self.scheme, self.inputs = capture(model.eval(), (x,)), get_scheme(target.scheme_name), (x,)
        ranges = calibrate(self.captured, self.inputs, self.scheme, [8])
        self.simulator = Simulator(self.captured, ranges, self.scheme)
        self.builder = Faulty(self.captured, ranges, self.scheme, target)

    def check(self, quantized: list[str] | None = None, other: Case | None = None) -> Agreement:
        names = self.captured.network.group_names
        assignment = {g: "int8" if quantized is None or g in quantized else REFERENCE for g in names}
        outputs = engine_outputs((other or self).builder.engine(assignment), self.inputs)
        return check(self.builder, self.simulator, assignment, self.inputs, outputs)

    @property
    def layers(self) -> list[str]:
        return [layer.name for layer in self.captured.network.layers]


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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_faults_are_seen_and_located(name: str, target: str) -> None:
    case = Case(NETWORKS[name], get_target(target))
    groups, layers = list(case.captured.network.group_names), case.layers
    for quantized in (None, groups[1:2], []):
        assert case.check(quantized).agrees, case.check(quantized)
    for factor in (4.0, 0.25):
        case.builder.fault = scaled(layers[1], factor)
        assert not case.check().agrees
        assert case.check().where == (layers[1],)
    case.builder.fault = swapped(layers[-3], layers[-2])
    assert not case.check().agrees
    assert {layers[-3], layers[-2]} <= {*case.check().where}  # both have to be quantized for it
    case.builder.fault = None
    assert not case.check(other=Case(NETWORKS[name], get_target(target), seed=1)).agrees


def test_a_region_is_halved_until_neither_half_is_wrong() -> None:
    groups = list("abcdefgh")
    assert locate(groups, lambda some: "c" in some) == ("c",)
    assert locate(groups, lambda some: {"c", "d"} <= {*some}) == ("c", "d")
    assert locate(groups, lambda some: {"b", "g"} <= {*some}) == tuple(groups)


def test_a_disagreement_is_said_with_its_place() -> None:
    one = Agreement(0.25, 0.001, 32, ("a", "b"))
    assert not one.agrees
    assert "0.25" in one.said and "a to b" in one.said
