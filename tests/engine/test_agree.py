"""An engine that computes something else is seen by its outputs, and where it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from hwsmpq.engine.agree import N_DRAWS, agreement, locate
from hwsmpq.model.agreement import FLOOR
from hwsmpq.model.capture import capture
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, Agreement, Assignment


def test_the_shortest_region_is_found() -> None:
    groups = list("abcdefgh")
    for first in range(8):
        for last in range(first, 8):
            wanted = {groups[first], groups[last]}
            asked: list[int] = []

            def disagrees(some: Sequence[str], wanted: set[str] = wanted, asked: list[int] = asked) -> bool:
                asked.append(1)
                return wanted <= {*some}

            assert locate(groups, disagrees) == tuple(groups[first : last + 1])
            assert len(asked) <= 6
    assert locate(groups, lambda some: "c" in some or "f" in some) == ("c",)


def test_a_disagreement_is_said_with_its_place() -> None:
    one = Agreement(0.25, 0.001, 32, ("a", "b"))
    assert not one.agrees
    assert "0.25" in one.said and "a to b" in one.said
    assert "built again" in Agreement(0.25, 0.001, 32, is_another=True).said


class Normalized(nn.Module):
    """Its variance is the mean of squares less the square of the mean: two large sums, of which little is left."""

    def __init__(self, total: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.o, self.total = nn.Linear(8, 8), nn.Linear(8, 4), total

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + 16
        mean, of_squares = (self.total(one) / y.shape[1] for one in (y, y * y))
        return self.o(((y - mean) * (of_squares - mean * mean + 1e-6).rsqrt()).amax(1))


def test_sums_in_another_order_agree() -> None:
    def one_by_one(x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, :1])
        for i in range(x.shape[1]):
            total = total + x[:, i : i + 1]
        return total

    torch.manual_seed(0)
    net, x = Normalized(lambda x: x.sum(1, keepdim=True)).eval(), torch.randn(32, 512, 8)
    captured, scheme = capture(net, (x[:4],)), get_scheme("unsigned_activations")
    simulator = Simulator(captured, calibrate(captured, (x[:4],), scheme, [8]), scheme)
    net.total = one_by_one
    with torch.no_grad():
        found = agreement(simulator, captured.network.uniform(REFERENCE), (x,), net(x))
    assert found.error > 2 * FLOOR
    assert found.agrees, found.said


def test_engines_of_one_plan_are_compared_with_one_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(32, 8)
    captured, scheme = capture(net, (x,)), get_scheme("unsigned_activations")
    simulator = Simulator(captured, calibrate(captured, (x,), scheme, [8]), scheme)
    int8, reference = (captured.network.uniform(name) for name in ("int8", REFERENCE))
    outputs = simulator.scores([int8], (x,), lambda out, rows: out)[0]
    scores, asked = Simulator.scores, list[int]()
    monkeypatch.setattr(Simulator, "scores", lambda self, *args: asked.append(1) or scores(self, *args))

    def n_simulated(assignment: Assignment, x: Tensor, found: Tensor) -> int:
        asked.clear()
        one = agreement(simulator, assignment, (x,), found)
        n = len(asked)
        assert agreement(simulator, assignment, (x,), found) == one
        assert len(asked) == n
        return n

    assert n_simulated(int8, x, outputs) == 1
    assert n_simulated(int8, x, outputs + 1) == N_DRAWS
    assert n_simulated(reference, x, outputs) == 1 + N_DRAWS
    assert n_simulated(int8, x[:16], outputs) == 1
    assert n_simulated(int8, x, outputs) == 1
