"""The generated pages are those of the code, and say something of every key."""

from __future__ import annotations

import dataclasses

import pytest

from paddleseg_segformer.config import Config, TestConfig
from paddleseg_segformer.config.schema import DistillConfig, QatConfig
from paddleseg_segformer.data import DATASETS, TRANSFORMS
from paddleseg_segformer.losses import DISTILL_LOSSES, LOSSES
from paddleseg_segformer.models import BACKBONES, MODELS
from tests.docs.pages import DOCS
from tools.make_reference import REQUIRED, kind, pages, yaml

PAGES = pages()
SCHEMAS = (Config, TestConfig, DistillConfig, QatConfig)


@pytest.mark.parametrize("name", PAGES)
def test_page_is_up_to_date(name: str) -> None:
    committed = (DOCS / name).read_text(encoding="utf-8")
    assert committed == PAGES[name], "run: python tools/make_reference.py"


def test_every_key_and_component_is_described() -> None:
    page = PAGES["config-reference.md"]
    keys = [field.name for cls in SCHEMAS for field in dataclasses.fields(cls)]
    components = [*MODELS, *BACKBONES, *DATASETS, *TRANSFORMS, *LOSSES, *DISTILL_LOSSES]
    assert [
        name
        for name in (*keys, *components)
        if f"`{name}`" not in page.replace("### ", "`") and f"### {name}\n" not in page
    ] == []
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert [row for row in rows if not row[-1].rstrip(" |")] == []


def test_values_are_written_as_yaml() -> None:
    assert yaml((1, 2.5)) == "[1, 2.5]"
    assert yaml(6e-5) == "6.0e-5"
    assert yaml({"type": "AdamW", "weight_decay": None}) == "{type: AdamW, weight_decay: null}"
    assert yaml(" ") == '" "'
    assert yaml(True) == "true"


def test_types_are_named_in_words() -> None:
    assert kind(list[int] | None) == "list of int"
    assert kind(list[list[int]]) == "list of lists of int"
    assert kind(list[dict[str, int]]) == "list of sections"
    assert REQUIRED in PAGES["config-reference.md"]
