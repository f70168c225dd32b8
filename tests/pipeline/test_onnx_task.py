"""A task whose model is an ONNX file gives what the torch task gives that the file came from."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import OPENVINO_SETTINGS, QDQ_SETTINGS, finish
from tiny_task import images, network, task

from hwsmpq.device.onnxruntime.session import open_session
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prove.reconstruct import reconstruct
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.types import Certificate, Contributions, Manifest, Plan, Settings
from tests.margins import within_answers
from tests.model.test_onnx_import import export

TASKS = Path(__file__).parents[2] / "tools" / "tasks"


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(network(), images(2, seed=0), tmp_path_factory.mktemp("onnx") / "tiny.onnx", dynamo=True)


def test_the_whole_path_comes_to_the_same(onnx_file: Path, tmp_path: Path) -> None:
    known = task()
    # The exporter leaves out a bias of zeros, and what is not there is not corrected.
    settings = replace(QDQ_SETTINGS, correct_bias=False)
    torch_run = finish(tmp_path / "torch", settings, bitops="int8")
    run = Run(tmp_path / "onnx", settings, Task(onnx_file, known.calibration, (known.evaluation.inputs[0],
                                                                               known.evaluation.targets)))
    certificate = refine(run, resolve_budgets(run, bitops="int8"))
    theirs = torch_run.open()
    ours, expected = run.read(Contributions), theirs.read(Contributions)
    for group, row in expected.phi.items():
        assert ours.phi[group] == pytest.approx(row, rel=1e-3, abs=1e-4)
    assert run.read(Plan).assignment == theirs.read(Plan).assignment
    accuracy = certificate.accuracy
    assert accuracy.engine == within_answers(torch_run.certificate.accuracy.engine, accuracy.n_samples)
    assert certificate.verified == torch_run.certificate.verified


def test_a_file_that_is_read_wrong_is_refused(onnx_file: Path, tmp_path: Path) -> None:
    known = task()
    wrong = Task(onnx_file, known.calibration, (known.evaluation.inputs[0], known.evaluation.targets))
    with torch.no_grad():
        next(wrong.model.parameters()).mul_(1.01)
    with pytest.raises(HwsmpqError, match="read as another network: its outputs differ by"):
        _ = Run(tmp_path / "run", QDQ_SETTINGS, wrong).captured


def test_a_file_of_one_sample_goes_all_the_way(onnx_file: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_file)
    shape = onnx.numpy_helper.from_array(np.array([1, 4]), "fixed")
    model.graph.initializer.append(shape)
    last = model.graph.output[0].name
    model.graph.node.append(onnx.helper.make_node("Reshape", [last, "fixed"], ["fixed_output"]))
    model.graph.output[0].name = "fixed_output"
    onnx.save(model, tmp_path / "fixed.onnx")
    known = task()
    fixed = Task(tmp_path / "fixed.onnx", known.calibration, (known.evaluation.inputs[0], known.evaluation.targets))
    said: list[str] = []
    settings = replace(OPENVINO_SETTINGS, cost="bitops")
    run = Run(tmp_path / "run", settings, fixed, notify=said.append)
    if (reason := run.target.unavailable()) is not None:
        pytest.skip(reason)
    certificate = refine(run, resolve_budgets(run, bitops="int8"))
    assert certificate.verified and certificate.accuracy.reference == 1.0  # the network's own answers
    assert any("takes one sample at a time" in one for one in said)
    assert "takes one sample at a time" in run.read(Manifest).dynamic_batch.why_not
    with pytest.raises(HwsmpqError, match="takes one sample at a time"):
        reconstruct(run)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif("HWSMPQ_DATA" not in os.environ, reason="HWSMPQ_DATA names no folder of data")
def test_resnet20(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On OpenVINO: the same contributions, plan, audit and accuracy from the file as from the class.

    The file keeps batch norm, so that it is folded here in both: exporters round otherwise, and weights of a few bits
    that lie between two levels then fall to the other one.
    """
    monkeypatch.syspath_prepend(str(TASKS))
    spec = importlib.util.spec_from_file_location("resnet20_for_onnx", TASKS / "cifar_resnet20.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    whole = module.task()
    calibration = whole.calibration[0][:64]
    evaluation = (whole.evaluation.inputs[0][:400], whole.evaluation.targets[:400])
    file = export(whole.model, calibration[:2], tmp_path / "resnet20.onnx", dynamo=True, optimize=False)
    settings = replace(
        Settings(target="openvino-cpu", cost="bitops", n_pairs=2, n_score_samples=32, n_candidates=2),
        search_evaluations=20,
    )
    found: list[tuple[Contributions, Plan, Certificate]] = []
    for name, model in (("torch", whole.model), ("onnx", file)):
        run = Run(tmp_path / name, settings, Task(model, calibration, evaluation))
        total = sum(layer.n_macs for layer in run.network.layers)
        certificate = refine(run, resolve_budgets(run, bitops=str(0.5 * 1024 * total)))
        found.append((run.read(Contributions), run.read(Plan), certificate))
    (contributions, plan, certificate), (ours, our_plan, our_certificate) = found
    for group, row in contributions.phi.items():
        assert ours.phi[group] == pytest.approx(row, abs=1e-5)
    assert our_plan.assignment == plan.assignment
    accuracy = our_certificate.accuracy
    assert accuracy.engine == within_answers(certificate.accuracy.engine, accuracy.n_samples)
    assert our_certificate.audit == certificate.audit


def recurrent(path: Path) -> Path:
    """A file as voice detectors are: (1, 6) values, a state whose samples are in dimension 1, and a number that says
    which of two networks it is."""
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(6, 6)).astype(np.float32) for name in ("now", "before", "other")}
    tensors = [onnx.numpy_helper.from_array(x, name) for name, x in weights.items()]
    tensors.append(onnx.numpy_helper.from_array(np.array(16), "wide"))
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info

    def product(weight: str) -> onnx.GraphProto:
        nodes = [node("MatMul", ["x", weight], [f"by_{weight}"])]
        return onnx.helper.make_graph(nodes, weight, [], [value(f"by_{weight}", onnx.TensorProto.FLOAT, [1, 6])])

    nodes = [
        node("Equal", ["rate", "wide"], ["is_wide"]),
        node("If", ["is_wide"], ["read"], then_branch=product("now"), else_branch=product("other")),
        node("ReduceMean", ["state"], ["kept"], axes=[0], keepdims=0),
        node("MatMul", ["kept", "before"], ["remembered"]), node("Add", ["read", "remembered"], ["sum"]),
        node("Tanh", ["sum"], ["logits"]), node("Concat", ["kept", "logits"], ["joined"], axis=0),
        node("Reshape", ["joined", "shape"], ["next"]),
    ]
    tensors.append(onnx.numpy_helper.from_array(np.array([2, 1, 6]), "shape"))
    inputs = [
        value("x", onnx.TensorProto.FLOAT, ["batch", 6]), value("state", onnx.TensorProto.FLOAT, [2, "batch", 6]),
        value("rate", onnx.TensorProto.INT64, []),
    ]
    outputs = [value("logits", onnx.TensorProto.FLOAT, None), value("next", onnx.TensorProto.FLOAT, None)]
    graph = onnx.helper.make_graph(nodes, "recurrent", inputs, outputs, tensors)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def test_rows_may_be_whole_calls_of_a_file(tmp_path: Path) -> None:
    file, rng = recurrent(tmp_path / "voice.onnx"), torch.Generator().manual_seed(0)
    calls = (
        torch.randn(80, 1, 6, generator=rng), torch.randn(80, 2, 1, 6, generator=rng),
        torch.full((80,), 16, dtype=torch.int64),
    )
    session = open_session(file)
    answers = [session.run(["logits"], {n: x[i].numpy() for n, x in zip(("x", "state", "rate"), calls, strict=True)})
               for i in range(80)]
    labels = torch.tensor([int(found[0].argmax()) for found in answers])

    def correct(outputs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
        return (outputs["logits"].flatten(1).argmax(1) == targets).float()

    def task_of(rate: int) -> Task:
        theirs = (calls[0][16:], calls[1][16:], torch.full((64,), rate))
        return Task(
            file, tuple(x[:16] for x in calls), (theirs, labels[16:]), metric=correct,
            loss=lambda outputs, targets: 1 - correct(outputs, targets),
        )

    with pytest.raises(HwsmpqError, match="'rate' is 16 in all of the calibration data"):
        task_of(8)
    run = Run(tmp_path / "run", replace(OPENVINO_SETTINGS, cost="bitops", value="mse"), task_of(16))
    if (reason := run.target.unavailable()) is not None:
        pytest.skip(reason)
    certificate = refine(run, resolve_budgets(run, bitops="int8"))
    assert certificate.verified and certificate.accuracy.reference == 1.0  # ONNX Runtime's own answers
    assert {layer.weight_shape for layer in run.network.layers} == {(6, 6)} and len(run.network.layers) == 2


def test_a_number_a_sample_is_no_constant(tmp_path: Path) -> None:
    """Where samples are in dimension 0 as the file declares it, calibration data may hold one of them alone."""
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kinds = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = onnx.helper.make_graph(
        [node("MatMul", ["x", "w"], ["y"]), node("Cast", ["kind"], ["k"], to=kinds[0]),
         node("Unsqueeze", ["k", "last"], ["column"]), node("Add", ["y", "column"], ["logits"])], "kinds",
        [value("x", kinds[0], ["n", 6]), value("kind", kinds[1], ["n"])], [value("logits", kinds[0], ["n", 6])],
        [onnx.numpy_helper.from_array(np.eye(6, dtype=np.float32), "w"),
         onnx.numpy_helper.from_array(np.array([1]), "last")],
    )
    file = tmp_path / "kinds.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), file)
    x, kind = torch.randn(80, 6), torch.arange(80) // 40
    found = Task(file, (x[:16], kind[:16]), ((x[16:], kind[16:]), x[16:].argmax(1)))
    torch.testing.assert_close(found.model(x, kind), x + kind[:, None])
