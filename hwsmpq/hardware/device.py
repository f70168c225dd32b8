"""Where engines are built, run and timed: on this machine, or on another one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from hwsmpq.device import timing
from hwsmpq.device.runtime import Engine, Runtime
from hwsmpq.device.runtimes import get_runtime
from hwsmpq.device.timing import Timing, TimingRequest


class Device(ABC):
    """A machine with runtimes on it."""

    @abstractmethod
    def runtime(self, name: str) -> Runtime:
        """A runtime of the device; the engines that it loads are on the device.

        Raises:
            HwsmpqError: no such runtime, or the device cannot be reached.
        """

    @abstractmethod
    def measure(
        self, engines: Mapping[str, Engine], how: TimingRequest, progress: Callable[[int, int], None] | None = None
    ) -> Timing:
        """Time engines of this device against each other, see :func:`hwsmpq.device.timing.measure`."""


class LocalDevice(Device):
    """This machine."""

    def runtime(self, name: str) -> Runtime:
        return get_runtime(name)

    def measure(
        self, engines: Mapping[str, Engine], how: TimingRequest, progress: Callable[[int, int], None] | None = None
    ) -> Timing:
        return timing.measure(engines, how, progress)


HERE = LocalDevice()
