"""What a network gives: one tensor, or several in tuples, lists, dicts and dataclasses.

A captured graph gives the tensors that depend on its inputs, in order, turned where samples are not in dimension 0 (a
recurrent network may give (time, samples, classes)). Everywhere else they are one tensor, (n, ...) if
there is one and (n, elements of all) if there are several, from which metric and loss get back what the model gives.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from hwsmpq.errors import HwsmpqError

ONLY = "output"
"""Name of the output of a network that gives one tensor."""


@dataclass(frozen=True, eq=False)
class OutputForm:
    """How a model arranges its outputs.

    Attributes:
        names: of the tensors that hold samples: keys, fields and places, joined by dots.
        dims: of each, the one that the model holds samples in.
        n_rows: of each, those of one sample in that dimension, one after the other: 1, or more where the model joins it
            with another (all tokens of all samples).
        shapes: of one sample of each.
        dtypes: of each.
        places: of each among the leaves of what the model gives.
        leaves: all of these; those at ``places`` are of no account.
        spec: the tree of the leaves.
    """

    names: tuple[str, ...]
    dims: tuple[int, ...]
    n_rows: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    places: tuple[int, ...]
    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec

    def batched(self, outputs: Any) -> list[Tensor]:
        """Of what the model gave, the tensors that hold samples, with a row a sample."""
        leaves = pytree.tree_leaves(outputs)
        kept = (leaves[place] for place in self.places)
        return [_row_a_sample(leaf, dim, n) for leaf, dim, n in zip(kept, self.dims, self.n_rows, strict=True)]

    def split(self, packed: Tensor) -> tuple[Tensor, ...]:
        """The tensors, (n, ...) each, that :func:`pack` made one of."""
        if len(self.names) == 1:
            return (packed,)
        parts = packed.split([max(1, torch.Size(shape).numel()) for shape in self.shapes], 1)
        return tuple(
            part.reshape(len(packed), *shape).to(dtype)
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        )

    def rebuild(self, packed: Tensor) -> Any:
        """What the model gives."""
        leaves = list(self.leaves)
        for place, dim, n, tensor in zip(self.places, self.dims, self.n_rows, self.split(packed), strict=True):
            leaves[place] = (tensor.flatten(0, 1) if n > 1 else tensor).movedim(0, dim)
        return pytree.tree_unflatten(leaves, self.spec)

    def floats(self, packed: Tensor, weights: Mapping[str, float] | None = None) -> list[tuple[float, Tensor]]:
        """The outputs that are compared, with their weights: those named in ``weights``, else all floats with 1."""
        named = dict(zip(self.names, self.split(packed), strict=True))
        if weights is None:
            return [(1.0, tensor) for tensor in named.values() if tensor.is_floating_point()]
        return [(weight, named[name]) for name, weight in weights.items()]

    def judged(self, weights: Mapping[str, float] | None = None) -> str:
        """Name of the output that the default metric and loss look at: the first that is compared, ``logits`` before
        all others where none are named.

        Raises:
            HwsmpqError: there is no such output, or none in floats.
        """
        for name in weights or ():
            if name not in self.names:
                raise HwsmpqError(
                    f"the network has no output {name!r}", f"it has {', '.join(self.names)}",
                    "name one of these in the task's outputs=",
                )
        floats = [name for name, dtype in zip(self.names, self.dtypes, strict=True) if dtype.is_floating_point]
        if not floats:
            raise HwsmpqError(
                f"the network gives no floats but {', '.join(map(str, self.dtypes))}",
                "what it computes before is rounded away in them", "give the network without its last step",
            )
        return next(iter(weights or [name for name in floats if name == "logits"] or floats))


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor a network: (n, ...) of one, (n, elements) in float32 of several."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.cat([x.reshape(len(x), -1).float() for x in tensors], 1)


def _row_a_sample(tensor: Tensor, dim: int, n_rows: int) -> Tensor:
    """(n, ...) of what holds samples in ``dim``, and :func:`OutputForm.rebuild` turns back."""
    tensor = tensor.movedim(dim, 0)
    return tensor.unflatten(0, (-1, n_rows)) if n_rows > 1 else tensor


def register(outputs: Any) -> None:
    """Make the dataclasses in outputs known to torch, which takes others for a single value."""
    for leaf in pytree.tree_leaves(outputs):
        if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            torch.export.register_dataclass(type(leaf))
            register(leaf)


def take_flat_outputs(graph: fx.GraphModule, outputs: Any) -> OutputForm:
    """Make a graph give its tensors that hold samples, with a row a sample, in order (one by itself), in place.

    Args:
        graph: as exported, in which the number of samples is free, or 1.
        outputs: what the model gave for some samples.

    Returns:
        How the model arranges them.

    Raises:
        HwsmpqError: an output has no dimension that samples are in, or another one whose size is open.
    """
    result = next(node for node in graph.graph.nodes if node.op == "output")
    leaves, spec = pytree.tree_flatten(outputs)
    nodes, names = list(result.args[0]), list(_names(outputs))
    names = names if len(names) == len(leaves) else [str(i) for i in range(len(leaves))]
    n_samples = next(str(node.meta["val"].shape[0]) for node in graph.graph.nodes if node.op == "placeholder")
    places, dims, n_rows, shapes, dtypes = [], [], [], [], []
    for place, (node, leaf) in enumerate(zip(nodes, leaves, strict=True)):
        if not isinstance(node, fx.Node) or not isinstance(leaf, Tensor) or not _depends_on_inputs(node):
            continue
        shape = [str(size) for size in node.meta["val"].shape]
        holding = [i for i, size in enumerate(shape) if re.fullmatch(rf"(\d+\*)?{n_samples}", size)]
        if n_samples == "1":
            holding = holding[:1]
        if len(holding) != 1:
            raise HwsmpqError(
                f"output {names[place] or ONLY!r} has no row a sample: its shape is ({', '.join(shape)})",
                f"{n_samples} stands for the number of samples, which every output holds in a dimension of its own",
                "give it such a dimension, or leave the output out, for example in a module around the network",
            )
        dim = holding[0]
        if any(not size.isdigit() for i, size in enumerate(shape) if i != dim):
            raise HwsmpqError(
                f"output {names[place] or ONLY!r} has no size of its own: its shape is ({', '.join(shape)})",
                "its size is that of the inputs, and samples of the task have several",
                "pad or resize all samples to one shape, or put what makes one size of it into the network (a mean, an"
                " interpolation to a fixed size)",
            )
        n = int(shape[dim].partition("*")[0]) if "*" in shape[dim] else 1
        tensor = _row_a_sample(leaf, dim, n)
        with graph.graph.inserting_before(result):
            if dim:
                turned = [dim, *(i for i in range(leaf.ndim) if i != dim)]
                nodes[place] = graph.graph.call_function(torch.ops.aten.permute.default, (node, turned))
            if n > 1:
                apart = (nodes[place], [-1, *tensor.shape[1:]])
                nodes[place] = graph.graph.call_function(torch.ops.aten.reshape.default, apart)
        places.append(place)
        dims.append(dim)
        n_rows.append(n)
        shapes.append(tuple(tensor.shape[1:]))
        dtypes.append(leaf.dtype)
    if not places:
        raise HwsmpqError("the network gives no tensor that depends on its inputs", fix="check what forward returns")
    tensors = tuple(nodes[place] for place in places)
    result.args = (tensors if len(tensors) > 1 else tensors[0],)
    graph.graph.set_codegen(fx.graph.CodeGen())
    graph._forward_pre_hooks.clear()  # they want the arguments as they were exported, by keyword where they were
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return OutputForm(
        tuple(names[place] or ONLY for place in places), tuple(dims), tuple(n_rows), tuple(shapes), tuple(dtypes),
        tuple(places),
        tuple(None if place in places else leaf for place, leaf in enumerate(leaves)), spec,
    )


def _names(outputs: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The path of every leaf, in the order of the tree."""
    if isinstance(outputs, Mapping):
        parts = [(str(key), value) for key, value in outputs.items()]
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        parts = [(field.name, getattr(outputs, field.name)) for field in dataclasses.fields(outputs)]
    elif isinstance(outputs, tuple | list):
        parts = list(zip(getattr(outputs, "_fields", map(str, range(len(outputs)))), outputs, strict=True))
    else:
        yield ".".join(path)
        return
    for name, value in parts:
        yield from _names(value, (*path, name))


def _depends_on_inputs(node: fx.Node) -> bool:
    seen, waiting = {node}, [node]
    while waiting:
        one = waiting.pop()
        if one.op == "placeholder":
            return True
        new = [n for n in one.all_input_nodes if n not in seen]
        seen.update(new)
        waiting += new
    return False
