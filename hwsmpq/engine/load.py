"""A built engine as PyTorch code calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.device.runtime import Engine
from hwsmpq.engine.verify import engine_tensors
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.batch import as_rows
from hwsmpq.types import Manifest, Settings


class LoadedEngine:
    """Called with the model's inputs, tensors with any number of rows, it returns the model's output, or its outputs by
    name where there are several."""

    def __init__(self, engine: Engine, batch: int, names: tuple[str, ...]) -> None:
        self._engine, self._batch, self._names = engine, batch, names

    def __call__(self, *inputs: Tensor | NDArray[Any]) -> Tensor | dict[str, Tensor]:
        """Output (n, ...) of inputs (n, ...), one tensor or array an argument of the model.

        Raises:
            HwsmpqError: the inputs do not fit the engine, or its target has no runtime here.
        """
        given = tuple(as_rows(x, f"input {i}") for i, x in enumerate(inputs))
        for i, x in enumerate(given):
            if x.is_floating_point() and x.dtype != torch.float32:
                raise HwsmpqError(
                    f"input {i} is {x.dtype}", "the engine takes float32",
                    "convert it: x = x.float() of a tensor, x = x.astype('float32') of a NumPy array",
                )
        outputs = engine_tensors(self._engine, given, self._batch)
        return outputs[0] if len(outputs) == 1 else dict(zip(self._names, outputs, strict=True))


def load(folder: str | Path) -> LoadedEngine:
    """Load the engine of a run folder, with the batch size, threads and streams that it was built for.

    Raises:
        HwsmpqError: the folder holds no engine, a file of it is not as it was built, or its target cannot load it here.
    """
    run = Folder(folder)
    manifest = run.check_engine()
    target = get_target(manifest.target, run.read(Settings).device).with_threads(manifest.threads).with_streams(
        manifest.streams
    )
    return LoadedEngine(target.load(run.path(Manifest).parent), manifest.batch, manifest.outputs)
