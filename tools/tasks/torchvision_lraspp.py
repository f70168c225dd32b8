"""torchvision's LR-ASPP (MobileNetV3-large) with random weights: the path of a segmenter with dict outputs, no more."""

from __future__ import annotations

import torch
from torch.nn import functional
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import hwsmpq

SIZE, N_CLASSES, N = 96, 5, 64


def entropy(outputs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over pixels, (n,)."""
    return functional.cross_entropy(outputs["out"], targets, reduction="none").mean((1, 2))


def task() -> hwsmpq.Task:
    torch.manual_seed(0)
    model = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=N_CLASSES).eval()
    images = torch.rand(16 + N, 3, SIZE, SIZE)
    with torch.no_grad():
        labels = model(images[16:])["out"].argmax(1)
    return hwsmpq.Task(model, images[:16], (images[16:], labels), metric="miou", loss=entropy, name="lraspp")
