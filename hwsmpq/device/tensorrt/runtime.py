"""TensorRT and TensorRT-RTX as runtimes."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from hwsmpq.device import jetson, nvidia
from hwsmpq.device.files import write_bytes
from hwsmpq.device.runtime import Engine, Runtime
from hwsmpq.device.tensorrt import adapter, driver
from hwsmpq.device.tensorrt.engine import BUILD_FILE, KERNELS_FILE, LAYERS_FILE, PLAN_FILE, TensorrtEngine
from hwsmpq.device.tensorrt.kernels import write_kernels
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TIMING_CACHE = "timing.cache"
OPSET_OF_WEAK_TYPING = 16
"""The newest that the parser of 8.5 takes whole."""


class _Tensorrt(Runtime):
    """What both flavours share.

    Options of a build: ``capability`` (``sm89``; without it, the GPU that is here), ``tf32`` and, where
    :meth:`capabilities` says that networks are not strongly typed, ``layers``: layer -> precision.
    """

    flavour: str

    def unavailable(self) -> str | None:
        reason = adapter.missing(self.flavour)
        if reason is None and not self._gpu():
            return "no NVIDIA GPU here"
        return reason

    def describe(self) -> dict[str, str]:
        module = adapter.load_module(self.flavour)
        return {"runtime": f"{module.__name__} {module.__version__}", **self._gpu(), **jetson.describe()}

    def conditions(self) -> dict[str, str]:
        return nvidia.conditions()

    def capabilities(self) -> dict[str, Any]:
        """``capability`` of the GPU (``sm90``), whether networks are ``strongly_typed``, and the ``opset`` of the ONNX
        files that the parser takes, None if it takes the newest."""
        strong = adapter.is_strongly_typed(adapter.load_module(self.flavour))
        found = self._gpu().get("compute_capability")
        return {
            "scheme": "tensorrt",
            "capability": None if found is None else "sm" + found.replace(".", ""),
            "strongly_typed": strong,
            "opset": None if strong else OPSET_OF_WEAK_TYPING,
        }

    def build(self, onnx: Path, folder: Path, options: Mapping[str, Any]) -> None:
        module = adapter.load_module(self.flavour)
        built = adapter.build_engine(
            module, onnx, options.get("capability"), options.get("tf32", False), self._timing_cache(),
            options.get("layers", {}),
        )
        write_kernels(built.kernels, folder / KERNELS_FILE)
        if built.layers_json:
            write_bytes(folder / LAYERS_FILE, built.layers_json.encode())
            record = {"seconds": built.seconds, "notes": built.notes, "warnings": built.warnings}
            write_bytes(folder / BUILD_FILE, json.dumps(record, indent=1).encode())
        write_bytes(folder / PLAN_FILE, built.plan)

    def load(self, folder: Path, options: Mapping[str, Any]) -> Engine:
        if not (folder / PLAN_FILE).is_file():
            raise HwsmpqError(f"no engine at {folder}", f"{PLAN_FILE} is missing", "build the engine first")
        return TensorrtEngine(folder, partial(adapter.load_module, self.flavour))

    def _timing_cache(self) -> Path | None:
        return None

    @staticmethod
    def _gpu() -> dict[str, str]:
        """The first visible GPU, by nvidia-smi or, where that knows none (Jetson), by the driver."""
        found = nvidia.describe()
        if found:
            return found
        try:
            return driver.describe()
        except HwsmpqError:
            return {}


class TensorrtRuntime(_Tensorrt):
    """Classic TensorRT: builds on the GPU that it builds for."""

    flavour = "tensorrt"
    kept = (TIMING_CACHE,)

    def _timing_cache(self) -> Path | None:
        return None if self.workspace is None else self.workspace / TIMING_CACHE


class TensorrtRtxRuntime(_Tensorrt):
    """TensorRT-RTX: builds for any known compute capability on any machine; kernels are compiled on the device."""

    flavour = "tensorrt-rtx"
