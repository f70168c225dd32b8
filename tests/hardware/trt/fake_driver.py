"""A stand-in for the CUDA driver's library: C functions of the real signatures, on the fake GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import c_int
from types import SimpleNamespace
from typing import Any

from hwsmpq.device.tensorrt.driver import NON_BLOCKING, SIGNATURES

from .fake_packages import Gpu

OUT_OF_MEMORY, NOT_PERMITTED = 2, 800
STREAM, CONTEXT, GRAPH, EXECUTABLE = 41, 9, 51, 52
NAMES = {
    OUT_OF_MEMORY: (b"CUDA_ERROR_OUT_OF_MEMORY", b"out of memory"), NOT_PERMITTED: (b"CUDA_ERROR_NOT_PERMITTED", b""),
}


def driver_library(gpu: Gpu, without: str = "") -> SimpleNamespace:
    """The library. While its stream is captured, copies are noted in place of being done.

    Args:
        without: a function that this driver lacks.
    """
    library, events, state = SimpleNamespace(), dict[int, float](), SimpleNamespace(captured=None, graph=[])

    def enqueue(work: Callable[[], None]) -> None:
        (work if state.captured is None else lambda: state.captured.append(work))()

    def give(pointer: Any, value: Any) -> None:
        pointer[0] = value

    def new_event(pointer: Any, flags: int) -> None:
        events[100 + len(events)] = -1.0
        give(pointer, 99 + len(events))

    def new_stream(pointer: Any, flags: int) -> None:
        assert flags == NON_BLOCKING
        give(pointer, STREAM)

    def name(pointer: Any, n: int, device: int) -> None:
        ctypes.memmove(pointer, b"Orin\0", 5)

    def text(index: int) -> Callable[..., None]:
        def text(code: int, pointer: Any) -> None:
            pointer[0] = NAMES[code][index] or None
        return text

    def begin(stream: int, mode: int) -> None:
        state.captured = []

    def end(stream: int, graph: Any) -> None:
        state.graph, state.captured = state.captured, None
        give(graph, GRAPH)

    def launch(executable: int, stream: int) -> None:
        assert (executable, stream) == (EXECUTABLE, STREAM)
        for work in state.graph:
            work()

    def memory(free: Any, total: Any) -> None:
        give(free, 300)
        give(total, 400)

    works: dict[str, Callable[..., Any]] = {
        "cuInit": lambda flags: None,
        "cuDriverGetVersion": lambda to: give(to, 12_040),
        "cuDeviceGetCount": lambda to: give(to, gpu.n_devices),
        "cuDeviceGet": lambda to, index: give(to, index),
        "cuDeviceGetName": name,
        "cuDeviceGetAttribute": lambda to, which, device: give(to, {75: 8, 76: 7, 16: 14}[which]),
        "cuDeviceTotalMem_v2": lambda to, device: give(to, 32 * 2**30),
        "cuDevicePrimaryCtxRetain": lambda to, device: give(to, CONTEXT),
        "cuCtxSetCurrent": lambda context: None,
        "cuMemAlloc_v2": lambda to, n: give(to, gpu.allocate(n)),
        "cuMemFree_v2": lambda address: gpu.memory.pop(address) and None,
        "cuMemGetInfo_v2": memory,
        "cuMemcpyHtoDAsync_v2": lambda to, source, n, stream: enqueue(lambda: gpu.copy(to, source, n, to)),
        "cuMemcpyDtoHAsync_v2": lambda to, source, n, stream: enqueue(lambda: gpu.copy(to, source, n, source)),
        "cuStreamCreate": new_stream,
        "cuStreamSynchronize": lambda stream: None if state.captured is None else NOT_PERMITTED,
        "cuStreamBeginCapture_v2": begin,
        "cuStreamEndCapture": end,
        "cuEventCreate": new_event,
        "cuEventRecord": lambda event, stream: events.update({event: gpu.now_ms}),
        "cuEventSynchronize": lambda event: None,
        "cuEventElapsedTime": lambda to, first, second: give(to, events[second] - events[first]),
        "cuGraphInstantiateWithFlags": lambda to, graph, flags: give(to, EXECUTABLE),
        "cuGraphLaunch": launch,
        "cuGraphExecDestroy": lambda executable: None,
        "cuGraphDestroy": lambda graph: None,
        "cuGetErrorName": text(0),
        "cuGetErrorString": text(1),
    }
    for function, work in works.items():
        if function != without:
            setattr(library, function, _c_function(gpu, function, work))
    return library


def _c_function(gpu: Gpu, name: str, work: Callable[..., Any]) -> Any:
    def called(*arguments: Any) -> int:
        gpu.calls.append(name)
        return OUT_OF_MEMORY if gpu.fails == name else work(*arguments) or 0

    return ctypes.CFUNCTYPE(c_int, *SIGNATURES[name])(called)
