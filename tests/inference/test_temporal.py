from __future__ import annotations

import cv2
import numpy as np
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.temporal import TemporalAverage

KEY = (0, 0, 0)


def texture(seed: int, side: int = 160) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1, (side, side)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return smooth / smooth.std()


def film(speed: int, num_frames: int = 16):
    """Yield pixels (3, 96, 96), true classes and noisy logits of a camera over a texture."""
    generator = np.random.default_rng(9)
    whole, classes = texture(1), texture(2) > 0
    for number in range(num_frames):
        top = slice(speed * number, speed * number + 96)
        view = whole[top, :96]
        truth = classes[top, :96]
        logits = np.where(truth, 1, -1) + generator.normal(0, 2, truth.shape)
        yield np.stack(3 * [view]), truth, np.stack([-logits, logits]).astype(np.float32)


@pytest.mark.parametrize("speed", [0, 1, 4])
def test_average_follows_the_motion(speed) -> None:
    average = TemporalAverage(0.8)
    for pixels, truth, logits in film(speed):  # noqa: B007
        average.next_frame()
        smooth = average(KEY, pixels, logits)
    errors = [(found.argmax(axis=0) != truth).mean() for found in (logits, smooth)]
    assert errors[0] > 0.25
    assert errors[1] < 0.4 * errors[0]


def test_another_scene_is_a_new_beginning() -> None:
    average = TemporalAverage(0.8)
    average.next_frame()
    average(KEY, np.stack(3 * [texture(3, 96)]), np.full((2, 96, 96), 100, np.float32))
    average.next_frame()
    now = np.zeros((2, 96, 96), np.float32)
    found = average(KEY, np.stack(3 * [texture(4, 96)]), now)
    assert (found == 0).mean() > 0.95


def test_a_still_picture_gives_the_exponential_average() -> None:
    average = TemporalAverage(0.75)
    pixels = np.zeros((3, 64, 64), np.float32)
    values = [8.0, 0.0, 4.0]
    for value in values:
        average.next_frame()
        for _ in range(2):  # a window that is computed again counts once
            found = average(KEY, pixels, np.full((2, 16, 16), value, np.float32))
    expected = 0.25 * 4 + 0.75 * (0.25 * 0 + 0.75 * 8)
    np.testing.assert_allclose(found, expected)


def test_other_windows_and_other_sizes_have_no_past() -> None:
    average = TemporalAverage(0.5)
    pixels, logits = np.zeros((3, 64, 64), np.float32), np.ones((2, 16, 16), np.float32)
    average(KEY, pixels, logits)
    average.next_frame()
    assert (average((0, 0, 1), pixels, 0 * logits) == 0).all()
    assert (average(KEY, pixels[:, :32], 0 * logits[:, :8]) == 0).all()
    average.next_frame()
    average.next_frame()
    assert (average(KEY, pixels, logits) == 1).all()


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_are_below_1(share) -> None:
    with pytest.raises(UserError, match="--smooth: found .*, expected 0 to below 1"):
        TemporalAverage(share)
