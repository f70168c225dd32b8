"""What a hardware target must offer, and the registry of the known ones."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError

UNATTRIBUTED = ""
"""Key of :meth:`Engine.layer_ms` for the time that belongs to no layer (pooling, reorders, copies)."""


class Engine(ABC):
    """A loaded engine. Inputs are the model's inputs in order, float32, with the batch size it was built for."""

    @staticmethod
    def clock() -> float:
        """Seconds on the clock that this engine is timed with; wall clock unless a target knows better."""
        return time.perf_counter()

    @abstractmethod
    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once and return the model's outputs in order, as arrays that the caller owns.

        Raises:
            HwsmpqError: the inputs do not fit the engine, or the target has no runtime.
        """

    @abstractmethod
    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        """Precision name that every layer really runs in, read back from the built engine.

        Raises:
            HwsmpqError: a layer cannot be found in the engine.
        """

    @abstractmethod
    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        """Milliseconds a layer from the runtime's own counters, low end over ``n_repeats`` inferences.

        Layers that the runtime fused share their time equally; what belongs to no layer is under :data:`UNATTRIBUTED`.
        """


class Target(ABC):
    """A kind of hardware with its runtime.

    ``native`` are the precisions that it has kernels for, ``scheme_name`` the quantization scheme that its
    engines compute, ``has_latency`` whether its engines can be timed.
    """

    name: ClassVar[str]
    native: ClassVar[tuple[str, ...]]
    has_latency: ClassVar[bool]

    @property
    @abstractmethod
    def scheme_name(self) -> str:
        """The scheme, which may depend on what this machine's kernels compute exactly."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this machine cannot use the target, or None if it can."""

    @abstractmethod
    def machine(self) -> dict[str, str]:
        """What a measurement on this target depends on: device, cores, threads, runtime version, capabilities."""

    @abstractmethod
    def build(self, onnx: Path, folder: Path) -> None:
        """Build the engine of a Q/DQ ONNX file (layer nodes named by layer) into ``folder``.

        Raises:
            HwsmpqError: the runtime refuses the network (names the operation) or the files cannot be written.
        """

    @abstractmethod
    def load(self, folder: Path) -> Engine:
        """Load what :meth:`build` wrote.

        Raises:
            HwsmpqError: the files are missing or unreadable, or the runtime is not installed.
        """


def targets() -> dict[str, Target]:
    """All known targets by name, usable on this machine or not."""
    from hwsmpq.hardware.onnx_qdq import OnnxQdqTarget
    from hwsmpq.hardware.openvino_cpu import OpenvinoCpuTarget

    return {target.name: target for target in (OpenvinoCpuTarget(), OnnxQdqTarget())}


def get_target(name: str) -> Target:
    """The target of that name.

    Raises:
        HwsmpqError: no such target (lists the known ones).
    """
    known = targets()
    if name not in known:
        raise HwsmpqError(f"unknown target {name!r}", fix=f"one of {', '.join(sorted(known))}")
    return known[name]
