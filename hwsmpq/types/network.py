"""The network as plain data: layers, groups and the data flow between them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hwsmpq.types.precision import Assignment, Precision


@dataclass(frozen=True)
class Layer:
    """One quantizable operation, named by the module that owns its weight."""

    name: str
    kind: Literal["conv", "conv_transpose", "linear"]
    weight_name: str
    weight_shape: tuple[int, ...]
    channel_axis: int
    input_tensor: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    n_macs: int
    n_weights: int
    n_biases: int

    @property
    def is_depthwise(self) -> bool:
        """One input and one output channel a filter."""
        return self.kind == "conv" and self.weight_shape[1] == 1 and self.weight_shape[0] == self.input_shape[0]


@dataclass(frozen=True)
class Group:
    """Layers that must share a precision: a player of the game and a variable of the MILP."""

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """Data flowing from one group to another through non-layer operations only."""

    source: str
    target: str
    n_elements: int


@dataclass(frozen=True)
class Network:
    """What capture found: layers, groups (in execution order) and the data flow between groups."""

    model_sha256: str
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]
    n_other_params: int

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.groups)

    def layers_of(self, group: str) -> tuple[Layer, ...]:
        members = next(g.layers for g in self.groups if g.name == group)
        return tuple(layer for layer in self.layers if layer.name in members)

    def group_of(self, layer: str) -> str:
        return next(g.name for g in self.groups if layer in g.layers)

    def uniform(self, precision: str) -> Assignment:
        return dict.fromkeys(self.group_names, precision)

    def bitops(self, group: str, precision: Precision) -> int:
        """BitOps of one group: MACs times weight bits times activation bits."""
        return sum(layer.n_macs for layer in self.layers_of(group)) * precision.bitops_per_mac

    def size_bytes(self, group: str, precision: Precision) -> float:
        """Bytes of one group: weights at their bits, one fp32 scale a channel if quantized, fp32 biases."""
        total = 0.0
        for layer in self.layers_of(group):
            scales = 0 if precision.is_float else 4 * layer.weight_shape[layer.channel_axis]
            total += layer.n_weights * precision.weight_bits / 8 + scales + 4 * layer.n_biases
        return total

    def n_configurations(self, n_precisions: int) -> float:
        """Size of the search space."""
        return math.pow(n_precisions, len(self.groups))
