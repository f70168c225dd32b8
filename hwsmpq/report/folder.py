"""The artifacts of a run folder, as far as they are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hwsmpq import artifacts
from hwsmpq.folder import Folder
from hwsmpq.hardware.cost_model import CostModel, fit
from hwsmpq.report.view import Source
from hwsmpq.stages import FILES
from hwsmpq.types import (
    Certificate,
    Contributions,
    CostTable,
    Front,
    Interactions,
    Manifest,
    Network,
    Plan,
    Ranges,
    Rounds,
    Settings,
    StageTimes,
    Survey,
)

T = TypeVar("T")

CONSEQUENCES = {
    Settings: "The command that made it is not known.",
    Ranges: "The activation ranges have not been calibrated.",
    CostTable: "The target has not been profiled, so there is no cost model to compare with.",
    Contributions: "No contributions have been estimated.",
    Plan: "No assignment has been chosen.",
    Manifest: "No engine has been built, so no layer has been audited.",
    Certificate: "Nothing has been verified: whatever is said about the plan is a prediction.",
}


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of one folder, and the cost model that they give; None where a stage has not run, or where a
    certificate is not that of the plan and the engine beside it."""

    network: Network
    settings: Settings | None
    ranges: Ranges | None
    cost: CostTable | None
    model: CostModel | None
    contributions: Contributions | None
    interactions: Interactions | None
    plan: Plan | None
    front: Front | None
    manifest: Manifest | None
    certificate: Certificate | None
    times: StageTimes | None
    sources: tuple[Source, ...]
    missing: tuple[str, ...]
    needs_contributions: bool

    @property
    def ladder(self) -> tuple[str, ...]:
        holder = self.plan or self.contributions or self.cost or self.front or self.settings
        return holder.ladder if holder else ()


def read_folder(folder: Path) -> Artifacts:
    """Read a run folder.

    Raises:
        HwsmpqError: network.json is missing, or any artifact is damaged.
    """
    run, sources, missing = Folder(folder), list[Source](), list[str]()

    def required(kind: type[T]) -> T:
        value = run.read(kind)
        envelope = artifacts.read_envelope(run.path(kind), kind)
        keys = ("payload_sha256", "created_utc", "hwsmpq_version")
        sources.append(Source(FILES[kind], *(str(envelope[key]) for key in keys)))
        return value

    def optional(kind: type[T]) -> T | None:
        if run.has(kind):
            return required(kind)
        if kind in CONSEQUENCES and run.needs(kind):
            missing.append(f"{FILES[kind]} is not in this folder. {CONSEQUENCES[kind]}")
        return None

    certificate = optional(Certificate)
    if certificate and (why := run.why_not_certified()):
        missing.append(f"{FILES[Certificate]} does not count: {why}. `hwsmpq verify` measures the plan again.")
        certificate = None
    network, survey, cost, rounds = required(Network), optional(Survey), optional(CostTable), optional(Rounds)
    network = survey.realise(network) if survey else network
    return Artifacts(
        network=network,
        settings=optional(Settings),
        ranges=optional(Ranges),
        cost=cost,
        model=fit(cost, network, rounds.timings(cost) if rounds else ()) if cost and cost.has_latency else None,
        contributions=optional(Contributions),
        interactions=optional(Interactions),
        plan=optional(Plan),
        front=optional(Front),
        manifest=optional(Manifest),
        certificate=certificate,
        times=run.read(StageTimes) if run.has(StageTimes) else None,
        sources=tuple(sources),
        missing=tuple(missing),
        needs_contributions=run.needs(Contributions),
    )
