"""What every artifact of a run folder is made from, as data: its file, its schema and its inputs.

An artifact is made again when one of its inputs is another: the payload of an artifact further up, a role (something
outside the folder: a part of the data, a function of the user's, the machine), a setting, or what one call asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from hwsmpq import types


class Evaluations:
    """The store of evaluations; every value in it is kept under the inputs of this row."""


@dataclass(frozen=True)
class Row:
    """One kind of artifact.

    Attributes:
        file: path in the run folder.
        upstream: artifacts whose payloads it depends on.
        roles: names of :data:`ROLES` that it depends on.
        settings: fields of :class:`hwsmpq.Settings` that it depends on, besides those that its roles stand for.
        asked: what the call that makes it says beyond the settings.
        grows: fields of its payload that later work adds to, which leaves what was made from it before as it is.
    """

    kind: type
    file: str
    schema: str
    upstream: tuple[type, ...] = ()
    roles: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    grows: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of all inputs, as the envelope has them."""
        return (*(ROWS[kind].schema for kind in self.upstream), *self.roles, *self.settings, *self.asked)


ROLES: dict[str, tuple[str, ...]] = {
    "model": (),
    "network": ("target",),
    "runs": ("target", "ladder", "exclude"),
    "constraints": ("pin", "at_least", "together", "max_switches"),
    "calibration": (),
    "quantized": ("ladder", "smooth", "correct_bias", "rounding"),
    "search": ("seed", "n_search_samples"),
    "score": ("seed", "n_score_samples", "n_search_samples"),
    "report": ("seed", "n_search_samples"),
    "metric": (),
    "loss": (),
    "classification": (),
    "value": ("value",),
    "runner": ("evaluate", "target", "batch", "threads", "streams"),
    "scheme": ("target",),
    "target": ("target",),
    "machine": ("target", "threads", "streams", "device", "latency_shape"),
}
"""What counts besides artifacts and settings, with the settings that it stands for: the weights and graph; the layers'
groups; what the target has no kernel for, and what the user excludes; what plans are held to; the calibration samples;
the precisions and products that ranges are for; the parts of the evaluation data; the task's functions, and whether it
is classification; what scores assignments and what they are run on; scheme, target, machine."""

UNCOUNTED = {
    "task": "what it gives counts: model, data and functions",
    "data": "what it gives counts",
    "weights": "what they give counts: the model",
    "reconstruct": "what it makes counts: the weights that engines are built from",
    "memory_mb": "how the work is done",
    "timing_seconds": "how long is measured",
}
"""Settings that no artifact depends on, and why. What is no setting at all (workers) counts for nothing either."""

_RUN = ("network", "runs", "target", "machine")
_SCORED = ("network", "runs", "value", "metric", "runner")

TABLE = (
    Row(types.Settings, "settings.json", "settings"),
    Row(types.StageTimes, "stage_times.json", "stage_times"),
    Row(types.Network, "network.json", "network", roles=("model", "network")),
    Row(types.Ranges, "ranges.json", "ranges", roles=("model", "calibration", "scheme", "quantized"),
        settings=("observer",)),
    Row(types.Survey, "survey.json", "survey", (types.Ranges,), _RUN, ("ladder", "batch", "threads")),
    Row(types.CostTable, "cost_table.json", "cost_table", (types.Ranges, types.Survey), _RUN,
        ("ladder", "batch", "threads", "seed", "n_mixtures"), grows=("engines", "noise")),
    Row(types.Rounds, "rounds.json", "rounds", (types.Ranges, types.Survey, types.CostTable),
        (*_RUN, "report", "metric", "loss", "classification"), ("ladder", "batch", "threads", "cost", "confidence")),
    Row(Evaluations, "evaluations.sqlite", "evaluations", (types.Ranges,),
        ("network", "scheme", "value", "metric", "runner"), asked=("samples",)),
    Row(types.Division, "division.json", "division", (types.Ranges, types.Survey), _SCORED,
        ("ladder", "minutes", "estimator", "n_pairs", "n_score_samples", "n_mixtures", "search_evaluations")),
    Row(types.Contributions, "contributions.json", "contributions", (types.Ranges, types.Survey),
        (*_SCORED, "score"),
        ("ladder", "seed", "base", "estimator", "n_pairs", "max_evaluations", "minutes", "target_error"),
        asked=("until",)),
    Row(types.Scores, "scores.json", "scores", (types.Ranges, types.Survey), (*_SCORED, "score", "loss"),
        ("ladder", "seed"), asked=("base", "methods")),
    Row(types.Interactions, "interactions.json", "interactions", (types.Contributions,)),
    Row(types.Plan, "plan.json", "plan",
        (types.Ranges, types.Survey, types.CostTable, types.Rounds, types.Contributions),
        (*_SCORED, "search", "constraints"),
        ("ladder", "seed", "n_score_samples", "n_candidates", "search_evaluations", "minutes", "additive",
         "confidence"),
        asked=("budgets", "margin", "met")),
    Row(types.Reconstructed, "reconstruct/reconstructed.json", "reconstructed", (types.Ranges,), ("model", "scheme"),
        asked=("assignment", "samples", "recipe", "trained_on")),
    Row(types.Trained, "finetune/trained.json", "trained", (types.Ranges, types.Reconstructed),
        ("model", "scheme", "loss"),
        asked=("assignment", "samples", "recipe", "objective")),
    Row(types.Manifest, "engine/manifest.json", "manifest",
        (types.Plan, types.Ranges, types.Survey, types.Reconstructed, types.Trained), (*_RUN, "scheme"),
        ("batch", "threads")),
    Row(types.Certificate, "certificate.json", "certificate",
        (types.Manifest, types.Plan, types.Ranges, types.Survey, types.CostTable, types.Rounds),
        (*_RUN, "report", "metric", "loss", "classification"), ("ladder", "batch", "threads", "cost", "confidence")),
    Row(types.Front, "front.json", "front",
        (types.Ranges, types.Survey, types.CostTable, types.Rounds, types.Contributions, types.Plan),
        (*_SCORED, "search", "constraints", "report", "classification", "target", "machine"),
        ("ladder", "seed", "n_score_samples", "batch", "threads", "confidence"), asked=("points",)),
)
ROWS: dict[type, Row] = {row.kind: row for row in TABLE}
FILES: dict[type, str] = {row.kind: row.file for row in TABLE if row.kind is not Evaluations}
"""The JSON artifacts."""
MEMO_FILE = ROWS[Evaluations].file
