"""Rounding learned by precision: ranges hold all of it, and whatever asks them computes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from quantize.networks import NETWORKS, Case, make_case
from torch import Tensor

from hwsmpq.quantize.layer import QuantizedLayer, packed, unpacked
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train.by_precision import learn_by_precision
from hwsmpq.train.network import quantized
from hwsmpq.train.reconstruct import reconstruct
from hwsmpq.types import PRECISIONS, Assignment, Ranges, Reconstruction

SHORT = Reconstruction(n_iterations=30, batch_size=16, seed=3)
LADDER = ("w3a5", "w4a8", "fp32")


def samples(name: str, n: int = 48) -> tuple[Tensor, ...]:
    return (torch.randn(n, *NETWORKS[name][1], generator=torch.Generator().manual_seed(5)),)


def learned(case: Case, x: tuple[Tensor, ...], folder: Path) -> Ranges:
    precisions = [PRECISIONS[name] for name in LADDER]
    return learn_by_precision(case.captured, case.ranges, case.scheme, x, precisions, SHORT, folder, "")


def simulated(case: Case, ranges: Ranges, assignment: Assignment, x: Tensor) -> Tensor:
    return Simulator(case.captured, ranges, case.scheme, 64).scores([assignment], (x,), lambda out, rows: out)[0]


@pytest.mark.parametrize("name", ["residual", "tokens"])
def test_each_precision_computes_what_was_learned_of_it(name: str, tmp_path: Path) -> None:
    case, x = make_case(name), samples(name)
    ranges, fresh = learned(case, x, tmp_path), samples(name, 60)[0][48:]
    network = case.captured.network
    for precision in LADDER[:2]:
        assignment = network.uniform(precision)
        alone = quantized(case.captured, case.ranges, case.scheme, assignment)
        outcomes = reconstruct(alone, case.captured, x, SHORT)
        assert any(one.is_kept for one in outcomes)
        with torch.no_grad():
            expected = alone(fresh)
        torch.testing.assert_close(simulated(case, ranges, assignment, fresh), expected, rtol=1e-4, atol=1e-5)
        again = quantized(case.captured, ranges, case.scheme, assignment)
        with torch.no_grad():
            torch.testing.assert_close(again(fresh), expected, rtol=1e-4, atol=1e-5)
        # What a network of these ranges gives away again stands by itself.
        moved = replace(case, captured=case.captured.with_weights(again.weights()))
        torch.testing.assert_close(simulated(moved, again.ranges(), assignment, fresh), expected, rtol=1e-4, atol=1e-5)
    plain = simulated(case, case.ranges, network.uniform("fp32"), fresh)
    assert torch.equal(simulated(case, ranges, network.uniform("fp32"), fresh), plain)


def test_weights_are_rounded_up_or_down_and_differ_by_precision(tmp_path: Path) -> None:
    case, x = make_case("residual"), samples("residual")
    ranges = learned(case, x, tmp_path)
    moved = 0
    for layer in case.captured.network.weighted:
        weight = dict(case.captured.graph.named_parameters())[layer.weight_name].detach()
        for name in LADDER[:2]:
            before, now = (
                QuantizedLayer.of(layer, PRECISIONS[name], one, case.scheme).stored_weight(weight)
                for one in (case.ranges, ranges)
            )
            assert torch.equal(before.scales, now.scales)
            assert (now.values.int() - before.values).abs().max() <= 1
            moved += int((now.values != before.values).sum())
    assert moved
    assert ranges.roundings["w3a5"] != ranges.roundings["w4a8"]


def test_rounding_is_kept_in_a_bit_an_entry() -> None:
    up = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    assert torch.equal(unpacked(packed(up), torch.empty(3, 5, 7)), up)
    assert len(packed(up)) <= 4 * -(-(3 * 5 * 7 // 8 + 1) // 3)
