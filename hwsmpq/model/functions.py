"""What a user's function computes, as a hash: its code, what it closes over, and the globals that it names.

What comes from an installed package counts by its name and the package's version, what comes from a file of the user's
with its code. Objects count by their class and their attributes.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwsmpq.model.parts import tensors_sha256

IN_THIS_PROCESS = os.urandom(16).hex()
"""Stands for what cannot be told: no other process has it."""
_INSTALLED = tuple(str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "purelib", "platlib"))
_PACKAGE = str(Path(__file__).resolve().parents[1])


class Unknown(Exception):
    """Raised where the content of a value cannot be told; says which."""


def function_sha256(function: Callable[..., Any], version: str | None = None) -> tuple[str, str | None]:
    """The hash of a function, and why it counts as new in every process, where it does.

    Args:
        version: what the user calls this version of it, which then counts instead of its content.
    """
    if version is not None:
        return _sha256(["version", version]), None
    try:
        return _sha256(list(_Content().of(function))), None
    except (Unknown, RecursionError) as unknown:
        return _sha256(["process", IN_THIS_PROCESS, repr(id(function))]), str(unknown) or "it is nested too deeply"


def _sha256(words: list[str]) -> str:
    hasher = hashlib.sha256()
    for word in words:
        hasher.update(f"{len(word)}:{word}".encode("utf-8", "surrogatepass"))
    return hasher.hexdigest()


class _Content:
    """The words that a value comes to; one object for one walk, so that what refers to itself ends."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []

    def of(self, value: Any) -> Iterator[str]:
        if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes):
            yield from (type(value).__qualname__, repr(value))
            return
        if id(value) in self._seen:
            yield from ("again", str(self._seen[id(value)]))
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)  # an id stands for one object only as long as that lives
        yield from self._new(value)

    def _new(self, value: Any) -> Iterator[str]:
        match value:
            case tuple() | list():
                yield from ("sequence", type(value).__qualname__, str(len(value)))
                for item in value:
                    yield from self.of(item)
            case dict():
                yield from ("mapping", type(value).__qualname__, str(len(value)))
                for key, item in value.items():
                    yield from (*self.of(key), *self.of(item))
            case set() | frozenset():
                yield from ("set", *sorted(_sha256(list(_Content().of(item))) for item in value))
            case torch.Tensor():
                yield from ("tensor", tensors_sha256((value,)))
            case np.ndarray() if value.dtype != object:
                yield from ("array", str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest())
            case np.generic() | torch.dtype() | torch.device() | range() | slice() | Path():
                yield from (type(value).__qualname__, repr(value))
            case functools.partial():
                yield from ("partial", *self.of(value.func), *self.of(value.args), *self.of(value.keywords))
            case types.MethodType():
                yield from ("method", *self.of(value.__func__), *self.of(value.__self__))
            case types.FunctionType():
                yield from _named(value) or self._function(value)
            case types.CodeType():
                yield from self._code(value)
            case types.ModuleType():
                yield from _named(value) or self._module(value)
            case type():
                yield from _named(value) or self._class(value)
            case property():
                yield from ("property", *self.of(value.fget), *self.of(value.fset))
            case staticmethod() | classmethod():
                yield from (type(value).__qualname__, *self.of(value.__func__))
            case _:
                yield from _named(value) or self._object(value)

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        yield "function"
        yield from self._code(function.__code__)
        yield from self.of(function.__defaults__)
        yield from self.of(function.__kwdefaults__)
        for cell in function.__closure__ or ():
            try:
                yield from self.of(cell.cell_contents)
            except ValueError:
                yield "empty"
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                yield name
                yield from self.of(function.__globals__[name])

    def _code(self, code: types.CodeType) -> Iterator[str]:
        yield from ("code", code.co_code.hex(), *code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars)
        for constant in code.co_consts:
            yield from self._code(constant) if isinstance(constant, types.CodeType) else self.of(constant)

    def _module(self, module: types.ModuleType) -> Iterator[str]:
        if module.__name__ == "__main__" or not module.__file__:
            raise Unknown(f"it uses the module {module.__name__}")
        yield from ("module", hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest())

    def _class(self, kind: type) -> Iterator[str]:
        yield from ("class", kind.__qualname__)
        for base in kind.__bases__:
            yield from self.of(base)
        for name, item in sorted(vars(kind).items()):
            if name not in ("__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__"):
                yield name
                yield from self.of(item)

    def _object(self, value: Any) -> Iterator[str]:
        if not hasattr(value, "__dict__"):
            raise Unknown(f"it holds a {type(value).__qualname__}, whose content cannot be told")
        yield from ("object", *self.of(type(value)), *self.of(vars(value)))


def _names(code: types.CodeType) -> set[str]:
    """Names that code and the code inside it may look up in the globals."""
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _named(value: Any) -> list[str] | None:
    """Name and version, for what comes from an installed package, Python or this package; else None."""
    module = value if isinstance(value, types.ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
    if isinstance(value, types.BuiltinFunctionType) and module is None:
        owner = value.__self__ if value.__self__ is not None else value
        return ["builtin", type(owner).__qualname__, value.__qualname__]
    name = getattr(value, "__qualname__", None) or (getattr(value, "__name__", None))
    if module is None or name is None or "<locals>" in name or not _is_installed(module):
        return None
    top = sys.modules.get(module.__name__.partition(".")[0])
    return ["named", module.__name__, str(name), str(getattr(top, "__version__", sys.version_info[:2]))]


def _is_installed(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__ in sys.builtin_module_names or getattr(module, "__spec__", None) is not None
    path = str(Path(file).resolve())
    return path.startswith((*_INSTALLED, _PACKAGE))
