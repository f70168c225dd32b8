"""Smoothing: exact without quantization, as good as theory says with it, and left alone where it gains nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hwsmpq import artifacts
from hwsmpq.model.capture import Captured, capture
from hwsmpq.quantize import smooth
from hwsmpq.quantize.layer import inverse_of
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import Scheme, get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.quantize.smooth import factors_of, smoothable
from hwsmpq.types import Precision, Ranges

from .networks import LADDER, captured_network, smoothed_case

UNSIGNED, SIGNED = get_scheme("unsigned_activations"), get_scheme("signed_symmetric")
schemes = pytest.mark.parametrize("scheme", [UNSIGNED, SIGNED], ids=lambda s: s.name)
INT8 = Precision.parse("int8")
WEIGHTS_ALONE = [Precision.parse(name) for name in ("w4a16", "w8a16")]
weights_alone = pytest.mark.parametrize("precision", WEIGHTS_ALONE, ids=lambda p: p.name)


def linear(n_inputs: int, n_outputs: int, seed: int = 0) -> Captured:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(n_inputs, n_outputs, bias=False))
    return capture(model, (torch.randn(2, n_inputs),))


def with_outlier(n: int, n_channels: int, size: float, seed: int = 0) -> Tensor:
    """Uniform in -1 .. 1, but one channel ``size`` times as large."""
    x = torch.rand(n, n_channels, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    x[:, 3] *= size
    return x


def outputs(captured: Captured, ranges: Ranges, x: Tensor, precision: str = "int8") -> Tensor:
    simulator = Simulator(captured, ranges, get_scheme(ranges.scheme), device="cpu")
    return simulator.scores([captured.network.uniform(precision)], (x,), lambda out, rows: out)[0]


def squared_error(captured: Captured, ranges: Ranges, x: Tensor, precision: str = "int8") -> float:
    exact = outputs(captured, ranges, x, "fp32")
    return float((outputs(captured, ranges, x, precision) - exact).double().square().mean())


def factors(ranges: Ranges, tensor: str, precision: str = "int8") -> Tensor:
    return torch.tensor(ranges.smoothed[precision][tensor].smooth)


@pytest.mark.parametrize("strength", (*smooth.WEIGHT_STRENGTHS, *smooth.STRENGTHS))
def test_the_product_stays_what_it_was(strength: float) -> None:
    x, weight = with_outlier(50, 16, 1000), torch.randn(8, 16)
    found = factors_of(x.abs().amax(0), weight.abs().amax(0), strength)
    assert torch.tensor(found).log().mean() == pytest.approx(0, abs=1e-6)
    smoothed = (x * inverse_of(found)).double() @ (weight * torch.tensor(found)).double().T
    # Three roundings to float32: the inverse, the quotient and the weight.
    terms = x.abs().double() @ weight.abs().double().T
    assert ((smoothed - x.double() @ weight.double().T).abs() / terms).max() < 3 * 2**-24


def test_precisions_with_float_weights_keep_every_bit() -> None:
    case = smoothed_case("unsigned_activations")
    plain = replace(case.ranges, smoothed={})
    for precision in LADDER.precisions:
        same = torch.equal(
            *(outputs(case.captured, ranges, case.inputs[0], precision.name) for ranges in (plain, case.ranges))
        )
        assert same != bool(case.ranges.smoothed.get(precision.name)), precision.name
    assert all(case.ranges.smoothed[name] for name in ("int8", "fp8", "w8a16"))


@schemes
def test_an_outlier_costs_what_theory_says(scheme: Scheme) -> None:
    """Rounding adds step^2 / 12 to every input and weight. A step of an input is the range of the quotients over the
    levels, times the factor of the channel; one of a weight the peak of its output channel over 127, by the factor."""
    captured, x = linear(32, 24), with_outlier(8000, 32, 100)
    weight = captured.graph.state_dict()["0.weight"]
    levels = 127 if scheme.signed_activations else 255 / 2

    def expected(s: Tensor) -> float:
        x_step = (x / s).abs().max() / levels * s
        weight_step = (weight * s).abs().amax(1, keepdim=True) / 127 / s
        from_inputs = weight.square() @ (x_step.square() / 12)
        from_weights = (weight_step.square() / 12) @ x.square().mean(0)
        return float((from_inputs + from_weights).mean())

    found = calibrate(captured, (x,), scheme, [8], smooth=[INT8])
    s = factors(found, "input_1")
    plain, smoothed = (squared_error(captured, r, x) for r in (replace(found, smoothed={}), found))
    assert plain == pytest.approx(expected(torch.ones(32)), rel=0.2)
    assert smoothed == pytest.approx(expected(s), rel=0.2)
    assert smoothed < plain / 15
    # And hardly any strength would have been better.
    peaks = x.abs().amax(0), weight.abs().amax(0)
    best = min(expected(torch.tensor(factors_of(*peaks, a))) for a in torch.linspace(0, 1.2, 61).tolist())
    assert expected(s) < 1.2 * best


@schemes
def test_the_strength_is_the_best_of_all_on_new_samples(scheme: Scheme) -> None:
    """By simulation of every strength, with its own ranges."""
    for seed, size in enumerate((3, 20, 300)):
        captured, x = linear(32, 24, seed), with_outlier(4000, 32, size)
        weight, new = captured.graph.state_dict()["0.weight"], with_outlier(4000, 32, size, seed=1)
        found = calibrate(captured, (x,), scheme, [8], smooth=[INT8])
        observed = found.smoothed["int8"]["input_1"]

        def ranges_of(s: tuple[float, ...], found: Ranges = found, x: Tensor = x) -> Ranges:
            low, high = (float(v) for v in torch.aminmax(x * inverse_of(s)))
            at = replace(found.smoothed["int8"]["input_1"], minimum=low, maximum=high, clip={8: (low, high)}, smooth=s)
            return replace(found, smoothed={"int8": {"input_1": at}})

        candidates = [factors_of(x.abs().amax(0), weight.abs().amax(0), a) for a in smooth.STRENGTHS]
        errors = [squared_error(captured, ranges_of(s), new) for s in candidates]
        assert observed.smooth in candidates
        assert errors[candidates.index(observed.smooth)] < 1.1 * min(errors), size
        assert ranges_of(observed.smooth) == found, "ranges are those of the quotient"


def balanced(n_inputs: int, n_outputs: int, seed: int = 0) -> tuple[Captured, Callable[[int, int], Tensor]]:
    """A layer whose weights are the smaller, the larger its inputs are, and what draws these."""
    captured, size = linear(n_inputs, n_outputs, seed), torch.logspace(-0.7, 0.7, n_inputs)
    size = size[torch.randperm(n_inputs, generator=torch.Generator().manual_seed(seed))]
    with torch.no_grad():
        captured.graph.get_parameter("0.weight").div_(size)
    return captured, lambda n, seed: size * torch.randn(n, n_inputs, generator=torch.Generator().manual_seed(seed))


def test_weights_alone_cost_what_theory_says() -> None:
    """Rounding adds step^2 / 12 to every weight, of which an input sees as much as its size, over its factor."""
    captured, inputs = balanced(64, 24)
    x, weight = inputs(4000, 0), captured.graph.state_dict()["0.weight"]

    def expected(s: Tensor) -> float:
        step = (weight * s).abs().amax(1, keepdim=True) / 127 / s
        return float(((step.square() / 12) @ x.square().mean(0)).mean())

    found = calibrate(captured, (x,), UNSIGNED, [], smooth=WEIGHTS_ALONE)
    s = factors(found, "input_1", "w8a16")
    plain, scaled = (squared_error(captured, r, x, "w8a16") for r in (replace(found, smoothed={}), found))
    assert plain == pytest.approx(expected(torch.ones(64)), rel=0.25)
    assert scaled == pytest.approx(expected(s), rel=0.25)
    assert scaled < 0.3 * plain
    assert expected(s) < 1.1 * min(expected(x.abs().mean(0) ** a) for a in torch.linspace(0, 1.5, 31).tolist())


@weights_alone
def test_the_strength_of_weights_alone_is_the_best_of_all_on_new_samples(precision: Precision) -> None:
    for seed in range(3):
        captured, inputs = balanced(128, 24, seed)
        x, new, weight = inputs(600, 0), inputs(4000, 1), captured.graph.state_dict()["0.weight"]
        found = calibrate(captured, (x,), UNSIGNED, [], smooth=[precision])
        observed = found.smoothed[precision.name]["input_1"]
        candidates = [factors_of(x.abs().mean(0), weight.abs().mean(0), a) for a in smooth.WEIGHT_STRENGTHS]
        plain, chosen, *errors = (
            squared_error(
                captured, replace(found, smoothed={precision.name: {"input_1": replace(observed, smooth=s)}}), new,
                precision.name,
            )
            for s in ((), observed.smooth, *candidates)
        )
        assert chosen < 1.1 * min(errors) and chosen < 0.5 * plain


@weights_alone
@pytest.mark.parametrize("n", [40, 4096])
def test_weights_of_inputs_that_are_alike_are_left_alone(n: int, precision: Precision) -> None:
    captured, x = linear(128, 64), torch.randn(n, 128, generator=torch.Generator().manual_seed(0))
    assert calibrate(captured, (x,), UNSIGNED, [], smooth=[precision]).smoothed == {precision.name: {}}


@schemes
@pytest.mark.parametrize("n", [40, 512, 4096])
def test_inputs_without_outliers_are_left_alone(n: int, scheme: Scheme) -> None:
    """However few samples there are, which a tight range around each channel would fit, but no other samples."""
    captured = linear(128, 64)
    x = torch.rand(n, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    gauss = torch.randn(min(n, 512), 128, generator=torch.Generator().manual_seed(0))
    for inputs in (x, gauss):
        found = calibrate(captured, (inputs,), scheme, [8], smooth=[INT8])
        assert found.smoothed == {"int8": {}}
        assert found == replace(calibrate(captured, (inputs,), scheme, [8]), smoothed={"int8": {}})


def test_every_precision_has_its_own_strength() -> None:
    """What eight-bit weights can take over, those of two or three bits cannot."""
    captured, x = linear(32, 24), with_outlier(4000, 32, 6)
    precisions = [Precision.parse(name) for name in ("w2a8", "w8a4", "int8")]
    found = calibrate(captured, (x,), UNSIGNED, [4, 8], smooth=precisions)
    assert {name: set(tensors) for name, tensors in found.smoothed.items()} == {
        "w2a8": set(), "w8a4": {"input_1"}, "int8": {"input_1"},
    }
    plain = replace(found, smoothed={})
    for name in ("w8a4", "int8"):
        assert squared_error(captured, found, x, name) < 0.7 * squared_error(captured, plain, x, name)
    for_int8 = replace(found, smoothed={"w2a8": found.smoothed["int8"]})
    assert squared_error(captured, for_int8, x, "w2a8") > 1.2 * squared_error(captured, plain, x, "w2a8")


def test_readers_of_one_tensor_share_factors_that_fit_all_their_weights() -> None:
    case = smoothed_case("unsigned_activations")
    layers = {layer.name: layer for layer in case.captured.network.layers}
    query, key = layers["query"], layers["key"]
    assert case.ranges.of(query, INT8) is case.ranges.of(key, INT8)
    assert case.ranges.of(query, INT8).smooth and not case.ranges.layers["query"].smooth
    state = case.captured.graph.state_dict()
    weight_peaks = torch.maximum(*(state[la.weight_name].abs().amax(0) for la in (query, key)))
    with torch.no_grad():
        input_peaks = case.model.embed(case.inputs[0]).abs().amax(-1).amax(0)  # type: ignore[operator]
    candidates = torch.tensor([factors_of(input_peaks, weight_peaks, a) for a in smooth.STRENGTHS])
    found = torch.tensor(case.ranges.of(query, INT8).smooth)
    assert torch.isclose(candidates, found, rtol=1e-4).all(1).any()


def test_only_inputs_of_linear_layers_alone_are_divided() -> None:
    """Not where a convolution reads too, two inputs share a weight, or a residual addition reads the tensor."""

    def readers(captured: Captured) -> list[list[str]]:
        return [[layer.name for layer in layers] for layers in smoothable(captured).values()]

    assert readers(captured_network("residual")[1]) == [["head"]]
    assert readers(captured_network("tokens")[1]) == [["query", "key"], ["head"]]

    class Added(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.added, self.free = nn.Conv1d(4, 4, 1), nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)
            return self.free(self.conv(x) + y) + self.added(y)

    assert readers(capture(Added(), (torch.randn(2, 4, 6),))) == [["free"]]


def test_channels_without_signal_have_usable_factors() -> None:
    captured, x = linear(16, 8), with_outlier(500, 16, 50)
    with torch.no_grad():
        captured.graph.get_parameter("0.weight")[:, 5] = 0
    x[:, 7] = 0
    found = calibrate(captured, (x,), UNSIGNED, [8], smooth=[INT8])
    s = factors(found, "input_1")
    assert torch.isfinite(s).all() and torch.isfinite(1 / s).all() and (s > 0).all()
    assert squared_error(captured, found, x) < squared_error(captured, replace(found, smoothed={}), x) / 5
    for nothing in (torch.zeros(20, 16), x[:1]):
        assert calibrate(captured, (nothing,), UNSIGNED, [8], smooth=[INT8]).smoothed == {"int8": {}}


def test_batches_hardly_matter_and_progress_runs_to_its_end() -> None:
    captured, x = linear(32, 24), with_outlier(301, 32, 20)
    seen: list[tuple[int, int]] = []
    found = [
        calibrate(captured, (x,), UNSIGNED, [8], batch_size=size, smooth=[INT8], progress=lambda *at: seen.append(at))
        for size in (50, 301)
    ]
    assert seen[7] == seen[-1] == (301, 301) and seen[:8] == sorted(seen[:8])
    torch.testing.assert_close(*(factors(ranges, "input_1") for ranges in found))


def without_smoothing(payload: dict[str, object]) -> dict[str, object]:
    """The payload as versions before smoothing wrote it."""
    layers = payload["layers"]
    assert isinstance(layers, dict)
    old = {name: {k: v for k, v in observed.items() if k != "smooth"} for name, observed in layers.items()}
    return {**{k: v for k, v in payload.items() if k != "smoothed"}, "layers": old}


def test_files_hold_every_bit_and_older_ones_read(tmp_path: Path) -> None:
    ranges, path = smoothed_case("signed_symmetric").ranges, tmp_path / "ranges.json"
    artifacts.write(path, ranges)
    assert artifacts.read(path, Ranges) == ranges
    envelope = json.loads(path.read_text())
    payload = without_smoothing(envelope["payload"])
    path.write_text(json.dumps({**envelope, "payload": payload, "payload_sha256": artifacts.digest(payload)}))
    assert artifacts.read(path, Ranges) == replace(ranges, smoothed={})
