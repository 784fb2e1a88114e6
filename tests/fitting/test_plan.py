"""What is found between the data and the recipe."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer.fitting.options import FitOptions
from paddleseg_segformer.fitting.plan import audited
from paddleseg_segformer.fitting.prepare import detect_data, prepare_data


def test_bursts_that_a_split_of_folders_tears_apart_are_warned_of(tmp_path, caplog):
    pytest.importorskip("matplotlib")
    rng = np.random.default_rng(0)
    for video in range(4):
        still = rng.integers(0, 255, (8, 10, 3)).repeat(8, 0).repeat(8, 1)
        for frame in range(6):
            image = np.clip(still + rng.normal(0, 3, still.shape), 0, 255).astype(np.uint8)
            label = (still[..., 0] > 128).astype(np.uint8)
            for kind, array in (("images", image), ("labels", label)):
                folder = tmp_path / "data" / ("val" if frame == 3 else "train") / kind
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / f"video{video}_{frame:04d}.png")
    options = FitOptions.of(tmp_path / "data", out=tmp_path / "out")
    prepared = prepare_data(detect_data(options), tmp_path / "out" / "data")
    with caplog.at_level(logging.INFO, "paddleseg_segformer"):
        reports = audited(prepared.sections)
    assert [report.num_samples for report in reports.values()] == [20, 4]
    assert "warning video-in-two-splits (4)" in caplog.text
    assert "warning image-similar (4)" in caplog.text
