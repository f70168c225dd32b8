"""Layers are found in OpenVINO's engines whatever the plugin fused them with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hwsmpq.engine.build import Builder
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme

ACTIVATIONS = {"relu": nn.ReLU, "hardswish": nn.Hardswish, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid}


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_products_between_activations_are_found(activation: str, precision: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    between = ACTIVATIONS[activation]
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), between(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 256), between(),
        nn.Linear(256, 200), between(), nn.Linear(200, 10, bias=False),
    ).eval()
    x = torch.randn(4, 3, 16, 16)
    captured, target = capture(model, (x,)), get_target("openvino-cpu")
    scheme = get_scheme(target.scheme_name)
    builder = Builder(captured, calibrate(captured, (x,), scheme, [8]), scheme, target)
    layers = [layer.name for layer in captured.network.layers]
    realised = builder.engine(captured.network.uniform(precision)).realised(layers)
    assert realised == dict.fromkeys(layers, precision)
