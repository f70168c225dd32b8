"""The target ``onnxruntime-cpu``."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwsmpq.artifacts import write_bytes
from hwsmpq.device import cpu
from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.onnxruntime_cpu import session
from hwsmpq.hardware.stored import Stored
from hwsmpq.hardware.target import Target
from hwsmpq.types import Layer

if TYPE_CHECKING:
    import onnx_ir

    from hwsmpq.model.capture import Captured

FILE = "model.onnx"


class OnnxruntimeCpuTarget(Target):
    """ONNX Runtime's CPU provider. Input-side Q/DQ is lowered to integer operations before the runtime sees it.

    The engine is an ONNX file, which any machine can load; the runtime optimises it for the processor when it does.
    """

    name = "onnxruntime-cpu"
    native = ("int8", "fp32")
    has_latency = True
    claim = "latency and accuracy measured on the built engine"

    @property
    def scheme_name(self) -> str:
        """On x86 without a dot-product instruction int8 kernels saturate in int16 unless weights keep to half range."""
        return "unsigned_activations_no_vnni" if cpu.int8_saturates() else "unsigned_activations"

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "the onnxruntime package is not installed (pip install onnxruntime)"
        return None

    def machine(self) -> dict[str, str]:
        return {
            **cpu.describe(), "n_threads": str(session.N_THREADS), "runtime": f"onnxruntime {session.version()}",
        }

    def runs(self, layer: Layer, precision: str) -> bool:
        return precision in self.native and (precision != "int8" or layer.kind != "conv_transpose")

    def ties(self, captured: Captured) -> tuple[tuple[str, ...], ...]:
        from hwsmpq.hardware.onnxruntime_cpu.ties import ties
        from hwsmpq.quantize.qdq import export_onnx

        return ties(_model(export_onnx(captured)), [layer.name for layer in captured.network.layers])

    def build(self, onnx: Path, folder: Path) -> None:
        _require(self)
        data = _lowered(onnx)
        try:
            session.open_session(data)
        except Exception as error:
            raise HwsmpqError(
                f"ONNX Runtime refuses {onnx}", session.refusal(error),
                "replace the operation it names in the model, or use another target",
            ) from error
        write_bytes(folder / FILE, data)

    def stored(self, folder: Path, layers: Sequence[Layer]) -> dict[str, Stored]:
        from hwsmpq.hardware.onnxruntime_cpu.stored import stored_in_lowered

        return stored_in_lowered(folder / FILE, layers)

    def load(self, folder: Path) -> Engine:
        from hwsmpq.hardware.onnxruntime_cpu.engine import OnnxruntimeEngine

        _require(self)
        if not (folder / FILE).is_file():
            raise HwsmpqError(f"no engine at {folder}", f"{FILE} is missing", "build the engine first")
        return OnnxruntimeEngine(folder / FILE)


def _lowered(path: Path) -> bytes:
    """The file with int8 layers as integer operations."""
    import onnx_ir

    from hwsmpq.hardware.onnxruntime_cpu.lower import lower

    try:
        model = _model(path.read_bytes())
    except Exception as error:
        raise HwsmpqError(f"{path} is not a valid ONNX file", str(error)[:500], "export the model again") from error
    lower(model)
    return onnx_ir.serde.serialize_model(model).SerializeToString()


def _model(data: bytes) -> onnx_ir.Model:
    import onnx
    import onnx_ir

    proto = onnx.load_model_from_string(data)
    onnx.checker.check_model(proto)
    return onnx_ir.serde.deserialize_model(proto)


def _require(target: Target) -> None:
    reason = target.unavailable()
    if reason:
        raise HwsmpqError(f"target {target.name} cannot be used here", reason, "install it, or use --target onnx-qdq")
