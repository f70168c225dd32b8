"""What engines of a target really run, and what that makes of a network."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwsmpq.device.runtime import NOT_AUDITED
from hwsmpq.types.network import Network
from hwsmpq.types.precision import REFERENCE, Assignment


@dataclass(frozen=True)
class Realised:
    """A built engine: what was asked for by group, and what runs by layer."""

    assignment: Assignment
    layers: dict[str, str]


@dataclass(frozen=True)
class Survey:
    """Audits of built engines: the uniform one of every precision, and those built later that showed something new.

    ``native`` are the precisions that the target offers; ``missing`` says, by group and precision, what the target
    runs where it has no kernel, as it says by itself.
    """

    native: tuple[str, ...]
    missing: dict[str, dict[str, str]]
    engines: tuple[Realised, ...] = ()

    def fallbacks(self, network: Network) -> dict[str, dict[str, str]]:
        """Group -> precision asked for -> precision that runs instead, as the engines show. Where a layer runs in none
        that the target offers (mixed types), it is the reference."""
        found: dict[str, dict[str, str]] = {}
        for engine in self.engines:
            for group, asked in engine.assignment.items():
                layers = [engine.layers[layer.name] for layer in network.layers_of(group)]
                others = [precision for precision in layers if precision not in (asked, NOT_AUDITED)]
                if others and asked != REFERENCE:
                    found.setdefault(group, {}).setdefault(asked, others[0] if others[0] in self.native else REFERENCE)
        return found

    def realise(self, network: Network) -> Network:
        """The network with every precision that does not run substituted by what does."""
        found = self.fallbacks(network)
        groups = [group for group in network.group_names if group in self.missing or group in found]
        substitutes = {group: self.missing.get(group, {}) | found.get(group, {}) for group in groups}
        return replace(network, substitutes=substitutes)
