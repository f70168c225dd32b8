from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hwsmpq.contribution.memo import Memo
from hwsmpq.contribution.memoized import MAX_ROWS, MIN_ROWS, MemoizedGame, assignment_key, cut

SAMPLES = np.random.default_rng(0).normal(size=(2, 2, 5))
NAMES = ["int8", "fp32"]


def rows(task):
    return np.array([SAMPLES[NAMES.index(a["g"]), NAMES.index(a["h"])] for a in task])


class Recorder:
    """An executor that finishes its tasks in reverse and keeps what it was asked."""

    def __init__(self):
        self.requests: list[list[list[dict[str, str]]]] = []

    def __call__(self, tasks):
        self.requests.append(list(tasks))
        for index in reversed(range(len(tasks))):
            yield index, rows(tasks[index])

    @property
    def asked(self):
        return [[a for task in tasks for a in task] for tasks in self.requests]


@pytest.fixture
def memo(tmp_path):
    return Memo(tmp_path / "memo.sqlite")


def make(memo, context="context", execute=None):
    recorder = execute or Recorder()
    return MemoizedGame(recorder, memo, context, dict.fromkeys(("g", "h"), NAMES)), recorder


def test_evaluates_each_missing_assignment_once_in_order(memo):
    game, recorder = make(memo)
    game(np.array([[0, 1]]))
    found = game.samples(np.array([[1, 1], [0, 1], [0, 0], [1, 1]]))
    assert recorder.asked == [[{"g": "int8", "h": "fp32"}], [{"g": "fp32", "h": "fp32"}, {"g": "int8", "h": "int8"}]]
    assert len(recorder.requests[1]) == 2  # they differ in both groups
    assert game.n_evaluations == 3 == memo.count()
    expected = SAMPLES.astype(np.float32)
    np.testing.assert_array_equal(found, [expected[1, 1], expected[0, 1], expected[0, 0], expected[1, 1]])


def test_value_is_the_mean_and_the_same_fresh_or_stored(memo):
    levels = np.array([[0, 1], [1, 0]])
    fresh = make(memo)[0](levels)
    game, recorder = make(memo)
    np.testing.assert_array_equal(game(levels), fresh)
    assert recorder.requests == [] and game.n_evaluations == 0
    np.testing.assert_allclose(fresh, [SAMPLES[0, 1].mean(), SAMPLES[1, 0].mean()], rtol=1e-6)


def test_another_context_is_measured_again(memo):
    make(memo, "one")[0](np.array([[0, 0]]))
    game, _ = make(memo, "two")
    game(np.array([[0, 0]]))
    assert game.n_evaluations == 1


def test_precisions_outside_the_game_are_stored_too(memo):
    def constant(tasks):
        yield from ((index, np.ones((len(task), 5))) for index, task in enumerate(tasks))

    outside = {"g": "bf16", "h": "bf16"}
    np.testing.assert_array_equal(make(memo, execute=constant)[0].samples_of([outside]), np.ones((1, 5)))
    game, recorder = make(memo)
    game.samples_of([outside])
    assert recorder.requests == []


def test_finished_tasks_survive_an_interrupt(memo):
    def interrupted(tasks):
        yield 1, rows(tasks[1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(memo, execute=interrupted)[0](np.array([[0, 0], [1, 1]]))
    assert memo.count() == 1
    game, recorder = make(memo)
    game(np.array([[0, 0], [1, 1]]))
    assert recorder.asked == [[{"g": "int8", "h": "int8"}]] and game.n_evaluations == 1


def test_a_task_that_arrives_twice_counts_once(memo):
    def twice(tasks):
        yield 0, rows(tasks[0])
        yield 0, rows(tasks[0])

    game, _ = make(memo, execute=twice)
    game(np.array([[0, 0], [0, 1]]))
    assert game.n_evaluations == 2 == memo.count()


def test_executor_that_returns_too_few_rows_or_tasks_is_caught(memo):
    short, _ = make(memo, execute=lambda tasks: iter([(0, rows(tasks[0])[:0])]))
    with pytest.raises(ValueError, match="shorter"):
        short(np.array([[0, 0]]))
    lazy, _ = make(memo, execute=lambda tasks: iter([(0, rows(tasks[0]))]))
    with pytest.raises(ValueError, match="without 1 assignments"):
        lazy(np.array([[0, 0], [1, 1]]))


def test_key_depends_on_the_assignment_not_on_its_order():
    key = assignment_key({"g": "int8", "h": "fp32"})
    assert key == assignment_key({"h": "fp32", "g": "int8"})
    assert key != assignment_key({"g": "fp32", "h": "int8"})
    assert assignment_key({"a;b": "c"}) != assignment_key({"a": "b;c"})


def walk(n_groups: int, seed: int = 0) -> list[dict[str, str]]:
    """All-int8 excluded, one group after another rises to fp32 in a random order."""
    current = {str(g): "int8" for g in range(n_groups)}
    found = []
    for group in np.random.default_rng(seed).permutation(n_groups):
        current = {**current, str(group): "fp32"}
        found.append(current)
    return found


def changes(task) -> list[int]:
    return [sum(x[g] != y[g] for g in x) for x, y in pairwise(task)]


@pytest.mark.parametrize("n_workers", [1, 2, 7, 100])
@pytest.mark.parametrize("n_groups", [1, 5, 20, 64, 65, 150])
@pytest.mark.parametrize("n_walks", [1, 4])
def test_tasks_hold_all_in_order_and_none_is_too_large(n_workers, n_groups, n_walks):
    assignments = [a for seed in range(n_walks) for a in walk(n_groups, seed)]
    tasks = cut(assignments, n_workers)
    assert [a for task in tasks for a in task] == assignments
    assert min(map(len, tasks)) > 0 and max(map(len, tasks)) <= MAX_ROWS
    assert len(tasks) >= min(n_workers, len(assignments) // (2 * MIN_ROWS))


def test_walks_are_kept_whole_where_there_are_enough():
    walks = [walk(20, seed) for seed in range(16)]
    assert cut([a for w in walks for a in w], n_workers=2) == [
        walks[i] + walks[i + 1] for i in range(0, 16, 2)
    ]
    assert all(len(task) == 20 and set(changes(task)) == {1} for task in cut([a for w in walks for a in w], 4))


def test_unrelated_assignments_are_spread():
    unrelated = [{"g": str(i), "h": str(i)} for i in range(24)]
    assert [len(task) for task in cut(unrelated, 2)] == [3] * 8
    assert cut([], 2) == []


def test_players_may_run_other_precisions_at_a_level(memo):
    """The game is played on what runs: levels of a player that run alike are one assignment."""
    recorder = Recorder()
    game = MemoizedGame(recorder, memo, "context", {"g": ("int8", "fp32"), "h": ("fp32", "fp32")})
    values = game(np.array([[0, 0], [0, 1], [1, 1]]))
    assert values[0] == values[1] and game.n_evaluations == 2
    assert recorder.asked == [[{"g": "int8", "h": "fp32"}, {"g": "fp32", "h": "fp32"}]]
