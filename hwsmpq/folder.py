"""A run folder: where its artifacts lie, what they were made from, and whether they still are what they say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hwsmpq import artifacts
from hwsmpq.errors import HwsmpqError
from hwsmpq.stages import FILES, ROWS
from hwsmpq.types import Certificate, Manifest, Settings

T = TypeVar("T")

UNUSED = "none"
"""Stands for an artifact further up that was not used."""


class Folder:
    """The artifacts under one path, by their type; see :mod:`hwsmpq.stages` for what each depends on."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, kind: type) -> Path:
        return self.root / FILES[kind]

    def has(self, kind: type) -> bool:
        return self.path(kind).exists()

    def read(self, kind: type[T]) -> T:
        """Read an artifact; see :func:`hwsmpq.artifacts.read` for the errors."""
        return artifacts.read(self.path(kind), kind)

    def write(self, value: Any, inputs: Mapping[str, str]) -> None:
        artifacts.write(self.path(type(value)), value, dict(inputs))

    def sha256(self, kind: type) -> str:
        """Hash of the payload of an artifact that exists, without what later work adds to it."""
        envelope, grows = artifacts.read_envelope(self.path(kind), kind), ROWS[kind].grows
        if not grows:
            return str(envelope["payload_sha256"])
        return artifacts.digest({name: value for name, value in envelope["payload"].items() if name not in grows})

    def made_from(self, kind: type) -> dict[str, str]:
        """The recorded inputs of an artifact, by name; empty where there is none."""
        return dict(artifacts.read_envelope(self.path(kind), kind)["inputs"]) if self.has(kind) else {}

    def needs(self, kind: type) -> bool:
        """Whether nothing that was made here says that it was made without an artifact."""
        schema = ROWS[kind].schema
        return not any(self.made_from(down).get(schema) == UNUSED for down in FILES if kind in ROWS[down].upstream)

    def inputs(
        self, kind: type, settings: Settings, roles: Mapping[str, str], asked: Mapping[str, Any],
        without: Collection[type] = (),
    ) -> dict[str, str]:
        """What an artifact would be made from now: SHA-256 by name.

        Args:
            without: artifacts further up that are not used this time.
        """
        row = ROWS[kind]
        if asked.keys() != set(row.asked):
            raise ValueError(f"{row.schema} depends on {row.asked}, not on {tuple(asked)}")
        return {
            **{ROWS[up].schema: UNUSED if up in without else self.sha256(up) for up in row.upstream},
            **{role: roles[role] for role in row.roles},
            **{name: artifacts.digest(getattr(settings, name)) for name in row.settings},
            **{name: artifacts.digest(artifacts.plain(value)) for name, value in asked.items()},
        }

    def outdated(self, kind: type) -> tuple[str, ...]:
        """Files further up that are there, and that an artifact was not made from as they are now; it counts as made
        from none where it does not say."""
        recorded = self.made_from(kind)
        found: dict[str, None] = {}
        for up in ROWS[kind].upstream:
            known = recorded.get(ROWS[up].schema)
            if known != UNUSED and self.has(up) and self.sha256(up) != known:
                found[FILES[up]] = None
        return tuple(found)

    def check_engine(self) -> Manifest:
        """The manifest of the engine in the folder, whose files are as they were built.

        Raises:
            HwsmpqError: there is no engine, or a file of it is missing or another.
        """
        manifest = self.read(Manifest)
        for name, sha256 in manifest.files.items():
            path = self.path(Manifest).parent / name
            if not path.is_file() or artifacts.file_digest(path) != sha256:
                raise HwsmpqError(
                    f"{path} is missing or was changed after it was built", "its hash is not the manifest's",
                    f"delete {self.path(Manifest)} and build again",
                )
        return manifest

    def why_not_certified(self) -> str | None:
        """Why the certificate does not speak of the engine in the folder; None where it does."""
        if not self.has(Certificate):
            return "nothing was measured"
        changed = self.outdated(Certificate)
        if changed:
            return f"the certificate was made from another {' and '.join(changed)}"
        try:
            self.check_engine()
        except HwsmpqError as error:
            return error.what
        return None
