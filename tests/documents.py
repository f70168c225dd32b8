"""What documents show, and how their commands are run."""

from __future__ import annotations

import re
import shlex
import sys

import pytest

from hwsmpq.cli import main


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command line of hwsmpq in this process; it must end well."""
    program, *arguments = shlex.split(command)
    assert program == "hwsmpq"
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    try:
        main()
    except SystemExit as end:
        assert end.code in (0, None), command
