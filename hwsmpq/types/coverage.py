"""Which of a network's weights are in layers, and what the rest is."""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDINGS = ("embedding", "embedding_bag")


@dataclass(frozen=True)
class OtherWeight:
    """A parameter of two or more dimensions that no layer multiplies by, so that it stays in full precision.

    ``reader`` is the operation of PyTorch that reads it, empty where none does.
    """

    name: str
    n_weights: int
    reader: str

    @property
    def is_embedding(self) -> bool:
        return self.reader in EMBEDDINGS


@dataclass(frozen=True)
class Coverage:
    """Parameters of two or more dimensions, tied ones once: ``n_in_layers`` are those that layers multiply by, computed
    or as they are, ``others`` all the rest."""

    n_in_layers: int
    others: tuple[OtherWeight, ...]

    @property
    def n_weights(self) -> int:
        """In layers and elsewhere; embeddings apart."""
        return self.n_in_layers + sum(weight.n_weights for weight in self.rest)

    @property
    def rest(self) -> tuple[OtherWeight, ...]:
        return tuple(weight for weight in self.others if not weight.is_embedding)

    @property
    def embeddings(self) -> tuple[OtherWeight, ...]:
        return tuple(weight for weight in self.others if weight.is_embedding)
