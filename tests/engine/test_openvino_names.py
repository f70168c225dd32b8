"""Layers are found in OpenVINO's engines whatever the plugin fused them with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from hwsmpq.device.openvino import OpenvinoEngine
from hwsmpq.device.runtime import NOT_AUDITED
from hwsmpq.engine.build import Builder
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme

if TYPE_CHECKING:
    from .conftest import Prepared

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


def test_a_product_that_lost_its_name_is_found_by_its_weight(tmp_path: Path) -> None:
    """As in ConViT, where the zero point of one input of int8 came to be the middle of the range."""
    kernel = {"runtimePrecision": "i8", "layerType": "FullyConnected", "data": "i8", "originalLayersNames": ""}
    engine, lost = object.__new__(OpenvinoEngine), "Multiply_9"
    engine._path, engine.hint, engine._products = tmp_path / "model.xml", "f32", {}
    engine._path.write_text("<net/>")
    engine.__dict__["_kernels"] = {
        "a.proj/layer": {**kernel, "originalLayersNames": "a.proj/layer", "constants": [("a.proj/weight", "i8")]},
        lost: {**kernel, "originalLayersNames": lost, "constants": [("a.b.proj/weight", "i8"), ("C", "f32")]},
    }
    assert engine.realised(["a.proj", "a.b.proj"]) == {"a.proj": "int8", "a.b.proj": "int8"}
    with pytest.raises(HwsmpqError, match="layer 'other' is not in the engine"):
        engine.realised(["a.proj", "other"])


def test_a_layer_that_the_plugin_renames_is_not_audited(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not even in the file is an error (see the targets' conformance)."""
    engine = prepared.builder.engine(prepared.network.uniform("int8"))
    layers = [layer.name for layer in prepared.network.layers]
    lost = engine._owners(layers[:1]).popitem()[0]
    monkeypatch.setattr(engine, "_kernels", {name: one for name, one in engine._kernels.items() if name != lost})
    found = engine.realised(layers)
    assert found == dict.fromkeys(layers, "int8") | {layers[0]: NOT_AUDITED}
