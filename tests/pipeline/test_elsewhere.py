"""Cost tables from another machine: taken where they fit, refused where they do not, and claimed as what they are."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Finished
from tiny_task import task

from hwsmpq import artifacts
from hwsmpq.artifacts import IMPORTED
from hwsmpq.errors import HwsmpqError
from hwsmpq.model.task import Task
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.prepare import profile as profiling_stage
from hwsmpq.pipeline.prepare.elsewhere import import_table
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.run import Run
from hwsmpq.types import CostTable, Measurement, Network


def other_weights() -> Task:
    known = task()
    with torch.no_grad():
        for parameter in known.model.parameters():
            parameter.mul_(1.1)
    return known


@pytest.fixture
def elsewhere(openvino_run: Finished, tmp_path: Path) -> Path:
    """The table of a machine that is nine times as fast."""
    table = artifacts.read(openvino_run.folder / "cost_table.json", CostTable)

    def faster(one: Measurement) -> Measurement:
        return replace(one, median_ms=one.median_ms / 9, spread_ms=one.spread_ms / 9)

    fast = replace(
        table, machine={**table.machine, "device": "another"},
        uniform_ms={name: faster(one) for name, one in table.uniform_ms.items()},
        engines=tuple(replace(e, measured=faster(e.measured), reference=faster(e.reference)) for e in table.engines),
    )
    path = tmp_path / "table.json"
    artifacts.write(path, fast)
    return path


def test_a_table_serves_the_same_network_with_other_weights_without_timing_anything(
    openvino_run: Finished, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("an engine was timed")

    run = Run(tmp_path / "run", openvino_run.settings, other_weights())
    monkeypatch.setattr(type(run.target.device), "measure", forbidden)
    monkeypatch.setattr(profiling_stage.profiling, "measure_costs", forbidden)
    table = import_table(run, elsewhere)
    assert not run.measures_latency and run.imported_costs == table
    known = openvino_run.open(openvino_run.folder)
    assert known.network.model_sha256 != run.network.model_sha256
    limit = 1.05 * known.read(CostTable).uniform_ms["fp32"].median_ms / 9
    plan = search(run, resolve_budgets(run, latency_ms=limit))
    assert plan.predicted_latency_ms is not None and plan.predicted_latency_ms <= limit
    certificate = refine(run, resolve_budgets(run, latency_ms=limit))
    assert certificate.latency_ms is None and certificate.budgets[0].measured is None
    assert not certificate.verified  # a budget that was not measured is not met
    assert "predicted from a profile of another machine" in certificate.claim
    assert artifacts.read_envelope(run.path(CostTable), CostTable)["inputs"].keys() == {IMPORTED}


@pytest.mark.parametrize(
    "changes, other",
    [
        ({"architecture": "0" * 64, "model_sha256": "0" * 64}, "network"),
        ({"target": "onnxruntime-cpu"}, "target"),
        ({"ladder": ("int8",)}, "ladder"), ({"machine": {"inputs": "7x1x8x8"}}, "inputs"),
    ],
)
def test_a_table_of_something_else_is_refused_and_the_folder_keeps_what_it_had(
    changes: dict[str, object], other: str, openvino_run: Finished, elsewhere: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    before = (folder / "cost_table.json").read_bytes()
    artifacts.write(elsewhere, replace(artifacts.read(elsewhere, CostTable), **changes))
    with pytest.raises(HwsmpqError, match=f"another {other}"):
        import_table(openvino_run.open(folder), elsewhere)
    assert (folder / "cost_table.json").read_bytes() == before


def test_a_network_of_an_older_version_is_brought_up_to_date(openvino_run: Finished, tmp_path: Path) -> None:
    """The network, which is no measurement, is described anew; what was measured stays."""
    folder = Path(shutil.copytree(openvino_run.folder, tmp_path / "run"))
    run = openvino_run.open(folder)
    known, network = run.read(CostTable), artifacts.plain(run.read(Network))
    envelope = json.loads(run.path(Network).read_text())
    envelope["payload"] = {name: part for name, part in network.items() if name != "reads"} | {"edges": []}
    envelope["payload_sha256"] = artifacts.digest(envelope["payload"])
    run.path(Network).write_text(json.dumps(envelope))
    with pytest.raises(HwsmpqError, match=r"network.json: field 'payload.reads'"):
        run.read(Network)
    assert profiling_stage.profile(run) == known and artifacts.plain(run.read(Network)) == network
