"""A task: the model, its calibration samples, its labelled evaluation set, and how outputs are judged."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.inputs import Inputs, names_in, tensors_in
from hwsmpq.model.onnx_import import read_onnx
from hwsmpq.model.outputs import OutputForm
from hwsmpq.types import Constraints

PerSample = Callable[[Any, Tensor], Tensor]
"""(outputs of n samples as the model gives them, targets (n, ...)) -> one number a sample, float (n,)."""

MIN_EVALUATION = 20


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is the target class, else 0. Shape (n,)."""
    return (outputs.argmax(1) == targets).float()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, shape (n,)."""
    return nn.functional.cross_entropy(outputs, targets.long(), reduction="none")


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (one tensor an argument of the model, n rows each) with their targets."""

    inputs: tuple[Tensor, ...]
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor | slice) -> Samples:
        return Samples(tuple(x[index] for x in self.inputs), self.targets[index])

    def sha256(self) -> str:
        """Hash of every byte of inputs and targets."""
        return tensors_sha256((*self.inputs, self.targets))


def tensors_sha256(tensors: tuple[Tensor, ...]) -> str:
    """SHA-256 over shape, dtype and bytes of tensors, in order."""
    hasher = hashlib.sha256()
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous()
        hasher.update(f"{tuple(array.shape)}{array.dtype}".encode())
        hasher.update(array.flatten().view(torch.uint8).numpy())
    return hasher.hexdigest()


class Task:
    """What the toolkit works on.

    Args:
        model: a trained network whose inputs and outputs carry the batch in dimension 0, or the path of an ONNX file
            that holds one (opset 7 or newer).
        calibration: unlabelled input samples, (n, ...), or one such tensor an argument; those of a dict are passed by
            keyword.
        evaluation: (inputs, targets), n rows each; the toolkit splits them itself.
        metric: per-sample score, averaged into the metric that budgets and certificates speak of
            (default: top-1 correctness).
        higher_is_better: whether a larger metric is a better one. Of an error (MAE, WER), say False: it is then stated
            with a minus sign everywhere, so that a drop is a loss.
        loss: per-sample loss that scores assignments (default: cross-entropy).
        name: shown in reports.
        training: (inputs, targets) to retrain quantized plans on, none of them evaluation data.
        version: names what metric and loss compute. What was measured with them counts as long as it stays the same;
            by default their code, what they close over and the globals that they name stand for it.
        classification: whether outputs are logits of classes in dimension 1, which KL divergences compare; by default
            they are unless both metric and loss are the task's own.
        preprocessing: what was done to the samples before they got here, in words: it is written beside the engine for
            whoever serves it.
        constraints: what plans are held to, besides what the settings of a run say.
        outputs: names of the outputs that ``kl`` and ``mse`` compare, with their weights if it is a dict; by default
            all floats, by 1. Outputs have the names of keys and fields, else the number of their place, joined by dots.
            A metric or loss of the task's own gets all outputs as the model gives them; the defaults judge the first
            of these outputs, or ``logits`` where none are named.

    Attributes:
        form: how the model arranges its outputs; None where they are one tensor, or not known yet.

    Raises:
        HwsmpqError: an ONNX file that is not read, empty or non-finite data, or labels that do not match the inputs or
            the outputs.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        calibration: Inputs,
        evaluation: tuple[Inputs, Tensor],
        metric: PerSample | None = None,
        loss: PerSample | None = None,
        name: str = "task",
        training: tuple[Inputs, Tensor] | None = None,
        version: str | None = None,
        higher_is_better: bool = True,
        classification: bool | None = None,
        preprocessing: str = "",
        outputs: Mapping[str, float] | Sequence[str] | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        self.onnx_file = None if isinstance(model, nn.Module) else Path(model)
        self.model = model if isinstance(model, nn.Module) else read_onnx(Path(model)).eval()
        self.version = version
        self.name = name
        self.preprocessing = preprocessing
        self.constraints = constraints or Constraints()
        judge = metric or top1
        self.metric = judge if higher_is_better else lambda outputs, targets: -judge(outputs, targets)
        self.loss = loss or cross_entropy
        self._own = {"metric": metric is not None, "loss": loss is not None}
        self._has_defaults = metric is None or loss is None
        self.outputs = dict(outputs) if isinstance(outputs, Mapping) else outputs and dict.fromkeys(outputs, 1.0)
        self.form: OutputForm | None = None
        self.is_classification = self._has_defaults if classification is None else classification
        self.input_names = names_in(calibration)
        self.calibration = tensors_in(calibration)
        self.evaluation = Samples(self._inputs("evaluation", evaluation[0]), evaluation[1])
        self.training = None if training is None else Samples(self._inputs("training", training[0]), training[1])
        self._check()

    def _inputs(self, role: str, inputs: Inputs) -> tuple[Tensor, ...]:
        """In the order of the calibration inputs."""
        names = names_in(inputs)
        if sorted(names) != sorted(self.input_names):
            said = [", ".join(n) or "inputs without names" for n in (names, self.input_names)]
            raise HwsmpqError(
                f"the {role} data has {said[0]}, the calibration data {said[1]}", "both are inputs of the same model",
                "give both as dicts with the same keys, or both as tensors",
            )
        return tuple(inputs[n] for n in self.input_names) if isinstance(inputs, Mapping) else tensors_in(inputs)

    def judging(self, form: OutputForm) -> Task:
        """The same, to judge outputs that come as one tensor for ``form``.

        Raises:
            HwsmpqError: the network has no output that the task names, or none in floats.
        """
        judged = copy.copy(self)
        judged.form, name = form, form.judged(self.outputs)

        def as_seen(function: PerSample, is_own: bool) -> PerSample:
            return lambda packed, targets: function(
                form.rebuild(packed) if is_own else judged.judged_output(packed), targets
            )

        if form.names != (name,) or not form.spec.is_leaf():
            judged.metric = as_seen(self.metric, self._own["metric"])
            judged.loss = as_seen(self.loss, self._own["loss"])
        return judged

    def judged_output(self, packed: Tensor) -> Tensor:
        """The output that the default metric and loss look at."""
        if self.form is None:
            return packed
        return self.form.split(packed)[self.form.names.index(self.form.judged(self.outputs))]

    def compared(self, packed: Tensor, with_classes: bool = False) -> list[tuple[float, Tensor]]:
        """The outputs that values without labels compare, with their weights.

        Args:
            with_classes: leave out those without classes in dimension 1.

        Raises:
            HwsmpqError: none of them has classes.
        """
        found = [(1.0, packed)] if self.form is None else self.form.floats(packed, self.outputs)
        if with_classes:
            shapes = ", ".join(str(tuple(tensor.shape)) for _, tensor in found)
            found = [(weight, tensor) for weight, tensor in found if tensor.ndim > 1 and tensor.shape[1] > 1]
            if not found:
                raise HwsmpqError(
                    f"the value kl cannot judge outputs of shape {shapes}",
                    "it compares distributions over classes in dimension 1", "take the value loss, metric or mse",
                )
        return found

    def _check(self) -> None:
        parts = {"calibration": self.calibration, "evaluation": self.evaluation.inputs}
        if self.training is not None:
            parts["training"] = self.training.inputs
        for role, tensors in parts.items():
            if any(x.ndim == 0 for x in tensors):
                raise HwsmpqError(
                    f"the {role} data holds a single number", "every sample is a row", "give an array with n rows"
                )
            if not tensors or any(len(x) == 0 for x in tensors):
                raise HwsmpqError(f"the {role} data is empty", fix=f"give {role} samples with n >= 1 rows")
            for i, x in enumerate(tensors):
                if x.is_floating_point() and x.dtype != torch.float32:
                    raise HwsmpqError(
                        f"the {role} data is {x.dtype} (input {i})", "the network is float32, and so are its inputs",
                        "convert it, for example with .astype('float32') or .float()",
                    )
                if x.is_floating_point() and not bool(torch.isfinite(x).all()):
                    row = int((~torch.isfinite(x)).reshape(len(x), -1).any(1).nonzero()[0])
                    raise HwsmpqError(
                        f"the {role} data holds NaN or infinity (input {i}, sample {row})",
                        "ranges and scores taken from it would be meaningless", "remove or repair that sample",
                    )
            if len({len(x) for x in tensors}) > 1:
                raise HwsmpqError(
                    f"the {role} inputs have {', '.join(str(len(x)) for x in tensors)} rows",
                    "each holds one argument of the model for the same samples", "give equally many rows",
                )
            if len(tensors) != len(self.evaluation.inputs):
                raise HwsmpqError(
                    f"{len(tensors)} {role} but {len(self.evaluation.inputs)} evaluation input tensors",
                    "both are the arguments of the same model", "give one tensor an argument in both",
                )
        for role, tensors in parts.items():
            for i, (x, known) in enumerate(zip(tensors, self.evaluation.inputs, strict=True)):
                if (x.shape[1:], x.dtype) != (known.shape[1:], known.dtype):
                    raise HwsmpqError(
                        f"{role} samples are {tuple(x.shape[1:])} {x.dtype}, evaluation samples"
                        f" {tuple(known.shape[1:])} {known.dtype} (input {i})",
                        "both are inputs of the same network", "prepare both alike",
                    )
        labelled = {"evaluation": self.evaluation} | ({"training": self.training} if self.training else {})
        for role, samples in labelled.items():
            if len(samples.inputs[0]) != len(samples.targets):
                raise HwsmpqError(
                    f"{len(samples.inputs[0])} {role} inputs but {len(samples.targets)} labels",
                    fix="give exactly one label an input, in the same order",
                )
        n_targets = len(self.evaluation.targets)
        if n_targets < MIN_EVALUATION:
            raise HwsmpqError(
                f"only {n_targets} evaluation samples",
                f"they are split into a search and a report part, which need at least {MIN_EVALUATION} together",
                "give a few hundred labelled samples",
            )

    def check_outputs(self, outputs: Tensor) -> None:
        """Check that outputs of the model fit the labels.

        Raises:
            HwsmpqError: the model gives non-finite outputs, or a label outside the classes it distinguishes.
        """
        if not bool(torch.isfinite(outputs).all()):
            raise HwsmpqError(
                "the model's own outputs hold NaN or infinity", fix="check the weights and the preprocessing"
            )
        targets, outputs = self.evaluation.targets, self.judged_output(outputs)
        if self._has_defaults and (outputs.ndim != 2 or targets.ndim != 1 or targets.is_floating_point()):
            raise HwsmpqError(
                f"{tuple(outputs.shape)} outputs with {tuple(targets.shape)} {targets.dtype} labels: no classification",
                "the default metric and loss need (n, classes) outputs and (n,) integer labels",
                "give the task its own metric= and loss=",
            )
        if self._has_defaults and not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
            raise HwsmpqError(
                f"labels run from {int(targets.min())} to {int(targets.max())}, "
                f"the model has {outputs.shape[1]} classes",
                "labels and model do not match", "check the class order of the data against the model's",
            )

    def split(self, seed: int, report_fraction: float = 0.5) -> tuple[Samples, Samples]:
        """Split the evaluation data into a search part, which scores assignments, and a report part, which only the
        certificate sees. The same seed gives the same split."""
        order = torch.randperm(len(self.evaluation), generator=torch.Generator().manual_seed(seed))
        n_report = round(len(order) * report_fraction)
        return self.evaluation.take(order[n_report:]), self.evaluation.take(order[:n_report])
