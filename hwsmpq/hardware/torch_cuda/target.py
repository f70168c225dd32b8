"""The target ``torch-cuda``: which layers run in which precision, and what it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from hwsmpq.device import nvidia
from hwsmpq.device.files import copy_onnx
from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.stored import Stored, stored_in_onnx
from hwsmpq.hardware.target import Target
from hwsmpq.types import Layer

FILE = "model.onnx"
OPTIONS = TF32, EAGER = "tf32", "eager"
LEAST_CAPABILITY = {"int8": (7, 5), "fp8": (8, 9), "bf16": (8, 0), "fp16": (0, 0), "fp32": (0, 0)}
"""Compute capability from which on a GPU has matrix products of a precision."""


class TorchCudaTarget(Target):
    """Torch on the GPU, node by node: without the fusions of an inference runtime, so no estimate of TensorRT's times.

    int8 and fp8 are matrix products (linear layers and pointwise convolutions): torch has no other 8-bit kernels.

    Args:
        options: separated by commas. ``tf32`` lets fp32 layers compute in TF32; ``eager`` launches the kernels one by
            one rather than as a CUDA graph.
        device: where torch computes; the CPU serves to check results.

    Raises:
        HwsmpqError: no such option.
    """

    has_latency = True
    claim = "latency and accuracy measured on the built engine, run by torch without an inference runtime"

    def __init__(self, options: str = "", device: str = "cuda") -> None:
        given = [option for option in options.lower().split(",") if option]
        for option in given:
            if option not in OPTIONS:
                raise HwsmpqError(f"torch-cuda has no option {option!r}", fix=f"one of {', '.join(OPTIONS)}")
        self.name = "torch-cuda" + (f":{','.join(given)}" if given else "")
        self._tf32, self._eager, self._device = TF32 in given, EAGER in given, device

    @cached_property
    def native(self) -> tuple[str, ...]:  # type: ignore[override]
        """What the GPU computes; everything that any GPU computes where there is none to ask."""
        import torch

        if self._device == "cpu" or not torch.cuda.is_available():
            return tuple(LEAST_CAPABILITY)
        capability = torch.cuda.get_device_capability(self._device)
        return tuple(precision for precision, least in LEAST_CAPABILITY.items() if capability >= least)

    @property
    def scheme_name(self) -> str:
        return "signed_symmetric"

    def unavailable(self) -> str | None:
        import torch

        if self._device == "cpu" or torch.cuda.is_available():
            return None
        return "no CUDA device is visible to torch" if torch.version.cuda else "this torch is built without CUDA"

    def machine(self) -> dict[str, str]:
        import torch

        return {
            **nvidia.describe(),
            "device": torch.cuda.get_device_name(self._device),
            "runtime": f"torch {torch.__version__}, cuda {torch.version.cuda}, cudnn {torch.backends.cudnn.version()}",
            "execution": "eager" if self._eager else "cuda graph",
            "tf32": str(self._tf32).lower(),
        }

    def conditions(self) -> dict[str, str]:
        return nvidia.conditions()

    def runs(self, layer: Layer, precision: str) -> bool:
        if precision not in self.native:
            return False
        is_pointwise = layer.kind == "conv" and set(layer.weight_shape[2:]) == {1}
        is_product = layer.kind == "linear" or (is_pointwise and layer.weight_shape[1] == layer.input_shape[0])
        return is_product or precision not in ("int8", "fp8")

    def build(self, onnx: Path, folder: Path) -> None:
        from hwsmpq.hardware.torch_cuda.program import Program

        Program(onnx, "cpu", ())
        copy_onnx(onnx, folder / FILE)

    def stored(self, folder: Path, layers: Sequence[Layer]) -> dict[str, Stored]:
        return stored_in_onnx(folder / FILE, layers)

    def load(self, folder: Path) -> Engine:
        from hwsmpq.hardware.torch_cuda.engine import TorchEngine
        from hwsmpq.hardware.torch_cuda.program import Program

        reason = self.unavailable()
        if reason:
            raise HwsmpqError(
                f"target {self.name} cannot be used here", reason, "use a machine with a GPU, or another target"
            )
        if not (folder / FILE).is_file():
            raise HwsmpqError(f"no engine at {folder}", f"{FILE} is missing", "build the engine first")
        program = Program(folder / FILE, self._device, self.native)
        as_graph = self._device != "cpu" and not self._eager
        return TorchEngine(program, self._device, allow_tf32=self._tf32, as_graph=as_graph)
