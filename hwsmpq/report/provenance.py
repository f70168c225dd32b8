"""How a run came about, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields

from hwsmpq.report.folder import Artifacts
from hwsmpq.report.formats import clean
from hwsmpq.report.tradeoff import finalists
from hwsmpq.report.view import Fact
from hwsmpq.types import Budget, Settings, StageTime
from hwsmpq.types.constraints import LISTS

ALWAYS = ("target", "ladder")
"""Spelled out: with a ladder alone, the command line chooses a target by itself."""
LEAST_SECONDS = 0.1
"""Stages that took less are not shown."""
FLAGS = {
    ("additive", True): "--additive", ("smooth", False): "--no-smooth", ("correct_bias", False): "--no-correct-bias",
}


def command(settings: Settings, budgets: tuple[Budget, ...]) -> str:
    """The command line that asks for the same in another folder, quoted for a shell."""
    words = ["hwsmpq", "run", settings.task]
    for field in fields(Settings):
        value = getattr(settings, field.name)
        if field.name == "task" or (value == field.default and field.name not in ALWAYS):
            continue
        if isinstance(value, bool):
            words.append(FLAGS[field.name, value])
        elif field.name in LISTS:
            words += [word for one in value for word in (_option(field.name), one)]
        else:
            words += [_option(field.name), ",".join(value) if isinstance(value, tuple) else str(value)]
    for budget in budgets:
        option, number = budget.asked
        words += [option, repr(number)]
    return shlex.join([*words, "-o", "runs/again"])


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def machine(run: Artifacts) -> Iterator[Fact]:
    profiled = run.cost.machine if run.cost else {}
    verified = run.certificate.machine if run.certificate else {}
    for key in dict.fromkeys((*profiled, *verified)):
        before, after = profiled.get(key), verified.get(key)
        if before is not None and after is not None and before != after:
            yield Fact(clean(key), clean(f"profiled: {before}; verified: {after}"))
        else:
            yield Fact(clean(key), clean(str(after if after is not None else before)))


def times(run: Artifacts) -> Iterator[Fact]:
    """What stages took, of those that took a while."""
    stages = run.times.stages if run.times else ()
    for one in (*stages, StageTime("all", sum(s.wall_s for s in stages), sum(s.cpu_s for s in stages))):
        if one.wall_s >= LEAST_SECONDS:
            yield Fact(clean(one.stage).capitalize(), f"{one.wall_s:.1f} s ({one.cpu_s:.1f} s CPU)")


def methods(run: Artifacts) -> Iterator[Fact]:
    def fact(name: str, value: str | int) -> Fact:
        return Fact(name, clean(value) if isinstance(value, str) else f"{value:,}")

    if run.ranges:
        yield fact("Quantization scheme", run.ranges.scheme)
        yield fact("Range observer", run.ranges.observer)
        yield fact("Calibration samples", run.ranges.n_samples)
    if run.contributions:
        yield fact("Estimator", run.contributions.estimator)
        yield fact("Value function", run.contributions.value)
        yield fact("Evaluations of the value", run.contributions.n_evaluations)
        yield fact("Permutations", run.contributions.n_permutations)
        yield fact("Samples of the fixed batch", run.contributions.n_samples)
        yield fact("Seed of the contributions", str(run.contributions.seed))
    if run.plan:
        yield fact("Candidates evaluated", len(run.plan.candidates))
        yield fact("Candidates on the whole search part", len(finalists(run.plan)))
        yield Fact("Evaluations of the race", f"{run.plan.n_evaluations:,.0f}")
        yield fact("Seed of the search", str(run.plan.seed))
        if run.plan.n_search_samples:
            yield fact("Samples of the search part", run.plan.n_search_samples)
    if run.interactions:
        yield fact("Evaluations behind the interactions", run.interactions.n_evaluations)
    if run.certificate:
        yield fact("Samples of the report part", run.certificate.accuracy.n_samples)


def hashes(run: Artifacts) -> Iterator[Fact]:
    yield Fact("model", run.network.model_sha256)
    if run.ranges:
        yield Fact("calibration data", run.ranges.data_sha256)
    for file, sha256 in sorted(run.manifest.files.items()) if run.manifest else ():
        yield Fact(clean(f"engine/{file}"), sha256)
