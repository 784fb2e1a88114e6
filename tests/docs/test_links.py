"""Links between pages: files, pictures and headings exist. Other sites are not asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, name_of, text_of

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, which hosts and the site's generator make alike."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE):
        letters = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        if re.sub(r"[-\s]+", "-", letters) == letters.replace(" ", "-"):
            found.add(letters.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for link in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name_of)
def test_site_pages_link_to_the_site_alone(page: Path) -> None:
    outside = [link for link in LINK.findall(text_of(page)) if link.startswith("../")]
    assert outside == []


def test_navigation_lists_every_page() -> None:
    listed = re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in DOCS.glob("*.md"))


def test_pictures_are_all_shown() -> None:
    shown = {Path(link).name for page in PAGES for link in LINK.findall(text_of(page))}
    assert {path.name for path in (DOCS / "images").iterdir()} <= shown
