"""The networks of the GPU check, and what their engines are compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torchvision import models

from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import Scheme, get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quickstart.task import task as quickstart_task
from hwsmpq.types import Assignment, Network, Ranges

N_CALIBRATION = 64
N_COMPARED = 4


def quickstart(seed: int) -> tuple[nn.Module, Tensor]:
    """The quickstart's trained network and its calibration digits."""
    task = quickstart_task()
    return task.model, task.calibration[0]


def imagenet(name: str, seed: int) -> tuple[nn.Module, Tensor]:
    """A network of torchvision without training, on noise: times are those of the trained one. Its batch norms fit the
    noise, else the network's outputs would vanish."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = getattr(models, name)(weights=None)
    images = torch.randn(N_CALIBRATION, 3, 224, 224, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images[:16])
    return model.eval(), images


NETWORKS: dict[str, Callable[[int], tuple[nn.Module, Tensor]]] = {
    "quickstart": quickstart, "resnet18": partial(imagenet, "resnet18"),
    "mobilenet_v2": partial(imagenet, "mobilenet_v2"),
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """A captured network with ranges, and the samples on which engines and simulators are compared."""

    captured: Captured
    ranges: Ranges
    scheme: Scheme
    inputs: tuple[Tensor, ...]

    @staticmethod
    def of(network: str, scheme_name: str, seed: int) -> Prepared:
        model, samples = NETWORKS[network](seed)
        inputs, scheme = (samples[:N_CALIBRATION],), get_scheme(scheme_name)
        captured = capture(model, inputs)
        return Prepared(captured, calibrate(captured, inputs, scheme, [8]), scheme, (samples[:N_COMPARED],))

    @property
    def network(self) -> Network:
        return self.captured.network

    def with_substitutes(self, substitutes: dict[str, dict[str, str]]) -> Prepared:
        return replace(self, captured=self.captured.with_substitutes(substitutes))

    def simulated(self, assignment: Assignment, device: str) -> Tensor:
        simulator = Simulator(self.captured, self.ranges, self.scheme, device=device)
        return simulator.scores([assignment], self.inputs, lambda out, rows: out)[0]


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """Signal to error in dB of the median sample: a level that tips over in one sample says little."""
    error = (reference - other).double().flatten(1).square().mean(1).clamp_min(1e-30)
    return float((10 * torch.log10(reference.double().flatten(1).square().mean(1) / error)).median())
