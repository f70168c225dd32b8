"""What roles come to: the one place where the task, the target and the machine become hashes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hwsmpq.artifacts import digest, plain
from hwsmpq.model.functions import function_sha256
from hwsmpq.stages import ROLES

if TYPE_CHECKING:
    from hwsmpq.pipeline.run import Run


class Roles(Mapping[str, str]):
    """SHA-256 by role (:data:`hwsmpq.stages.ROLES`) of one run; each is taken when it is first asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._known: dict[str, str] = {}

    def __getitem__(self, role: str) -> str:
        if role not in self._known:
            value = _CONTENT[role](self._run)
            self._known[role] = value if isinstance(value, str) else digest(plain(value))
        return self._known[role]

    def __iter__(self) -> Iterator[str]:
        return iter(ROLES)

    def __len__(self) -> int:
        return len(ROLES)

    def function(self, role: str) -> str:
        """Hash of a function of the task's; says where it counts as new in every process."""
        task = self._run.task
        sha256, why_new = function_sha256(getattr(task, role), task.version)
        if why_new:
            self._run.notify(
                f"another process cannot tell whether {role}= is still the same ({why_new}), and measures again what"
                " depends on it. Give the task a version=, and change it with the function"
            )
        return sha256 if task.outputs is None else digest([sha256, list(task.outputs.items())])


def _value(run: Run) -> list[str]:
    by_outputs = run.value in ("kl", "mse")
    return [run.value, *(run.task.outputs or {}).items()] if by_outputs else [run.value, run.roles["loss"]]


def _runner(run: Run) -> list[Any]:
    settings = run.settings
    if settings.evaluate == "simulator":
        return ["simulator"]
    return ["engine", run.roles["target"], run.roles["machine"], settings.batch, settings.threads]


_CONTENT: dict[str, Callable[[Run], Any]] = {
    "model": lambda run: run.network.model_sha256,
    "network": lambda run: [run.network.model_sha256, run.network.ties, *run.network.products],
    "runs": lambda run: [run.substitutes, run.network.excluded] if run.network.excluded else run.substitutes,
    "constraints": lambda run: replace(run.constraints, exclude=()),
    "calibration": lambda run: run.calibration_sha256,
    "quantized": lambda run: [
        run.integer_bits, [p.name for p in run.smoothed], [p.name for p in run.corrected], *run.network.products,
        *(["rounding", run.settings.seed] if run.settings.rounding == "learned" else []),
    ],
    "search": lambda run: run.parts[0].sha256(),
    "score": lambda run: run.score_batch.sha256(),
    "report": lambda run: run.parts[1].sha256(),
    "metric": lambda run: run.roles.function("metric"),
    "loss": lambda run: run.roles.function("loss"),
    "classification": lambda run: run.task.is_classification,
    "value": _value,
    "runner": _runner,
    "scheme": lambda run: run.scheme.name,
    "target": lambda run: run.target.name,
    "machine": lambda run: [run.target.machine(), *shapes] if (shapes := run.settings.latency_shape)
    else run.target.machine(),
}
