"""Inferences side by side, and the memory that an engine takes: measured, budgeted, certified."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import OPENVINO_SETTINGS, QDQ_SETTINGS, Finished, finish, task

from hwsmpq.cli.verdict import show_verdict
from hwsmpq.engine.load import load
from hwsmpq.errors import HwsmpqError
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.report.verdict import judge
from hwsmpq.types import CHOSEN, REFERENCE, CostTable, Manifest, Round, Rounds

SIDE_BY_SIDE = replace(OPENVINO_SETTINGS, streams=2)
SLOW, SMALL_MB = 0.01, 1e-3


@pytest.fixture(scope="module")
def streams_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("streams") / "run", SIDE_BY_SIDE, throughput=SLOW, peak_mb=1e4)


def test_streams_are_measured_and_certified(streams_run: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    run, certificate = streams_run.open(), streams_run.certificate
    table = run.read(CostTable)
    assert table.machine["n_streams"] == "2" and run.read(Manifest).streams == 2
    assert certificate.latency_ms is not None and certificate.latency_ms.streams == 2
    assert [(b.kind, b.throughput) for b in streams_run.budgets] == [("latency_ms", SLOW), ("peak_mb", None)]
    assert certificate.budgets[0].met and certificate.budgets[0].limit == pytest.approx(1e3 / SLOW)
    assert "a second with 2 streams" in judge(run.network, run.plan(), certificate).text
    show_verdict(certificate, run.folder)
    assert "at least 0.0100 a second" in " ".join(capsys.readouterr().out.split())
    outputs = load(run.folder)(*task().calibration)
    assert outputs.shape == (len(task().calibration[0]), 4)


def test_memory_is_measured_and_certified(streams_run: Finished) -> None:
    run, certificate = streams_run.open(), streams_run.certificate
    assert set(run.read(CostTable).peak_mb) == {"int8", "fp32"}
    found = {engine.name: engine.peak_mb for engine in certificate.engines}
    assert all(peak is not None and peak > 0 for peak in found.values()) and {CHOSEN, REFERENCE} < found.keys()
    outcome = certificate.budgets[1]
    assert (outcome.kind, outcome.measured, outcome.met) == ("peak_mb", found[CHOSEN], True)


def test_memory_of_an_engine_is_that_of_its_weights_and_more(tmp_path: Path) -> None:
    """Against what is known without measuring: an engine holds at least its weights."""
    import numpy as np
    import openvino

    from hwsmpq.device.openvino import FILE, OpenvinoEngine

    n = 3000
    peaks = []
    for n_products in (1, 2):
        x = openvino.opset13.parameter([1, n], openvino.Type.f32)
        y = x
        for i in range(n_products):
            weight = np.random.default_rng(i).standard_normal((n, n)).astype(np.float32)
            y = openvino.opset13.matmul(y, openvino.opset13.constant(weight), False, False)
        (tmp_path / str(n_products)).mkdir()
        openvino.save_model(openvino.Model([y], [x]), tmp_path / str(n_products) / FILE, compress_to_fp16=False)
        engine = OpenvinoEngine(tmp_path / str(n_products) / FILE)
        peaks.append(engine.peak_mb([np.zeros((1, n), np.float32)]))
    weight_mb = 4 * n * n / 1e6
    assert peaks[0] is not None and peaks[1] is not None
    assert peaks[0] > weight_mb
    assert 0.9 * weight_mb < peaks[1] - peaks[0] < 3.5 * weight_mb


def test_memory_that_no_engine_keeps_is_refused_by_name(streams_run: Finished) -> None:
    run = streams_run.open()
    with pytest.raises(HwsmpqError, match="peak_mb"):
        refine(run, resolve_budgets(run, peak_mb=SMALL_MB))


def test_what_needed_more_memory_than_its_budget_is_not_chosen_again(streams_run: Finished, tmp_path: Path) -> None:
    import shutil

    run = streams_run.open(Path(shutil.copytree(streams_run.folder, tmp_path / "run")))
    budgets = resolve_budgets(run, peak_mb=2 * max(run.read(CostTable).peak_mb.values()))
    chosen = refine(run, budgets).rounds[-1].assignment
    over = Round(budgets, chosen, None, None, False, 10 * budgets[0].limit, ("peak_mb",))
    run.artifacts.write(Rounds((over,)), run.artifacts.made_from(Rounds))
    assert refine(run, budgets).rounds[-1].assignment != chosen


def test_streams_are_refused_by_name_where_there_are_none(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match="onnx-qdq runs one inference after the other"):
        Run(tmp_path / "run", replace(QDQ_SETTINGS, streams=2), task())


def test_a_latency_is_no_budget_of_streams(streams_run: Finished) -> None:
    with pytest.raises(HwsmpqError, match="--latency-ms is given with 2 streams"):
        resolve_budgets(streams_run.open(), latency_ms=1.0)
    with pytest.raises(HwsmpqError, match="--speedup and --throughput are given"):
        resolve_budgets(streams_run.open(), speedup=1.0, throughput=1.0)
    with pytest.raises(HwsmpqError, match="a throughput of 0"):
        resolve_budgets(streams_run.open(), throughput=0.0)
