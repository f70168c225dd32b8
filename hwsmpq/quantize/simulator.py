"""The simulator: runs any assignment in torch, recomputing only what is downstream of a change.

Consecutive assignments of a request usually differ in one group. Everything upstream of the change is unchanged in
eval mode, so its tensors are kept; on a permutation walk this about halves the work, and is exact.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from hwsmpq.model.capture import Captured
from hwsmpq.model.outputs import pack
from hwsmpq.model.shapes import Rows, chunks
from hwsmpq.quantize.carry import IN_BF16, MULTIPLIES
from hwsmpq.quantize.disturb import SUMS, Disturbance
from hwsmpq.quantize.heap import keep_freed_memory
from hwsmpq.quantize.layer import Operand, QuantizedLayer, QuantizedLayers, channels_last, rounded
from hwsmpq.quantize.residual import Residual
from hwsmpq.quantize.schedule import Step, sample_bytes, schedule
from hwsmpq.quantize.scheme import Grid, Scheme
from hwsmpq.types import PRECISIONS, Assignment, Layer, Ranges

ALLOCATOR_OVERHEAD = 1.4
"""Resident memory over the bytes of the tensors in it: 1.2 to 1.34 measured."""

_Quantized = dict[Any, dict[tuple[str, Grid | None], Tensor]]
"""What layers read of a tensor that later ones read too, by its node and by precision and grid."""


class Simulator:
    """Outputs of the network under assignments.

    Args:
        memory_mb: bound on the tensors that one chunk of samples needs (weights come on top).
        device: where to run; by default a CUDA device where there is one, else the CPU. Inputs may lie anywhere,
            results come back on the CPU.

    Attributes:
        chunk_size: samples run together, from ``memory_mb``: as many as it allows are fastest, or no slower (measured
            on six networks).
        form: how the network arranges its outputs, which are one tensor here.
    """

    _disturbance: Disturbance | None = None

    def __init__(
        self, captured: Captured, ranges: Ranges, scheme: Scheme, memory_mb: int = 1024,
        device: str | None = None,
    ) -> None:
        keep_freed_memory()
        self._layers, self._device = QuantizedLayers(ranges, scheme), torch.device(device or _best_device())
        if self._device.type == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # on by default, and coarser than what is simulated
        self.form = captured.form
        graph = captured.graph
        self._inputs = [n for n in graph.graph.nodes if n.op == "placeholder"]
        self._output = next(n for n in graph.graph.nodes if n.op == "output").args[0]
        self._constants: dict[fx.Node, Any] = {
            n: self._place(fx.graph_module._get_attr(graph, n.target).detach())
            for n in graph.graph.nodes
            if n.op == "get_attr"
        }
        self._steps = schedule(captured, self._device, scheme.quantizes_residuals, scheme.carries_bf16)
        self._carries_bf16 = scheme.carries_bf16
        self._carries = {step.node: step.carry for step in self._steps}
        self._network = captured.network
        self._group_of = {layer.name: captured.network.group_of(layer.name) for layer in captured.network.layers}
        n_bytes = sample_bytes(self._steps, captured)
        most = int(memory_mb * 2**20 / (ALLOCATOR_OVERHEAD * n_bytes))
        self.chunk_size = captured.at_once(max(1, most))

    def quantize(self, assignments: Sequence[Assignment]) -> None:
        """Quantize the weights that assignments need, which are kept; processes that are forked then share them."""
        asked = {(group, name) for assignment in assignments for group, name in assignment.items()}
        for step in self._steps:
            if step.layer is None or not step.layer.has_weight:
                continue
            group = self._group_of[step.layer.name]
            for name in sorted({name for of, name in asked if of == group}):
                self._layers.at(step.layer, PRECISIONS[name]).weight(self._constants[step.node.args[1]])  # type: ignore[index]

    def disturbed(self, disturbance: Disturbance) -> Simulator:
        """The same, whose layers read inputs that are a little changed."""
        other = copy.copy(self)
        other._disturbance = disturbance
        return other

    def outputs(self, assignments: Sequence[Assignment], inputs: tuple[Tensor, ...]) -> Iterator[tuple[int, Tensor]]:
        """Yield (row of ``assignments``, outputs on the device) for one chunk of inputs, in the order given.

        The outputs are the caller's own, who may change them.
        """
        env: dict[fx.Node, Any] = dict(self._constants)
        env |= {n: self._place(x) for n, x in zip(self._inputs, inputs, strict=True)}
        previous: Assignment | None = None
        for row, assignment in enumerate(assignments):
            with torch.inference_mode():
                self._run(env, assignment, previous)
                result = _resolve(self._output, env)
                result = pack(result) if isinstance(result, tuple) else result.clone()
            yield row, result
            previous = assignment

    def scores(
        self,
        assignments: Sequence[Assignment],
        inputs: tuple[Tensor, ...],
        score: Callable[[Tensor, Rows], Tensor],
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Per-sample scores, shape (n_assignments, n_samples, ...).

        Args:
            score: (outputs of a chunk, the rows of ``inputs`` it came from) -> (n_chunk, ...).
            progress: called with (evaluations done, evaluations in all), in shares of whole evaluations.
        """
        n, found = len(inputs[0]), torch.empty(0)
        size = math.ceil(n / math.ceil(n / self.chunk_size))  # no small rest, where that can be helped
        n_before = 0
        for rows, some in chunks(inputs, size):
            for row, out in self.outputs(assignments, some):
                with torch.inference_mode():
                    scored = score(out, rows).cpu()
                if not len(found):
                    found = torch.empty((len(assignments), n, *scored.shape[1:]), dtype=scored.dtype)
                found[row, rows] = scored
                if progress:
                    done = n_before * len(assignments) + (row + 1) * len(some[0])
                    progress(done // n, len(assignments))
            n_before += len(some[0])
        return found

    def _run(self, env: dict[fx.Node, Any], assignment: Assignment, previous: Assignment | None) -> None:
        """Bring every tensor of ``env`` that later steps or evaluations need up to date with ``assignment``."""
        changed = {g for g in self._network.group_names if previous is None or assignment[g] != previous[g]}
        quantized: _Quantized = {}
        for step in self._steps:
            if previous is not None and step.groups.isdisjoint(changed):
                continue
            args = self._operands(step, env, assignment) if step.layer is None else _resolve(step.node.args, env)
            kwargs = _resolve(step.kwargs, env)
            if step.layer is not None:
                quantizes = self._layer(step.layer, assignment)
                inputs = [
                    self._read(operand, node, x, quantized, assignment)
                    for operand, node, x in zip(quantizes.operands, step.node.args, args, strict=False)
                ]
                for node in step.last_read:
                    quantized.pop(node, None)
                if step.carry.rounds_bias and quantizes.carries_bf16:
                    args = args[:2] + tuple(rounded(one, torch.bfloat16) for one in args[2:])
                env[step.node] = quantizes.result(step.function, inputs, args, kwargs)
            else:
                if step.residual is not None:
                    args = self._with_residual(step, step.residual, assignment, args, quantized)
                in_bf16 = IN_BF16.get(step.node.target) if self._is_in_bf16(step.node, assignment) else None
                env[step.node] = (in_bf16 or step.function)(*args, **kwargs)
            if self._disturbance is not None and step.node.target in SUMS:
                env[step.node] = self._disturbance.result_in("fp32", env[step.node])
            if self._is_in_bf16(step.node, assignment):
                if self._disturbance is not None and not getattr(step.node.target, "is_view", True):
                    env[step.node] = self._disturbance.result_in("bf16", env[step.node])
                if step.carry.is_written:
                    env[step.node] = rounded(env[step.node], torch.bfloat16)
            for node in step.dead:
                del env[node]

    def _layer(self, layer: Layer, assignment: Assignment) -> QuantizedLayer:
        return self._layers.at(layer, PRECISIONS[assignment[self._group_of[layer.name]]])

    def _is_in_bf16(self, node: fx.Node, assignment: Assignment) -> bool:
        """Whether the target has the result of an operation in bf16."""
        carry = self._carries.get(node)
        return carry is not None and carry.is_in_bf16(lambda group: [PRECISIONS[assignment[group]]])

    def _is_written(self, node: fx.Node) -> bool:
        return node in self._carries and self._carries[node].is_written

    def _operands(self, step: Step, env: dict[fx.Node, Any], assignment: Assignment) -> tuple[Any, ...]:
        """Arguments of an operation as it reads them: rounded, where it or what it reads is in bf16 and no kernel
        computes both."""
        reads_bf16 = self._is_in_bf16(step.node, assignment)
        from_memory = [
            n for n in step.node.all_input_nodes
            if self._is_in_bf16(n, assignment) != reads_bf16 and (not reads_bf16 or self._is_written(n))
        ]
        if from_memory:
            env = env | {n: rounded(env[n], torch.bfloat16) for n in from_memory}
        if self._disturbance is not None and step.node.target in MULTIPLIES and self._may_use_bf16(assignment):
            env = env | {n: self._disturbance.result_in("bf16", env[n]) for n in step.node.all_input_nodes}
        return _resolve(step.node.args, env)

    def _may_use_bf16(self, assignment: Assignment) -> bool:
        """Whether the target may multiply results in bf16: its kernels of attention do where any layer is in it."""
        return self._carries_bf16 and "bf16" in assignment.values()

    def _read(
        self, operand: Operand, node: Any, x: Tensor, quantized: _Quantized, assignment: Assignment
    ) -> Tensor:
        """A tensor as a layer reads it; what several layers read alike is quantized once."""
        known, key = quantized.setdefault(node, {}), (operand.precision.name, operand.grid)
        if key not in known:
            if not operand.precision.quantizes_activations and self._is_in_bf16(node, assignment):
                x = rounded(x, torch.bfloat16)
            if self._disturbance is not None:
                if not operand.layer.has_weight and self._may_use_bf16(assignment):
                    x = self._disturbance.result_in("bf16", x)
                x = self._disturbance.input(x, operand)
            known[key] = operand.input(x)
        return known[key]

    def _with_residual(
        self, step: Step, residual: Residual, assignment: Assignment, args: tuple[Any, ...],
        quantized: _Quantized,
    ) -> tuple[Any, ...]:
        """Operands of an addition that reads a tensor as the quantized layers beside it do."""
        reader, partner = (self._layer(layer, assignment) for layer in (residual.reader, residual.partner))
        if not residual.is_quantized(reader.precision, partner.precision):
            return args
        index = residual.argument
        known = quantized.get(step.node.args[index], {}).get((reader.precision.name, reader.grid))
        x = reader.input(args[index]) if known is None else known
        return (*args[:index], x, *args[index + 1 :])

    def _place(self, x: Tensor) -> Tensor:
        return channels_last(x.to(self._device))


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _resolve(args: Any, env: dict[fx.Node, Any]) -> Any:
    return fx.node.map_arg(args, lambda n: env[n])
