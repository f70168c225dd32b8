"""Small networks that between them hold every kind of layer, and what is needed to simulate them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import Scheme, get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Ladder, Ranges

torch.set_num_threads(1)  # small tensors: threads cost more than they give

LADDER = Ladder.parse("w2a2,w3a5,w4a8,int8,w8a16,fp8,bf16,fp16,fp32")


class Residual(nn.Module):
    """A residual DAG: shared inputs, an identity branch around a convolution, a depthwise convolution, a norm that
    cannot be folded, a wide flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.short = nn.Conv2d(8, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.head = nn.Linear(4 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = self.norm(nn.functional.silu(self.depthwise(y)) + (self.short(y) + y))
        y = nn.functional.max_pool2d(self.up(y).relu(), 2)
        return self.head(torch.flatten(y, 1))


class Tokens(nn.Module):
    """Linears on (n, tokens, d), one of them used twice and two on one input, a 1-d convolution, no BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv1d(3, 8, 3)
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.body, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).transpose(1, 2)
        attention = torch.softmax(self.query(y) @ self.key(y).transpose(1, 2), -1)
        y = self.norm(y + self.body(nn.functional.gelu(self.body(attention @ y))))
        return self.head(y.mean(1))


NETWORKS = {"residual": (Residual, (3, 8, 8)), "tokens": (Tokens, (3, 12))}


@dataclass(frozen=True)
class Case:
    model: nn.Module
    inputs: tuple[Tensor, ...]
    captured: Captured
    ranges: Ranges
    scheme: Scheme

    def simulator(self, memory_mb: int = 64) -> Simulator:
        return Simulator(self.captured, self.ranges, self.scheme, memory_mb)


def randomised(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model.eval()


@cache
def captured_network(network: str) -> tuple[nn.Module, Captured]:
    torch.manual_seed(0)
    kind, shape = NETWORKS[network]
    model = randomised(kind())
    return model, capture(model, (torch.randn(1, *shape),))


def shifted(captured: Captured, ranges: Ranges, size: float = 0.02) -> Ranges:
    """The ranges with some shift of every bias in every precision that has scales."""
    generator = torch.Generator().manual_seed(1)
    biases = {layer.name: captured.bias_of(layer) for layer in captured.network.layers}
    sizes = {name: len(bias) for name, bias in biases.items() if bias is not None}
    precisions = [precision for precision in LADDER.precisions if not precision.is_float]

    def some(n_channels: int) -> tuple[float, ...]:
        return tuple((size * torch.randn(n_channels, generator=generator)).tolist())

    return replace(ranges, shifts={p.name: {name: some(n) for name, n in sizes.items()} for p in precisions})


@cache
def make_case(network: str, scheme: str = "unsigned_activations", n: int = 6) -> Case:
    model, captured = captured_network(network)
    inputs = (torch.randn(n, *NETWORKS[network][1], generator=torch.Generator().manual_seed(0)),)
    ranges = calibrate(captured, inputs, get_scheme(scheme), [2, 5, 8])
    return Case(model, inputs, captured, shifted(captured, ranges), get_scheme(scheme))


@cache
def smoothed_case(scheme: str) -> Case:
    """Tokens with outliers: the tensor that two linears read has a channel 30 times as large as all others."""
    torch.manual_seed(0)
    model = Tokens().eval()
    with torch.no_grad():
        model.embed.weight[2] *= 30
    inputs = (torch.randn(6, *NETWORKS["tokens"][1]),)
    captured, rules = capture(model, inputs), get_scheme(scheme)
    precisions = [precision for precision in LADDER.precisions if not precision.is_float]
    return Case(model, inputs, captured, calibrate(captured, inputs, rules, [2, 5, 8], smooth=precisions), rules)


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """Signal to error in dB; 200 for equal tensors."""
    error = float((other - reference).double().square().sum())
    return min(200.0, 10 * float(torch.log10(reference.double().square().sum() / max(error, 1e-300))))
