"""A task: the model, its calibration samples, its labelled evaluation set, and how outputs are judged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hwsmpq.errors import HwsmpqError
from hwsmpq.model.batch import parts_of
from hwsmpq.model.data import Data
from hwsmpq.model.metrics import SetMetric, set_metric
from hwsmpq.model.outputs import OutputForm
from hwsmpq.model.parts import Held, Rows, Samples, Streamed
from hwsmpq.model.shapes import form_of, tensors_in
from hwsmpq.model.source import first_rows, is_lazy, source_of
from hwsmpq.model.tensors import is_finite
from hwsmpq.types import Constraints

if TYPE_CHECKING:
    from hwsmpq.model.onnx_import import OnnxModule

PerSample = Callable[[Any, Tensor], Tensor]
"""(outputs of n samples as the model gives them, targets (n, ...)) -> one number a sample, float (n,)."""

Metric = PerSample | SetMetric | Any
"""A function of samples, or a metric over a set of them."""

MIN_EVALUATION = 20
MOST_CALIBRATION = 256
"""Samples that are taken of calibration data that is read."""
MOST_SEARCHED = 1024
"""Samples of the search part of data that is read, unless a run says otherwise: they are held in memory."""


def top1(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest output is the target class, else 0. Shape (n,)."""
    return (outputs.argmax(1) == targets).float()


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, shape (n,)."""
    return nn.functional.cross_entropy(outputs, targets.long(), reduction="none")


def _judge(given: Any, higher_is_better: bool | None) -> tuple[Metric, bool]:
    """A metric of which more is better, and whether that is an error with a minus sign."""
    over_set = set_metric(given)
    judge = given if over_set is None else over_set
    better = getattr(judge, "higher_is_better", None) if higher_is_better is None else higher_is_better
    is_error = better is False
    if over_set is not None:
        return over_set.negated(not is_error), is_error
    return (lambda outputs, targets: -given(outputs, targets)) if is_error else given, is_error


def _named(metric: Metric) -> str:
    name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
    return "metric" if name == "<lambda>" else name


def _read(file: Path) -> OnnxModule:
    from hwsmpq.model.onnx_import import read_onnx  # takes half a second, which others need not wait for

    return read_onnx(file)


class Task:
    """What the toolkit works on.

    Args:
        model: a trained network whose inputs and outputs carry the batch in dimension 0. Or the path of an ONNX file
            that holds one (opset 7 or newer).
        calibration: unlabelled input samples: a tensor or array (n, ...), a tuple with one an argument, or a dict of
            them, which are passed by keyword. Or a ``Dataset``, a ``DataLoader`` or another iterable of batches that
            can be started again. Its first 256 samples are taken, and labels are left out.
        evaluation: (inputs, targets), n rows each, or a dict with ``labels``. Or a ``Dataset`` and the like, whose
            samples are (inputs, target) or a dict with ``labels``. It is read as it is needed, and never held as a
            whole. The toolkit splits the samples itself.
        metric: per-sample score. Its mean is the metric that budgets and certificates speak of. The default is top-1
            correctness. Or a metric over a set of samples: a name (``spearman``, ``f1``, ``auc``, ``miou``, ``map50``,
            ``perplexity``), one of ``hwsmpq.model.metrics``, or an object with ``update``, ``compute`` and
            ``reset``. Its uncertainty is found by resampling the samples.
        higher_is_better: whether a larger metric is a better one. By default this is as the metric says, else True. Say
            False of an error (MAE, WER). It has a minus sign inside the toolkit then, so that a drop is a loss.
        loss: per-sample loss that scores assignments. The default is cross-entropy.
        name: shown in reports.
        training: (inputs, targets) to retrain quantized plans on, none of them evaluation data.
        version: a name for what metric and loss compute, and for what data that is read holds. Measurements count as
            long as it stays the same. By default the code of the functions stands for it, with what they close over
            and the globals that they name, and the data is read once a command.
        classification: whether outputs are logits of classes in dimension 1, which KL divergences compare. By default
            they are unless both metric and loss are the task's own.
        preprocessing: what was done to the samples before they got here, in words. It is written beside the engine for
            whoever serves it.
        constraints: what plans are held to, besides what the settings of a run say.
        outputs: names of the outputs that ``kl`` and ``mse`` compare, or a dict of their weights. By default all floats
            count alike. Outputs have the names of keys and fields, else the number of their place, joined by dots. A
            metric or loss of the task's own gets all outputs as the model gives them. The default ones judge the first
            of these outputs, or ``logits`` where none are named.

    Attributes:
        form: how the model arranges its outputs; None where they are one tensor, or not known yet.
        metric_name: as the task gives it, or the name of its function or class.
        is_error: whether a smaller metric is better; ``metric`` then gives it with a minus sign.
        ports: names of inputs and of outputs of an ONNX file.

    Raises:
        HwsmpqError: one function as metric and loss, without ``higher_is_better``; an ONNX file that is not read, empty
            or non-finite data, or labels that do not match the inputs or the outputs.
    """

    def __init__(
        self,
        model: nn.Module | str | Path,
        calibration: Any,
        evaluation: Any,
        metric: Metric | None = None,
        loss: PerSample | None = None,
        name: str = "task",
        training: Any = None,
        version: str | None = None,
        higher_is_better: bool | None = None,
        classification: bool | None = None,
        preprocessing: str = "",
        outputs: Mapping[str, float] | Sequence[str] | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        self.onnx_file = None if isinstance(model, nn.Module) else Path(model)
        read = None if isinstance(model, nn.Module) else _read(Path(model))
        self.model = model if read is None else read.eval()
        self.ports = ((), ()) if read is None else read.ports
        self.version = version
        self.name = name
        self.preprocessing = preprocessing
        self.constraints = constraints or Constraints()
        if metric is not None and metric is loss and higher_is_better is None:
            raise HwsmpqError(
                "metric and loss are the same function",
                "a metric is better when it is larger, a loss when it is smaller",
                "say which: higher_is_better=False of an error (MAE, MSE)",
            )
        self.metric, self.is_error = _judge(metric or top1, higher_is_better)
        self.metric_name = _named(metric or top1)
        self.loss = loss or cross_entropy
        self._own = {"metric": not (metric is None or isinstance(metric, str)), "loss": loss is not None}
        self._defaults = [name for name, given in (("metric", metric), ("loss", loss)) if given is None]
        self.outputs = dict(outputs) if isinstance(outputs, Mapping) else outputs and dict.fromkeys(outputs, 1.0)
        self.form: OutputForm | None = None
        self.is_classification = bool(self._defaults) if classification is None else classification
        self._take_data(calibration, evaluation, training)
        self._check()
        if self.onnx_file:
            self._settle()

    def _take_data(self, calibration: Any, evaluation: Any, training: Any) -> None:
        names, self.evaluation = self._labelled("evaluation", evaluation)
        if is_lazy(calibration):
            given = first_rows(source_of(calibration, "calibration", len(self.evaluation.inputs)), MOST_CALIBRATION)
        else:
            given = parts_of(calibration, "calibration", names)
        self.input_names, self.calibration = given.names, given.inputs
        self._forms = [form_of(x, f"calibration data (input {i})") for i, x in enumerate(self.calibration)]
        self.evaluation = self._in_order("evaluation", names, self.evaluation)
        self.training = None
        if training is not None:
            self.training = self._in_order("training", *self._labelled("training", training))

    def _labelled(self, role: str, given: Any) -> tuple[tuple[str, ...], Samples]:
        """Names of inputs, and the samples of labelled data."""
        if is_lazy(given):
            data = Data(source_of(given, role), self.version)
            return data.head.names, Streamed(Rows(data))
        batch = parts_of(given, role)
        assert batch.targets is not None
        return batch.names, Samples(batch.inputs, batch.targets)

    def _in_order(self, role: str, names: tuple[str, ...], samples: Samples) -> Samples:
        """With inputs in the order of those of calibration."""
        if sorted(names) != sorted(self.input_names):
            said = [", ".join(n) or "inputs without names" for n in (names, self.input_names)]
            raise HwsmpqError(
                f"the {role} data has {said[0]}, the calibration data {said[1]}", "both are inputs of the same model",
                "give both as dicts with the same keys, or both as tensors",
            )
        is_named = names == self.input_names
        places = [names.index(name) for name in self.input_names] if names else range(len(samples.inputs))
        if isinstance(samples, Streamed):
            return Streamed(Rows(samples.rows.data.arranged(places, self._forms)))
        if is_named:
            return samples
        return Samples(tuple(samples.inputs[place] for place in places), samples.targets)

    def _settle(self) -> None:
        """Let an ONNX file take numbers that are the same in all samples for constants.

        Raises:
            HwsmpqError: they are the same in the calibration data and others in labelled data.
        """
        labelled = self.evaluation.head if isinstance(self.evaluation, Streamed) else self.evaluation
        for place, name in self.model.settle(self.calibration).items():  # type: ignore[operator]
            known = self.calibration[place][0]
            if not bool((labelled.inputs[place] == known).all()):
                raise HwsmpqError(
                    f"the input {name!r} is {known.item()} in all of the calibration data, and not in the evaluation"
                    " data", "it is taken for a constant of the network", "give the same number in both",
                )

    def judging(self, form: OutputForm) -> Task:
        """The same, to judge outputs that come as one tensor for ``form``.

        Raises:
            HwsmpqError: the network has no output that the task names, or none in floats.
        """
        judged = copy.copy(self)
        judged.form, name = form, form.judged(self.outputs)

        def as_seen(function: Any, is_own: bool) -> Any:
            view = form.rebuild if is_own else judged.judged_output
            if isinstance(function, SetMetric):
                return function.seen(view)
            return lambda packed, targets: function(view(packed), targets)

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
        # Of what is read as it is needed, a few first samples stand for all; the others are checked as they are read.
        labelled = {"evaluation": self.evaluation} | ({"training": self.training} if self.training else {})
        seen = {role: one.head if isinstance(one, Streamed) else one for role, one in labelled.items()}
        parts = {"calibration": self.calibration} | {role: one.inputs for role, one in seen.items()}
        for role, tensors in parts.items():
            if any(isinstance(x, Tensor) and x.ndim == 0 for x in tensors):
                raise HwsmpqError(
                    f"the {role} data holds a single number", "every sample is a row", "give an array with n rows"
                )
            if not tensors or any(len(x) == 0 for x in tensors):
                raise HwsmpqError(f"the {role} data is empty", fix=f"give {role} samples with n >= 1 rows")
            for i, x in enumerate(tensors):
                dtype = next(tensors_in(x)).dtype
                if dtype.is_floating_point and dtype != torch.float32:
                    raise HwsmpqError(
                        f"the {role} data is {dtype} (input {i})", "the network is float32, and so are its inputs",
                        "convert it: x = x.float() of a tensor, x = x.astype('float32') of a NumPy array",
                    )
                if dtype.is_floating_point and not all(map(is_finite, tensors_in(x))):
                    rows = torch.cat([torch.isfinite(one).reshape(len(one), -1).all(1) for one in tensors_in(x)])
                    row = int((~rows).nonzero()[0])
                    raise HwsmpqError(
                        f"the {role} data holds NaN or infinity (input {i}, sample {row})",
                        "ranges and scores taken from it would be meaningless", "remove or repair that sample",
                    )
            if len({len(x) for x in tensors}) > 1:
                raise HwsmpqError(
                    f"the {role} inputs have {', '.join(str(len(x)) for x in tensors)} rows",
                    "each holds one argument of the model for the same samples", "give equally many rows",
                )
            if len(tensors) != len(parts["evaluation"]):
                raise HwsmpqError(
                    f"{len(tensors)} {role} but {len(parts['evaluation'])} evaluation input tensors",
                    "both are the arguments of the same model", "give one tensor an argument in both",
                )
        for role, tensors in parts.items():
            for i, (x, form) in enumerate(zip(tensors, self._forms, strict=True)):
                if misfit := form.misfit(x):
                    raise HwsmpqError(
                        f"{role} samples are {misfit}, calibration samples {form} (input {i})",
                        "both are inputs of the same network",
                        "prepare both alike; where samples differ in size, let the first 256 of calibration= show it",
                    )
        for role, samples in seen.items():
            if len(samples.inputs[0]) != len(samples.targets):
                raise HwsmpqError(
                    f"{len(samples.inputs[0])} {role} inputs but {len(samples.targets)} labels",
                    fix="give exactly one label an input, in the same order",
                )
        if isinstance(self.evaluation, Streamed) and not self.evaluation.rows.data.is_sized:
            return  # counted when it is split
        self._check_number()

    def _check_number(self) -> None:
        n_targets = len(self.evaluation)
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
        known = self.evaluation
        targets = known.head.targets if isinstance(known, Streamed) else known.targets
        outputs = self.judged_output(outputs)
        if self._defaults and (outputs.ndim != 2 or targets.ndim != 1 or targets.is_floating_point()):
            raise HwsmpqError(
                f"{tuple(outputs.shape)} outputs with {tuple(targets.shape)} {targets.dtype} labels: no classification",
                f"the default {' and '.join(self._defaults)} take (n, classes) outputs and (n,) integer labels",
                self._judged_otherwise(outputs, targets),
            )
        if self._defaults and not 0 <= int(targets.min()) <= int(targets.max()) < outputs.shape[1]:
            raise HwsmpqError(
                f"labels run from {int(targets.min())} to {int(targets.max())}, "
                f"the model has {outputs.shape[1]} classes",
                "labels and model do not match",
                "leave out samples without a class, or judge them by functions of your own: metric= and loss= of the"
                " task (cross_entropy's ignore_index= is one)" if int(targets.min()) < 0 else
                "check the class order of the data against the model's",
            )

    def _judged_otherwise(self, outputs: Tensor, targets: Tensor) -> str:
        """What to write where outputs and labels are none of a classifier of samples."""
        if targets.is_floating_point() and targets.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] > 1:
            return "if they are numbers of classes: labels.long(), or labels.astype('int64') of a NumPy array"
        if outputs.ndim > 2 and targets.shape[1:] == outputs.shape[2:] and not targets.is_floating_point():
            return (
                "of classes of pixels or tokens: metric='miou', and as loss= a mean a sample, such as"
                " cross_entropy(outputs, targets, ignore_index=255, reduction='none').flatten(1).mean(1)"
            )
        return (
            f"give the task its own {' and '.join(f'{name}=' for name in self._defaults)}; an error (MAE, MSE) may"
            " be both: metric=mae, loss=mae, higher_is_better=False"
        )

    def split(
        self, seed: int, report_fraction: float = 0.5, most_searched: int | None = None
    ) -> tuple[Samples, Samples]:
        """Split the evaluation data into a search part, which scores assignments, and a report part, which only the
        certificate sees. The same seed gives the same split.

        Args:
            most_searched: samples of the search part; what is more goes to the report part. By default
                :data:`MOST_SEARCHED` of data that is read, which the search part holds in memory, and all of tensors.
        """
        data = self.evaluation
        self._check_number()
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
        n_report = round(len(order) * report_fraction)
        if most_searched is None and isinstance(data, Streamed):
            most_searched = MOST_SEARCHED
        if most_searched is not None:
            n_report = max(n_report, len(order) - most_searched)
        search, report = order[n_report:], order[:n_report]
        if isinstance(data, Streamed):
            # In the order of the data, in which it is read.
            return Held(data.rows.take(search)), data.take(report.sort().values)
        return data.take(search), data.take(report)
