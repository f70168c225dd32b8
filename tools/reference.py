"""Write docs/reference.md from the code itself: verbs and their options, what Python calls, artifacts and their fields.

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

import hwsmpq
from hwsmpq import artifacts
from hwsmpq.cli.app import app
from hwsmpq.pipeline.prove.front import N_POINTS
from hwsmpq.stages import FILES
from hwsmpq.types import Recipe, Settings

PATH = Path(__file__).parent.parent / "docs" / "reference.md"
HEAD = """# Reference

Written by `tools/reference.py` from the code; a test keeps it up to date. [How it works](how-it-works.md) says what the
words mean.

"""
RECIPE = {"epochs": "n_epochs", "lr": "learning_rate"}
"""Fields of the recipe that options name otherwise."""
OF_VERBS = {"points": N_POINTS, "measure": 0, "train_on": "cpu"}


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD + "## Commands\n", *_commands(), "## Python\n", *_python(), "## Artifacts\n", *_artifacts()])


def _commands() -> Iterator[str]:
    group: Any = get_command(app)
    for name, command in group.commands.items():
        yield f"### `hwsmpq {name}`\n\n{inspect.cleandoc(command.help)}\n"
        yield "| argument or option | meaning | default |\n|---|---|---|"
        for parameter in command.params:
            names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            if parameter.param_type_name == "argument":
                names = f"`{parameter.metavar or parameter.name.upper()}`"
            yield f"| {names} | {_cell(parameter.help or '')} | {_default(parameter)} |"
        yield ""


def _default(parameter: Any) -> str:
    """What holds where an option is left out: of the verb itself, else of the setting or the recipe that it names."""
    fields = {f.name: f.default for kind in (Settings, Recipe) for f in dataclasses.fields(kind)}
    value = {**fields, **OF_VERBS}.get(RECIPE.get(parameter.name, parameter.name))
    if parameter.default is not None and parameter.default is not False:
        value = parameter.default
    if value is True:
        return f"`{parameter.opts[0]}`"
    if value is False and parameter.secondary_opts:
        return f"`{parameter.secondary_opts[0]}`"
    return _shown(value)


def _shown(value: Any) -> str:
    """A default; empty where there is none, or it says nothing."""
    if value is None or value is False or value in ("", ()) or value is dataclasses.MISSING:
        return ""
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


def _python() -> Iterator[str]:
    """What the README's Python examples call."""
    for thing in (hwsmpq.Task, hwsmpq.optimize, hwsmpq.load):
        yield f"### `hwsmpq.{thing.__name__}`\n\n```text\n{_signature(thing)}\n```\n"
        yield f"{_sections(inspect.getdoc(thing) or '')}\n"


def _signature(thing: Any) -> str:
    """Name, parameters and defaults, one a line."""
    signature = inspect.signature(thing)
    lines = []
    for p in signature.parameters.values():
        name = f"**{p.name}" if p.kind is p.VAR_KEYWORD else p.name
        shown = getattr(p.default, "__name__", repr(p.default))
        lines.append(f"    {name}: {p.annotation}{'' if p.default is p.empty else f' = {shown}'},")
    returns = "" if signature.return_annotation in (None, "None") else f" -> {signature.return_annotation}"
    return "\n".join([f"hwsmpq.{thing.__name__}(", *lines, f"){returns}"])


def _sections(text: str) -> str:
    """A docstring with its sections as lists."""
    lines = []
    for line in _prose(text).splitlines():
        if re.match(r"\w+:$", line):
            lines += [f"**{line[:-1]}**", ""]
        elif re.match(r"    \S", line):
            found = re.match(r"    (\w+): (.*)", line)
            lines.append(f"- `{found[1]}`: {found[2]}" if found else f"- {line.strip()}")
        else:
            lines.append(f"  {line.strip()}" if line.startswith("     ") else line)
    return "\n".join(lines)


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
    yield "| field | type | default |\n|---|---|---|"
    for field in dataclasses.fields(kind):
        yield f"| `{field.name}` | `{_cell(str(field.type))}` | {_of(field)} |"
    yield ""


def _of(field: Any) -> str:
    """The default of a field; empty where it has to be given."""
    made = field.default_factory is not dataclasses.MISSING
    value = field.default_factory() if made else field.default
    return _shown(value) or ("" if value is dataclasses.MISSING else f"`{value!r}`")


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
    return re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", text.replace("``", "`"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PATH.write_text(reference())
