"""Where tensors in bf16 are rounded, on targets that carry them from layer to layer.

In bf16 is the result of a layer in bf16, and of an operation that reads only such results; and of the result of a
quantized layer what layers in bf16 alone read. It is rounded when it is written to memory, not where the runtime
computes on in the same kernel (as OpenVINO 2026.4 does): a convolution, a linear layer, a layer norm or a reduction
that keeps its dimensions computes the elementwise operations behind it too, and the quantizer of the next layer;
elementwise operations are computed together; and a convolution adds another tensor of its shape. Products of two
results stay in fp32, and so does what operations make of the last layer's result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from hwsmpq.model.capture import Captured
from hwsmpq.quantize.layer import rounded
from hwsmpq.types import OPERATORS, PRECISIONS, Precision

ATEN = torch.ops.aten
ELEMENTWISE = {
    ATEN.relu.default, ATEN.relu6.default, ATEN.hardtanh.default, ATEN.clamp.default, ATEN.silu.default,
    ATEN.gelu.default, ATEN.hardswish.default, ATEN.hardsigmoid.default, ATEN.sigmoid.default, ATEN.tanh.default,
    ATEN.leaky_relu.default, ATEN.elu.default, ATEN.add.Tensor, ATEN.sub.Tensor, ATEN.mul.Tensor, ATEN.div.Tensor,
}
REDUCTIONS = {ATEN.mean.dim, ATEN.sum.dim_IntList, ATEN.amax.default, ATEN.amin.default}
OTHERS = {
    ATEN.adaptive_avg_pool2d.default, ATEN.layer_norm.default, ATEN.upsample_bilinear2d.vec,
    ATEN.upsample_bicubic2d.vec,
}
"""What else computes elementwise operations behind it."""
PRODUCTS = {ATEN.matmul.default, ATEN.bmm.default}
"""Of two results, which stay in fp32."""
MULTIPLIES = {*PRODUCTS, ATEN.scaled_dot_product_attention.default}
"""What multiplies results by each other."""
LINEAR = {ATEN.linear.default}
BF16 = PRECISIONS["bf16"]


def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any
) -> Tensor:
    """One kernel normalizes, another one multiplies and adds."""
    result = torch.nn.functional.layer_norm(x, shape, eps=eps)
    result = result if weight is None else rounded(result, torch.bfloat16) * weight
    return result if bias is None else result + bias


IN_BF16 = {ATEN.layer_norm.default: _layer_norm}
"""What computes an operation whose result is in bf16, where its kernels round between."""


@dataclass(frozen=True)
class Carry:
    """What decides whether a result is rounded to bf16.

    Attributes:
        sources: groups that must all be in bf16 for it; never where there are none.
        readers: or, where all sources are quantized, groups that must all be; none where something else reads it.
        is_written: whether it is then rounded, whatever reads it.
        rounds_bias: whether the bias of a layer is then rounded before it is added.
    """

    sources: frozenset[str] = frozenset()
    readers: frozenset[str] = frozenset()
    is_written: bool = False
    rounds_bias: bool = False

    def is_in_bf16(self, precisions: Callable[[str], Collection[Precision]]) -> bool:
        """Whether the target has the result in bf16, where it has groups at ``precisions``."""
        first = [precision for group in self.sources for precision in precisions(group)]
        if first and all(precision == BF16 for precision in first):
            return True
        last = [precision for group in self.readers for precision in precisions(group)]
        return bool(last) and all(p == BF16 for p in last) and all(p.quantizes_activations for p in first)


def carries_of(captured: Captured) -> dict[fx.Node, Carry]:
    """Of every operation of a captured network."""
    groups = {captured.layer_nodes[x.name]: captured.network.group_of(x.name) for x in captured.network.layers}
    nodes = [n for n in captured.graph.graph.nodes if n.op == "call_function" and not _is_size(n)]
    return _carries(nodes, groups)


def _carries(nodes: Sequence[fx.Node], group_of: Mapping[fx.Node, str]) -> dict[fx.Node, Carry]:
    """``group_of`` has the operations that are layers."""
    read: dict[fx.Node, list[fx.Node]] = {}
    sources: dict[fx.Node, frozenset[str]] = {}
    for node in nodes:
        read[node] = [
            n for n in node.all_input_nodes if n.op != "get_attr" and read.get(n) != [] and not _is_size(n)
        ]
        of_others = _union([sources.get(n, frozenset()) for n in read[node] if node.target not in PRODUCTS])
        sources[node] = frozenset({group_of[node]}) if node in group_of else of_others
    users = {node: [n for n in node.users if not _is_size(n)] for node in nodes}
    precedes_layer: set[fx.Node] = set()
    readers: dict[fx.Node, frozenset[str]] = {}
    for node in reversed(nodes):
        if node in group_of or node.target in PRODUCTS or node in precedes_layer:
            precedes_layer.update(node.all_input_nodes)
        if node in group_of or len(read[node]) == 1:
            of_users = (frozenset({group_of[n]}) if n in group_of else readers.get(n, frozenset()) for n in users[node])
            readers[node] = _union(list(of_users))
    begins, continued = _kernels(nodes, read, users)
    # One kernel multiplies a matrix by several weights, one after the other, and adds what is between in fp32.
    products = [n for n in nodes if n.target in LINEAR and n.args[0] in begins and len(_shape(n)) == 2]
    chained = {n for pair in ((begins[n.args[0]], n) for n in products) if pair[0].target in LINEAR for n in pair}

    def is_written(node: fx.Node) -> bool:
        others = [user for user in users[node] if user not in group_of]
        if node not in precedes_layer:
            adds_in_bf16 = node.target not in LINEAR and len(node.args) > 2 and isinstance(node.args[2], fx.Node)
            return node in group_of and (adds_in_bf16 or any(user.op == "call_function" for user in others))
        return node not in continued if others else not _continues(begins[node])

    def rounds_bias(node: fx.Node) -> bool:
        if node.target in LINEAR:
            return (node in precedes_layer or is_written(node)) and node not in chained
        return _is_convolution(node)

    return {
        node: Carry(sources[node], readers.get(node, frozenset()), is_written(node), rounds_bias(node))
        for node in nodes if sources[node]
    }


def _kernels(
    nodes: Sequence[fx.Node], read: Mapping[fx.Node, Sequence[fx.Node]], users: Mapping[fx.Node, Sequence[fx.Node]]
) -> tuple[dict[fx.Node, fx.Node], set[fx.Node]]:
    """The first operation of the kernel that computes every one, and the operations whose result a kernel computes on.

    Args:
        read: what every operation reads but for constants.
    """
    begins: dict[fx.Node, fx.Node] = {}
    continued: set[fx.Node] = set()
    for node in nodes:
        begins[node] = node
        if node.target in ELEMENTWISE:
            of = [n for n in read[node] if n in begins and _continues(begins[n]) and users[n] == [node]]
            if len(read[node]) > 1:
                sums = [n for n in of if _is_convolution(begins[n]) and _adds(n, node)]
                of = sums[:1] or [n for n in of if begins[n].target in ELEMENTWISE]
            continued.update(of)
            begins[node] = begins[of[-1]] if of else node
    return begins, continued


def _continues(node: fx.Node) -> bool:
    """Whether the kernel of an operation may compute elementwise operations and quantizers behind it."""
    keeps_dimensions = node.target in REDUCTIONS and len(node.args) > 2 and bool(node.args[2])
    return keeps_dimensions or node.target in LINEAR | ELEMENTWISE | OTHERS or _is_convolution(node)


def _is_convolution(node: fx.Node) -> bool:
    return str(node.target) in OPERATORS and OPERATORS[str(node.target)].kind == "conv"


def _adds(layer: fx.Node, node: fx.Node) -> bool:
    """Whether an operation adds a tensor in place, which the layer's kernel does unless it still reads that."""
    shapes = {str(_shape(n)) for n in (node, *node.all_input_nodes)}  # a size that is not known has no hash
    in_place = node.target is ATEN.add.Tensor and len(shapes) == 1
    return in_place and not {*node.all_input_nodes} & {*layer.all_input_nodes}


def _shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(getattr(node.meta.get("val"), "shape", ()))


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), int | torch.SymInt)


def _union(sets: Collection[frozenset[str]]) -> frozenset[str]:
    """Of all sets; none if one has none."""
    return frozenset[str]().union(*sets) if all(sets) else frozenset()
