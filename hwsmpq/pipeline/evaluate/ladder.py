"""Propose a ladder: a quick sweep of uniform weight and activation bits shows which side a network is sensitive on.

Networks differ in that: measured, MiniLM breaks with activations below 8 bits and hardly minds 4-bit weights, and
EfficientNet-Lite0 breaks with weights below 6 bits. So both sides are swept on their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.evaluate.floor import LEAST_SHARE, shares_kept
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.prepare.calibrate import calibrated
from hwsmpq.pipeline.run import Run, holding
from hwsmpq.search.paired import paired_stderr
from hwsmpq.types import REFERENCE, Precision, Sweep, SweepPoint

BITS = (2, 3, 4, 5, 6, 8)
N_RUNGS = 5
"""Precisions of a proposed ladder, at most, besides fp32."""
Z_LOSES = 2.0
"""Standard errors from which on the loss of uniform int8 is taken for real, and fp32 joins the ladder."""


def swept(native: tuple[str, ...]) -> tuple[str, ...]:
    """What is swept, as a ladder: every width of one side with 8 bits on the other.

    Raises:
        HwsmpqError: the target has no choice of bits.
    """
    names = dict.fromkeys(Precision.integer(b, 8).name for b in BITS)
    names |= dict.fromkeys(Precision.integer(8, b).name for b in BITS)
    missing = [name for name in names if name not in native]
    if missing:
        raise HwsmpqError(
            "there are no bits to choose", f"the target has no {missing[0]}",
            "take --target onnx-qdq to see what bits a network needs, whatever runs them",
        )
    return tuple(names)


@holding
def sweep(run: Run) -> Sweep:
    """Evaluate the uniform networks of a run whose ladder is :func:`swept`, and propose a ladder from them."""
    prepared = calibrated(run)
    batch = run.score_batch
    game = evaluation_game(prepared, batch, lambda done, n: run.progress("ladder: evaluate", done, n))
    names = run.ladder.names
    shares, _, _ = shares_kept(prepared, batch, game)
    rows = game.samples_of([prepared.network.uniform(name) for name in (*names, REFERENCE)]).astype(np.float64)
    values, metrics = np.split(rows, 2, axis=1)
    lost = 100 * (metrics[-1] - metrics[:-1])
    points = {
        name: SweepPoint(float(value.mean()), float(drop.mean()), paired_stderr(drop), bool(share >= LEAST_SHARE))
        for name, value, drop, share in zip(names, values, lost, shares, strict=False)
    }
    return Sweep(
        target=run.target.name, model_sha256=prepared.network.model_sha256, value=run.value,
        reference_value=float(values[-1].mean()), n_samples=len(batch), points=points, ladder=propose(points),
    )


def propose(points: Mapping[str, SweepPoint]) -> tuple[str, ...]:
    """The ladder, floor first: from the fewest bits that leave the network alive on either side to 8 bits on both, by
    raising the side that loses more value at its bits; fp32 on top where int8 surely loses.

    Raises:
        HwsmpqError: not even 8 bits leave the network alive.
    """
    if not points["int8"].alive:
        raise HwsmpqError(
            "8 bits destroy the network", f"it loses {points['int8'].drop_points:.1f} points of the metric",
            "check the calibration samples, or search with --ladder int8,fp32",
        )
    bits = {side: [b for b in BITS if points[_name(side, b)].alive] for side in ("weight", "activation")}
    # What lies below a dead width is no rung, even if noise calls it alive.
    for side, alive in bits.items():
        dead = [b for b in BITS if b not in alive]
        bits[side] = [b for b in alive if not dead or b > max(dead)]
    at = {side: 0 for side in bits}
    rungs = []
    while True:
        now = {side: bits[side][at[side]] for side in bits}
        rungs.append(Precision.integer(now["weight"], now["activation"]).name)
        able = [side for side in bits if at[side] + 1 < len(bits[side])]
        if not able:
            break
        at[min(able, key=lambda side: points[_name(side, now[side])].value)] += 1
    chosen = np.unique(np.linspace(0, len(rungs) - 1, N_RUNGS).round().astype(int))
    top = points["int8"]
    loses = top.drop_points > Z_LOSES * top.drop_stderr_points
    return (*(rungs[i] for i in chosen), *((REFERENCE,) if loses or len(chosen) == 1 else ()))


def _name(side: str, bits: int) -> str:
    return Precision.integer(*((bits, 8) if side == "weight" else (8, bits))).name
