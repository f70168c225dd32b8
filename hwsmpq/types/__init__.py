"""The words of the project as frozen dataclasses: everything that crosses a module boundary.

Units are in the names. Every type here is plain data (no torch, no runtime), validates itself, and
round-trips through JSON (see :mod:`hwsmpq.artifacts`).
"""

from __future__ import annotations

from hwsmpq.device.measurement import Measurement
from hwsmpq.types.budget import USUAL_CONFIDENCE, Bound, Budget, BudgetKind, with_slack
from hwsmpq.types.certificate import (
    BY_ITSELF,
    CHOSEN,
    AccuracyOutcome,
    Agreement,
    Audit,
    BudgetOutcome,
    Certificate,
    DynamicBatch,
    EngineResult,
    LatencyOutcome,
    LayerAudit,
    Manifest,
    Round,
    Rounds,
    RuntimeDefault,
    ShapeLatency,
)
from hwsmpq.types.constraints import Constraints, Held
from hwsmpq.types.coverage import Coverage, OtherWeight
from hwsmpq.types.division import Division
from hwsmpq.types.front import BuiltEngine, Front
from hwsmpq.types.measured import (
    Contributions,
    CostTable,
    Drawn,
    EngineTiming,
    Interactions,
    Ranges,
    Scores,
    TensorRange,
)
from hwsmpq.types.network import Edge, Group, Layer, Network, Read
from hwsmpq.types.onnx_form import PRECISION_KEY, SMOOTH, OnnxForm
from hwsmpq.types.operators import ONNX_LAYERS, OPERATORS, PRODUCTS, READ_SIZES, WITH_WEIGHTS, Kind, Operator
from hwsmpq.types.plan import Candidate, Cost, Forgone, Plan, Stability
from hwsmpq.types.precision import (
    HALF_FORMATS,
    MAX_BITS,
    MIN_BITS,
    PRECISIONS,
    REFERENCE,
    Assignment,
    Format,
    Ladder,
    Precision,
)
from hwsmpq.types.settings import FLEXIBLE_TARGET, Options, Settings
from hwsmpq.types.stage_times import StageTime, StageTimes
from hwsmpq.types.survey import Realised, Survey
from hwsmpq.types.sweep import Sweep, SweepPoint
from hwsmpq.types.trained import BlockOutcome, Recipe, Reconstructed, Reconstruction, Trained

__all__ = [
    "BY_ITSELF",
    "CHOSEN",
    "FLEXIBLE_TARGET",
    "HALF_FORMATS",
    "MAX_BITS",
    "MIN_BITS",
    "ONNX_LAYERS",
    "OPERATORS",
    "PRECISIONS",
    "PRECISION_KEY",
    "PRODUCTS",
    "READ_SIZES",
    "REFERENCE",
    "SMOOTH",
    "USUAL_CONFIDENCE",
    "WITH_WEIGHTS",
    "AccuracyOutcome",
    "Agreement",
    "Assignment",
    "Audit",
    "BlockOutcome",
    "Bound",
    "Budget",
    "BudgetKind",
    "BudgetOutcome",
    "BuiltEngine",
    "Candidate",
    "Certificate",
    "Constraints",
    "Contributions",
    "Cost",
    "CostTable",
    "Coverage",
    "Division",
    "Drawn",
    "DynamicBatch",
    "Edge",
    "EngineResult",
    "EngineTiming",
    "Forgone",
    "Format",
    "Front",
    "Group",
    "Held",
    "Interactions",
    "Kind",
    "Ladder",
    "LatencyOutcome",
    "Layer",
    "LayerAudit",
    "Manifest",
    "Measurement",
    "Network",
    "OnnxForm",
    "Operator",
    "Options",
    "OtherWeight",
    "Plan",
    "Precision",
    "Ranges",
    "Read",
    "Realised",
    "Recipe",
    "Reconstructed",
    "Reconstruction",
    "Round",
    "Rounds",
    "RuntimeDefault",
    "Scores",
    "Settings",
    "ShapeLatency",
    "Stability",
    "StageTime",
    "StageTimes",
    "Survey",
    "Sweep",
    "SweepPoint",
    "TensorRange",
    "Trained",
    "with_slack",
]
