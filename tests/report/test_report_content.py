"""What the page says, checked against the artifacts it was made from."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import shutil
from base64 import b64encode
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwsmpq import artifacts
from hwsmpq.errors import HwsmpqError
from hwsmpq.folder import Folder
from hwsmpq.report.collect import collect
from hwsmpq.report.compare import compare
from hwsmpq.report.data import page_data
from hwsmpq.report.folder import read_folder
from hwsmpq.report.formats import bitops, clean, shorten, signed_points
from hwsmpq.report.render import render, render_comparison
from hwsmpq.report.verdict import judge
from hwsmpq.report.view import BudgetRow
from hwsmpq.types import (
    AccuracyOutcome,
    Bound,
    Certificate,
    Contributions,
    CostTable,
    Front,
    Interactions,
    LatencyOutcome,
    Network,
    Plan,
    Settings,
    Stability,
)
from tests.report.factory import FILES, OPTIONAL, make_run

HOSTILE = '<script>alert(1)</script> $\\frac{x$ & "quoted" \x01 ]]> {{ 7 * 7 }}'

CHARTS = {"front", "timings", "strip", "pairs"}


class Page(HTMLParser):
    """Tags, ids, references and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.path, self.html = path, path.read_text()
        self.text = ""
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        values = dict(attrs)
        if values.get("id"):
            self.ids.append(str(values["id"]))
        self.links += [str(values[name]) for name in ("href", "src", "xlink:href", "action") if name in values]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"), n_groups=9, ladder="w4a4,int8,fp32", mismatches=2)


def load(folder: Path) -> tuple[Network, Plan, Certificate]:
    return (artifacts.read(folder / "network.json", Network), artifacts.read(folder / "plan.json", Plan),
            artifacts.read(folder / "certificate.json", Certificate))


def test_verdict_of_a_good_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    verdict = collect(folder).verdict
    n_layers = len(load(folder)[0].layers)
    assert verdict.text == (f"1.83x faster than fp32, 0.2 ± 0.3 points lost on 325 unseen samples, "
                            f"all {n_layers} layers run as requested, every budget met")
    assert verdict.state == "verified"


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        (LatencyOutcome(10.0, 9.0, 5.0, 0.1), "2.00x faster than fp32"),
        (LatencyOutcome(10.0, 9.0, 12.5, 0.1), "1.25x slower than fp32"),
        (LatencyOutcome(10.0, 9.0, 9.8, 0.3), "No faster than fp32 within the timing spread"),
    ],
)
def test_verdict_claims_no_speed_inside_the_spread(complete: Path, latency: LatencyOutcome, expected: str) -> None:
    network, plan, certificate = load(complete)
    assert judge(network, plan, replace(certificate, latency_ms=latency)).text.startswith(f"{expected}, ")


def test_verdict_names_what_went_wrong(complete: Path) -> None:
    network, plan, certificate = load(complete)
    verdict = judge(network, plan, certificate)
    n = len(network.layers)
    assert f"only {n - 2} of {n} layers run as requested" in verdict.text
    assert (verdict.state, verdict.badge) == ("missed", "Precision mismatch")
    budgets = (replace(certificate.budgets[0], met=False), *certificate.budgets[1:])
    verdict = judge(network, plan, replace(certificate, budgets=budgets))
    assert "1 of 2 budgets missed (latency)" in verdict.text
    asked = tuple(replace(b, throughput=1e3 / b.limit) if b.kind == "latency_ms" else b for b in plan.budgets)
    rated = judge(network, replace(plan, budgets=asked), replace(certificate, budgets=budgets))
    assert "1 of 2 budgets missed (throughput)" in rated.text
    assert verdict.badge == "Budget missed"
    gained = judge(network, plan, replace(certificate, accuracy=AccuracyOutcome(0.70, 0.71, 50, 0.002)))
    assert "1.0 ± 0.2 points gained on 50 unseen samples" in gained.text
    error = AccuracyOutcome(-0.0243, -0.0236, 50, 0.0002, drop_bound=Bound(-0.06), metric="mae", is_error=True)
    assert (
        "mae 0.0236 against 0.0243, 0.1 ± 0.0 points gained (with 95% confidence at least 0.06 gained)"
        in judge(network, plan, replace(certificate, accuracy=error)).text
    )


def test_the_bound_of_a_drop_stands_beside_it(tmp_path: Path) -> None:
    run, bound, said = Folder(make_run(tmp_path / "run")), Bound(0.71), "with 95% confidence at most 0.71 lost"
    plan, certificate = replace(run.read(Plan), drop_bound=bound), run.read(Certificate)
    accuracy = replace(certificate.accuracy, drop_bound=bound)
    budgets = tuple(replace(b, bound=bound, by_bound=True) if b.kind == "max_drop" else b for b in certificate.budgets)
    certificate = replace(certificate, accuracy=accuracy, budgets=budgets)
    assert said in judge(run.read(Network), plan, certificate).text
    run.write(plan, run.made_from(Plan))
    run.write(certificate, {**run.made_from(Certificate), "plan": run.sha256(Plan)})

    def lost() -> BudgetRow:
        return next(row for row in collect(run.root).budgets if row.label == "Metric lost")

    assert said in lost().measured and lost().limit.endswith("by the bound")
    run.path(Certificate).unlink()
    assert said in lost().predicted and lost().measured == "not verified"


def test_page_is_self_contained_and_its_ids_are_unique(complete: Path) -> None:
    page = Page(render(complete))
    assert "http:" not in page.html and "https:" not in page.html
    assert set(page.ids) >= CHARTS
    assert [identifier for identifier, count in Counter(page.ids).items() if count > 1] == []
    assert page.links == ["data:,"]
    targets = re.findall(r'aria-labelledby="([^"]+)"', page.html)
    assert targets and set(targets) <= set(page.ids)
    # Widths of charts and colours of levels are set by the script.
    html = page.html.replace("var(--width)", "").replace("var(--level-${level})", "").replace("var(--${", "")
    used, defined = (set(re.findall(pattern, html)) for pattern in (r"var\(--([\w-]+)\)", r"--([\w-]+):"))
    assert used and used <= defined


def test_only_the_scripts_of_the_page_may_run(complete: Path) -> None:
    page = render(complete).read_text()
    data, script = re.findall(r"<script[^>]*>(.*?)</script>", page, re.DOTALL)
    assert f"script-src 'sha256-{b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in page
    assert "unsafe-eval" not in page and "unsafe-inline'; script" in page
    assert not re.search("[<>&]", data)


def test_the_data_of_the_page_are_the_artifacts(complete: Path) -> None:
    """Levels in strings, decoded again, are the assignments; every engine of the front is there."""
    network, plan, _ = load(complete)
    page = render(complete).read_text()
    data = json.loads(re.findall(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[0])
    cost = artifacts.read(complete / "cost_table.json", CostTable)
    front = artifacts.read(complete / "front.json", Front)

    def decoded(levels: str) -> dict[str, str]:
        return {g: data["precisions"][ord(c) - ord("0")] for g, c in zip(network.group_names, levels, strict=True)}

    chosen, = (point for point in data["points"] if point["kind"] == "chosen")
    assert decoded(chosen["levels"]) == plan.assignment
    shown = [decoded(point["levels"]) for point in data["points"] if point["levels"]]
    assert all(engine.assignment in shown for engine in front.engines)
    run, = data["runs"]
    for group, row in zip(network.groups, run["groups"], strict=True):
        assert row["layers"] == list(group.layers)
    # Of the latency, not of counters, which may add up to more.
    model = read_folder(complete).model
    assert model is not None
    for number, name in enumerate(data["precisions"]):
        taken = sum(row["cost"][number] for row in run["groups"])
        assert taken + model.offset_ms == pytest.approx(cost.uniform_ms[name].median_ms, rel=1e-3)
    named = [[network.group_names[i] for i in edge] for edge in run["edges"]]
    assert named == [[e.source, e.target] for e in network.edges]
    assert len(run["formats"]) == len(data["precisions"]) == len(set(run["formats"]))


def test_precisions_that_read_the_same_format_switch_nothing(tmp_path: Path) -> None:
    data = page_data([collect(make_run(tmp_path / "run", ladder="w4a8,int8,fp32"))])
    assert data["precisions"] == ("w4a8", "int8", "fp32") and data["runs"][0]["formats"] == [0, 0, 2]


def test_engines_of_the_front_are_predicted_too(complete: Path) -> None:
    front = artifacts.read(complete / "front.json", Front)
    timings = {frozenset(t.assignment.items()): t for t in collect(complete).timings if t.kind == "front"}
    assert len(timings) == len(front.engines)
    for engine in front.engines:
        assert timings[frozenset(engine.assignment.items())].measured_ms == engine.latency.median_ms


def test_interactions(complete: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    found = artifacts.read(folder / "interactions.json", Interactions)
    page = Page(render(folder))
    assert f"the {len(found.pairs)} strongest pairs" in re.sub(r"\s+", " ", page.text) and "pairs" in page.ids
    artifacts.write(folder / "interactions.json", replace(found, pairs=()))
    page = Page(render(folder))
    assert "cross-validation finds that pairs" in page.text and "pairs" not in page.ids
    (folder / "interactions.json").unlink()
    page = Page(render(folder))
    assert "This run holds no interactions" in page.text and "pairs" not in page.ids


def test_comparison(complete: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", n_groups=9, ladder="w4a4,int8,fp32", seed=3)
    page, compared = Page(render_comparison(complete, other)), compare(collect(complete), collect(other))
    assert page.path == other / "comparison.html"
    first, second = (artifacts.read(folder / "plan.json", Plan) for folder in (complete, other))
    changed = {g: (p, second.assignment[g]) for g, p in first.assignment.items() if p != second.assignment[g]}
    assert {row.name: (row.first, row.second) for row in compared.precisions} == changed != {}
    assert f"{len(changed)} of 9 groups" in page.text
    a, b = (artifacts.read(folder / "contributions.json", Contributions) for folder in (complete, other))
    for row in compared.contributions:
        error = math.hypot(a.stderr[row.group][row.precision], b.stderr[row.group][row.precision])
        change = b.phi[row.group][row.precision] - a.phi[row.group][row.precision]
        assert row.distance == pytest.approx(abs(change) / error)
    assert len(compared.contributions) == 9 * 2
    assert "Seed of the search" in {row.name for row in compared.facts}
    assert "Target" not in {row.name for row in compared.facts}
    for view in (compared.first, compared.second):
        assert view.verdict.text in page.text


def test_runs_that_do_not_compare_say_so(complete: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", latency=False, without=("contributions",))
    network = artifacts.read(other / "network.json", Network)
    artifacts.write(other / "network.json", replace(network, model_sha256="00" * 32))
    page = Page(render_comparison(complete, other))
    assert "of different models" in page.text and "Contributions are not compared" in page.text
    assert "do not fit on one chart" in page.text and "front" not in page.ids


def test_the_command_asks_for_the_same_again(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed by the command line itself, it gives the settings and budgets of the folder."""
    from hwsmpq.cli import app as cli
    from hwsmpq.cli.stage import given_of, settings_of

    _, plan, _ = load(complete)
    given: dict[str, Any] = {}
    monkeypatch.setattr(cli, "_run", given.update)
    program, *arguments = shlex.split(collect(complete).command or "")
    assert program == "hwsmpq"
    cli.app(arguments, standalone_mode=False)
    settings = artifacts.read(complete / "settings.json", Settings)
    assert settings_of(complete / "nowhere", given["task"], given_of(given)) == settings
    assert {b.kind: b.limit for b in plan.budgets} == {
        kind: float(given[kind]) for kind in ("latency_ms", "bitops", "size_mb", "max_drop") if given[kind] is not None
    }


def test_same_artifacts_give_the_same_bytes(complete: Path) -> None:
    assert render(complete).read_bytes() == render(complete).read_bytes()


def test_hostile_names_are_text(tmp_path: Path) -> None:
    page = Page(render(make_run(tmp_path, n_groups=5, first_group=HOSTILE, mismatches=7)))
    assert page.tags["script"] == 2 and page.tags["img"] == 0
    assert clean(HOSTILE) in page.text
    assert "�" in page.text and "\x01" not in page.html


def test_every_chart_has_its_numbers_in_a_table(complete: Path) -> None:
    view, page = collect(complete), Page(render(complete))
    assert view.tradeoff is not None
    assert page.tags["tr"] >= len(view.tradeoff.points) + len(view.timings) + len(view.groups)
    for group in view.groups:
        for mean, error in group.phi.values():
            assert f"{mean:.4f} ± {error:.4f}" in page.html
    for timing in view.timings:
        assert f"{100 * timing.relative_error:+.1f} %" in page.html


def test_mixture_predictions_are_drift_corrected(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    before = collect(folder).timings
    table = artifacts.read(folder / "cost_table.json", CostTable)
    # The machine was 1.5 times slower while the mixtures were timed: the reference beside them says so.
    slower = tuple(
        replace(e, measured=replace(e.measured, median_ms=1.5 * e.measured.median_ms),
                reference=replace(e.reference, median_ms=1.5 * e.reference.median_ms))
        for e in table.engines
    )
    artifacts.write(folder / "cost_table.json", replace(table, engines=slower))
    after = collect(folder).timings
    mixtures = list(zip(*([t for t in found if t.kind == "mixture"] for found in (before, after)), strict=True))
    assert len(mixtures) == 10
    assert all(a.measured_ms == pytest.approx(b.measured_ms) for b, a in mixtures)


def test_engines_of_the_report_part_replace_search_scores(complete: Path) -> None:
    tradeoff, (_, _, certificate) = collect(complete).tradeoff, load(complete)
    assert tradeoff is not None
    points = {point.label: point for point in tradeoff.points}
    assert len(points) == len(tradeoff.points), "an assignment is drawn twice"
    for engine in certificate.engines:
        lost = 100 * (certificate.accuracy.reference - engine.metric)
        assert (points[engine.name].x, points[engine.name].y) == pytest.approx((engine.latency_ms, -lost))
    assert points["fp32"].kind == "reference" and points["fp32"].y == 0.0
    assert points["w4a4"].kind == "uniform" and points["other tool"].kind == "compared"


def test_mismatches_come_first(complete: Path) -> None:
    assert [row.as_requested for row in collect(complete).audit[:3]] == [False, False, True]
    text = Page(render(complete)).text
    assert text.index("✗ mismatch") < text.index("✓ as requested")


def test_a_target_without_latency_makes_no_claim(tmp_path: Path) -> None:
    page = Page(render(make_run(tmp_path, latency=False)))
    assert "no latency claim" in collect(tmp_path).verdict.text
    assert "Simulated accuracy, no latency claim." in page.text
    assert not re.search(r"\d\s*ms\b", page.text)
    assert CHARTS & set(page.ids) == {"front", "strip", "pairs"}
    assert "is not in this folder." not in page.text


@pytest.mark.parametrize("role", [role for role in FILES if role not in ("network", *OPTIONAL)])
def test_each_missing_artifact_is_named(tmp_path: Path, role: str) -> None:
    page = Page(render(make_run(tmp_path, n_groups=4, without=(role,))))
    assert f"{FILES[role]} is not in this folder." in page.text


def test_what_a_plan_needed_none_of_is_not_missing(tmp_path: Path) -> None:
    page = Page(render(make_run(tmp_path, n_groups=4, unused=("contributions", "interactions"))))
    assert "is not in this folder." not in page.text
    assert "This plan needed no contributions: the cheapest of all keeps the budgets." in page.text


def test_network_alone_is_enough(tmp_path: Path) -> None:
    page = Page(render(make_run(tmp_path, without=tuple(role for role in FILES if role != "network"))))
    assert page.text.count("is not in this folder.") == len(FILES) - 1 - len(OPTIONAL)
    assert not CHARTS & set(page.ids)


def test_an_unverified_plan_is_called_a_prediction(tmp_path: Path) -> None:
    view = collect(make_run(tmp_path, without=("certificate", "manifest", "front")))
    assert view.verdict.text.startswith("Predicted only, not verified: ")
    assert {row.measured for row in view.budgets} == {"not verified"}
    assert view.tradeoff is not None
    assert [point.x_source for point in view.tradeoff.points if point.kind == "chosen"] == ["predicted"]


def test_artifacts_of_two_models_are_called_out(tmp_path: Path) -> None:
    make_run(tmp_path)
    plan = artifacts.read(tmp_path / "plan.json", Plan)
    assert not any("different models" in notice for notice in collect(tmp_path).notices)
    artifacts.write(tmp_path / "plan.json", replace(plan, model_sha256="00" * 32))
    assert any("different models" in notice for notice in collect(tmp_path).notices)


def test_damaged_and_absent_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(HwsmpqError, match="no network"):
        render(tmp_path / "nowhere")
    make_run(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(HwsmpqError, match="not readable JSON"):
        render(tmp_path)


def test_formats() -> None:
    assert shorten("a" * 40 + "tail", 11) == "aaaaa…atail"
    assert len(shorten("x" * 100)) == 26
    assert signed_points(-0.001) == "0.00"
    assert (bitops(999), bitops(1.5e9), bitops(2.34567e12)) == ("999", "1.50 G", "2.35 T")


def test_stability_of_the_plan_and_of_every_group(complete: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    network, plan, _ = load(folder)
    artifacts.write(folder / "plan.json", replace(plan, stability=None))
    assert "It is not known. A plan states it" in Page(render(folder)).text
    certainty = {group: 0.5 + 0.05 * i for i, group in enumerate(network.group_names)}
    artifacts.write(folder / "plan.json", replace(plan, stability=Stability(0.42, certainty, 50, "permutations")))
    text = Page(render(folder)).text
    assert "As many fresh permutations would give" in text
    assert "in 42% of cases (50 simulated)" in text
    assert all(f"{100 * share:.0f} %" in text for share in certainty.values())


def test_errors_of_contributions_say_what_they_are_over(complete: Path, tmp_path: Path) -> None:
    run = Folder(shutil.copytree(complete, tmp_path / "run"))
    contributions, said = run.read(Contributions), {
        None: "one standard error.", "samples": "one standard error over samples.",
        "permutations": "one standard error over permutations, on these samples alone.",
    }
    for drawn, text in said.items():
        run.write(replace(contributions, drawn=drawn), {})
        assert text in re.sub(r"\s+", " ", Page(render(run.root)).text)


def test_contributions_above_a_dead_floor_say_so(complete: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    contributions = artifacts.read(folder / "contributions.json", Contributions)
    raised = {g: {"w4a4": -1.25, "fp32": row["fp32"]} for g, row in contributions.phi.items()}
    artifacts.write(folder / "contributions.json", replace(contributions, base="int8", phi=raised))
    page = Page(render(folder))
    assert "w4a4 in every layer destroys the network, so contributions start from int8" in page.text
    assert "goes from int8 to that precision" in re.sub(r"\s+", " ", page.text)
    assert "Contribution at w4a4" in page.text and "Contribution at int8" not in page.text
    assert "-1.2500" in page.text


def test_only_candidates_of_the_largest_batch_are_compared(tmp_path: Path) -> None:
    folder = make_run(tmp_path, ladder="w4a4,int8", latency=False)
    plan = artifacts.read(folder / "plan.json", Plan)
    some = tuple(replace(c, n_samples=500 if i < 5 else 100) for i, c in enumerate(plan.candidates))
    artifacts.write(folder / "plan.json", replace(plan, candidates=some))
    view = collect(folder)
    assert view.tradeoff is not None
    assert len(view.tradeoff.points) <= 5 < len(plan.candidates)


def test_the_picture_of_a_network_shows_every_group() -> None:
    from hwsmpq.report.network import draw
    from tests.report.factory import make_network

    few, many = (make_network(n, "stem $x$ <b>", np.random.default_rng(0)) for n in (8, 90))
    for network, named in ((few, True), (many, False)):
        svg = draw(network).decode()
        assert svg.startswith("<?xml") and draw(network).decode() == svg
        assert ("stem $x$ &lt;b&gt;" in svg or "stem" in svg) == named
        assert svg.count('id="patch_') >= 2 * len(network.groups)
        assert "groups in execution order" in svg or named
