"""The statistics of the studies, and that their tables hold nothing but figures of their JSON file."""

from __future__ import annotations

import importlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kendalltau

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(TOOLS))

    def load(name: str) -> ModuleType:
        sys.modules.pop(name, None)
        return importlib.import_module(name)

    return load


def test_kendall_is_tau_b(tool) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(3, size=(40, 5)).astype(float), rng.integers(4, size=(40, 5)).astype(float)
    expected = np.nan_to_num([kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)])
    np.testing.assert_allclose(tool("_study").kendall(x, y), expected, atol=1e-12)


def test_interval_holds_the_middle(tool) -> None:
    assert tool("_study").interval(np.arange(1001.0)) == pytest.approx((25, 975))


@pytest.mark.parametrize("name", ["study_alpha_pitfall", "study_matched_budgets"])
def test_plots_are_drawn_from_a_finished_study(tool, name: str, tmp_path: Path) -> None:
    study, result = tool(name), json.loads((TOOLS.parent / "docs" / "bench" / f"{name}.json").read_text())
    bench = SimpleNamespace(name=name, figures=result["figures"], rows=result["rows"])
    if name == "study_alpha_pitfall":
        study._plots(tmp_path, bench, list(dict.fromkeys(row["group"] for row in bench.rows)))
    else:
        study._plot(tmp_path, bench, SimpleNamespace(size=study.SIZES["default"]))
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert drawn.keys() == {path.name for path in (TOOLS.parent / "docs" / "bench").glob(f"{name}.*.svg")}
    assert all(text.startswith("<?xml") and "</svg>" in text for text in drawn.values())


@pytest.mark.parametrize("name", ["study_alpha_pitfall", "study_matched_budgets"])
def test_tables_quote_the_figures(tool, name: str) -> None:
    study = tool(name)
    figures: defaultdict[str, float] = defaultdict(lambda: 12.5, {
        f"{budget}.default.top1": 12.5 for budget in ("2", "3", "4")
    })
    keys = [
        f"{budget}.{method}.{key}" for budget in ("2", "3", "4") for method in getattr(study, "METHODS", ())
        for key in ("top1", "top1.lo", "top1.hi", "minus_default", "minus_default.lo", "minus_default.hi",
                    "untrained_top1", "bitops", "keeps_budget", "search_s", "evaluations")
    ] + [
        f"imagenet.{net}.{key}" for net in ("resnet18", "resnet50")
        for key in ("evaluations", "search_forwards", "edmips_forwards", "share", "forwards_per_s_for_10_gpu_hours")
    ]
    figures.update(dict.fromkeys(keys, 12.5))
    text = study.markdown({
        "figures": figures, "samples": defaultdict(int), "machine": {"cpu": "a processor"},
        "versions": {"torch": "2"}, "seed": 0, "wall_s": 60.0,
    })
    assert text.count("12.50") >= 6 and "a processor" in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert tables and all(len({line.count("|") for line in block.splitlines()}) == 1 for block in tables)
