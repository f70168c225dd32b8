"""The import rules of the package, read from its source: strictly downward, runtimes lazy, `import hwsmpq` light."""

from __future__ import annotations

import ast
import builtins
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "hwsmpq"
FILES = sorted(ROOT.rglob("*.py"))

TOP_PACKAGE = ""
"""``hwsmpq/__init__.py`` itself: it may offer anything, and nothing inside may import it."""

# Lowest first. A module may import only from lower levels or from its own package.
LEVELS = (
    {"_version", "errors"},
    {"device"},
    {"types"},
    {"stages"},
    {"artifacts"},
    {"folder", "lock"},
    {"model"},
    {"quickstart", "quantize"},
    {"contribution", "search", "hardware"},
    {"engine", "report", "sensitivity", "train"},
    {"pipeline"},
    {"cli"},
    {"__main__"},
    {TOP_PACKAGE},
)
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}

PURE_PARTS = {"contribution", "search"}
ALLOWED_IN_PURE = {"numpy", "scipy", "hwsmpq.types", "hwsmpq.errors"}
ON_DEVICE = [ROOT / "errors.py", *sorted((ROOT / "device").rglob("*.py"))]
ALLOWED_ON_DEVICE = {"numpy", "hwsmpq.device", "hwsmpq.errors"}
OLDEST_ON_DEVICE = "3.8"
RUNTIMES = {"openvino", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda", "pycuda", "ray"}
HEAVY = ("torch", "openvino", "onnx", "scipy", "matplotlib", "tensorrt", "tensorrt_rtx", "ray", "sklearn")


@dataclass(frozen=True)
class Import:
    """One imported module: its dotted name, line, whether importing the file runs it, and whether only checkers do."""

    module: str
    line: int
    at_import_time: bool
    for_types: bool = False


def is_module(dotted: str) -> bool:
    path = ROOT.parent.joinpath(*dotted.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def imports_of(source: str, package: str) -> Iterator[Import]:
    """Every import of a source text, relative ones resolved against ``package``, dynamic ones by literal name."""

    def visit(node: ast.AST, at_import_time: bool, for_types: bool = False) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            # `from hwsmpq import types` names a module, `from hwsmpq.types import Plan` does not.
            names = [f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for name in dict.fromkeys(names):
            yield Import(name, getattr(node, "lineno", 0), at_import_time, for_types)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, False, True)
            for child in node.orelse:
                yield from visit(child, at_import_time)
            return
        inside_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import_time and not inside_function, for_types)

    yield from visit(ast.parse(source), True)


def part_of(dotted: str) -> str:
    """The part of the package a module belongs to: ``hwsmpq.search.milp`` -> ``search``, ``hwsmpq`` -> ''."""
    return [*dotted.split("."), TOP_PACKAGE][1]


def dotted_name(file: Path) -> str:
    return ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def file_imports(file: Path) -> list[Import]:
    package = dotted_name(file) if file.name == "__init__.py" else dotted_name(file).rpartition(".")[0]
    return list(imports_of(file.read_text(), package))


def upward(part: str, imported: str) -> bool:
    """Whether a module of ``part`` may not import the module ``imported`` of this package."""
    target = part_of(imported)
    return target != part and LEVEL_OF[target] >= LEVEL_OF[part]


def foreign(imported: str, allowed: set[str]) -> bool:
    """Whether a module is neither of the standard library nor allowed."""
    root = imported.partition(".")[0]
    if root in sys.stdlib_module_names:
        return False
    return (".".join(imported.split(".")[:2]) if root == "hwsmpq" else root) not in allowed


def circles(imported: dict[str, set[str]]) -> set[str]:
    """Modules that import each other in circles, and what lies on a way between two circles."""
    left = set(imported)
    while True:
        inner = {name for name in left if imported[name] & left} & set().union(*(imported[name] for name in left))
        if inner == left:
            return left
        left = inner


def impure(part: str, imported: str) -> bool:
    """Whether ``imported`` is more than a pure part may see."""
    return foreign(imported, ALLOWED_IN_PURE | {f"hwsmpq.{part}"})


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one, without annotations: those are text under ``from __future__ import annotations``."""
    for name, field in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield child
                yield from evaluated(child)


def newer_types(source: str) -> list[str]:
    """What a text evaluates that only newer Pythons do: subscripted classes and ``|``, which also joins classes and
    dictionaries there."""
    tree = ast.parse(source)
    generic = {name for name in dir(builtins) if isinstance(getattr(builtins, name), type)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("collections", "collections.abc", "pathlib", "re"):
            generic |= {alias.asname or alias.name for alias in node.names}
    bad = (
        (ast.Subscript, lambda node: isinstance(node.value, ast.Name) and node.value.id in generic),
        (ast.BinOp | ast.AugAssign, lambda node: isinstance(node.op, ast.BitOr)),
    )
    nodes = evaluated(tree) if "from __future__ import annotations" in source else ast.walk(tree)
    return [ast.unparse(node) for node in nodes for kind, is_bad in bad if isinstance(node, kind) and is_bad(node)]


def newer_python(file: Path) -> str:
    """What a file needs that the oldest Python of a device lacks, a line each."""
    if found := newer_types(file.read_text()):
        return "\n".join(found)
    vermin = [sys.executable, "-c", "from vermin import main; main()", f"-t={OLDEST_ON_DEVICE}-", "--violations"]
    done = subprocess.run([*vermin, "--no-tips", str(file)], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_every_module_has_a_level() -> None:
    assert FILES
    unknown = {part_of(dotted_name(file)) for file in FILES} - LEVEL_OF.keys()
    assert not unknown, f"give these parts a place in LEVELS: {sorted(unknown)}"


@pytest.mark.parametrize("file", FILES, ids=dotted_name)
def test_imports_point_downward(file: Path) -> None:
    part = part_of(dotted_name(file))
    bad = [i for i in file_imports(file) if i.module.partition(".")[0] == "hwsmpq" and upward(part, i.module)]
    assert not bad, f"{file}: {bad}"


def test_no_module_imports_itself_through_others() -> None:
    """Whenever it is that they import; what only a type checker reads makes no circle."""
    imported = {dotted_name(file): {i.module for i in file_imports(file) if not i.for_types} for file in FILES}
    assert circles(imported) == set()


@pytest.mark.parametrize(
    ("imported", "expected"),
    [
        ({"a": {"b", "numpy"}, "b": {"c"}, "c": set()}, set()),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}, {"b", "c"}),
        ({"a": {"a"}, "b": {"a"}}, {"a"}),
        ({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"a"}}, {"a", "b", "c", "d"}),
    ],
)
def test_circles_are_found(imported: dict[str, set[str]], expected: set[str]) -> None:
    assert circles(imported) == expected


@pytest.mark.parametrize("file", [f for f in FILES if part_of(dotted_name(f)) in PURE_PARTS], ids=dotted_name)
def test_contribution_and_search_are_pure(file: Path) -> None:
    bad = [i for i in file_imports(file) if impure(part_of(dotted_name(file)), i.module)]
    assert not bad, f"{file}: {bad}"


@pytest.mark.parametrize("file", [f for f in FILES if part_of(dotted_name(f)) == "device"], ids=dotted_name)
def test_devices_need_numpy_and_a_runtime(file: Path) -> None:
    allowed = ALLOWED_ON_DEVICE | RUNTIMES
    bad = [i for i in file_imports(file) if foreign(i.module, allowed)]
    assert not bad, f"{file}: {bad}"


@pytest.mark.parametrize("file", ON_DEVICE, ids=dotted_name)
def test_devices_may_have_an_old_python(file: Path) -> None:
    """What older Pythons cannot parse, and what they lack when it runs."""
    ast.parse(file.read_text(), feature_version=tuple(map(int, OLDEST_ON_DEVICE.split("."))))
    assert newer_python(file) == ""


@pytest.mark.parametrize(
    "line",
    [
        "z = zip([], [], strict=True)", "t = int | str", "d = {} | {}", "d = dict(a=1) | dict(b=2)",
        "s = 'x'.removesuffix('y')", "match 1:\n    case _: pass", "t = list[int]",
        "from collections.abc import Mapping\nt = Mapping[str, int]", "from functools import cache",
        "from dataclasses import dataclass\n@dataclass(kw_only=True)\nclass A: a: int",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass A: a: int",
        "with (open('a') as f, open('b') as g): pass", "from math import lcm", "from itertools import pairwise",
        "isinstance(1, int | str)", "def f(x: list[int] | None): ...",
    ],
)
def test_a_newer_python_is_noticed(line: str, tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text(f"{line}\n")
    assert newer_python(tmp_path / "new.py")


def test_annotations_and_old_syntax_are_fine(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(
        "from __future__ import annotations\nfrom collections.abc import Mapping\n"
        "def f(x: Mapping[str, int] | None, /) -> list[int]:\n    y: dict[str, int] = {**x}\n    return [*y.values()]\n"
    )
    assert newer_python(tmp_path / "old.py") == ""


def test_runtimes_are_lazy_and_in_one_file_each() -> None:
    importers: dict[str, set[str]] = defaultdict(set)
    for file in FILES:
        for found in file_imports(file):
            root = found.module.partition(".")[0]
            if root in RUNTIMES:
                assert not found.at_import_time, f"{file}:{found.line} imports {root} at module level"
                importers[root].add(dotted_name(file))
    assert {root: names for root, names in importers.items() if len(names) > 1} == {}


def test_importing_the_package_is_light() -> None:
    code = f"import sys, hwsmpq; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn", [("torch.nn", True)]),
        ("from hwsmpq import types, errors", [("hwsmpq.types", True), ("hwsmpq.errors", True)]),
        ("from hwsmpq.types import Plan, Budget", [("hwsmpq.types", True)]),
        ("from . import milp", [("hwsmpq.search", True)]),
        ("from ..types import Plan", [("hwsmpq.types", True)]),
        ("def f():\n    import openvino", [("openvino", False)]),
        ("class A:\n    import openvino", [("openvino", True)]),
        ("try:\n    import ray\nexcept ImportError:\n    ray = None", [("ray", True)]),
        ("if TYPE_CHECKING:\n    import ray\nelse:\n    import cuda", [("ray", False), ("cuda", True)]),
        ("def f():\n    importlib.import_module('tensorrt')", [("tensorrt", False)]),
    ],
)
def test_imports_are_found(source: str, expected: list[tuple[str, bool]]) -> None:
    # The relative case names a file that need not exist, so only its package is certain.
    found = [(i.module.removesuffix(".milp"), i.at_import_time) for i in imports_of(source, "hwsmpq.search")]
    assert found == expected


@pytest.mark.parametrize(
    ("part", "imported", "forbidden"),
    [
        ("cli", "hwsmpq.pipeline", False),
        ("search", "hwsmpq.search.milp", False),
        ("search", "hwsmpq.contribution.shapley", True),
        ("model", "hwsmpq.quantize.scheme", True),
        ("model", "hwsmpq", True),
    ],
)
def test_direction_rule(part: str, imported: str, forbidden: bool) -> None:
    assert upward(part, imported) is forbidden


@pytest.mark.parametrize(
    ("imported", "forbidden"),
    [("numpy.typing", False), ("math", False), ("hwsmpq.types", False), ("torch", True), ("hwsmpq.artifacts", True)],
)
def test_purity_rule(imported: str, forbidden: bool) -> None:
    assert impure("search", imported) is forbidden
