from __future__ import annotations

import numpy as np
import pytest

from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import MemoizedGame, assignment_key

SAMPLES = np.random.default_rng(0).normal(size=(2, 2, 5))


class Recorder:
    """Evaluates into an array and keeps what it was asked."""

    def __init__(self):
        self.calls: list[list[dict[str, str]]] = []

    def __call__(self, assignments):
        self.calls.append(assignments)
        names = ["int8", "fp32"]
        return np.array([SAMPLES[names.index(a["g"]), names.index(a["h"])] for a in assignments])


@pytest.fixture
def memo(tmp_path):
    return Memo(tmp_path / "memo.sqlite")


def make(memo, context="context"):
    recorder = Recorder()
    return MemoizedGame(recorder, memo, context, ["g", "h"], ["int8", "fp32"]), recorder


def test_evaluates_each_missing_assignment_once_in_order(memo):
    game, recorder = make(memo)
    game(np.array([[0, 1]]))
    found = game.samples(np.array([[1, 1], [0, 1], [0, 0], [1, 1]]))
    assert recorder.calls == [[{"g": "int8", "h": "fp32"}], [{"g": "fp32", "h": "fp32"}, {"g": "int8", "h": "int8"}]]
    assert game.n_evaluations == 3 == memo.count()
    expected = SAMPLES.astype(np.float32)
    np.testing.assert_array_equal(found, [expected[1, 1], expected[0, 1], expected[0, 0], expected[1, 1]])


def test_value_is_the_mean_and_the_same_fresh_or_stored(memo):
    levels = np.array([[0, 1], [1, 0]])
    fresh = make(memo)[0](levels)
    game, recorder = make(memo)
    np.testing.assert_array_equal(game(levels), fresh)
    assert recorder.calls == [] and game.n_evaluations == 0
    np.testing.assert_allclose(fresh, [SAMPLES[0, 1].mean(), SAMPLES[1, 0].mean()], rtol=1e-6)


def test_another_context_is_measured_again(memo):
    make(memo, "one")[0](np.array([[0, 0]]))
    game, _ = make(memo, "two")
    game(np.array([[0, 0]]))
    assert game.n_evaluations == 1


def test_evaluator_that_returns_too_few_is_caught(memo):
    game = MemoizedGame(lambda assignments: SAMPLES[0, :1], memo, "context", ["g", "h"], ["int8", "fp32"])
    with pytest.raises(ValueError, match="shorter"):
        game(np.array([[0, 0], [1, 1]]))


def test_key_depends_on_the_assignment_not_on_its_order():
    key = assignment_key({"g": "int8", "h": "fp32"})
    assert key == assignment_key({"h": "fp32", "g": "int8"})
    assert key != assignment_key({"g": "fp32", "h": "int8"})
    assert assignment_key({"a;b": "c"}) != assignment_key({"a": "b;c"})
