"""Networks whose latency is measured. What an engine takes does not depend on its weights, so that those of torchvision
have random ones, and random images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torchvision import models

from hwsmpq.model.load import load_task
from hwsmpq.model.task import Task

TASKS = Path(__file__).parent / "tasks"
N_CALIBRATION, N_EVALUATION, SIZE = 16, 64, 224


def _random(name: str) -> Task:
    torch.manual_seed(0)
    images = torch.randn(N_CALIBRATION + N_EVALUATION, 3, SIZE, SIZE)
    evaluation = images[N_CALIBRATION:], torch.randint(1000, (N_EVALUATION,))
    model = getattr(models, name)(weights=None)
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = None  # the mean over all that it sees
    with torch.no_grad():
        # Without statistics activations die out, to 1e-8 in MobileNetV3's last layers, and quantizers with them.
        model.train()(images[:N_CALIBRATION])
    return Task(model.eval(), images[:N_CALIBRATION], evaluation, name=name)


def _example(name: str) -> Task:
    return load_task(str(TASKS / f"{name}.py"))


NETWORKS: dict[str, Callable[[], Task]] = {
    "resnet18": lambda: _random("resnet18"),
    "resnet50": lambda: _random("resnet50"),
    "mobilenet_v2": lambda: _random("mobilenet_v2"),
    "mobilenet_v3_small": lambda: _random("mobilenet_v3_small"),
    "mobilenet_v3_large": lambda: _random("mobilenet_v3_large"),
    "resnet20": lambda: _example("cifar_resnet20"),
    "efficientnet_lite0": lambda: _example("efficientnet_lite0"),
    "minilm": lambda: _example("minilm_stsb"),
}
