"""CUDA through the package pycuda."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hwsmpq.device.tensorrt.cuda import Buffer, Cuda, importing
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which the package does not name


class PyCuda(Cuda):
    """CUDA driver API in the device's primary context, the one that TensorRT uses.

    Raises:
        HwsmpqError: the package is not installed, or there is no driver or no GPU.
    """

    def __init__(self) -> None:
        with importing("pycuda"):
            from pycuda import driver
        self._driver = driver
        with self._named():
            try:
                # Makes the context current, and takes it back before the process ends.
                from pycuda import autoprimaryctx  # noqa: F401
            except RuntimeError as error:
                raise HwsmpqError("pycuda sees no GPU", str(error), "check CUDA_VISIBLE_DEVICES") from error
            self._stream = driver.Stream(NON_BLOCKING)
            self._before, self._after = driver.Event(), driver.Event()
        self.stream = self._stream.handle

    def allocate(self, n_bytes: int) -> Buffer:
        with self._named():
            allocation = self._driver.mem_alloc(n_bytes)
        return Buffer(int(allocation), n_bytes, allocation.free)

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        with self._named():
            self._driver.memcpy_htod_async(buffer.address, array, self._stream)

    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        with self._named():
            self._driver.memcpy_dtoh_async(array, buffer.address, self._stream)

    def synchronize(self) -> None:
        with self._named():
            self._stream.synchronize()

    def elapsed_ms(self, enqueue: Callable[[], None]) -> float:
        with self._named():
            self._before.record(self._stream)
            enqueue()
            self._after.record(self._stream)
            self._after.synchronize()
            return float(self._before.time_till(self._after))

    def memory_bytes(self) -> tuple[int, int]:
        with self._named():
            free, total = self._driver.mem_get_info()
        return int(free), int(total)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:  # its text names the call
            raise HwsmpqError("pycuda failed", str(error)) from error
