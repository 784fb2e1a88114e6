"""The pages of the project, and what the tests read off them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "configs/*.md", "deploy/*.md", "deploy/*/*.md")
    for page in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    """Return a page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def code_blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of one language."""
    text = page.read_text(encoding="utf-8")
    return [code for found, code in FENCE.findall(text) if found == language]


def name_of(page: Path) -> str:
    """Return a page's path as test ids show it."""
    return page.relative_to(ROOT).as_posix()
