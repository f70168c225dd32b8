"""The simulator: incremental against full recomputation, fp32 against the model, and independence of chunking."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwsmpq.model.capture import capture
from hwsmpq.model.task import Task
from hwsmpq.quantize.disturb import Disturbance
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.quantize.layer import QuantizedLayer
from hwsmpq.quantize.order import order_for_prefixes
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.schedule import IN_PLACE, schedule
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import ALLOCATOR_OVERHEAD, Simulator
from hwsmpq.types import Assignment

from .networks import LADDER, NETWORKS, Case, make_case, sqnr_db

networks = pytest.mark.parametrize("network", NETWORKS)


def random_assignment(case: Case, rng: random.Random) -> Assignment:
    return {group: rng.choice(LADDER.names) for group in case.captured.network.group_names}


def outputs_of(case: Case, assignments: list[Assignment], memory_mb: int = 64) -> Tensor:
    return case.simulator(memory_mb).scores(assignments, case.inputs, lambda out, rows: out)


@networks
@pytest.mark.parametrize("scheme", ["unsigned_activations", "tensorrt"])
def test_incremental_equals_full_bit_for_bit(network: str, scheme: str) -> None:
    """A walk that changes no group, one group, or all of them; each step again by a simulator that has no past."""
    case, rng = make_case(network, scheme), random.Random(0)
    walk = [random_assignment(case, rng)]
    for step in range(18):
        n_changed = (0, 1, 1, 2, 1, len(walk[0]))[step % 6]
        changed = rng.sample(sorted(walk[0]), n_changed)
        walk.append(walk[-1] | {group: rng.choice(LADDER.names) for group in changed})
    incremental = outputs_of(case, walk)
    for assignment, found in zip(walk, incremental, strict=True):
        assert torch.equal(outputs_of(case, [assignment])[0], found)
    assert len({found.numpy().tobytes() for found in incremental}) > 8


@networks
def test_only_what_is_downstream_runs_again(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case(network)
    counted: list[str] = []
    real = QuantizedLayer.input

    def counting(self: QuantizedLayer, x: Tensor) -> Tensor:
        counted.append(self.layer.name)
        return real(self, x)

    monkeypatch.setattr(QuantizedLayer, "input", counting)
    base = case.captured.network.uniform("int8")
    last = case.captured.network.group_names[-1]
    outputs_of(case, [base])
    n_full = len(counted)
    counted.clear()
    outputs_of(case, [base, base | {last: "w2a2"}])
    assert counted[n_full:] == [last]


@networks
def test_fp32_is_the_model(network: str) -> None:
    case = make_case(network)
    with torch.no_grad():
        expected = case.model(*case.inputs)
    found = outputs_of(case, [case.captured.network.uniform("fp32")])[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@networks
def test_error_shrinks_along_the_ladder(network: str) -> None:
    case = make_case(network)
    case = replace(case, ranges=replace(case.ranges, shifts={}))  # those of the case are no calibration's
    with torch.no_grad():
        expected = case.model(*case.inputs)
    uniform = outputs_of(case, [case.captured.network.uniform(name) for name in ("w2a2", "w3a5", "int8", "fp32")])
    quality = [sqnr_db(expected, found) for found in uniform]
    assert quality == sorted(quality)
    assert quality[0] < 15 and quality[2] > 30 and quality[3] > 100, quality


def test_one_quantized_layer_by_hand() -> None:
    """x Wq + b with both operands rounded to their grids, written out in numpy-like steps."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(50, 6)
    captured, scheme = capture(model, (x,)), get_scheme("unsigned_activations")
    ranges = calibrate(captured, (x,), scheme, [5, 8], "minmax")
    simulator = Simulator(captured, ranges, scheme)
    found = simulator.scores([{"0": "w8a5"}], (x,), lambda out, rows: out)[0]
    low, high = float(x.min()), float(x.max())
    step = torch.tensor((high - low) / 31)
    zero = round(-low / step.item())
    quantized_x = ((x / step).round() + zero).clamp(0, 31).sub(zero) * step
    weight, bias = model[0].weight.detach(), model[0].bias.detach()
    steps = weight.abs().amax(1, keepdim=True) / 127
    torch.testing.assert_close(found, quantized_x @ ((weight / steps).round() * steps).T + bias, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_half_precision_rounds_both_operands(name: str) -> None:
    case = make_case("tokens")
    network = case.captured.network
    simulator = Simulator(case.captured, case.ranges, case.scheme)
    half, full = simulator.scores([network.uniform(name), network.uniform("fp32")], case.inputs, lambda out, rows: out)
    low, high = {"fp16": (50, 90), "bf16": (30, 70)}[name]
    assert low < sqnr_db(full, half) < high


@networks
def test_scores_do_not_depend_on_the_chunking(network: str) -> None:
    case, rng = make_case(network, n=7), random.Random(1)
    assignments = [random_assignment(case, rng) for _ in range(5)]
    whole = case.simulator()
    assert whole.chunk_size >= 7
    expected = whole.scores(assignments, case.inputs, lambda out, rows: out)
    for chunk_size in (1, 3):
        chunked = case.simulator()
        chunked.chunk_size = chunk_size
        seen: list[slice] = []

        def score(out: Tensor, rows: slice, seen: list[slice] = seen) -> Tensor:
            seen.append(rows)
            return out

        found = chunked.scores(assignments, case.inputs, score)
        assert {r.stop - r.start for r in seen[:-5]} == {chunk_size}
        # Another batch size may take another algorithm, whose rounding can move a value to the next level.
        assert sqnr_db(expected, found) > 60 or _share_equal(expected, found) > 0.9


def _share_equal(a: Tensor, b: Tensor) -> float:
    return float(torch.isclose(a, b, rtol=1e-4, atol=1e-5).all(-1).float().mean())


def test_weights_are_kept_once_a_precision_in_as_many_bytes_as_they_are_stored_in() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 8, 1)).eval()
    x = torch.randn(4, 3, 12, 12)
    captured, scheme = capture(model, (x,)), get_scheme("unsigned_activations")
    simulator = Simulator(captured, calibrate(captured, (x,), scheme, [4, 8]), scheme)
    uniform = captured.network.uniform
    found = [simulator.scores([uniform(name)], (x,), lambda out, rows: out)
             for name in ("int8", "w4a8", "w4a4", "bf16", "fp32")]
    n_weights = sum(math.prod(layer.weight_shape) for layer in captured.network.layers)
    kept = simulator._layers._weights.values()
    own = {id(one): one for one in kept if not isinstance(one, Tensor) or one.dtype != torch.float32}.values()
    n_bytes = sum(one.nbytes if isinstance(one, Tensor) else one.values.nbytes for one in own)
    assert n_bytes == n_weights * (1 + 1 + 2), "8 bits, 4 bits whatever the activations have, and 16"
    again = simulator.scores([uniform("w4a8")], (x,), lambda out, rows: out)
    assert torch.equal(again, found[1]) and not torch.equal(found[1], found[0])


def test_chunks_keep_the_memory_bound() -> None:
    """Bytes of one sample by hand: what both layers read is kept; at the wider layer its result and a quantized copy
    of its input come on top (ReLU writes in place, and the second layer needs less); and the inputs, twice."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    captured = capture(model, (torch.randn(1, 3, 64, 64),))
    plane = 64 * 64 * 4
    kept, at_second, inputs = 8 + 4, 8 + 4, 2 * 3
    scheme = get_scheme("unsigned_activations")
    ranges = calibrate(captured, (torch.randn(2, 3, 64, 64),), scheme, [8])
    assert Simulator(captured, ranges, scheme, memory_mb=4).chunk_size == int(
        2**22 / (ALLOCATOR_OVERHEAD * (kept + at_second + inputs) * plane)
    )
    assert Simulator(captured, ranges, scheme, memory_mb=0).chunk_size == 1


@networks
def test_only_what_a_change_needs_is_kept(network: str) -> None:
    """By propagating the change of each single group: a tensor must stay if a reader of it runs while it does not."""
    captured = make_case(network).captured
    nodes = [n for n in captured.graph.graph.nodes if n.op == "call_function"]
    needed = {n for n in nodes if any(user.op == "output" for user in n.users)}
    for group in captured.network.groups:
        running = {captured.layer_nodes[name] for name in group.layers}
        for node in nodes:
            if running & set(node.all_input_nodes):
                running.add(node)
        needed |= {n for n in nodes if n not in running and running & set(n.users)}
    steps = schedule(captured, torch.device("cpu"))
    dropped = [node for step in steps for node in step.dead]
    assert set(dropped) == set(nodes) - needed and len(dropped) == len(set(dropped)) > 5
    for position, step in enumerate(steps):
        assert not any(set(later.node.all_input_nodes) & set(step.dead) for later in steps[position + 1 :])


@networks
def test_in_place_operations_change_no_bit(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, rng = make_case(network), random.Random(2)
    walk = [random_assignment(case, rng) for _ in range(6)]
    in_place = set(IN_PLACE.values())
    assert any(step.function in in_place for step in schedule(case.captured, torch.device("cpu")))
    found = outputs_of(case, walk)
    monkeypatch.setattr("hwsmpq.quantize.schedule.IN_PLACE", {})
    assert torch.equal(outputs_of(case, walk), found)


def test_a_walk_keeps_its_order_and_unrelated_rows_share_more() -> None:
    rng = np.random.default_rng(0)
    walk = np.zeros((1, 6), dtype=np.int64)
    for group in rng.permutation(6):
        for level in (1, 2):
            walk = np.vstack([walk, np.where(np.arange(6) == group, level, walk[-1])])
    assert order_for_prefixes(walk).tolist() == list(range(13))
    assert order_for_prefixes(walk[::-1]).tolist() == list(range(13))

    def n_recomputed(rows: np.ndarray) -> int:
        return sum(6 - int(np.argmax(a != b)) for a, b in pairwise(rows))

    rows = np.array(list(product(range(2), repeat=6)))[rng.permutation(64)]
    order = order_for_prefixes(rows)
    assert sorted(order) == list(range(64))
    # Every prefix of the binary tree is entered once.
    assert n_recomputed(rows[order]) == sum(2**depth for depth in range(1, 7)) - 6
    assert n_recomputed(rows) > 1.5 * n_recomputed(rows[order])


def test_progress_counts_whole_evaluations() -> None:
    case = make_case("residual")
    simulator, seen = case.simulator(), []
    simulator.chunk_size = 2
    simulator.scores(
        [case.captured.network.uniform("int8")] * 4, case.inputs, lambda out, rows: out, lambda *x: seen.append(x)
    )
    assert seen[-1] == (4, 4) and seen == sorted(seen) and len(seen) == 12


def test_a_walk_left_early_leaves_no_inference_mode_behind() -> None:
    case = make_case("residual")
    walk = case.simulator().outputs([case.captured.network.uniform("int8")] * 2, case.inputs)
    next(walk)
    assert not torch.is_inference_mode_enabled()


def test_a_metric_may_work_in_place() -> None:
    """Outputs are the caller's: a metric that scribbles on them must not raise."""
    case = make_case("residual")
    floor, top = (case.captured.network.uniform(name) for name in ("w2a2", "fp32"))
    plain = outputs_of(case, [floor, top]).softmax(-1)

    def softmax_in_place(outputs: Tensor, rows: slice) -> Tensor:
        return outputs.sub_(outputs.logsumexp(-1, True)).exp_()

    torch.testing.assert_close(case.simulator().scores([floor, top], case.inputs, softmax_in_place), plain)


def task_of(case: Case) -> Task:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(24, *case.inputs[0].shape[1:], generator=generator)
    return Task(case.model, case.inputs, (inputs, torch.randint(0, 5, (24,), generator=generator)))


def test_evaluator_gives_values_then_metric() -> None:
    case = make_case("residual")
    task, network = task_of(case), case.captured.network
    samples, top = task.evaluation, network.uniform("fp32")
    assignments = [network.uniform("w3a5"), top]
    with torch.no_grad():
        reference = task.model(*samples.inputs)
    for value in ("loss", "metric", "kl", "mse"):
        evaluator = Evaluator(case.simulator(), task, samples, value, top)
        found = torch.from_numpy(evaluator(assignments))
        assert found.shape == (2, 48) and found.dtype == torch.float32
        for row, assignment in zip(found, assignments, strict=True):
            outputs = evaluator.outputs(assignment)
            correct = (outputs.argmax(1) == samples.targets).float()
            log_p = outputs.log_softmax(1)
            expected = {
                "loss": log_p[torch.arange(24), samples.targets],
                "metric": correct,
                "kl": -nn.functional.kl_div(log_p, reference.log_softmax(1), reduction="none", log_target=True).sum(1),
                "mse": -(outputs - reference).square().mean(1),
            }[value]
            torch.testing.assert_close(row[:24], expected, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(row[24:], correct)
        if value in ("kl", "mse"):
            assert found[1, :24].abs().max() < 1e-6 and (found[0, :24] < 0).all()


@pytest.mark.parametrize("value", ["loss", "soft"])
def test_the_reference_is_run_once_and_scored_as_any_other(value: str) -> None:
    case = make_case("residual")
    task, top, floor = task_of(case), case.captured.network.uniform("fp32"), case.captured.network.uniform("w3a5")
    simulator, samples = case.simulator(), task.evaluation
    run, scores = list[Assignment](), simulator.scores

    class Seen:
        def scores(self, assignments: list[Assignment], *how: Any) -> Tensor:
            run.extend(assignments)
            return scores(assignments, *how)

    other = {**top, next(iter(top)): "int8"}
    asked = [floor, top, other, top]
    found = Evaluator(Seen(), task, samples, value, top)(asked)
    assert run.count(top) == (2 if value == "loss" else 1)  # who asks twice for what no value needs gets it twice
    run.clear()
    known = scores([top], samples.inputs, lambda out, rows: out)[0]
    again = Evaluator(Seen(), task, samples, value, top, expected=known)(asked)
    assert top not in run
    one_by_one = [Evaluator(simulator, task, samples, value, floor)([one])[0] for one in asked]
    for row, expected in zip(again, one_by_one, strict=True):
        np.testing.assert_allclose(row[24:], expected[24:])  # the metric does not depend on what it is compared with
    np.testing.assert_allclose(found, again, rtol=1e-5, atol=1e-6)


@networks
@pytest.mark.parametrize("precision", ["int8", "w4a8", "bf16", "fp32"])
def test_disturbed_is_other_and_close(network: str, precision: str) -> None:
    """The same again for the same seed, and exact where steps are not disturbed."""
    case = make_case(network)
    assignment, simulator = case.captured.network.uniform(precision), case.simulator()

    def outputs(simulator: Simulator) -> Tensor:
        return simulator.scores([assignment], case.inputs, lambda out, rows: out)[0]

    found = {step: outputs(simulator.disturbed(Disturbance(0, step))) for step in (0.0, 1e-2)}
    assert torch.equal(found[1e-2], outputs(simulator.disturbed(Disturbance())))
    plain = outputs(simulator)
    assert torch.equal(plain, outputs(simulator)) and not torch.equal(plain, found[1e-2])
    assert min(sqnr_db(a, b) for a, b in zip(plain, found[1e-2], strict=True)) > 10
    if precision in ("int8", "w4a8"):
        assert torch.equal(plain, found[0.0])


def test_sums_in_fp16_err_as_much_as_the_disturbance_allows_for() -> None:
    """A tensor core that keeps its sums in fp16 rounds one after every 16 products."""
    generator = torch.Generator().manual_seed(0)
    n_inputs, n_at_once = 2048, 16
    net = torch.nn.Linear(n_inputs, 64, bias=False).eval()
    x = torch.randn(32, n_inputs, generator=generator).half().float()
    captured, scheme = capture(net, (x,)), get_scheme("tensorrt")
    ranges = calibrate(captured, (x,), scheme, [8])
    assignment, simulator = captured.network.uniform("fp16"), Simulator(captured, ranges, scheme)

    def outputs(simulator: Simulator) -> torch.Tensor:
        return simulator.scores([assignment], (x,), lambda out, rows: out)[0]

    total = torch.zeros(32, 64)
    weight = net.weight.detach().half().float()
    for some, of_some in zip(x.split(n_at_once, 1), weight.split(n_at_once, 1), strict=True):
        total = (total + some @ of_some.T).half().float()
    expected = outputs(simulator)
    error, *responses = (
        float((found - expected).square().mean().sqrt())
        for found in (total, *(outputs(simulator.disturbed(Disturbance(halves=halves))) for halves in (True, False)))
    )
    assert 0.5 < responses[0] / error < 1.5
    assert error > 2 * responses[1]
