"""The package as others get it: the wheel, its metadata, and the quickstart run from its installed files alone."""

from __future__ import annotations

import ast
import email
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.message import Message
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from hwsmpq._version import __version__

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://example.org/owner/hwsmpq"
UNDECLARED = {"cuda": "cuda-bindings", "pycuda": "pycuda", "tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx-cu13"}
"""Distributions of modules that need not be installed here."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        check=True, env={**os.environ, "HWSMPQ_REPOSITORY": REPOSITORY},
    )
    built, = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"hwsmpq-{__version__}.dist-info/METADATA"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        console = archive.read(f"hwsmpq-{__version__}.dist-info/entry_points.txt").decode()
        assert f"hwsmpq-{__version__}.dist-info/licenses/LICENSE" in archive.namelist()
    files = {path.relative_to(ROOT) for path in (ROOT / "hwsmpq").rglob("*") if path.is_file()}
    made_here = ("__pycache__", ".")
    assert names == {path.as_posix() for path in files if not any(part.startswith(made_here) for part in path.parts)}
    assert "hwsmpq/py.typed" in names
    assert console.split() == ["[console_scripts]", "hwsmpq", "=", "hwsmpq.cli:main"]


def test_metadata(metadata: Message) -> None:
    assert (metadata["Name"], metadata["Version"]) == ("hwsmpq", __version__)
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11"
    links = dict(link.split(", ") for link in metadata.get_all("Project-URL", []))
    assert links.keys() == {"Source", "Documentation", "Changelog", "Issues"}
    assert all(link.startswith(REPOSITORY) for link in links.values())
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])


def test_links_of_the_readme_hold_outside_the_repository(metadata: Message) -> None:
    readme = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert f"]({REPOSITORY}/raw/v{__version__}/docs/images/report-front.png)" in readme
    assert f"]({REPOSITORY}/blob/v{__version__}/docs/tutorial.md)" in readme
    assert "](docs/" not in readme


def test_every_import_is_a_declared_dependency(metadata: Message) -> None:
    """Of the package itself, or of an extra: what happens to be installed by another package may go with it."""
    imported = set()
    for path in (ROOT / "hwsmpq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.partition(".")[0])
    third_party = imported - set(sys.stdlib_module_names) - {"hwsmpq", "google"} | {"google.protobuf"}
    known = packages_distributions()
    declared = {line.split(">")[0].split("=")[0].strip().lower() for line in metadata.get_all("Requires-Dist", [])}
    for module in third_party:
        name = "protobuf" if module == "google.protobuf" else UNDECLARED.get(module) or known.get(module, [module])[0]
        assert name.lower() in declared, module


@pytest.mark.slow
def test_the_installed_wheel_runs_the_quickstart(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the dependencies of this one, and of hwsmpq nothing but the wheel."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True,
    )
    packages, = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    where = subprocess.run(
        [python, "-c", "import hwsmpq; print(hwsmpq.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path, env=environment,
    ).stdout
    assert where.startswith(str(tmp_path))
    # The README's command.
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "hwsmpq", "quickstart", "-o", "runs/quickstart"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )
    assert done.returncode in (0, 1) and "Traceback" not in done.stderr, done.stderr
    assert all((tmp_path / "runs/quickstart" / name).is_file() for name in ("certificate.json", "report.html"))
