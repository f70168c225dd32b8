"""The known runtimes by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from hwsmpq.device.runtime import Runtime

RUNTIMES = {
    "onnxruntime": "hwsmpq.device.onnxruntime.runtime:OnnxruntimeRuntime",
    "openvino": "hwsmpq.device.openvino:OpenvinoRuntime",
    "tensorrt": "hwsmpq.device.tensorrt.runtime:TensorrtRuntime",
    "tensorrt-rtx": "hwsmpq.device.tensorrt.runtime:TensorrtRtxRuntime",
}
"""Name -> ``module:class``; what is not used is not imported."""


def get_runtime(name: str) -> Runtime:
    """The runtime of that name.

    Raises:
        HwsmpqError: no such runtime (lists the known ones).
    """
    if name not in RUNTIMES:
        raise HwsmpqError(f"unknown runtime {name!r}", fix=f"one of {', '.join(sorted(RUNTIMES))}")
    module, _, kind = RUNTIMES[name].partition(":")
    made: Runtime = getattr(importlib.import_module(module), kind)()
    return made
