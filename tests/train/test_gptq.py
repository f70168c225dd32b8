"""GPTQ: nearest where inputs are independent, closer where they are not; layers compute what it found."""

from __future__ import annotations

import pytest
import torch
from quantize.networks import NETWORKS, make_case, smoothed_case
from torch import Tensor

from hwsmpq.quantize.simulator import Simulator
from hwsmpq.train import gptq
from hwsmpq.train.gptq import round_compensated
from hwsmpq.train.network import quantized
from hwsmpq.train.reconstruct import reconstruct
from hwsmpq.types import Reconstruction

LEVELS = 7


def weight_and_scales() -> tuple[Tensor, Tensor]:
    weight = torch.randn(12, 40, generator=torch.Generator().manual_seed(1))
    return weight, (weight.abs().amax(1, keepdim=True) / LEVELS).expand_as(weight)


def moments_of(x: Tensor) -> Tensor:
    return x.T @ x


def test_inputs_that_have_nothing_in_common_are_rounded_to_nearest() -> None:
    weight, scales = weight_and_scales()
    moments = torch.diag(torch.rand(40, generator=torch.Generator().manual_seed(2)) + 0.1)
    found = round_compensated(weight, moments, scales, LEVELS)
    assert torch.equal(found, (weight / scales).round().clamp(-LEVELS, LEVELS))


@pytest.mark.parametrize("together", [1, 16, 128])
def test_outputs_are_closer_and_no_other_by_how_many_inputs_go_together(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, scales = weight_and_scales()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(300, 8, generator=generator) @ torch.randn(8, 40, generator=generator)
    x = x + 0.1 * torch.randn(300, 40, generator=generator)
    whole = round_compensated(weight, moments_of(x), scales, LEVELS)
    monkeypatch.setattr(gptq, "TOGETHER", together)
    found = round_compensated(weight, moments_of(x), scales, LEVELS)
    assert (found != whole).float().mean() < 0.02  # sums in another order
    assert found.abs().max() <= LEVELS and torch.equal(found, found.round())
    errors = [
        float((x @ (q * scales - weight).T).square().mean())
        for q in (found, (weight / scales).round().clamp(-LEVELS, LEVELS))
    ]
    assert errors[0] < 0.5 * errors[1]


def test_an_input_that_is_always_zero_costs_nothing() -> None:
    weight, scales = weight_and_scales()
    x = torch.randn(300, 40, generator=torch.Generator().manual_seed(4))
    x[:, 5] = 0
    assert torch.isfinite(round_compensated(weight, moments_of(x), scales, LEVELS)).all()


@pytest.mark.parametrize(("precision", "has_factors"), [("w4a16", False), ("w8a16", False), ("w8a16", True)])
def test_weights_alone_in_integers_are_rounded_so(precision: str, has_factors: bool) -> None:
    case = smoothed_case("tensorrt") if has_factors else make_case("tokens", "tensorrt")
    assert bool(case.ranges.smoothed.get(precision)) == has_factors
    x = torch.randn(64, *NETWORKS["tokens"][1], generator=torch.Generator().manual_seed(5))
    assignment = case.captured.network.uniform(precision)
    net, plain = (quantized(case.captured, case.ranges, case.scheme, assignment) for _ in range(2))
    outcomes = reconstruct(net, case.captured, (x[:48],), Reconstruction(n_iterations=1))
    assert {one.n_iterations for one in outcomes} == {0}
    fresh = x[48:]
    simulator = Simulator(case.captured.with_weights(net.weights()), net.ranges(), case.scheme, 64)
    found = simulator.scores([assignment], (fresh,), lambda out, rows: out)[0]
    with torch.no_grad():
        torch.testing.assert_close(net(fresh), found, rtol=1e-4, atol=1e-5)
        target, before = case.captured.graph(fresh), plain(fresh)
    kept = {name for one in outcomes if one.is_kept for name in one.layers} & case.captured.network.with_own_weight
    for layer in case.captured.network.weighted:  # what did not help is as before
        same = torch.equal(net.weights()[layer.weight_name], plain.weights()[layer.weight_name])
        assert same == (layer.name not in kept), layer.name
    if precision == "w4a16":  # where something is lost
        assert kept and (found - target).square().mean() < (before - target).square().mean()
