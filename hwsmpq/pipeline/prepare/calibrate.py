"""The network of a run, and the activation ranges of its layers."""

from __future__ import annotations

import shutil

from hwsmpq import artifacts
from hwsmpq.artifacts import digest
from hwsmpq.pipeline.prepare.prepared import Prepared
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.quantize.ranges import calibrate as take_ranges
from hwsmpq.types import Network, Ranges, Reconstruction

LEARNING = "rounding"
"""Folder of what an interrupted learning of rounding goes on from."""

N_ITERATIONS = 100
"""A block, for every precision: fewer than for a plan, which is reconstructed once more when it is built."""


def mismatch(run: Run, ranges: Ranges) -> str | None:
    """Why ranges cannot serve a run; None where they can."""
    if ranges.model_sha256 != run.network.model_sha256:
        return "they are of another network, or of other weights"
    if ranges.scheme != run.scheme.name:
        return f"they are for the scheme {ranges.scheme}, target {run.target.name} has {run.scheme.name}"
    if others := set(run.network.products) - ranges.operands.keys():
        return f"they lack products of activations, such as {min(others)}"
    missing = sorted({bits for one in ranges.layers.values() for bits in set(run.integer_bits) - one.clip.keys()})
    return f"they lack {', '.join(map(str, missing))} bits" if missing else None


@holding
def inspect(run: Run) -> Network:
    """Layers, groups, MACs and parameters of the network."""
    return run.network


@holding
def calibrate(run: Run) -> Ranges:
    """Activation ranges of every layer from the calibration samples, or those that were imported."""
    imported = run.artifacts.made_from(Ranges).keys() == {artifacts.IMPORTED}
    if imported:
        ranges = run.read(Ranges)
        reason = mismatch(run, ranges)
        if reason is None:
            return ranges
        run.notify(f"the imported ranges do not fit any more ({reason}): ranges are taken from the calibration samples")
    return run.stage(Ranges, lambda: _taken(run))


def _taken(run: Run) -> Ranges:
    """From the calibration samples, with rounding by precision where it is to be learned."""
    ranges = take_ranges(
        run.captured, run.task.calibration, run.scheme, run.integer_bits, run.settings.observer, smooth=run.smoothed,
        correct=run.corrected, progress=lambda done, n: run.progress("calibrate", done, n),
    )
    if run.settings.rounding == "nearest":
        return ranges
    from hwsmpq.train.by_precision import learn_by_precision

    folder = run.path(Ranges).parent / LEARNING
    learned = learn_by_precision(
        run.captured, ranges, run.scheme, run.task.calibration, run.ladder.precisions,
        Reconstruction(N_ITERATIONS, seed=run.settings.seed), folder, digest(run.inputs(Ranges)),
        lambda done, n: run.progress("rounding", done, n),
    )
    shutil.rmtree(folder, ignore_errors=True)  # there is none where nothing is in integers
    return learned


def calibrated(run: Run) -> Prepared:
    """What is known of the network before any engine is built."""
    return Prepared(run, run.captured, calibrate(run), run.simulator, run.builder)
