"""ONNX Runtime as a runtime."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from hwsmpq.device import cpu
from hwsmpq.device.files import copy_onnx
from hwsmpq.device.onnxruntime import session
from hwsmpq.device.onnxruntime.engine import OnnxruntimeEngine
from hwsmpq.device.runtime import Engine, Runtime
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "model.onnx"


class OnnxruntimeRuntime(Runtime):
    """ONNX Runtime's CPU provider.

    An engine is the ONNX file itself. The runtime optimises it for the processor when it loads it. Layers in int8 are
    integer operators there, and every layer reads a weight of the name that
    :func:`hwsmpq.device.onnxruntime.audit.weight_name` gives. Builds and loads take no options.
    """

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "the onnxruntime package is not installed (pip install onnxruntime)"
        return None

    def describe(self) -> dict[str, str]:
        self._require()
        return {
            **cpu.describe(), "n_threads": str(session.N_THREADS), "runtime": f"onnxruntime {session.version()}",
        }

    def capabilities(self) -> dict[str, Any]:
        return {"int8_saturates": cpu.int8_saturates()}

    def start(self) -> None:
        session.version()

    def build(self, onnx: Path, folder: Path, options: Mapping[str, Any]) -> None:
        self._require()
        try:
            session.open_session(onnx)
        except Exception as error:
            raise HwsmpqError(
                f"ONNX Runtime refuses {onnx.name}", session.refusal(error),
                "replace the operation it names in the model, or use another target",
            ) from error
        copy_onnx(onnx, folder / FILE)

    def load(self, folder: Path, options: Mapping[str, Any]) -> Engine:
        self._require()
        if not (folder / FILE).is_file():
            raise HwsmpqError(f"no engine at {folder}", f"{FILE} is missing", "build the engine first")
        return OnnxruntimeEngine(folder / FILE)

    def _require(self) -> None:
        reason = self.unavailable()
        if reason:
            raise HwsmpqError("ONNX Runtime cannot be used here", reason, "install it, or use --target onnx-qdq")
