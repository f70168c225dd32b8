"""hwsmpq: mixed-precision quantization that is measured, solved exactly, built and proven on the real device."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from hwsmpq._version import __version__

if TYPE_CHECKING:
    from hwsmpq.engine.load import load
    from hwsmpq.errors import HwsmpqError
    from hwsmpq.model.task import Task
    from hwsmpq.pipeline.budgets import resolve_budgets
    from hwsmpq.pipeline.contribute import contribute
    from hwsmpq.pipeline.finetune import finetune
    from hwsmpq.pipeline.front import pareto
    from hwsmpq.pipeline.measure import calibrate, inspect, profile
    from hwsmpq.pipeline.optimize import optimize
    from hwsmpq.pipeline.prove import build, refine, verify
    from hwsmpq.pipeline.run import Run
    from hwsmpq.pipeline.solve import search
    from hwsmpq.report.render import render
    from hwsmpq.types import Budget, Recipe, Settings

__all__ = [
    "Budget",
    "HwsmpqError",
    "Recipe",
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
    "refine",
    "render",
    "resolve_budgets",
    "search",
    "verify",
]

_HOME = {
    "Budget": "hwsmpq.types",
    "HwsmpqError": "hwsmpq.errors",
    "Recipe": "hwsmpq.types",
    "Run": "hwsmpq.pipeline.run",
    "Settings": "hwsmpq.types",
    "Task": "hwsmpq.model.task",
    "build": "hwsmpq.pipeline.prove",
    "calibrate": "hwsmpq.pipeline.measure",
    "contribute": "hwsmpq.pipeline.contribute",
    "finetune": "hwsmpq.pipeline.finetune",
    "inspect": "hwsmpq.pipeline.measure",
    "load": "hwsmpq.engine.load",
    "optimize": "hwsmpq.pipeline.optimize",
    "pareto": "hwsmpq.pipeline.front",
    "profile": "hwsmpq.pipeline.measure",
    "refine": "hwsmpq.pipeline.prove",
    "render": "hwsmpq.report.render",
    "resolve_budgets": "hwsmpq.pipeline.budgets",
    "search": "hwsmpq.pipeline.solve",
    "verify": "hwsmpq.pipeline.prove",
}


def __getattr__(name: str) -> Any:
    """Load the public API on first use, so that importing the package stays light."""
    if name not in _HOME:
        raise AttributeError(f"module 'hwsmpq' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOME[name]), name)
    # The first import of a subpackage puts it where a verb of its name should be.
    for verb in _HOME.keys() & {module.removeprefix("hwsmpq.") for module in sys.modules}:
        globals()[verb] = getattr(importlib.import_module(_HOME[verb]), verb)
    return found
