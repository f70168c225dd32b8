"""Networks of the comparison with other tools, and how their engines are judged on samples that no tool saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from hwsmpq.model.load import load_task
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import Task
from hwsmpq.model.values import kl_divergence
from hwsmpq.search.paired import paired_stderr

TASKS = Path(__file__).parent / "tasks"
N_RESAMPLES = 2000
QUICK_CALIBRATION, QUICK_EVALUATION = 16, 64

Measured = tuple[float, float]
"""A mean, and its standard error."""


@dataclass(frozen=True)
class Network:
    """One network, on one target, for all tools.

    Args:
        task: file below ``tools/tasks``.
        target: of this project; ``openvino-cpu:per-tensor`` makes the other tool quantize weights per tensor too.
        value: what this project's search maximises: the negative of what ``distance`` measures.
        control: what accuracy control may lose: of the ``metric`` (a fraction), or of the ``distance``.
        transformer: whether the other tool is told that it is one.
    """

    task: str
    target: str
    value: str
    control: tuple[str, float]
    transformer: bool = False

    @property
    def task_file(self) -> str:
        return str(TASKS / f"{self.task}.py")

    @property
    def per_tensor(self) -> bool:
        return self.target.endswith(":per-tensor")

    def load(self, quick: bool) -> Task:
        """The task, cut to a few samples for a quick run."""
        task = load_task(self.task_file)
        if not quick:
            return task
        part = task.evaluation.take(slice(0, QUICK_EVALUATION))
        calibration = tuple(x[:QUICK_CALIBRATION] for x in task.calibration)
        return Task(
            task.model, calibration, (part.inputs, part.targets), task.metric, task.loss, task.name,
            classification=task.is_classification,
        )

    def distance(self, reference: Tensor, outputs: Tensor) -> Tensor:
        """How far outputs are from the reference's, (n,): KL divergence of classes, 1 - cosine of embeddings."""
        if reference.ndim == 2:
            return kl_divergence(reference, outputs)
        return 1 - torch.nn.functional.cosine_similarity(reference, outputs, dim=2).mean(1)

    def metric(self, task: Task, samples: Samples, outputs: Tensor) -> NDArray[np.float64]:
        """What the metric averages, or for embeddings correlates with the targets, of every sample (n,)."""
        if outputs.ndim == 2:
            return task.metric(outputs, samples.targets).double().numpy()
        return (outputs[:, 0] * outputs[:, 1]).sum(1).double().numpy()

    def metric_of(self, judged: NDArray[np.float64], samples: Samples) -> float:
        """The metric, of what :meth:`metric` gave for the same samples: top-1, or Spearman's correlation."""
        if samples.targets.is_floating_point():
            return float(spearmanr(judged, samples.targets.numpy()).statistic)
        return float(judged.mean())


@dataclass(frozen=True, eq=False)
class Judge:
    """Engines against the fp32 engine on the report part."""

    network: Network
    task: Task
    samples: Samples
    reference: Tensor
    seed: int

    def lost_points(self, outputs: Tensor, than: Tensor | None = None) -> Measured:
        """Points of the metric that outputs lose against others, by default the reference's."""
        before, after = (
            self.network.metric(self.task, self.samples, x) for x in (self.reference if than is None else than, outputs)
        )
        if not self.samples.targets.is_floating_point():
            return 100 * float((before - after).mean()), 100 * paired_stderr(before - after)
        rng, lost = np.random.default_rng(self.seed), self._lost(before, after, slice(None))
        resampled = [
            self._lost(before, after, rng.integers(len(before), size=len(before))) for _ in range(N_RESAMPLES)
        ]
        return lost, float(np.std(resampled, ddof=1))

    def distance(self, outputs: Tensor, than: Tensor | None = None) -> Measured:
        """Mean distance of outputs to the reference's, or by how much it is larger than that of others."""
        found = self.network.distance(self.reference, outputs).double().numpy()
        if than is not None:
            found = found - self.network.distance(self.reference, than).double().numpy()
        return float(found.mean()), paired_stderr(found)

    def _lost(
        self, before: NDArray[np.float64], after: NDArray[np.float64], index: slice | NDArray[np.int64]
    ) -> float:
        taken = self.samples.take(index if isinstance(index, slice) else torch.from_numpy(index))
        return 100 * (self.network.metric_of(before[index], taken) - self.network.metric_of(after[index], taken))


NETWORKS = {
    "resnet20": Network("cifar_resnet20", "openvino-cpu", "kl", ("metric", 0.005)),
    "efficientnet_lite0": Network("efficientnet_lite0", "openvino-cpu", "kl", ("distance", 0.005)),
    "efficientnet_lite0_per_tensor": Network(
        "efficientnet_lite0", "openvino-cpu:per-tensor", "kl", ("metric", 0.01)
    ),
    "minilm": Network("minilm_stsb", "openvino-cpu", "mse", ("distance", 0.001), transformer=True),
}
