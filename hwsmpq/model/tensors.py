"""Parameters and buffers of a captured graph, by name."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn


def get_tensor(graph: fx.GraphModule, target: str) -> Tensor:
    """The parameter or buffer that a ``get_attr`` node reads."""
    tensor: Tensor = operator.attrgetter(target)(graph)
    return tensor


def set_parameter(graph: fx.GraphModule, target: str, value: Tensor) -> None:
    """Put a tensor, of which no gradient is taken, in the place of a parameter or buffer."""
    owner, _, name = target.rpartition(".")
    module = graph.get_submodule(owner)
    if name in dict(module.named_buffers(recurse=False)):
        module.register_buffer(name, value)
        return
    if name not in dict(module.named_parameters(recurse=False)) and hasattr(module, name):
        delattr(module, name)  # a tensor of the code, which is an attribute like any other
    setattr(module, name, nn.Parameter(value, requires_grad=False))


def drop_unused(graph: fx.GraphModule) -> None:
    """Remove operations whose results nothing reads, and tensors that nothing reads then."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    used = {str(n.target) for n in graph.graph.nodes if n.op == "get_attr"}
    for name in [n for n, _ in (*graph.named_parameters(), *graph.named_buffers()) if n not in used]:
        owner, _, leaf = name.rpartition(".")
        delattr(graph.get_submodule(owner), leaf)
    graph.recompile()


def is_finite(x: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; without a mask of its size."""
    return not x.numel() or all(bool(extreme.isfinite()) for extreme in torch.aminmax(x.detach()))
