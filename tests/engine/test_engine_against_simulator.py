"""The engine that is built computes what the simulator scored, sample by sample, on a trained network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from hwsmpq.engine.verify import engine_outputs
from tests.margins import answers_agree

if TYPE_CHECKING:
    from .conftest import Prepared

N_SAMPLES = 64


def sqnr_db(signal: Tensor, other: Tensor) -> float:
    return float(10 * torch.log10(signal.square().mean() / (signal - other).square().mean()))


@pytest.mark.parametrize("name", ["int8", "mixed"])
def test_engine_computes_what_the_simulator_scored(name: str, prepared: Prepared) -> None:
    network, inputs = prepared.network, prepared.task.evaluation.take(slice(0, N_SAMPLES)).inputs
    assignment = network.uniform("int8") if name == "int8" else prepared.every_second

    simulated = prepared.simulator.scores([assignment], inputs, lambda out, rows: out)[0]
    measured = engine_outputs(prepared.builder.engine(assignment), inputs)

    # Sums in another order move single activations by one level; a wrong grid, range or saturation costs 20 dB more.
    assert sqnr_db(simulated, measured) > 40
    assert answers_agree(simulated, measured)
    # The quantization itself is visible: an engine that silently stayed in fp32 would not pass.
    reference = prepared.captured.graph(*inputs).detach()
    assert sqnr_db(reference, measured) < sqnr_db(simulated, measured)
