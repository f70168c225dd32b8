"""The whole front: for every cost the most accurate assignment that is known, and some of them as real engines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hwsmpq.artifacts import write_bytes
from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.decide.candidates import Measured, as_candidate
from hwsmpq.pipeline.decide.choices import problem_of
from hwsmpq.pipeline.decide.costs import choices_of, costs_of
from hwsmpq.pipeline.decide.front import find_front
from hwsmpq.pipeline.division import divided
from hwsmpq.pipeline.evaluate.contribute import contribute
from hwsmpq.pipeline.evaluate.nested import NestedBatches
from hwsmpq.pipeline.prepare.profile import cost_model
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.prove.built import build_engines
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.report.front import draw
from hwsmpq.search.pool import Proposal, unsolved
from hwsmpq.types import Candidate, CostTable, Front, Plan, Rounds

CHART_FILE = "front.svg"
N_POINTS = 12
MADE_ENGINES = (
    "ranges", "survey", "cost_table", "network", "runs", "target", "machine", "report", "metric", "batch", "threads",
)
"""What the measurements of engines depend on, besides the assignments."""


@holding
def pareto(run: Run, n_points: int = N_POINTS, n_built: int = 0) -> Front:
    """Trace the front of latency (or BitOps, where the run has no cost table) against value, and draw it.

    Whatever the run folder has measured counts: walks of the contributions, candidates of a plan, an earlier front.

    Args:
        n_points: cost limits that assignments are solved for; the front has about as many points.
        n_built: points that are built and measured as engines, spread evenly along the front with both its ends.
            Engines that were measured before are not built again.

    Raises:
        HwsmpqError: fewer than two points, or engines asked for where they cannot be timed.
    """
    if n_points < 2:
        raise HwsmpqError(f"a front of {n_points} points", "it has two ends", "give --points at least 2")
    if n_built < 0:
        raise HwsmpqError(f"{n_built} points to measure", "it is a number of engines", "give --measure at least 1")
    if n_built and not run.measures_latency:
        timed = run.target.has_latency
        raise HwsmpqError(
            f"no engine of {run.target.name} can be measured in this run",
            "nothing is timed with --cost bitops" if timed else "the target builds no engine that runs here",
            f"leave out --measure, or take {'--cost latency' if timed else 'a --target that measures latency'}",
        )
    run = divided(run)
    prepared = prepare(run)
    model = cost_model(prepared, of_mixtures=True)
    costs = costs_of(prepared.network, run.ladder, model)
    plan = run.read(Plan) if run.artifacts.has(Plan) else None
    contributions = contribute(run)
    unused = {CostTable: model is None, Rounds: not run.measures_latency, Plan: plan is None}
    inputs = run.inputs(Front, [kind for kind, is_unused in unused.items() if is_unused], points=n_points)
    stored = run.read(Front) if run.artifacts.has(Front) else None
    made_from = run.artifacts.made_from(Front)
    if stored and made_from == inputs:
        front = stored
    else:
        known = (*(plan.candidates if plan else ()), *(stored.points if stored else ()))
        front = find_front(prepared, costs, contributions, known, n_points)
        if stored and all(made_from.get(role) == inputs[role] for role in MADE_ENGINES):
            front = replace(front, engines=stored.engines)
        run.artifacts.write(front, inputs)
    if n_built > len(front.points):
        run.notify(f"the front has {len(front.points)} points, and not {n_built}: all of them are measured")
    missing = [p.assignment for p in spread(front, n_built) if front.engine_of(p.assignment) is None]
    if missing:
        built = [engine for engine in build_engines(prepared, missing) if front.engine_of(engine.assignment) is None]
        front = replace(front, engines=(*front.engines, *built))
        run.artifacts.write(front, inputs)
    write_bytes(run.folder / CHART_FILE, draw(front))
    return front


@holding
def uniform_front(run: Run) -> Front:
    """What one precision everywhere costs and loses, for every precision of the ladder, on the whole search part: what
    a budget can be chosen by before anything is searched. Nothing of it is kept but the measurements."""
    prepared = prepare(run)
    network = prepared.network
    costs = costs_of(network, run.ladder, cost_model(prepared))
    problem = problem_of(prepared, costs, {})
    batches = NestedBatches(prepared.on_engines())
    whole = sum(batches.sizes)
    choices = choices_of(network, run.ladder, [network.uniform(name) for name in run.ladder.names])
    points = [
        as_candidate(prepared, None, batches, Measured(Proposal(unsolved(problem, choice), ("uniform",)), whole))
        for choice in choices if choice is not None
    ]
    return Front(
        target=run.target.name, model_sha256=network.model_sha256, ladder=run.ladder.names, seed=run.settings.seed,
        cost="latency_ms" if "latency_ms" in costs else "bitops", value=run.value,
        reference_value=float(batches.reference(whole)[0].mean()), n_compared=len(points), points=tuple(points),
    )


def spread(front: Front, n: int) -> list[Candidate]:
    """``n`` points spread evenly along the cost: both ends, then one after the other the point farthest from those
    taken, so that more of them include fewer."""
    costs = np.array([front.cost_of(point) for point in front.points])
    taken: list[int] = []
    while len(taken) < min(n, len(costs)):
        distance = np.abs(costs[:, None] - costs[taken]).min(axis=1) if taken else -costs
        distance[taken] = -np.inf
        taken.append(int(distance.argmax()))
    return [front.points[i] for i in taken]
