"""The options of the verbs, each spelled out once, and the decorator that gives a verb its share of them."""

from __future__ import annotations

import inspect
import itertools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from hwsmpq.errors import HwsmpqError

_OPTIONAL: dict[str, tuple[type, str]] = {
    "data": (str, "Data of a task that is no Python file: imagefolder:DIR, npz:FILE, or csv:FILE for hf:FOLDER."),
    "weights": (str, "State dict of a torchvision model (loaded with weights_only)."),
    "target": (str, "Hardware target; see `hwsmpq targets`."),
    "ladder": (str, "Candidate precisions, e.g. int8,fp32 or w3a3..w8a8; by default the target's own."),
    "observer": (str, "Range observer: mse, minmax or percentile."),
    "rounding": (str, "Of weights: nearest (default), or learned for every precision before anything is searched."),
    "value": (str, "What scores an assignment: soft (default for classification), loss, metric, kl or mse."),
    "seed": (int, "Seed of everything random."),
    "evaluate": (str, "What assignments are run on: simulator, or engine (real engines of native precisions)."),
    "cost": (str, "What precisions cost: latency (default where it is measured) or bitops, which times nothing."),
    "memory_mb": (int, "MB for intermediate tensors of the simulator, in every process."),
    "estimator": (str, "Estimator of the contributions, or another sensitivity method; see docs/search.md."),
    "base": (str, "Precision that contributions start from; by default the lowest that does not destroy the network."),
    "n_score_samples": (int, "Samples of the search part that score contributions; 256 by default."),
    "n_search_samples": (int, "Samples of the search part, at most; 1,024 of data that is read as it is needed."),
    "n_pairs": (int, "Antithetic pairs of permutations, at most."),
    "max_evaluations": (int, "Evaluations that contributions may take; by default as many as --n-pairs needs."),
    "target_error": (float, "Stop contributions early at this relative standard error; off by default."),
    "stability": (float, "Stop contributions early at this chance that new draws give the same plan; off by default."),
    "n_mixtures": (int, "Random engines that fit the cost model, at most."),
    "timing_seconds": (float, "Seconds that a set of engines is timed, at most."),
    "batch": (int, "Samples that an engine takes at once; latencies are of whole batches."),
    "threads": (int, "Threads that an engine computes with; more than one are timed on the wall clock."),
    "streams": (int, "Inferences side by side, each with its threads; times are then from one result to the next."),
    "confidence": (float, "Probability, e.g. 0.9, with which latency and drop keep their budgets; off by default."),
    "n_candidates": (int, "Solutions of every table that enter the race."),
    "search_evaluations": (int, "Evaluations of the score batch for the race (180; 360 of fewer than 256 samples)."),
    "iterations": (int, "Iterations a block (400)."),
    "minutes": (float, "Budget of time, shared among the stages that can take more or less; none by default."),
    "epochs": (int, "Passes over the training samples (10)."),
    "lr": (float, "Learning rate that training begins with (0.01)."),
    "batch_size": (int, "Samples of a training step (64)."),
    "device": (str, "Command that starts Python on the machine with the engines, e.g. \"ssh orin python3\"."),
    "train_on": (str, "Where to train: cpu (default) or cuda."),
    "points": (int, "Cost limits along the front, which gets about as many points (12)."),
    "measure": (int, "Points of the front, with both ends, that are built and measured as engines."),
    "latency_ms": (float, "Largest latency in ms."),
    "speedup": (float, "Least speedup against the reference engine."),
    "throughput": (float, "Least inferences (of a batch each) a second, with all --streams."),
    "bitops": (str, "Largest BitOps, a number or a uniform precision such as w4a4."),
    "size_mb": (str, "Largest size in MB, a number or a uniform precision."),
    "peak_mb": (float, "Largest memory that loading and running the engine takes, in MB, besides the runtime's own."),
    "max_drop": (float, "Largest loss of the metric, in points (hundredths)."),
    "max_switches": (int, "Tensors that are converted between formats, at most; any number by default."),
    "workers": (int, "Processes on this machine that evaluate assignments; by default one a core."),
    "ray": (str, "Address of a Ray cluster that evaluates assignments, e.g. auto (extra ray)."),
}
_SPECIAL: dict[str, tuple[Any, Any]] = {
    "task": (
        Annotated[
            str | None,
            typer.Argument(
                help="Task: file.py, module:callable, file.onnx, hf:FOLDER or torchvision:NAME. Remembered by the run"
                " folder.",
                show_default=False,
            ),
        ],
        None,
    ),
    "to": (Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write; it must not hold anything.")], ...),
    "aimet": (
        Annotated[
            bool,
            typer.Option(
                "--aimet", help="Write the plan's network in floats, and AIMET's encodings of its tensors, instead.",
            ),
        ],
        False,
    ),
    "folder": (Annotated[Path | None, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)], None),
    "out": (
        Annotated[Path, typer.Option("--out", "-o", help="Run folder; a run resumes from what it holds.")],
        Path("runs/default"),
    ),
    "from_ranges": (
        Annotated[
            Path | None,
            typer.Option(help="Ranges of this network (ranges.json) that another run calibrated.", metavar="FILE",
                         show_default=False),
        ],
        None,
    ),
    "from_cache": (
        Annotated[
            Path | None,
            typer.Option(help="Calibration cache of TensorRT to take ranges from.", metavar="FILE", show_default=False),
        ],
        None,
    ),
    "export_cache": (
        Annotated[
            Path | None,
            typer.Option(help="Write the ranges as a calibration cache of TensorRT.", metavar="FILE",
                         show_default=False),
        ],
        None,
    ),
    "from_table": (
        Annotated[
            Path | None,
            typer.Option(help="A cost table of this network that was measured on another machine.",
                         metavar="FILE", show_default=False),
        ],
        None,
    ),
    "folders": (
        Annotated[
            list[Path] | None,
            typer.Argument(help="Run folder (instead of -o), or two to compare.", metavar="[FOLDER [FOLDER]]",
                           show_default=False),
        ],
        None,
    ),
    "from_trtexec": (
        Annotated[
            list[Path] | None,
            typer.Option(
                help="Layer information and profile that trtexec exported, of one engine after the other.",
                metavar="LAYERS.json PROFILE.json ...", show_default=False,
            ),
        ],
        None,
    ),
    "emit_trtexec": (
        Annotated[
            Path | None,
            typer.Option(help="Write ONNX files and a script here, to profile with trtexec elsewhere.",
                         metavar="DIR", show_default=False),
        ],
        None,
    ),
    "json": (Annotated[bool, typer.Option("--json", help="Print the result as JSON.")], False),
    "additive": (
        Annotated[
            bool | None,
            typer.Option(
                "--additive/--race", show_default=False,
                help="Take the best plan of the contributions alone, as the paper does, or race several (default).",
            ),
        ],
        None,
    ),
    "reconstruct": (
        Annotated[
            bool | None,
            typer.Option(
                "--reconstruct/--no-reconstruct", show_default=False,
                help="Learn the rounding of every plan before its engine is built, or round to nearest (default).",
            ),
        ],
        None,
    ),
    "smooth": (
        Annotated[
            bool | None,
            typer.Option(
                "--smooth/--no-smooth", show_default=False,
                help="Share the spread of linear inputs with weights (SmoothQuant, AWQ), where that helps (default).",
            ),
        ],
        None,
    ),
    "correct_bias": (
        Annotated[
            bool | None,
            typer.Option(
                "--correct-bias/--no-correct-bias", show_default=False,
                help="Let biases take back what quantization adds to outputs in the mean, where that helps (default).",
            ),
        ],
        None,
    ),
}

_REPEATED = {
    "pin": ("PATTERN=PRECISION", "These layers in this precision, no other."),
    "at_least": ("PATTERN=PRECISION", "These layers with no fewer bits than this precision."),
    "exclude": ("PATTERN", "Never quantize these layers."),
    "together": ("PATTERN,PATTERN", "All of these layers in one precision."),
    "latency_shape": (
        "SHAPE", "Of samples of several shapes: one that engines are timed at, e.g. 3x224x224; the most frequent one by"
        " default, the mean of several by their shares.",
    ),
}
for _name, (_metavar, _text) in _REPEATED.items():
    _SPECIAL[_name] = (
        Annotated[
            list[str] | None,
            typer.Option(help=f"{_text} Repeatable; '' forgets what the run folder remembers.", metavar=_metavar,
                         show_default=False),
        ],
        None,
    )

FOLDER = ("task", "out", "json")
MODEL = (*FOLDER, "data", "weights", "target", "device", "ladder", "exclude")
CALIBRATION = (*MODEL, "observer", "smooth", "correct_bias", "rounding")
PROFILING = ("cost", "batch", "threads", "streams", "latency_shape", "n_mixtures", "timing_seconds")
EXECUTION = ("workers", "ray")
SCORING = (
    "value", "evaluate", "estimator", "base", "n_score_samples", "n_search_samples", "n_pairs", "max_evaluations",
    "target_error", "memory_mb", *EXECUTION,
)
BUDGETS = ("latency_ms", "speedup", "throughput", "bitops", "size_mb", "peak_mb", "max_drop")
CONSTRAINTS = ("pin", "at_least", "together", "max_switches")
SEARCH = (
    "stability", "confidence", "n_candidates", "additive", "search_evaluations", *CONSTRAINTS, *BUDGETS,
)


def absolute(named: str) -> str:
    """A task, data or weights as the user named them, with a path in them made absolute."""
    kind, _, path = named.partition(":")
    if kind in ("imagefolder", "npz") and path:
        return f"{kind}:{os.path.abspath(path)}"
    return os.path.abspath(named) if named.endswith((".py", ".onnx")) else named


def parse_budgets(text: str) -> dict[str, Any]:
    """Budgets by name, from options as on the command line.

    Raises:
        HwsmpqError: there is none, or another word.
    """
    words = shlex.split(text.replace("=", " "))
    found: dict[str, Any] = {}
    for option, value in itertools.zip_longest(words[::2], words[1::2]):
        name = option.lstrip("-").replace("-", "_")
        try:
            found[name] = _OPTIONAL[name][0](value) if name in BUDGETS and value else None
        except ValueError:
            found[name] = None
    if not found or None in found.values():
        raise HwsmpqError(
            f"{text!r} is no budget", "a budget is an option and its value",
            f"one of {', '.join('--' + name.replace('_', '-') for name in BUDGETS)}, for example --max-drop 0.5",
        )
    return found


class ManyValues(TyperCommand):
    """A command one of whose options takes all values up to the next option, as the shell expands them."""

    OPTION = "--from-trtexec"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread, is_open = [], False
        for arg in args:
            is_value = is_open and not arg.startswith("-")
            spread += [self.OPTION, arg] if is_value else [arg] if arg != self.OPTION else []
            is_open = is_value or arg == self.OPTION
        return super().parse_args(ctx, spread)


def takes(*names: str, **defaults: Any) -> Callable[[Callable[[dict[str, Any]], None]], Callable[..., None]]:
    """Make a function of the parsed values into a verb with the named options, some with a default of its own."""

    def decorate(verb: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            verb(values)

        parameters = []
        for name in names:
            if name in _SPECIAL:
                annotation, default = _SPECIAL[name]
            else:
                kind, text = _OPTIONAL[name]
                annotation, default = Annotated[kind | None, typer.Option(help=text, show_default=False)], None
            parameters.append(
                inspect.Parameter(
                    name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name, default), annotation=annotation
                )
            )
        command.__name__, command.__doc__ = verb.__name__, verb.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return decorate
