"""What the simulator runs, node by node: what each depends on, where it may write, and when its tensors can go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from hwsmpq.model.capture import Captured
from hwsmpq.model.runner import GraphRunner
from hwsmpq.quantize.carry import Carry, carries_of
from hwsmpq.quantize.residual import Residual, residuals
from hwsmpq.types import Layer

ATEN = torch.ops.aten
IN_PLACE: dict[Any, Callable[..., Any]] = {
    ATEN.relu.default: ATEN.relu_.default,
    ATEN.relu6.default: ATEN.relu6_.default,
    ATEN.hardtanh.default: ATEN.hardtanh_.default,
    ATEN.clamp.default: ATEN.clamp_.default,
    ATEN.silu.default: ATEN.silu_.default,
    ATEN.gelu.default: ATEN.gelu_.default,
    ATEN.hardswish.default: ATEN.hardswish_.default,
    ATEN.add.Tensor: ATEN.add_.Tensor,
    ATEN.mul.Tensor: ATEN.mul_.Tensor,
}
"""Operations that may overwrite their first operand. Each allocates its result otherwise, as layers do."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of the graph.

    Attributes:
        groups: names of the groups whose precision its result depends on.
        layer: set if it is a layer.
        residual: set if it is an addition that may read an operand in quantized form.
        function: what to call; an in-place operation where the operand is needed nowhere else.
        dead: nodes whose tensors nobody needs after this step, neither in this evaluation nor in a later one.
        last_read: tensors that no layer reads after it.
        carry: what decides where bf16 is rounded.
    """

    node: fx.Node
    function: Callable[..., Any]
    kwargs: dict[str, Any]
    groups: frozenset[str]
    layer: Layer | None
    residual: Residual | None
    dead: tuple[fx.Node, ...]
    last_read: tuple[fx.Node, ...]
    carry: Carry


def schedule(
    captured: Captured, device: torch.device, quantizes_residuals: bool = False, carries_bf16: bool = False
) -> tuple[Step, ...]:
    """The operations of a network in order.

    A tensor is needed later only if a user of it may run again while it does not: if the user depends on a group
    that the tensor does not depend on.
    """
    layer_of = {captured.layer_nodes[layer.name]: layer for layer in captured.network.layers}
    group_of = {node: captured.network.group_of(layer.name) for node, layer in layer_of.items()}
    nodes = [n for n in captured.graph.graph.nodes if n.op == "call_function"]
    residual_of = residuals(captured) if quantizes_residuals else {}
    carry_of = carries_of(captured) if carries_bf16 else {}
    groups: dict[fx.Node, frozenset[str]] = {}
    for node in captured.graph.graph.nodes:
        own = {group_of[node]} if node in group_of else set()
        if node in residual_of:
            own.add(captured.network.group_of(residual_of[node].reader.name))
        groups[node] = frozenset(own).union(*(groups[n] for n in node.all_input_nodes))
    position = {node: i for i, node in enumerate(nodes)}

    def read_by(node: fx.Node) -> list[fx.Node]:
        """The activations that a node reads as a layer."""
        return node.all_input_nodes[: len(layer_of[node].tensors)] if node in layer_of else []

    def is_transient(node: fx.Node) -> bool:
        if node not in position or not node.users:
            return False
        return all(user in position and groups[user] == groups[node] for user in node.users)

    dead: dict[fx.Node, list[fx.Node]] = {node: [] for node in nodes}
    last_readers: dict[Any, fx.Node] = {}
    for node in nodes:
        if is_transient(node):
            dead[max(node.users, key=position.__getitem__)].append(node)
        if node in layer_of:
            last_readers |= dict.fromkeys(read_by(node), node)

    def function_of(node: fx.Node) -> Callable[..., Any]:
        operand = node.args[0] if node.args else None
        if node.target in IN_PLACE and isinstance(operand, fx.Node) and _same_tensor(operand, node):
            allocates = operand in layer_of or operand.target in IN_PLACE
            if allocates and is_transient(operand) and list(operand.users) == [node]:
                return IN_PLACE[node.target]
        return node.target  # type: ignore[no-any-return]

    return tuple(
        Step(
            node=node,
            function=function_of(node),
            kwargs={**node.kwargs, "device": device} if node.kwargs.get("device") else dict(node.kwargs),
            groups=groups[node],
            layer=layer_of.get(node),
            residual=residual_of.get(node),
            dead=tuple(dead[node]),
            last_read=tuple(tensor for tensor in read_by(node) if last_readers[tensor] is node),
            carry=carry_of.get(node, Carry()),
        )
        for node in nodes
    )


def _same_tensor(a: fx.Node, b: fx.Node) -> bool:
    """Whether both hold a tensor of the same shape and type, as far as the export recorded it."""
    first, second = a.meta.get("val"), b.meta.get("val")
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        return False
    return first.dtype == second.dtype and first.shape == second.shape


def sample_bytes(steps: tuple[Step, ...], captured: Captured) -> int:
    """Bytes that one sample takes at the peak of an evaluation.

    Its inputs as they come and as they are laid out; kept tensors; and the most that transient ones, a quantized copy
    of an input and the new result need together.
    """
    # One would make dimensions of size 1, whose tensors may share storage by chance.
    n_rows = captured.at_once(2)
    shapes = _Storages()
    runner = GraphRunner(captured.graph, shapes.see, keeps=True)
    with torch.inference_mode():
        runner.run(*(x.expand(n_rows, *x.shape[1:]).contiguous() for x in captured.example))
    transient = {node for step in steps for node in step.dead}
    in_place = {step.node for step in steps if step.function in IN_PLACE.values()}
    storage = dict(shapes.of)
    for step in steps:
        if step.node in in_place:
            storage[step.node] = storage[step.node.args[0]]  # type: ignore[index]
    kept = {key for step in steps if step.node not in transient for key in storage[step.node]}
    live: set[int] = set()
    peak = 0
    for step in steps:
        operands: frozenset[int] = frozenset()
        if step.layer is not None or step.residual is not None:
            first = step.residual.argument if step.residual is not None else 0
            read = step.node.args[first : first + (1 if step.layer is None else len(step.layer.tensors))]
            operands = frozenset().union(*(shapes.of.get(node, frozenset()) for node in read))
        live |= storage[step.node]
        copies = sum(shapes.n_bytes[key] for key in operands)
        replaced = sum(shapes.n_bytes[key] for key in storage[step.node] & kept)
        peak = max(peak, sum(shapes.n_bytes[key] for key in live - kept) + copies + replaced)
        live -= {key for node in step.dead for key in storage[node] if step.node not in in_place}
    total = sum(shapes.n_bytes[key] for key in kept) + peak
    return 2 * sum(x[:1].nbytes for x in captured.example) + max(1, total // n_rows)


class _Storages:
    """Which storages every operation's result lies in, and their sizes in bytes."""

    def __init__(self) -> None:
        self.of: dict[Any, frozenset[int]] = {}
        self.n_bytes: dict[int, int] = {}
        self._given: set[int] = set()  # weights and inputs

    def see(self, node: fx.Node, args: tuple[Any, ...], result: Any) -> None:
        tensors = [x for x in (result if isinstance(result, tuple | list) else [result]) if isinstance(x, Tensor)]
        sizes = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        if node.op == "call_function":
            self.of[node] = frozenset(sizes) - self._given
            self.n_bytes |= {key: sizes[key] for key in self.of[node]}
        else:
            self._given |= sizes.keys()
