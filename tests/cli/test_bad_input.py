"""Everything that a user can get wrong ends in one message that says what, and loses nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TASK_FILE, Finished

from cli.console import QDQ, Cli, start, stored
from hwsmpq import artifacts

HEAD = f"""
import sys
sys.path.insert(0, {str(Path(TASK_FILE).parent)!r})
import torch
from torch import nn
from hwsmpq import Task
from tiny_task import images, network, task as good

def evaluation(n=40):
    return images(n, 1), torch.arange(n) % 4

"""
BAD_TASKS = {
    "labels of another number": (
        "def task():\n    return Task(network(), images(8, 2), (images(40, 1), torch.zeros(39).long()))",
        ["40 evaluation inputs but 39 labels"],
    ),
    "labels of classes that the model lacks": (
        "def task():\n    return Task(network(), images(8, 2), (images(40, 1), torch.arange(40) % 9))",
        ["labels run from 0 to 8, the model has 4 classes"],
    ),
    "empty calibration": (
        "def task():\n    return Task(network(), images(0, 2), evaluation())", ["the calibration data is empty"],
    ),
    "NaN in calibration": (
        "def task():\n    x = images(8, 2)\n    x[3, 0, 1, 1] = float('nan')\n"
        "    return Task(network(), x, evaluation())",
        ["calibration data holds NaN", "sample 3"],
    ),
    "infinity in evaluation": (
        "def task():\n    x, y = evaluation()\n    x[5] = float('inf')\n"
        "    return Task(network(), images(8, 2), (x, y))",
        ["evaluation data holds NaN or infinity", "sample 5"],
    ),
    "too few samples": (
        "def task():\n    return Task(network(), images(8, 2), evaluation(10))", ["only 10 evaluation samples"],
    ),
    "control flow on data": (
        "class Branch(nn.Module):\n    def __init__(self):\n        super().__init__()\n        self.net = network()\n"
        "    def forward(self, x):\n        return self.net(x) if x.sum() > 0 else self.net(-x)\n"
        "def task():\n    return Task(Branch(), images(8, 2), evaluation())",
        ["Branch cannot be exported", "data-dependent"],
    ),
    "nothing to quantize": (
        "def task():\n    return Task(nn.Flatten(), images(8, 2), evaluation())", ["no convolution or linear layer"],
    ),
    "weights with NaN": (
        "def task():\n    net = network()\n    net.conv2.weight.data[0] = float('nan')\n"
        "    return Task(net, images(8, 2), evaluation())",
        ["outputs hold NaN"],
    ),
    "not a task": ("def task():\n    return network()", ["gave a TinyNet", "hwsmpq.Task"]),
    "no task function": ("x = 1", ["defines no task()"]),
    "a syntax error": ("def task(:", ["cannot be loaded", "SyntaxError"]),
    "an import that fails": ("import no_such_package", ["cannot be loaded", "no_such_package"]),
}


@pytest.mark.parametrize("case", BAD_TASKS)
def test_bad_tasks(cli: Cli, tmp_path: Path, case: str) -> None:
    body, words = BAD_TASKS[case]
    (tmp_path / "bad.py").write_text(HEAD + body)
    result = cli("run", tmp_path / "bad.py", *QDQ, "--bitops", "int8", "-o", tmp_path / "run")
    result.assert_one_message(*words)


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("nonsense", "unknown task 'nonsense'"),
        ("missing.py", "missing.py"),
        ("hwsmpq.quickstart.task:nothing", "nothing"),
        ("no_such_module:task", "no_such_module"),
        ("torchvision:no_such_network", "no_such_network"),
        ("torchvision:resnet18", "--data imagefolder:DIR"),
    ],
)
def test_unknown_task(cli: Cli, tmp_path: Path, spec: str, word: str) -> None:
    cli("calibrate", spec, "-o", tmp_path / "run").assert_one_message(word)
    assert not (tmp_path / "run" / "network.json").exists()


BAD_OPTIONS = {
    "unknown target": (["--target", "abacus"], ["unknown target 'abacus'", "openvino-cpu"]),
    "unknown precision": (["--ladder", "w4a4,int9"], ["unknown precision 'int9'"]),
    "bits out of range": (["--ladder", "w1a1,fp32"], ["unknown precision 'w1a1'"]),
    "one precision": (["--ladder", "fp32"], ["leaves nothing to choose"]),
    "unequal range": (["--ladder", "w4a8..w8a8"], ["cannot expand 'w4a8..w8a8'"]),
    "precision the target lacks": (["--target", "openvino-cpu", "--ladder", "w4a4,fp32"], ["openvino-cpu", "w4a4"]),
    "unknown observer": (["--observer", "guess"], ["unknown observer 'guess'", "minmax"]),
    "unknown value": (["--value", "beauty"], ["beauty", "loss"]),
    "one pair": (["--n-pairs", "1"], ["n_pairs is 1", "at least 2"]),
    "no candidate": (["--n-candidates", "0"], ["n_candidates is 0"]),
    "no time": (["--timing-seconds", "0"], ["timing_seconds is 0"]),
    "time that is no number": (["--timing-seconds", "nan"], ["timing_seconds is nan"]),
    "latency and speedup": (["--latency-ms", "1", "--speedup", "2"], ["--latency-ms and --speedup are given"]),
    "speedup without latency": (["--speedup", "2"], ["no latency claim"]),
    "latency without latency": (["--latency-ms", "2"], ["no latency claim"]),
    "negative latency": (["--latency-ms", "-1"], ["latency_ms budget of -1"]),
    "negative BitOps": (["--bitops", "-5"], ["bitops budget of -5"]),
    "zero BitOps": (["--bitops", "0"], ["bitops budget of 0"]),
    "BitOps that are no number": (["--bitops", "nan"], ["bitops budget of nan"]),
    "BitOps of an unknown precision": (["--bitops", "few"], ["unknown precision 'few'"]),
    "negative size": (["--size-mb", "-1"], ["size_mb budget of -1"]),
    "negative drop": (["--max-drop", "-0.5"], ["max_drop budget of -0.5"]),
    "drop that is no number": (["--max-drop", "nan"], ["max_drop budget of nan"]),
    "data of another kind of task": (
        ["--data", "imagefolder:x", "--bitops", "int8"],
        ["--weights goes with", "brings its own", "ImageFolder(DIR, transform)"],
    ),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_on_a_finished_run(cli: Cli, qdq_copy: Path, case: str) -> None:
    options, words = BAD_OPTIONS[case]
    budget = ["--bitops", "int8"] if options and options[0] in SETTING_OPTIONS and "--bitops" not in options else []
    before = stored(qdq_copy)
    cli("run", *options, *budget, "-o", qdq_copy).assert_one_message(*words)
    # A folder that was asked something wrong answers as before.
    assert {name: data for name, data in stored(qdq_copy).items() if name != "settings.json"} == {
        name: data for name, data in before.items() if name != "settings.json"
    }


SETTING_OPTIONS = {"--target", "--ladder", "--observer", "--value", "--n-pairs", "--n-candidates", "--timing-seconds"}


@pytest.mark.parametrize("speedup", ["0", "-1", "nan", "inf"])
def test_speedup_that_is_no_positive_number(cli: Cli, openvino_run: Finished, speedup: str) -> None:
    before = stored(openvino_run.folder)
    cli("search", "--speedup", speedup, "-o", openvino_run.folder).assert_one_message("a speedup of")
    assert stored(openvino_run.folder) == before


def test_unknown_option_and_verb(cli: Cli) -> None:
    for args in (["run", "--speed", "2"], ["fly"], ["run", "--n-pairs", "many"]):
        result = cli(*args)
        assert result.code == 2 and result.out == ""
        assert "Traceback" not in result.err and result.err.count("Usage:") == 1


def test_no_task(cli: Cli, tmp_path: Path) -> None:
    cli("run", "-o", tmp_path / "new", "--bitops", "int8").assert_one_message("no task given")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        (["--bitops", "1000"], ["bitops <= 1000", "least reachable bitops 627500"]),
        (["--size-mb", "0.0001"], ["size_mb <= 0.0001", "least reachable size_mb"]),
        (["--bitops", "1000", "--size-mb", "1"], ["bitops <= 1000"]),
        (["--bitops", "w4a4", "--max-drop", "0"], ["max_drop 0 points", "least reached"]),
    ],
)
def test_unreachable_budgets_name_what_binds(cli: Cli, qdq_copy: Path, budgets: list[str], words: list[str]) -> None:
    before = stored(qdq_copy)
    result = cli("run", *budgets, "-o", qdq_copy)
    result.assert_one_message(*words)
    if "--max-drop" not in budgets and len(budgets) == 4:
        assert "size_mb" not in result.err
    assert stored(qdq_copy) == before


def test_unreachable_latency_names_the_least(cli: Cli, openvino_run: Finished) -> None:
    before = stored(openvino_run.folder)
    result = cli("search", "--latency-ms", "1e-6", "-o", openvino_run.folder)
    result.assert_one_message("latency_ms <= 1e-06", "least reachable latency_ms")
    result = cli("search", "--speedup", "1e6", "-o", openvino_run.folder)
    result.assert_one_message("(--speedup 1000000)", "least reachable latency_ms", ");")
    assert stored(openvino_run.folder) == before


def test_run_folder_of_another_model(cli: Cli, qdq_copy: Path, tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text(HEAD + "def task():\n    return good(seed=5)")
    before = stored(qdq_copy)
    result = cli("run", tmp_path / "other.py", "--bitops", "int8", "-o", qdq_copy)
    result.assert_one_message("is the run folder of another model", "choose another folder")
    assert stored(qdq_copy) == before


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\x00\xfe" * 40)


def edit(path: Path) -> None:
    envelope = json.loads(path.read_text())
    envelope["payload"]["model_sha256" if "model_sha256" in envelope["payload"] else "target"] = "0" * 64
    path.write_text(json.dumps(envelope))


def newer(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": artifacts.SCHEMA_VERSION + 1}))


def of_another_kind(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": "recipe"}))


def a_list(path: Path) -> None:
    path.write_text("[1, 2]")


DAMAGE: dict[Callable[[Path], None], str] = {
    truncate: "not readable JSON", empty: "not readable JSON", binary: "not readable JSON",
    edit: "was changed after it was written", newer: f"has schema_version {artifacts.SCHEMA_VERSION + 1}",
    of_another_kind: "field 'schema'",
    a_list: "field 'schema'",
}
FILES = ("settings", "network", "ranges", "contributions", "plan", "engine/manifest", "certificate")


@pytest.mark.parametrize(
    ("damage", "name"),
    [*((truncate, name) for name in FILES), *((damage, "contributions") for damage in DAMAGE if damage != truncate)],
)
def test_damaged_artifacts(cli: Cli, qdq_copy: Path, damage: Callable[[Path], None], name: str) -> None:
    path = qdq_copy / f"{name}.json"
    damage(path)
    before = stored(qdq_copy)
    result = cli("run", "--bitops", "int8", "-o", qdq_copy)
    result.assert_one_message(str(path), DAMAGE[damage])
    assert ("upgrade hwsmpq" in result.err) == (damage is newer)
    assert stored(qdq_copy) == before


def test_following_the_advice_repairs_the_folder(cli: Cli, qdq_copy: Path) -> None:
    before = stored(qdq_copy)
    truncate(qdq_copy / "contributions.json")
    result = cli("run", "--bitops", "int8", "-o", qdq_copy)
    result.assert_one_message("delete contributions.json and run the stage that writes it again")
    (qdq_copy / "contributions.json").unlink()
    assert cli("run", "--bitops", "int8", "-o", qdq_copy).code == 0
    old, new = json.loads(before["contributions.json"]), json.loads(stored(qdq_copy)["contributions.json"])
    assert new["payload"] == old["payload"]


def test_damaged_store_of_evaluations(cli: Cli, qdq_copy: Path) -> None:
    for path in qdq_copy.glob("evaluations.sqlite*"):
        path.unlink()
    (qdq_copy / "evaluations.sqlite").write_bytes(b"no database" * 500)
    cli("search", "--bitops", "w4a4", "-o", qdq_copy).assert_one_message("evaluations.sqlite is damaged", "delete")


def test_changed_engine(cli: Cli, qdq_copy: Path) -> None:
    (qdq_copy / "engine" / "model.onnx").write_bytes(b"other")
    cli("verify", "-o", qdq_copy).assert_one_message("model.onnx is missing or was changed")


@pytest.mark.parametrize("verb", ["build", "verify"])
def test_a_stage_before_its_turn(cli: Cli, tmp_path: Path, verb: str) -> None:
    cli(verb, TASK_FILE, "-o", tmp_path / "run").assert_one_message("no plan at", "hwsmpq run")


def test_report_of_an_empty_folder(cli: Cli, tmp_path: Path) -> None:
    cli("report", "-o", tmp_path / "nothing").assert_one_message("no network at")


def test_one_message_from_a_process_of_its_own(tmp_path: Path) -> None:
    """Warnings of the libraries would come out here."""
    (tmp_path / "bad.py").write_text(HEAD + BAD_TASKS["control flow on data"][0])
    process = start("inspect", tmp_path / "bad.py", "-o", tmp_path / "run")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: Branch cannot be exported") and "Traceback" not in err
    assert err.count("\n") == 3
