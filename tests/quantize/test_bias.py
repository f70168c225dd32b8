"""Bias correction: shifts by their definition, kept where they help on samples they were not taken from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import QDQ_SETTINGS
from tiny_task import task
from torch import Tensor, nn

from hwsmpq.model.capture import Captured, capture
from hwsmpq.pipeline.prepare.calibrate import calibrate as stage
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize import bias
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Precision, Ranges

SCHEME = get_scheme("unsigned_activations")
LOW, HIGH = Precision.parse("w3a4"), Precision.parse("int8")


def images(n: int, *shape: int) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0)).relu()


def calibrated(model: nn.Module, x: Tensor, *precisions: Precision) -> tuple[Captured, Ranges]:
    captured = capture(model.eval(), (x,))
    return captured, calibrate(captured, (x,), SCHEME, [4, 8], correct=precisions)


def test_chance_is_seldom_taken_for_help() -> None:
    """Shifts that do not change errors in the mean: at most about one case of twenty counts as a gain."""
    gains = torch.randn(2000, bias.N_JUDGED, generator=torch.Generator().manual_seed(0))

    def verdict(one: Tensor) -> bool | None:
        early = bias.helps(one[: bias.N_LOOK], False)
        return bias.helps(one, True) if early is None else early

    assert 0.02 < sum(map(bool, map(verdict, gains))) / len(gains) < 0.08
    assert verdict(gains[0] + 5) and not verdict(gains[0] - 5) and not verdict(torch.zeros(bias.N_JUDGED))
    assert bias.helps(gains[0, :16] + 5, False) and bias.helps(gains[0, :16] - 5, False) is False
    assert not bias.helps(torch.ones(1), True)


def outputs(captured: Captured, ranges: Ranges, precision: str, x: Tensor) -> Tensor:
    simulator = Simulator(captured, ranges, SCHEME)
    return simulator.scores([captured.network.uniform(precision)], (x,), lambda out, rows: out)[0]


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 6, 3, stride=2, padding=1), (3, 9, 9)),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 8, 8)),
        (nn.Conv2d(4, 6, (2, 3), stride=(3, 1), padding=(1, 0), dilation=(1, 2), groups=2), (4, 9, 7)),
        (nn.Conv2d(3, 4, (3, 4), padding="same", dilation=(1, 2)), (3, 7, 6)),
        (nn.Conv2d(3, 4, 3, padding="valid"), (3, 7, 6)),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (3, 6, 6)),
        (nn.ConvTranspose2d(4, 6, 3, 2, padding=1, output_padding=1, groups=2, dilation=2), (4, 5, 4)),
        (nn.Conv1d(3, 6, 3), (3, 12)),
        (nn.Conv3d(2, 4, (1, 2, 3), stride=2, padding=1), (2, 5, 4, 6)),
        (nn.Linear(8, 5), (8,)),
        (nn.Linear(8, 5), (7, 8)),
    ],
)
def test_a_shift_is_the_mean_that_quantization_adds_drawn_to_zero_by_its_error(
    layer: nn.Module, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    layer.reset_parameters()  # made when tests are collected, before any seed: whether a shift helps hung on chance
    x, n = images(80, *shape), 32
    captured, ranges = calibrated(nn.Sequential(layer), x, LOW, HIGH)
    plain = replace(ranges, shifts={})
    for precision in (LOW, HIGH):
        added = (outputs(captured, plain, precision.name, x) - outputs(captured, plain, "fp32", x)).double()[:n]
        added = added.movedim(-1, 1) if isinstance(layer, nn.Linear) else added
        samples = added.reshape(n, added.shape[1], -1).mean(2)
        mean, error = samples.mean(0), samples.var(0) / n
        tables = bias._found(captured, (x[:n],), plain, SCHEME, [precision], 8, lambda done: None)
        found = torch.tensor(tables[precision.name]["0"], dtype=torch.float64)
        torch.testing.assert_close(found, mean**3 / (mean**2 + error), rtol=1e-3, atol=1e-7)
    shifted = replace(plain, shifts=bias._found(captured, (x[:n],), plain, SCHEME, [LOW], 8, lambda done: None))
    kept = torch.tensor(shifted.shifts[LOW.name]["0"])
    moved = outputs(captured, plain, LOW.name, x) - outputs(captured, shifted, LOW.name, x)
    moved = moved.movedim(-1, 1) if isinstance(layer, nn.Linear) else moved
    kept = kept.reshape(1, -1, *[1] * (moved.ndim - 2)).expand_as(moved)
    torch.testing.assert_close(moved, kept, rtol=1e-3, atol=1e-5)


class Deep(nn.Sequential):
    """Convolutions behind rectifiers, where shifts add up."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        layers = [m for _ in range(4) for m in (nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())]
        super().__init__(*layers, nn.Flatten(), nn.Linear(6 * 8 * 8, 5))


def test_a_deep_network_comes_closer_on_new_samples() -> None:
    x = images(300, 6, 8, 8)
    captured, ranges = calibrated(Deep(), x[:128], LOW)
    new = x[128:]
    reference = outputs(captured, ranges, "fp32", new)
    errors = [
        float((outputs(captured, r, LOW.name, new) - reference).square().mean())
        for r in (replace(ranges, shifts={}), ranges)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_shifts_that_do_not_help_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x, found = images(64, 6, 8, 8), bias._found

    def worse(captured: Captured, *args: object) -> dict[str, bias.Shifts]:
        good = found(captured, *args)  # type: ignore[arg-type]
        return {**good, HIGH.name: {name: tuple(v + 1 for v in shift) for name, shift in good[HIGH.name].items()}}

    monkeypatch.setattr(bias, "_found", worse)
    assert list(calibrated(Deep(), x, LOW, HIGH)[1].shifts) == [LOW.name]


def test_layers_without_bias_and_too_few_samples() -> None:
    x = images(64, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3))
    assert set(calibrated(model, x, LOW)[1].shifts[LOW.name]) == {"2"}
    assert calibrated(model, x[:3], LOW)[1].shifts == {}


def test_progress_ends_once_at_the_total() -> None:
    captured, seen = capture(Deep().eval(), (images(2, 6, 8, 8),)), list[tuple[int, int]]()
    x = images(20, 6, 8, 8)
    calibrate(captured, (x,), SCHEME, [4], correct=[LOW], progress=lambda *at: seen.append(at))
    assert seen == sorted(seen) and seen[-1] == (40, 40)


@pytest.mark.parametrize("correct", [True, False])
def test_the_setting(tmp_path: Path, correct: bool) -> None:
    ranges = stage(Run(tmp_path, replace(QDQ_SETTINGS, correct_bias=correct), task()))
    assert bool(ranges.shifts) == correct and "fp32" not in ranges.shifts
