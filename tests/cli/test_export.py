"""What goes with an engine: plain scripts run it as `hwsmpq.load` does, and README.md says what the files hold."""

from __future__ import annotations

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, Finished
from tiny_task import images, network

import hwsmpq
from cli.console import Cli
from hwsmpq.engine.dynamic import DYNAMIC
from hwsmpq.engine.handout import README, SCRIPT, SERVED, Port, ports, write_handout
from hwsmpq.folder import Folder
from hwsmpq.hardware.targets import get_target
from hwsmpq.model.task import Task
from hwsmpq.types import Manifest, Settings

PREPROCESSING = "Grey pictures of 8 x 8, divided by 16."


@pytest.fixture
def task() -> Task:
    net, inputs = network(), images(40, seed=1)
    return Task(net, images(16, 2), (inputs, net(inputs).argmax(1).detach()), preprocessing=PREPROCESSING)


@pytest.fixture(params=[("openvino-cpu", 1), ("openvino-cpu", 3), ("onnxruntime-cpu", 1)], ids=str)
def built(request: pytest.FixtureRequest, tmp_path: Path, task: Task) -> Path:
    """A run folder with the engine of a mixed plan, one sample or a batch at once."""
    target, batch = request.param
    reason = get_target(target).unavailable()
    if reason:
        pytest.skip(reason)
    settings = Settings(**{**SMALL, "task": ""}, target=target, batch=batch, cost="bitops")
    run = hwsmpq.Run(tmp_path / "run", settings, task)
    n_bitops = sum(layer.n_macs for layer in run.network.layers) * 300.0
    hwsmpq.search(run, (hwsmpq.Budget("bitops", n_bitops),))
    hwsmpq.build(run)
    return tmp_path / "run"


def test_the_plain_script_gives_what_load_gives(built: Path, tmp_path: Path, cli: Cli) -> None:
    """From the exported files alone, by an interpreter that cannot import this package."""
    result = cli("export", tmp_path / "shipped", "-o", built)
    assert result.code == 0 and "not verified: nothing was measured" in result.err
    manifest = Folder(built).read(Manifest)
    shipped = {path.name for path in (tmp_path / "shipped").iterdir()}
    assert shipped == {*SERVED[manifest.target].ships, README, SCRIPT, DYNAMIC}
    assert {path.name for path in (tmp_path / "shipped" / DYNAMIC).iterdir()} == shipped - {README, DYNAMIC}
    (inputs,), (outputs,) = ports(built / "engine" / "qdq.onnx")
    (tmp_path / "hwsmpq.py").write_text("raise ImportError('not without us')\n")

    def run(script: Path, batch: torch.Tensor) -> np.ndarray:
        np.savez(tmp_path / "inputs.npz", **{inputs.name: batch.numpy()})
        subprocess.run(
            [sys.executable, script, tmp_path / "inputs.npz", tmp_path / "outputs.npz"],
            check=True, env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        )
        with np.load(tmp_path / "outputs.npz") as found:
            return found[outputs.name]

    batch, engine = images(7, seed=7), hwsmpq.load(built)
    one = batch[: manifest.batch]
    np.testing.assert_array_equal(run(tmp_path / "shipped" / SCRIPT, one), engine(one).numpy())
    found = run(tmp_path / "shipped" / DYNAMIC / SCRIPT, batch)
    assert np.linalg.norm(found - engine(batch).numpy()) < 0.05 * np.linalg.norm(found)


def test_the_script_says_what_does_not_fit(built: Path, tmp_path: Path) -> None:
    """In one line with what to do, before the runtime is asked."""
    (inputs,), _ = ports(built / "engine" / "qdq.onnx")
    batch, given = Folder(built).read(Manifest).batch, tmp_path / "inputs.npz"

    def said(array: np.ndarray, name: str = inputs.name, place: str = ".") -> str:
        np.savez(given, **{name: array})
        script = runpy.run_path(str(built / "engine" / place / SCRIPT))
        with pytest.raises(SystemExit) as ended:
            script["read"](str(given))
        return str(ended.value)

    many = images(50, seed=7).numpy()
    assert f"takes ({batch}, 1, 8, 8): give it that shape, or run " in said(many)
    assert f"{DYNAMIC}/{SCRIPT}, which takes any number of samples" in said(many)
    assert "takes ('any', 1, 8, 8)" in said(many[:, :, :7], place=DYNAMIC)
    assert "is float64, and the engine takes float32: convert it with .astype('float32')" in said(many.astype(float))
    assert f"has no array '{inputs.name}'" in said(many, "another")
    given.write_bytes(b"no archive")
    for arguments, message in ([given, given], "cannot be read"), ([given], "run_engine.py inputs.npz outputs.npz"):
        ended = subprocess.run(
            [sys.executable, built / "engine" / SCRIPT, *arguments], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 1 and message in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_the_readme_says_what_the_runtime_takes(built: Path) -> None:
    manifest, text = Folder(built).read(Manifest), (built / "engine" / README).read_text()
    (inputs,), (outputs,) = ports(built / "engine" / "qdq.onnx")
    assert (inputs.shape, outputs.shape[0]) == ((manifest.batch, 1, 8, 8), manifest.batch)
    assert f"| 1 | `{inputs.name}` | float32 | {manifest.batch} x 1 x 8 x 8 |" in text
    assert f"| 1 | `{outputs.name}` | float32 |" in text
    assert PREPROCESSING in text and "| threads of an inference | 1 |" in text
    assert f"{manifest.batch} sample" in text
    if manifest.target == "openvino-cpu":
        import openvino

        model = openvino.Core().read_model(built / "engine" / "model.xml")
        for port, stated in ((model.inputs[0], inputs), (model.outputs[0], outputs)):
            assert stated.name in port.names
            assert (tuple(port.shape), port.element_type.to_dtype().name) == (stated.shape, stated.dtype)


def test_the_readme_follows_the_task(built: Path, task: Task) -> None:
    """A text that changed is written by the next build, which builds nothing."""
    before = (built / "engine" / "manifest.json").read_bytes()
    task.preprocessing = "Otherwise."
    hwsmpq.build(hwsmpq.Run(built, task=task))
    assert "Otherwise." in (built / "engine" / README).read_text()
    assert (built / "engine" / "manifest.json").read_bytes() == before


def test_engines_for_elsewhere_are_files_to_build_from(qdq_run: Finished, tmp_path: Path, cli: Cli) -> None:
    assert cli("export", tmp_path / "shipped", "-o", qdq_run.folder).code == 0
    assert {path.name for path in (tmp_path / "shipped").iterdir()} == {"model.onnx", README, DYNAMIC}
    assert "trtexec --onnx=model.onnx" in (tmp_path / "shipped" / README).read_text()


def test_nothing_is_exported_over_something_or_from_nothing(qdq_copy: Path, tmp_path: Path, cli: Cli) -> None:
    cli("export", tmp_path, "-o", qdq_copy).assert_one_message("is not an empty folder")
    (qdq_copy / "engine" / "model.onnx").write_bytes(b"another")
    result = cli("export", tmp_path / "shipped", "-o", qdq_copy)
    assert result.code == 2 and "was changed after it was built" in result.err
    assert not (tmp_path / "shipped").exists()


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_the_script_for_tensorrt_is_python(qdq_copy: Path, target: str, task: Task) -> None:
    """It needs a GPU to run; here it is only read."""
    engine = qdq_copy / "engine"
    (engine / "engine.plan").write_bytes(b"plan")
    manifest = replace(Folder(qdq_copy).read(Manifest), target=target)
    write_handout(engine, manifest, task)
    script = (engine / SCRIPT).read_text()
    compile(script, SCRIPT, "exec")
    assert "$" not in script and f"import {SERVED[target].package} as tensorrt" in script


class TwoHeads(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Conv2d(1, 4, 3)
        self.classes, self.boxes = torch.nn.Linear(4, 3), torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.body(x).relu().mean((2, 3))
        return {"logits": self.classes(features), "boxes": self.boxes(features)}


def test_several_outputs_keep_names_and_order(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, inputs = TwoHeads().eval(), images(40, seed=1)
    with torch.no_grad():
        labels = net(inputs)["logits"].argmax(1)
    settings = Settings(**{**SMALL, "task": ""}, target="openvino-cpu", ladder=("int8", "fp32"), cost="bitops")
    run = hwsmpq.Run(tmp_path / "run", settings, Task(net, images(8, 2), (inputs, labels)))
    hwsmpq.search(run, (hwsmpq.Budget("bitops", 1e9),))
    hwsmpq.build(run)
    (port,), _ = ports(tmp_path / "run" / "engine" / "qdq.onnx")
    sample = images(1, seed=7)
    np.savez(tmp_path / "inputs.npz", **{port.name: sample.numpy()})
    script = tmp_path / "run" / "engine" / SCRIPT
    subprocess.run([sys.executable, script, tmp_path / "inputs.npz", tmp_path / "outputs.npz"], check=True)
    expected = hwsmpq.load(tmp_path / "run")(sample)
    with np.load(tmp_path / "outputs.npz") as found:
        assert list(found) == ["logits", "boxes"] == list(expected)
        for name in found:
            np.testing.assert_array_equal(found[name], expected[name].numpy())


def test_ports_of_several_inputs(tmp_path: Path) -> None:
    from torch import nn

    class Two(nn.Module):
        def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            return x + ids.float()

    torch.onnx.export(Two().eval(), (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int64)), tmp_path / "two.onnx",
                      dynamo=True, verbose=False)
    inputs, outputs = ports(tmp_path / "two.onnx")
    assert inputs == [Port("x", "float32", (2, 3)), Port("ids", "int64", (2, 3))]
    assert [p.shape for p in outputs] == [(2, 3)]
