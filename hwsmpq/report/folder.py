"""The artifacts of a run folder, as far as they are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hwsmpq import artifacts
from hwsmpq.report.view import Source
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
    Settings,
)

T = TypeVar("T")

CONSEQUENCES = {
    "settings.json": "The command that made it is not known.",
    "ranges.json": "The activation ranges have not been calibrated.",
    "cost_table.json": "The target has not been profiled, so there is no cost model to compare with.",
    "contributions.json": "No contributions have been estimated: a plan that is the cheapest of all needs none.",
    "plan.json": "No assignment has been chosen.",
    "engine/manifest.json": "No engine has been built, so no layer has been audited.",
    "certificate.json": "Nothing has been verified: whatever is said about the plan is a prediction.",
}


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of one folder; None where a stage has not run."""

    network: Network
    settings: Settings | None
    ranges: Ranges | None
    cost: CostTable | None
    contributions: Contributions | None
    interactions: Interactions | None
    plan: Plan | None
    front: Front | None
    manifest: Manifest | None
    certificate: Certificate | None
    sources: tuple[Source, ...]
    missing: tuple[str, ...]

    @property
    def ladder(self) -> tuple[str, ...]:
        holder = self.plan or self.contributions or self.cost or self.front or self.settings
        return holder.ladder if holder else ()


def read_folder(folder: Path) -> Artifacts:
    """Read a run folder.

    Raises:
        HwsmpqError: network.json is missing, or any artifact is damaged.
    """
    sources: list[Source] = []
    missing: list[str] = []

    def required(file: str, kind: type[T]) -> T:
        value = artifacts.read(folder / file, kind)
        envelope = artifacts.read_envelope(folder / file, kind)
        sources.append(Source(file, *(str(envelope[key]) for key in ("payload_sha256", "created_utc",
                                                                     "hwsmpq_version"))))
        return value

    def optional(file: str, kind: type[T]) -> T | None:
        if (folder / file).exists():
            return required(file, kind)
        if file in CONSEQUENCES:
            missing.append(f"{file} is not in this folder. {CONSEQUENCES[file]}")
        return None

    return Artifacts(
        network=required("network.json", Network),
        settings=optional("settings.json", Settings),
        ranges=optional("ranges.json", Ranges),
        cost=optional("cost_table.json", CostTable),
        contributions=optional("contributions.json", Contributions),
        interactions=optional("interactions.json", Interactions),
        plan=optional("plan.json", Plan),
        front=optional("front.json", Front),
        manifest=optional("engine/manifest.json", Manifest),
        certificate=optional("certificate.json", Certificate),
        sources=tuple(sources),
        missing=tuple(missing),
    )
