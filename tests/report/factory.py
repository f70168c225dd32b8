"""Make a whole, consistent run folder out of synthetic artifacts: no model, no engine, no measurement."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from hwsmpq.folder import UNUSED, Folder
from hwsmpq.stages import ROWS
from hwsmpq.types import (
    CHOSEN,
    REFERENCE,
    AccuracyOutcome,
    Agreement,
    Audit,
    Budget,
    BudgetOutcome,
    BuiltEngine,
    Candidate,
    Certificate,
    Contributions,
    CostTable,
    EngineResult,
    EngineTiming,
    Front,
    Group,
    Interactions,
    Ladder,
    LatencyOutcome,
    Layer,
    LayerAudit,
    Manifest,
    Measurement,
    Network,
    Plan,
    Ranges,
    Read,
    Round,
    Settings,
    Stability,
    TensorRange,
)

MODEL, DATA = "ab" * 32, "cd" * 32
FILES = {
    "network": "network.json", "ranges": "ranges.json", "cost_table": "cost_table.json",
    "contributions": "contributions.json", "plan": "plan.json", "manifest": "engine/manifest.json",
    "certificate": "certificate.json", "settings": "settings.json", "interactions": "interactions.json",
    "front": "front.json",
}
OPTIONAL = ("interactions", "front")
"""What a run may do without."""
ENGINE_FILE, ENGINE = "model.onnx", b"an engine"
MACHINE = {"cpu": "synthetic CPU", "threads": "1", "runtime": "synthetic 1.0"}


def make_run(
    folder: Path,
    *,
    n_groups: int = 12,
    ladder: str = "int8,fp32",
    latency: bool = True,
    first_group: str = "stem",
    mismatches: int = 0,
    met: bool = True,
    without: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
    n_engines: int = 6,
    seed: int = 0,
) -> Path:
    """Write the artifacts named in ``FILES`` except those in ``without``, and those in ``unused``, which the others say
    that they were made without; the same arguments give the same numbers."""
    unused = unused if latency else (*unused, "cost_table")
    made = make_artifacts(n_groups, Ladder.parse(ladder), latency, first_group, mismatches, met, n_engines, seed)
    run = Folder(folder)
    for role, value in made.items():
        if role not in (*without, *unused):
            upstream = ROWS[type(value)].upstream
            there = {ROWS[kind].schema: run.sha256(kind) for kind in upstream if run.has(kind)}
            run.write(value, there | {ROWS[kind].schema: UNUSED for kind in upstream if ROWS[kind].schema in unused})
    if "manifest" not in without:
        (folder / "engine" / ENGINE_FILE).write_bytes(ENGINE)
    return folder


def make_artifacts(
    n_groups: int, ladder: Ladder, latency: bool, first_group: str, mismatches: int, met: bool, n_engines: int,
    seed: int,
) -> dict[str, object]:
    rng = np.random.default_rng(seed)
    network = make_network(n_groups, first_group, rng)
    names = network.group_names
    levels = ladder.names
    speed = {p.name: 0.25 + 0.75 * min(p.bitops_per_mac, 1024) / 1024 for p in ladder.precisions}
    group_ms = {g: {b: float(0.1 * speed[b] * rng.uniform(0.6, 1.4)) for b in levels} for g in names}

    def latency_ms(assignment: dict[str, str]) -> float:
        crossed = [edge.n_elements for edge in network.switches(assignment)]
        layers = sum(group_ms[g][b] for g, b in assignment.items())
        return 1.1 * layers + 0.2 + 0.002 * len(crossed) + 1e-8 * sum(crossed)

    def timing(value: float) -> Measurement:
        return Measurement(float(value * rng.normal(1, 0.015)), 0.01 * value, 30)

    def mixture() -> dict[str, str]:
        return dict(zip(names, map(str, rng.choice(levels, len(names))), strict=True))

    uniform_ms = {b: Measurement(latency_ms(network.uniform(b)), 0.02, 30) for b in levels}
    engines = [mixture() for _ in range(10)]
    cost = CostTable(
        "openvino-cpu" if latency else "bitops", MACHINE, MODEL, levels, group_ms if latency else {},
        uniform_ms if latency else {},
        tuple(EngineTiming(x, timing(latency_ms(x)), uniform_ms[levels[-1]]) for x in engines) if latency else (),
    )
    weight = rng.gamma(1.0, 0.01, n_groups)
    phi = {g: {b: float(weight[i] * (1 - 0.4 ** j)) if j < len(levels) - 1 else float(weight[i])
               for j, b in enumerate(levels) if j} for i, g in enumerate(names)}
    contributions = Contributions(
        "antithetic permutations", "negative cross-entropy", MODEL, levels, phi,
        {g: {b: 0.15 * abs(value) + 0.0004 for b, value in row.items()} for g, row in phi.items()},
        -0.75, -0.75 + float(weight.sum()), 2 * n_groups * 10, 10, 256, seed,
    )

    bitops = {g: {b: float(network.bitops(g, ladder[b])) for b in levels} for g in names}
    n_bytes = {g: {b: network.size_bytes(g, ladder[b]) for b in levels} for g in names}

    def candidate(assignment: dict[str, str]) -> Candidate:
        lost = sum(weight[i] - phi[g].get(assignment[g], 0.0) for i, g in enumerate(names))
        return Candidate(
            assignment, -0.4 - lost, float(-0.4 - lost + rng.normal(0, 0.004)), 0.006, float(12 * lost), 0.3,
            latency_ms(assignment) if latency else None,
            sum(bitops[g][b] for g, b in assignment.items()),
            sum(n_bytes[g][b] for g, b in assignment.items()) / 1e6,
        )

    sensitive = set(np.array(names)[np.argsort(-weight)[: max(1, n_groups // 4)]])
    drawn = [levels[min(len(levels) - 2, int(rng.integers(len(levels))))] for _ in names]
    chosen = {g: levels[-1] if g in sensitive else b for g, b in zip(names, drawn, strict=True)}
    pool = tuple(candidate(x) for x in (chosen, *(network.uniform(b) for b in levels), *(mixture() for _ in range(14))))
    plan_point = pool[0]
    measured = plan_point.latency_ms * 1.01 if latency else 0.0
    limits = {"latency_ms": measured * (1.05 if met else 0.95)} if latency else {"bitops": plan_point.bitops * 1.05}
    limits["max_drop"] = plan_point.drop_points + 1.0
    budgets = tuple(Budget(kind, limit) for kind, limit in limits.items())
    plan = Plan(chosen, budgets, "value", "optimal", 0.0, plan_point.predicted_value, plan_point.drop_points,
                plan_point.latency_ms, plan_point.bitops, plan_point.size_mb, pool, levels, MODEL, seed,
                Stability(0.42, {g: 0.5 + 0.5 * i / n_groups for i, g in enumerate(names)}, 50))
    audits = tuple(
        LayerAudit(layer.name, chosen[network.group_of(layer.name)], chosen[network.group_of(layer.name)])
        for layer in network.layers
    )
    # The wrong ones come last, so that the page has to bring them to the front.
    right = len(audits) - mismatches
    audits = audits[:right] + tuple(replace(a, realised="bf16") for a in audits[right:])
    manifest = Manifest(cost.target, chosen, {ENGINE_FILE: hashlib.sha256(ENGINE).hexdigest()}, audits)
    reached = {"latency_ms": (plan_point.latency_ms, measured), "bitops": (plan_point.bitops, plan_point.bitops),
               "max_drop": (plan_point.drop_points, 0.2)}
    certificate = Certificate(
        cost.target, MACHINE, MODEL, "single thread, median of 30 interleaved repeats" if latency else "simulation",
        tuple(BudgetOutcome(b.kind, b.limit, *reached[b.kind], reached[b.kind][1] <= b.limit) for b in budgets),
        LatencyOutcome(1.83 * measured, plan_point.latency_ms, measured, 0.01 * measured) if latency else None,
        AccuracyOutcome(0.751, 0.749, 325, 0.003, 0.001, "engine" if latency else "simulator"),
        Audit(len(audits), len(audits) - mismatches, tuple(a for a in audits if not a.as_requested)),
        (Round(budgets, pool[-1].assignment, measured * 1.06, timing(measured * 1.10), False),
         Round(budgets, chosen, plan_point.latency_ms, Measurement(measured, 0.0, 7), met)) if latency else (),
        (*(EngineResult(b, uniform_ms[b].median_ms if latency else None, 0.751 if b == "fp32" else 0.715, 1.2, 0.08,
                        sum(bitops[g][b] for g in names), sum(n_bytes[g][b] for g in names) / 1e6)
           for b in (levels[:1] if latency else levels)),
         EngineResult("other tool", 1.2 * measured if latency else None, 0.742, 1.1, None, 2e9, 0.7)),
        agreement={CHOSEN: Agreement(0.004, 0.009, 32), REFERENCE: Agreement(1e-6, 1e-4, 32)} if latency else {},
    )
    ranges = Ranges(MODEL, DATA, "signed symmetric per channel", "mse", 300,
                    {layer.name: TensorRange(-1.0, 2.0, {8: (-1.0, 2.0)}) for layer in network.layers})
    pairs = [(names[i], names[j], float(rng.normal(0, 0.01))) for i, j in rng.integers(n_groups, size=(n_groups, 2))
             if i != j]
    interactions = Interactions(MODEL, "negative cross-entropy", levels[0], levels[-1], 160,
                                tuple(sorted(pairs, key=lambda pair: -abs(pair[2]))))
    settings = Settings("/tasks/my task.py", target=cost.target, ladder=levels, seed=seed + 1, smooth=False)

    def built(assignment: dict[str, str]) -> BuiltEngine:
        accuracy = AccuracyOutcome(0.751, 0.751 - candidate(assignment).drop_points / 100, 325, 0.003)
        return BuiltEngine(assignment, timing(latency_ms(assignment)), accuracy, Audit(len(audits), len(audits), ()))

    front = Front(cost.target, MODEL, levels, seed, "latency_ms" if latency else "bitops", "negative cross-entropy",
                  -0.4, 200, pool[:4], tuple(built(mixture()) for _ in range(n_engines)) if latency else ())
    return {"network": network, "ranges": ranges, "cost_table": cost, "contributions": contributions, "plan": plan,
            "manifest": manifest, "certificate": certificate, "settings": settings, "interactions": interactions,
            "front": front}


def make_network(n_groups: int, first_group: str, rng: np.random.Generator) -> Network:
    """A chain of groups; every fifth holds two layers."""
    layers, groups = [], []
    for i in range(n_groups):
        group = first_group if i == 0 else f"stages.{i // 4}.blocks.{i % 4}.conv{1 + i % 3}"
        members = [group] if i % 5 else [group, f"{group}.shortcut"]
        for name in members:
            macs = int(rng.integers(1_000_000, 40_000_000))
            layers.append(Layer(name, "conv", f"{name}.weight", (64, 64, 3, 3), 0, f"{group}.input", (1, 64, 14, 14),
                                (1, 64, 14, 14), macs, 36_864, 64))
        groups.append(Group(group, tuple(members)))
    writers = (None, *(group.name for group in groups[:-1]))
    reads = tuple(Read(f"{group.name}.input", writer, 12_544) for group, writer in zip(groups, writers, strict=True))
    return Network(MODEL, tuple(layers), tuple(groups), reads, 128)
