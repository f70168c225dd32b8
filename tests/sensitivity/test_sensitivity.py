"""Sensitivity methods against closed forms, full Hessians and full recomputation on networks of a few weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture
from hwsmpq.model.task import Task
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.sensitivity.fisher import fisher
from hwsmpq.sensitivity.hessian import N_PRODUCTS, hessian, traces_of_layers
from hwsmpq.sensitivity.output_distance import output_kl, output_mse
from hwsmpq.sensitivity.registry import SENSITIVITIES
from hwsmpq.sensitivity.request import GRADIENT_COPIES, Request
from hwsmpq.types import Ladder

torch.set_num_threads(1)
SCHEME = get_scheme("unsigned_activations")
LADDER = Ladder.parse("w2a2,w4a8,int8,fp32")


class Branches(nn.Module):
    """Two linears on one input (one group), each followed by a tanh, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 3), nn.Linear(4, 3, bias=False), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(x)) * torch.tanh(self.right(x)))


def request_of(model: nn.Module, n: int = 24, seed: int = 0, loss: object = None, **options: object) -> Request:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    labels = torch.randint(0, 5, (n,), generator=generator)
    task = Task(model, x, (x, labels), loss=loss)  # type: ignore[arg-type]
    captured = capture(model, (x,))
    ranges = calibrate(captured, (x,), SCHEME, [2, 8])
    request = Request(captured, ranges, SCHEME, task, task.evaluation, LADDER, batch_size=10)
    return replace(request, **options)  # type: ignore[arg-type]


def make(kind: type[nn.Module] = Branches, **options: object) -> Request:
    torch.manual_seed(0)
    return request_of(kind(), **options)  # type: ignore[arg-type]


def quantized(request: Request, layer: nn.Linear, name: str, x: Tensor, precision: str) -> Tensor:
    """Output of one layer, quantized from the scheme's own definition."""
    if precision == "fp32":
        return layer(x)
    p = LADDER[precision]
    grid = SCHEME.activation_grid(request.ranges.layers[name].clip[p.activation_bits], p.activation_bits)
    weight = SCHEME.store_weight(layer.weight, p, 0).dequantize()
    return nn.functional.linear(SCHEME.quantize_activation(x, grid), weight, layer.bias)


def test_fisher_of_a_linear_softmax_model_in_closed_form() -> None:
    """dL/dy of cross-entropy is softmax minus one-hot."""
    model = nn.Sequential(nn.Linear(4, 5))
    request = make(lambda: model)  # type: ignore[arg-type]
    x, labels = request.samples.inputs[0], request.samples.targets
    with torch.no_grad():
        gradient = model(x).softmax(1) - nn.functional.one_hot(labels, 5)
        changes = [quantized(request, model[0], "0", x, name) - model(x) for name in LADDER.names]
    scores = np.stack([(gradient * change).sum(1).double().square().numpy() for change in changes], 1)
    gains = (scores[:, :1] - scores) / 2
    table = fisher(request)
    np.testing.assert_allclose(table.phi[0], gains.mean(0), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(table.stderr[0], gains.std(0, ddof=1) / np.sqrt(24), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", ["fisher", "hessian"])
def test_gradients_are_taken_where_they_are_off(name: str) -> None:
    """A caller's ``torch.set_grad_enabled(False)`` is not the loss's fault."""
    request = make(lambda: nn.Sequential(nn.Linear(4, 5)))  # type: ignore[arg-type]
    expected = SENSITIVITIES[name](request).phi
    with torch.no_grad():
        np.testing.assert_array_equal(SENSITIVITIES[name](request).phi, expected)


def test_fisher_takes_biases_as_corrected() -> None:
    """A shift of the biases is part of the change of outputs, as in the simulator."""
    model = nn.Sequential(nn.Linear(4, 5))
    request = make(lambda: model)  # type: ignore[arg-type]
    shifts = {name: {"0": (0.5, -0.25, 0.0, 1.0, 0.125)} for name in LADDER.names[:3]}
    request = replace(request, ranges=replace(request.ranges, shifts=shifts))
    x, labels = request.samples.inputs[0], request.samples.targets
    simulator = Simulator(request.captured, request.ranges, SCHEME)
    outputs = simulator.scores([{"0": name} for name in LADDER.names], (x,), lambda out, rows: out)
    with torch.no_grad():
        gradient = model(x).softmax(1) - nn.functional.one_hot(labels, 5)
    scores = (gradient * (outputs - outputs[-1])).sum(2).double().square().mean(1).numpy()
    np.testing.assert_allclose(fisher(request).phi[0], (scores[0] - scores) / 2, rtol=1e-3, atol=1e-9)


def test_fisher_by_finite_differences_through_a_network() -> None:
    """The derivative of every sample's loss along the joint output change of a group, numerically in float64."""
    request = make()
    model = request.task.model
    x, labels = request.samples.inputs[0], request.samples.targets

    def losses(step: float, group: str, name: str) -> Tensor:
        with torch.no_grad():
            outputs = {}
            hidden = x
            for layer_name in ("left", "right"):
                layer = getattr(model, layer_name)
                y = layer(x).double()
                if group == "left":  # the group of both
                    y = y + step * (quantized(request, layer, layer_name, x, name).double() - y)
                outputs[layer_name] = y
            hidden = torch.tanh(outputs["left"]) * torch.tanh(outputs["right"])
            y = nn.functional.linear(hidden, model.head.weight.double(), model.head.bias.double())
            if group == "head":
                clean = hidden.float()
                y = y + step * (quantized(request, model.head, "head", clean, name) - model.head(clean)).double()
            return nn.functional.cross_entropy(y, labels, reduction="none")

    table = fisher(request)
    assert request.captured.network.group_names == ("left", "head")
    for g, group in enumerate(("left", "head")):
        scores = []
        for name in LADDER.names:
            derivative = (losses(1e-4, group, name) - losses(-1e-4, group, name)) / 2e-4
            scores.append(float(derivative.square().mean()))
        np.testing.assert_allclose(table.phi[g], (scores[0] - np.array(scores)) / 2, rtol=2e-3, atol=1e-8)


def test_fisher_of_the_squared_distance_is_the_distance() -> None:
    """In a linear network half the score is the mean squared change of the outputs, over the normal draws."""
    model = nn.Sequential(nn.Linear(4, 5))
    request = make(lambda: model, n=4000, value="mse")  # type: ignore[arg-type]
    gradient_based, by_outputs = fisher(request), output_mse(request)
    np.testing.assert_allclose(gradient_based.phi, by_outputs.phi, rtol=0.15)
    assert gradient_based.phi[0, -1] > 0


def test_fisher_of_kl_approximates_kl_without_labels() -> None:
    model = nn.Sequential(nn.Linear(4, 5))
    request = make(lambda: model, n=4000, value="kl")  # type: ignore[arg-type]
    scrambled = replace(request, samples=replace(request.samples, targets=request.samples.targets.flip(0)))
    table = fisher(request)
    np.testing.assert_allclose(table.phi, fisher(scrambled).phi)
    # Small changes, where the second order holds.
    np.testing.assert_allclose(table.phi[0, 1:], output_kl(request).phi[0, 1:], rtol=0.3)


def test_hessian_traces_against_the_full_hessian() -> None:
    request = make(loss=lambda y, t: nn.functional.cross_entropy(y, t, reduction="none"))
    model, x, labels = request.task.model, request.samples.inputs[0], request.samples.targets
    weights = {n: p.detach() for n, p in model.named_parameters() if n.endswith("weight")}

    def loss(*values: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, dict(zip(weights, values, strict=True)), (x,))
        return nn.functional.cross_entropy(outputs, labels)

    full = torch.autograd.functional.hessian(loss, tuple(weights.values()))
    n_products = 600
    found = traces_of_layers(request, n_products)
    assert set(found) == set(weights)
    for i, (name, weight) in enumerate(weights.items()):
        exact = float(full[i][i].reshape(weight.numel(), weight.numel()).trace())
        error = found[name].std(ddof=1) / np.sqrt(n_products)
        assert abs(found[name].mean() - exact) < 4 * error, name
        assert error < 0.3 * abs(exact) + 0.01, name


def test_hessian_of_a_quadratic_is_exact_with_any_vector() -> None:
    """Loss ||W x||^2 / 2 with x a unit vector: the Hessian is diagonal where only one input is on."""
    model = nn.Sequential(nn.Linear(4, 5, bias=False))
    request = make(lambda: model, loss=lambda y, t: y.square().sum(1) / 2)  # type: ignore[arg-type]
    one_hot = torch.eye(4).repeat(6, 1)
    request = replace(request, samples=replace(request.samples, inputs=(one_hot,)))
    table = hessian(request, n_products=3)
    weight = model[0].weight.detach()
    # Every input is on in a quarter of the samples, so each of the 20 weights has curvature 1/4.
    errors = [
        0.0 if p.is_float else float((SCHEME.store_weight(weight, p, 0).dequantize() - weight).square().sum())
        for p in LADDER.precisions
    ]
    np.testing.assert_allclose(table.phi[0], (errors[0] - np.array(errors)) * 0.25 / 2, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(table.stderr, 0, atol=1e-7)


def test_hessian_of_smoothed_inputs_compares_what_the_products_come_to() -> None:
    """A smoothed layer multiplies its weight by the factors that it divides its input by: that is no error."""
    model = nn.Sequential(nn.Linear(4, 5, bias=False))
    request = make(lambda: model, loss=lambda y, t: y.square().sum(1) / 2)  # type: ignore[arg-type]
    request = replace(request, samples=replace(request.samples, inputs=(torch.eye(4).repeat(6, 1),)))
    factors = (8.0, 0.5, 1.0, 0.25)
    observed = replace(request.ranges.layers["0"], smooth=factors)
    tensor = request.captured.network.layers[0].input_tensor
    smoothed = replace(request.ranges, smoothed={"int8": {tensor: observed}})
    table = hessian(replace(request, ranges=smoothed), n_products=2)
    weight, s = model[0].weight.detach(), torch.tensor(factors)
    floor, eight = (
        (SCHEME.store_weight(weight * by, LADDER[name], 0).dequantize() / by - weight).square().sum()
        for name, by in (("w2a2", torch.ones(4)), ("int8", s))
    )
    np.testing.assert_allclose(table.phi[0, 2], float(floor - eight) * 0.25 / 2, rtol=1e-4)


@pytest.mark.parametrize("method", [output_mse, output_kl])
def test_output_distance_is_one_group_at_a_time(method: object) -> None:
    request = make()
    model, x = request.task.model, request.samples.inputs[0]
    table = method(request)  # type: ignore[operator]
    with torch.no_grad():
        clean = model(x)
        hidden = torch.tanh(model.left(x)) * torch.tanh(model.right(x))
        distances = np.zeros((2, 4))
        for level, name in enumerate(LADDER.names):
            left, right = (quantized(request, getattr(model, n), n, x, name) for n in ("left", "right"))
            first_moved = model.head(torch.tanh(left) * torch.tanh(right))
            for group, outputs in enumerate((first_moved, quantized(request, model.head, "head", hidden, name))):
                p, q = clean.log_softmax(1), outputs.log_softmax(1)
                distances[group, level] = float(
                    (outputs - clean).square().mean() if method is output_mse else (p.exp() * (p - q)).sum(1).mean()
                )
    np.testing.assert_allclose(table.phi, distances[:, :1] - distances, rtol=1e-3, atol=1e-6)
    assert table.n_evaluations == 2 * 3 + 1 + 2


@pytest.mark.parametrize("name", SENSITIVITIES)
def test_tables_are_gains_over_the_floor(name: str) -> None:
    """The floor is 0, less error is worth more, every draw is kept, and batches do not matter."""
    request = make(n=24)
    table = SENSITIVITIES[name](request)
    assert table.estimator == name
    assert table.phi.shape == table.stderr.shape == (2, 4)
    assert (table.phi[:, 0] == 0).all() and np.isfinite(table.phi).all()
    np.testing.assert_allclose(table.draws.mean(0), table.phi)
    gains = np.abs(table.phi) if name == "hessian" else table.phi  # a trace may be negative
    assert (np.diff(gains, axis=1)[:, :2] > 0).all()
    assert table.floor_value < table.top_value
    assert table.drawn == ("probes" if name == "hessian" else "samples")
    assert len(table.draws) == (N_PRODUCTS if name == "hessian" else len(request.samples))
    again = SENSITIVITIES[name](replace(request, batch_size=24))
    np.testing.assert_allclose(again.phi, table.phi, rtol=1e-3, atol=1e-7)


def test_batches_keep_the_memory_bound() -> None:
    request = make(n=24, batch_size=16)
    n_bytes = request.captured.activation_bytes
    assert [len(x) for _, (x,) in request.batches()] == [16, 8]
    huge = replace(request.captured, activation_bytes=n_bytes * 2**20)
    bounded = replace(request, captured=huge, memory_mb=n_bytes * GRADIENT_COPIES * 5)
    assert [len(x) for _, (x,) in bounded.batches()] == [5, 5, 5, 5, 4]


def test_a_loss_without_gradient_says_so() -> None:
    request = make(loss=lambda y, t: (y.argmax(1) == t).float())
    for method in (fisher, hessian):
        with pytest.raises(HwsmpqError, match="no gradient"):
            method(request)


def test_one_product_is_refused() -> None:
    with pytest.raises(HwsmpqError, match="no standard error"):
        hessian(make(), n_products=1)
