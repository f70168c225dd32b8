"""An engine on the GPU: inputs and outputs in device memory, runs and times. """

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hwsmpq.device.tensorrt.cuda import Buffer
from hwsmpq.device.tensorrt.cuda_packages import get_cuda
from hwsmpq.device.tensorrt.loaded import Deserialized
from hwsmpq.errors import HwsmpqError

if TYPE_CHECKING:
    from numpy.typing import NDArray


NUMPY_TYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "UINT8": "uint8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool",
}
"""By the runtime's name; its own table asks old versions for names that numpy has dropped."""
OPEN = -1
"""A size that the engine leaves to its inputs."""


@dataclass(frozen=True)
class Port:
    """An input or output of the engine. Where a size of ``shape`` is -1 it is open, up to ``largest``, for which
    ``buffer`` has memory."""

    name: str
    shape: tuple[int, ...]
    largest: tuple[int, ...]
    dtype: np.dtype[Any]
    buffer: Buffer

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether an array has a shape for it."""
        return len(shape) == len(self.shape) and all(
            n == size or (size == OPEN and n <= most) for n, size, most in zip(shape, self.shape, self.largest)
        )

    def __str__(self) -> str:
        return f"{self.name} {self.shape}" + (f" up to {self.largest}" if OPEN in self.shape else "")


class Session:
    """Runs one engine.

    Args:
        plan: file of the serialized engine.
        module: ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        HwsmpqError: there is no GPU, the runtime refuses the engine, or memory does not suffice.
    """

    def __init__(self, plan: Path, module: Any) -> None:
        self._module = module
        self._cuda = get_cuda()
        try:
            self._loaded = Deserialized(plan.read_bytes(), module)
        except OSError as error:
            raise HwsmpqError(f"cannot read {plan}", str(error), "build the engine again") from error
        self._context = self._loaded.create_context()
        self._inputs = self._ports(module.TensorIOMode.INPUT)
        self._shapes = [port.largest for port in self._inputs]
        self._shape(self._context)
        self._outputs = self._ports(module.TensorIOMode.OUTPUT)
        self._address(self._context)
        # Engines are built to describe themselves in detail; that detail in every run's markers would cost time.
        self._context.nvtx_verbosity = module.ProfilingVerbosity.LAYER_NAMES_ONLY
        self._is_warm = False

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Outputs in order, as arrays that the caller owns.

        Raises:
            HwsmpqError: the inputs do not fit the engine, or the run fails.
        """
        self._load(inputs)
        self._enqueue(self._context)
        outputs = [np.empty(self._sizes(port.name), port.dtype) for port in self._outputs]
        for port, output in zip(self._outputs, outputs):
            self._cuda.copy_out(port.buffer, output)
        self._cuda.synchronize()
        return outputs

    def milliseconds(self, inputs: Sequence[NDArray[Any]]) -> float:
        """Time of one run on an idle stream, by CUDA events, with the inputs on the device already, as one CUDA graph
        where the engine can be captured.

        Raises:
            HwsmpqError: as :meth:`infer`.
        """
        self._load(inputs)
        return self._cuda.elapsed_ms(self._launch)

    def kernel_ms(self, inputs: Sequence[NDArray[Any]], n_repeats: int) -> dict[str, float]:
        """Milliseconds by the name of the kernel: the mean of the fastest third of ``n_repeats`` profiled runs.

        Raises:
            HwsmpqError: as :meth:`infer`, or the runtime reports no times.
        """
        self._load(inputs)
        context, profiler = self._profiled
        runs: list[dict[str, float]] = []
        for _ in range(1 + n_repeats):
            profiler.kernel_ms = {}
            self._enqueue(context)
            self._cuda.synchronize()
            runs.append(profiler.kernel_ms)
        warm = runs[1:]
        if not warm[0]:
            raise self._loaded.refusal("the runtime reports no times of kernels", "build the engine again")
        n_fastest = max(1, n_repeats // 3)
        return {
            name: float(np.mean(sorted(run[name] for run in warm if name in run)[:n_fastest])) for name in warm[0]
        }

    def _ports(self, mode: Any) -> list[Port]:
        engine = self._loaded.engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        ports = []
        for name in names:
            if engine.get_tensor_mode(name) == mode:
                shape, dtype = tuple(engine.get_tensor_shape(name)), self._dtype(name)
                largest = shape
                if OPEN in shape and mode == self._module.TensorIOMode.INPUT:
                    largest = tuple(engine.get_tensor_profile_shape(name, 0)[-1])
                elif OPEN in shape:
                    largest = self._sizes(name)
                buffer = self._cuda.allocate(int(np.prod(largest)) * dtype.itemsize)
                ports.append(Port(name, shape, largest, dtype, buffer))
        return ports

    def _sizes(self, name: str) -> tuple[int, ...]:
        """Of a tensor, with the inputs that the context was told last."""
        return tuple(self._context.get_tensor_shape(name))

    def _dtype(self, name: str) -> np.dtype[Any]:
        runtime_type = self._loaded.engine.get_tensor_dtype(name).name
        if runtime_type not in NUMPY_TYPES:
            raise HwsmpqError(
                f"{name!r} of the engine has a type that numpy lacks", f"it is {runtime_type}",
                "give the model float32 inputs and outputs",
            )
        return np.dtype(NUMPY_TYPES[runtime_type])

    def _shape(self, context: Any) -> None:
        """Tell a context the sizes of inputs that are open."""
        for port, shape in zip(self._inputs, self._shapes):
            if OPEN in port.shape and not context.set_input_shape(port.name, shape):
                raise self._loaded.refusal(f"the runtime refuses {shape} for {port.name!r}", "build the engine again")

    def _address(self, context: Any) -> None:
        """Let a context work on the session's buffers."""
        for port in (*self._inputs, *self._outputs):
            if not context.set_tensor_address(port.name, port.buffer.address):
                raise self._loaded.refusal(f"the runtime refuses memory for {port.name!r}", "build the engine again")

    @cached_property
    def _launch(self) -> Callable[[], None]:
        launch = self._cuda.repeatable(lambda: self._enqueue(self._context))
        launch()  # A graph goes to the device with its first launch.
        self._cuda.synchronize()
        return launch

    @cached_property
    def _profiled(self) -> tuple[Any, Any]:
        """A context of its own for profiling, which slows runs down, and its profiler."""
        context, profiler = self._loaded.create_context(), _profiler(self._module)
        self._shape(context)
        self._address(context)
        context.profiler = profiler
        return context, profiler

    def _load(self, inputs: Sequence[NDArray[Any]]) -> None:
        """Copy the inputs to the device; the first time that they have their sizes also run once."""
        shapes = [tuple(array.shape) for array in inputs]
        if len(shapes) != len(self._inputs) or not all(port.takes(x) for port, x in zip(self._inputs, shapes)):
            raise HwsmpqError(
                f"the engine refuses inputs of shapes {shapes}",
                f"it was built for {', '.join(map(str, self._inputs))}",
                "pass batches of the size that it was built for",
            )
        if shapes != self._shapes:
            self._shapes, self._is_warm = shapes, False
            self._shape(self._context)
            for made_for_others in ("_launch", "_profiled"):
                self.__dict__.pop(made_for_others, None)
        arrays = [np.ascontiguousarray(x, port.dtype) for x, port in zip(inputs, self._inputs)]
        for port, array in zip(self._inputs, arrays):
            self._cuda.copy_in(port.buffer, array)
        if not self._is_warm:
            # The first run loads kernels, and TensorRT-RTX compiles them in it: no time of it is an inference's.
            self._enqueue(self._context)
            self._is_warm = True
        self._cuda.synchronize()

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._cuda.stream):
            raise self._loaded.refusal("the runtime cannot run the engine", "build it again")


def _profiler(module: Any) -> Any:
    class Profiler(module.IProfiler):  # type: ignore[misc]
        """Adds up the times that the runtime reports, by kernel."""

        def __init__(self) -> None:
            module.IProfiler.__init__(self)
            self.kernel_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.kernel_ms[layer_name] = self.kernel_ms.get(layer_name, 0.0) + ms

    return Profiler()
