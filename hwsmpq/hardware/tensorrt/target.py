"""TensorRT as a target: for the GPU that is here, or for a named compute capability."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from hwsmpq.device.runtime import Engine
from hwsmpq.device.tensorrt import adapter
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.device import HERE, Device
from hwsmpq.hardware.onnx_qdq import OnnxQdqTarget
from hwsmpq.hardware.target import Target
from hwsmpq.hardware.tensorrt.capability import CAPABILITIES, Kinds, in_order, kinds_of, runs, weakly_typed
from hwsmpq.types import PRECISION_KEY, Layer, OnnxForm

TF32, DLA = "tf32", "dla"


class _Tensorrt(Target):
    """What both flavours share.

    Args:
        options: compute capability of the device to build for, without which it is the GPU that is here, and
            ``tf32`` for products of fp32 rounded to TF32; separated by commas.
    """

    anywhere = True
    flavour: ClassVar[str]

    def __init__(self, options: str = "", device: Device = HERE) -> None:
        given = [option for option in options.lower().split(",") if option]
        devices = [option for option in given if option != TF32]
        self._tf32, self.capability = TF32 in given, devices[0] if devices else None
        if dla := [option for option in devices if option.startswith(DLA)]:
            raise HwsmpqError(
                f"{self.flavour} is not built for {dla[0]}",
                "a DLA takes no network with explicit Q/DQ, which decides the precision of layers here",
                f"leave {dla[0]} out: the engine then runs on the GPU",
            )
        if len(devices) > 1:
            raise HwsmpqError(f"{self.flavour} was given {len(devices)} devices", ", ".join(devices), "name one")
        if self.capability is not None:
            kinds_of(self.flavour, self.capability)
        self.name = self.flavour + (f":{','.join(given)}" if given else "")
        self._options, self.device, self._runtime = options, device, device.runtime(self.flavour)

    def on(self, device: Device) -> Target:
        return type(self)(self._options, device)

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
    def _device(self) -> dict[str, Any]:
        """What the device decides; of a device that is not here, what its newest runtime would."""
        if self.capability is None and self._runtime.unavailable() is None:
            return self._runtime.capabilities()
        return {"capability": self.capability, "strongly_typed": True, "opset": None}

    @property
    def form(self) -> OnnxForm:
        return OnnxForm(self._device["opset"], self._device["strongly_typed"])

    @cached_property
    def _kinds(self) -> Kinds:
        """Precisions by kind of layer; everything that any device runs where there is none to ask."""
        capability, known = self._device["capability"], CAPABILITIES[self.flavour]
        if capability in known:
            return known[capability] if self._device["strongly_typed"] else weakly_typed(known[capability])
        return {kind: frozenset().union(*(kinds[kind] for kinds in known.values())) for kind in known["sm80"]}

    @property
    def native(self) -> tuple[str, ...]:  # type: ignore[override]
        return in_order(frozenset().union(*self._kinds.values()))

    def runs(self, layer: Layer, precision: str) -> bool:
        return runs(self._kinds, layer, precision)

    def unavailable(self) -> str | None:
        if self.capability is not None:
            return adapter.missing(self.flavour)
        reason, known = self._runtime.unavailable(), ", ".join(CAPABILITIES[self.flavour])
        if reason:
            return f"{reason}; or name a device to build for, as {self.flavour}:sm89 does (known: {known})"
        if self._device["capability"] not in CAPABILITIES[self.flavour]:
            return f"its GPU ({self._device['capability']}) is none that {self.flavour} is known to build for ({known})"
        return None

    def machine(self) -> dict[str, str]:
        tf32 = {"tf32": str(self._tf32).lower()}
        if self.capability is None:
            return {**self._runtime.describe(), **tf32}
        module = adapter.load_module(self.flavour)
        named = {"compute_capability": self.capability, "device": "named, not here"}
        return {"runtime": f"{module.__name__} {module.__version__}", **named, **tf32}

    def conditions(self) -> dict[str, str]:
        return self._runtime.conditions() if self.capability is None else {}

    def workspace(self, folder: Path) -> None:
        self._runtime.workspace = folder

    def build(self, onnx: Path, folder: Path) -> None:
        layers = {} if self.form.strongly_typed else _precisions(onnx)
        self._runtime.build(onnx, folder, {"capability": self.capability, "tf32": self._tf32, "layers": layers})

    def load(self, folder: Path) -> Engine:
        return self._runtime.load(folder, {})


def _precisions(path: Path) -> dict[str, str]:
    """Layer -> precision, as the Q/DQ writer noted it at the layers' nodes."""
    import onnx

    nodes = onnx.load(path).graph.node
    return {node.name: entry.value for node in nodes for entry in node.metadata_props if entry.key == PRECISION_KEY}


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

    def load(self, folder: Path) -> Engine:
        return super().load(folder) if self.capability is None else OnnxQdqTarget().load(folder)
