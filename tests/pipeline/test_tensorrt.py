"""The whole path for NVIDIA devices that are not here: engines with their audit, fallbacks, and imported profiles."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_task import task as tiny_task
from torch import Tensor, nn

from hwsmpq.device.tensorrt import adapter
from hwsmpq.engine.build import Builder
from hwsmpq.errors import HwsmpqError
from hwsmpq.hardware.onnx_qdq import OnnxQdqTarget
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prepare.elsewhere import emit_profile, import_profile
from hwsmpq.pipeline.prepare.profile import profile
from hwsmpq.pipeline.prepare.survey import prepare, survey
from hwsmpq.pipeline.prove.build import build
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.report.render import render
from hwsmpq.types import CostTable, LayerAudit, Manifest, Plan, Settings, Survey

SMALL = {"n_pairs": 2, "n_mixtures": 2, "n_candidates": 4, "n_score_samples": 16}
needs_rtx = pytest.mark.skipif(
    adapter.missing("tensorrt-rtx") is not None,
    reason="tensorrt_rtx is not installed (pip install '.[tensorrt-rtx]')",
)


def settings(target: str, ladder: str, **others: object) -> Settings:
    return Settings("tiny", target=target, ladder=tuple(ladder.split(",")), **SMALL, **others)


class WideStem(nn.Module):
    """A first convolution as ResNets have it, which no eight-bit-float kernel takes, and one that they do take."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 7, stride=2, padding=3)
        self.body = nn.Conv2d(64, 64, 3, padding=1)
        self.up = nn.ConvTranspose2d(64, 16, 2, stride=2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.body(nn.functional.relu(self.stem(x))))
        return self.head(self.up(x).mean(dim=(2, 3)))


def wide_task() -> Task:
    torch.manual_seed(0)
    model, images = WideStem().eval(), torch.randn(96, 3, 32, 32)
    with torch.no_grad():
        logits = model(images)
        model.head.bias.sub_(logits.mean(0))
        model.head.weight.mul_(100)
        labels = model(images).argmax(1)
    return Task(model, images[:16], (images, labels), name="wide")


@needs_rtx
def test_a_run_ends_with_an_engine_its_audit_and_a_plain_word_on_latency(tmp_path: Path) -> None:
    told: list[str] = []
    run = Run(
        tmp_path / "run", settings("tensorrt-rtx:sm89", "int8,fp8,fp16", cost="bitops"), wide_task(), notify=told.append
    )
    certificate = refine(run, resolve_budgets(run, bitops="1.5e9"))
    # The builder has no fp8 kernel for the stem; the target never had one for the transposed convolution.
    assert run.read(Survey).fallbacks(run.network) == certificate.fallbacks == {"stem": {"fp8": "fp32"}}
    assert prepare(run).network.substitutes == {"stem": {"fp8": "fp32"}, "up": {"int8": "fp16", "fp8": "fp16"}}
    assert any("stem in fp32, not in fp8" in message for message in told)
    # It is a different choice from then on: nothing is mismatched in what was built.
    assert certificate.verified and certificate.audit.n_as_requested == certificate.audit.n_layers == 4
    manifest = run.read(Manifest)
    assert {layer.layer: layer.realised for layer in manifest.layers} == run.read(Plan).assignment
    assert manifest.n_bytes > 64 * 64 * 9 and manifest.build_seconds > 0
    assert (run.folder / "engine" / "engine.plan").stat().st_size < manifest.n_bytes
    assert certificate.latency_ms is None and "latency not measured" in certificate.claim
    assert certificate.accuracy.source == "simulator"
    page = render(run.folder).read_text()
    assert "latency not measured" in page and "runs stem in fp32, not in fp8" in page


@needs_rtx
def test_a_layer_that_falls_back_only_in_the_mixture_is_taken_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's first engine runs one layer otherwise than the uniform engines did: it is solved again."""
    run = Run(tmp_path / "run", settings("tensorrt-rtx:sm89", "int8,fp16"), tiny_task())
    budgets = resolve_budgets(run, bitops="int8")
    deliver, built = Builder.deliver, []

    def odd(self: Builder, assignment: dict[str, str], folder: Path) -> Manifest:
        manifest = deliver(self, assignment, folder)
        built.append(assignment)
        layers = tuple(
            LayerAudit(a.layer, a.requested, "fp32") if a.layer == "conv2" and a.requested == "int8" else a
            for a in manifest.layers
        )
        return Manifest(manifest.target, assignment, manifest.files, layers)

    monkeypatch.setattr(Builder, "deliver", odd)
    with pytest.raises(HwsmpqError, match="bitops"):
        refine(run, budgets)  # conv2 cannot be had in int8 any more, so the budget cannot be kept
    certificate = refine(run, resolve_budgets(run, max_drop=50))
    assert built[0]["conv2"] == "int8"
    assert run.read(Plan).assignment["conv2"] in ("fp16", "fp32")
    assert certificate.fallbacks == {"conv2": {"int8": "fp32"}}
    assert certificate.audit.mismatches == ()


def test_a_precision_that_the_device_lacks_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match=r"tensorrt-rtx:sm86 has no fp8"):
        Run(tmp_path / "run", settings("tensorrt-rtx:sm86", "fp8,fp16"), tiny_task())
    run = Run(tmp_path / "run", settings("tensorrt:sm87", "w4a16,fp16"), tiny_task())
    with pytest.raises(HwsmpqError, match=r"no layer of the network runs in w4a16 on tensorrt:sm87"):
        survey(run)
    assert not (tmp_path / "run" / "ranges.json").exists()


def test_a_latency_needs_a_measurement(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", settings("tensorrt:sm87", "int8,fp16", cost="latency"), tiny_task())
    with pytest.raises(HwsmpqError, match="--from-trtexec"):
        profile(run)


SPEED = {"int8": 0.3, "fp16": 0.6}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Callable[[Path], list[Path]]:
    """Plays trtexec on every ONNX file of a kit: the files it exports, with times in proportion to MACs."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "hardware"))
    from trt import synthetic

    def play(kit: Path) -> list[Path]:
        files = []
        macs = {"conv1": 5.0, "conv2": 2.0, "conv3": 3.0, "head": 0.5}
        for onnx in sorted(kit.glob("*.onnx")):
            OnnxQdqTarget().build(onnx, tmp_path / "read")
            precisions = OnnxQdqTarget().load(tmp_path / "read").realised(list(macs))
            kernels = [
                synthetic._kernel(f"{layer}_myl0", "correlation", [layer], [synthetic.DTYPE[p]], (8, 8, 3, 3), "11")
                for layer, p in precisions.items()
            ]
            ms = {f"{layer}_myl0": macs[layer] * SPEED[p] for layer, p in precisions.items()}
            layers, timed = kit / f"{onnx.stem}.layers.json", kit / f"{onnx.stem}.profile.json"
            layers.write_text(json.dumps({"Layers": kernels}))
            timed.write_text(json.dumps([{"count": 9}, *({"name": n, "medianMs": t} for n, t in ms.items())]))
            files += [layers, timed]
        return files

    yield play
    sys.path.pop(0)


@pytest.mark.usefixtures("told_apart")
def test_a_profile_from_elsewhere_is_searched_with_and_not_claimed(
    tmp_path: Path, elsewhere: Callable[[Path], list[Path]]
) -> None:
    run = Run(tmp_path / "run", settings("tensorrt:sm87", "int8,fp16"), tiny_task())
    with pytest.raises(HwsmpqError, match="latency"):
        search(run, resolve_budgets(run, latency_ms=4.0))
    kit = emit_profile(run, tmp_path / "kit")
    assert sorted(p.stem for p in kit.glob("*.onnx")) == ["fp16", "int8", "mixture01", "mixture02"]
    table = import_profile(run, elsewhere(kit))
    assert table.uniform_ms["int8"].median_ms == pytest.approx(10.5 * 0.3)
    assert table.uniform_ms["fp16"].median_ms == pytest.approx(10.5 * 0.6)
    again = Run(tmp_path / "run", settings("tensorrt:sm87", "int8,fp16"), tiny_task())
    certificate = refine(again, resolve_budgets(again, latency_ms=4.0))
    plan = again.read(Plan)
    expected = sum(m * SPEED[p] for m, p in zip((5, 2, 3, 0.5), plan.assignment.values(), strict=True))
    assert plan.predicted_latency_ms == pytest.approx(expected, rel=1e-3) and expected <= 4.0
    assert set(plan.assignment.values()) == {"int8", "fp16"}
    (budget,) = certificate.budgets
    assert (budget.predicted, budget.measured, budget.met) == (plan.predicted_latency_ms, None, False)
    assert certificate.latency_ms is None and not certificate.verified
    page = render(again.folder).read_text()
    assert "not measured" in page
    # A speedup is of the imported engines; another ladder does not take the table for its own.
    assert resolve_budgets(again, speedup=2.0)[0].limit == pytest.approx(10.5 * 0.3)
    other = Run(tmp_path / "run", settings("tensorrt:sm87", "int8,fp32"), tiny_task())
    assert other.imported_costs is None


def test_files_of_one_engine_are_not_enough(tmp_path: Path, elsewhere: Callable[[Path], list[Path]]) -> None:
    run = Run(tmp_path / "run", settings("tensorrt:sm87", "int8,fp16"), tiny_task())
    files = elsewhere(emit_profile(run, tmp_path / "kit"))
    with pytest.raises(HwsmpqError, match="no pairs"):
        import_profile(run, files[:3])
    with pytest.raises(HwsmpqError, match="no engine runs every layer in int8"):
        import_profile(run, files[:2])
    assert not run.path(CostTable).exists()
    with pytest.raises(HwsmpqError, match="not profiled by trtexec"):
        import_profile(Run(tmp_path / "other", settings("onnx-qdq", "int8,fp32"), tiny_task()), files)


@needs_rtx
def test_the_reference_is_never_replaced(tmp_path: Path) -> None:
    """Audits of fp32 layers are no fallbacks: accuracy is measured against fp32 whatever the target runs it in."""
    run = Run(tmp_path / "run", settings("tensorrt-rtx:sm89", "int8,fp32"), tiny_task())
    assert survey(run).fallbacks(run.network) == {}
    outputs = run.simulator.scores([run.network.uniform("fp32")], (run.task.evaluation.inputs[0],), lambda o, r: o)[0]
    np.testing.assert_allclose(outputs, run.task.model(run.task.evaluation.inputs[0]).detach(), rtol=1e-4, atol=1e-3)
    search(run, resolve_budgets(run, bitops="int8"))
    assert build(run).layers
