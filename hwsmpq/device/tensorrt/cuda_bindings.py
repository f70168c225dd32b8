"""CUDA through NVIDIA's package cuda-bindings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from hwsmpq.device.tensorrt.cuda import Buffer, Cuda, importing
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CudaBindings(Cuda):
    """CUDA runtime API.

    Raises:
        HwsmpqError: the package is not installed, or there is no driver or no GPU.
    """

    def __init__(self) -> None:
        with importing("cuda-bindings"):
            from cuda.bindings import runtime
        self._runtime = runtime
        if not self._call("cudaGetDeviceCount"):
            raise HwsmpqError("cuda-bindings sees no GPU", "the driver offers 0 devices", "check CUDA_VISIBLE_DEVICES")
        # Non-blocking: other users of the process' default stream shall neither wait for engines nor delay them.
        self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self._before, self._after = self._call("cudaEventCreate"), self._call("cudaEventCreate")
        self.stream = int(self._stream)

    def allocate(self, n_bytes: int) -> Buffer:
        address = int(self._call("cudaMalloc", n_bytes))
        # Whether freeing fails is not asked: nothing could be done, and an earlier failure would only be repeated.
        return Buffer(address, n_bytes, partial(self._runtime.cudaFree, address))

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        to_device = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", buffer.address, array.ctypes.data, array.nbytes, to_device, self._stream)

    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        to_host = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, buffer.address, array.nbytes, to_host, self._stream)

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def elapsed_ms(self, enqueue: Callable[[], None]) -> float:
        self._call("cudaEventRecord", self._before, self._stream)
        enqueue()
        self._call("cudaEventRecord", self._after, self._stream)
        self._call("cudaEventSynchronize", self._after)
        return float(self._call("cudaEventElapsedTime", self._before, self._after))

    def memory_bytes(self) -> tuple[int, int]:
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a function that returns its error code first; its one result, or all of them."""
        try:
            code, *results = getattr(self._runtime, name)(*arguments)
        except RuntimeError as error:  # the package looks for the driver's library in its first call
            raise HwsmpqError(f"{name} failed", str(error)) from error
        if code != self._runtime.cudaError_t.cudaSuccess:
            _, text = self._runtime.cudaGetErrorString(code)
            raise HwsmpqError(f"{name} failed", f"{code.name}: {text.decode()}")
        return results[0] if len(results) == 1 else results
