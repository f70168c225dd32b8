"""Networks whose weights do not fit into one ONNX file: the limit of 2 GB lowered to a few bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hwsmpq.engine.build import Builder
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize import onnx_export
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme


@pytest.mark.parametrize("name", ["openvino-cpu", "onnxruntime-cpu", "onnx-qdq", "tensorrt-rtx:sm89"])
def test_engines_are_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = get_target(name)
    reason = target.unavailable()
    if reason:
        pytest.skip(reason)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 40), nn.ReLU(),
        nn.Linear(40, 8),
    )
    x, scheme = torch.randn(9, 3, 8, 8), get_scheme(target.scheme_name)
    captured = capture(model.eval(), (x,))
    captured = captured.with_ties(target.ties(captured))
    ranges = calibrate(captured, (x,), scheme, [8])
    assignment = {g: "fp32" if g == captured.network.group_names[-1] else "int8" for g in captured.network.group_names}
    outputs, audits = [], []
    for limit in (onnx_export.LARGEST_MESSAGE, 500):
        monkeypatch.setattr(onnx_export, "LARGEST_MESSAGE", limit)
        folder = tmp_path / str(limit) / "engine"
        builder = Builder(captured, ranges, scheme, target)
        manifest = builder.deliver(assignment, folder)
        assert (folder / "qdq.onnx.data").exists() == (limit == 500)
        audits.append(manifest.layers)
        if target.has_latency:
            outputs.append(target.load(folder).infer([x[:1].numpy()])[0])
            target.load(folder).layer_ms([layer.name for layer in captured.network.layers], [x[:1].numpy()], 1)
    assert audits[0] == audits[1] and all(layer.as_requested for layer in audits[0])
    if outputs:
        np.testing.assert_array_equal(*outputs)
