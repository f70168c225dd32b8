"""Runs and times a program, on a GPU as a CUDA graph."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.device.runtime import UNATTRIBUTED, Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.torch_cuda.program import Program, place

HELPERS = ("in.clip", "in.quantize", "in.dequantize", "in.cast", "out.cast")
"""Nodes that the Q/DQ writer puts around a layer, behind the layer's name."""
N_WARM_UP = 3


class TorchEngine(Engine):
    """A program with its inputs in fixed places.

    Args:
        as_graph: run as one CUDA graph; else the kernels are launched one by one.

    Raises:
        HwsmpqError: a first run fails.
    """

    def __init__(self, program: Program, device: str, allow_tf32: bool, as_graph: bool) -> None:
        self._program, self._device = program, device
        self._fp32_kind, self._as_graph = "tf32" if allow_tf32 else "ieee", as_graph
        self._inputs = [place(torch.zeros(shape, dtype=dtype), device) for shape, dtype in program.inputs.values()]
        self._ends = self._event(), self._event()
        self._run = self._runner([])

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        self._take(inputs)
        return [output.numpy(force=True).copy() for output in self._run()]

    def milliseconds(self, inputs: Sequence[NDArray[Any]]) -> float:
        """Time of one inference on the device, from inputs that lie there to outputs that lie there."""
        self._take(inputs)
        start, end = self._ends
        start.record()
        self._run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def realised(self, layers: Sequence[str]) -> dict[str, str]:
        found = {step.name: step.precision for step in self._program.steps if step.precision is not None}
        missing = [layer for layer in layers if layer not in found]
        if missing:
            raise HwsmpqError(
                f"layer {missing[0]!r} is not in the engine", f"no node has its name ({len(missing)} such layers)",
                "build the engine from an ONNX file whose nodes carry the layers' names",
            )
        return {layer: found[layer] for layer in layers}

    def layer_ms(
        self, layers: Sequence[str], inputs: Sequence[NDArray[Any]], n_repeats: int
    ) -> dict[str, float]:
        """From events between the nodes, which lie inside the CUDA graph where there is one; launched one by one,
        short nodes take as long as their launch. A layer's time holds its quantization and its casts."""
        self.realised(layers)
        owners = {f"{layer}.{helper}": layer for layer in layers for helper in HELPERS} | {x: x for x in layers}
        run, events = self._counting
        self._take(inputs)
        samples: dict[str, list[float]] = defaultdict(list)
        for _ in range(N_WARM_UP + n_repeats):
            run()
            events[-1].synchronize()
            for step, start, end in zip(self._program.steps, events[:-1], events[1:], strict=True):
                samples[step.name].append(start.elapsed_time(end))
        total = dict.fromkeys([*layers, UNATTRIBUTED], 0.0)
        for name, times in samples.items():
            fastest = np.sort(times[N_WARM_UP:])[: max(1, n_repeats // 3)]
            total[owners.get(name, UNATTRIBUTED)] += float(fastest.mean())
        return total

    @cached_property
    def _counting(self) -> tuple[Callable[[], list[Tensor]], list[Any]]:
        """A second runner, with events: they cost time that the timed engine should not pay."""
        events = [self._event() for _ in range(len(self._program.steps) + 1)]
        return self._runner(events), events

    def _take(self, inputs: Sequence[NDArray[Any]]) -> None:
        expected = [tuple(x.shape) for x in self._inputs]
        if [x.shape for x in inputs] != expected:
            raise HwsmpqError(
                f"the engine refuses inputs of shapes {[x.shape for x in inputs]}",
                f"it was built for {', '.join(map(str, expected))}", "pass batches of the size that it was built for",
            )
        for slot, x in zip(self._inputs, inputs, strict=True):
            slot.copy_(torch.from_numpy(x))

    def _runner(self, events: Sequence[Any]) -> Callable[[], list[Tensor]]:
        """Runs the program on the inputs, and returns before the device is done.

        Raises:
            HwsmpqError: torch fails.
        """

        @torch.inference_mode()
        def run() -> list[Tensor]:
            with _fp32_math(self._fp32_kind):
                return self._program.run(self._inputs, events)

        try:
            if self._as_graph:
                return _graph(run)
            run()
        except RuntimeError as error:
            raise HwsmpqError(
                "torch cannot run the engine", str(error).strip().splitlines()[0],
                "use the target torch-cuda:eager if the CUDA graph is at fault, else another target",
            ) from error
        return run

    def _event(self) -> Any:
        # Only external events of a graph can be read from outside, after every replay.
        return torch.cuda.Event(enable_timing=True, external=True) if self._device != "cpu" else _HostEvent()


def _graph(run: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    """What ``run`` launches, as a CUDA graph; its outputs lie in the same place after every replay."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(N_WARM_UP):  # cuDNN tries its kernels here, which a capture does not allow
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()

    def replay() -> list[Tensor]:
        graph.replay()
        return outputs

    return replay


class _HostEvent:
    """A point on the time line of the CPU, with the interface of torch's events."""

    def record(self) -> None:
        self._ms = time.perf_counter() * 1e3

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _HostEvent) -> float:
        return end._ms - self._ms


@contextmanager
def _fp32_math(kind: str) -> Iterator[None]:
    """Compute fp32 convolutions and matrix products as ``ieee`` or ``tf32``, and convolutions by the kernels that
    cuDNN measures as fastest. These are settings of the process, which are put back."""
    cudnn = torch.backends.cudnn
    operations = torch.backends.cuda.matmul, cudnn.conv
    kinds, benchmark = [x.fp32_precision for x in operations], cudnn.benchmark
    try:
        for x in operations:
            x.fp32_precision = kind
        cudnn.benchmark = True
        yield
    finally:
        for x, before in zip(operations, kinds, strict=True):
            x.fp32_precision = before
        cudnn.benchmark = benchmark
