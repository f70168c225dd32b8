"""The integer grids: zero, levels, range, idempotence, and the error of weights."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from hwsmpq.errors import HwsmpqError
from hwsmpq.quantize.scheme import FP8, FP8_MAX, SCHEMES, Scheme, fp8_scale, get_scheme, quantize_fp8, to_fp8
from hwsmpq.types import Precision

CLIPS = [(0.0, 1.0), (-0.3, 2.7), (-5.0, -1.0), (2.0, 5.0), (-1e-3, 1e3), (-1.0, 1.0), (0.0, 0.0)]
BITS = range(2, 9)
schemes = pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)


@schemes
@pytest.mark.parametrize(("clip", "bits"), list(itertools.product(CLIPS, BITS)))
def test_activation_grid(scheme: Scheme, clip: tuple[float, float], bits: int) -> None:
    grid = scheme.activation_grid(clip, bits)
    assert grid.high - grid.low + 1 == 2**bits
    assert grid.low <= grid.zero_point <= grid.high
    assert grid.scale > 0 and float(torch.tensor(grid.scale)) == grid.scale
    if scheme.signed_activations:
        assert grid.zero_point == 0 and grid.low == -(2 ** (bits - 1))
    else:
        assert grid.low == 0
    # Both ends are reached to within half a step (rounding of the zero point), and none is far beyond.
    low, high = ((q - grid.zero_point) * grid.scale for q in (grid.low, grid.high))
    slack = grid.scale * 0.5001
    assert low <= min(clip[0], 0) + slack and high >= max(clip[1], 0) - slack
    if not scheme.signed_activations and clip != (0.0, 0.0):
        assert low >= min(clip[0], 0) - slack and high <= max(clip[1], 0) + slack


@schemes
@pytest.mark.parametrize("bits", BITS)
def test_activations_land_on_the_grid_at_the_nearest_point(scheme: Scheme, bits: int) -> None:
    grid = scheme.activation_grid((-0.7, 1.9), bits)
    x = torch.cat([torch.linspace(-4, 4, 4001), torch.zeros(1)])
    before = x.clone()
    found = scheme.quantize_activation(x, grid)
    assert torch.equal(x, before), "the input must stay as it is"
    points = (torch.arange(grid.low, grid.high + 1) - grid.zero_point).float() * grid.scale
    assert torch.isin(found, points).all()
    assert len(found.unique()) == len(points)
    nearest = (x[:, None] - points).abs().amin(1)
    torch.testing.assert_close((x - found).abs(), nearest, rtol=0, atol=1e-5)
    assert found[-1] == 0
    assert torch.equal(scheme.quantize_activation(found, grid), found)


@pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES.values() if not s.per_tensor_weights], ids=lambda s: s.name
)
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("axis", [0, 1])
def test_weights(scheme: Scheme, bits: int, axis: int) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(bits))
    weight.movedim(axis, 0)[1] *= 100
    weight.movedim(axis, 0)[2] = 0
    scales = scheme.weight_scales(weight, bits, axis)
    assert scales.shape == (weight.shape[axis],) and scales.dtype == torch.float32
    levels = scheme.weight_levels(bits)
    assert levels == min(2 ** (bits - 1) - 1, scheme.max_weight_level)
    integers = scheme.weight_integers(weight, scales, bits, axis)
    assert torch.equal(integers, integers.round()) and integers.abs().max() == levels
    stored = scheme.store_weight(weight, Precision.parse(f"w{bits}a8"), axis)
    assert torch.equal(stored.values.float(), integers) and torch.equal(stored.scales, scales)
    found = stored.dequantize()
    assert torch.isfinite(found).all() and not found.movedim(axis, 0)[2].any()
    again = scheme.weight_integers(found, scales, bits, axis)
    assert torch.equal(again, integers), "quantizing a quantized weight on its own grid moves nothing"
    # Oracle: max scaling, channel by channel.
    error, by_peak = (
        (q - weight).square().movedim(axis, 0).flatten(1).sum(1)
        for q in (found, _max_scaled(weight, levels, axis))
    )
    assert (error <= by_peak * (1 + 1e-5)).all()
    if bits <= 4:
        assert (error[3:] < by_peak[3:]).all(), "on Gaussian channels clipping pays at few bits"


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("axis", [0, 1])
def test_per_tensor_weights_are_those_of_one_channel(bits: int, axis: int) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(bits))
    weight.movedim(axis, 0)[1] *= 100
    precision = Precision.parse(f"w{bits}a8")
    stored = get_scheme("unsigned_activations_per_tensor").store_weight(weight, precision, axis)
    assert stored.scales.shape == (weight.shape[axis],) and stored.scales.unique().numel() == 1
    # Oracle: the same numbers as the one channel of a layer.
    one = get_scheme("unsigned_activations").store_weight(weight.reshape(1, -1), precision, 0)
    assert torch.equal(stored.dequantize(), one.dequantize().view_as(weight))


def _max_scaled(weight: torch.Tensor, levels: int, axis: int) -> torch.Tensor:
    out = torch.zeros_like(weight)
    for source, target in zip(weight.movedim(axis, 0), out.movedim(axis, 0), strict=True):
        peak = source.abs().max()
        if peak > 0:
            target.copy_(torch.round(source / (peak / levels)) * (peak / levels))
    return out


@pytest.mark.parametrize("axis", [0, 1])
def test_fp8_weights_are_the_nearest_fp8_numbers(axis: int) -> None:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    weight.movedim(axis, 0)[1] *= 1e4
    weight.movedim(axis, 0)[2] = 0
    stored = get_scheme("signed_symmetric").store_weight(weight, Precision.parse("fp8"), axis)
    assert stored.values.dtype == FP8 and stored.scales.shape == (weight.shape[axis],)
    numbers = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    numbers = numbers[numbers.isfinite()]
    for channel, found, scale in zip(
        weight.movedim(axis, 0), stored.dequantize().movedim(axis, 0), stored.scales, strict=True
    ):
        nearest = (channel.flatten()[:, None] / scale - numbers).abs().amin(1) * scale
        torch.testing.assert_close((channel - found).abs().flatten(), nearest, rtol=1e-4, atol=1e-3 * float(scale))
        torch.testing.assert_close(found.abs().amax(), channel.abs().amax())


def test_fp8_activations_saturate() -> None:
    x = torch.tensor([-9.0, -1.0, 0.0, 0.5, 2.0, 3.0])
    scale = fp8_scale(-1.0, 2.0)
    assert scale * FP8_MAX == pytest.approx(2.0)
    assert quantize_fp8(x, scale).tolist() == pytest.approx([-2.0, -1.0, 0.0, 0.5, 2.0, 2.0])
    assert fp8_scale(0.0, 0.0) == 1.0


def test_fp8_activations_are_those_of_the_conversion() -> None:
    """Every fp8 number, its neighbours, the ties between them, and random values of all sizes."""
    numbers = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    numbers = numbers[numbers.isfinite()].unique()
    ties = (numbers[1:] + numbers[:-1]) / 2
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(20_000, generator=generator) * 2.0 ** torch.randint(-14, 10, (20_000,), generator=generator)
    x = torch.cat([numbers, ties, torch.nextafter(ties, torch.tensor(0.0)), spread, torch.tensor([-1e9, 1e9, -0.0])])
    for scale in (1.0, 0.37):
        assert torch.equal(quantize_fp8(x, scale), to_fp8(x / scale).float() * scale)


def test_blockwise_weights_have_a_scale_a_block() -> None:
    scheme, precision = get_scheme("signed_symmetric"), Precision.parse("w4a16")
    weight = torch.randn(3, 256, generator=torch.Generator().manual_seed(0))
    weight[1, 128:] *= 1e3
    stored = scheme.store_weight(weight, precision, 0, block_size=128)
    assert stored.scales.shape == (3, 2) and stored.scales.dtype == torch.float16 and stored.axis == 1
    assert stored.values.abs().max() == 7
    # Oracle: every block as a channel of its own, in the type that the layer computes in.
    for row in range(3):
        for block in range(2):
            part = weight[row : row + 1, 128 * block : 128 * (block + 1)]
            alone = scheme.weight_scales(part, 4, 0).half()
            integers = scheme.weight_integers(part, alone.float(), 4, 0)
            expected = (integers * alone.float()).half().float()
            assert torch.equal(stored.dequantize()[row : row + 1, 128 * block : 128 * (block + 1)], expected)


def test_scales_of_weight_only_layers_do_not_vanish_in_fp16() -> None:
    weight = torch.full((2, 4), 1e-9)
    stored = get_scheme("signed_symmetric").store_weight(weight, Precision.parse("w8a16"), 0)
    assert stored.scales.dtype == torch.float16 and (stored.scales > 0).all()


def test_without_vnni_two_products_fit_int16() -> None:
    """vpmaddubsw adds two u8 * s8 products in saturating int16."""
    scheme = get_scheme("unsigned_activations_no_vnni")
    assert scheme.weight_levels(8) == 64
    assert 2 * 255 * scheme.weight_levels(8) <= 2**15 - 1 < 2 * 255 * (scheme.weight_levels(8) + 1)
    assert scheme.weight_levels(7) == 63
    weight = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    largest = {p: scheme.store_weight(weight, Precision.parse(p), 0).values.abs().max() for p in ("int8", "w8a16")}
    assert largest == {"int8": 64, "w8a16": 127}, "products of floats have no such limit"


def test_unknown_scheme_is_named() -> None:
    with pytest.raises(HwsmpqError, match="'float9'"):
        get_scheme("float9")


@pytest.mark.parametrize("name", ["unsigned_activations", "signed_symmetric"])
def test_a_grid_has_a_clip_that_gives_it_again(name: str) -> None:
    scheme, rng = get_scheme(name), np.random.default_rng(0)
    for bits in range(2, 9):
        for low, high in rng.normal(size=(200, 2)) * 10.0 ** rng.integers(-6, 6, size=(200, 1)):
            grid = scheme.activation_grid((min(low, high), max(low, high)), bits)
            for scale in (grid.scale, float(np.float32(grid.scale * rng.uniform(0.1, 3)))):
                moved = replace(grid, scale=scale)
                assert scheme.activation_grid(scheme.clip_of(moved), bits) == moved
