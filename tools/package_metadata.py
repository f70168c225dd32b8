"""What the package's page says that only a release knows: where its repository is.

hatchling calls this as a metadata hook. The release workflow puts the repository's address into HWSMPQ_REPOSITORY; the
project's links, and those of the README, then lead there. A build without it has no links of its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)]+)\)")
"""A Markdown link or picture whose target lies in the repository."""


def absolute(readme: str, repository: str, version: str) -> str:
    """The README with links that hold outside the repository, to the files of the version's tag."""

    def place(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        return f"{picture}[{text}]({repository}/{'raw' if picture else 'blob'}/v{version}/{target})"

    return LINK.sub(place, readme)


class PackageMetadata(MetadataHookInterface):
    """Adds ``readme`` and ``urls`` to the project's metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        repository = os.environ.get("HWSMPQ_REPOSITORY", "").rstrip("/")
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        if repository:
            text = absolute(text, repository, metadata["version"])
            metadata["urls"] = {
                "Source": repository,
                "Documentation": f"{repository}/blob/v{metadata['version']}/docs/index.md",
                "Changelog": f"{repository}/blob/v{metadata['version']}/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
