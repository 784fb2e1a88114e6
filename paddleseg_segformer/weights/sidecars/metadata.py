"""The source of weights without a config beside them: the file's metadata, published defaults.

The files of mmsegmentation and NVlabs hold their config as text. It is Python, which is parsed and
never run: assignments of literals and `dict(...)` are understood, everything else is ignored.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from paddleseg_segformer.data.normalize import IMAGENET_MEAN, IMAGENET_STD
from paddleseg_segformer.weights.formats.naming import Format

MAX_LENGTH = 1_000_000  # characters of a config; real ones have about 10,000

Values = dict[str, Any]

_IMAGENET = {"type": "Normalize", "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
_HALF = {"type": "Normalize", "mean": [0.5], "std": [0.5]}
_SOFTMAX = {"average": "softmax", "scale_mode": "source"}


def _slide(side: int, stride: int) -> Values:
    return {"is_slide": True, "crop_size": [side] * 2, "stride": [stride] * 2, **_SOFTMAX}


# The published evaluation on ADE20K (150 classes) and Cityscapes (19), as transforms and
# test_config, by code base and number of classes (None: any other).
DEFAULTS: dict[str, dict[int | None, tuple[list[Values] | None, Values]]] = {
    "nvlabs": {
        150: ([{"type": "AlignedResize", "scale": [2048, 512]}, _IMAGENET], _SOFTMAX),
        19: ([_IMAGENET], _slide(1024, 768)),
        None: ([_IMAGENET], _SOFTMAX),
    },
    "mmseg": {
        150: ([{"type": "ResizeKeepRatio", "scale": [2048, 512]}, _IMAGENET], _SOFTMAX),
        19: ([_IMAGENET], _slide(1024, 768)),
        None: ([_IMAGENET], _SOFTMAX),
    },
    "hf": {
        None: (
            [{"type": "AntialiasResize", "target_size": [512, 512]}, _IMAGENET],
            {"is_one_step": True},
        )
    },
    "smp": {None: ([_IMAGENET], {"align_corners": True})},
    "rstrudel": {
        150: ([{"type": "ResizeKeepRatio", "scale": [2048, 512]}, _HALF], _slide(512, 512)),
        19: ([{"type": "ResizeKeepRatio", "scale": [2048, 1024]}, _HALF], _slide(768, 512)),
        None: ([_HALF], _SOFTMAX),
    },
    "timm": {None: ([_HALF], {})},
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is known about the source of weights.

    Args:
        model: the `model` section of a config, as far as it is stated.
        classes, palette: of the data set that the weights were trained on, where known.
        transforms: the preprocessing in evaluation, as a config's `transforms`; None where unknown.
        value_range: what stored values mean, as a config's `value_range`.
        test_config: entries of the config's `test_config` that the source implies.
        reduces_labels: whether label 0 means "ignore" in the source's label files.
        epsilons: LayerNorm epsilons; None where unknown.
    """

    model: Values = field(default_factory=dict)
    classes: list[str] | None = None
    palette: list[list[int]] | None = None
    transforms: list[Values] | None = None
    value_range: Any = None
    test_config: Values = field(default_factory=dict)
    reduces_labels: bool = False
    epsilons: Mapping[str, float] | None = None


def default_source(content: Values, format: Format, num_classes: int | None) -> Source:
    """Return the source by the metadata in a file, with the code base's published defaults.

    Args:
        content: what the file holds besides weights.
        num_classes: None for a bare backbone.
    """
    table = DEFAULTS.get(format.name, {None: (None, {})})
    transforms, test_config = table.get(num_classes, table[None])
    meta = content.get("meta")
    text = _at(meta, "config") or _at(meta, "cfg")  # of 0.x, of 1.x
    if isinstance(text, str):
        stated, windows = evaluation_settings(text)
        if stated is not None:
            transforms, test_config = stated, {**_SOFTMAX, **windows}
    classes = _at(meta, "CLASSES") or _at(meta, "dataset_meta", "classes")  # mmcv's, mmengine's
    palette = _at(meta, "PALETTE") or _at(meta, "dataset_meta", "palette")
    return Source(
        classes=classes if _is_list_of(classes, num_classes, _is_text) else None,
        palette=palette if _is_list_of(palette, num_classes, _is_color) else None,
        transforms=transforms,
        test_config=test_config,
        reduces_labels=num_classes == 150 and format.name in ("nvlabs", "mmseg", "rstrudel"),
        epsilons=format.epsilons,
    )


def evaluation_settings(text: str) -> tuple[list[Values] | None, Values]:
    """Return the `transforms` and the entries of `test_config` that a config implies.

    The transforms are None where the text does not say how images are prepared.
    """
    config = parse(text)
    pipeline = _pipeline(config)
    constants, size_rules = _normalization(config, pipeline), _size_rules(pipeline)
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
    """Return a nested value, or None where one of the keys is missing."""
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
        if all(_is_list_of(item, 3, _is_number) for item in constants.values()):
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
    return value if _is_list_of(value, 2, lambda item: type(item) is int) else None


def _is_list_of(value: Any, length: int | None, is_item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(is_item, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_color(value: Any) -> bool:
    return _is_list_of(value, 3, lambda item: type(item) is int and 0 <= item <= 255)
