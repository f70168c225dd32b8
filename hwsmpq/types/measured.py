"""What was measured on network and target: ranges, costs and contributions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hwsmpq.device.measurement import Measurement
from hwsmpq.types.network import Layer
from hwsmpq.types.precision import Assignment, Precision

Drawn = Literal["permutations", "permutations and batches", "coalitions", "samples", "probes"]
"""What a method that samples draws; probes are random vectors that a curvature is taken along."""


@dataclass(frozen=True)
class TensorRange:
    """Activation range of one layer's input: raw extremes, and the chosen clip per bit-width.

    ``smooth`` holds one factor an input channel, or is empty. The layer reads its input divided by them and its weight
    multiplied by them (SmoothQuant, AWQ); extremes and clips are those of the quotient.
    """

    minimum: float
    maximum: float
    clip: dict[int, tuple[float, float]]
    smooth: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ranges:
    """Calibrated activation ranges, one a layer; ``operands`` holds those of the second operands of products.

    ``smoothed`` holds those that replace them in some precisions, where inputs are smoothed or steps learned: by
    precision and name of the input tensor. ``weight_scales`` holds learned scales of integer weights, one an output
    channel or block, by bits and name of the weight; where there are none, the scheme takes them from the weight.
    ``shifts`` is what quantization adds to the mean of every output channel, by precision and layer: the layer's bias
    is lower by it. ``roundings`` says which entries of an integer weight are rounded up (the others down), by precision
    and name of the weight: base64 of their bits; where there are none, they are rounded to nearest.
    """

    model_sha256: str
    data_sha256: str
    scheme: str
    observer: str
    n_samples: int
    layers: dict[str, TensorRange]
    smoothed: dict[str, dict[str, TensorRange]] = field(default_factory=dict)
    weight_scales: dict[int, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    shifts: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    operands: dict[str, TensorRange] = field(default_factory=dict)
    roundings: dict[str, dict[str, str]] = field(default_factory=dict)

    def of(self, layer: Layer, precision: Precision) -> TensorRange:
        """The range of a layer's input as it is read in one precision."""
        return self.smoothed.get(precision.name, {}).get(layer.input_tensor) or self.layers[layer.name]


@dataclass(frozen=True)
class EngineTiming:
    """A built mixture, what it measured, and what the reference takes in the session that both are stated for."""

    assignment: Assignment
    measured: Measurement
    reference: Measurement


@dataclass(frozen=True)
class CostTable:
    """What was measured of a target for one network; :mod:`hwsmpq.hardware.cost_model` predicts from it.

    ``group_ms`` holds per-layer counters summed over a group, in the uniform engine of a precision, ``uniform_ms`` the
    whole uniform engines, and ``engines`` mixtures of precisions. ``noise`` is the relative error of whole engines, and
    ``conditions`` the state of the device (clocks, power) when they were timed. ``architecture`` is the hash of the
    network without its weights, which latency does not depend on. A table without latency (``group_ms`` empty) makes no
    latency claim. ``runtime_default`` is what the runtime makes of the network by itself, where it computes that
    otherwise than the reference, and ``peak_mb`` the memory of the uniform engines, where it is measured.
    """

    target: str
    machine: dict[str, str]
    model_sha256: str
    ladder: tuple[str, ...]
    group_ms: dict[str, dict[str, float]]
    uniform_ms: dict[str, Measurement]
    engines: tuple[EngineTiming, ...] = ()
    noise: float = 0.0
    architecture: str = ""
    conditions: dict[str, str] = field(default_factory=dict)
    runtime_default: Measurement | None = None
    peak_mb: dict[str, float] = field(default_factory=dict)

    @property
    def has_latency(self) -> bool:
        return bool(self.group_ms)

    @property
    def top_ms(self) -> float:
        """Latency of the uniform engine of the ladder's top, in ms."""
        return self.uniform_ms[self.ladder[-1]].median_ms


@dataclass(frozen=True)
class Contributions:
    """Phi[group, precision] with standard errors, over one fixed batch.

    ``floor_value`` is the value with every group at ``base``, the level that backgrounds rest at, where Phi is 0:
    the floor of the ladder, or the lowest level that leaves the network alive. What was never measured is not in
    ``phi``: no optimal plan can contain it. ``n_samples`` are those of the first batch.

    ``draws`` are the independent samples whose mean is Phi, (n_draws, n_groups, n_precisions) in the order of network
    and ladder; empty where an estimator does not sample, and None where a draw left a precision of a group out.
    ``drawn`` says what a draw is: standard errors hold the noise of that choice and no other (of permutations: not that
    of the batch). It is None where nothing was drawn, or an earlier version did not say.
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
    draws: tuple[tuple[tuple[float | None, ...], ...], ...] = ()
    drawn: Drawn | None = None

    @property
    def start(self) -> str:
        """The precision that contributions start from: the base, which older files leave to be the floor."""
        return self.base or self.ladder[0]


@dataclass(frozen=True)
class Scores:
    """Tables of the cheap sensitivity methods, which propose plans beside the contributions.

    ``skipped`` says, by method, why it gives no table for this task.
    """

    tables: tuple[Contributions, ...]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Interactions:
    """What two groups at ``low`` lose together beyond what each of them loses alone.

    ``pairs`` holds (group, group, v(both low) - v(first low) - v(second low) + v(both high)), negative where both
    together lose more, of the second-order surrogate that the search fitted on ``n_evaluations``: the pairs it keeps,
    strongest first. Empty where cross-validation says that the contributions alone predict as well.
    """

    model_sha256: str
    value: str
    low: str
    high: str
    n_evaluations: int
    pairs: tuple[tuple[str, str, float], ...]
