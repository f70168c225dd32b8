"""The quickstart network: a small residual CNN for 16x16 grey images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

IMAGE_SIZE = 16
N_CLASSES = 10
STAGE_CHANNELS = (32, 32, 64, 96)
"""Output channels of the residual blocks; a block that changes the width also halves the resolution."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (1x1, stride 2 where the width changes), as in He et al. 2015."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        stride = 1 if in_channels == out_channels else 2
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsResNet(nn.Module):
    """Grey images (n, 1, 16, 16) in 0..1 to logits (n, 10). 11 convolutions and one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        width = STAGE_CHANNELS[0]
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_bn = nn.BatchNorm2d(width)
        blocks = []
        for channels in STAGE_CHANNELS:
            blocks.append(ResidualBlock(width, channels))
            width = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(width, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem_bn(self.stem(x)))
        return self.head(self.blocks(x).mean(dim=(2, 3)))
