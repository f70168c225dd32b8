"""The graph of a network of common operations, written down while it runs.

That takes a hundredth of the time of an export, whose modules alone take longer to import than most networks to run.
The graph is the one that torch exports and decomposes. Whatever needs more than that (operations that torch decomposes,
several inputs, a batch size among the arguments, tensors from elsewhere) is not recorded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.schema_check_mode import SchemaCheckMode
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils import _pytree as pytree

from hwsmpq.model.agreement import changed
from hwsmpq.model.decompose import is_common, replace, take_out_of_place
from hwsmpq.model.inputs import call

ANY_NUMBER = 999_983
"""Stands for the number of samples in shapes: a prime that no network has for a size."""


def recorded(model: nn.Module, rows: tuple[Tensor, ...], names: tuple[str, ...]) -> fx.GraphModule | None:
    """The graph of a model that takes any number of samples; None where it has to be exported.

    Args:
        rows: inputs with two samples.
        names: of the arguments that they are; positional where there are none.
    """
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = names or [p.name for p in inspect.signature(model.forward).parameters.values() if p.kind in places]
    if len(rows) > 1 or not taken:
        return None
    # One sample that is a little different, so that numbers that follow from data or batch differ.
    graph, other = (_record(model, x, taken[0], names) for x in (*rows, *changed((rows[0][:1],))))
    if graph is None or other is None or _listed(graph) != _listed(other):
        return None
    for node, one in zip(graph.nodes, other.nodes, strict=True):
        if node.op != "output":
            node.meta["val"] = _of_any_number(node.meta["val"], one.meta["val"])
    take_out_of_place(graph)
    if not all(is_common(node) for node in graph.nodes if node.op == "call_function"):
        return None
    replace(graph)
    return fx.GraphModule(model, graph)


def _of_any_number(value: Tensor, alone: Tensor) -> Tensor:
    """A tensor without data, of any number of samples, like one of several and one of one."""
    sizes = zip(value.shape, alone.shape, strict=value.ndim == alone.ndim)
    shape = [size if size == one else one * ANY_NUMBER for size, one in sizes]
    return torch.empty(shape, dtype=value.dtype, device="meta")


def _listed(graph: fx.Graph) -> list[Any]:
    """What a graph does, with numbers for its nodes."""
    places = {node: f"%{place}" for place, node in enumerate(graph.nodes)}
    return [(node.op, node.target, fx.map_arg((node.args, node.kwargs), places.__getitem__)) for node in graph.nodes]


def _record(model: nn.Module, rows: Tensor, name: str, names: tuple[str, ...]) -> fx.Graph | None:
    """What a model does with some samples; None if more than is written down."""
    recorder = _Recorder(model, rows.clone(), name)
    outputs = None
    # The model ran on these before: whatever fails here is that it was recorded.
    with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]), recorder.running():
        outputs = call(model, (recorder.rows,), names)
    return recorder.finished(outputs)


class _Recorder(SchemaCheckMode):  # the only base that torch lets see operations before it decomposes them
    """Writes down the operations that a model calls, until one of them is more than can be written down."""

    def __init__(self, model: nn.Module, rows: Tensor, name: str) -> None:
        super().__init__()
        self._dispatch_key = torch._C.DispatchKey.PreDispatch
        self.rows = rows
        self._modules = {module: path for path, module in model.named_modules()}
        self._within: list[nn.Module] = [model]
        self._graph: fx.Graph | None = fx.Graph()
        self._nodes: dict[int, fx.Node] = {}
        for path, tensor in (*model.named_parameters(), *model.named_buffers()):
            self._add("get_attr", path, tensor)
        self._add("placeholder", name, rows)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip it would import it

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within, it writes."""
        hooks = [
            register_module_forward_pre_hook(lambda module, args: self._within.append(module)),
            register_module_forward_hook(lambda module, args, result: self._leave(), always_call=True),
        ]
        try:
            # As during an export, which layer norm writes among its arguments.
            with torch.backends.cudnn.flags(enabled=False), enable_python_dispatcher(), self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if not all(id(x) in self._nodes for x in tensors):
            self._graph = None
        if self._graph is not None:
            written = pytree.tree_map_only(Tensor, lambda x: self._nodes[id(x)], (args, kwargs))
        result = func(*args, **kwargs)
        if not isinstance(result, Tensor):
            self._graph = None
        if self._graph is not None:
            node = self._add("call_function", func, result, *written)
            path = self._modules.get(self._within[-1], "")
            node.meta["nn_module_stack"] = {path: (path, type(self._within[-1]))}
        return result

    def finished(self, outputs: Any) -> fx.Graph | None:
        """What was written, with the tensors of ``outputs``."""
        leaves = pytree.tree_leaves(outputs)
        if self._graph is None or not all(id(x) in self._nodes for x in leaves if isinstance(x, Tensor)):
            return None
        self._graph.output(tuple(self._nodes[id(x)] if isinstance(x, Tensor) else x for x in leaves))
        return self._graph

    def _add(self, op: str, target: Any, value: Tensor, args: Any = (), kwargs: Any = None) -> fx.Node:
        assert self._graph is not None
        name = target.replace(".", "_") if isinstance(target, str) else target.overloadpacket.__name__
        node = self._graph.create_node(op, target, args, kwargs, name)
        node.meta["val"] = value  # kept, so that no other tensor gets its place
        self._nodes[id(value)] = node
        return node

    def _leave(self) -> None:
        self._within.pop()
