"""Stand-ins for the packages cuda-bindings and pycuda: host memory, and a clock that only work moves forward."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any

import pytest


class Gpu:
    """What both stand-ins share: memory by address, a clock in ms, and which call fails."""

    def __init__(self, fails: str = "", n_devices: int = 1) -> None:
        self.fails, self.n_devices = fails, n_devices
        self.memory: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self.now_ms = 0.0
        self.calls: list[str] = []

    def allocate(self, n_bytes: int) -> int:
        block = ctypes.create_string_buffer(n_bytes)
        self.memory[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def copy(self, to: int, source: int, n_bytes: int, device: int) -> None:
        """``device`` is the address that must be device memory."""
        assert ctypes.sizeof(self.memory[device]) >= n_bytes
        ctypes.memmove(to, source, n_bytes)
        self.now_ms += 5.0


class Event:
    at_ms = -1.0


class Stream:
    def __int__(self) -> int:
        return 41


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


def bindings(gpu: Gpu) -> ModuleType:
    """``cuda.bindings.runtime`` on the fake GPU."""
    runtime = ModuleType("cuda.bindings.runtime")
    runtime.cudaStreamNonBlocking, runtime.cudaError_t, runtime.cudaMemcpyKind = 1, cudaError_t, cudaMemcpyKind
    runtime.cudaGetErrorString = lambda code: (cudaError_t.cudaSuccess, b"what " + code.name.encode())

    def offer(name: str, work: Callable[..., Any], n_results: int = 1) -> None:
        def function(*arguments: Any) -> tuple[Any, ...]:
            gpu.calls.append(name)
            if gpu.fails == name:
                return cudaError_t.cudaErrorMemoryAllocation, *[None] * n_results
            result = work(*arguments)
            return cudaError_t.cudaSuccess, *(result if n_results > 1 else [result] * n_results)

        setattr(runtime, name, function)

    def copy(to: int, source: int, n_bytes: int, kind: cudaMemcpyKind, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        gpu.copy(to, source, n_bytes, to if kind is cudaMemcpyKind.cudaMemcpyHostToDevice else source)

    def record(event: Event, stream: Stream) -> None:
        assert isinstance(stream, Stream)
        event.at_ms = gpu.now_ms

    offer("cudaGetDeviceCount", lambda: gpu.n_devices)
    offer("cudaStreamCreateWithFlags", lambda flags: Stream() if flags == 1 else pytest.fail("a blocking stream"))
    offer("cudaEventCreate", Event)
    offer("cudaMalloc", gpu.allocate)
    offer("cudaFree", gpu.memory.pop, n_results=0)
    offer("cudaMemcpyAsync", copy, n_results=0)
    offer("cudaEventRecord", record, n_results=0)
    offer("cudaEventSynchronize", lambda event: None, n_results=0)
    offer("cudaEventElapsedTime", lambda first, second: second.at_ms - first.at_ms)
    offer("cudaStreamSynchronize", lambda stream: None, n_results=0)
    offer("cudaMemGetInfo", lambda: (300, 400), n_results=2)
    return runtime


def pycuda(gpu: Gpu) -> ModuleType:
    """``pycuda.driver`` on the fake GPU, and ``pycuda.autoprimaryctx`` as one of its attributes."""
    driver = ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    def called(name: str) -> None:
        gpu.calls.append(name)
        if gpu.fails == name:
            raise Error(f"{name} failed: out of memory")

    class PycudaStream:
        handle = 42

        def __init__(self, flags: int = 0) -> None:
            called("cuStreamCreate")
            assert flags == 1

        def synchronize(self) -> None:
            called("cuStreamSynchronize")

    class PycudaEvent:
        def __init__(self) -> None:
            called("cuEventCreate")

        def record(self, stream: PycudaStream) -> None:
            called("cuEventRecord")
            self.at_ms = gpu.now_ms

        def synchronize(self) -> None:
            called("cuEventSynchronize")

        def time_till(self, other: PycudaEvent) -> float:
            called("cuEventElapsedTime")
            return other.at_ms - self.at_ms

    class DeviceAllocation:
        def __init__(self, n_bytes: int) -> None:
            called("cuMemAlloc")
            self.address = gpu.allocate(n_bytes)

        def __int__(self) -> int:
            return self.address

        def free(self) -> None:
            del gpu.memory[self.address]

    def copy_in(to: int, source: Any, stream: PycudaStream) -> None:
        called("cuMemcpyHtoDAsync")
        gpu.copy(to, source.ctypes.data, source.nbytes, to)

    def copy_out(to: Any, source: int, stream: PycudaStream) -> None:
        called("cuMemcpyDtoHAsync")
        gpu.copy(to.ctypes.data, source, to.nbytes, source)

    def memory() -> tuple[int, int]:
        called("cuMemGetInfo")
        return 300, 400

    driver.Error, driver.Stream, driver.Event = Error, PycudaStream, PycudaEvent
    driver.mem_alloc, driver.mem_get_info = DeviceAllocation, memory
    driver.memcpy_htod_async, driver.memcpy_dtoh_async = copy_in, copy_out
    return driver


class _AutoPrimaryContext(ModuleType):
    """The package ``pycuda``, whose module autoprimaryctx takes the device when it is imported."""

    def __init__(self, gpu: Gpu, driver: ModuleType) -> None:
        super().__init__("pycuda")
        self.driver, self._gpu = driver, gpu

    def __getattr__(self, name: str) -> Any:
        if name != "autoprimaryctx":
            raise AttributeError(name)
        if self._gpu.n_devices == 0:
            raise RuntimeError("No CUDA enabled device found.")
        if self._gpu.fails == "cuInit":
            raise self.driver.Error("cuInit failed: no CUDA-capable device is detected")
        return object()


def install(monkeypatch: pytest.MonkeyPatch, bindings_gpu: Gpu | None, pycuda_gpu: Gpu | None) -> None:
    """Let imports find the stand-ins; None is a package that is not installed."""
    names = ("cuda", "cuda.bindings", "cuda.bindings.runtime", "pycuda", "pycuda.driver", "pycuda.autoprimaryctx")
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    if bindings_gpu is not None:
        packages = [ModuleType("cuda"), ModuleType("cuda.bindings"), bindings(bindings_gpu)]
        packages[1].runtime = packages[2]
        for name, module in zip(names[:3], packages, strict=True):
            monkeypatch.setitem(sys.modules, name, module)
    if pycuda_gpu is not None:
        driver = pycuda(pycuda_gpu)
        monkeypatch.setitem(sys.modules, "pycuda", _AutoPrimaryContext(pycuda_gpu, driver))
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
