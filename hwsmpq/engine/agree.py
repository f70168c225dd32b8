"""The check that an engine computes what was simulated, and where it does not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

from torch import Tensor

from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.hardware.target import Target
from hwsmpq.model.agreement import FLOOR, relative_error
from hwsmpq.model.parts import tensors_sha256
from hwsmpq.quantize.disturb import Disturbance
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, Agreement, Assignment

N_SAMPLES = 32
N_DRAWS, QUANTILE = 8, 2.998
"""Disturbances that are taken where the first one does not explain an error, and of how many standard deviations of
the logarithm of a response the next is within with 99 % (Student's t with 7 degrees of freedom)."""


@dataclass(eq=False)
class _Simulated:
    """What is simulated of an assignment for some samples, and the responses to the first draws of a disturbance."""

    key: Hashable
    outputs: Tensor
    responses: list[float] = field(default_factory=list)


_last: WeakKeyDictionary[Simulator, _Simulated] = WeakKeyDictionary()
"""A plan has several engines, one of which is compared after the other."""


def agreement(
    simulator: Simulator, assignment: Assignment, inputs: tuple[Tensor, ...], found: Tensor,
    expected: Tensor | None = None, halves: bool = False,
) -> Agreement:
    """Outputs of an engine against those that the simulator gives for the same samples.

    Sums in another order put single values on other levels. What that may do to the outputs is found by disturbing the
    inputs of every layer, and all that is in bf16 (see :class:`Disturbance`): the error is to be no larger than the
    response. Where one draw does not explain it, :data:`N_DRAWS` are taken, and it is to be no larger than what the
    next response is below with a probability of 99 %.

    Args:
        inputs: of which the first :data:`N_SAMPLES` rows are used.
        found: outputs of the engine for at least these rows.
        expected: what the simulator gives for at least these rows, where it is known.
        halves: see :class:`Disturbance`.
    """
    rows = tuple(x[:N_SAMPLES] for x in inputs)
    n = len(rows[0])

    def outputs(simulator: Simulator) -> Tensor:
        return simulator.scores([assignment], rows, lambda out, rows: out)[0]

    if expected is None:
        simulated = _last.get(simulator)
        key = (frozenset(assignment.items()), tensors_sha256(rows), halves)
        if simulated is None or simulated.key != key:
            simulated = _last[simulator] = _Simulated(key, outputs(simulator))
    else:
        simulated = _Simulated(None, expected[:n])

    def error_of(outputs: Tensor) -> float:
        return relative_error(
            *([tensor for _, tensor in simulator.form.floats(x)] for x in (simulated.outputs, outputs))
        )

    error, limit, responses = error_of(found[:n]), FLOOR, simulated.responses
    for n_draws in range(1, N_DRAWS + 1):
        if error <= limit:
            break
        if n_draws > len(responses):
            responses.append(error_of(outputs(simulator.disturbed(Disturbance(n_draws - 1, halves=halves)))))
        if n_draws in (1, N_DRAWS):
            limit = max(limit, _likely(responses[:n_draws]))
    return Agreement(error, limit, n)


def _likely(responses: Sequence[float]) -> float:
    """What the next of some responses, which are log-normal, is below with a probability of 99 %; the only one."""
    if len(responses) == 1 or not all(responses):
        return responses[0]
    logarithms = [math.log(response) for response in responses]
    spread = statistics.stdev(logarithms) * math.sqrt(1 + 1 / len(responses))
    return math.exp(statistics.fmean(logarithms) + QUANTILE * spread)


def may_halve(target: Target, assignment: Assignment) -> bool:
    """Whether an engine may keep in fp16 what lies between layers. Where types do not stand in the file, the builder of
    a network with fp16 in it does so wherever that is faster."""
    return not target.form.strongly_typed and "fp16" in assignment.values()


def locate(groups: Sequence[str], disagrees: Callable[[Sequence[str]], bool]) -> tuple[str, ...]:
    """Fewest neighbouring groups that disagree without the others, found by bisection: of the first that do, the last.

    Args:
        groups: that disagree together, in the order of execution.
        disagrees: whether an engine with only these quantized does.
    """
    agrees, end = 0, len(groups)
    while end - agrees > 1:
        middle = (agrees + end) // 2
        agrees, end = (agrees, middle) if disagrees(groups[:middle]) else (middle, end)
    start, agrees = 0, end
    while agrees - start > 1:
        middle = (start + agrees) // 2
        start, agrees = (middle, agrees) if disagrees(groups[middle:end]) else (start, middle)
    return tuple(groups[start:end])


def check(
    builder: Builder, simulator: Simulator, assignment: Assignment, inputs: tuple[Tensor, ...], found: Tensor,
    expected: Tensor | None = None,
) -> Agreement:
    """The agreement of an engine, and where it disagrees: the groups at whose precisions alone an engine does, or that
    none does which is built again.

    Args:
        builder: builds engines of the network that ``simulator`` simulates.
    """
    rows = tuple(x[:N_SAMPLES] for x in inputs)

    def disagrees(groups: Sequence[str]) -> bool:
        partly = {group: precision if group in groups else REFERENCE for group, precision in assignment.items()}
        with builder.temporary(partly) as engine:
            outputs = engine_outputs(engine, rows, builder.batch)
        return not agreement(simulator, partly, rows, outputs, halves=halves).agrees

    halves = may_halve(builder.target, assignment)
    one = agreement(simulator, assignment, rows, found, expected, halves)
    if one.agrees:
        return one
    groups = [group for group, precision in assignment.items() if precision != REFERENCE]
    return replace(one, where=locate(groups, disagrees)) if disagrees(groups) else replace(one, is_another=True)
