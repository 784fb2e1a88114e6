"""Videos with the predicted classes' colours over each frame."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from paddleseg_segformer.data.headers import check_pixels
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.files import atomic_path
from paddleseg_segformer.inference.overlay import OVERLAY_ALPHA
from paddleseg_segformer.predictor import Predictor


def overlay_video(
    predictor: Predictor,
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    alpha: float = OVERLAY_ALPHA,
) -> tuple[int, float]:
    """Predict every frame and write the overlays as an .mp4 of the same frame rate.

    Returns:
        Number of frames, and frames per second of reading, predicting and writing together.

    Raises:
        UserError: the video cannot be read, or this OpenCV cannot write one; or the model is for
            images of other values than 8 bits.
    """
    capture = _open(source)
    value_range = predictor.pipeline.preprocess.value_range
    if value_range and not value_range.keeps_uint8:
        raise UserError(
            f"{source}: the frames of a video have 8 bits, the model's value_range is "
            f"{value_range.declared}. Predict images as files, with all their bits."
        )
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    total = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    start = time.perf_counter()
    with atomic_path(destination) as temporary:
        overlays = (predictor(frame, bgr=True).overlay(alpha) for frame in _frames(capture))
        bar = tqdm(overlays, total=total if total > 0 else None, unit="frame", disable=None)
        num_frames = _write(temporary, bar, rate)
        if not num_frames:
            raise UserError(f"{source}: no frame could be read.")
    return num_frames, num_frames / (time.perf_counter() - start)


def _open(source: str | os.PathLike[str]) -> cv2.VideoCapture:
    """Open a video file; OpenCV itself would also take URLs, devices and pipelines."""
    capture = cv2.VideoCapture(str(source)) if Path(source).is_file() else None
    if capture is None or not capture.isOpened():
        raise UserError(f"{source}: no such file, or not a video that OpenCV can read.")
    height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    check_pixels(source, height, int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
    return capture


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    """Yield the frames (H, W, 3), BGR uint8."""
    while True:
        is_read, frame = capture.read()
        if not is_read:
            return
        yield frame


def _write(path: Path, images: Iterator[np.ndarray], rate: float) -> int:
    """Write RGB images of one size as a video; return how many there were."""
    writer, num_frames = None, 0
    for image in images:
        if writer is None:
            size_wh = image.shape[1], image.shape[0]
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, size_wh)
            if not writer.isOpened():
                raise UserError(f"{path}: this OpenCV cannot write mp4 (mp4v) videos.")
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        num_frames += 1
    if writer is not None:
        writer.release()
    return num_frames
