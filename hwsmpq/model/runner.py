"""One way to run a captured graph node by node, for all that look at its tensors or compute some otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, fx

See = Callable[[fx.Node, tuple[Any, ...], Any], None]
"""Shown every node with its operands and result."""
Compute = Callable[[fx.Node, tuple[Any, ...], dict[str, Any]], Any]
"""The result of an operation for its operands."""


def as_captured(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return node.target(*args, **kwargs)  # type: ignore[operator]


class GraphRunner(fx.Interpreter):
    """Runs a graph.

    Args:
        see: shown every node once it has run.
        compute: computes every operation.
        tensors: take the place of parameters and buffers, by their name.
        keeps: whether every tensor stays in memory to the end.
    """

    def __init__(
        self, graph: fx.GraphModule, see: See | None = None, compute: Compute = as_captured,
        tensors: Mapping[str, Tensor] = MappingProxyType({}), keeps: bool = False,
    ) -> None:
        super().__init__(graph, garbage_collect_values=not keeps)
        self._see, self._compute, self._tensors = see, compute, tensors

    def run_node(self, n: fx.Node) -> Any:
        args: tuple[Any, ...] = ()
        if n.op == "call_function":
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            result = self._compute(n, args, kwargs)
        elif n.op == "get_attr" and n.target in self._tensors:
            result = self._tensors[str(n.target)]
        else:
            result = super().run_node(n)
        if self._see is not None:
            self._see(n, args, result)
        return result
