"""What was built, and what it measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hwsmpq.device.measurement import Measurement
from hwsmpq.device.runtime import NOT_AUDITED
from hwsmpq.types.budget import Bound, Budget, BudgetKind
from hwsmpq.types.constraints import Held
from hwsmpq.types.coverage import Coverage
from hwsmpq.types.measured import CostTable, EngineTiming
from hwsmpq.types.network import Network
from hwsmpq.types.precision import Assignment
from hwsmpq.types.stage_times import StageTime

LEAST_AUDITED = 0.99
"""Share of the MACs whose layers an audit has to see."""
CHOSEN = "chosen"
"""Name of the plan's engine among those that are measured."""
BY_ITSELF = "runtime's default"
"""Name of what the runtime makes of the network without settings, likewise."""


@dataclass(frozen=True)
class LayerAudit:
    """Requested against realised precision of one layer in a built engine. ``differs`` says what its files hold other
    than was prepared: a weight, or the scale or zero point of its input."""

    layer: str
    requested: str
    realised: str
    differs: str = ""

    @property
    def as_requested(self) -> bool:
        return self.requested == self.realised and not self.differs

    @property
    def is_unseen(self) -> bool:
        """Whether the runtime does not name the layer's kernel, and its files hold what was prepared."""
        return self.realised == NOT_AUDITED and not self.differs

    @property
    def found(self) -> str:
        """What runs, in words."""
        return f"{self.realised} with {self.differs}" if self.differs else self.realised


@dataclass(frozen=True)
class DynamicBatch:
    """An engine beside the certified one, of the same plan, that takes any number of samples at once.

    Attributes:
        batches: numbers of samples whose outputs were compared with the simulated ones.
        agreement: of these outputs; None where nothing runs engines here, and the layers alone were compared.
        from_certified: relative error of these outputs against the certified engine's; None where nothing runs engines
            here, and in manifests of earlier versions.
        why_not: why there is no such engine; empty where there is one.
    """

    batches: tuple[int, ...] = ()
    agreement: Agreement | None = None
    from_certified: float | None = None
    why_not: str = ""

    @property
    def said(self) -> str:
        """What there is, and what was checked of it, in words."""
        if self.why_not:
            return f"no engine of any batch size: {self.why_not}"
        if self.agreement is None:
            return "an engine of any batch size: its layers run as the certified engine's; its outputs were not checked"
        *sizes, last = map(str, self.batches)
        apart = "" if self.from_certified is None else f"by {self.from_certified:.2g} from the certified engine's, "
        return (
            f"an engine of any batch size: with {', '.join(sizes)} and {last} samples its outputs differ {apart}by"
            f" {self.agreement.error:.2g} from what was simulated (rounding explains {self.agreement.allowed:.2g})"
        )


@dataclass(frozen=True)
class Manifest:
    """What was built: files with their hashes, the audit of every layer, and what the build took. Its engine takes
    ``batch`` samples at once and computes with ``threads`` threads, ``streams`` of them side by side; ``outputs`` are
    the names of what it gives. ``dynamic_batch`` is None in manifests of earlier versions.
    """

    target: str
    assignment: Assignment
    files: dict[str, str]
    layers: tuple[LayerAudit, ...]
    build_seconds: float = 0.0
    n_bytes: int = 0
    batch: int = 1
    threads: int = 1
    streams: int = 1
    outputs: tuple[str, ...] = ()
    dynamic_batch: DynamicBatch | None = None


@dataclass(frozen=True)
class BudgetOutcome:
    """A budget against what was reached. ``measured`` is None where it could not be measured; then it is not met.

    ``bound`` stands beside a measured drop: what it lies below on unseen samples. Where ``by_bound``, ``bound`` and not
    ``measured`` decides whether the budget is met.
    """

    kind: BudgetKind
    limit: float
    predicted: float
    measured: float | None
    met: bool
    bound: Bound | None = None
    by_bound: bool = False


@dataclass(frozen=True)
class ShapeLatency:
    """What engines took at one shape of inputs, in ms as they were measured, and its share of the mean."""

    shape: str
    share: float
    reference: float
    measured: float


@dataclass(frozen=True)
class LatencyOutcome:
    """``reference``, ``predicted`` and ``measured`` in ms; ``spread`` of measured in ms. ``interval`` is what the cost
    model gave the measurement with 90 % confidence before it was taken. With more than one of ``streams`` that many
    inferences run side by side, and a latency is the time from one result to the next. Where samples
    have several shapes these are means over ``shapes``."""

    reference: float
    predicted: float
    measured: float
    spread: float
    interval: tuple[float, float] | None = None
    streams: int = 1
    shapes: tuple[ShapeLatency, ...] = ()

    @property
    def as_predicted(self) -> bool | None:
        """Whether the measurement lies in the interval."""
        return None if self.interval is None else self.interval[0] <= self.measured <= self.interval[1]


@dataclass(frozen=True)
class RuntimeDefault:
    """What the runtime does by itself, with the same number of threads, in the same run of measurements.

    Attributes:
        precision: what it computes floats in, unless told otherwise.
        latency_ms, spread_ms: of the network's fp32 file, loaded without settings.
        plain_ms: of the plan's engine, loaded without settings.
        plain_error: of the outputs of that, against those certified: root of error energy over theirs.
    """

    precision: str
    latency_ms: float
    spread_ms: float
    plain_ms: float
    plain_error: float


@dataclass(frozen=True)
class AccuracyOutcome:
    """Metric of reference and engine on the report part; ``paired_stderr`` of their difference. Fractions.

    ``drop_bound`` is what the drop lies below on unseen samples (None where an earlier version did not say).

    ``is_classification`` says whether outputs were taken for logits of classes; only then is there a ``kl`` (None where
    an earlier version did not say). ``n_resamples`` sets of samples were drawn for error and bound of a metric that is
    no mean over them; 0 of one that is. ``metric`` is its name. With ``is_error`` a smaller one is better, and
    ``reference`` and ``engine`` have a minus sign.
    """

    reference: float
    engine: float
    n_samples: int
    paired_stderr: float
    kl: float | None = None
    source: Literal["engine", "simulator"] = "engine"
    is_classification: bool | None = None
    drop_bound: Bound | None = None
    n_resamples: int = 0
    metric: str = "metric"
    is_error: bool = False


@dataclass(frozen=True)
class Audit:
    """What layers of an engine run in. ``not_audited`` are those whose kernels the runtime does not name, with their
    share of the MACs; of the others, ``mismatches`` run otherwise than requested."""

    n_layers: int
    n_as_requested: int
    mismatches: tuple[LayerAudit, ...]
    not_audited: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of(layers: Sequence[LayerAudit], network: Network) -> Audit:
        """The audit of an engine from those of all layers of its network."""
        n_macs = {layer.name: layer.n_macs for layer in network.layers}
        n_all = max(1, sum(n_macs.values()))
        unseen = [layer for layer in layers if layer.is_unseen]
        mismatches = tuple(layer for layer in layers if not layer.as_requested and not layer.is_unseen)
        n_as_requested = len(layers) - len(mismatches) - len(unseen)
        shares = {layer.layer: n_macs[layer.layer] / n_all for layer in unseen}
        return Audit(len(layers), n_as_requested, mismatches, shares)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found to run otherwise, in at least :data:`LEAST_AUDITED` of the MACs."""
        return not self.mismatches and sum(self.not_audited.values()) <= 1 - LEAST_AUDITED


@dataclass(frozen=True)
class Agreement:
    """How far outputs of an engine lie from those that were simulated, and how far rounding may take them: relative
    errors over ``n_samples``. Where they disagree, ``where`` names the groups whose precisions alone suffice for it, in
    the order of execution, unless it ``is_another`` engine: one that was built again agrees."""

    error: float
    allowed: float
    n_samples: int
    where: tuple[str, ...] = ()
    is_another: bool = False

    @property
    def agrees(self) -> bool:
        return self.error <= self.allowed

    @property
    def said(self) -> str:
        """How much, and where, in words."""
        place = f", found in {self.where[0]}" if self.where else ""
        place += f" to {self.where[-1]}" if len(self.where) > 1 else ""
        place += ", but not of an engine built again: this is another network's, or damaged" if self.is_another else ""
        return f"outputs differ by {self.error:.2g}, where rounding explains {self.allowed:.2g}{place}"


@dataclass(frozen=True)
class Round:
    """One plan that was built and measured for some budgets. ``latency`` is stated as in the session of the cost table.
    ``met`` says whether every budget held, and ``missed`` names those that did not (none where an earlier version did
    not say)."""

    budgets: tuple[Budget, ...]
    assignment: Assignment
    predicted_ms: float | None
    latency: Measurement | None
    met: bool
    peak_mb: float | None = None
    missed: tuple[BudgetKind, ...] = ()

    def kept(self, kind: BudgetKind) -> bool:
        """Whether the budget of a kind held."""
        return self.met or (kind not in self.missed if self.missed else False)

    @property
    def measured_ms(self) -> float | None:
        return self.latency.median_ms if self.latency else None


@dataclass(frozen=True)
class Rounds:
    """Rounds after which a search went on, in the order they were measured: evidence for the cost model."""

    rounds: tuple[Round, ...]

    def of(self, budgets: Iterable[Budget]) -> tuple[Round, ...]:
        """Those for the same budgets, in whatever order these are given."""
        wanted = frozenset(budgets)
        return tuple(one for one in self.rounds if frozenset(one.budgets) == wanted)

    def timings(self, table: CostTable) -> tuple[EngineTiming, ...]:
        """What they measured, as engines timed beside the top of a cost table's ladder."""
        top = table.uniform_ms[table.ladder[-1]]
        return tuple(EngineTiming(one.assignment, one.latency, top) for one in self.rounds if one.latency)


@dataclass(frozen=True)
class EngineResult:
    """One engine that was built or simulated for comparison, on the report part. ``drop_bound`` is what its drop lies
    below on unseen samples, ``peak_mb`` the memory that loading and running it takes, where that is measured;
    ``spread_ms`` belongs to ``latency_ms`` (None in certificates of earlier versions)."""

    name: str
    latency_ms: float | None
    metric: float
    loss: float
    kl: float | None
    bitops: float
    size_mb: float
    drop_bound: Bound | None = None
    peak_mb: float | None = None
    spread_ms: float | None = None


@dataclass(frozen=True)
class Certificate:
    """Predicted against measured. ``latency_ms`` is None where the target makes no latency claim.

    ``fallbacks`` are layers that engines ran otherwise than asked, and that the plan took as they ran. ``conditions``
    is the state of the device while it was timed. Latencies are medians over ``n_loads`` loads of every engine.
    ``agreement`` compares engines that were run: that of the plan with what was simulated, without which nothing is
    verified, and that of fp32 with the network. ``coverage`` says which weights are in layers. ``runtime_default`` is
    None where nothing was timed, or where the runtime computes fp32 by itself as the engine in fp32 does. ``held`` is
    what the user held the plan to, besides the budgets. ``stages`` is what it all took
    up to then.
    """

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
    n_loads: int = 0
    fallbacks: dict[str, dict[str, str]] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, Agreement] = field(default_factory=dict)
    coverage: Coverage | None = None
    runtime_default: RuntimeDefault | None = None
    held: tuple[Held, ...] = ()
    stages: tuple[StageTime, ...] = ()

    def drop_points(self, engine: EngineResult) -> float:
        """Points of the metric that an engine loses; a gain counts as none lost."""
        return max(0.0, 100 * (self.accuracy.reference - engine.metric))

    def keeps(self, engine: EngineResult) -> bool:
        """Whether an engine keeps every budget; a latency as it is measured, also under a speedup."""
        bound = engine.drop_bound.points if engine.drop_bound else None
        values = {
            "latency_ms": engine.latency_ms, "bitops": engine.bitops, "size_mb": engine.size_mb,
            "peak_mb": engine.peak_mb, "max_drop": self.drop_points(engine),
        }
        return all(
            Budget(one.kind, one.limit).met(bound if one.kind == "max_drop" and one.by_bound else values[one.kind])
            for one in self.budgets
        )

    @property
    def agrees(self) -> bool:
        """Whether the plan's engine computes what was simulated, where an engine was measured."""
        chosen = self.agreement.get(CHOSEN)
        return self.accuracy.source == "simulator" or (chosen is not None and chosen.agrees)

    @property
    def verified(self) -> bool:
        return all(b.met for b in self.budgets) and self.audit.is_clean and self.agrees
