"""OpenVINO's wrong kernels are worked around: with the rewrites its engines compute what is simulated.

Where an engine is right without them, the test is skipped and says that they are no longer needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.openvino_cpu import OpenvinoCpuTarget
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Precision

LEAST_DB = 40
"""A wrong kernel is below it, a single activation that rounds the other way above."""
N, N_CHANNELS = 24, 32


class Tokens(nn.Module):
    """A reduction over tokens before a linear layer, which outlier channels make calibration smooth."""

    def __init__(self, reduce: Callable[[Tensor], Tensor], factor: bool = False) -> None:
        super().__init__()
        self.reduce, self.p, self.o = reduce, nn.Linear(N_CHANNELS, N_CHANNELS), nn.Linear(N_CHANNELS, 5)
        outliers = torch.logspace(-1, 1, N_CHANNELS)
        self.factor = nn.Parameter(outliers if factor else torch.ones(()))
        if not factor:
            self.p.weight.data *= outliers[:, None]
            self.o.weight.data /= outliers

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.reduce(self.p(x).relu()) * self.factor)


class Positions(nn.Module):
    """An extreme over positions of a convolution, then another layer."""

    def __init__(self, reduce: Callable[[Tensor], Tensor], head: nn.Module) -> None:
        super().__init__()
        self.reduce, self.p, self.o = reduce, nn.Conv2d(N_CHANNELS, N_CHANNELS, 3, padding=1), head

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.reduce(self.p(x))).flatten(1)


class Attention(nn.Module):
    """With eight heads; on eight tokens OpenVINO's fusion is wrong."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused, self.q, self.p, self.o = fused, nn.Linear(64, 192), nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, n_tokens = x.shape[:2]
        q, k, v = self.q(x).reshape(n, n_tokens, 3, 8, 8).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.o(self.p(y.transpose(1, 2).reshape(n, n_tokens, 64))[:, 0])


class Scaled(nn.Module):
    """A factor behind a linear layer, then another one."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.out = nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.q(x) * 0.125))


class Head(nn.Sequential):
    """Products in two dimensions of which the first has no bias, or one of zeros."""

    def __init__(self, between: nn.Module, has_bias: bool = False) -> None:
        first = nn.Linear(64, 64, bias=has_bias)
        if has_bias:
            nn.init.zeros_(first.bias)
        super().__init__(nn.Linear(64, 64), nn.LayerNorm(64), first, between, nn.Linear(64, 16))


class Padded(nn.Module):
    """Keys without a bias, of which those of padded tokens are 0, and their directions."""

    def __init__(self) -> None:
        super().__init__()
        self.k = nn.Linear(N_CHANNELS, N_CHANNELS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.k(nn.functional.pad(x, (0, 0, 0, 4))), dim=-1)


class Places(nn.Module):
    """A factor for every position, then a kernel as large as the image."""

    def __init__(self) -> None:
        super().__init__()
        self.o, self.factor = nn.Conv2d(N_CHANNELS, 5, 7, padding=3), torch.rand(7, 7) + 1

    def forward(self, x: Tensor) -> Tensor:
        return self.o(x / self.factor)


class Halos(nn.Module):
    """Windows that overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.kv, self.o = nn.Conv2d(N_CHANNELS, N_CHANNELS, 1), nn.Linear(N_CHANNELS, 5)

    def forward(self, x: Tensor) -> Tensor:
        windows = self.kv(x).unfold(2, 4, 2).unfold(3, 4, 2)
        return self.o(windows.softmax(-1).sum((2, 3, 4, 5)))


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    precision: str = "int8"


TOKENS, IMAGE = (16, N_CHANNELS), (N_CHANNELS, 6, 6)
CASES = {
    "mean": Case(partial(Tokens, partial(torch.mean, dim=1)), TOKENS),
    "sum": Case(partial(Tokens, partial(torch.sum, dim=1)), TOKENS),
    "norm": Case(partial(Tokens, partial(torch.norm, dim=1)), TOKENS),
    "max": Case(partial(Tokens, partial(torch.amax, dim=1)), TOKENS),
    "mean and factor": Case(partial(Tokens, partial(torch.mean, dim=1), True), TOKENS),
    "max of positions": Case(
        lambda: Positions(partial(torch.amax, dim=(2, 3)), nn.Linear(N_CHANNELS, 5)), IMAGE
    ),
    "min of positions": Case(
        lambda: Positions(partial(torch.amin, dim=(2, 3)), nn.Linear(N_CHANNELS, 5)), IMAGE
    ),
    "max, kept": Case(
        lambda: Positions(partial(torch.amax, dim=(2, 3), keepdim=True), nn.Conv2d(N_CHANNELS, 5, 1)), IMAGE
    ),
    "min of channels": Case(
        lambda: Positions(partial(torch.amin, dim=1, keepdim=True), nn.Conv2d(1, 2, 3)), IMAGE
    ),
    "factor": Case(Scaled, (64,)),
    "no bias": Case(partial(Head, nn.ReLU()), (64,)),
    "bias of zeros": Case(partial(Head, nn.ReLU6(), True), (64,)),
    "nothing between": Case(partial(Head, nn.Identity()), (64,)),
    "factor of positions": Case(Places, (N_CHANNELS, 7, 7), "fp32"),
    "norm of padded tokens": Case(Padded, (4, N_CHANNELS)),
    "windows that overlap": Case(Halos, IMAGE),
    "attention": Case(partial(Attention, False), (8, 64), "fp32"),
    "fused attention": Case(partial(Attention, True), (8, 64), "fp32"),
}


class Untouched(OpenvinoCpuTarget):
    def rewrite(self, onnx: bytes) -> bytes:
        return onnx


def decibels(case: Case, target: OpenvinoCpuTarget) -> float:
    """Of an engine against the simulator."""
    torch.manual_seed(0)
    with torch.no_grad():
        model, x = case.make().eval(), torch.randn(N, *case.shape)
    captured, scheme, precision = capture(model, (x,)), get_scheme(target.scheme_name), Precision.parse("int8")
    ranges = calibrate(captured, (x,), scheme, [8], smooth=[precision])
    assignment = captured.network.uniform(case.precision)
    simulated = Simulator(captured, ranges, scheme).scores([assignment], (x[:8],), lambda out, rows: out)[0]
    builder = Builder(captured, ranges, scheme, target)
    engine = builder.engine(assignment)
    assert [one.realised for one in builder.audit(assignment, engine)] == [case.precision] * len(assignment)
    found = engine_outputs(engine, (x[:8],))
    return float(10 * torch.log10(simulated.square().sum() / (simulated - found).square().sum().clamp_min(1e-30)))


@pytest.mark.parametrize("name", CASES)
def test_engine_computes_what_is_simulated(name: str) -> None:
    target = OpenvinoCpuTarget()
    if (reason := target.unavailable()) is not None:
        pytest.skip(reason)
    assert decibels(CASES[name], target) > LEAST_DB
    try:
        found = decibels(CASES[name], Untouched())
    except HwsmpqError as error:
        assert "OpenVINO cannot compile" in error.what
        return
    if found > LEAST_DB:
        pytest.skip(f"{target.machine()['runtime']} does not need the rewrite here: {found:.0f} dB without it")
