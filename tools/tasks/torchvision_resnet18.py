"""torchvision's ResNet-18 on an image folder of your own.

Set HWSMPQ_WEIGHTS to a local state dict (``torch.save(model.state_dict(), path)``, or torchvision's file), and put
the images under ``$HWSMPQ_DATA/imagefolder/{train,val}/<class>/``: calibration reads ``train``, evaluation ``val``.
Class folders, sorted by name, are the outputs of the network in order.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

import hwsmpq
from _data import centre_crops, data_path, normalize
from hwsmpq.errors import HwsmpqError

IMAGE_SIZE, SHORTER_SIDE = 224, 256
N_CALIBRATION = 256
N_EVALUATION = 2000
SEED = 0
WEIGHTS_VARIABLE = "HWSMPQ_WEIGHTS"


def weights() -> dict[str, Tensor]:
    """The user's state dict; random weights would make every measured contribution meaningless."""
    path = os.environ.get(WEIGHTS_VARIABLE)
    if not path or not Path(path).is_file():
        raise HwsmpqError(
            "no weights for ResNet-18",
            f"the environment variable {WEIGHTS_VARIABLE} is {f'{path!r}, not a file' if path else 'not set'}",
            f"export {WEIGHTS_VARIABLE}=/path/to/resnet18.pth (a trained state dict; random weights are refused)",
        )
    return torch.load(path, map_location="cpu", weights_only=True)


def images(part: str, limit: int, n_classes: int) -> tuple[Tensor, Tensor]:
    """Up to ``limit`` images of one part, drawn by a fixed seed: inputs (n, 3, 224, 224) and labels (n,)."""
    folder = ImageFolder(data_path(f"imagefolder/{part}"))
    if len(folder.classes) != n_classes:
        raise HwsmpqError(
            f"{folder.root} has {len(folder.classes)} class folders, the network {n_classes} outputs",
            "labels are the positions of the class folders, sorted by name", "give one folder a class",
        )
    order = torch.randperm(len(folder), generator=torch.Generator().manual_seed(SEED))[:limit].tolist()
    files, labels = zip(*(folder.samples[index] for index in order), strict=True)
    return normalize(centre_crops(map(Path, files), IMAGE_SIZE, SHORTER_SIDE)), torch.tensor(labels)


def task() -> hwsmpq.Task:
    state = weights()
    n_classes = state["fc.weight"].shape[0]
    model = resnet18(weights=None, num_classes=n_classes)
    model.load_state_dict(state)
    calibration, _ = images("train", N_CALIBRATION, n_classes)
    return hwsmpq.Task(
        model=model.eval(),
        calibration=calibration,
        evaluation=images("val", N_EVALUATION, n_classes),
        name="torchvision_resnet18",
    )
