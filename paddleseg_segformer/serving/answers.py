"""Predictions as answers: label maps, overlays, and figures with masks."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from paddleseg_segformer.data.io import encode_label
from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.inference.overlay import OVERLAY_ALPHA, overlay

DIGITS = 6  # of shares and confidences


class PredictQuery(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["png", "overlay", "json"] = Field(
        "png",
        description="png: class ids (8 bits with the classes' colours as palette, or 16 bits); "
        "overlay: the image with the classes' colours over it; json: share of each class",
    )
    alpha: float = Field(
        OVERLAY_ALPHA, ge=0, le=1, description="of format=overlay: opacity of the colours"
    )
    confidence: bool = Field(
        False, description="of format=json: also the mean probability of the predicted class"
    )
    masks: bool = Field(
        False,
        description="of format=json: also the mask of each class as COCO's run lengths: counts of "
        "pixels outside and inside in turn, down the columns from the left",
    )

    @model_validator(mode="after")
    def _has_effect(self) -> PredictQuery:
        for name, needed in (("alpha", "overlay"), ("confidence", "json"), ("masks", "json")):
            # older versions of FastAPI set every field: only other values than the default tell
            is_given = getattr(self, name) != type(self).model_fields[name].default
            if is_given and self.format != needed:
                raise ValueError(f"{name} has no effect without format={needed}")
        return self


class Answer(NamedTuple):
    """An answer's body."""

    content: bytes
    media_type: str


def encode(
    query: PredictQuery,
    image: np.ndarray,
    label: np.ndarray,
    confidence: np.ndarray | None,
    label_set: LabelSet,
) -> Answer:
    """Return a prediction in the form asked for.

    Args:
        query: The form.
        image: (H, W, C), RGB.
        label: Class ids (H, W).
        confidence: (H, W), where it was asked for.
        label_set: Names and colours of the classes.
    """
    if query.format == "png":
        return Answer(encode_label(label, label_set.colors), "image/png")
    if query.format == "overlay":
        picture = overlay(image, label, label_set, query.alpha)
        _, content = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        return Answer(content.tobytes(), "image/png")
    figures = describe(label, confidence, label_set, with_masks=query.masks)
    return Answer(json.dumps(figures).encode(), "application/json")


def describe(
    label: np.ndarray,
    confidence: np.ndarray | None,
    label_set: LabelSet,
    with_masks: bool = False,
) -> dict[str, Any]:
    """Return size and classes of a label map (H, W); classes without a pixel are left out."""
    height, width = label.shape
    pixels = np.bincount(label.ravel(), minlength=label_set.num_classes)
    present = np.flatnonzero(pixels)
    classes: list[dict[str, Any]] = [
        {
            "id": int(index),
            "name": label_set.classes[index],
            "pixels": int(pixels[index]),
            "share": round(float(pixels[index] / label.size), DIGITS),
        }
        for index in present
    ]
    figures: dict[str, Any] = {"height": height, "width": width}
    if confidence is not None:
        figures["confidence"] = round(float(confidence.mean(dtype=np.float64)), DIGITS)
        sums = np.bincount(label.ravel(), confidence.ravel(), minlength=label_set.num_classes)
        for entry in classes:
            entry["confidence"] = round(float(sums[entry["id"]] / entry["pixels"]), DIGITS)
    if with_masks:
        counts = run_lengths(label)
        for entry in classes:
            entry["mask"] = {"size": [height, width], "counts": counts[entry["id"]]}
    return {**figures, "classes": classes}


def run_lengths(label: np.ndarray) -> dict[int, list[int]]:
    """Return the mask of each id in a label map (H, W) as run lengths.

    Pixels are counted down the columns, from the left one on: first those outside the mask (perhaps
    0), then those inside, and so on in turn.

    Source: the uncompressed run-length encoding of COCO's annotations.
    """
    ids = label.ravel(order="F")
    changes = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    starts, ends = np.r_[0, changes], np.r_[changes, ids.size]
    values = ids[starts]
    counts = {}
    for index in np.unique(values):
        inside = values == index
        bounds = np.column_stack([starts[inside], ends[inside]]).ravel()
        lengths = np.diff(bounds, prepend=0, append=ids.size)
        counts[int(index)] = lengths[: -1 if lengths[-1] == 0 else None].tolist()
    return counts
