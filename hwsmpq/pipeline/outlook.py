"""How long a search will take: from what an evaluation and a build took, corrected by what stages took."""

from __future__ import annotations

from collections.abc import Mapping

from hwsmpq.pipeline.clock import Clock

WHOLE = ""
"""Stage that what is said of the whole is told under."""
STAGES = {
    "uniform_costs": "profile", "profile": "mixtures", "contribute": "contributions", "scores": "cheap scores",
    "search": "race", "build": "build", "verify": "verify",
}
"""What stages are called, by what the clock calls them, in their order."""
MINUTE = 60.0


class Outlook:
    """Seconds that stages will still take."""

    def __init__(self, clock: Clock) -> None:
        self._expected: dict[str, float] = {}
        self._clock, self._before = clock, {one.stage: one.wall_s for one in clock.times}
        self._finished: set[str] = set()

    def expect(self, seconds: Mapping[str, float]) -> bool:
        """Expect stages to take that long; whether any of them is new."""
        new = {stage: one for stage, one in seconds.items() if stage not in self._expected}
        known = {**self._expected, **new}
        self._expected = {stage: known[stage] for stage in STAGES if stage in known}
        return bool(new)

    def finish(self, stage: str) -> bool:
        """A stage is over; whether it was expected."""
        is_new = stage in self._expected and stage not in self._finished
        self._finished.add(stage)
        return is_new

    @property
    def left(self) -> dict[str, float]:
        """Seconds by stage that is not over yet. Those that are tell how far expectations were off."""
        now = self._spent()
        spent = {stage: now.get(stage, 0.0) - self._before.get(stage, 0.0) for stage in self._expected}
        over = [stage for stage in self._expected if stage in self._finished]
        expected = sum(self._expected[stage] for stage in over)
        pace = sum(spent[stage] for stage in over) / expected if expected else 1.0
        return {
            stage: max(pace * seconds - spent[stage], 0.0) for stage, seconds in self._expected.items()
            if stage not in self._finished
        }

    def said(self) -> str:
        """``about 6 minutes: profile 1, contributions 3, race 2``."""
        left = self.left
        total = sum(left.values())
        unit, seconds = ("minute", MINUTE) if total >= 2 * MINUTE else ("second", 1.0)
        n = round(total / seconds)
        parts = [
            f"{STAGES[stage]} {one / seconds:.0f}" for stage, one in left.items() if one >= seconds / 2
        ]
        return f"about {n} {unit}{'' if n == 1 else 's'}" + (f": {', '.join(parts)}" if parts else "")

    def _spent(self) -> dict[str, float]:
        return {one.stage: one.wall_s for one in self._clock.times}
