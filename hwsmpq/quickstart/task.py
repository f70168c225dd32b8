"""The quickstart task: handwritten digits (UCI optdigits, CC BY 4.0) and a network trained on a disjoint part."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from hwsmpq.model.task import Task
from hwsmpq.quickstart.network import IMAGE_SIZE, DigitsResNet

DIGITS_FILE = Path(__file__).with_name("digits.safetensors")
WEIGHTS_FILE = Path(__file__).with_name("digits_resnet.safetensors")


def prepare(digits: Tensor) -> Tensor:
    """Turn raw digits (n, 8, 8) with values 0..16 into network inputs (n, 1, 16, 16) in 0..1."""
    return functional.interpolate(digits.float().unsqueeze(1) / 16, size=(IMAGE_SIZE, IMAGE_SIZE), mode="nearest")


def task() -> Task:
    """Network, calibration digits (from the training part) and held-out evaluation digits."""
    model = DigitsResNet()
    model.load_state_dict(load_file(WEIGHTS_FILE))
    digits = load_file(DIGITS_FILE)
    return Task(
        model=model,
        calibration=prepare(digits["calibration"]),
        evaluation=(prepare(digits["evaluation"]), digits["evaluation_labels"].long()),
        name="digits_resnet",
    )
