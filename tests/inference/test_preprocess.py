from __future__ import annotations

import json

import numpy as np
import pytest

from paddleseg_segformer.config import Config
from paddleseg_segformer.data.values import ValueRange
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.geometry import BackStep, back_steps
from paddleseg_segformer.inference.preprocess import Preprocess, SizeStep

pytestmark = pytest.mark.check

SECTIONS = [
    {"type": "ResizeByShort", "short_size": 20},
    {"type": "Padding", "target_size": [50, 40]},
    {"type": "Normalize", "mean": [0.5], "std": [0.25]},
]


def test_normalize_before_a_resize_gives_what_the_usual_order_gives(caplog) -> None:
    resize, _, normalize = SECTIONS
    preprocess = Preprocess.from_transforms([normalize, resize])
    assert preprocess.sections == (resize, normalize)
    assert preprocess.normalize is not None and len(preprocess.size_rules) == 1
    assert "Normalize is moved behind the size rules" in caplog.text


def test_size_rules_and_their_trace() -> None:
    preprocess = Preprocess.from_transforms(SECTIONS)
    image, steps = preprocess.resize(np.zeros((40, 60, 3), np.uint8))
    assert image.shape == (40, 50, 3)
    assert steps == [SizeStep(False, (40, 60)), SizeStep(True, (20, 30))]
    assert preprocess.normalize is not None


def test_plain_data_and_back() -> None:
    plain = json.loads(json.dumps(Preprocess.from_transforms(SECTIONS).to_dict()))
    assert plain == {"transforms": SECTIONS}
    assert Preprocess.from_dict(plain).to_dict() == plain
    assert Preprocess.from_dict({"transforms": None}).size_rules == ()


@pytest.mark.parametrize("declared", ["dtype", [0, 4095], {"percentile": [2, 98]}])
def test_value_range_in_plain_data_and_back(declared) -> None:
    plain = {"transforms": SECTIONS, "value_range": declared}
    preprocess = Preprocess.from_dict(plain)
    assert preprocess.value_range == ValueRange.of(declared)
    assert json.loads(json.dumps(preprocess.to_dict())) == plain
    with pytest.raises(UserError, match="value_range: found 'type', expected dtype"):
        Preprocess.from_dict({**plain, "value_range": "type"})


def test_value_range_of_a_config() -> None:
    train = {"type": "Dataset", "value_range": "data"}
    val = {"type": "Dataset", "transforms": SECTIONS, "value_range": [0, 4095]}
    model = {"type": "SegFormer"}
    found = Preprocess.from_config(Config(model, train, val))
    assert found.to_dict() == {"transforms": SECTIONS, "value_range": [0, 4095]}
    assert Preprocess.from_config(Config(model, train)).value_range == ValueRange.of("data")
    assert Preprocess.from_config(Config(model)) == Preprocess()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ([{"type": "Normalise"}], "Did you mean 'Normalize'"),
        ([{"type": "RandomHorizontalFlip"}], "'RandomHorizontalFlip' cannot be undone"),
        ([{"type": "Resize", "target_sise": [1, 2]}], "no key 'target_sise'. Did you mean"),
        ([{"type": "Padding"}], "Padding: .*target_size"),
        ([{"type": "Normalize"}, {"type": "Padding", "target_size": [9, 9]}], "before padding"),
        ([{"type": "Normalize"}, {"type": "Normalize"}], "Normalize comes before another one"),
        ([{"short_size": 5}], "expected keys with a `type`"),
    ],
)
def test_wrong_transforms_are_refused(sections, message) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess.from_transforms(sections)


def test_scaling_the_source_needs_a_size_rule() -> None:
    with pytest.raises(UserError, match="scale_mode"):
        Preprocess().resize(np.zeros((4, 4, 3), np.uint8), ratio=0.5)


def test_back_steps_undo_resizes_in_a_row_at_once() -> None:
    steps = [SizeStep(False, (40, 60)), SizeStep(False, (20, 30)), SizeStep(True, (32, 32))]
    rows, columns = back_steps(steps, (48, 64), (96, 128))
    assert rows == (BackStep(False, 48), BackStep(True, 32), BackStep(False, 40))
    assert columns == (BackStep(False, 64), BackStep(True, 32), BackStep(False, 60))


IMAGE = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.float32)
IMAGENET = {"type": "Normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(x == x[0, 0, 0], np.nan, x), r"of 216 values are NaN or infinite"),
        (lambda x: np.where(x == x[0, 0, 0], -np.inf, x), r"values are NaN or infinite"),
        (lambda x: x / 255, r"found values in 0..1, expected 0..255 \(Norm.*Multiply by 255"),
        (lambda x: (x / 255).astype(np.float64) * 0.3, "Multiply by 255"),
        (lambda x: x * 257, r"found values in 0..65535, expected 0..255 .*Scale them"),
        (lambda x: (x * 257).astype(np.int32), "Scale them"),
        (lambda x: x * 16, r"found values in 0..4080, expected 0..255"),
    ],
)
def test_values_that_the_network_is_not_meant_for_are_refused(change, message) -> None:
    with pytest.raises(UserError, match=message):
        Preprocess.from_transforms([IMAGENET]).check_values(change(IMAGE))


@pytest.mark.parametrize(
    "image",
    [IMAGE, np.zeros_like(IMAGE), np.ones_like(IMAGE), (IMAGE / 255).astype(np.uint8), IMAGE + 20],
)
def test_dark_and_ordinary_images_are_not(image) -> None:
    Preprocess.from_transforms([IMAGENET]).check_values(image)


def test_dark_images_are_believed_where_their_range_is_declared() -> None:
    dark = ValueRange.of([0, 65535]).apply(IMAGE.astype(np.uint16), "x")
    assert 0 < dark.max() < 1
    Preprocess.from_dict({"transforms": [IMAGENET], "value_range": [0, 65535]}).check_values(dark)


def test_constants_for_other_ranges_are_believed() -> None:
    unit = Preprocess.from_transforms([{"type": "Normalize", "mean": [0.002], "std": [0.001]}])
    unit.check_values(IMAGE / 255)
    reflectance = {"type": "Normalize", "mean": [5.9], "std": [2.7]}
    Preprocess.from_transforms([reflectance]).check_values(IMAGE * 80)
    Preprocess().check_values(IMAGE * 1000)
    with pytest.raises(UserError, match="NaN"):
        Preprocess().check_values(IMAGE * np.nan)
