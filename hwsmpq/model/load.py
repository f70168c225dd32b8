"""Find the task that the user names: a Python file, ``module:callable``, an ONNX file with arrays, or a torchvision
model with images."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.task import Task

CALIBRATION_SAMPLES = 256
MOST_IMAGES = 5000
"""Of a folder: what fits into memory as floats (3 GB at 224 x 224)."""
ONNX_ARRAYS = ("calibration", "inputs", "labels")


def load_task(spec: str, data: str | None = None, weights: Path | None = None) -> Task:
    """Build the task that ``spec`` names.

    Args:
        spec: ``path/to/file.py`` or ``module:callable`` (both run the user's own code), ``path/to/file.onnx``, or
            ``torchvision:NAME``.
        data: ``imagefolder:DIR`` for torchvision models: one sub-folder a class, in the model's class order, of whose
            images up to 5,000 are drawn.
            ``npz:FILE`` for ONNX files: arrays ``calibration``, ``inputs`` and ``labels``, prepared as in training.
        weights: a state dict for torchvision models, loaded with ``weights_only=True``.

    Raises:
        HwsmpqError: nothing by that name, or it gives no task.
    """
    if not spec:
        raise HwsmpqError(
            "this run folder does not name its task", "it was made in Python, with a task as an object",
            "go on in Python with the same task, or name one in a file",
        )
    if spec.startswith("torchvision:"):
        return _torchvision(spec.partition(":")[2], data, weights)
    if spec.endswith(".onnx"):
        return _onnx(Path(spec), data)
    if data or weights:
        raise HwsmpqError(
            "--data and --weights go with torchvision:NAME models", f"{spec} brings its own", "leave them out"
        )
    task = _from_file(Path(spec)) if spec.endswith(".py") else _from_module(spec)
    if not isinstance(task, Task):
        raise HwsmpqError(
            f"{spec} gave a {type(task).__name__}", "a task file's task() must return hwsmpq.Task",
            "see `hwsmpq run --help` or the README for an example",
        )
    return task


def _from_file(path: Path) -> object:
    if not path.is_file():
        raise HwsmpqError(f"no task file {path}", fix="check the path; tools/tasks/ holds examples")
    module_spec = importlib.util.spec_from_file_location(f"hwsmpq_task_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # as an import would: dataclasses look their module up there
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        module_spec.loader.exec_module(module)
        if not callable(getattr(module, "task", None)):
            raise HwsmpqError(f"{path} defines no task()", fix="define a function task() that returns hwsmpq.Task(...)")
        return module.task()
    except HwsmpqError:
        raise
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise HwsmpqError(f"{path} cannot be loaded", why, "fix the task file") from error
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def _from_module(spec: str) -> object:
    module_name, colon, name = spec.partition(":")
    if not colon:
        raise HwsmpqError(
            f"unknown task {spec!r}", fix="give a file.py, a module:callable, or a file.onnx or torchvision:NAME"
        )
    try:
        factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise HwsmpqError(f"unknown task {spec!r}", str(error), "check the module and the callable's name") from error
    try:
        return factory()
    except HwsmpqError:
        raise
    except Exception as error:
        raise HwsmpqError(f"{spec} failed", f"{type(error).__name__}: {error}", "fix the task") from error


def _onnx(path: Path, data: str | None) -> Task:
    kind, _, file = (data or "").partition(":")
    if kind != "npz" or not file:
        raise HwsmpqError(
            "ONNX files need --data npz:FILE", f"got {data!r}",
            "save arrays named calibration, inputs and labels with numpy.savez, prepared as in training",
        )
    try:
        with np.load(file, allow_pickle=False) as arrays:
            calibration, inputs, labels = (torch.from_numpy(arrays[name]) for name in ONNX_ARRAYS)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise HwsmpqError(
            f"no samples in {file}", str(error), "it needs the arrays calibration, inputs and labels, none of objects"
        ) from error
    return Task(path, calibration, (inputs, labels), name=path.stem)


def _default_weights(name: str):  # type: ignore[no-untyped-def]
    from torchvision import models

    try:
        return models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    except ValueError as error:
        raise HwsmpqError(
            f"torchvision has no model {name!r}", str(error), "see torchvision.models.list_models()"
        ) from error


def torchvision_architecture(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """An untrained torchvision model and an input of its size: enough to inspect, not to quantize."""
    from torchvision import models

    size = _default_weights(name).transforms().crop_size[0]
    return models.get_model(name, weights=None), (torch.zeros(1, 3, size, size),)


def _torchvision(name: str, data: str | None, weights: Path | None) -> Task:
    from torchvision import models

    default = _default_weights(name)
    kind, _, folder = (data or "").partition(":")
    if kind != "imagefolder" or not folder:
        raise HwsmpqError("torchvision models need --data imagefolder:DIR", f"got {data!r}", "one sub-folder a class")
    (inputs, targets), n_classes = image_folder(Path(folder), default.transforms(), MOST_IMAGES)
    if weights is None and n_classes != len(default.meta["categories"]):
        raise HwsmpqError(
            f"{folder} has {n_classes} sub-folders, torchvision:{name} {len(default.meta['categories'])} classes",
            "labels are the positions of the sub-folders, sorted by name",
            "make a sub-folder for every class, or give the weights of your own network with --weights FILE",
        )
    try:
        if weights is not None:
            model: nn.Module = models.get_model(name, weights=None, num_classes=n_classes)
            model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        else:
            model = models.get_model(name, weights=default)
    except Exception as error:
        raise HwsmpqError(
            f"no weights for torchvision:{name} with {n_classes} classes, as many as {folder} has sub-folders",
            f"{type(error).__name__}: {str(error)[:300]}",
            "give the state dict of such a network with --weights FILE, or connect to the network so that torchvision "
            "can download its own",
        ) from error
    n_calibration = min(CALIBRATION_SAMPLES, len(inputs) // 4)
    return Task(
        model=model.eval(),
        calibration=inputs[:n_calibration],
        evaluation=(inputs[n_calibration:], targets[n_calibration:]),
        name=name,
        preprocessing=str(default.transforms()),
    )


def image_folder(folder: Path, transform, n: int) -> tuple[tuple[torch.Tensor, torch.Tensor], int]:  # type: ignore[no-untyped-def]
    """Up to ``n`` images of a folder with one sub-folder a class, in a random order that is always the same:
    transformed and stacked, with their class indices; and the number of classes."""
    from PIL.Image import DecompressionBombError
    from torchvision.datasets import ImageFolder

    try:
        images = ImageFolder(str(folder), transform=transform)
    except (FileNotFoundError, OSError) as error:
        raise HwsmpqError(
            f"no image folder at {folder}", str(error), "it needs one sub-folder a class, with images inside"
        ) from error
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n]
    pairs = []
    for i in order.tolist():
        try:
            pairs.append(images[i])
        except (OSError, DecompressionBombError) as error:
            raise HwsmpqError(
                f"{images.samples[i][0]} cannot be read", str(error), "repair or remove that image"
            ) from error
    samples = torch.stack([x for x, _ in pairs]), torch.tensor([y for _, y in pairs])
    return samples, len(images.classes)
