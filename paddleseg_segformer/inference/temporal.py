"""Logits averaged over the frames of a film, along the motion of what they show."""

from __future__ import annotations

import cv2
import numpy as np

from paddleseg_segformer.errors import UserError

MAX_DIFFERENCE = 0.2  # standard deviations of grey between the moved and the present frame
AROUND_PX = 5  # over which the difference is averaged
BEYOND = 1e6  # the grey of what lies outside of the frame
MIN_SIDE_PX = 32  # of the logits; motion is not sought in smaller windows


class TemporalAverage:
    """Exponential average of each window's logits over consecutive frames.

    The average of the frames before is moved along the optical flow. Where the moved frame does not
    look like the present one (what was hidden comes into sight, another scene), it is forgotten.

    Args:
        share: Of the frames before in the average, 0 to below 1; 0 leaves the logits as they are.

    Raises:
        UserError: another share.

    Source of the flow: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
    """

    def __init__(self, share: float) -> None:
        if not 0 <= share < 1:
            raise UserError(f"--smooth: found {share}, expected 0 to below 1.")
        self.share = share
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flow.setFinestScale(0)
        self._before: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        self._now: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}

    def next_frame(self) -> None:
        """Begin another frame; windows that are computed twice within one count once."""
        self._before, self._now = self._now, {}

    def __call__(self, key: tuple[int, ...], pixels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return the average for one window.

        Args:
            key: Of the window, the same in each frame.
            pixels: Normalised, (C, H, W) float32.
            logits: (K, h, w) float32.
        """
        height, width = logits.shape[1:]
        grey = cv2.resize(pixels.mean(axis=0), (width, height), interpolation=cv2.INTER_AREA)
        before = self._before.get(key)
        if before and before[1].shape == logits.shape:
            logits = self._averaged(*before, grey, logits)
        self._now[key] = grey, logits
        return logits

    def _averaged(
        self, grey_before: np.ndarray, before: np.ndarray, grey: np.ndarray, logits: np.ndarray
    ) -> np.ndarray:
        height, width = grey.shape
        columns, rows = np.meshgrid(np.arange(width), np.arange(height))
        source = np.stack([columns, rows], axis=2).astype(np.float32)
        spread = max(float(grey.std()), 1e-6)
        if min(grey.shape) >= MIN_SIDE_PX:
            now, earlier = (
                np.clip(128 + 48 * (plane - grey.mean()) / spread, 0, 255).astype(np.uint8)
                for plane in (grey, grey_before)
            )
            source += self._flow.calc(now, earlier, np.zeros_like(source))

        def moved(plane: np.ndarray, beyond: float) -> np.ndarray:
            border = cv2.BORDER_CONSTANT
            return cv2.remap(plane, source, None, cv2.INTER_LINEAR, None, border, beyond)

        unlike = np.abs(moved(grey_before, BEYOND) - grey)
        unlike = cv2.blur(np.minimum(unlike, spread), (AROUND_PX, AROUND_PX))
        share = np.where(unlike <= MAX_DIFFERENCE * spread, self.share, 0).astype(np.float32)
        average = logits.copy()
        for plane, plane_before in zip(average, before, strict=True):
            plane += share * (moved(plane_before, 0) - plane)
        return average
