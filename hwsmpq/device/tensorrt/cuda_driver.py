"""CUDA by the driver alone, without any package."""

from __future__ import annotations

from contextlib import suppress
from ctypes import byref, c_float, c_int, c_size_t, c_uint64, c_void_p
from functools import partial
from typing import TYPE_CHECKING, Any

from hwsmpq.device.tensorrt.cuda import Buffer, Cuda
from hwsmpq.device.tensorrt.driver import NON_BLOCKING, get_driver
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


class CudaDriver(Cuda):
    """CUDA driver API in the device's primary context, the one that TensorRT uses.

    Raises:
        HwsmpqError: there is no driver or no GPU.
    """

    def __init__(self) -> None:
        self._driver = driver = get_driver()
        if not driver.get("cuDeviceGetCount", c_int):
            raise HwsmpqError("the driver sees no GPU", "it offers 0 devices", "check CUDA_VISIBLE_DEVICES")
        device = driver.get("cuDeviceGet", c_int, 0)
        self._context = driver.get("cuDevicePrimaryCtxRetain", c_void_p, device)
        driver.call("cuCtxSetCurrent", self._context)
        self.stream = int(driver.get("cuStreamCreate", c_void_p, NON_BLOCKING))
        self._before, self._after = (driver.get("cuEventCreate", c_void_p, 0) for _ in range(2))

    def allocate(self, n_bytes: int) -> Buffer:
        address = int(self._driver.get("cuMemAlloc_v2", c_uint64, n_bytes))
        return Buffer(address, n_bytes, partial(self._free, address))

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        self._driver.call("cuMemcpyHtoDAsync_v2", buffer.address, array.ctypes.data, array.nbytes, self.stream)

    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        self._driver.call("cuMemcpyDtoHAsync_v2", array.ctypes.data, buffer.address, array.nbytes, self.stream)

    def synchronize(self) -> None:
        self._driver.call("cuStreamSynchronize", self.stream)

    def elapsed_ms(self, enqueue: Callable[[], None]) -> float:
        self._driver.call("cuEventRecord", self._before, self.stream)
        enqueue()
        self._driver.call("cuEventRecord", self._after, self.stream)
        self._driver.call("cuEventSynchronize", self._after)
        return float(self._driver.get("cuEventElapsedTime", c_float, self._before, self._after))

    def memory_bytes(self) -> tuple[int, int]:
        free, total = c_size_t(), c_size_t()
        self._driver.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def _free(self, address: int) -> None:
        # Nothing could be done, and an earlier failure would only be repeated.
        with suppress(HwsmpqError):
            self._driver.call("cuMemFree_v2", address)
