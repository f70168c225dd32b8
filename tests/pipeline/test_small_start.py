"""What contributions start with: every group alone at both ends, on few samples, with an error over these."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import TASK_FILE
from tiny_task import task

from hwsmpq.contribution.blocks import N_BLOCKS
from hwsmpq.pipeline.evaluate.contribute import contribute, observed
from hwsmpq.pipeline.evaluate.game import evaluation_game
from hwsmpq.pipeline.prepare.survey import prepare
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Settings


def test_a_race_on_few_samples_takes_more_evaluations() -> None:
    few, plain = Settings(n_score_samples=64).resolved(), Settings().resolved()
    assert (few.n_score_samples, few.search_evaluations) == (64, 360)
    assert (plain.estimator, plain.n_score_samples, plain.search_evaluations) == ("growing", 256, 180)
    given = Settings(n_score_samples=32, search_evaluations=0).resolved()
    assert (given.n_score_samples, given.search_evaluations) == (32, 0)
    assert plain.resolved() == plain and few.resolved() == few


def test_errors_are_those_of_the_samples(tmp_path: Path) -> None:
    settings = Settings(
        task=TASK_FILE, target="onnx-qdq", ladder=("w4a4", "int8"), estimator="both-ends", n_score_samples=40
    )
    run = Run(tmp_path / "run", settings, task())
    found, prepared = contribute(run), prepare(run)
    assert found.drawn == "samples"
    names, n = prepared.network.group_names, len(run.score_batch)
    game = evaluation_game(prepared, run.score_batch, lambda done, n: None)
    floor, top = np.zeros((1, len(names)), dtype=np.int64), np.ones((1, len(names)), dtype=np.int64)
    alone_up, alone_down = floor.copy(), top.copy()
    alone_up[0, 1], alone_down[0, 1] = 1, 0
    values = [game.samples(rows)[0, :n].astype(float) for rows in (alone_up, floor, top, alone_down)]
    by_sample = (values[0] - values[1] + values[2] - values[3]) / 2
    assert found.phi[names[1]]["int8"] == pytest.approx(by_sample.mean(), abs=1e-9)
    parts = [part.mean() for part in np.array_split(by_sample, N_BLOCKS)]
    assert found.stderr[names[1]]["int8"] == pytest.approx(np.std(parts, ddof=1) / N_BLOCKS**0.5, abs=1e-9)
    assert len(found.draws) == N_BLOCKS and game.n_evaluations == 0
    levels, _ = observed(prepared, found)
    assert len(levels) == found.n_evaluations
