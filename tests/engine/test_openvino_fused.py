"""Layers are found by what computes them, whatever OpenVINO multiplies into their weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator

LEAST_DB = 40


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        self.g = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu()
        return self.o((y + self.b(y) * self.g[:, None, None]).mean((2, 3)))


class ScaledQuery(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.o = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(((self.q(x) * 0.25) @ self.k(x).transpose(1, 2)).softmax(-1) @ x).mean(1)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.q(x) * 0.125))


class RootParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w, self.out = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.conv2d(x, self.w).relu().mean((2, 3)))


class Upsampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.bn, self.o = nn.ConvTranspose2d(4, 8, 2, 2, groups=2), nn.BatchNorm2d(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.bn(self.up(x)).relu().mean((2, 3)))


class Norms(nn.Module):
    """One convolution under two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.a, self.b, self.o = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.Linear(8, 2)
        self.a.weight.data.uniform_(0.5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.a(self.c(x)).relu() + self.b(self.c(x.flip(3))).relu()).mean((2, 3)))


def frozen() -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    net[1].weight.uniform_(0.5, 1.5)
    return net


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer scale": (LayerScale, (3, 16, 16)), "scaled query": (ScaledQuery, (6, 32)), "scaled layer": (Scaled, (64,)),
    "parameter of the root": (RootParameter, (3, 16, 16)), "frozen batch norm": (frozen, (3, 16, 16)),
    "grouped and transposed": (Upsampled, (4, 8, 8)), "two batch norms": (Norms, (3, 12, 12)),
}

KEPT_IN_FLOAT = {"grouped and transposed": ("up",), "two batch norms": ("c", "c#2")}
"""What the plugin computes in fp32 where int8 is asked for: transposed convolutions of inputs with a zero point, and
convolutions that share a weight."""


@pytest.mark.parametrize("precision", ["int8", "fp32", "w8a16"])
@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_found_and_computes_what_is_simulated(name: str, precision: str) -> None:
    target = get_target("openvino-cpu")
    if (reason := target.unavailable()) is not None:
        pytest.skip(reason)
    torch.manual_seed(0)
    make, shape = CASES[name]
    model, x = make().eval(), torch.randn(8, *shape)
    captured, scheme = capture(model, (x,)), get_scheme(target.scheme_name)
    ranges = calibrate(captured, (x,), scheme, [8])
    network = captured.network
    runs = {layer.name: precision if target.runs(layer, precision) else "fp32" for layer in network.layers}
    assignment = {group.name: runs[group.layers[0]] for group in network.groups}
    engine = Builder(captured, ranges, scheme, target).engine(assignment)
    realised = engine.realised([layer.name for layer in network.layers])
    kept = {layer: "fp32" for layer in KEPT_IN_FLOAT.get(name, ()) if realised[layer] == "fp32"}
    assert realised == runs | kept
    simulated = Simulator(captured, ranges, scheme).scores([assignment], (x,), lambda out, rows: out)[0]
    error = (simulated - engine_outputs(engine, (x,))).square().sum()
    assert float(10 * torch.log10(simulated.square().sum() / error.clamp_min(1e-30))) > LEAST_DB
