"""The map of folders in docs/architecture.md."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, ROOT

TEXT = (DOCS / "architecture.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "paddleseg_segformer"
FORMER = {"checkpoints", "demo"}  # names kept for one version; they hold imports alone


def table(heading: str) -> set[str]:
    """Return the names in the first column of the table with that heading."""
    (rows,) = re.findall(rf"^\| {re.escape(heading)} \| \|\n(.*?)\n\n", TEXT, re.M | re.S)
    return {
        name for row in rows.splitlines() for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    }


def test_map_lists_every_folder_of_the_package() -> None:
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")}
    listed = table("In `paddleseg_segformer/`")
    assert sorted(f for f in folders - {"."} - FORMER if f"{f}/" not in listed) == []


def test_map_lists_what_exists() -> None:
    package, repository = table("In `paddleseg_segformer/`"), table("In the repository")
    missing = [name for name in package if not (PACKAGE / name).exists()]
    missing += [name for name in repository if not (ROOT / name).exists()]
    assert sorted(missing) == []
