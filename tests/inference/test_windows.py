from __future__ import annotations

import numpy as np
import pytest

from paddleseg_segformer.inference.windows import (
    BLENDS,
    window_shares,
    window_weights,
    windows_along,
)

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
    counts = np.zeros(length)
    for start, stop in windows:
        counts[start:stop] += 1
    assert counts.min() >= 1
    for (start, stop), share in zip(windows, window_shares(length, windows), strict=True):
        np.testing.assert_array_equal(share, 1 / counts[start:stop])


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("length", "stride"), [(64, 64), (400, 40), (401, 64), (130, 1), (65, 33)])
def test_shares_of_every_blend_sum_to_one(length, stride, blend) -> None:
    windows = windows_along(length, 64, stride)
    total = np.zeros(length)
    for (start, stop), share in zip(windows, window_shares(length, windows, blend), strict=True):
        assert (share >= 0).all()
        total[start:stop] += share
    np.testing.assert_allclose(total, 1, rtol=1e-12)


def holding(windows, at):
    return [(i, (start, stop)) for i, (start, stop) in enumerate(windows) if start <= at < stop]


def test_without_blending_each_pixel_is_of_the_window_with_the_nearest_centre() -> None:
    windows = windows_along(403, 64, 40)
    for at in range(403):
        holding = [
            (abs(at + 0.5 - (a + b) / 2), i) for i, (a, b) in enumerate(windows) if a <= at < b
        ]
        weights = window_weights(windows, "none")
        found = [i for _, i in holding if weights[i][at - windows[i][0]]]
        nearest = min(holding)[0]
        assert len(found) == 1
        assert abs(at + 0.5 - sum(windows[found[0]]) / 2) <= nearest + 1


def test_weights_are_scipys_windows() -> None:
    signal = pytest.importorskip("scipy.signal.windows")
    hann, gaussian = (window_weights([(0, 64)], name)[0] for name in ("cosine", "gaussian"))
    np.testing.assert_allclose(hann, signal.hann(129)[1::2], atol=1e-12)
    np.testing.assert_allclose(gaussian, signal.gaussian(64, 8), atol=1e-12)
