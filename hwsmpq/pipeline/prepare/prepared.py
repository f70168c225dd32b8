"""What every stage behind preparation works on."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hwsmpq.engine.build import Builder
from hwsmpq.model.capture import Captured
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.simulator import Simulator
from hwsmpq.types import Network, Ranges, Survey


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network as its target runs it, with its ranges, and what simulates and builds it.

    Nothing here changes but what simulator and builder keep so that they make nothing twice: quantized weights, and the
    float ONNX file.
    """

    run: Run
    captured: Captured
    ranges: Ranges
    simulator: Simulator
    builder: Builder

    @property
    def network(self) -> Network:
        return self.captured.network

    def on_engines(self) -> Prepared:
        """The same for evaluations of assignments of which there are engines anyway; see :meth:`Run.on_engines`."""
        return replace(self, run=self.run.on_engines())

    def with_survey(self, survey: Survey) -> Prepared:
        """The same with precisions that do not run taken for what runs instead."""
        return replace(self, captured=replace(self.captured, network=survey.realise(self.network)))
