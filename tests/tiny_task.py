"""A task small enough to run the whole path in seconds; also the task file that command-line tests name."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hwsmpq.model.task import Task

N_CLASSES = 4
N_EVALUATION = 96
STRETCH = 400


class TinyNet(nn.Module):
    """Images (n, 1, 8, 8) to logits (n, 4) through three convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(12, 12, 3, padding=1)
        self.head = nn.Linear(12, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.conv2(x))
        x = functional.relu(self.conv3(x))
        return self.head(x.mean(dim=(2, 3)))


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> TinyNet:
    """Random weights, with logits shifted and stretched so that every class is answered and 4 bits hurt."""
    torch.manual_seed(seed)
    net = TinyNet().eval()
    with torch.no_grad():
        logits = net(images(256, seed=3))
        net.head.bias.sub_(logits.mean(0))
        for parameter in net.head.parameters():
            parameter.mul_(STRETCH)
    return net


def task(seed: int = 0) -> Task:
    """Labels are the answers of the network itself: its accuracy is 1, and every change of an answer is a loss."""
    net, inputs = network(seed), images(N_EVALUATION, seed=1)
    with torch.no_grad():
        labels = net(inputs).argmax(1)
    return Task(net, images(16, seed=2), (inputs, labels), name="tiny")
