"""Three kinds of networks to build right and wrong, and the certificates of what may be wrong with engines of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, partialmethod
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hwsmpq.cli import main
from hwsmpq.engine.build import Builder
from hwsmpq.folder import Folder
from hwsmpq.hardware.target import Target
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.task import Task
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.types import CHOSEN, Assignment, Certificate, Manifest

Change = Callable[[onnx.GraphProto], None]
Damage = Callable[[Path, str], None]
"""(folder with the files of an engine, layer) -> a change of them."""
RIGHT = "none"
"""Name of the certificate of the right engine."""
OWN = "the runtime's own reduction"
"""Name of the one without rewrites, which is wrong in some versions of the runtime."""


class Images(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p, self.q = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1)
        self.a, self.b, self.o = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.q(self.p(x).relu()).relu().flatten(2).transpose(1, 2)
        return self.o(self.b(self.a(pixels).relu()).amin(1))


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.factors = nn.Embedding(50, 24), nn.Parameter(torch.rand(24) + 0.5)
        self.a, self.b, self.o = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.table(x)
        return self.o((y + self.b(self.a(y).relu())).mean(1) * self.factors)


class Points(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        gelu = nn.functional.gelu
        return self.o(gelu(self.b(gelu(self.a(x)))).amax(1))


def _task(kind: type[nn.Module], samples: Callable[[], Tensor], seed: int) -> Task:
    """A network with labels that are its own answers."""
    torch.manual_seed(seed)
    with torch.no_grad():
        model, x = kind().eval(), samples()
        return Task(model, x[:16], (x, model(x).argmax(1)))


def images(seed: int = 0) -> Task:
    return _task(Images, lambda: torch.randn(40, 3, 10, 10), seed)


def words(seed: int = 0) -> Task:
    return _task(Words, lambda: torch.randint(50, (40, 7)), seed)


def points(seed: int = 0) -> Task:
    return _task(Points, lambda: torch.randn(40, 6, 32), seed)


NETWORKS = {"images": images, "words": words, "points": points}
"""All have ``a`` and ``b``, linear layers of one shape, and ``o``, which reads a reduction, at int8 on every target."""
REDUCTIONS = {"ReduceMean": "ReduceMax", "ReduceMax": "ReduceMin", "ReduceMin": "ReduceMax"}
"""And what a wrong kernel may compute."""


@dataclass(frozen=True)
class Outcome:
    """What became of an engine.

    Attributes:
        fault: what is wrong with it.
        code: exit code of ``hwsmpq``.
        certificate: that it wrote.
        places: layers that are to be named for the fault.
    """

    fault: str
    code: int
    certificate: Certificate
    places: set[str]

    @property
    def named(self) -> set[str]:
        """The layers that the certificate says to be wrong: by their files, or else by what they compute."""
        by_files = {one.layer for one in self.certificate.audit.mismatches if one.differs}
        return by_files or {*self.certificate.agreement[CHOSEN].where}


def outcomes(network: str, target: Target, folder: Path) -> Iterator[Outcome]:
    """Of the right engine of a network, and of one with each fault, planted when all before the engine is known."""
    exported: dict[tuple[str, int | None], bytes] = {}

    def export_once(captured: Captured, batch: int | None = 1) -> bytes:
        key = captured.network.model_sha256, batch
        return exported.get(key) or exported.setdefault(key, export_onnx(captured, batch))

    with (
        mock.patch("hwsmpq.pipeline.run.get_target", lambda *_: target),
        mock.patch("hwsmpq.quantize.onnx_export.export_onnx", export_once),
    ):
        options = {"--target": target.name, "--ladder": "int8,fp32", "--bitops": "int8", "--cost": "bitops"}
        run = "run", f"{__name__}:{network}", *(word for option in options.items() for word in option)
        yield Outcome(RIGHT, *_certified(folder, *run), set())
        layers = {one.layer for one in Folder(folder).read(Manifest).layers}
        for fault, (planted, places) in _faults(network, target, layers).items():
            for kind in (Certificate, Manifest):
                Folder(folder).path(kind).unlink()
            with planted:
                yield Outcome(fault, *_certified(folder, "verify"), places)


def _certified(folder: Path, *command: str) -> tuple[int, Certificate]:
    with mock.patch.object(sys, "argv", ["hwsmpq", *command, "--out", str(folder)]):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return code, Folder(folder).read(Certificate)


def _faults(network: str, target: Target, layers: set[str]) -> dict[str, tuple[AbstractContextManager[Any], set[str]]]:
    """What plants each fault, and the layers that have it, of ``layers`` in all."""
    def planted(change: Callable[[onnx.GraphProto], None]) -> AbstractContextManager[Any]:
        return mock.patch.object(Builder, "write_onnx", partialmethod(_write_changed, Builder.write_onnx, change))

    def delivered(other: Builder) -> AbstractContextManager[Any]:
        return mock.patch.object(Builder, "deliver", partialmethod(_deliver_another, Builder.deliver, other))

    def damaged(damage: Damage) -> AbstractContextManager[Any]:
        return mock.patch.object(Builder, "write", partialmethod(_write_damaged, Builder.write, damage))

    found = {
        "a scale times 4": (planted(partial(_scale, factor=4)), {"b"}),
        "a scale over 4": (planted(partial(_scale, factor=0.25)), {"b"}),
        "weights of two layers swapped": (planted(_swap), {"a", "b"}),
        "an engine of another network": (delivered(_builder(NETWORKS[network](seed=1), target)), layers),
        "another reduction": (planted(_misreduce), {"o"}),
    }
    if type(target).rewrite is not Target.rewrite:
        found[OWN] = mock.patch.object(type(target), "rewrite", lambda _, onnx: onnx), {"o"}
    if target.name in FLIPS:
        for what in ("weight", "bias"):
            found[f"a bit of a {what}"] = damaged(partial(FLIPS[target.name], is_bias=what == "bias")), {"b"}
    return found


def _builder(task: Task, target: Target) -> Builder:
    captured, scheme = capture(task.model, task.calibration), get_scheme(target.scheme_name)
    captured = captured.with_ties(target.ties(captured))
    return Builder(captured, calibrate(captured, task.calibration, scheme, [8]), scheme, target)


def _deliver_another(
    builder: Builder, deliver: Callable[..., Manifest], other: Builder, assignment: Assignment, folder: Path
) -> Manifest:
    with mock.patch.object(builder, "write_onnx", other.write_onnx):
        return deliver(builder, assignment, folder)


def _write_damaged(
    builder: Builder, write: Callable[..., None], damage: Damage, assignment: Assignment, folder: Path
) -> None:
    write(builder, assignment, folder)
    damage(folder, "b")


def _write_changed(
    builder: Builder, write: Callable[..., None], change: Change, assignment: Assignment, path: Path
) -> None:
    write(builder, assignment, path)
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)


def _tensor(graph: onnx.GraphProto, name: str) -> onnx.TensorProto:
    return next(one for one in graph.initializer if one.name == name)


def _scale(graph: onnx.GraphProto, factor: float) -> None:
    """The scale of a layer's input is another one."""
    for node in graph.node:
        if node.name == "b.in.quantize":
            one = _tensor(graph, node.input[1])
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one) * np.float32(factor), one.name))


def _swap(graph: onnx.GraphProto) -> None:
    """Two layers have each other's integers."""
    names = ["a.weight.int8", "b.weight.int8"]
    if {*names} <= {one.name for one in graph.initializer}:
        first, second = (_tensor(graph, name) for name in names)
        first.name, second.name = second.name, first.name


def _misreduce(graph: onnx.GraphProto) -> None:
    """A reduction computes something else where a quantized layer reads it, as in OpenVINO if it is not rewritten."""
    producers = {output: node for node in graph.node for output in node.output}
    node = next((n for n in graph.node if n.name == "o.in.quantize"), None)
    while node is not None and node.op_type not in REDUCTIONS:
        node = producers.get(node.input[0])
    if node is not None:
        node.op_type = REDUCTIONS[node.op_type]


def _flip_in_ir(folder: Path, layer: str, is_bias: bool) -> None:
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


WEIGHTS = ".weight", ".weight.int8", "/weight"
"""What names of weights in ONNX files end with."""


def _flip_in_onnx(folder: Path, layer: str, is_bias: bool) -> None:
    """One bit of a weight or a bias in the ONNX file of an engine."""
    model = onnx.load(folder / "model.onnx")
    names = [f"{layer}{ending}" for ending in ((".bias", ".bias.int8") if is_bias else WEIGHTS)]
    one = next(one for one in model.graph.initializer if one.name in names)
    array = numpy_helper.to_array(one).copy()
    array.view(np.uint8).reshape(-1)[14 if is_bias else 5] ^= 1
    one.CopyFrom(numpy_helper.from_array(array, one.name))
    onnx.save(model, folder / "model.onnx")


FLIPS: dict[str, Callable[..., None]] = {
    "openvino-cpu": _flip_in_ir, "onnxruntime-cpu": _flip_in_onnx, "torch-cuda": _flip_in_onnx
}
"""What flips a bit in the files of engines, where these can be read."""
