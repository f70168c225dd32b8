"""Sensitivity from outputs: how far they move when a single group is quantized and all others stay in fp32."""

from __future__ import annotations

import numpy as np

from hwsmpq.contribution.table import Table, sampled
from hwsmpq.sensitivity.request import Request
from hwsmpq.types import REFERENCE


def output_mse(request: Request) -> Table:
    """:func:`output_distance` by the mean squared distance of the outputs."""
    return output_distance(request, "mse")


def output_kl(request: Request) -> Table:
    """:func:`output_distance` by the KL divergence from the fp32 distribution over classes."""
    return output_distance(request, "kl")


def output_distance(request: Request, distance: str) -> Table:
    """The distance at the floor minus that at each precision, in the unit of ``distance`` (``mse`` or ``kl``).

    Standard errors are over samples.

    Cost in evaluations: one a group and quantized precision, the fp32 outputs, and both ends of the ladder.

    Raises:
        HwsmpqError: ``kl`` for outputs without classes.
    """
    network, ladder = request.captured.network, request.ladder
    reference = network.uniform(REFERENCE)
    cells = [
        (group, level)
        for group in range(len(network.groups))
        for level, name in enumerate(ladder.names)
        if name != REFERENCE
    ]
    single = [reference | {network.group_names[group]: ladder.names[level]} for group, level in cells]
    ends = [network.uniform(ladder.floor), network.uniform(ladder.top)]
    values = request.values([*single, *ends], distance)
    moved = np.zeros((len(request.samples), len(network.groups), len(ladder.names)))
    for (group, level), value in zip(cells, values, strict=False):
        moved[:, group, level] = value
    floor, top = values[-2:].mean(axis=1)
    return sampled(
        f"output-{distance}", "samples", moved - moved[..., :1], (float(floor), float(top)), len(cells) + 1 + 2
    )
