"""A supernet: one network that holds every precision of a ladder, as EdMIPS has it.

Cai and Vasconcelos 2020 (*Rethinking Differentiable Search for Mixed-Precision Neural Networks*, arXiv 2004.05795): the
weights of a layer are the softmax-weighted sum of their quantized copies, and so are its inputs, so that each layer is
computed once. Copies share their weights. Weights, steps and alphas are trained together, on one loss.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import Captured
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import PerSample
from hwsmpq.quantize.scheme import Scheme
from hwsmpq.train.fit import Objective
from hwsmpq.train.network import QuantizedNetwork
from hwsmpq.types import Assignment, Ladder, Ranges


class Supernet(QuantizedNetwork):
    """The network with all precisions of a ladder in every group.

    A group has one alpha for every number of weight bits in the ladder, and one for every number of activation bits.
    They begin equal.

    Args:
        ranges: without smoothed inputs, whose weights would differ by precision.

    Raises:
        HwsmpqError: a precision that is not of integers, or smoothed inputs.
    """

    def __init__(self, captured: Captured, ranges: Ranges, scheme: Scheme, ladder: Ladder) -> None:
        others = [p.name for p in ladder.precisions if not p.has_integer_operands]
        if others or any(ranges.smoothed.values()):
            raise HwsmpqError(
                f"a supernet cannot hold {', '.join(others) or 'smoothed inputs'}",
                "its copies share one weight, and all are integers",
                "take a ladder such as w2a2..w8a8, without smoothing",
            )
        groups = captured.network.group_names
        if len(ladder.precisions) > 1:
            ranges = replace(ranges, shifts={}, roundings={})  # copies share one bias, and it learns
        super().__init__(captured, ranges, scheme, dict.fromkeys(groups, ladder.precisions))
        self.ladder = ladder
        self._bits = tuple(
            torch.tensor(sorted({bits(p) for p in ladder.precisions}), dtype=torch.float32)
            for bits in (lambda p: p.weight_bits, lambda p: p.activation_bits)
        )
        self._kept = {group: tuple(torch.ones(len(bits), dtype=torch.bool) for bits in self._bits) for group in groups}
        self.alphas = nn.ParameterList(nn.Parameter(torch.zeros(len(groups), len(bits))) for bits in self._bits)
        self._row = {group: row for row, group in enumerate(groups)}

    def keep(self, precisions: Mapping[str, Collection[str]]) -> None:
        """From now on, compute with these precisions of the named groups only, and with all of every other group.

        The shares of what is left sum to one; a group that nothing is left of computes with zeros.
        """
        for group in self.network.group_names:
            kept = [p for p in self.ladder.precisions if p.name in precisions.get(group, self.ladder.names)]
            present = ({p.weight_bits for p in kept}, {p.activation_bits for p in kept})
            self._kept[group] = tuple(
                torch.tensor([int(b) in found for b in bits]) for bits, found in zip(self._bits, present, strict=True)
            )

    def shares(self, group: str) -> tuple[Tensor, Tensor]:
        """Softmax of a group's alphas over the bit-widths that are kept: of weights, and of inputs."""
        weights, inputs = (
            _softmax(alphas[self._row[group]], kept.to(alphas.device))
            for alphas, kept in zip(self.alphas, self._kept[group], strict=True)
        )
        return weights, inputs

    def expected_bitops(self) -> Tensor:
        """sum over groups of MACs * E[weight bits] * E[activation bits], under the shares; a scalar."""
        terms = []
        for group in self.network.group_names:
            n_macs = sum(layer.n_macs for layer in self.network.layers_of(group))
            weights, inputs = (
                share @ bits.to(share.device) for share, bits in zip(self.shares(group), self._bits, strict=True)
            )
            terms.append(n_macs * weights * inputs)
        return torch.stack(terms).sum()

    @torch.no_grad()
    def scores(self) -> NDArray[np.float64]:
        """Log of the share of every precision, (n_groups, n_precisions): that of its weight bits times that of its
        activation bits. The largest sum over groups is the argmax of the alphas."""
        tables = [alphas.double().log_softmax(1).cpu().numpy() for alphas in self.alphas]
        columns = [
            [int((bits == getattr(p, name)).nonzero()) for p in self.ladder.precisions]
            for bits, name in zip(self._bits, ("weight_bits", "activation_bits"), strict=True)
        ]
        return np.asarray(sum(table[:, column] for table, column in zip(tables, columns, strict=True)))

    def argmax(self) -> Assignment:
        """The precision of the largest share in every group."""
        best = self.scores().argmax(1)
        return {g: self.ladder.names[i] for g, i in zip(self.network.group_names, best, strict=True)}

    def parameter_groups(self) -> Iterator[tuple[str, list[nn.Parameter]]]:
        yield from super().parameter_groups()
        yield "alphas", list(self.alphas)


def _softmax(alphas: Tensor, kept: Tensor) -> Tensor:
    if not bool(kept.any()):
        return torch.zeros_like(alphas)
    return alphas.masked_fill(~kept, -torch.inf).softmax(0)


def penalised(supernet: Supernet, loss: PerSample, strength: float) -> Objective:
    """Mean loss plus ``strength`` times the expected BitOps, as a share of those of the ladder's top."""
    network, top = supernet.network, supernet.ladder.precisions[-1]
    most = sum(network.bitops(group, top) for group in network.group_names)

    def objective(outputs: Tensor, batch: Samples) -> Tensor:
        return loss(outputs, batch.targets).mean() + strength * supernet.expected_bitops() / most

    return objective
