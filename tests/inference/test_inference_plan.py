from __future__ import annotations

from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.plan import describe_plan
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings


def test_cityscapes_slide_with_flip() -> None:
    settings = InferenceSettings(
        is_slide=True,
        crop_size_hw=(1024, 1024),
        stride_hw=(768, 768),
        flip_horizontal=True,
        window_batch=4,
    )
    lines = describe_plan(Pipeline(lambda x: x, Preprocess(), settings), (1024, 2048)).splitlines()
    assert lines[0] == "image 1024x2048 (height x width in px)"
    assert lines[1] == (
        "view 1: scale 1, no flip: 1024x2048, 3 windows from rows 0 and columns 0, 768, 1024"
    )
    assert lines[2].startswith("view 2: scale 1, horizontal flip: 1024x2048")
    assert lines[3] == "network: 6 windows (6 of 1024x1024) in about 2 calls of up to 4"
    assert "average of logits over 2 views, argmax" in lines[4]


def test_scales_of_the_source() -> None:
    rules = [{"type": "AlignedResize", "scale": [2048, 512]}]
    settings = InferenceSettings(scales=(0.5, 1.0), scale_mode="source", average="softmax")
    text = describe_plan(
        Pipeline(lambda x: x, Preprocess.from_transforms(rules), settings), (375, 500)
    )
    assert "view 1: scale 0.5, no flip: 256x352" in text
    assert "view 2: scale 1, no flip: 512x704" in text
    assert "network: 2 windows (1 of 256x352, 1 of 512x704)" in text
    assert "average of softmax over 2 views" in text
