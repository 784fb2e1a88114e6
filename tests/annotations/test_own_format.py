from __future__ import annotations

from pathlib import Path

import forms
import numpy as np
import pytest
from test_forms import labels_of

from paddleseg_segformer import UserError, register_component
from paddleseg_segformer.annotations import (
    Annotations,
    Files,
    Options,
    Sample,
    detect,
    prepare,
)

pytestmark = pytest.mark.usefixtures("own_components")


class Arrays(Annotations):
    """Text files of numbers beside the images."""

    classes = {4: "road", 7: "car"}

    @classmethod
    def recognise(cls, files: Files) -> str:
        return "there are .grid files" if files.of_kind(".grid") else ""

    def __init__(self, files: Files, options: Options) -> None:
        self.samples = [Sample(path.with_suffix(".jpg"), path) for path in files.of_kind(".grid")]

    def label(self, index: int, size_hw: tuple[int, int]) -> np.ndarray:
        path = self.samples[index].annotation
        assert path is not None
        return np.loadtxt(path, dtype=np.int32)


def test_a_form_of_ones_own_is_recognised_and_converted(tmp_path: Path) -> None:
    register_component("annotation_format", "grid", Arrays)
    root = tmp_path / "data"
    forms.write_images(root, ["a", "b", "c"])
    for name in "abc":
        label = np.full((forms.HEIGHT, forms.WIDTH), 4)
        label[3:9], label[0] = 7, -2  # the last does not count
        np.savetxt(root / f"{name}.grid", label, fmt="%d")
    detected = detect(root, Options(val=0.34))
    assert detected.format == "grid" and detected.classes == ("road", "car")
    for found in labels_of(prepare(detected, tmp_path / "out")).values():
        expected = np.zeros((forms.HEIGHT, forms.WIDTH))
        expected[3:9], expected[0] = 1, 255
        np.testing.assert_array_equal(found, expected)


def test_what_is_no_form_is_refused(tmp_path: Path) -> None:
    register_component("annotation_format", "mine", dict)
    with pytest.raises(UserError, match="'mine': found .*dict.*, expected a class derived from"):
        detect(tmp_path, Options(format="mine"))
