"""The size that is counted is that of the files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwsmpq.engine.build import Builder
from hwsmpq.hardware.target import Target, substitutes
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.pipeline.decide.costs import counted_costs
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.types import Ladder


class Tied(nn.Module):
    """A table that is looked up and multiplied by, a product with one weight and its transpose, and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.wide = nn.Embedding(6000, 128), nn.Linear(128, 1024)
        self.conv, self.head = nn.Conv1d(128, 256, 3, padding=1), nn.Linear(128, 6000)
        self.back = nn.Linear(256, 128)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.table(x)
        y = y + self.wide(y).relu() @ self.wide.weight
        y = self.back(self.conv(y.transpose(1, 2)).relu().transpose(1, 2))
        return self.head(y.mean(1))


@pytest.mark.parametrize(
    ("name", "ladder"),
    [
        ("openvino-cpu", "w4a16,int8,w8a16,fp32"), ("onnxruntime-cpu", "int8,fp32"),
        ("onnx-qdq", "w3a3,w5a8,int8,fp32"), ("tensorrt:sm87", "w4a16,int8,fp16,fp32"),
    ],
)
def test_counted_is_what_the_files_hold(name: str, ladder: str, tmp_path: Path) -> None:
    target, precisions = get_target(name), Ladder.parse(ladder)
    if (reason := target.unavailable()) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    _assert_counted(Tied(), torch.randint(6000, (8, 6)), target, precisions, tmp_path)


def test_what_windows_read_is_not_in_the_file(tmp_path: Path) -> None:
    """A convolution that is a matrix product gathers its input, on large images by many indices."""
    target = get_target("onnxruntime-cpu")
    if (reason := target.unavailable()) is not None:
        pytest.skip(reason)
    net = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    _assert_counted(net, torch.randn(8, 256, 64, 64), target, Ladder.parse("int8,fp32"), tmp_path)


def _assert_counted(net: nn.Module, x: Tensor, target: Target, precisions: Ladder, folder: Path) -> None:
    scheme = get_scheme(target.scheme_name)
    captured = capture(net.eval(), (x,)).with_least_bits(target.least_weight_bits)
    captured = captured.with_substitutes(substitutes(target, captured.network, precisions))
    bits = sorted({p.activation_bits for p in precisions.precisions if p.activation_format == "int"})
    builder = Builder(captured, calibrate(captured, (x,), scheme, bits), scheme, target)
    for precision in precisions.names:
        assignment = captured.network.uniform(precision)
        _, counted = counted_costs(captured.network, assignment)
        n_bytes = builder.deliver(assignment, folder / "engine").n_bytes
        assert counted * 1e6 == pytest.approx(n_bytes, rel=0.02), (precision, counted, n_bytes)
