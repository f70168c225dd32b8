"""A built engine as the rest of the toolkit sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwsmpq.device.runtime import Engine
from hwsmpq.device.tensorrt import attribution, kernels
from hwsmpq.device.tensorrt.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAN_FILE = "engine.plan"
KERNELS_FILE = "kernels.json"
LAYERS_FILE, BUILD_FILE = "layers.json", "build.json"
"""What the engine inspector of classic TensorRT said, and what there is to say of the build."""


class TensorrtEngine(Engine):
    """An engine of TensorRT or TensorRT-RTX. What it realises is known without a GPU; the first run starts one session.

    Args:
        folder: holds the serialized engine and the description of its kernels.
        module: imports ``tensorrt`` or ``tensorrt_rtx``; called when the session starts.

    Raises:
        HwsmpqError: the description of the kernels is missing or unreadable.
    """

    def __init__(self, folder: Path, module: Callable[[], Any]) -> None:
        self._plan = folder / PLAN_FILE
        self._module = module
        self._kernels = kernels.read_kernels(folder / KERNELS_FILE)

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        return self._session.infer(inputs)

    def milliseconds(self, inputs: Sequence[NDArray[Any]]) -> float:
        """Time of one inference on the GPU, without the copies of inputs and outputs."""
        return self._session.milliseconds(inputs)

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        return {layer: kernels.realised(self._kernels, layer) for layer in layers}

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        """See the base class; kernels that only convert or combine count to a layer where they name no other."""
        return attribution.layer_ms(self._session.kernel_ms(inputs, n_repeats), self._kernels, layers)

    @cached_property
    def _session(self) -> Session:
        return Session(self._plan, self._module())
