"""The clock of the stages."""

from __future__ import annotations

import pytest

from hwsmpq.pipeline import clock as timing
from hwsmpq.pipeline.clock import Clock
from hwsmpq.types import StageTime


def test_a_stage_within_another_counts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing, "_now", lambda: (now[0], now[0] / 2))
    clock = Clock((StageTime("search", 3.0, 1.0),))
    now[0] = 100.0  # between stages: nobody's
    with clock("search"):
        now[0] += 1
        with clock("contribute"):
            now[0] += 10
        now[0] += 2
        assert clock.times == (StageTime("search", 6.0, 2.5), StageTime("contribute", 10.0, 5.0))
    now[0] += 50
    with pytest.raises(ValueError, match="bad"), clock("contribute"):
        now[0] += 4
        raise ValueError("bad")
    assert clock.times == (StageTime("search", 6.0, 2.5), StageTime("contribute", 14.0, 7.0))
