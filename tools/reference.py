"""Write docs/reference.md: every verb with its options, every artifact with its fields, from the code itself.

    python tools/reference.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from hwsmpq import artifacts
from hwsmpq.cli.app import app
from hwsmpq.stages import FILES

PATH = Path(__file__).parent.parent / "docs" / "reference.md"
HEAD = """# Reference

Written by `tools/reference.py` from the code; a test keeps it up to date. [How it works](how-it-works.md) says what the
words mean.

"""


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD + "## Commands\n", *_commands(), "## Artifacts\n", *_artifacts()])


def _commands() -> Iterator[str]:
    group: Any = get_command(app)
    for name, command in group.commands.items():
        yield f"### `hwsmpq {name}`\n\n{inspect.cleandoc(command.help)}\n"
        yield "| argument or option | meaning |\n|---|---|"
        for parameter in command.params:
            names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            if parameter.param_type_name == "argument":
                names = f"`{parameter.metavar or parameter.name.upper()}`"
            yield f"| {names} | {_cell(parameter.help or '')} |"
        yield ""


def _artifacts() -> Iterator[str]:
    """Every artifact is an envelope around a payload; the payloads' fields, with those of the types inside."""
    envelope = "`schema`, `schema_version`, `hwsmpq_version`, `created_utc`, `inputs`, `payload`, `payload_sha256`"
    yield (
        f"Each JSON file is an envelope with {envelope}. `inputs` names by hash what it was made from; the payload has "
        "the fields below. Units are in names; `n_` counts.\n"
    )
    inner: dict[type, None] = {}
    for kind, file in FILES.items():
        yield f"### `{file}`\n"
        yield from _fields(kind)
        inner |= dict.fromkeys(_types_inside(kind))
    yield "### Types inside artifacts\n"
    for kind in inner:
        yield f"#### {kind.__name__}\n"
        yield from _fields(kind)


def _fields(kind: Any) -> Iterator[str]:
    yield f"{_prose(inspect.getdoc(kind) or '')}\n"
    yield "| field | type |\n|---|---|"
    for field in dataclasses.fields(kind):
        yield f"| `{field.name}` | `{_cell(str(field.type))}` |"
    yield ""


def _types_inside(kind: Any) -> Iterator[type]:
    """Dataclasses that fields name, and those that these name; the docstring of a type that has none says nothing."""
    from hwsmpq import types

    for field in dataclasses.fields(kind):
        for name in re.findall(r"\b[A-Z]\w+", str(field.type)):
            found = getattr(types, name, None)
            if dataclasses.is_dataclass(found) and found not in artifacts.SCHEMAS:
                yield found
                yield from _types_inside(found)


def _prose(text: str) -> str:
    if re.match(r"\w+\(.*\)$", text, re.DOTALL):  # what dataclass writes where there is no docstring
        return ""
    return re.sub(r":class:`~?([\w.]+)`", r"`\1`", text.replace("``", "`"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PATH.write_text(reference())
