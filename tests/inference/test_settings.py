from __future__ import annotations

import json

import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.settings import InferenceSettings

pytestmark = pytest.mark.check

SLIDE = {"is_slide": True, "crop_size_hw": (512, 1024)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"is_slide": True}, "needs crop_size"),
        ({**SLIDE, "stride_hw": (512, 1025)}, "stride 512x1025 .* larger than crop_size 512x1024"),
        ({**SLIDE, "stride_hw": (0, 10)}, r"stride: found \(0, 10\)"),
        ({"is_slide": True, "crop_size_hw": (512,)}, r"crop_size: found \(512,\)"),
        ({**SLIDE, "is_one_step": True}, "is_one_step"),
        ({"scales": ()}, "scales: found"),
        ({"scales": (1.0, 0.0)}, "scales: found .* above 0"),
        ({"scales": (float("nan"),)}, "scales: found"),
        ({"average": "softmaxx"}, "Did you mean 'softmax'"),
        ({"scale_mode": "image"}, "scale_mode: found 'image', expected one of transformed, source"),
        ({"window_batch": 0}, "window_batch: found 0"),
        ({"temperatures": (1.0, 0.0)}, r"temperatures: found \[1.0, 0.0\], expected numbers above"),
        ({"temperatures": (float("nan"),)}, "temperatures: found"),
        ({"temperatures": 1.5}, "temperatures: found 1.5, expected numbers above 0"),
    ],
)
def test_values_that_do_not_go_together_are_refused(values, message) -> None:
    with pytest.raises(UserError, match=message):
        InferenceSettings(**values)


def test_stride_is_the_window_by_default() -> None:
    assert InferenceSettings(**SLIDE).stride_hw == (512, 1024)


def test_plain_data_and_back() -> None:
    settings = InferenceSettings(
        **SLIDE, stride_hw=(400, 700), scales=(0.5, 1), flip_vertical=True, average="softmax"
    )
    plain = json.loads(json.dumps(settings.to_dict()))
    assert plain["crop_size_hw"] == [512, 1024]
    assert InferenceSettings.from_dict(plain) == settings
    with pytest.raises(UserError, match="unknown key 'flip'"):
        InferenceSettings.from_dict({"flip": True})


def test_description_says_it_all() -> None:
    assert InferenceSettings().describe() == "whole image"
    settings = InferenceSettings(
        **SLIDE, stride_hw=(400, 700), scales=(0.5, 1), flip_horizontal=True, flip_vertical=True
    )
    assert settings.num_views == 8
    assert settings.describe() == (
        "windows 512x1024 every 400x700 px (h x w); scales 0.5, 1 of the transformed image; "
        "horizontal and vertical flip; average of logits over 8 views"
    )
