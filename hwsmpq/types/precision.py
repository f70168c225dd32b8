"""Precisions, and the ladder of candidates that one search chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hwsmpq.errors import HwsmpqError

Format = Literal["int", "fp8", "fp16", "bf16", "fp32"]
MIN_BITS, MAX_BITS = 2, 8
HALF_FORMATS: tuple[Format, ...] = ("fp16", "bf16")
REFERENCE = "fp32"
"""The precision that drops and divergences are measured against, whether or not it is in the ladder."""
Assignment = dict[str, str]
"""Group name -> precision name."""


@dataclass(frozen=True)
class Precision:
    """A (weight format, activation format) pair, e.g. ``w4a8``, ``int8`` (= w8a8), ``fp8``, ``w4a16`` or ``fp32``.

    ``w8a16`` and ``w4a16`` are weight-only: integer weights times fp16 activations. Those of ``w4a16`` have one scale
    a block of inputs, all other quantized weights one an output channel.
    """

    name: str
    weight_format: Format
    weight_bits: int
    activation_format: Format
    activation_bits: int

    @property
    def is_float(self) -> bool:
        """Whether weights and activations are floats without a scale."""
        return self.weight_format not in ("int", "fp8")

    @property
    def quantizes_activations(self) -> bool:
        """Whether activations have a scale."""
        return self.activation_format in ("int", "fp8")

    @property
    def bits(self) -> tuple[int, int]:
        """Of weights and of activations."""
        return self.weight_bits, self.activation_bits

    @property
    def activations(self) -> tuple[Format, int]:
        """Format and bits that a tensor is converted to for a layer to read it."""
        return self.activation_format, self.activation_bits

    @property
    def has_integer_operands(self) -> bool:
        """Whether weights and activations both are integers with a scale."""
        return self.weight_format == self.activation_format == "int"

    @property
    def is_blockwise(self) -> bool:
        """Whether weights have a scale a block of inputs rather than an output channel."""
        return self.name == "w4a16"

    @property
    def bitops_per_mac(self) -> int:
        """Weight bits times activation bits: the usual BitOps proxy."""
        return self.weight_bits * self.activation_bits

    @staticmethod
    def parse(name: str) -> Precision:
        """Read a precision name.

        Raises:
            HwsmpqError: the name is not a known precision or its bits are outside 2..8.
        """
        name = name.strip().lower()
        known = PRECISIONS.get("int8" if name == "w8a8" else name)
        if known is None:
            raise HwsmpqError(
                f"unknown precision {name!r}",
                f"a precision is wXaY with {MIN_BITS} to {MAX_BITS} bits, int8, or one of"
                f" {', '.join(p.name for p in OTHERS)}",
                "for example --ladder w4a4,w8a8,fp32",
            )
        return known

    @staticmethod
    def integer(weight_bits: int, activation_bits: int) -> Precision:
        """Integer weights and activations of these bits."""
        name = "int8" if weight_bits == activation_bits == 8 else f"w{weight_bits}a{activation_bits}"
        return Precision(name, "int", weight_bits, "int", activation_bits)


OTHERS = (
    Precision("w4a16", "int", 4, "fp16", 16),
    Precision("w8a16", "int", 8, "fp16", 16),
    Precision("fp8", "fp8", 8, "fp8", 8),
    Precision("bf16", "bf16", 16, "bf16", 16),
    Precision("fp16", "fp16", 16, "fp16", 16),
    Precision("fp32", "fp32", 32, "fp32", 32),
)
WIDTHS = range(MIN_BITS, MAX_BITS + 1)
PRECISIONS = {p.name: p for p in (*(Precision.integer(w, a) for w in WIDTHS for a in WIDTHS), *OTHERS)}
"""All there are, by the name that assignments and artifacts have them under."""


@dataclass(frozen=True)
class Ladder:
    """The ordered candidates of one search, from floor (fewest BitOps a MAC) to reference (top)."""

    precisions: tuple[Precision, ...]

    def __post_init__(self) -> None:
        if len(self.precisions) < 2:
            raise HwsmpqError(
                f"a ladder of {len(self.precisions)} precision(s) leaves nothing to choose",
                fix="give at least two, for example --ladder int8,fp32",
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(p.name for p in self.precisions)

    @property
    def floor(self) -> str:
        return self.names[0]

    @property
    def top(self) -> str:
        return self.names[-1]

    def __getitem__(self, name: str) -> Precision:
        return self.precisions[self.names.index(name)]

    @staticmethod
    def parse(text: str) -> Ladder:
        """Read a comma-separated list; ``w3a3..w8a8`` expands to equal bits between the two ends."""
        found: dict[str, Precision] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            low, dots, high = part.partition("..")
            if not dots:
                names = [part]
            else:
                first, last = Precision.parse(low), Precision.parse(high)
                names = [f"w{b}a{b}" for b in range(first.weight_bits, last.weight_bits + 1)]
                if first.weight_bits != first.activation_bits or last.weight_bits != last.activation_bits:
                    raise HwsmpqError(
                        f"cannot expand {part!r}", "a range needs equal weight and activation bits",
                        "list unequal precisions one by one",
                    )
            for name in names:
                precision = Precision.parse(name)
                found[precision.name] = precision
        # Of equal cost: fewer bits of weight, then what is less exact (int8 before fp8, bf16 before fp16).
        rank = ["int8", *(p.name for p in OTHERS)]
        ordered = sorted(
            found.values(),
            key=lambda p: (p.bitops_per_mac, p.weight_bits, rank.index(p.name) if p.name in rank else -1),
        )
        return Ladder(tuple(ordered))
