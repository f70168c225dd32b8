"""hwsmpq: mixed-precision quantization that is measured, solved exactly, built and proven on the real device."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hwsmpq._version import __version__

if TYPE_CHECKING:
    from hwsmpq.engine.load import load
    from hwsmpq.errors import HwsmpqError
    from hwsmpq.model.task import Task
    from hwsmpq.pipeline.decide.budgets import resolve_budgets
    from hwsmpq.pipeline.decide.solve import search
    from hwsmpq.pipeline.evaluate.contribute import contribute
    from hwsmpq.pipeline.optimize import optimize
    from hwsmpq.pipeline.prepare.calibrate import calibrate, inspect
    from hwsmpq.pipeline.prepare.profile import profile
    from hwsmpq.pipeline.prove.build import build
    from hwsmpq.pipeline.prove.finetune import finetune
    from hwsmpq.pipeline.prove.front import pareto
    from hwsmpq.pipeline.prove.reconstruct import reconstruct
    from hwsmpq.pipeline.prove.refine import refine
    from hwsmpq.pipeline.prove.verify import verify
    from hwsmpq.pipeline.run import Run
    from hwsmpq.report.render import render
    from hwsmpq.types import Budget, Constraints, Recipe, Reconstruction, Settings

__all__ = [
    "Budget",
    "Constraints",
    "HwsmpqError",
    "Recipe",
    "Reconstruction",
    "Run",
    "Settings",
    "Task",
    "__version__",
    "build",
    "calibrate",
    "contribute",
    "finetune",
    "inspect",
    "load",
    "optimize",
    "pareto",
    "profile",
    "reconstruct",
    "refine",
    "render",
    "resolve_budgets",
    "search",
    "verify",
]

_HOME = {
    "Budget": "hwsmpq.types",
    "Constraints": "hwsmpq.types",
    "HwsmpqError": "hwsmpq.errors",
    "Recipe": "hwsmpq.types",
    "Reconstruction": "hwsmpq.types",
    "Run": "hwsmpq.pipeline.run",
    "Settings": "hwsmpq.types",
    "Task": "hwsmpq.model.task",
    "build": "hwsmpq.pipeline.prove.build",
    "calibrate": "hwsmpq.pipeline.prepare.calibrate",
    "contribute": "hwsmpq.pipeline.evaluate.contribute",
    "finetune": "hwsmpq.pipeline.prove.finetune",
    "inspect": "hwsmpq.pipeline.prepare.calibrate",
    "load": "hwsmpq.engine.load",
    "optimize": "hwsmpq.pipeline.optimize",
    "pareto": "hwsmpq.pipeline.prove.front",
    "profile": "hwsmpq.pipeline.prepare.profile",
    "reconstruct": "hwsmpq.pipeline.prove.reconstruct",
    "refine": "hwsmpq.pipeline.prove.refine",
    "render": "hwsmpq.report.render",
    "resolve_budgets": "hwsmpq.pipeline.decide.budgets",
    "search": "hwsmpq.pipeline.decide.solve",
    "verify": "hwsmpq.pipeline.prove.verify",
}


def __getattr__(name: str) -> Any:
    """Load the public API on first use, so that importing the package stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'hwsmpq' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


class _Package(ModuleType):
    """The first import of a subpackage would put it where a verb of its name should be."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
