"""CIFAR ResNet-20 (He et al. 2015, option A) on CIFAR-10 (JPEG).

Data below HWSMPQ_DATA: ``cifar10_jpeg/{train5000,test5000}.npz`` and the state dict ``cifar10_jpeg/resnet20.pt``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import hwsmpq
from _data import data_path, normalize

N_CALIBRATION = 512


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the width grows the shortcut subsamples and pads channels with zeros."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stride = 1 if in_channels == channels else 2
        self.n_padded = (channels - in_channels) // 2
        self.conv1 = nn.Conv2d(in_channels, channels, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride != 1:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.n_padded, self.n_padded))
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """Images (n, 3, 32, 32) to logits (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(BasicBlock(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(BasicBlock(16, 32), BasicBlock(32, 32), BasicBlock(32, 32))
        self.layer3 = nn.Sequential(BasicBlock(32, 64), BasicBlock(64, 64), BasicBlock(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def images(part: str, n: int | None = None) -> tuple[Tensor, Tensor]:
    """The first ``n`` inputs (n, 3, 32, 32) and labels (n,) of one part."""
    with np.load(data_path(f"cifar10_jpeg/{part}.npz")) as arrays:
        pixels, labels = torch.from_numpy(arrays["x"][:n]), torch.from_numpy(arrays["y"][:n])
    return normalize(pixels.permute(0, 3, 1, 2).float().contiguous()), labels.long()


def task() -> hwsmpq.Task:
    model = ResNet20()
    model.load_state_dict(torch.load(data_path("cifar10_jpeg/resnet20.pt"), map_location="cpu", weights_only=True))
    training = images("train5000")
    return hwsmpq.Task(
        model=model.eval(), calibration=training[0][:N_CALIBRATION], evaluation=images("test5000"),
        name="cifar_resnet20", training=training,
    )
