"""The documentation is true: its commands run, its examples work, its links and its reference are up to date."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from documents import blocks, run
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
RUN = {"tutorial.md", "commands.md", "search.md", "serving.md"}
"""Pages whose commands are run, here or with the README's."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the tutorial expects: its task file, pictures of two classes, and weights."""
    task_file, = (block for block in blocks(TUTORIAL, "python") if block.startswith("# photos_task.py"))
    (tmp_path / "photos_task.py").write_text(task_file)
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 256, size=(40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{i}.png")
    from torch import nn

    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2),
    )
    torch.save(network.state_dict(), tmp_path / "photos.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "photos_task", raising=False)
    return tmp_path


def run_or_copy(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = shlex.split(command)
    if program != "cp":
        run(command, monkeypatch)
        return
    assert arguments[0] == "-r"
    shutil.copytree(*arguments[1:])


@pytest.mark.slow
def test_the_tutorial_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line[2:] for block in blocks(TUTORIAL, "console") for line in block.splitlines()]
    assert len(commands) >= 8
    for command in commands:
        run_or_copy(command, monkeypatch)
    assert (folder / "runs/smaller/comparison.html").is_file()
    assert (folder / "runs/photos/front.json").is_file() and (folder / "runs/portable/report.html").is_file()
    example, = (block for block in blocks(TUTORIAL, "python") if "optimize" in block)
    assert len([line for line in example.splitlines() if line]) <= 10
    capsys.readouterr()
    exec(compile(example, "tutorial.md", "exec"), {})
    assert "LatencyOutcome" in capsys.readouterr().out


def test_the_example_of_a_target_passes_for_one(tmp_path: Path) -> None:
    """It builds, runs and audits an engine that gives what the simulator's network gives."""
    text = (ROOT / "docs" / "targets.md").read_text()
    names: dict[str, object] = {}
    exec(compile(blocks(text, "python")[0], "targets.md", "exec"), names)
    from tiny_task import images, network

    from hwsmpq.engine.build import Builder
    from hwsmpq.model.capture import capture
    from hwsmpq.quantize.ranges import calibrate
    from hwsmpq.quantize.scheme import get_scheme

    target = names["ReferenceCpuTarget"]()  # type: ignore[operator]
    assert target.unavailable() is None and target.machine()
    captured, scheme = capture(network(), (images(2, 0),)), get_scheme(target.scheme_name)
    ranges = calibrate(captured, (images(8, 2),), scheme, (8,))
    builder = Builder(captured, ranges, scheme, target)
    engine = builder.engine(captured.network.uniform("fp32"))
    x = images(1, 5)
    np.testing.assert_allclose(engine.infer([x.numpy()])[0], network()(x).detach().numpy(), rtol=1e-3, atol=1e-3)
    mixed = captured.network.uniform("int8") | {"head": "fp32"}
    assert builder.engine(mixed).realised(list(mixed)) == mixed


def test_the_reference_is_what_the_code_says(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("reference_tool", ROOT / "tools" / "reference.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PATH.read_text() == tool.reference(), "run tools/reference.py"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_and_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    """Links to other pages, to their headings, and to files; without network."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "start.html").read_text()
    assert 'href="tutorial.html"' in page and 'src="images/report-front.png"' in page
    assert "https://fonts" not in page


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    """Guards the test above."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mkdocs.yml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "docs_site.py", tmp_path / "tools")
    with open(tmp_path / "docs" / "limits.md", "a") as handle:
        handle.write("\n[nowhere](tutorial.md#no-such-heading)\n")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0 and "no-such-heading" in done.stderr


RECIPES = [
    block for page in ("recipes.md", "your-network.md")
    for block in blocks((ROOT / "docs" / page).read_text(), "python")
    if re.match(r"# \w+_task\.py\n", block)
]


@pytest.mark.parametrize("block", RECIPES, ids=lambda block: block.split()[1])
def test_recipes_are_tasks(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / block.split()[1]
    path.write_text(block)
    monkeypatch.chdir(tmp_path)
    run(f"hwsmpq run {path.name} --ladder int8,fp32 --cost bitops --bitops int8 --n-pairs 2 -o run", monkeypatch)
    assert (tmp_path / "run" / "certificate.json").is_file()


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    assert all(f"({page.name})" in index for page in PAGES if page.name != "index.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_not_run_say_what_they_need(page: Path) -> None:
    """Blocks of shell commands on other pages need something that a test has not."""
    text = page.read_text()
    if page.name in RUN:
        return
    for block in re.finditer(r"^```(console|sh)[^\n]*\n", text, re.MULTILINE):
        assert re.search(r"\bneeds?\b", block[0]), f"{page.name}: {block[0]!r} does not say what it needs"


def test_pictures_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").glob("*.png"))
    assert pictures and all(picture.stat().st_size < 100_000 for picture in pictures)
