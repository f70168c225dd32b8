"""Activation ranges: histograms keep what they counted, and a clip is judged on the tensor itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture
from hwsmpq.quantize.histogram import N_BINS, Histogram, clip_of, extremes
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import SCHEMES, Scheme, get_scheme

from .networks import make_case

GENERATOR = torch.Generator().manual_seed(0)
TENSORS = {
    "gauss": torch.randn(50_000, generator=GENERATOR),
    "relu": torch.randn(50_000, generator=GENERATOR).relu(),
    "silu": nn.functional.silu(torch.randn(50_000, generator=GENERATOR) * 3),
    "heavy": torch.randn(50_000, generator=GENERATOR).pow(3),
    "negative": -torch.rand(50_000, generator=GENERATOR) - 1,
    "positive": torch.rand(50_000, generator=GENERATOR) + 1,
}


def histogram_of(*parts: Tensor) -> Histogram:
    low, high = float(parts[0].min()), float(parts[0].max())
    histogram = Histogram(low, high, np.zeros(N_BINS))
    for part in parts:
        histogram.cover(*extremes(part))
        histogram.count(part)
    return histogram


def squared_error(x: Tensor, scheme: Scheme, clip: tuple[float, float], bits: int) -> float:
    return float((scheme.quantize_activation(x, scheme.activation_grid(clip, bits)) - x).double().square().sum())


@pytest.mark.parametrize("name", TENSORS)
def test_widening_keeps_every_count_near_its_place(name: str) -> None:
    x = TENSORS[name].sort().values
    middle_out = x[(torch.arange(len(x)) - len(x) // 2).abs().argsort()]
    histogram = histogram_of(*middle_out.split(5000))
    assert histogram.counts.sum() == len(x)
    assert (histogram.low, histogram.high) == (float(x[0]), float(x[-1]))
    # Against one histogram of everything: mass has moved by no more than a few bins.
    whole = np.cumsum(histogram_of(x).counts)
    for shift in (-4, 4):
        moved = np.interp(np.arange(N_BINS) + shift, np.arange(N_BINS), whole, left=0, right=whole[-1])
        sign = np.sign(shift)
        assert (sign * (moved - np.cumsum(histogram.counts)) >= -0.002 * len(x)).all()


def test_more_zeros_than_float32_can_count() -> None:
    x = torch.zeros(2**24 + 1000)
    x[0] = 1
    assert histogram_of(x).counts[0] == len(x) - 1


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
@pytest.mark.parametrize("name", TENSORS)
def test_mse_is_no_worse_than_minmax_on_the_tensor(name: str, scheme: Scheme) -> None:
    x = TENSORS[name]
    histogram = histogram_of(*x.split(10_000))
    for bits in range(2, 8):
        error, by_extremes = (
            squared_error(x, scheme, clip_of(histogram, bits, scheme, observer), bits) for observer in ("mse", "minmax")
        )
        assert error <= by_extremes * 1.005, (bits, error / by_extremes)
    if name in ("gauss", "relu", "heavy"):
        gain = squared_error(x, scheme, clip_of(histogram, 4, scheme, "mse"), 4)
        assert gain < 0.8 * squared_error(x, scheme, clip_of(histogram, 4, scheme, "minmax"), 4)


@pytest.mark.parametrize("name", ["gauss", "relu", "silu"])
def test_mse_is_near_the_best_clip_by_brute_force(name: str) -> None:
    x, scheme = TENSORS[name][:2000], get_scheme("unsigned_activations")
    found = squared_error(x, scheme, clip_of(histogram_of(x), 4, scheme, "mse"), 4)
    low, high = float(x.min()), float(x.max())
    best = min(
        squared_error(x, scheme, (low * a, high * b), 4)
        for a in np.linspace(0, 1, 21)
        for b in np.linspace(0.05, 1, 39)
    )
    assert found <= best * 1.03


def test_minmax_is_exact_and_eight_bits_keep_the_extremes() -> None:
    case = make_case("residual")
    source = case.captured.network.layers[0].input_tensor
    assert source
    ranges = calibrate(case.captured, case.inputs, case.scheme, [4, 8], "minmax", batch_size=2)
    x = case.inputs[0]
    stem = ranges.layers["stem.0"]
    assert (stem.minimum, stem.maximum) == (float(x.min()), float(x.max()))
    assert stem.clip == {4: (stem.minimum, stem.maximum), 8: (stem.minimum, stem.maximum)}
    mse = calibrate(case.captured, case.inputs, case.scheme, [4, 8], "mse")
    assert mse.layers["stem.0"].clip[8] == (stem.minimum, stem.maximum)
    assert mse.layers["depthwise"] == mse.layers["short"], "layers of one tensor share its range"
    assert mse.n_samples == len(x) and set(mse.layers) == {la.name for la in case.captured.network.layers}


def test_percentile_cuts_both_tails_and_nothing_more() -> None:
    x = torch.linspace(-1, 1, 1_000_000)
    x[:50], x[-50:] = -100, 100
    histogram = histogram_of(x)
    low, high = clip_of(histogram, 8, get_scheme("unsigned_activations"), "percentile")
    width = 200 / N_BINS
    assert low == pytest.approx(-1, abs=width) and high == pytest.approx(1, abs=width)


def test_constant_inputs_have_a_usable_range() -> None:
    captured = capture(nn.Sequential(nn.Linear(4, 3)), (torch.zeros(2, 4),))
    for scheme in SCHEMES.values():
        for value in (0.0, 5.0, -5.0):
            x = torch.full((4, 4), value)
            clip = calibrate(captured, (x,), scheme, [4, 8]).layers["0"].clip
            for bits in (4, 8):
                found = scheme.quantize_activation(x, scheme.activation_grid(clip[bits], bits))
                torch.testing.assert_close(found, x, rtol=0.01, atol=0)


def test_order_and_batch_size_hardly_matter() -> None:
    case = make_case("residual")
    one, whole = (calibrate(case.captured, case.inputs, case.scheme, [4], "minmax", batch_size=b) for b in (1, 6))
    for name, found in one.layers.items():
        assert found.minimum == pytest.approx(whole.layers[name].minimum, rel=1e-5)
        assert found.maximum == pytest.approx(whole.layers[name].maximum, rel=1e-5)


def test_nan_inside_the_network_is_named() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x.sqrt())

    captured = capture(Root(), (torch.ones(2, 4),))
    with pytest.raises(HwsmpqError, match="calibration gives NaN or infinity in tensor 'sqrt'"):
        calibrate(captured, (-torch.ones(2, 4),), get_scheme("signed_symmetric"), [8])


def test_unknown_observer_is_named() -> None:
    case = make_case("tokens")
    with pytest.raises(HwsmpqError, match="unknown observer 'entropy'"):
        calibrate(case.captured, case.inputs, case.scheme, [8], "entropy")
