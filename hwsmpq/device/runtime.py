"""What a runtime does on the device that it runs on: build engines, load them, and say what it measures with."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNATTRIBUTED = ""
"""Key of :meth:`Engine.layer_ms` for the time that belongs to no layer (pooling, reorders, copies)."""

NOT_AUDITED = "not audited"
"""What :meth:`Engine.realised` says of a layer that runs where the runtime names no types."""


class Engine(ABC):
    """A loaded engine. Inputs are the model's inputs in order, float32, with the batch size it was built for."""

    def clock(self) -> float:
        """Seconds on the clock that this engine is timed with; wall clock unless a runtime knows better."""
        return time.perf_counter()

    @abstractmethod
    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once and return the model's outputs in order, as arrays that the caller owns.

        Raises:
            HwsmpqError: the inputs do not fit the engine, or it cannot run here.
        """

    def reload(self) -> None:  # noqa: B027 - most engines' times do not depend on where they lie
        """Load the engine anew, into other memory."""

    def milliseconds(self, inputs: Sequence[NDArray[Any]]) -> float:
        """Time of one inference, in ms; of an engine that runs several side by side, from one result to the next."""
        start = self.clock()
        self.infer(inputs)
        return (self.clock() - start) * 1e3

    @abstractmethod
    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        """Precision name that every layer really runs in, read back from the built engine, or :data:`NOT_AUDITED`.

        Raises:
            HwsmpqError: a layer cannot be found in the engine.
        """

    @abstractmethod
    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        """Milliseconds a layer from the runtime's own counters, low end over ``n_repeats`` inferences of an engine that
        is loaded for it, where loads differ (see :meth:`reload`).

        Layers that the runtime fused share their time equally; what belongs to no layer is under :data:`UNATTRIBUTED`.
        """


    def peak_mb(self, inputs: Sequence[NDArray[Any]]) -> float | None:
        """Main memory that loading and running the engine takes at most, in MB above what the runtime alone takes; None
        where that is not measured. See :func:`hwsmpq.device.memory.peak_mb`."""
        return None


class Runtime(ABC):
    """A kind of runtime, on the machine that this runs on.

    ``options`` are JSON, and of the runtime's own: what a build or a load is to do beyond its file.
    ``workspace`` is a folder where the runtime may keep what makes later builds choose alike; None keeps nothing. It
    outlives the engines. ``kept`` names the files in it, which follow the run folder to whatever device.
    """

    workspace: Path | None = None
    kept: tuple[str, ...] = ()

    @abstractmethod
    def unavailable(self) -> str | None:
        """Why this machine cannot use the runtime, or None if it can."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """What a measurement depends on: device, driver, runtime and its version, cores, and clocks and power mode as
        they are set.

        Raises:
            HwsmpqError: the runtime cannot be used.
        """

    def start(self) -> None:  # noqa: B027 - of most runtimes no memory is measured
        """Load the runtime itself, as the first engine would: what is resident then belongs to no engine."""

    def conditions(self) -> dict[str, str]:
        """What a measurement depends on and what changes by itself, such as temperature and power state, now."""
        return {}

    @abstractmethod
    def capabilities(self) -> dict[str, Any]:
        """What the device decides, as JSON: what its kernels compute exactly, and what it has kernels for.

        Raises:
            HwsmpqError: the runtime cannot be used.
        """

    @abstractmethod
    def build(self, onnx: Path, folder: Path, options: Mapping[str, Any]) -> None:
        """Build the engine of an ONNX file (layer nodes named by layer) into ``folder``.

        Raises:
            HwsmpqError: the runtime refuses the network (names the operation) or the files cannot be written.
        """

    @abstractmethod
    def load(self, folder: Path, options: Mapping[str, Any]) -> Engine:
        """Load what :meth:`build` wrote.

        Raises:
            HwsmpqError: the files are missing or unreadable, or the runtime is not installed.
        """
