"""Find the task that the user names: a Python file, ``module:callable``, an ONNX file, a folder of Hugging Face's
transformers, or a torchvision model."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.load_hf import load_hf
from hwsmpq.model.samples import Data, read_arrays, read_images
from hwsmpq.model.task import Task

if TYPE_CHECKING:
    from hwsmpq.model.onnx_import import OnnxModule

N_IMAGE_DIMENSIONS = 4


def load_task(spec: str, data: str | None = None, weights: Path | None = None) -> Task:
    """Build the task that ``spec`` names.

    Args:
        spec: ``path/to/file.py`` or ``module:callable`` (both run the user's own code), ``path/to/file.onnx``,
            ``hf:FOLDER`` that transformers saved, or ``torchvision:NAME``.
        data: ``imagefolder:DIR``: one sub-folder a class, in the model's class order, of whose images up to 5,000 are
            drawn. ``npz:FILE`` for ONNX files and ``hf:FOLDER``: arrays prepared as in training, see
            :func:`hwsmpq.model.samples.read_arrays`. ``csv:FILE`` for ``hf:FOLDER``: texts with labels.
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
    if weights is None and spec.endswith(".onnx"):
        return _onnx(Path(spec), data)
    if weights is None and spec.startswith("hf:"):
        return load_hf(Path(spec.partition(":")[2]), data)
    if data or weights:
        raise HwsmpqError(
            "--weights goes with torchvision:NAME models, --data with these, ONNX files and hf:FOLDER",
            f"{spec} brings its own",
            "leave them out; a task file reads a folder of images by itself:"
            " evaluation=torchvision.datasets.ImageFolder(DIR, transform)",
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
            f"unknown task {spec!r}",
            fix="give a file.py, a module:callable, a file.onnx, hf:FOLDER or torchvision:NAME",
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
    kind, _, source = (data or "").partition(":")
    if kind not in ("npz", "imagefolder") or not source:
        raise HwsmpqError(
            "ONNX files need --data npz:FILE or imagefolder:DIR", f"got {data!r}",
            "save arrays of inputs and labels with numpy.savez, prepared as in training",
        )
    from hwsmpq.model.onnx_import import read_onnx

    model = read_onnx(path)
    if kind == "npz":
        read, preprocessing = read_arrays(Path(source)).ordered(list(model.inputs)), ""
    else:
        read, preprocessing = _images_for(path, model, Path(source))
    calibration, inputs = tuple(read.calibration.values()), tuple(read.inputs.values())
    return Task(path, calibration, (inputs, read.labels), name=path.stem, preprocessing=preprocessing)


def _images_for(path: Path, model: OnnxModule, folder: Path) -> tuple[Data, str]:
    """Images of the size that a file declares, prepared as torchvision prepares them for its networks, and how."""
    from torchvision import transforms

    shapes = list(model.inputs.values())
    shape = shapes[0] if len(shapes) == 1 and len(shapes[0]) == N_IMAGE_DIMENSIONS else ()
    is_last, size = shape[3:] == (3,), shape[1:3] if shape[3:] == (3,) else shape[2:]
    if not shape or 3 not in (shape[1], shape[3]) or None in size:
        declared = "; ".join(f"{name} {shape}" for name, shape in model.inputs.items())
        raise HwsmpqError(
            f"{path} does not take images of a size that it declares", f"its inputs: {declared}",
            "give prepared arrays with --data npz:FILE",
        )
    prepare = transforms.Compose([
        transforms.Resize(round(max(size) * 256 / 224)), transforms.CenterCrop(size), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])
    read, _ = read_images(folder, lambda image: prepare(image).movedim(0, 2) if is_last else prepare(image))
    return read, f"{prepare}\nof images with channels {'last' if is_last else 'first'}"


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
    read, n_classes = read_images(Path(folder), default.transforms())
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
    (calibration,), (inputs,) = read.calibration.values(), read.inputs.values()
    return Task(
        model=model.eval(),
        calibration=calibration,
        evaluation=(inputs, read.labels),
        name=name,
        preprocessing=str(default.transforms()),
    )
