from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.stop import Stop, relative_error
from hwsmpq.errors import HwsmpqError


def test_something_must_end_the_sampling():
    with pytest.raises(HwsmpqError, match="nothing ends"):
        Stop()


@pytest.mark.parametrize("n_draws", [-1, 0, 1])
def test_fewer_than_two_draws_are_refused(n_draws):
    with pytest.raises(HwsmpqError, match="standard error"):
        Stop(n_draws=n_draws)


@pytest.mark.parametrize("name", ["n_evaluations", "seconds", "error"])
@pytest.mark.parametrize("bad", [0, -1, float("nan")])
def test_criterion_that_cannot_be_reached_is_refused(name, bad):
    with pytest.raises(HwsmpqError, match=f"{name} is {bad}"):
        Stop(**{name: bad})


def test_error_is_relative():
    draws = np.random.default_rng(0).normal(loc=3, size=(8, 5, 3))
    error = draws.std(axis=0, ddof=1) / np.sqrt(8)
    expected = np.sqrt((error**2).mean()) / np.sqrt((draws.mean(axis=0) ** 2).mean())
    assert relative_error(draws) == pytest.approx(expected)
    assert relative_error(1000 * draws) == pytest.approx(expected)
    assert relative_error(np.zeros((4, 2, 2))) == 0
    assert relative_error(np.array([[[0.0, 1.0]], [[0.0, -1.0]]])) == np.inf


@pytest.mark.parametrize(
    ("stop", "n_done", "expected"),
    [
        (Stop(n_draws=5), 0, 5), (Stop(n_draws=5), 5, 0),
        (Stop(n_evaluations=32), 0, 3), (Stop(n_evaluations=31), 0, 2), (Stop(n_evaluations=1), 0, 2),
        (Stop(n_evaluations=32), 3, 0), (Stop(n_evaluations=32, n_draws=2), 0, 2),
        (Stop(seconds=1.0), 0, 2), (Stop(seconds=1.0, n_draws=3), 2, 1), (Stop(error=0.1, n_evaluations=32), 2, 1),
    ],
)
def test_next_round(stop, n_done, expected):
    assert stop.n_next(n_done, n_requested=2 + 10 * n_done, n_per_draw=10) == expected
