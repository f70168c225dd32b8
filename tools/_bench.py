"""What every benchmark shares: its options, what it ran on, the table that it prints and the JSON that it writes."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

PACKAGES = ("hwsmpq", "torch", "numpy", "scipy")


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="the same figures on less work, in a few minutes at most")
    return parser


class Bench:
    """One run of a benchmark: collects figures and rows, then prints and writes them.

    Args:
        name: name of the benchmark, e.g. ``bench_simulator``.
        options: what :func:`arguments` parsed.
        samples: counts that the figures rest on, by role.
        packages: distributions, besides the usual ones, whose versions matter.
    """

    def __init__(
        self, name: str, options: argparse.Namespace, samples: dict[str, int], packages: Sequence[str] = ()
    ) -> None:
        self.name, self.options, self.samples = name, options, samples
        self.versions = {package: importlib.metadata.version(package) for package in (*PACKAGES, *packages)}
        self.figures: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.started = datetime.now(UTC)
        self._clock = time.monotonic()

    def row(self, **values: Any) -> None:
        """Keep one row, and print it as it comes."""
        self.rows.append(values)
        print("  ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in values.items()), flush=True)

    def finish(self) -> None:
        """Print all figures and write the JSON file if one was asked for."""
        table = Table("figure", "value", title=f"{self.name} (seed {self.options.seed})")
        for name in sorted(self.figures):
            table.add_row(escape(name), f"{self.figures[name]:.5g}")
        Console(soft_wrap=True).print(table)
        self.write()

    def write(self) -> None:
        """Write the JSON file, if one was asked for, with what is known by now."""
        if self.options.json:
            result = {
                "bench": self.name, "quick": self.options.quick, "machine": machine(), "versions": self.versions,
                "seed": self.options.seed, "samples": self.samples, "started_utc": self.started.isoformat(),
                "wall_s": time.monotonic() - self._clock, "figures": self.figures, "rows": self.rows,
            }
            self.options.json.parent.mkdir(parents=True, exist_ok=True)
            self.options.json.write_text(json.dumps(result, sort_keys=True, indent=1) + "\n")


def machine() -> dict[str, str]:
    """Processor, cores and system, as far as the system tells."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model, "n_cores": str(os.cpu_count()), "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
