"""Hooks of the documentation site: pages from the top of the repository, links to them, titles of blocks.

mkdocs calls these functions; see ``mkdocs.yml``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
PAGES = {"README.md": "start.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files beside docs/, and the pages that they become."""
NEEDS = re.compile(r"^```(\w+) (needs .*)$", re.MULTILINE)
TARGET = re.compile(r"\]\(([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from the top of the repository."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=TARGET.sub(_from_the_top, text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files beside docs/ become links to their pages; what a block needs becomes its title."""
    return NEEDS.sub(r'```\1 title="\2"', TARGET.sub(_from_docs, markdown))


def _from_the_top(found: re.Match[str]) -> str:
    target = found[1]
    return f"]({PAGES.get(target, target.removeprefix('docs/'))}"


def _from_docs(found: re.Match[str]) -> str:
    target = found[1]
    return f"]({PAGES.get(target.removeprefix('../'), target) if target.startswith('../') else target}"
