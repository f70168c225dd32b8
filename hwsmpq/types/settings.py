"""What the user asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from hwsmpq.errors import HwsmpqError
from hwsmpq.types.budget import USUAL_CONFIDENCE
from hwsmpq.types.constraints import Constraints, as_tuple
from hwsmpq.types.precision import Precision

MOST = {
    "seed": 2**31 - 1, "n_score_samples": 10**9, "n_search_samples": 10**9, "n_pairs": 10**6, "n_mixtures": 1000,
    "n_candidates": 10**4, "memory_mb": 2**24, "max_evaluations": 10**9, "search_evaluations": 10**9,
    "batch": 2**16, "threads": 4096, "streams": 4096,
}
"""The largest numbers that are taken for meant. What is derived from a seed must fit 64 bits."""

SAMPLES = 256
"""That score contributions, at first."""
EVALUATIONS, FEW_EVALUATIONS = 360, 180
"""Of a race, on fewer samples than these, and on as many."""

FLEXIBLE_TARGET = "onnx-qdq"
"""The target that takes every precision, and makes no latency claim."""


@dataclass(frozen=True)
class Settings:
    """What a run folder is about: everything that decides its results, except the budgets of one search.

    ``task`` names the task as the command line does. It is empty where the task was given as an object. An empty
    ``ladder`` stands for the target's own, which a run folder remembers.

    ``smooth`` lets calibration smooth the inputs of linear layers. ``correct_bias`` lets biases take back what
    quantization adds to the mean of outputs. ``value`` scores assignments: by default ``soft`` for classification with
    cross-entropy, else ``loss``. ``evaluate`` says what they are run on. ``cost`` is what precisions cost: latency
    where the target is measured, or ``bitops``, with which nothing is timed.

    The search part has at most ``n_search_samples``: by default 1,024 of data that is read as it is needed, and half of
    what is given as tensors. ``n_score_samples`` of them score contributions: 256 by default. ``estimator`` takes
    ``n_pairs`` antithetic pairs of permutations, or as many draws of another kind. ``growing`` takes no more
    evaluations than they would. An estimator stops earlier at ``max_evaluations``, at a relative error of
    ``target_error``, or when fresh draws would give the same plan with a chance of ``stability``. ``base`` is the level
    that contributions start from: by default the lowest that leaves the network alive.

    ``minutes`` is a budget of time for one command. It decides ``estimator``, ``n_pairs``, ``n_score_samples``,
    ``n_mixtures`` and ``search_evaluations`` where they are not given. The best plan so far counts at its end.

    At most ``n_mixtures`` random engines fit the cost model. Engines take ``batch`` samples at once and compute with
    ``threads`` threads an inference, on this machine or on the one where the command ``device`` starts Python. With
    more than one of ``streams``, that many inferences run side by side, and the time of an engine is from one result to
    the next. Of samples of several shapes, engines are timed at ``latency_shape`` (such as ``3x224x224``, and ``24``
    of tokens): their time is the mean over these, in the shares that they have among the calibration samples. By
    default it is the most frequent one.

    ``n_candidates`` plans of every table enter the race. It may spend ``search_evaluations`` of the score batch: 180,
    or 360 of a small one. ``additive`` takes the best plan of the contributions alone, as the paper does.

    A latency budget is held with ``confidence`` in the cost model's prediction. By default the chance is even, and what
    is missed is measured and solved again. A largest drop counts as kept where its bound with ``confidence`` keeps it.
    By default the drop on the samples counts. With ``reconstruct`` every plan's rounding is learned before its engine
    is built. The last fields hold plans to what :class:`hwsmpq.Constraints` says, on top of those of the task.
    """

    task: str = ""
    data: str | None = None
    weights: str | None = None
    target: str = "openvino-cpu"
    ladder: tuple[str, ...] = ()
    observer: str = "mse"
    smooth: bool = True
    correct_bias: bool = True
    rounding: Literal["nearest", "learned"] = "nearest"
    value: str | None = None
    seed: int = 0
    minutes: float | None = None
    evaluate: Literal["simulator", "engine"] = "simulator"
    cost: Literal["latency", "bitops"] | None = None
    estimator: str = "growing"
    base: str | None = None
    n_score_samples: int | None = None
    n_search_samples: int | None = None
    n_pairs: int = 2
    max_evaluations: int | None = None
    target_error: float | None = None
    stability: float | None = None
    n_mixtures: int = 8
    n_candidates: int = 8
    additive: bool = False
    search_evaluations: int | None = None
    timing_seconds: float = 30.0
    batch: int = 1
    threads: int = 1
    streams: int = 1
    latency_shape: tuple[str, ...] = ()
    device: str = ""
    confidence: float | None = None
    reconstruct: bool = False
    memory_mb: int = 1024
    pin: tuple[str, ...] = ()
    at_least: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    max_switches: int | None = None

    @property
    def constraints(self) -> Constraints:
        """What plans are held to."""
        return Constraints(self.pin, self.at_least, self.exclude, self.together, self.max_switches)

    def resolved(self) -> Settings:
        """The same with what follows from the other fields in place of None."""
        n_samples = self.n_score_samples or SAMPLES
        evaluations = FEW_EVALUATIONS if n_samples >= SAMPLES else EVALUATIONS
        given = self.search_evaluations
        return replace(
            self, n_score_samples=n_samples, search_evaluations=evaluations if given is None else given
        )

    @property
    def drop_confidence(self) -> float:
        """What bounds of drops are stated with."""
        return USUAL_CONFIDENCE if self.confidence is None else self.confidence

    def __post_init__(self) -> None:
        for name in ("pin", "at_least", "exclude", "together", "latency_shape"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        _ = self.constraints  # refuses now what it would refuse later
        if self.rounding not in ("nearest", "learned"):
            raise HwsmpqError(f"unknown rounding {self.rounding!r}", fix="take nearest or learned")
        if self.evaluate not in ("simulator", "engine"):
            raise HwsmpqError(f"cannot evaluate by {self.evaluate!r}", fix="take simulator or engine")
        if self.cost not in (None, "latency", "bitops"):
            raise HwsmpqError(f"unknown cost {self.cost!r}", fix="take latency or bitops")
        least = {
            "n_score_samples": 8, "n_search_samples": 8, "n_pairs": 2, "n_mixtures": 0, "n_candidates": 1,
            "memory_mb": 16, "max_evaluations": 1, "search_evaluations": 0, "batch": 1, "threads": 1, "streams": 1,
        }
        for name, most in MOST.items():
            value, minimum = getattr(self, name), least.get(name, 0)
            if value is not None and value < minimum:
                raise HwsmpqError(f"{name} is {value}", f"it must be at least {minimum}", "raise it")
            if value is not None and value > most:
                raise HwsmpqError(f"{name} is {value}", f"it must be at most {most}", "lower it")
        for name in ("minutes", "timing_seconds", "target_error", "stability"):
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or value <= 0):
                raise HwsmpqError(f"{name} is {value}", "it must be a positive number", "raise it")
        if self.stability is not None and self.stability > 1:
            raise HwsmpqError(f"stability is {self.stability}", "it is a chance", "give at most 1")
        if self.confidence is not None and not 0.5 <= self.confidence < 1:
            raise HwsmpqError(f"confidence is {self.confidence}", "it is a probability", "give 0.5 to 0.99")
        if self.base is not None and self.ladder and Precision.parse(self.base).name not in self.ladder:
            raise HwsmpqError(
                f"base {self.base} is not in the ladder", f"the ladder is {', '.join(self.ladder)}", "name one of these"
            )


class Options(TypedDict, total=False):
    """Fields of :class:`Settings` as keywords, except the ladder and what names the task."""

    target: str
    observer: str
    smooth: bool
    correct_bias: bool
    rounding: Literal["nearest", "learned"]
    value: str | None
    seed: int
    minutes: float | None
    evaluate: Literal["simulator", "engine"]
    cost: Literal["latency", "bitops"] | None
    estimator: str
    base: str | None
    n_score_samples: int | None
    n_search_samples: int | None
    n_pairs: int
    max_evaluations: int | None
    target_error: float | None
    stability: float | None
    n_mixtures: int
    n_candidates: int
    additive: bool
    search_evaluations: int | None
    timing_seconds: float
    batch: int
    threads: int
    streams: int
    latency_shape: tuple[str, ...]
    device: str
    reconstruct: bool
    confidence: float | None
    memory_mb: int
    pin: tuple[str, ...]
    at_least: tuple[str, ...]
    exclude: tuple[str, ...]
    together: tuple[str, ...]
    max_switches: int | None
