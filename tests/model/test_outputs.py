"""Outputs as the model has them: tuples, lists, dicts and dataclasses, judged, compared and delivered by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import hwsmpq
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.agreement import tensors_of
from hwsmpq.model.capture import Captured, capture
from hwsmpq.model.outputs import pack
from hwsmpq.model.parts import Samples
from hwsmpq.model.task import Task, cross_entropy
from hwsmpq.model.values import kl_divergence, mean_squared_distance, value_function
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.ranges import calibrate
from hwsmpq.quantize.scheme import get_scheme
from hwsmpq.quantize.simulator import Simulator


@dataclass
class Found:
    boxes: Tensor
    logits: Tensor
    note: str = "as captured"


class Pair(NamedTuple):
    boxes: Tensor
    logits: Tensor


FORMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda boxes, logits: (boxes, logits),
    "list": lambda boxes, logits: [boxes, logits],
    "dict": lambda boxes, logits: {"boxes": boxes, "logits": logits},
    "named": Pair,
    "dataclass": Found,
    "nested": lambda boxes, logits: {"all": (boxes, {"logits": logits}), "n": 3, "none": None},
}
NAMES = {
    "tuple": ("0", "1"), "list": ("0", "1"), "nested": ("all.0", "all.1.logits"),
}


class Net(nn.Module):
    def __init__(self, form: str = "tuple") -> None:
        super().__init__()
        self.form, self.trunk, self.box, self.head = FORMS[form], nn.Linear(16, 12), nn.Linear(12, 6), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.trunk(x).relu()
        return self.form(self.box(x).reshape(-1, 3, 2), self.head(x))


def logits_of(outputs: Any, form: str) -> Tensor:
    match form:
        case "tuple" | "list":
            return outputs[1]
        case "dict":
            return outputs["logits"]
        case "nested":
            return outputs["all"][1]["logits"]
    return outputs.logits


def packed(captured: Captured, x: Tensor) -> Tensor:
    return pack(tensors_of(captured.graph(x))).detach()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("form", FORMS)
def test_the_model_s_own_form_comes_back(form: str) -> None:
    model, x = Net(form).eval(), torch.randn(5, 16)
    captured = capture(model, (x,))
    with torch.no_grad():
        expected, found = model(x), captured.form.rebuild(packed(captured, x))
    assert type(found) is type(expected)
    assert captured.form.names == NAMES.get(form, ("boxes", "logits"))
    for one, other in zip(tensors_of(expected), tensors_of(found), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(logits_of(expected, form), logits_of(found, form))
    if form == "dataclass":
        assert found.note == "as captured"
    if form == "nested":
        assert (found["n"], found["none"]) == (3, None)


def test_types_survive_and_integers_are_not_compared() -> None:
    class Answers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            logits = self.head(x)
            return logits.argmax(1), logits, logits > 0

    x = torch.randn(6, 16)
    captured = capture(Answers(), (x,))
    answers, logits, signs = captured.form.rebuild(packed(captured, x))
    assert (answers.dtype, signs.dtype) == (torch.int64, torch.bool)
    assert torch.equal(answers, logits.argmax(1)) and torch.equal(signs, logits > 0)
    assert [tuple(tensor.shape) for _, tensor in captured.form.floats(packed(captured, x))] == [(6, 4)]
    assert captured.form.judged() == "1"


def test_values_over_all_outputs_or_those_that_are_named() -> None:
    x, labels = torch.randn(30, 16), torch.randint(4, (30,))
    model = Net("dict").eval()
    captured = capture(model, (x,))
    reference, other = packed(captured, x), packed(captured, x + 0.1 * torch.randn(30, 16))
    (boxes, logits), (other_boxes, other_logits) = captured.form.split(reference), captured.form.split(other)
    near = {
        "kl": (kl_divergence(boxes, other_boxes), kl_divergence(logits, other_logits)),
        "mse": (mean_squared_distance(boxes, other_boxes), mean_squared_distance(logits, other_logits)),
    }
    for name, (of_boxes, of_logits) in near.items():
        for outputs, expected in (
            (None, of_boxes + of_logits), (("logits",), of_logits),
            ({"boxes": 0.5, "logits": 2}, of_boxes / 2 + 2 * of_logits),
        ):
            task = Task(model, x, (x, labels), outputs=outputs).judging(captured.form)
            value = value_function(name, task, Samples((x,), labels), lambda: reference)(other, slice(0, 30))
            torch.testing.assert_close(-value, expected)


def test_defaults_judge_logits_and_own_functions_get_what_the_model_gives() -> None:
    x, labels = torch.randn(30, 16), torch.randint(4, (30,))
    model = Net("dataclass").eval()
    captured = capture(model, (x,))
    outputs = packed(captured, x)
    logits = captured.form.split(outputs)[1]

    def own(found: Found, targets: Tensor) -> Tensor:
        assert isinstance(found, Found)
        return found.boxes.flatten(1)[:, 0]

    task = Task(model, x, (x, labels), metric=own).judging(captured.form)
    torch.testing.assert_close(task.metric(outputs, labels), captured.form.split(outputs)[0][:, 0, 0])
    torch.testing.assert_close(task.loss(outputs, labels), cross_entropy(logits, labels))
    first = Task(model, x, (x, labels), outputs=("boxes",), loss=own).judging(captured.form)
    assert first.judged_output(outputs).shape == (30, 3, 2)
    with pytest.raises(HwsmpqError, match="no output 'scores'"):
        Task(model, x, (x, labels), outputs=("scores",)).judging(captured.form)


class Elsewhere(nn.Module):
    """Gives samples in another place than the first dimension, or (time, samples, classes) beside logits."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.head = form, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        turned = self.head(x.transpose(0, 1))
        return {
            "turned": lambda: turned, "joined": lambda: self.head(x).flatten(0, 1),
            "both": lambda: self.head(x).flatten(0, 1).T,
            "beside": lambda: {"logits": x.mean((1, 2)), "turned": turned},
        }[self.form]()


@pytest.mark.parametrize("form", ["turned", "joined", "both", "beside"])
def test_samples_elsewhere_than_in_the_first_dimension(form: str) -> None:
    model, x = Elsewhere(form).eval(), torch.randn(6, 5, 16)
    captured = capture(model, (x,))
    torch.testing.assert_close(captured.form.rebuild(packed(captured, x)), model(x))
    assert len(tensors_of(captured.graph(x))[-1]) == 6


def test_an_output_without_a_dimension_of_samples_is_refused_by_name() -> None:
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.head(x), "squares": self.head(x) @ self.head(x).T}

    with pytest.raises(HwsmpqError, match="output 'squares' has no row a sample"):
        capture(Squares(), (torch.randn(4, 16),))


def test_inputs_by_keyword() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, first: Tensor | None = None, other: object = None, second: Tensor | None = None) -> Any:
            assert first is not None and second is not None
            return {"logits": self.a(first) - self.b(second)}

    model = Named().eval()
    samples = {"second": torch.randn(40, 5), "first": torch.randn(40, 3)}
    task = Task(model, samples, ({"first": samples["first"], "second": samples["second"]}, torch.randint(4, (40,))))
    assert task.input_names == ("second", "first")
    captured = capture(model, task.calibration, task.input_names)
    with torch.no_grad():
        torch.testing.assert_close(captured.graph(*task.evaluation.inputs), model(**samples)["logits"])
    with pytest.raises(HwsmpqError, match="the evaluation data has first, the calibration data second, first"):
        Task(model, samples, ({"first": samples["first"]}, torch.randint(4, (40,))))
    with pytest.raises(HwsmpqError, match=r"Named does not run on its inputs: AssertionError"):
        capture(model, (samples["first"],), ("first",))


def test_the_simulator_gives_all_outputs() -> None:
    model, x = Net("dict").eval(), torch.randn(20, 16)
    captured = capture(model, (x,))
    scheme = get_scheme("unsigned_activations")
    ranges = calibrate(captured, (x,), scheme, [8])
    simulator = Simulator(captured, ranges, scheme)
    out = simulator.scores([captured.network.uniform("fp32")], (x,), lambda out, rows: out)[0]
    with torch.no_grad():
        torch.testing.assert_close(simulator.form.rebuild(out), model(x))


@pytest.mark.parametrize("target", ["openvino-cpu", "onnxruntime-cpu"])
def test_a_whole_run_and_its_engine(target: str, tmp_path: Path) -> None:
    x = torch.randn(80, 16)
    model = Net("dict").eval()
    with torch.no_grad():
        labels = model(x)["logits"].argmax(1)
    task = Task(model, {"x": x[:32]}, ({"x": x[32:]}, labels[32:]))
    folder = tmp_path / "run"
    certificate = hwsmpq.optimize(task, folder, target=target, ladder=("int8", "fp32"), cost="bitops", bitops="int8")
    assert certificate.agrees, certificate.agreement
    manifest = Run(folder, task=task).artifacts.check_engine()
    assert manifest.outputs == ("boxes", "logits")
    found = hwsmpq.load(folder)(x[:3])
    assert isinstance(found, dict) and set(found) == {"boxes", "logits"} and found["boxes"].shape == (3, 3, 2)
    with torch.no_grad():
        expected = model(x[:3])
    for name, tensor in found.items():
        assert float((tensor - expected[name]).norm() / expected[name].norm()) < 0.1
