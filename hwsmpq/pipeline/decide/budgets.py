"""Budgets as the user states them, resolved to absolute limits."""

from __future__ import annotations

import math

from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.decide.costs import counted_costs
from hwsmpq.pipeline.division import divided, foresee, is_sure_to_evaluate
from hwsmpq.pipeline.prepare.profile import uniform_costs
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Budget, Precision


def resolve_budgets(
    run: Run,
    latency_ms: float | None = None,
    speedup: float | None = None,
    bitops: str | float | None = None,
    size_mb: str | float | None = None,
    throughput: float | None = None,
    peak_mb: float | None = None,
    max_drop: float | None = None,
    whole: bool = False,
) -> tuple[Budget, ...]:
    """Limits in the units of :class:`~hwsmpq.types.Budget`.

    Args:
        speedup: against the measured reference engine (all groups at the top of the ladder).
        bitops: a number, or a precision whose uniform assignment sets the limit (``w4a4``), as the target runs it.
        size_mb: likewise, in megabytes (10^6 bytes).
        throughput: inferences a second, of all streams together.
        peak_mb: megabytes that are resident at most while the engine is loaded and run, besides the runtime's own.
        max_drop: points of the metric.
        whole: whether engines follow, whose time counts in what the user is told before anything is measured.
    """
    times = {"--latency-ms": latency_ms, "--speedup": speedup, "--throughput": throughput}
    given = [option for option, value in times.items() if value is not None]
    if len(given) > 1:
        raise HwsmpqError(f"{' and '.join(given)} are given", "they limit the same thing", "give one of them")
    if latency_ms is not None and run.settings.streams > 1:
        raise HwsmpqError(
            f"--latency-ms is given with {run.settings.streams} streams",
            "what counts then is the time from one result to the next, not that of one inference",
            "give --throughput (inferences a second) or --speedup, or leave --streams out",
        )
    # What may have to measure comes last: a wrong number is refused at once.
    budgets = [] if max_drop is None else [Budget("max_drop", max_drop)]
    if speedup is not None and not (math.isfinite(speedup) and speedup > 0):
        raise HwsmpqError(f"a speedup of {speedup}", "it must be a positive number", "for example --speedup 1.5")
    if throughput is not None and not (math.isfinite(throughput) and throughput > 0):
        raise HwsmpqError(f"a throughput of {throughput}", "it must be a positive number", "such as --throughput 100")
    run = divided(run)
    foresee(run, whole, evaluates=is_sure_to_evaluate(run, max_drop is not None))
    if peak_mb is not None:
        budgets.insert(0, Budget("peak_mb", peak_mb))
    if size_mb is not None:
        budgets.insert(0, Budget("size_mb", _amount(run, "size_mb", size_mb)))
    if bitops is not None:
        budgets.insert(0, Budget("bitops", _amount(run, "bitops", bitops)))
    if speedup is not None:
        table = uniform_costs(run)
        if table is None:
            raise HwsmpqError(
                f"target {run.target.name} makes no latency claim", "a speedup needs measured costs",
                "use --bitops or --size-mb, or another --target",
            )
        latency_ms = table.uniform_ms[run.ladder.top].median_ms / speedup
    if throughput is not None:
        latency_ms = 1e3 / throughput
    if latency_ms is not None:
        budgets.insert(0, Budget("latency_ms", latency_ms, speedup, throughput))
    return tuple(budgets)


def _amount(run: Run, kind: str, asked: str | float) -> float:
    try:
        return float(asked)
    except ValueError:
        precision = Precision.parse(str(asked))
    network = prepare(run).network  # a uniform network costs what its layers run in
    bitops, size_mb = counted_costs(network, network.uniform(precision.name))
    return bitops if kind == "bitops" else size_mb
