"""A layer whose files hold something else than was prepared is named, whatever its outputs look like."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hwsmpq.engine.build import ONNX_FILE, Builder
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.types import Ladder, Precision

from .networks import NETWORKS, TARGETS, Case, scaled, swapped


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETWORKS)
def test_faults_are_named(name: str, target: str) -> None:
    case = Case(NETWORKS[name], get_target(target))
    layer, last, before = case.layers[1], case.layers[-2], case.layers[-3]
    assert not case.differing()
    case.builder.fault = scaled(layer, 4)
    assert case.differing() == {layer: "4 times the scale of its input"}
    case.builder.fault = swapped(before, last)
    assert case.differing() == {before: "another weight", last: "another weight"}
    case.builder.fault = None
    for damage in (BYTES[target], partial(flip_in_onnx, file=ONNX_FILE, initializer="{}.weight.int8")):
        assert case.differing(lambda folder, damage=damage: damage(folder, layer)) == {layer: "another weight"}
    for damage in (BIASES[target], partial(flip_in_onnx, file=ONNX_FILE, initializer=case.bias_name(layer))):
        assert case.differing(lambda folder, damage=damage: damage(folder, layer)) == {layer: "another bias"}
    other = Case(NETWORKS[name], get_target(target), seed=1)
    case.builder.write_onnx = other.builder.write_onnx  # type: ignore[method-assign]
    assert {*case.differing()} == {*case.layers}


def flip_in_ir(folder: Path, layer: str) -> None:
    """One byte of a weight in OpenVINO's file."""
    root = ElementTree.parse(folder / "model.xml").getroot()
    node = next(n for n in root.iterfind("layers/layer") if n.attrib["name"] == f"{layer}/weight")
    data = bytearray((folder / "model.bin").read_bytes())
    data[int(node.find("data").attrib["offset"]) + 5] ^= 1  # type: ignore[union-attr]
    (folder / "model.bin").write_bytes(data)


def flip_in_onnx(folder: Path, layer: str, file: str, initializer: str) -> None:
    model = onnx.load(folder / file)
    one = next(tensor for tensor in model.graph.initializer if tensor.name == initializer.format(layer))
    array = numpy_helper.to_array(one).copy()
    array.flat[5] ^= 1
    one.CopyFrom(numpy_helper.from_array(array, one.name))
    onnx.save(model, folder / file)


BYTES: dict[str, Callable[[Path, str], None]] = {
    "openvino-cpu": flip_in_ir,
    "onnxruntime-cpu": partial(flip_in_onnx, file="model.onnx", initializer="{}/weight"),
}


class Kinds(nn.Module):
    """Every kind of layer, one smoothed, with factors between them."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up, self.norm = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2), nn.BatchNorm2d(8)
        self.wide, self.mixed, self.head = nn.Linear(8, 128), nn.Linear(128, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.c(x).relu()) * torch.linspace(0.5, 2, 8).view(1, 8, 1, 1)
        y = self.norm(self.up(y)).flatten(2).transpose(1, 2)
        return self.head(self.mixed(self.wide(y) * 0.25 * torch.logspace(-1, 1, 128)).relu().mean(1))


@pytest.mark.parametrize(
    ("name", "ladder"),
    [
        ("openvino-cpu", "w4a16,int8,w8a16,fp32"), ("onnxruntime-cpu", "int8,fp32"), ("onnx-qdq", "w3a5,int8,fp32"),
        ("tensorrt:sm87", "w4a16,int8,fp16,fp32"), ("openvino-cpu:per-tensor", "int8,fp32"),
    ],
)
def test_right_files_differ_nowhere(name: str, ladder: str, tmp_path: Path) -> None:
    target, precisions = get_target(name), Ladder.parse(ladder)
    if (reason := target.unavailable()) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    x, scheme = torch.randn(8, 3, 8, 8), get_scheme(target.scheme_name)
    captured = capture(Kinds().eval(), (x,))
    captured = captured.with_substitutes(substitutes(target, captured.network, precisions))
    bits = sorted({p.activation_bits for p in precisions.precisions if p.activation_format == "int"})
    ranges = calibrate(captured, (x,), scheme, bits, smooth=[Precision.parse("int8")])
    builder, layers = Builder(captured, ranges, scheme, target), captured.network.layers
    for precision in precisions.names:
        manifest = builder.deliver(captured.network.uniform(precision), tmp_path / "engine")
        assert not [audit for audit in manifest.layers if audit.differs]
        read = target.stored(tmp_path / "engine", layers)
        assert len(read) == (0 if name.startswith("tensorrt") else len(layers))
        if precision == "int8" and read:
            assert np.isfinite([read[layer].input_scale or np.inf for layer in ("c", "wide", "mixed", "head")]).all()
