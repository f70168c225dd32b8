"""The README and the pages that go on from it are run as they stand: task file, commands in order, Python examples."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from documents import blocks, run

from hwsmpq.stages import FILES, MEMO_FILE
from hwsmpq.types import CostTable, Division, Rounds

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS_PAGE = (ROOT / "docs" / "commands.md").read_text()
GUIDE = "\n".join((ROOT / page).read_text() for page in (
    "README.md", "docs/your-network.md", "docs/commands.md", "docs/search.md", "docs/hardware.md", "docs/run-folder.md",
    "docs/serving.md",
))
COMMANDS = [line[2:] for block in blocks(GUIDE, "console") for line in block.splitlines() if line.startswith("$ ")]
TASK_FILE = next(block for block in blocks(GUIDE, "python") if block.startswith("# my_task.py"))
API_EXAMPLES = [block for block in blocks(GUIDE, "python") if not block.startswith("# my_task.py")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the README's task file."""
    (tmp_path / "my_task.py").write_text(TASK_FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [command for command in COMMANDS if "quickstart" not in command]
    assert len(quick) >= 5
    for command in quick:
        run(command, monkeypatch)
    expected = {*FILES.values(), MEMO_FILE, "report.html"}
    there = {name for name in expected if (folder / "runs" / "my_network" / name).exists()}
    # Nothing was timed, no latency was missed, and no time was given.
    assert there == expected - {FILES[CostTable], FILES[Rounds], FILES[Division]}


def test_quickstart() -> None:
    """`tests/test_package.py` runs it from the installed wheel."""
    assert [command for command in COMMANDS if "quickstart" in command] == ["hwsmpq quickstart -o runs/quickstart"]


def test_python_examples(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_task", raising=False)
    for example in API_EXAMPLES:
        exec(compile(example, "README.md", "exec"), {})
    whole, accuracy, staged = capsys.readouterr().out.splitlines()
    assert whole.startswith(("True ", "False ")) and accuracy.startswith("tensor(")
    assert staged.startswith("True ") and Path(staged.split()[1]).is_file()
    assert (folder / "runs" / "from_python" / "report.html").is_file()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_artifact_is_described() -> None:
    section = GUIDE.split("# The run folder")[1].split("\n## ")[0]
    for name in (*FILES.values(), MEMO_FILE, "report.html"):
        assert name.split("/")[-1] in section


def test_options_and_verbs_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.main import get_command

    from hwsmpq.cli.app import app

    command = get_command(app)
    parameters = [p for verb in command.commands.values() for p in verb.params]
    options = {option for p in parameters for option in (*p.opts, *p.secondary_opts)}
    options |= {option for p in command.params for option in p.opts}
    of_pip = {"--no-deps"}
    own = re.sub(r"^`?trtexec .*(\n--.*)*", "", GUIDE, flags=re.MULTILINE)
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own)) - {"--help"} - of_pip
    assert mentioned - options == set()
    table = COMMANDS_PAGE.split("\n## Commands")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `hwsmpq (\w+)` \|", table, re.MULTILINE)) == set(command.commands)
