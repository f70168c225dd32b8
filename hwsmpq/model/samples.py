"""Samples from files: arrays under any names, folders of images, and tables of texts."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.batch import LABELS

CALIBRATION_SAMPLES = 256
"""That are taken from the samples where none are given, of a quarter of them at most."""
MOST_IMAGES = 5000
"""Of a folder: what fits into memory as floats (3 GB at 224 x 224)."""
UNNAMED = "inputs"
"""Name of an array of inputs that says nothing of the argument."""


@dataclass(frozen=True, eq=False)
class Data:
    """Inputs by name, (n, ...) each, with one label a sample, and calibration inputs under the same names."""

    calibration: dict[str, Tensor]
    inputs: dict[str, Tensor]
    labels: Tensor

    @staticmethod
    def of(inputs: dict[str, Tensor], labels: Tensor) -> Data:
        """The first samples are for calibration."""
        n = min(CALIBRATION_SAMPLES, len(labels) // 4)
        return Data({k: x[:n] for k, x in inputs.items()}, {k: x[n:] for k, x in inputs.items()}, labels[n:])

    def ordered(self, names: Sequence[str]) -> Data:
        """With inputs in the order of a network's, by name, or by place where no name is one of the network's.

        Raises:
            HwsmpqError: names do not fit.
        """
        if set(self.inputs) != set(names):
            if len(self.inputs) != len(names) or set(self.inputs) & set(names):
                raise HwsmpqError(
                    f"the samples hold {', '.join(self.inputs)}, the network takes {', '.join(names)}",
                    "every input of the network needs an array", "name the arrays as the network names its inputs",
                )
            names = tuple(self.inputs)
        return Data({k: self.calibration[k] for k in names}, {k: self.inputs[k] for k in names}, self.labels)


def read_arrays(file: Path) -> Data:
    """The arrays of an ``.npz`` file: labels under a usual name (or the only array of one integer a sample), inputs
    under any, calibration inputs under ``calibration_NAME`` (``calibration`` where there is one input). Without
    calibration arrays the first samples are for that.

    Raises:
        HwsmpqError: no such file, objects in it, or arrays whose part is not clear.
    """
    why = "it needs arrays of inputs and labels, none of objects"
    try:
        with np.load(file, allow_pickle=False) as loaded:
            arrays = {name: torch.from_numpy(loaded[name]) for name in loaded.files}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise HwsmpqError(f"no samples in {file}", str(error), why) from error
    label = next((name for name in LABELS if name in arrays), None)
    if label is None:
        single = [name for name, x in arrays.items() if x.ndim == 1 and not x.is_floating_point()]
        label = single[0] if len(single) == 1 else None
    inputs = {name: x for name, x in arrays.items() if name != label and not name.startswith("calibration")}
    if label is None or not inputs:
        raise HwsmpqError(
            f"no {'labels' if label is None else 'inputs'} in {file}", f"it holds {', '.join(arrays) or 'nothing'}",
            f"name the labels {LABELS[0]}, and let there be an array for every input",
        )
    if not any(name.startswith("calibration") for name in arrays):
        return Data.of(inputs, arrays[label])
    keys = {name: f"calibration_{name}" for name in inputs}
    if len(inputs) == 1 and "calibration" in arrays:
        keys = dict.fromkeys(inputs, "calibration")
    missing = [key for key in keys.values() if key not in arrays]
    if missing:
        raise HwsmpqError(
            f"no {missing[0]} in {file}", f"it holds {', '.join(arrays)}",
            "give calibration samples of every input, or of none: then the first samples are taken",
        )
    return Data({name: arrays[key] for name, key in keys.items()}, inputs, arrays[label])


def read_images(folder: Path, transform: Callable[[Any], Tensor], name: str = UNNAMED) -> tuple[Data, int]:
    """Up to :data:`MOST_IMAGES` images of a folder with one sub-folder a class, in a random order that is always the
    same: transformed and stacked, with their class indices; and the number of classes.

    Raises:
        HwsmpqError: no such folder, or an image that cannot be read.
    """
    from PIL.Image import DecompressionBombError
    from torchvision.datasets import ImageFolder

    try:
        images = ImageFolder(str(folder), transform=transform)
    except (FileNotFoundError, OSError) as error:
        raise HwsmpqError(
            f"no image folder at {folder}", str(error), "it needs one sub-folder a class, with images inside"
        ) from error
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:MOST_IMAGES]
    pairs = []
    for i in order.tolist():
        try:
            pairs.append(images[i])
        except (OSError, DecompressionBombError) as error:
            raise HwsmpqError(
                f"{images.samples[i][0]} cannot be read", str(error), "repair or remove that image"
            ) from error
    inputs = {name: torch.stack([x for x, _ in pairs])}
    return Data.of(inputs, torch.tensor([y for _, y in pairs])), len(images.classes)


def read_texts(file: Path) -> tuple[list[list[str]], Tensor]:
    """The texts of a CSV file, by column (one, or two for pairs), and its column ``label`` as integers, or floats.

    Raises:
        HwsmpqError: no such file, no such columns, or labels that are no numbers.
    """
    try:
        with open(file, newline="", encoding="utf-8") as handle:
            header, *rows = [row for row in csv.reader(handle) if row]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise HwsmpqError(f"no texts in {file}", str(error), "it needs a header and a row a sample") from error
    place = next((header.index(name) for name in LABELS if name in header), None)
    texts = [i for i in range(len(header)) if i != place]
    uneven = next((n for n, row in enumerate(rows, 2) if len(row) != len(header)), None)
    if place is None or len(texts) not in (1, 2) or uneven:
        raise HwsmpqError(
            f"{file} has the columns {', '.join(header)}" + f", and line {uneven} others" * bool(uneven),
            "a column label and one column of texts are needed, or two for pairs", "write such a file",
        )
    try:
        numbers = [float(row[place]) for row in rows]
    except ValueError as error:
        raise HwsmpqError(
            f"{file} has labels that are no numbers", str(error), "write the index of the class"
        ) from error
    whole = all(number.is_integer() for number in numbers)
    labels = torch.tensor(numbers).long() if whole else torch.tensor(numbers)
    return [[row[i] for row in rows] for i in texts], labels
