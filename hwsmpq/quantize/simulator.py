"""The simulator: runs any assignment in torch, recomputing only what is downstream of a change.

Consecutive assignments of a request usually differ in one group. Everything upstream of the change is unchanged in
eval mode, so its tensors are kept; on a permutation walk this about halves the work, and is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from hwsmpq.model.capture import Captured
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.types import Assignment, Precision, Ranges

# A view of a contiguous tensor need not be one of the same tensor in channels_last, in which the simulator runs.
LAYOUT_FREE = {
    torch.ops.aten.view.default: torch.ops.aten.reshape.default,
    torch.ops.aten._unsafe_view.default: torch.ops.aten.reshape.default,
}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Simulator:
    """Outputs of the network under assignments.

    Args:
        memory_mb: bound on the intermediate tensors kept for one chunk of samples.
    """

    def __init__(self, captured: Captured, ranges: Ranges, scheme: Scheme, memory_mb: int = 1024) -> None:
        self._ranges, self._scheme = ranges, scheme
        graph = captured.graph
        self._nodes = [n for n in graph.graph.nodes if n.op in ("call_function", "output")]
        self._inputs = [n for n in graph.graph.nodes if n.op == "placeholder"]
        self._constants: dict[fx.Node, Any] = {
            n: _channels_last(fx.graph_module._get_attr(graph, n.target).detach())
            for n in graph.graph.nodes
            if n.op == "get_attr"
        }
        self._layer_of = {captured.layer_nodes[layer.name]: layer for layer in captured.network.layers}
        self._group_of = {node: captured.network.group_of(layer.name) for node, layer in self._layer_of.items()}
        self._weights: dict[tuple[str, str], Tensor] = {}
        self.chunk_size = max(1, memory_mb * 2**20 // max(1, captured.activation_bytes))

    def outputs(self, assignments: Sequence[Assignment], inputs: tuple[Tensor, ...]) -> Iterator[tuple[int, Tensor]]:
        """Yield (row of ``assignments``, outputs) for one chunk of inputs, in the order given."""
        env: dict[fx.Node, Any] = dict(self._constants)
        env |= {n: _channels_last(x) for n, x in zip(self._inputs, inputs, strict=True)}
        previous: Assignment | None = None
        for row, assignment in enumerate(assignments):
            with torch.inference_mode():
                result = self._run(env, assignment, previous)
            yield row, result
            previous = assignment

    def scores(
        self,
        assignments: Sequence[Assignment],
        inputs: tuple[Tensor, ...],
        score: Callable[[Tensor, slice], Tensor],
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Per-sample scores, shape (n_assignments, n_samples, ...).

        Args:
            score: (outputs of a chunk, the rows of ``inputs`` it came from) -> (n_chunk, ...).
            progress: called with (evaluations done, evaluations in all), in shares of whole evaluations.
        """
        n, columns = len(inputs[0]), []
        for start in range(0, n, self.chunk_size):
            rows = slice(start, min(start + self.chunk_size, n))
            chunk = []
            for row, out in self.outputs(assignments, tuple(x[rows] for x in inputs)):
                with torch.inference_mode():
                    chunk.append(score(out, rows))
                if progress:
                    done = start * len(assignments) + (row + 1) * (rows.stop - start)
                    progress(done // n, len(assignments))
            columns.append(torch.stack(chunk))
        return torch.cat(columns, 1)

    def _run(self, env: dict[fx.Node, Any], assignment: Assignment, previous: Assignment | None) -> Tensor:
        dirty: set[fx.Node] = set()
        quantized: dict[tuple[fx.Node, str], Tensor] = {}
        result: Any = None
        for node in self._nodes:
            group = self._group_of.get(node)
            changed = previous is None or (group is not None and assignment[group] != previous[group])
            if node.op == "output":
                result = _resolve(node.args[0], env)
            elif changed or any(n in dirty for n in node.all_input_nodes):
                dirty.add(node)
                args = _resolve(node.args, env)
                if group is not None:
                    precision = Precision.parse(assignment[group])
                    key = (node.args[0], precision.name)
                    if key not in quantized:
                        quantized[key] = self._activation(node, args[0], precision)
                    args = (quantized[key], self._weight(node, args[1], precision), *args[2:])
                env[node] = LAYOUT_FREE.get(node.target, node.target)(*args, **_resolve(node.kwargs, env))
        return result[0] if isinstance(result, (tuple, list)) else result

    def _activation(self, node: fx.Node, x: Tensor, precision: Precision) -> Tensor:
        if precision.name == "fp32":
            return x
        if precision.is_float:
            return x.to(DTYPES[precision.name]).float()
        bits = precision.activation_bits
        grid = self._scheme.activation_grid(self._ranges.layers[self._layer_of[node].name].clip[bits], bits)
        return self._scheme.quantize_activation(x, grid)

    def _weight(self, node: fx.Node, weight: Tensor, precision: Precision) -> Tensor:
        if precision.name == "fp32":
            return weight
        layer = self._layer_of[node]
        key = (layer.weight_name, precision.name if precision.is_float else str(precision.weight_bits))
        if key not in self._weights:
            if precision.is_float:
                self._weights[key] = weight.to(DTYPES[precision.name]).float()
            else:
                bits, axis = precision.weight_bits, layer.channel_axis
                quantized = self._scheme.quantize_weight(weight, bits, axis, layer.is_depthwise)
                self._weights[key] = _channels_last(quantized)
        return self._weights[key]


def _resolve(args: Any, env: dict[fx.Node, Any]) -> Any:
    return fx.node.map_arg(args, lambda n: env[n])


def _channels_last(x: Any) -> Any:
    return x.to(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.ndim == 4 else x
