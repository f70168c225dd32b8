"""What a paired comparison on samples says of the mean on unseen ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, gammaln, stdtrit, xlog1py, xlogy

NEGLIGIBLE = 1e-12
"""Probability of counts that are left out of a sum."""


@dataclass(frozen=True)
class Drop:
    """Points (hundredths) of a metric that are lost: in the mean, its standard error, and what the mean on unseen
    samples lies below with a confidence."""

    points: float
    stderr: float
    bound: float


def drop(reference: NDArray[np.float64], metric: NDArray[np.float64], confidence: float) -> Drop:
    """What ``metric`` (n,) loses against ``reference`` (n,) on the same samples.

    The bound is one-sided. For a metric of two values (right or wrong) it is exact where no sample gained (Clopper &
    Pearson, 1934), also where none changed; else the nuisance share of samples that gain is estimated (Lloyd, 2008).
    For other metrics it is Student's; where no sample changed, each may lose the whole range of the metric, taken to be
    1 or more.
    """
    lost = reference - metric
    seen = np.unique(np.concatenate([reference, metric]))
    span = float(seen[-1] - seen[0]) if len(seen) > 1 else max(1.0, abs(float(seen[0])))
    stderr = paired_stderr(lost)
    if len(seen) <= 2:
        bound = span * _largest_loss(int((lost > 0).sum()), int((lost < 0).sum()), len(lost), confidence)
    elif not lost.any():
        bound = max(1.0, span) * _largest_loss(0, 0, len(lost), confidence)
    else:
        bound = float(lost.mean() + stdtrit(len(lost) - 1, confidence) * stderr)
    return Drop(100 * float(lost.mean()), 100 * stderr, 100 * bound)


N_RESAMPLES = 400
"""Sets that are drawn of the samples, with replacement."""


def resampled_drop(
    reference: NDArray[np.float64], metric: NDArray[np.float64], value: Callable[[NDArray[np.float64]], float],
    confidence: float, seed: int = 0,
) -> Drop:
    """What a metric over a set of samples loses, by the bootstrap over samples (Efron, 1979).

    Both are computed of the same resamples, so that the error is a paired one; the bound is the percentile of their
    differences. Where no resample differs, each sample may lose a whole 1 (see :func:`drop`).

    Args:
        reference, metric: what the metric needs of every sample, (n, k) each.
        value: the metric of such samples.
    """
    n, rng = len(reference), np.random.default_rng(seed)
    draws = (rng.integers(n, size=n) for _ in range(N_RESAMPLES))
    lost = np.array([value(reference[rows]) - value(metric[rows]) for rows in draws])
    points = value(reference) - value(metric)
    bound = float(np.quantile(lost, confidence)) if lost.any() else _largest_loss(0, 0, n, confidence)
    return Drop(100 * points, 100 * float(lost.std(ddof=1)), 100 * max(bound, points))


def paired_stderr(difference: NDArray[np.float64]) -> float:
    """Standard error of the mean of per-sample differences."""
    return float(difference.std(ddof=1) / np.sqrt(len(difference)))


def _largest_loss(n_worse: int, n_better: int, n: int, confidence: float) -> float:
    """The largest difference of the shares of samples that get worse and better under which so few more got worse than
    better has a chance of ``1 - confidence``."""
    from scipy.optimize import brentq  # takes a third of a second, which others need not wait for

    def chance(difference: float) -> float:
        better = _share_better(n_worse, n_better, n, difference)
        worse = min(1.0, better + difference)
        at_most, counts = n_worse - n_better, np.array([0])
        if better > 0:
            # Counts farther from their mean are less likely than NEGLIGIBLE (Bernstein's inequality).
            rare = -np.log(NEGLIGIBLE / 2)
            reach = rare / 3 + np.sqrt(rare**2 / 9 + 2 * rare * n * better * (1 - better))
            counts = np.arange(max(0, int(n * better - reach)), min(n, int(n * better + reach) + 1) + 1)
        share = min(1.0, worse / (1 - better)) if better < 1 else 0.0
        return float(_binomial(counts, n, better) @ _at_most(at_most + counts, n - counts, share))

    observed = (n_worse - n_better) / n
    if observed == 1:
        return 1.0
    return float(brentq(lambda difference: chance(difference) - (1 - confidence), observed, 1.0, xtol=1e-9))


def _binomial(k: NDArray[np.int64], n: int, share: float) -> NDArray[np.float64]:
    """Chance of ``k`` of ``n``. (``scipy.stats`` takes half a second to import.)"""
    ways = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.asarray(np.exp(ways + xlogy(k, share) + xlog1py(n - k, -share)))


def _at_most(k: NDArray[np.int64], n: NDArray[np.int64], share: float) -> NDArray[np.float64]:
    """Chance of ``k`` or fewer of ``n``, 0 where ``k`` is negative."""
    return np.where(k < 0, 0.0, bdtr(np.clip(k, 0, n).astype(float), n, share))


def _share_better(n_worse: int, n_better: int, n: int, difference: float) -> float:
    """The likeliest share of samples that get better, given how much larger the share is that gets worse (Tango, 1998,
    "Equivalence test and confidence interval for the difference in proportions for the paired-sample design")."""
    b = (2 * n - n_worse + n_better) * difference - n_worse - n_better
    c = -n_better * difference * (1 - difference)
    root = (np.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    return float(np.clip(root, max(0.0, -difference), (1 - difference) / 2))
