"""What is put on a stream again and again, as a CUDA graph: launched at once, without the time that every kernel's own
launch takes."""

from __future__ import annotations

import weakref
from contextlib import suppress
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING

from hwsmpq.device.tensorrt.driver import RELAXED, Driver, get_driver
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Callable


class Graph:
    """What ``enqueue`` puts on a stream, to be launched there.

    Raises:
        HwsmpqError: it cannot be captured (it waits for the device, say), or there is no driver.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self._driver, self._stream = get_driver(), stream
        self._driver.call("cuStreamBeginCapture_v2", stream, RELAXED)
        graph = c_void_p()
        try:
            enqueue()
        finally:  # A stream is left capturing until it is told to end, whatever happened.
            self._driver.call("cuStreamEndCapture", stream, byref(graph))
        self._handle = self._driver.get("cuGraphInstantiateWithFlags", c_void_p, graph, 0)
        weakref.finalize(self, _destroy, self._driver, graph, self._handle).atexit = False

    def launch(self) -> None:
        self._driver.call("cuGraphLaunch", self._handle, self._stream)


def _destroy(driver: Driver, graph: c_void_p, handle: int) -> None:
    for name, what in (("cuGraphExecDestroy", handle), ("cuGraphDestroy", graph)):
        # Nothing could be done, and an earlier failure would only be repeated.
        with suppress(HwsmpqError):
            driver.call(name, what)
