"""What every artifact is made from: each input of each stage is changed in turn, and exactly what depends on it is made
again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TASK_FILE
from tiny_task import N_EVALUATION, images, network

from hwsmpq.folder import UNUSED, Folder
from hwsmpq.model.capture import capture
from hwsmpq.model.functions import function_sha256
from hwsmpq.model.task import Task, cross_entropy, top1
from hwsmpq.pipeline import claim as claiming
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.prove.finetune import finetune
from hwsmpq.pipeline.prove.front import pareto
from hwsmpq.pipeline.prove.refine import refine
from hwsmpq.pipeline.prove.verify import verify
from hwsmpq.pipeline.run import Run
from hwsmpq.stages import FILES, ROLES, ROWS, UNCOUNTED, Evaluations
from hwsmpq.types import Certificate, Constraints, CostTable, Front, Recipe, Settings, StageTimes

SETTINGS = Settings(
    task=TASK_FILE, target="onnx-qdq", ladder=("w4a4", "int8", "fp32"), n_pairs=2, n_score_samples=16, n_candidates=2,
    search_evaluations=4,
)
SCHEMAS = {ROWS[kind].schema: kind for kind in FILES if kind is not StageTimes}  # which every call adds to


def shifted_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(outputs, targets) + 1


def wrong(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 1 - top1(outputs, targets)


@dataclass(frozen=True)
class Asked:
    """Everything that one pass through all stages is told."""

    settings: Settings = SETTINGS
    task: dict[str, Any] = field(default_factory=dict)
    flip: tuple[int, ...] = ()
    """Parts of the evaluation data with other labels: 0 the search part, 1 the report part."""
    calibration_seed: int = 2
    bitops: str = "w4a4"
    recipe: Recipe = field(default_factory=lambda: Recipe(n_epochs=1, batch_size=64))
    n_points: int = 2

    def make(self, folder: Path, **how: Any) -> Run:
        """All stages."""
        net, inputs = network(), images(N_EVALUATION, seed=1)
        with torch.no_grad():
            labels = net(inputs).argmax(1)
        order = torch.randperm(N_EVALUATION, generator=torch.Generator().manual_seed(SETTINGS.seed))
        for part, rows in enumerate((order[N_EVALUATION // 2 :], order[: N_EVALUATION // 2])):
            if part in self.flip:
                labels[rows] = (labels[rows] + 1) % 4
        task = Task(net, images(16, seed=self.calibration_seed), (inputs, labels), name="tiny", **self.task)
        run = Run(folder, self.settings, task, **how)
        refine(run, resolve_budgets(run, bitops=self.bitops))
        finetune(run, self.recipe)
        verify(run)
        pareto(run, self.n_points)
        return run


def settings(**changes: Any) -> Asked:
    return Asked(replace(SETTINGS, **changes))


SCORED = {"contributions", "scores", "plan", "front"}
# What training no longer counts for is built untrained first, and again when it was trained.
CHANGES: dict[str, tuple[Asked, set[str]]] = {
    "nothing": (Asked(), set()),
    "observer": (settings(observer="minmax"), {"ranges"}),
    "smooth": (settings(smooth=False), {"ranges"}),
    "correct_bias": (settings(correct_bias=False), {"ranges"}),
    "calibration data": (Asked(calibration_seed=5), {"ranges"}),
    "ladder": (settings(ladder=("w4a4", "int8")), {"survey", *SCORED, "certificate"}),
    "seed": (settings(seed=1), {*SCORED, "trained", "certificate"}),
    "value": (settings(value="kl"), {*SCORED, "trained"}),
    "metric": (Asked(task={"metric": wrong}), {*SCORED, "certificate"}),
    "classification": (Asked(task={"classification": False}), {*SCORED, "trained", "certificate"}),
    "loss": (Asked(task={"loss": shifted_loss}, settings=replace(SETTINGS, value="loss")),
             {*SCORED, "trained", "certificate"}),
    "version": (Asked(task={"version": "2"}), {*SCORED, "trained", "manifest", "certificate"}),
    "labels of the search part": (Asked(flip=(0,)), {*SCORED, "trained"}),
    "labels of the report part": (Asked(flip=(1,)), {"certificate", "front"}),
    "n_score_samples": (settings(n_score_samples=24), {*SCORED}),
    "n_pairs": (settings(n_pairs=3), {"contributions"}),
    "base": (settings(base="int8"), {"contributions", "scores"}),
    "estimator": (settings(estimator="one-at-a-time"), {"contributions", "scores"}),
    "max_evaluations": (settings(max_evaluations=10_000), {"contributions"}),
    "n_candidates": (settings(n_candidates=3), {"plan"}),
    "search_evaluations": (settings(search_evaluations=8), {"plan"}),
    "confidence": (settings(confidence=0.9), {"plan", "certificate", "front"}),
    "constraints": (settings(pin=("head=w4a4",), at_least=("conv2=w4a4",), together=("conv2,conv3",), max_switches=1),
                    {"contributions", "plan", "front"}),
    "constraints of the task": (Asked(task={"constraints": Constraints(pin=("head=w4a4",))}),
                                {"contributions", "plan", "front"}),
    "exclude": (settings(exclude=("head",)), {"survey", *SCORED, "manifest", "certificate", "trained"}),
    "budget": (Asked(bitops="int8"), {"contributions", "plan", "trained"}),
    "recipe": (Asked(recipe=Recipe(n_epochs=1, batch_size=32)), {"trained"}),
    "batch": (settings(batch=2), {"survey", "manifest", "certificate", "front"}),
    "points": (Asked(n_points=3), {"front"}),
    "memory and seconds": (settings(memory_mb=512, timing_seconds=1.0), set()),
}


def there(folder: Folder) -> dict[str, type]:
    return {schema: kind for schema, kind in SCHEMAS.items() if folder.has(kind)}


def states(folder: Folder) -> dict[str, tuple[int, str]]:
    """(which file, payload) by schema: every artifact that is written is another file."""
    return {s: (folder.path(kind).stat().st_ino, folder.sha256(kind)) for s, kind in there(folder).items()}


@pytest.fixture(autouse=True, scope="module")
def captured_once() -> Iterator[None]:
    """The network is the same in all of these runs, and captures are never changed."""
    known = capture(network(), (images(16, seed=2),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claiming, "capture", lambda *given: known)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "run"
    Asked().make(folder)
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_exactly_what_depends_on_a_changed_input_is_made_again(made: Path, tmp_path: Path, change: str) -> None:
    asked, directly = CHANGES[change]
    folder = Folder(shutil.copytree(made, tmp_path / "run"))
    before = states(folder)
    asked.make(folder.root)
    after = states(folder)
    again = {schema for schema in after.keys() - {"settings", "network"} if after[schema] != before.get(schema)}
    changed = {schema for schema in after if after[schema][1] != before.get(schema, ("", ""))[1]}
    by_upstream = {s for s, kind in there(folder).items() if {ROWS[up].schema for up in ROWS[kind].upstream} & changed}
    by_upstream -= {s for s in by_upstream if only_unused(folder, s, changed)}
    assert again == directly | by_upstream
    for schema, kind in there(folder).items():  # every artifact says what is there
        for up in ROWS[kind].upstream:
            recorded = folder.made_from(kind)[ROWS[up].schema]
            assert recorded in (UNUSED, folder.sha256(up) if folder.has(up) else UNUSED), (schema, up)


def only_unused(folder: Folder, schema: str, changed: set[str]) -> bool:
    recorded = folder.made_from(SCHEMAS[schema])
    return all(recorded[s] == UNUSED for s in recorded.keys() & changed)


def test_every_setting_counts_somewhere_or_says_why_not() -> None:
    counted = {name for row in ROWS.values() for name in row.settings}
    counted |= {name for row in ROWS.values() for role in row.roles for name in ROLES[role]}
    through_calls = {"stability"}
    assert counted | UNCOUNTED.keys() | through_calls == {f.name for f in fields(Settings)}
    assert not counted & UNCOUNTED.keys()
    assert {role for row in ROWS.values() for role in row.roles} == ROLES.keys()


def test_rows_name_each_input_once_and_only_what_comes_before() -> None:
    before: set[type] = set()
    for kind, row in ROWS.items():
        assert len(set(row.inputs)) == len(row.inputs), row.schema
        assert set(row.upstream) <= before
        before.add(kind)


def test_all_inputs_of_measurements_count(made: Path) -> None:
    """By the rows alone, for what this target does not measure."""
    folder = Folder(made)
    roles = dict.fromkeys(ROLES, "0")

    def inputs(kind: type, settings: Settings = SETTINGS, **changed: str) -> dict[str, str]:
        asked = {"samples": "0"} if kind is Evaluations else {}
        return folder.inputs(kind, settings, {**roles, **changed}, asked)

    for changes in ({"batch": 2}, {"threads": 2}, {"seed": 1}, {"n_mixtures": 3}, {"ladder": ("int8", "fp32")}):
        assert inputs(CostTable) != inputs(CostTable, replace(SETTINGS, **changes))
    assert inputs(CostTable) == inputs(CostTable, replace(SETTINGS, timing_seconds=1.0, memory_mb=64))
    for role in ("network", "scheme", "value", "metric", "runner"):
        assert inputs(Evaluations) != inputs(Evaluations, **{role: "1"})


def test_metrics_and_labels_of_before_are_not_certified(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "run"))
    old = Folder(folder).read(Certificate)
    new = Asked(task={"metric": wrong}).make(folder).read(Certificate)
    assert new.accuracy.engine == pytest.approx(1 - old.accuracy.engine)


def with_version_1(folder: Folder) -> Iterator[Path]:
    """All artifacts as version 1 wrote them, with inputs by other names."""
    for kind in there(folder).values():
        path = folder.path(kind)
        envelope = json.loads(path.read_text())
        path.write_text(json.dumps({**envelope, "schema_version": 1, "inputs": {"model": "ab"}}))
        yield path


def test_artifacts_of_version_1_are_read_and_made_again(made: Path, tmp_path: Path) -> None:
    folder = Folder(shutil.copytree(made, tmp_path / "run"))
    before, front = states(folder), folder.read(Front)
    assert len(list(with_version_1(folder))) == len(before)
    assert all(folder.sha256(SCHEMAS[schema]) == payload for schema, (_, payload) in before.items())
    assert folder.made_from(Certificate) == {}
    Asked().make(folder.root)
    after = states(folder)
    kept = {"settings", "network"}
    assert {schema for schema in after if after[schema][0] != before[schema][0]} == after.keys() - kept
    for schema in after.keys() - {"manifest", "certificate", "front"}:  # the first two say how long it took
        assert after[schema][1] == before[schema][1], schema
    # A front that is made again is also made of the points of the one before: nothing of it is lost.
    again = folder.read(Front).points
    assert all(any(new.bitops <= old.bitops and new.value >= old.value for new in again) for old in front.points)


GLOBAL = 1.0


def closing_over(value: object) -> Callable[..., object]:
    return lambda outputs, targets: (outputs, value)


def naming_a_global(outputs: object, targets: object) -> object:
    return [GLOBAL for _ in range(2)]


def test_a_function_counts_with_its_code_and_all_that_it_refers_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def sha256(function: Callable[..., object]) -> str:
        found, why_new = function_sha256(function)
        assert why_new is None
        return found

    again = closing_over(1.0)
    assert sha256(closing_over(1.0)) == sha256(again) != sha256(closing_over(2.0))
    assert sha256(closing_over(torch.ones(3))) == sha256(closing_over(torch.ones(3)))
    assert sha256(closing_over(torch.ones(3))) != sha256(closing_over(torch.zeros(3)))
    assert sha256(lambda o, t: o + t) != sha256(lambda o, t: o - t) != sha256(lambda o, t, k=1: o - t)
    assert sha256(lambda o, t: torch.argmax(o)) != sha256(lambda o, t: torch.argmin(o))
    assert sha256(top1) != sha256(cross_entropy)
    before = sha256(naming_a_global)
    monkeypatch.setitem(globals(), "GLOBAL", 2.0)
    assert sha256(naming_a_global) != before
    assert sha256(torch.nn.CrossEntropyLoss()) != sha256(torch.nn.CrossEntropyLoss(label_smoothing=0.1))
    by_error = [Task(network(), images(8, 2), (images(40, 1), torch.arange(40) % 4), metric=metric,
                     higher_is_better=False).metric for metric in (top1, wrong)]
    assert len({sha256(metric) for metric in (top1, wrong, *by_error)}) == 4  # what this package wraps counts too
    cycle: list[object] = []
    cycle.append(cycle)
    assert sha256(closing_over(cycle)) == sha256(closing_over(cycle))


def test_what_cannot_be_told_counts_as_new_and_says_so(tmp_path: Path) -> None:
    unknowable = closing_over(object())
    sha256, why_new = function_sha256(unknowable)
    assert why_new is not None and "object" in why_new
    assert function_sha256(unknowable) == (sha256, why_new)  # in this process it is the same
    assert function_sha256(unknowable, "v1") == function_sha256(closing_over(2.0), "v1") != (sha256, why_new)

    held = object()
    heard: list[str] = []
    metric = lambda outputs, targets: (held, top1(outputs, targets))[1]  # noqa: E731
    Asked(task={"metric": metric}).make(tmp_path / "run", notify=heard.append)
    assert [m for m in heard if "metric=" in m and "version=" in m]


