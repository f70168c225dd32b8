"""What the user holds of plans: by patterns of layer names, or by type."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import accumulate

from hwsmpq.errors import HwsmpqError
from hwsmpq.types.network import Layer, Network
from hwsmpq.types.precision import Precision

OF_TYPE = "type:"
FORGOTTEN = " A run folder remembers such options: an empty text, as in --pin '', forgets them"
"""For the fix of an error: what cannot be kept may have been said by an earlier command."""
LISTS = ("pin", "at_least", "exclude", "together")


@dataclass(frozen=True)
class Constraints:
    """What plans are held to, whatever the budgets.

    A pattern is the name of a layer, in which ``*`` stands for anything (``blocks.0.*``), or ``type:`` with a kind of
    layer: ``Linear``, ``Conv2d``, ``ConvTranspose2d``, ``conv``, ``depthwise``, in any case. It binds every group that
    holds such a layer, and so all layers of that group.

    Attributes:
        pin: ``PATTERN=PRECISION``: this precision, no other.
        at_least: ``PATTERN=PRECISION``: no fewer bits of weights, nor of activations.
        exclude: ``PATTERN``: never quantized, in the plan and everywhere else, and no candidate.
        together: ``PATTERN,PATTERN``: all of these in one precision.
        max_switches: tensors that are converted from one format to another, at most.

    Raises:
        HwsmpqError: a constraint that cannot be read.
    """

    pin: tuple[str, ...] = ()
    at_least: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    max_switches: int | None = None

    def __post_init__(self) -> None:
        for name in LISTS:
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        for name in ("pin", "at_least"):
            for one in getattr(self, name):
                of_precision(one, name)
        for one in self.together:
            if len(patterns_of(one)) < 2:
                raise HwsmpqError(
                    f"{option('together', one)} names one pattern", "it says what shares a precision",
                    f"give two or more with commas between them, for example {option('together', 'a,b')}",
                )
        if self.max_switches is not None and self.max_switches < 0:
            raise HwsmpqError(f"max_switches is {self.max_switches}", "it is a number of conversions", "give 0 or more")

    def __and__(self, other: Constraints) -> Constraints:
        """What keeps both."""
        lists = {name: tuple(dict.fromkeys((*getattr(self, name), *getattr(other, name)))) for name in LISTS}
        most = [one.max_switches for one in (self, other) if one.max_switches is not None]
        return Constraints(**lists, max_switches=min(most, default=None))

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) not in ((), None) for field in fields(self))


@dataclass(frozen=True)
class Held:
    """One constraint of a plan as an option of the command line, and the groups that it binds (of a number of switches:
    all)."""

    option: str
    groups: tuple[str, ...]


def as_tuple(given: str | Sequence[str]) -> tuple[str, ...]:
    """Constraints of one sort, of which one may be given as it is. An empty text stands for none."""
    return tuple(one for one in ((given,) if isinstance(given, str) else given) if one)


def option(name: str, value: object) -> str:
    """A constraint as the command line takes it."""
    return f"--{name.replace('_', '-')} " + (f"'{value}'" if isinstance(value, str) else str(value))


def patterns_of(text: str) -> list[str]:
    """The patterns of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def of_precision(text: str, name: str) -> tuple[str, Precision]:
    """Pattern and precision of ``PATTERN=PRECISION``.

    Raises:
        HwsmpqError: there is none.
    """
    pattern, _, precision = text.rpartition("=")
    if not pattern.strip():
        raise HwsmpqError(
            f"{option(name, text)} names no precision", "it is a pattern of layer names and a precision",
            f"for example {option(name, f'{text}=fp32')}",
        )
    return pattern.strip(), Precision.parse(precision)


def groups_of(network: Network, pattern: str, asked: str) -> tuple[str, ...]:
    """Groups that hold a layer that fits a pattern, in execution order.

    Args:
        asked: the constraint, as errors name it.

    Raises:
        HwsmpqError: none does; names the nearest patterns that would.
    """
    fits = [layer.name for layer in network.layers if _fits(layer, pattern)]
    if not fits:
        raise HwsmpqError(
            f"{asked}: no layer fits {pattern!r}", _near(network, pattern),
            "`hwsmpq inspect` lists the layers; * stands for anything." + FORGOTTEN,
        )
    return tuple(group.name for group in network.groups if not set(group.layers).isdisjoint(fits))


def _fits(layer: Layer, pattern: str) -> bool:
    if pattern.startswith(OF_TYPE):
        return pattern.removeprefix(OF_TYPE).replace("_", "").lower() in _types(layer)
    return fnmatchcase(layer.name, pattern)


def _types(layer: Layer) -> Iterator[str]:
    kind = layer.kind.replace("_", "")
    yield kind
    if kind.startswith("conv"):
        yield f"{kind}{len(layer.weight_shape) - 2}d"
    if layer.is_depthwise:
        yield "depthwise"


def _near(network: Network, pattern: str) -> str:
    if pattern.startswith(OF_TYPE):
        known = sorted({f"{OF_TYPE}{name}" for layer in network.layers for name in _types(layer)})
        return f"there are {', '.join(known)}"
    modules = {
        f"{module}.*" for layer in network.layers for module in accumulate(layer.name.split(".")[:-1], "{}.{}".format)
    }
    near = get_close_matches(pattern, [*(layer.name for layer in network.layers), *sorted(modules)], n=4, cutoff=0.5)
    if near:
        return f"near it are {', '.join(near)}"
    return f"there are {network.layers[0].name} to {network.layers[-1].name}"
