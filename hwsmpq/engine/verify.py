"""Measure what was built: latency in one interleaved run, accuracy on the report part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hwsmpq.device.runtime import Engine
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.metrics import SetMetric
from hwsmpq.model.outputs import pack
from hwsmpq.model.parts import Samples, Streamed
from hwsmpq.model.shapes import chunks
from hwsmpq.model.task import Metric, Task
from hwsmpq.model.values import outputs_kl, per_sample
from hwsmpq.search.paired import N_RESAMPLES, drop, resampled_drop
from hwsmpq.types import USUAL_CONFIDENCE, AccuracyOutcome, Bound

AT_ONCE = 1024
"""Samples whose targets are looked at together, where these are read as they are needed."""


def engine_outputs(
    engine: Engine, inputs: tuple[Tensor, ...], batch: int = 1, progress: Callable[[int, int], None] | None = None
) -> Tensor:
    """What an engine gives, as one tensor (see :mod:`hwsmpq.model.outputs`); arguments as of :func:`engine_tensors`."""
    return pack(engine_tensors(engine, inputs, batch, progress))


def engine_tensors(
    engine: Engine, inputs: tuple[Tensor, ...], batch: int = 1, progress: Callable[[int, int], None] | None = None
) -> list[Tensor]:
    """Outputs of an engine that takes ``batch`` samples for every row of ``inputs``, (n, ...) each. What is missing in
    the last batch of a shape is filled with its first rows, whose outputs are left out."""
    # Written into one tensor: small ones that stay, between large ones that go, leave holes that nothing fits into.
    found, n = list[Tensor](), len(inputs[0])
    n_done = 0
    for rows, some in chunks(inputs, batch):
        n_here = len(some[0])
        index = np.arange(batch) % n_here
        given = [(x if n_here == batch else x[index]).numpy() for x in some]
        outputs = [torch.from_numpy(np.array(output)) for output in engine.infer(given)]
        found = found or [output.new_empty((n, *output.shape[1:])) for output in outputs]
        for whole, output in zip(found, outputs, strict=True):
            whole[rows] = output[:n_here]
        n_done += n_here
        if progress:
            progress(n_done, n)
    return found


def compare(
    task: Task, samples: Samples, reference: Tensor, outputs: Tensor, source: str,
    confidence: float = USUAL_CONFIDENCE,
) -> AccuracyOutcome:
    """Metric of outputs against the reference's on the same samples, with the paired standard error, and what the drop
    lies below with ``confidence``."""
    scores = [_scores(task, samples, x) for x in (reference, outputs)]
    if isinstance(task.metric, SetMetric):
        lost = resampled_drop(*scores, task.metric.value, confidence)
        means = [task.metric.value(one) for one in scores]
    else:
        lost, means = drop(*scores, confidence), [float(one.mean()) for one in scores]
    kl = outputs_kl(task, reference, outputs).mean().item() if task.is_classification else None
    return AccuracyOutcome(
        reference=means[0],
        engine=means[1],
        n_samples=len(samples),
        paired_stderr=lost.stderr / 100,
        kl=kl,
        is_classification=task.is_classification,
        source="engine" if source == "engine" else "simulator",
        drop_bound=Bound(lost.bound, confidence),
        n_resamples=N_RESAMPLES if isinstance(task.metric, SetMetric) else 0,
        metric=task.metric_name,
        is_error=task.is_error,
    )


def mean_loss(task: Task, samples: Samples, outputs: Tensor) -> float:
    """Mean of the task's loss."""
    return float(_judged(task.loss, samples, outputs, "loss").mean())


def _scores(task: Task, samples: Samples, outputs: Tensor) -> NDArray[np.float64]:
    if not bool(torch.isfinite(outputs).all()):
        raise HwsmpqError(
            "the engine gives NaN or infinity", "it cannot be certified",
            "raise the floor of the ladder and search again",
        )
    return _judged(task.metric, samples, outputs, "metric").double().numpy()


def _judged(function: Metric, samples: Samples, outputs: Tensor, role: str) -> Tensor:
    """What a function gives for every sample, or what a metric over a set needs of it. Targets that are read are there
    a few at a time."""
    n = len(samples)
    step = AT_ONCE if isinstance(samples, Streamed) else n
    parts = []
    for start in range(0, n, step):
        these, targets = outputs[start : start + step], samples.targets[start : start + step]
        over_set = isinstance(function, SetMetric)
        parts.append(function.reduce(these, targets) if over_set else per_sample(function, these, targets, role))
    return torch.cat(parts)
