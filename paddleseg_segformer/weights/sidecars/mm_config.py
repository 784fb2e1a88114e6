"""The config text in mmsegmentation's and NVlabs' files: how its model is evaluated.

The text is Python. It is parsed, never run: assignments of literals and `dict(...)` are understood,
everything else is passed over.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

MAX_LENGTH = 1_000_000  # characters; real ones have about 10,000

Values = dict[str, Any]


def evaluation_settings(text: str) -> tuple[list[Values] | None, Values]:
    """Return the `transforms` and the entries of `test_config` that a config implies.

    Where the text does not say how images are prepared, the transforms are None.
    """
    config = parse(text)
    pipeline = _pipeline(config)
    constants = _normalization(config, pipeline)
    size_rules = _size_rules(pipeline)
    if constants is None or size_rules is None:
        return None, _windows(config)
    return [*size_rules, {"type": "Normalize", **constants}], _windows(config)


def parse(text: str) -> Values:
    """Return the top-level names of a config and their values; None for what is not literal."""
    try:
        module = ast.parse(text[:MAX_LENGTH])
        values: Values = {}
        for statement in module.body:
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                values[statement.targets[0].id] = _value(statement.value, values)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    return values


def _value(node: ast.expr, known: Values) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item, known) for item in node.elts]
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Dict):
        keys = [_value(key, known) if key else None for key in node.keys]
        values = [_value(item, known) for item in node.values]
        return {key: item for key, item in zip(keys, values, strict=True) if isinstance(key, str)}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {item.arg: _value(item.value, known) for item in node.keywords if item.arg}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _value(node.operand, known)
        return -operand if isinstance(operand, (int, float)) else None
    return None


def _at(config: Any, *keys: str) -> Any:
    """Return a nested value, or None where a key on the way is missing."""
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def _steps(pipeline: Any) -> Iterator[Values]:
    """Yield the steps of a pipeline, those inside test-time augmentation included."""
    for step in pipeline if isinstance(pipeline, list) else ():
        if isinstance(step, Mapping) and isinstance(step.get("type"), str):
            yield dict(step)
            if step["type"] == "MultiScaleFlipAug":
                scale = step.get("img_scale")
                for inner in _steps(step.get("transforms")):
                    yield {"scale": scale, **inner} if "esize" in inner["type"] else inner


def _pipeline(config: Values) -> list[Values]:
    for keys in (
        ("data", "test", "pipeline"),
        ("test_dataloader", "dataset", "pipeline"),
        ("test_pipeline",),
    ):
        steps = list(_steps(_at(config, *keys)))
        if steps:
            return steps
    return []


def _size_rules(pipeline: list[Values]) -> list[Values] | None:
    """Return the steps that change an image's size, as ours; None where one has no counterpart."""
    if not pipeline:
        return None
    rules = []
    for step in pipeline:
        kind, divisor = step["type"], step.get("size_divisor", 32)
        scale = _pair(step.get("scale") or step.get("img_scale"))
        if kind == "ResizeToMultiple":
            rules.append({"type": kind, "size_divisor": divisor})
        elif kind in ("Resize", "AlignedResize"):
            if scale is None:
                return None
            if not step.get("keep_ratio", kind == "AlignedResize"):
                rules.append({"type": "Resize", "target_size": scale})
            elif kind == "AlignedResize":
                rules.append({"type": kind, "scale": scale, "size_divisor": divisor})
            else:
                rules.append({"type": "ResizeKeepRatio", "scale": scale})
    return rules


def _normalization(config: Values, pipeline: list[Values]) -> Values | None:
    """Return mean and std of 0..1, from 0.x's step or 1.x's preprocessor, which have 0..255."""
    steps = [step for step in pipeline if step["type"] == "Normalize"]
    for source in (*steps, _at(config, "model", "data_preprocessor"), config.get("img_norm_cfg")):
        constants = {name: _at(source, name) for name in ("mean", "std")}
        if all(_is_numbers(item, 3) for item in constants.values()):
            return {
                name: [round(float(item) / 255, 10) for item in values]
                for name, values in constants.items()
            }
    return None


def _windows(config: Values) -> Values:
    """Return the sliding window, whose sizes are (height, width) there and (width, height) here."""
    settings = _at(config, "model", "test_cfg") or config.get("test_cfg")
    if _at(settings, "mode") != "slide":
        return {}
    crop, stride = (_pair(_at(settings, name)) for name in ("crop_size", "stride"))
    if not crop or not stride:
        return {}
    return {"is_slide": True, "crop_size": crop[::-1], "stride": stride[::-1]}


def _pair(value: Any) -> list[int] | None:
    """Return two whole numbers; the first of a list of pairs, as scales of augmentation are."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        value = value[0]
    return value if _is_numbers(value, 2) and all(type(item) is int for item in value) else None


def _is_numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(type(item) in (int, float) for item in value)
    )
