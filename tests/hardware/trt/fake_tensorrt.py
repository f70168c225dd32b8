"""Stand-ins for CUDA and for the module ``tensorrt``: a stream that works only while it is waited for, and an engine
that computes y = x + bias and total = sum(y) in the kernels of :data:`KERNEL_MS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from hwsmpq.device.tensorrt.cuda import Buffer, Cuda

COPY_MS, RUN_MS, COLD_MS = 5.0, 2.0, 1000.0
KERNEL_MS = {"conv1_myl0_0": 0.5, "fused_myl0_1": 0.8, "reformat": 0.3, "mixer": 0.2, "unlisted": 0.1}
TENSORS = {  # in an order of which only the part of inputs and of outputs matters
    "total": ("OUTPUT", (2,)), "x": ("INPUT", (2, 3)), "y": ("OUTPUT", (2, 3)), "bias": ("INPUT", (3,)),
}
MOST = 4
"""Rows of ``x`` that an engine takes where their number is open."""


class FakeCuda(Cuda):
    stream = 7

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.queue: list[Callable[[], None]] = []
        self.calls: list[str] = []
        self.now_ms = 0.0
        self.fails = ""
        self.n_allocated = 0

    def allocate(self, n_bytes: int) -> Buffer:
        self.n_allocated += 1
        address = 4096 * self.n_allocated
        self.memory[address] = np.full(n_bytes, 0xAB, np.uint8)
        return Buffer(address, n_bytes, partial(self.memory.pop, address))

    def copy_in(self, buffer: Buffer, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.enqueue("copy in", partial(self._copy, self.memory[buffer.address], array), COPY_MS)

    def copy_out(self, buffer: Buffer, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.enqueue("copy out", partial(self._copy, array, self.memory[buffer.address]), COPY_MS)

    def synchronize(self) -> None:
        self.calls.append("synchronize")
        self.work()

    def elapsed_ms(self, enqueue: Callable[[], None]) -> float:
        marks: list[float] = []
        self.queue.append(lambda: marks.append(self.now_ms))
        enqueue()
        self.queue.append(lambda: marks.append(self.now_ms))
        self.synchronize()
        return marks[1] - marks[0]

    def repeatable(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        return enqueue

    def memory_bytes(self) -> tuple[int, int]:
        return 1, 2

    def enqueue(self, name: str, work: Callable[[], None], ms: float) -> None:
        def timed() -> None:
            work()
            self.now_ms += ms

        self.calls.append(name)
        self.queue.append(timed)

    def work(self) -> None:
        while self.queue:
            self.queue.pop(0)()

    @staticmethod
    def _copy(to: np.ndarray, source: np.ndarray) -> None:
        to, source = to.reshape(-1).view(np.uint8), source.reshape(-1).view(np.uint8)
        n = min(len(to), len(source))
        to[:n] = source[:n]


class FakeTensorrt:
    """The module. ``refuses`` names what shall fail, ``noise`` the factors on the kernels' times in successive runs."""

    TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
    ProfilingVerbosity = SimpleNamespace(LAYER_NAMES_ONLY="names", DETAILED="details")
    LayerInformationFormat = SimpleNamespace(JSON="json")

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = "internal error", "error", "warning"

        def __init__(self) -> None:
            self.is_made = True

    class IProfiler:
        def __init__(self) -> None:
            self.is_made = True

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.refuses = ""
        self.noise: list[float] = []
        self.reports = True
        self.is_open = False
        self.contexts: list[FakeContext] = []
        self.plans: list[bytes] = []

    def Runtime(self, logger: Any) -> FakeRuntime:
        if self.refuses == "runtime":
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return FakeRuntime(self, logger)


class FakeRuntime:
    def __init__(self, module: FakeTensorrt, logger: Any) -> None:
        assert logger.is_made
        self.module, self.logger = module, logger

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        self.module.plans.append(plan)
        self.logger.log("warning", "lazy loading is off")
        return None if self.refused("deserialize") else FakeEngine(self)

    def refused(self, step: str) -> bool:
        if self.module.refuses == step:
            self.logger.log("error", f"Error Code 6 in {step}")
            self.logger.log("internal error", "Assertion failed")
        return self.module.refuses == step


class FakeEngine:
    num_io_tensors = len(TENSORS)

    def __init__(self, runtime: FakeRuntime) -> None:
        self.runtime = runtime

    def get_tensor_name(self, index: int) -> str:
        return list(TENSORS)[index]

    def get_tensor_mode(self, name: str) -> str:
        return TENSORS[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = TENSORS[name][1]
        return (-1, *shape[1:]) if self.runtime.module.is_open and name != "bias" else shape

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        assert (name, index) == ("x", 0)
        return [(1, 3), (2, 3), (MOST, 3)]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="FP4" if self.runtime.module.refuses == "type" else "FLOAT")

    def create_execution_context(self) -> FakeContext | None:
        return None if self.runtime.refused("context") else FakeContext(self.runtime, self)

    def create_engine_inspector(self) -> FakeEngine:
        return self

    def get_engine_information(self, form: str) -> str:
        assert form == "json"
        return "" if self.runtime.refused("inspector") else '{"Layers": []}'


class FakeContext:
    nvtx_verbosity = "details"
    profiler: Any = None

    def __init__(self, runtime: FakeRuntime, engine: FakeEngine) -> None:
        self.runtime, self.module, self.cuda = runtime, runtime.module, runtime.module.cuda
        self.shapes = {name: engine.get_tensor_shape(name) for name in TENSORS}
        self.addresses: dict[str, int] = {}
        self.n_runs = 0
        self.module.contexts.append(self)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self.runtime.refused("shape"):
            return False
        assert name == "x" and shape[0] <= MOST
        self.shapes |= {"x": shape, "y": shape, "total": shape[:1]}
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return not self.runtime.refused("address")

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == self.cuda.stream
        assert self.addresses.keys() == TENSORS.keys()
        if self.runtime.refused("execute"):
            return False
        detail_ms = 3.0 if self.nvtx_verbosity == "details" else 0.0
        ms = RUN_MS + detail_ms + (0.0 if self.n_runs else COLD_MS)
        self.n_runs += 1
        self.cuda.enqueue("run", self._compute, ms)
        if self.profiler is not None:
            assert self.profiler.is_made
            self.cuda.work()  # with a profiler the call is synchronous
            factor = self.module.noise.pop(0) if self.module.noise else 1.0
            for name, kernel_ms in KERNEL_MS.items() if self.module.reports else ():
                self.profiler.report_layer_time(name, kernel_ms * factor)
        return True

    def _compute(self) -> None:
        tensors = {
            name: self.cuda.memory[self.addresses[name]].view(np.float32)[: np.prod(shape)].reshape(shape)
            for name, shape in self.shapes.items()
        }
        tensors["y"][:] = tensors["x"] + tensors["bias"]
        tensors["total"][:] = tensors["y"].sum(axis=1)
