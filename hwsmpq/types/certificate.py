"""What was built, and what it measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwsmpq.types.precision import Assignment
from hwsmpq.types.settings import BudgetKind


@dataclass(frozen=True)
class LayerAudit:
    """Requested against realised precision of one layer in a built engine."""

    layer: str
    requested: str
    realised: str

    @property
    def as_requested(self) -> bool:
        return self.requested == self.realised


@dataclass(frozen=True)
class Manifest:
    """What was built: files with their hashes, and the audit of every layer."""

    target: str
    assignment: Assignment
    files: dict[str, str]
    layers: tuple[LayerAudit, ...]


@dataclass(frozen=True)
class BudgetOutcome:
    kind: BudgetKind
    limit: float
    predicted: float
    measured: float
    met: bool


@dataclass(frozen=True)
class LatencyOutcome:
    """``reference``, ``predicted`` and ``measured`` in ms; ``spread`` of measured in ms."""

    reference: float
    predicted: float
    measured: float
    spread: float


@dataclass(frozen=True)
class AccuracyOutcome:
    """Metric of reference and engine on the report part; ``paired_stderr`` of their difference. Fractions."""

    reference: float
    engine: float
    n_samples: int
    paired_stderr: float
    kl: float | None = None
    source: Literal["engine", "simulator"] = "engine"


@dataclass(frozen=True)
class Audit:
    n_layers: int
    n_as_requested: int
    mismatches: tuple[LayerAudit, ...]


@dataclass(frozen=True)
class Round:
    """One build of the refit loop: what was predicted, what was measured, and whether every budget held."""

    assignment: Assignment
    predicted_ms: float | None
    measured_ms: float | None
    met: bool


@dataclass(frozen=True)
class EngineResult:
    """One engine that was built or simulated for comparison, on the report part."""

    name: str
    latency_ms: float | None
    metric: float
    loss: float
    kl: float | None
    bitops: float
    size_mb: float


@dataclass(frozen=True)
class Certificate:
    """Predicted against measured. ``latency_ms`` is None where the target makes no latency claim."""

    target: str
    machine: dict[str, str]
    model_sha256: str
    claim: str
    budgets: tuple[BudgetOutcome, ...]
    latency_ms: LatencyOutcome | None
    accuracy: AccuracyOutcome
    audit: Audit
    rounds: tuple[Round, ...]
    engines: tuple[EngineResult, ...] = ()
    n_timing_blocks: int = 0

    @property
    def verified(self) -> bool:
        return all(b.met for b in self.budgets) and not self.audit.mismatches
