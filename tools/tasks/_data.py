"""What the example tasks share: where the data lies, and how images become network inputs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hwsmpq.errors import HwsmpqError

DATA_VARIABLE = "HWSMPQ_DATA"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def data_path(relative: str) -> Path:
    """A file or folder below the data root.

    Raises:
        HwsmpqError: the environment variable HWSMPQ_DATA is not set, or nothing lies there.
    """
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise HwsmpqError(
            f"no data for this task ({relative})", f"the environment variable {DATA_VARIABLE} is not set",
            f"export {DATA_VARIABLE}=/path/to/data",
        )
    path = Path(root) / relative
    if not path.exists():
        raise HwsmpqError(
            f"no data for this task: {path} does not exist", f"{DATA_VARIABLE} is {root!r}",
            f"put the data there, or point {DATA_VARIABLE} at the folder that holds {relative}",
        )
    return path


def centre_crops(files: Iterable[Path], size: int, shorter_side: int | None = None) -> Tensor:
    """Read images as float RGB (n, 3, size, size) with values 0..255.

    Args:
        size: side of the centre crop, in pixels.
        shorter_side: resize (bilinear) so that the shorter side has this many pixels before the crop;
            None crops the image as it is.
    """
    files = list(files)
    crops = torch.empty(len(files), 3, size, size)
    for crop, file in zip(crops, files, strict=True):
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        if shorter_side is not None and min(image.size) != shorter_side:
            ratio = shorter_side / min(image.size)
            width, height = (round(side * ratio) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (image.width - size) // 2, (image.height - size) // 2
        crop.copy_(torch.from_numpy(np.array(image.crop((left, top, left + size, top + size)))).permute(2, 0, 1))
    return crops


def normalize(images: Tensor) -> Tensor:
    """Values 0..255 to zero mean and unit variance by the usual ImageNet statistics, in place; (n, 3, h, w)."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images.div_(255).sub_(mean).div_(std)


def package_file(package: str, file: str) -> Path:
    """A file inside an installed package, found without running the package's code."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise HwsmpqError(f"no {file}", f"the package {package} is not installed", f"pip install --no-deps {package}")
    return Path(spec.origin).parent / file
