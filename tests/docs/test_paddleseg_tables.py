"""Every row of `docs/paddleseg-components.md`; the numbers are what PaddleSeg's code computed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddleseg_batches import logits_and_label, sample, steps, toy

from paddleseg_segformer.components import is_own
from paddleseg_segformer.config.building import build_component, build_loss, build_optimizer
from paddleseg_segformer.optimizers import build_lr_schedule
from paddleseg_segformer.yaml_files import parse_yaml

PAGE = Path(__file__).parents[2] / "docs/paddleseg-components.md"
Row = tuple[str, dict[str, Any], list[float], bool]


def rows(title: str) -> list[Any]:
    """Return name, section, numbers and verdict of each row of the table under a heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    found = []
    for line in re.findall(r"^\| \*?`.*[\d.]+ \| [^|]+ \|$", text, re.MULTILINE):
        name, arguments, *numbers, verdict = (cell.strip() for cell in line.split("|")[1:-1])
        plain = name.strip("*`")
        section = parse_yaml(f"{{type: {plain}, {arguments.strip('`')}}}", line)
        row = plain, section, [*map(float, numbers)], verdict == "equal"
        found.append(pytest.param(row, name.startswith("*"), id=f"{plain} {arguments}"))
    assert found
    return found


def check_source(kind: str, name: str, is_theirs: bool) -> None:
    """See that the row says right whose code it is; skip PaddleSeg's where it is absent."""
    assert is_own(kind, name) != is_theirs
    if is_theirs:
        pytest.importorskip("paddleseg")


@pytest.mark.parametrize(("row", "is_theirs"), rows("Losses"))
def test_loss(row: Row, is_theirs: bool) -> None:
    name, section, (num_classes, expected), _ = row
    check_source("loss", name, is_theirs)
    loss, _ = build_loss({"types": [section], "coef": [1]})
    logits, label = logits_and_label(int(num_classes))
    found = float(loss(paddle.to_tensor(logits), paddle.to_tensor(label)))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("row", "is_theirs"), rows("Transforms"))
def test_transform(row: Row, is_theirs: bool) -> None:
    name, section, expected, is_equal = row
    check_source("transform", name, is_theirs)
    transform = build_component("transform", section, name)
    data = sample()
    if not getattr(transform, "keeps_uint8", False):
        data["img"] = data["img"].astype(np.float32)
    after = transform(data)
    found = [float(after[key].mean()) for key in ("img", "label")]
    tolerance = [0.02 if getattr(transform, "keeps_uint8", False) else 1e-4, 1e-4]
    differs = np.abs(np.subtract(found, expected)) > tolerance
    assert differs.any() != is_equal, found


@pytest.mark.parametrize(("row", "is_theirs"), rows("Optimizers"))
def test_optimizer(row: Row, is_theirs: bool) -> None:
    _, section, (expected,), _ = row
    model = toy()
    assert steps(model, build_optimizer(section, model, 0.01)) == pytest.approx(expected, abs=5e-6)


@pytest.mark.parametrize(("row", "is_theirs"), rows("Schedules"))
def test_schedule(row: Row, is_theirs: bool) -> None:
    _, section, expected, _ = row
    schedule = build_lr_schedule(section, 100)
    rates = []
    for _ in range(26):
        rates.append(schedule())
        schedule.step()
    assert [rates[5], rates[25]] == pytest.approx(expected, abs=1e-7)
