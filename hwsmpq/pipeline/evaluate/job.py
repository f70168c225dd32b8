"""What another process needs to evaluate assignments as this one would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.capture import capture
from hwsmpq.model.load import load_task
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import Task
from hwsmpq.quantize.evaluate import Evaluator
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import REFERENCE, Network, Ranges, Settings


@dataclass(frozen=True, eq=False)
class Job:
    """A task with its ranges: ``task`` itself, or None where any process can load what ``settings`` name.

    ``scheme`` names the quantization scheme; ``network`` is what the run captured, as its target runs it.
    """

    task: Task | None
    settings: Settings
    ranges: Ranges
    scheme: str
    network: Network

    def prepare(self) -> Callable[[Samples], Evaluator]:
        """Load and capture the network here; returns what makes an evaluator for a sample set.

        Raises:
            HwsmpqError: the task cannot be loaded, or is another model here.
        """
        settings = self.settings
        weights = Path(settings.weights) if settings.weights else None
        task = self.task or load_task(settings.task, settings.data, weights)
        network = self.network
        kinds = {layer.kind for layer in network.layers}
        captured = capture(task.model, task.calibration, task.input_names, task.ports, kinds)
        if captured.network.model_sha256 != network.model_sha256:
            raise HwsmpqError(
                f"a worker loads another model from {settings.task}",
                f"it has {captured.network.model_sha256[:12]}, the run has {network.model_sha256[:12]}",
                "give every machine of the cluster the same task file, weights and library versions",
            )
        assert settings.value is not None  # the run resolved it
        value = settings.value
        captured = replace(captured, network=network)
        simulator = Simulator(captured, self.ranges, get_scheme(self.scheme), settings.memory_mb)
        reference = network.uniform(REFERENCE)
        judge = task.judging(captured.form)
        return lambda samples: Evaluator(simulator, judge, samples, value, reference)
