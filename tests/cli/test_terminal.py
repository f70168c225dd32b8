"""What a person meets on a terminal, and what a pipe gets instead."""

from __future__ import annotations

import io
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Finished
from rich.console import Console
from tiny_task import task

from cli.console import COMMAND, ROOT, Cli, environment
from hwsmpq.cli import display
from hwsmpq.cli.tree import network_tree
from hwsmpq.model.capture import capture
from hwsmpq.pipeline.decide.budgets import resolve_budgets
from hwsmpq.pipeline.decide.solve import search
from hwsmpq.pipeline.run import Run
from hwsmpq.report.collect import collect


def test_a_network_is_a_tree_of_its_modules(cli: Cli, qdq_run: Finished) -> None:
    shown = cli("inspect", "-o", qdq_run.folder).out
    network = qdq_run.open().network
    total = sum(layer.n_macs for layer in network.layers)
    for layer in network.layers:
        line, = (line for line in shown.splitlines() if layer.name in line)
        assert f"{layer.n_macs / total:.1%} of MACs" in line and f"{layer.n_macs:,} MACs" in line


def test_modules_hold_their_layers_and_groups_are_named() -> None:
    import torch
    from torch import nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.q(x) * self.k(x)

    model = nn.Sequential(nn.Sequential(Attention()), nn.Linear(4, 2))
    console = Console(file=io.StringIO(), width=150)
    console.print(network_tree(capture(model, (torch.ones(2, 4),)).network, "net [bold]"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[0] == "net [bold]"
    assert [line.lstrip("│├└─ ").split()[0] for line in lines[1:]] == ["0.0", "q", "k", "1"]
    assert all("in the group of 0.0.q" in line for line in lines[2:4]) and "group" not in lines[4]


@pytest.mark.parametrize("finished", ["qdq_run", "openvino_run"])
def test_the_verdict_is_that_of_the_report(cli: Cli, finished: str, request: pytest.FixtureRequest) -> None:
    run: Finished = request.getfixturevalue(finished)
    shown, verdict = cli("verify", "-o", run.folder).out, collect(run.folder).verdict
    assert shown.endswith("\n".join([f"{verdict.badge}: {verdict.text}", *verdict.advice, ""]))
    assert shown.count(" met\n") + shown.count(" met ") >= len(run.budgets)
    accuracy = run.certificate.accuracy
    assert all(f"top1 {100 * value:.2f}" in shown for value in (accuracy.engine, accuracy.reference))


def test_a_pipe_gets_plain_text(qdq_run: Finished) -> None:
    done = subprocess.run([*COMMAND, "verify", "-o", str(qdq_run.folder)], capture_output=True, text=True, cwd=ROOT,
                          env=environment(), timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout and not set("╭─┃│") & set(done.stdout)


def test_bars_tell_the_time_left_and_what_was_found() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=150)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "errors", console)
        with display.progress_bars(True) as bars:
            bars("search [0]", 0, 4)
            bars("search [0]", 2, 4)
            bars.status("search [0]", "best soft -0.1234 on 16 samples")
            bars.status("another stage", "not shown")
            bars.status(display.WHOLE, "about 6 minutes: race 6")
    shown = screen.getvalue()
    assert "search [0]" in shown and "2/4" in shown and "-:--:--" in shown
    assert "best soft -0.1234 on 16 samples" in shown and "not shown" not in shown
    assert "about 6 minutes: race 6" in shown


def test_a_search_tells_the_best_so_far(qdq_run: Finished, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    run = Run(tmp_path, replace(qdq_run.settings, search_evaluations=20), task(),
              status=lambda stage, text: told.append((stage, text)))
    plan = search(run, resolve_budgets(run, bitops="int8"))
    assert {stage for stage, _ in told} == {"search: evaluate candidates", display.WHOLE}
    assert told[0][0] == display.WHOLE and "verify" not in told[0][1]  # which a search is not followed by
    assert any(text.startswith("best soft ") for _, text in told)
    n = run.settings.n_score_samples
    values = [float(text.split()[2]) for _, text in told if text.endswith(f"on {n} samples")]
    assert values == sorted(values) and plan.candidates


def test_shells_complete_verbs_and_options() -> None:
    def completed(words: str) -> list[str]:
        env = {**environment(), "_HWSMPQ_COMPLETE": "complete_bash", "COMP_WORDS": words,
               "COMP_CWORD": str(len(words.split()) - 1)}
        code = "import sys; sys.argv[0] = 'hwsmpq'; from hwsmpq.cli import main; main()"
        done = subprocess.run([COMMAND[0], "-c", code], capture_output=True, text=True, env=env, timeout=60)
        return done.stdout.split()

    assert completed("hwsmpq insp") == ["inspect"]
    assert "--max-drop" in completed("hwsmpq run --max-d")


def test_completion_is_offered(cli: Cli) -> None:
    assert "--install-completion" in cli("--help").out


def test_a_log_file_has_a_line_a_stage_and_one_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [0.0], list[str]()
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(display, "notify", lines.append)
    with display.progress_bars(True) as tell:
        for at, stage, done in (
            (2, "calibrate", 2), (2.1, "survey", 3), (12, "race", 4), (33, "race", 5), (40, "race", 6), (45, "build", 1)
        ):
            now[0] = at
            tell(stage, done, 6)
            tell.status("race", "best .7")
            if stage == "survey":
                tell.status(display.WHOLE, "about 1 minute")
    assert lines == [
        "calibrate: 2 of 6, 2 s", "about 1 minute", "race: 5 of 6, 31 s, best .7", "race: 6 of 6, 38 s, best .7",
        "build: 1 of 6, 5 s",
    ]
    with display.progress_bars(False) as tell:
        now[0] += 100
        tell("race", 1, 2)
        tell.status(display.WHOLE, "about 2 minutes")
    assert len(lines) == 5
