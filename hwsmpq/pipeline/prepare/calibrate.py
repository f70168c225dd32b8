"""The network of a run, and the activation ranges of its layers."""

from __future__ import annotations

from hwsmpq.pipeline.run import Run, holding
from hwsmpq.quantize.ranges import calibrate as take_ranges
from hwsmpq.types import Network, Ranges


@holding
def inspect(run: Run) -> Network:
    """Layers, groups, MACs and parameters of the network."""
    return run.network


@holding
def calibrate(run: Run) -> Ranges:
    """Activation ranges of every layer from the calibration samples."""
    return run.stage(
        Ranges,
        lambda: take_ranges(
            run.captured, run.task.calibration, run.scheme, run.integer_bits, run.settings.observer,
            smooth=run.smoothed, correct=run.corrected,
            progress=lambda done, n: run.progress("calibrate", done, n),
        ),
    )
