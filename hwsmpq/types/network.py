"""The network as plain data: layers, groups and the tensors that layers read from one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from hwsmpq.types.coverage import Coverage
from hwsmpq.types.operators import Kind
from hwsmpq.types.precision import HALF_FORMATS, PRECISIONS, REFERENCE, Assignment, Precision

BLOCK_SIZES = (128, 64)
"""Blocks that TensorRT's kernels for weight-only matrix products take, largest first."""


@dataclass(frozen=True)
class Layer:
    """One quantizable operation, named by the module that owns its weight. ``n_kept`` are those of its weights that
    something else than layers reads as well, which keeps them in float32 beside what the layer reads.

    A product of two activations has no weight, and is named by the module that multiplies. Its second operand is
    another tensor, ``operand_tensor``, of ``operand_shape``.
    """

    name: str
    kind: Kind
    weight_name: str
    weight_shape: tuple[int, ...]
    channel_axis: int
    input_tensor: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    n_macs: int
    n_weights: int
    n_biases: int
    n_kept: int = 0
    operand_tensor: str = ""
    operand_shape: tuple[int, ...] = ()

    @property
    def has_weight(self) -> bool:
        """Whether the second operand is stored; else it is another tensor."""
        return not self.operand_tensor

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors that it reads."""
        return (self.input_tensor,) if self.has_weight else (self.input_tensor, self.operand_tensor)

    @property
    def n_channels(self) -> int:
        """Output channels of the weight, which have scales, shifts and factors of their own; 0 without one."""
        return self.weight_shape[self.channel_axis] if self.has_weight else 0

    @property
    def n_terms(self) -> int:
        """Products that are added up for one number of the result."""
        return prod(self.weight_shape) // self.n_channels if self.has_weight else self.input_shape[-1]

    def takes(self, precision: Precision) -> bool:
        """Whether there is a meaning to the layer in a precision: products have 8 bits on both sides, or floats."""
        return self.has_weight or precision.is_float or (precision.quantizes_activations and precision.bits == (8, 8))

    @property
    def is_depthwise(self) -> bool:
        """One input and one output channel a filter."""
        return self.kind == "conv" and self.weight_shape[1] == 1 and self.weight_shape[0] == self.input_shape[0]

    @property
    def block_size(self) -> int | None:
        """Inputs that share a scale in a blockwise precision; None where it does not apply to the layer."""
        if self.kind != "linear":
            return None
        return next((size for size in BLOCK_SIZES if self.weight_shape[1] % size == 0), None)


@dataclass(frozen=True)
class Group:
    """Layers that must share a precision: a player of the game and a variable of the MILP."""

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Read:
    """A tensor that layers read, and the layer that wrote it: ``Layer.tensors`` name it.

    What other operations make of a layer's result is written by that layer too. Where several results meet (addition,
    attention, concatenation), it is the writer of the largest of them, of equal ones the last: runtimes fuse the
    operation into that layer. ``writer`` is None where only inputs of the network meet. ``n_elements`` are those of one
    sample.
    """

    tensor: str
    writer: str | None
    n_elements: int


@dataclass(frozen=True)
class Edge:
    """A tensor that a layer of one group (``source``) wrote and the layers of another (``target``) read."""

    source: str
    target: str
    n_elements: int


@dataclass(frozen=True)
class Network:
    """What capture found: layers, groups (in execution order) and the tensors that layers read, each once.

    ``substitutes`` says, by group and precision, which other precision a target runs where it has no kernel for the
    one asked for; ``excluded``, by group, what the user leaves it in whatever is asked for. ``ties`` are layers whose
    groups were joined, by the target or the user. ``coverage`` says which weights are in layers (None where an earlier
    version did not).
    """

    model_sha256: str
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    reads: tuple[Read, ...]
    n_other_params: int
    coverage: Coverage | None = None
    substitutes: dict[str, dict[str, str]] = field(default_factory=dict)
    ties: tuple[tuple[str, ...], ...] = ()
    least_weight_bits: int = 0
    excluded: dict[str, str] = field(default_factory=dict)

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.groups)

    @property
    def weighted(self) -> tuple[Layer, ...]:
        """The layers that have a weight."""
        return tuple(layer for layer in self.layers if layer.has_weight)

    @property
    def products(self) -> tuple[str, ...]:
        """Names of the layers that have none."""
        return tuple(layer.name for layer in self.layers if not layer.has_weight)

    @property
    def with_own_weight(self) -> frozenset[str]:
        """Names of the layers whose weight no other layer reads."""
        n_readers = Counter(layer.weight_name for layer in self.weighted)
        return frozenset(layer.name for layer in self.weighted if n_readers[layer.weight_name] == 1)

    @property
    def edges(self) -> tuple[Edge, ...]:
        """Tensors that pass from group to group. All layers that read one tensor are in one group."""
        group_of = {layer: group.name for group in self.groups for layer in group.layers}
        readers = {tensor: group_of[layer.name] for layer in self.layers for tensor in layer.tensors}
        ends = [(group_of[r.writer], readers[r.tensor], r.n_elements) for r in self.reads if r.writer is not None]
        return tuple(Edge(*end) for end in ends if end[0] != end[1])

    def switches(self, assignment: Assignment) -> tuple[Edge, ...]:
        """Tensors that are read in another format than that of the layer that wrote them: what is converted."""
        formats = {group: PRECISIONS[name].activations for group, name in assignment.items()}
        return tuple(edge for edge in self.edges if formats[edge.source] != formats[edge.target])

    def layers_of(self, group: str) -> tuple[Layer, ...]:
        members = next(g.layers for g in self.groups if g.name == group)
        return tuple(layer for layer in self.layers if layer.name in members)

    def group_of(self, layer: str) -> str:
        return next(g.name for g in self.groups if layer in g.layers)

    def realise(self, asked: Assignment) -> Assignment:
        """What the target runs where an assignment is asked for: the one place where precisions are substituted.

        Whatever else takes an assignment (simulator, writer, costs, plans) takes one that was realised.
        """
        return {
            group: self.excluded.get(group) or self.substitutes.get(group, {}).get(name, name)
            for group, name in asked.items()
        }

    def uniform(self, precision: str) -> Assignment:
        """Every group at ``precision``, realised."""
        return self.realise(dict.fromkeys(self.group_names, precision))

    def levels(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """By group, what it runs at each of the precisions of a ladder."""
        uniform = [self.uniform(name) for name in names]
        return {group: tuple(one[group] for one in uniform) for group in self.group_names}

    def bitops(self, group: str, precision: Precision) -> int:
        """BitOps of one group: MACs times weight bits times activation bits."""
        return sum(layer.n_macs for layer in self.layers_of(group)) * precision.bitops_per_mac

    def size_bytes(self, group: str, precision: Precision) -> float:
        """Bytes of one group in the target's files: weights at the bits that they are stored in, one scale a channel
        (or block) if quantized, biases, and the float32 copies that other readers of a weight need beside it.

        Scales and biases have two bytes where activations have 16 bits, else four.
        """
        total, per_value = 0.0, 2 if precision.activation_format in HALF_FORMATS else 4
        bits = max(precision.weight_bits, self.least_weight_bits)
        for layer in self.layers_of(group):
            n_scales = 0 if precision.is_float else layer.n_channels
            if precision.is_blockwise and layer.block_size:
                n_scales *= layer.weight_shape[1] // layer.block_size
            n_kept = 0 if precision.name == REFERENCE else layer.n_kept
            total += layer.n_weights * bits / 8 + 4 * n_kept + per_value * (n_scales + layer.n_biases)
        return total

    def n_configurations(self, n_precisions: int) -> int:
        """Size of the search space: excluded groups are no candidates."""
        return int(n_precisions ** (len(self.groups) - len(self.excluded)))
