"""TensorRT as a target: for the GPU that is here, or for a named compute capability."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from hwsmpq.artifacts import write_bytes
from hwsmpq.device import nvidia
from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.onnx_qdq import OnnxQdqTarget
from hwsmpq.hardware.target import Target
from hwsmpq.hardware.tensorrt import adapter
from hwsmpq.hardware.tensorrt.capability import CAPABILITIES, Kinds, in_order, kinds_of, runs
from hwsmpq.hardware.tensorrt.engine import KERNELS_FILE, PLAN_FILE, TensorrtEngine
from hwsmpq.hardware.tensorrt.kernels import write_kernels
from hwsmpq.types import Layer

TF32 = "tf32"


class _Tensorrt(Target):
    """What both flavours share.

    Args:
        options: compute capability of the device to build for, without which it is the GPU that is here, and
            ``tf32`` for products of fp32 rounded to TF32; separated by commas.
    """

    flavour: ClassVar[str]

    def __init__(self, options: str = "") -> None:
        given = [option for option in options.lower().split(",") if option]
        devices = [option for option in given if option != TF32]
        self._tf32, self.capability = TF32 in given, devices[0] if devices else None
        if len(devices) > 1:
            raise HwsmpqError(f"{self.flavour} was given {len(devices)} devices", ", ".join(devices), "name one")
        if self.capability is not None:
            kinds_of(self.flavour, self.capability)
        self.name = self.flavour + (f":{','.join(given)}" if given else "")
        self._folder: Path | None = None

    @property
    def scheme_name(self) -> str:
        return "tensorrt"

    @property
    def has_latency(self) -> bool:  # type: ignore[override]
        return self.capability is None

    @property
    def claim(self) -> str:  # type: ignore[override]
        if self.has_latency:
            return "latency and accuracy measured on the built engine"
        return f"{self._what_is_built} for {self.capability}; accuracy simulated; latency not measured, for want of it"

    _what_is_built: ClassVar[str]

    @cached_property
    def _kinds(self) -> Kinds:
        """Precisions by kind of layer; everything that any device runs where there is none to ask."""
        capability, known = self.capability or _here(), CAPABILITIES[self.flavour]
        if capability in known:
            return known[capability]
        return {kind: frozenset().union(*(kinds[kind] for kinds in known.values())) for kind in known["sm80"]}

    @property
    def native(self) -> tuple[str, ...]:  # type: ignore[override]
        return in_order(frozenset().union(*self._kinds.values()))

    def runs(self, layer: Layer, precision: str) -> bool:
        return runs(self._kinds, layer, precision)

    def unavailable(self) -> str | None:
        reason = adapter.missing(self.flavour)
        if reason or self.capability is not None:
            return reason
        known = ", ".join(CAPABILITIES[self.flavour])
        if nvidia.gpu_count() == 0:
            return f"no NVIDIA GPU here; name the device to build for, as {self.flavour}:sm89 does (known: {known})"
        if _here() not in CAPABILITIES[self.flavour]:
            return f"the GPU here ({_here()}) is none that {self.flavour} is known to build for ({known})"
        return None

    def machine(self) -> dict[str, str]:
        module = adapter.load_module(self.flavour)
        found = {"runtime": f"{module.__name__} {module.__version__}", "tf32": str(self._tf32).lower()}
        if self.capability is None:
            return found | nvidia.describe()
        return found | {"compute_capability": self.capability, "device": "named, not here"}

    def conditions(self) -> dict[str, str]:
        return nvidia.conditions() if self.capability is None else {}

    def workspace(self, folder: Path) -> None:
        self._folder = folder

    def build(self, onnx: Path, folder: Path) -> None:
        module = adapter.load_module(self.flavour)
        cache = self._timing_cache()
        built = adapter.build_engine(module, onnx, self.capability, self._tf32, cache)
        write_kernels(built.kernels, folder / KERNELS_FILE)
        write_bytes(folder / PLAN_FILE, built.plan)

    def _timing_cache(self) -> Path | None:
        return None

    def load(self, folder: Path) -> Engine:
        if not (folder / PLAN_FILE).is_file():
            raise HwsmpqError(f"no engine at {folder}", f"{PLAN_FILE} is missing", "build the engine first")
        return TensorrtEngine(folder, partial(adapter.load_module, self.flavour))


def _here() -> str | None:
    """Compute capability of the GPU that is here, as sm89, or None."""
    capability = nvidia.describe().get("compute_capability")
    return None if capability is None else "sm" + capability.replace(".", "")


class TensorrtRtxTarget(_Tensorrt):
    """TensorRT-RTX: builds for any known compute capability on any machine; kernels are compiled on the device."""

    flavour = "tensorrt-rtx"
    _what_is_built = "engine built and audited"


class TensorrtTarget(_Tensorrt):
    """Classic TensorRT: builds on the GPU that it builds for.

    For a named device it writes the Q/DQ ONNX file that ``trtexec --stronglyTyped`` builds there, with costs from
    ``hwsmpq profile --from-trtexec``.
    """

    flavour = "tensorrt"
    _what_is_built = "Q/DQ model written"

    def unavailable(self) -> str | None:
        return None if self.capability is not None else super().unavailable()

    def machine(self) -> dict[str, str]:
        if self.capability is None:
            return super().machine()
        return {"runtime": "tensorrt (elsewhere)", "compute_capability": self.capability, "device": "named, not here"}

    def build(self, onnx: Path, folder: Path) -> None:
        if self.capability is None:
            super().build(onnx, folder)
        else:
            OnnxQdqTarget().build(onnx, folder)

    def _timing_cache(self) -> Path | None:
        return self._folder / "timing.cache" if self._folder is not None else None

    def load(self, folder: Path) -> Engine:
        return super().load(folder) if self.capability is None else OnnxQdqTarget().load(folder)
