"""Ranges from another machine, and TensorRT's calibration cache both ways."""

from __future__ import annotations

import csv
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL
from tiny_task import images, network

import hwsmpq
from hwsmpq import artifacts
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.model.parts import tensors_sha256
from hwsmpq.model.task import Task
from hwsmpq.pipeline.prepare.ranges_elsewhere import export_cache, import_cache, import_ranges, tensor_names
from hwsmpq.pipeline.run import Run
from hwsmpq.quantize.calibration_cache import read_cache, write_cache
from hwsmpq.types import Ranges, Settings

ROOT = Path(__file__).parents[2]
QDQ = Settings(**{**SMALL, "task": ""}, target="onnx-qdq", ladder=("int8", "fp32"))
TENSORRT = Settings(
    **{**SMALL, "task": ""}, target="tensorrt:sm87", ladder=("int8", "fp32"), smooth=False, correct_bias=False,
)


def task(n_calibration: int = 16, seed: int = 0) -> Task:
    net, inputs = network(seed), images(40, seed=1)
    return Task(net, images(n_calibration, seed=2), (inputs, net(inputs).argmax(1).detach()))


def test_ranges_of_another_machine_stand_in_for_its_data(tmp_path: Path) -> None:
    """One sample, for shapes, is all that the second machine has; the engine is the same."""
    here, there = Run(tmp_path / "here", QDQ, task()), Run(tmp_path / "there", QDQ, task(n_calibration=1))
    ranges = hwsmpq.calibrate(here)
    assert import_ranges(there, here.path(Ranges)) == ranges == hwsmpq.calibrate(there)
    limit = (hwsmpq.Budget("bitops", 1e9),)
    files = []
    for run in (here, there):
        hwsmpq.search(run, limit)
        files.append(hwsmpq.build(run).files)
    assert files[0] == files[1]


def test_ranges_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", QDQ, task())
    hwsmpq.calibrate(run)
    file = run.path(Ranges)
    for settings, other, why in (
        (QDQ, task(seed=1), "other weights"), (TENSORRT, task(), "for the scheme unsigned_activations"),
        (Settings(**{**SMALL, "task": ""}, target="onnx-qdq", ladder=("w4a4", "int8")), task(), "lack 4 bits"),
    ):
        elsewhere = Run(tmp_path / why.replace(" ", ""), settings, other)
        with pytest.raises(HwsmpqError, match=why):
            import_ranges(elsewhere, file)
        assert not elsewhere.artifacts.has(Ranges)


def test_another_ladder_calibrates_and_says_so(tmp_path: Path) -> None:
    hwsmpq.calibrate(Run(tmp_path / "here", QDQ, task()))
    import_ranges(Run(tmp_path / "there", QDQ, task(1)), tmp_path / "here" / "ranges.json")
    said: list[str] = []
    wider = Settings(**{**SMALL, "task": ""}, target="onnx-qdq", ladder=("w4a4", "int8"))
    ranges = hwsmpq.calibrate(Run(tmp_path / "there", wider, task(), notify=said.append))
    assert ranges.n_samples == 16 and any("lack 4 bits" in text for text in said)


def test_a_cache_comes_back_as_it_was(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", TENSORRT, task())
    ranges = export_cache(run, tmp_path / "calibration.cache")
    header, *rows = (tmp_path / "calibration.cache").read_text().splitlines()
    assert header.startswith("TRT-") and len(rows) == len({*chain(*tensor_names(run).values())})
    back = import_cache(Run(tmp_path / "again", TENSORRT, task(1)), tmp_path / "calibration.cache")
    for layer, one in ranges.layers.items():
        largest = max(map(abs, one.clip[8]))
        np.testing.assert_allclose(back.layers[layer].clip[8], (-largest, largest), rtol=1e-6)
    # What the engine computes with is the same scale.
    grids = [run.scheme.activation_grid(r.layers["conv2"].clip[8], 8) for r in (ranges, back)]
    assert grids[0].scale == pytest.approx(grids[1].scale, rel=1e-6)


def test_the_format_of_the_cache() -> None:
    """A line as TensorRT writes it: the scale 0.007874016 is 1 / 127."""
    text = write_cache({"input": 1.0, "a: b": 2.54})
    assert text.splitlines()[1] == "input: " + struct.pack(">f", 1 / 127).hex() == "input: 3c010204"
    assert read_cache(text) == pytest.approx({"input": 1.0, "a: b": 2.54}, rel=1e-6)


@pytest.mark.parametrize("text", ["", "{}", "TRT-8601-EntropyCalibration2\ninput 3c010204",
                                  "TRT-8601-EntropyCalibration2\ninput: 7f800000",
                                  "TRT-8601-EntropyCalibration2\ninput: xyz"])
def test_what_is_no_cache_is_refused(text: str) -> None:
    with pytest.raises(HwsmpqError, match="no calibration cache"):
        read_cache(text)


def test_a_cache_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "calibration.cache"
    cache.write_text(write_cache({"elsewhere": 1.0}))
    with pytest.raises(HwsmpqError, match=r"lacks 4 of 4 tensors"):
        import_cache(Run(tmp_path / "run", TENSORRT, task()), cache)
    with pytest.raises(HwsmpqError, match="symmetric ranges of 8 bits"):
        import_cache(Run(tmp_path / "qdq", QDQ, task()), cache)


def test_a_cache_goes_by_the_names_of_the_users_file(tmp_path: Path) -> None:
    net = network()
    torch.onnx.export(net, (images(1, 0),), tmp_path / "mine.onnx", dynamo=True, verbose=False, input_names=["pixels"])
    inputs = images(40, seed=1)
    onnx_task = Task(tmp_path / "mine.onnx", images(1, 2), (inputs, net(inputs).argmax(1).detach()))
    run = Run(tmp_path / "run", TENSORRT, onnx_task)
    names = tensor_names(run)
    assert len(names) == 4 and next(iter(names.values())) == ("pixels",)
    import onnx

    nodes = onnx.load(tmp_path / "mine.onnx").graph.node
    assert {*chain(*names.values())} <= {name for node in nodes for name in node.input}


@pytest.mark.parametrize("folder", sorted((ROOT / "calibration").glob("*/")), ids=lambda folder: folder.name)
def test_shipped_ranges_can_be_read(folder: Path) -> None:
    ranges = artifacts.read(folder / "ranges.json", Ranges)
    with open(folder / "samples.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == ranges.n_samples == len({row["sample"] for row in rows})
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_shipped_ranges_of_the_quickstart_are_those_of_its_samples(tmp_path: Path) -> None:
    folder = ROOT / "calibration" / "quickstart"
    settings = Settings("hwsmpq.quickstart.task:task", target="onnx-qdq", ladder=("int8", "fp32"))
    run, shipped = Run(tmp_path / "run", settings), artifacts.read(folder / "ranges.json", Ranges)
    assert import_ranges(run, folder / "ranges.json") == shipped == Folder(tmp_path / "run").read(Ranges)
    assert shipped.data_sha256 == tensors_sha256(run.task.calibration)
    with open(folder / "samples.csv", newline="") as handle:
        hashes = [row["sha256"] for row in csv.DictReader(handle)]
    assert hashes == [tensors_sha256((x[None],)) for x in run.task.calibration[0]]
    fresh = hwsmpq.calibrate(Run(tmp_path / "fresh", settings))
    for layer, one in fresh.layers.items():
        np.testing.assert_allclose(one.clip[8], shipped.layers[layer].clip[8], rtol=1e-3, atol=1e-4)
