"""A layer whose files hold something else than was prepared is named, whatever its outputs look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from hwsmpq.engine.build import ONNX_FILE, Builder
from hwsmpq.engine.structure import differences
from hwsmpq.hardware.stored import stored_in_onnx
from hwsmpq.hardware.target import substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.onnx_export import export_onnx
from hwsmpq.quantize.qdq import write_qdq
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.types import Ladder, OnnxForm, Precision


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
    net = Kinds().eval()
    for layer in (net.head, net.c):
        layer.weight.data[0] = 0  # as zero-initialised norms and pruning leave channels
    captured = capture(net, (x,))
    captured = captured.with_substitutes(substitutes(target, captured.network, precisions))
    bits = sorted({p.activation_bits for p in precisions.precisions if p.activation_format == "int"})
    smooth = [precision for precision in precisions.precisions if not precision.is_float]
    ranges = calibrate(captured, (x,), scheme, bits, smooth=smooth)
    builder, layers = Builder(captured, ranges, scheme, target), captured.network.layers
    for precision in precisions.names:
        manifest = builder.deliver(captured.network.uniform(precision), tmp_path / "engine")
        assert not [audit for audit in manifest.layers if audit.differs]
        read = target.stored(tmp_path / "engine", layers)
        assert len(read) == (0 if name.startswith("tensorrt") else len(layers))
        if precision == "int8" and read:
            assert np.isfinite([read[layer].input_scale or np.inf for layer in ("c", "wide", "mixed", "head")]).all()
            assert all(one.bias is not None for one in read.values())
            read["c"].weight[1] += 0.01  # beside a channel that is all zero
            found = differences(captured, ranges, scheme, captured.network.uniform("int8"), read)
            assert found == {"c": "another weight"}


@pytest.mark.parametrize("precision", ["int8", "fp16", "fp32"])
def test_files_without_types_differ_nowhere(precision: str, tmp_path: Path) -> None:
    """The builder of TensorRT 8 rounds weights itself, from floats in the file."""
    torch.manual_seed(0)
    x, scheme = torch.randn(8, 3, 8, 8), get_scheme("tensorrt")
    captured = capture(Kinds().eval(), (x,))
    ranges, assignment = calibrate(captured, (x,), scheme, [8]), captured.network.uniform(precision)
    form = OnnxForm(opset=16, strongly_typed=False)
    write_qdq(export_onnx(captured, 1), captured, assignment, ranges, scheme, tmp_path / "m.onnx", form)
    stored = stored_in_onnx(tmp_path / "m.onnx", captured.network.layers)
    assert len(stored) == len(captured.network.layers)
    assert not differences(captured, ranges, scheme, assignment, stored)
    stored["mixed"].weight[0, 0] += 0.01
    assert differences(captured, ranges, scheme, assignment, stored) == {"mixed": "another weight"}


@pytest.mark.parametrize(
    ("name", "precision"), [("openvino-cpu", "int8"), ("openvino-cpu", "w8a16"), ("onnxruntime-cpu", "int8")]
)
def test_other_smoothing_factors_are_named(name: str, precision: str, tmp_path: Path) -> None:
    """In the file that engines are built from, and in theirs."""
    target = get_target(name)
    if (reason := target.unavailable()) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
    net[0].weight.data *= torch.logspace(-1.5, 1, 32)[:, None]
    net[2].weight.data *= torch.logspace(0.75, -0.5, 32)
    x, scheme = torch.randn(64, 16), get_scheme(target.scheme_name)
    captured = capture(net.eval(), (x,))
    ranges = calibrate(captured, (x,), scheme, [8], smooth=[Precision.parse(precision)])
    builder, layers = Builder(captured, ranges, scheme, target), captured.network.layers
    assignment = captured.network.uniform(precision)
    builder.write(assignment, tmp_path)
    assert target.stored(tmp_path, layers)["2"].inverse.size == 32  # type: ignore[union-attr]
    assert not builder.audit(assignment, target.load(tmp_path), tmp_path)[1].differs
    model = onnx.load(tmp_path / ONNX_FILE)
    one = next(tensor for tensor in model.graph.initializer if tensor.name == "2.in.inverse")
    factors = numpy_helper.to_array(one).copy()
    factors[3] *= 1.01
    one.CopyFrom(numpy_helper.from_array(factors, one.name))
    onnx.save(model, tmp_path / "other.onnx")
    for again in (lambda: target.build(tmp_path / "other.onnx", tmp_path),
                  lambda: (tmp_path / "other.onnx").replace(tmp_path / ONNX_FILE)):
        again()
        audits = builder.audit(assignment, target.load(tmp_path), tmp_path)
        assert [audit.differs for audit in audits] == ["", "other smoothing factors"]
        builder.write(assignment, tmp_path)


class Token(nn.Module):
    """A learned token, repeated for every sample, to which a layer adds."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.proj, self.head = nn.Parameter(torch.randn(1, 1, 8)), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.token.expand(x.shape[0], -1, -1) + self.proj(x)).mean(1)


def test_a_constant_that_is_expanded_is_one(tmp_path: Path) -> None:
    """Runtimes make one number of it and the bias of the layer before (class attention)."""
    target = get_target("openvino-cpu")
    if (reason := target.unavailable()) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    x, scheme = torch.randn(8, 1, 8), get_scheme(target.scheme_name)
    captured = capture(Token().eval(), (x,))
    builder = Builder(captured, calibrate(captured, (x,), scheme, [8]), scheme, target)
    for precision in ("int8", "fp32"):
        manifest = builder.deliver(captured.network.uniform(precision), tmp_path / "engine")
        assert not [audit for audit in manifest.layers if audit.differs]
