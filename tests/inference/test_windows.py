from __future__ import annotations

import pytest

from paddleseg_segformer.inference.windows import window_counts, windows_along

pytestmark = pytest.mark.check


def test_cityscapes_width() -> None:
    assert windows_along(2048, 1024, 768) == [(0, 1024), (768, 1792), (1024, 2048)]


def test_axis_shorter_than_the_window_is_taken_whole() -> None:
    assert windows_along(500, 512, 341) == [(0, 500)]
    assert windows_along(512, 512, 341) == [(0, 512)]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 104, 105, 400])
@pytest.mark.parametrize("stride", [1, 40, 64])
def test_grid_of_mmsegmentation(length, stride) -> None:
    crop, expected = 64, []
    for index in range(max(length - crop + stride - 1, 0) // stride + 1):
        stop = min(index * stride + crop, length)
        expected.append((max(stop - crop, 0), stop))
    windows = windows_along(length, crop, stride)
    assert windows == expected
    counts = window_counts(length, windows)
    assert counts.min() >= 1
    assert counts.sum() == sum(stop - start for start, stop in windows)
