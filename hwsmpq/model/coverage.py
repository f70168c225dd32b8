"""Which parameters of a model layers multiply by, followed through what is computed from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, fx, nn

from hwsmpq.model.tensors import get_tensor
from hwsmpq.types import Coverage, OtherWeight

_Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model as its exported graph reads them.

    Attributes:
        names: of the model's parameters of two or more dimensions, tied ones once, by place and shape.
        keys: place and shape of the tensors of the graph, by name.
        readers: the operation that reads a tensor first.
    """

    names: dict[_Key, str]
    keys: dict[str, _Key]
    readers: dict[_Key, str]

    @staticmethod
    def of(model: nn.Module, graph: fx.GraphModule) -> Parameters:
        """Args:
            graph: exported from ``model``, with whose tensors it shares memory.
        """
        names = {_key(p): name for name, p in model.named_parameters() if p.ndim > 1 and p.is_floating_point()}
        keys: dict[str, _Key] = {}
        readers: dict[_Key, str] = {}
        for node in graph.graph.nodes:
            tensor = get_tensor(graph, str(node.target)) if node.op == "get_attr" else None
            if isinstance(tensor, Tensor):
                keys[str(node.target)] = _key(tensor)
                for user in node.users:
                    readers.setdefault(_key(tensor), str(user.target).removeprefix("aten.").partition(".")[0])
        return Parameters(names, keys, readers)

    def coverage(self, weights: Iterable[str], sources: Mapping[str, tuple[str, ...]]) -> Coverage:
        """Args:
            weights: names of the tensors that layers multiply by.
            sources: what tensors of the graph were computed from, by name, where they were computed.
        """
        used = {self.keys.get(source) for name in weights for source in sources.get(name, (name,))}
        sizes = {key: math.prod(key[1]) for key in self.names}
        return Coverage(
            sum(size for key, size in sizes.items() if key in used),
            tuple(
                OtherWeight(self.names[key], size, self.readers.get(key, ""))
                for key, size in sizes.items() if key not in used
            ),
        )


def _key(tensor: Tensor) -> _Key:
    return tensor.data_ptr(), tuple(tensor.shape)
