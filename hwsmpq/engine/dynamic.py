"""The engine that takes any number of samples at once, beside the certified one.

The certified engine takes a fixed number: sizes that are known let runtimes choose better kernels.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hwsmpq.engine.agree import agreement, may_halve
from hwsmpq.engine.build import Builder
from hwsmpq.engine.verify import engine_outputs
from hwsmpq.errors import HwsmpqError, MachineError
from hwsmpq.hardware.target import Target
from hwsmpq.model.agreement import relative_error
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import DynamicBatch, Manifest

DYNAMIC = "dynamic_batch"
"""Its folder, in that of the certified engine."""
BATCHES = (1, 2, 5, 8, 16)
"""Numbers of samples that it is checked with: as many in all as the certified engine is."""


def with_dynamic_batch(
    manifest: Manifest, builder: Builder, simulator: Simulator, inputs: tuple[Tensor, ...], folder: Path
) -> Manifest:
    """Build the engine of any batch size beside that of a manifest, and check it: every layer runs as requested, or as
    in the certified engine, and where the target runs engines, outputs for several batch sizes are as simulated.

    Args:
        manifest: of the engine in ``folder``.
        inputs: samples to take outputs of, at least one.

    Returns:
        The manifest with the new files, or with the reason why there are none: the network or its target allow no such
        engine, or it computes something else.
    """
    try:
        dynamic = builder.of_any_batch().deliver(manifest.assignment, folder / DYNAMIC)
        why_not, checked = _other_layer(manifest, dynamic), DynamicBatch()
        if not why_not and builder.target.has_latency:
            checked = _compared(builder.target, manifest, simulator, inputs, folder)
            why_not = checked.agreement.said if checked.agreement and not checked.agreement.agrees else ""
    except MachineError:
        raise
    except HwsmpqError as error:
        why_not = f"{error.what} ({error.why})"
    if why_not:
        shutil.rmtree(folder / DYNAMIC, ignore_errors=True)
        return replace(manifest, dynamic_batch=DynamicBatch(why_not=" ".join(why_not.split())))
    files = {f"{DYNAMIC}/{name}": sha256 for name, sha256 in dynamic.files.items()}
    return replace(manifest, files=manifest.files | files, dynamic_batch=checked)


def _other_layer(static: Manifest, dynamic: Manifest) -> str:
    """The first layer that runs otherwise, in words; empty where there is none."""
    for a, b in zip(static.layers, dynamic.layers, strict=True):
        if b.found != a.found and not b.as_requested:
            return f"{a.layer} would run in {b.found}, not {a.found}"
    return ""


def _compared(
    target: Target, manifest: Manifest, simulator: Simulator, inputs: tuple[Tensor, ...], folder: Path
) -> DynamicBatch:
    """Its outputs against the simulated ones, with the limit of the certified engine, and against that engine's."""
    index = np.arange(sum(BATCHES)) % len(inputs[0])
    rows = tuple(x[index] for x in inputs)
    engine = target.load(folder / DYNAMIC)
    ends = np.cumsum(BATCHES)
    found = torch.cat([
        engine_outputs(engine, tuple(x[end - n : end] for x in rows), n) for end, n in zip(ends, BATCHES, strict=True)
    ])
    certified = engine_outputs(target.load(folder), rows, manifest.batch)
    return DynamicBatch(
        BATCHES, agreement(simulator, manifest.assignment, rows, found, halves=may_halve(target, manifest.assignment)),
        relative_error(*([tensor for _, tensor in simulator.form.floats(x)] for x in (certified, found))),
    )
