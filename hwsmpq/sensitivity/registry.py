"""The sensitivity methods by name."""

from __future__ import annotations

from collections.abc import Callable

from hwsmpq.contribution.table import Table
from hwsmpq.sensitivity.fisher import fisher
from hwsmpq.sensitivity.hessian import hessian
from hwsmpq.sensitivity.output_distance import output_kl, output_mse
from hwsmpq.sensitivity.request import Request

SENSITIVITIES: dict[str, Callable[[Request], Table]] = {
    "fisher": fisher,
    "hessian": hessian,
    "output-mse": output_mse,
    "output-kl": output_kl,
}
"""Each takes a request and gives contributions: larger is better, 0 at the floor, with its cost in evaluations."""
