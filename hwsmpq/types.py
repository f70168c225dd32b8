"""The words of the project as frozen dataclasses: everything that crosses a module boundary.

Units are in the names. Every type here is plain data (no torch, no runtime), validates itself, and
round-trips through JSON (see :mod:`hwsmpq.artifacts`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hwsmpq.errors import HwsmpqError

FLOAT_BITS = {"fp32": 32, "fp16": 16, "bf16": 16}
MIN_BITS, MAX_BITS = 2, 8
REFERENCE = "fp32"
"""The precision that drops and divergences are measured against, whether or not it is in the ladder."""

Assignment = dict[str, str]
"""Group name -> precision name."""


@dataclass(frozen=True)
class Precision:
    """A (weight format, activation format) pair, e.g. ``w4a8``, ``int8`` (= w8a8) or ``fp32``."""

    name: str
    weight_bits: int
    activation_bits: int

    @property
    def is_float(self) -> bool:
        return self.name in FLOAT_BITS

    @property
    def bitops_per_mac(self) -> int:
        """Weight bits times activation bits: the usual BitOps proxy."""
        return self.weight_bits * self.activation_bits

    @staticmethod
    def parse(name: str) -> Precision:
        """Read a precision name.

        Raises:
            HwsmpqError: the name is not a known precision or its bits are outside 2..8.
        """
        name = name.strip().lower()
        if name in FLOAT_BITS:
            return Precision(name, FLOAT_BITS[name], FLOAT_BITS[name])
        match = re.fullmatch(r"w([0-9]+)a([0-9]+)", "w8a8" if name == "int8" else name)
        if match:
            weight, activation = int(match[1]), int(match[2])
            if all(MIN_BITS <= bits <= MAX_BITS for bits in (weight, activation)):
                canonical = "int8" if weight == activation == 8 else f"w{weight}a{activation}"
                return Precision(canonical, weight, activation)
        raise HwsmpqError(
            f"unknown precision {name!r}",
            f"a precision is wXaY with {MIN_BITS} to {MAX_BITS} bits, int8, or one of {', '.join(FLOAT_BITS)}",
            "for example --ladder w4a4,w8a8,fp32",
        )


@dataclass(frozen=True)
class Ladder:
    """The ordered candidates of one search, from floor (fewest BitOps a MAC) to reference (top)."""

    precisions: tuple[Precision, ...]

    def __post_init__(self) -> None:
        if len(self.precisions) < 2:
            raise HwsmpqError(
                f"a ladder of {len(self.precisions)} precision(s) leaves nothing to choose",
                fix="give at least two, for example --ladder int8,fp32",
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.precisions)

    @property
    def floor(self) -> str:
        return self.names[0]

    @property
    def top(self) -> str:
        return self.names[-1]

    def __getitem__(self, name: str) -> Precision:
        return self.precisions[self.names.index(name)]

    @staticmethod
    def parse(text: str) -> Ladder:
        """Read a comma-separated list; ``w3a3..w8a8`` expands to equal bits between the two ends."""
        found: dict[str, Precision] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            low, dots, high = part.partition("..")
            if not dots:
                names = [part]
            else:
                first, last = Precision.parse(low), Precision.parse(high)
                names = [f"w{b}a{b}" for b in range(first.weight_bits, last.weight_bits + 1)]
                if first.weight_bits != first.activation_bits or last.weight_bits != last.activation_bits:
                    raise HwsmpqError(
                        f"cannot expand {part!r}", "a range needs equal weight and activation bits",
                        "list unequal precisions one by one",
                    )
            for name in names:
                precision = Precision.parse(name)
                found[precision.name] = precision
        ordered = sorted(found.values(), key=lambda p: (p.bitops_per_mac, p.weight_bits))
        return Ladder(tuple(ordered))


@dataclass(frozen=True)
class Layer:
    """One quantizable operation, named by the module that owns its weight."""

    name: str
    kind: Literal["conv", "conv_transpose", "linear"]
    weight_name: str
    weight_shape: tuple[int, ...]
    channel_axis: int
    input_tensor: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    n_macs: int
    n_weights: int
    n_biases: int

    @property
    def is_depthwise(self) -> bool:
        """One input and one output channel a filter."""
        return self.kind == "conv" and self.weight_shape[1] == 1 and self.weight_shape[0] == self.input_shape[0]


@dataclass(frozen=True)
class Group:
    """Layers that must share a precision: a player of the game and a variable of the MILP."""

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """Data flowing from one group to another through non-layer operations only."""

    source: str
    target: str
    n_elements: int


@dataclass(frozen=True)
class Network:
    """What capture found: layers, groups (in execution order) and the data flow between groups."""

    model_sha256: str
    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    edges: tuple[Edge, ...]
    n_other_params: int

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.groups)

    def layers_of(self, group: str) -> tuple[Layer, ...]:
        members = next(g.layers for g in self.groups if g.name == group)
        return tuple(layer for layer in self.layers if layer.name in members)

    def group_of(self, layer: str) -> str:
        return next(g.name for g in self.groups if layer in g.layers)

    def uniform(self, precision: str) -> Assignment:
        return dict.fromkeys(self.group_names, precision)

    def bitops(self, group: str, precision: Precision) -> int:
        """BitOps of one group: MACs times weight bits times activation bits."""
        return sum(layer.n_macs for layer in self.layers_of(group)) * precision.bitops_per_mac

    def size_bytes(self, group: str, precision: Precision) -> float:
        """Bytes of one group: weights at their bits, one fp32 scale a channel if quantized, fp32 biases."""
        total = 0.0
        for layer in self.layers_of(group):
            scales = 0 if precision.is_float else 4 * layer.weight_shape[layer.channel_axis]
            total += layer.n_weights * precision.weight_bits / 8 + scales + 4 * layer.n_biases
        return total

    def n_configurations(self, n_precisions: int) -> float:
        """Size of the search space."""
        return math.pow(n_precisions, len(self.groups))


BudgetKind = Literal["latency_ms", "bitops", "size_mb", "max_drop"]


@dataclass(frozen=True)
class Budget:
    """A limit the chosen assignment must keep. ``max_drop`` is in points (hundredths) of the metric."""

    kind: BudgetKind
    limit: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit) or self.limit < 0 or (self.limit == 0 and self.kind != "max_drop"):
            raise HwsmpqError(f"{self.kind} budget of {self.limit}", "a budget is a positive number", "correct it")


@dataclass(frozen=True)
class Settings:
    """What a run folder is about: everything that decides its results, except the budgets of one search.

    ``value`` scores assignments (by default ``soft`` for classification with cross-entropy, else ``loss``);
    ``evaluate`` says what they are run on. ``n_score_samples`` of the search part score contributions.
    ``estimator`` takes ``n_pairs`` antithetic pairs of
    permutations (or as many draws of another kind), or stops earlier: at ``max_evaluations``, ``max_seconds``, a
    relative error of ``target_error``, or when a share ``stability`` of resamples gives the same plan. ``base`` is the
    level that contributions start from (by default the lowest that leaves the network alive). ``n_mixtures`` random
    engines fit the cost model. ``n_candidates`` plans of every table enter the race, which may spend
    ``search_evaluations`` (of the score batch) and ``search_seconds``; ``additive`` takes the best plan of the
    contributions alone, as the paper does.
    """

    task: str
    data: str | None = None
    weights: str | None = None
    target: str = "openvino-cpu"
    ladder: tuple[str, ...] = ("int8", "fp32")
    observer: str = "mse"
    value: str | None = None
    seed: int = 0
    evaluate: Literal["simulator", "engine"] = "simulator"
    estimator: str = "antithetic"
    base: str | None = None
    n_score_samples: int = 256
    n_pairs: int = 2
    max_evaluations: int | None = None
    max_seconds: float | None = None
    target_error: float | None = None
    stability: float | None = None
    n_mixtures: int = 8
    n_candidates: int = 8
    additive: bool = False
    search_evaluations: int = 180
    search_seconds: float | None = None
    timing_seconds: float = 30.0
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        if self.evaluate not in ("simulator", "engine"):
            raise HwsmpqError(f"cannot evaluate by {self.evaluate!r}", fix="take simulator or engine")
        least = {
            "n_score_samples": 8, "n_pairs": 2, "n_mixtures": 0, "n_candidates": 1, "memory_mb": 16,
            "max_evaluations": 1, "search_evaluations": 0,
        }
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise HwsmpqError(f"{name} is {value}", f"it must be at least {minimum}", "raise it")
        for name in ("timing_seconds", "max_seconds", "target_error", "stability", "search_seconds"):
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or value <= 0):
                raise HwsmpqError(f"{name} is {value}", "it must be a positive number", "raise it")
        if self.stability is not None and self.stability > 1:
            raise HwsmpqError(f"stability is {self.stability}", "it is a share of resamples", "give at most 1")
        if self.base is not None and Precision.parse(self.base).name not in self.ladder:
            raise HwsmpqError(
                f"base {self.base} is not in the ladder", f"the ladder is {', '.join(self.ladder)}", "name one of these"
            )


@dataclass(frozen=True)
class TensorRange:
    """Activation range of one layer's input: raw extremes, and the chosen clip per bit-width."""

    minimum: float
    maximum: float
    clip: dict[int, tuple[float, float]]


@dataclass(frozen=True)
class Ranges:
    """Calibrated activation ranges, one a layer."""

    model_sha256: str
    data_sha256: str
    scheme: str
    observer: str
    n_samples: int
    layers: dict[str, TensorRange]


@dataclass(frozen=True)
class Measurement:
    """Repeated timings of one thing: median with a spread (half the 10..90 percentile range)."""

    median_ms: float
    spread_ms: float
    n_repeats: int


@dataclass(frozen=True)
class CostTable:
    """Measured cost of a target: T(x) = a * sum_g p[g, x_g] + b + c1 * n_switches + c2 * switched elements.

    ``group_ms`` is p: per-layer counters summed over a group, in the uniform engine of that precision.
    ``engines`` holds every whole-engine measurement the fit used. A table without latency
    (``group_ms`` empty) makes no latency claim.
    """

    target: str
    machine: dict[str, str]
    model_sha256: str
    ladder: tuple[str, ...]
    group_ms: dict[str, dict[str, float]]
    scale: float
    offset_ms: float
    switch_ms: float
    switch_element_ms: float
    uniform_ms: dict[str, Measurement]
    engines: tuple[EngineTiming, ...] = ()
    fit_error_ms: float = 0.0

    @property
    def has_latency(self) -> bool:
        return bool(self.group_ms)


@dataclass(frozen=True)
class EngineTiming:
    """A built mixture, what it measured, and what the same interleaved block measured for the reference."""

    assignment: Assignment
    measured: Measurement
    reference: Measurement


@dataclass(frozen=True)
class Contributions:
    """Phi[group, precision] with standard errors, over one fixed batch.

    ``floor_value`` is the value with every group at ``base``, the level that backgrounds rest at, where Phi is 0:
    the floor of the ladder, or the lowest level that leaves the network alive. ``draws`` are the independent samples
    whose mean is Phi, (n_draws, n_groups, n_precisions) in the order of network and ladder; empty where an
    estimator does not sample.
    """

    estimator: str
    value: str
    model_sha256: str
    ladder: tuple[str, ...]
    phi: dict[str, dict[str, float]]
    stderr: dict[str, dict[str, float]]
    floor_value: float
    top_value: float
    n_evaluations: int
    n_permutations: int
    n_samples: int
    seed: int
    base: str | None = None
    draws: tuple[tuple[tuple[float, ...], ...], ...] = ()


@dataclass(frozen=True)
class Scores:
    """Tables of the cheap sensitivity methods, which propose plans beside the contributions.

    ``skipped`` says, by method, why it gives no table for this task.
    """

    tables: tuple[Contributions, ...]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Stability:
    """How much of a plan hangs on the sampling of the contributions.

    ``share`` of ``n_resamples`` bootstrap resamples of the draws gave the same plan from the contributions alone;
    ``certainty`` is the share that gave a group the same precision.
    """

    share: float
    certainty: dict[str, float]
    n_resamples: int


@dataclass(frozen=True)
class Candidate:
    """One assignment of the pool that was truly evaluated, on ``n_samples`` of the search part.

    ``sources`` names the tables (or moves) that proposed it. Standard errors are those of the paired differences from
    the reference.
    """

    assignment: Assignment
    predicted_value: float
    value: float
    stderr: float
    drop_points: float
    drop_stderr_points: float
    latency_ms: float | None
    bitops: float
    size_mb: float
    sources: tuple[str, ...] = ()
    n_samples: int = 0


@dataclass(frozen=True)
class Plan:
    """A solved assignment with predictions, the solver's status and gap, and the pool it was chosen from.

    ``n_evaluations`` is what the race spent, in evaluations of the score batch.
    """

    assignment: Assignment
    budgets: tuple[Budget, ...]
    objective: Literal["value", "latency"]
    status: Literal["optimal", "feasible"]
    gap: float
    predicted_value: float
    predicted_drop_points: float
    predicted_latency_ms: float | None
    bitops: float
    size_mb: float
    candidates: tuple[Candidate, ...]
    ladder: tuple[str, ...]
    model_sha256: str
    seed: int
    stability: Stability | None = None
    n_evaluations: float = 0.0


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


@dataclass(frozen=True, eq=False)
class Cost:
    """A cost the solver adds up: constant + sum_g unary[g, x_g] + sum over pairs (i, j) of table[x_i, x_j].

    ``unary`` is float64 (n_groups, n_precisions); each pair table is (n_precisions, n_precisions).
    Rows follow ``Network.group_names``, columns follow ``Ladder.names``.
    """

    unary: NDArray[np.float64]
    pairs: tuple[tuple[int, int, NDArray[np.float64]], ...] = ()
    constant: float = 0.0

    def __call__(self, choice: NDArray[np.int64]) -> float:
        """Cost of one assignment given as a column index per group."""
        total = self.constant + float(self.unary[np.arange(len(choice)), choice].sum())
        return total + sum(float(table[choice[i], choice[j]]) for i, j, table in self.pairs)
