"""The search stage: what is known of costs and contributions, and the decision that follows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from hwsmpq.errors import HwsmpqError, InfeasibleError
from hwsmpq.hardware.cost_model import CostModel
from hwsmpq.pipeline.decide.aim import purpose
from hwsmpq.pipeline.decide.costs import costs_of
from hwsmpq.pipeline.decide.decision import Asked, Decision
from hwsmpq.pipeline.decide.doubts import tell_doubts
from hwsmpq.pipeline.division import divided, foresee
from hwsmpq.pipeline.evaluate.contribute import contribute
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.prepare.profile import cost_model, try_mixture
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.types import Assignment, Budget, Contributions, CostTable, Plan, Rounds


@holding
def search(
    run: Run, budgets: Sequence[Budget], n_margins: float = 0.0, fastest: bool = False, met: Sequence[Assignment] = (),
) -> Plan:
    """Solve for the budgets.

    Args:
        n_margins: errors of the cost model that plans are predicted below the latency budget, since a plan that is
            predicted to just keep a limit misses it half of the time.
        fastest: whether to take the fastest of what keeps the other budgets.
        met: assignments that were measured to keep the budgets; the best of them is taken unless a better one is found.

    With ``max_drop`` and no latency budget, latency (BitOps where there is none) is minimised; otherwise value is
    maximised. Of plans that are worth the same as far as samples tell, the fastest is taken where latency is known. A
    speedup is one over what there was before: where the runtime computes the network faster than the reference by
    itself, a plan is sought that is faster than that too, and only if there is none, one as asked.
    Where the cheapest assignment of all keeps the drop, it is the plan, and no contributions are estimated; nor are
    they where the search part does not show that the ladder's top is worth more than the fastest of all.
    The additive mode of the paper takes the best solution of the contributions; by default the best
    solutions of several tables are raced on the search part, and the winner improved by swaps.

    Raises:
        HwsmpqError: no budget, a latency budget without a cost table, or budgets that cannot be met (names them).
    """
    if not budgets:
        raise HwsmpqError(
            "no budget to search for", "without one the most accurate plan is the reference itself",
            "give --latency-ms, --speedup, --throughput, --bitops, --size-mb, --peak-mb or --max-drop",
        )
    asked = Asked(tuple(budgets), math.inf if fastest else n_margins, tuple(met))
    run = divided(run)
    prepared = prepare(run)
    # Nothing is measured for budgets that no plan can keep.
    counted = costs_of(prepared.network, run.ladder, None)
    Decision(prepared, Asked(tuple(b for b in budgets if b.kind in counted)), None, counted)
    if not run.path(Plan).exists():
        tell_doubts(prepared)
    decision, model = _decision(prepared, asked)
    while decision.in_doubt and try_mixture(prepared, decision.in_doubt):
        decision, model = _decision(prepared, asked)
    cheapest = decision.cheapest_of_all()
    if cheapest is None and ("latency_ms" in asked.limits or decision.minimises_latency):
        # Mixtures of precisions may be the answer: what switching costs is measured.
        decision, model = _decision(prepared, asked, of_mixtures=True)
        cheapest = decision.cheapest_of_all()
    ahead = _ahead(decision, model, budgets)
    if not cheapest:
        foresee(run, whole=False)
    contributions = None if cheapest else contribute(run, purpose(prepared, decision.costs, asked.limits))

    def make() -> Plan:
        if contributions and ahead:
            with contextlib.suppress(HwsmpqError):
                return ahead.best(contributions)
            run.notify("no plan that is faster than the runtime's default keeps the other budgets")
        if contributions:
            return decision.best(contributions)
        assert cheapest is not None
        run.notify(f"{decision.enough}, so no contributions are needed")
        return decision.simplest(*cheapest)

    unused = {CostTable: model is None, Rounds: not run.measures_latency, Contributions: contributions is None}
    return run.stage(
        Plan, make, [kind for kind, is_unused in unused.items() if is_unused],
        budgets=sorted((b.kind, b.limit, *filter(None, [b.speedup])) for b in budgets),
        margin=(n_margins, fastest), met=met,
    )


def _decision(prepared: Prepared, asked: Asked, of_mixtures: bool = False) -> tuple[Decision, CostModel | None]:
    """The decision with what is known of costs now, or with mixtures timed."""
    run, model = prepared.run, cost_model(prepared, of_mixtures)
    if "latency_ms" in asked.limits and model is None:
        raise HwsmpqError(
            f"target {run.target.name} makes no latency claim", "a latency budget needs measured costs",
            "drop the latency budget, choose another --target, or import a profile (`hwsmpq profile"
            " --from-trtexec`)",
        )
    costs = costs_of(prepared.network, run.ladder, model)
    if "peak_mb" in asked.limits and "peak_mb" not in costs:
        raise HwsmpqError(
            "a memory budget needs measured memory", f"the cost table of {run.target.name} holds none",
            "leave --peak-mb out, profile again, or take --target openvino-cpu",
        )
    return Decision(prepared, asked, model, costs), model


def _ahead(decision: Decision, model: CostModel | None, budgets: Sequence[Budget]) -> Decision | None:
    """The search for what is faster than the runtime's default, where a speedup below that was asked for."""
    default = model.table.runtime_default if model else None
    asked = next((b for b in budgets if b.speedup is not None), None)
    if default is None or asked is None or default.median_ms >= asked.limit:
        return None
    try:
        return decision.within(default.median_ms)
    except InfeasibleError:
        return None
