"""The target ``onnxruntime-cpu``."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwsmpq.device.onnxruntime.runtime import FILE
from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.device import HERE, Device
from hwsmpq.hardware.processor import claim_of, scheme_of
from hwsmpq.hardware.stored import Stored
from hwsmpq.hardware.target import Target
from hwsmpq.types import Layer

if TYPE_CHECKING:
    from hwsmpq.model.capture import Captured


class OnnxruntimeCpuTarget(Target):
    """ONNX Runtime's CPU provider. Input-side Q/DQ is lowered to integer operations before the runtime sees it.

    The engine is an ONNX file, which any machine can load; the runtime optimises it for the processor when it does.
    """

    name = "onnxruntime-cpu"
    native = ("int8", "fp32")
    has_latency = True
    anywhere = True
    takes_shapes = True

    def __init__(self, device: Device = HERE) -> None:
        self.device, self._runtime = device, device.runtime("onnxruntime")

    def on(self, device: Device) -> Target:
        return OnnxruntimeCpuTarget(device)

    @property
    def claim(self) -> str:  # type: ignore[override]
        return claim_of(self.machine()["architecture"])

    @property
    def scheme_name(self) -> str:
        return scheme_of("unsigned_activations", self._runtime.capabilities())

    def unavailable(self) -> str | None:
        return self._runtime.unavailable()

    def machine(self) -> dict[str, str]:
        return self._runtime.describe()

    def runs(self, layer: Layer, precision: str) -> bool:
        return precision in self.native and (precision != "int8" or layer.kind != "conv_transpose")

    def ties(self, captured: Captured) -> tuple[tuple[str, ...], ...]:
        import onnx
        import onnx_ir

        from hwsmpq.hardware.onnxruntime_cpu.ties import ties
        from hwsmpq.quantize.onnx_export import export_onnx

        model = onnx_ir.from_proto(onnx.load_model_from_string(export_onnx(captured)))
        return ties(model, [layer.name for layer in captured.network.layers])

    def build(self, onnx: Path, folder: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="hwsmpq-") as lowered:
            path = Path(lowered) / FILE
            _write_lowered(onnx, path)
            self._runtime.build(path, folder, {})

    def stored(self, folder: Path, layers: Sequence[Layer]) -> dict[str, Stored]:
        from hwsmpq.hardware.onnxruntime_cpu.stored import stored_in_lowered

        return stored_in_lowered(folder / FILE, layers)

    def load(self, folder: Path) -> Engine:
        return self._runtime.load(folder, {})


def _write_lowered(onnx: Path, path: Path) -> None:
    """Write a file with int8 layers as integer operations."""
    import onnx_ir
    from onnx.checker import check_model

    from hwsmpq.hardware.onnxruntime_cpu.lower import lower
    from hwsmpq.quantize.onnx_export import save_onnx

    try:
        check_model(str(onnx))
        model = onnx_ir.load(onnx)
    except Exception as error:
        raise HwsmpqError(f"{onnx} is not a valid ONNX file", str(error)[:500], "export the model again") from error
    lower(model)
    save_onnx(model, path)
