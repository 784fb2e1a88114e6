"""Corrupted images equal the library's, and are the same in every run."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from paddleseg_segformer.data.datasets import RawSample, SegmentationDataset
from paddleseg_segformer.data.labels import generic_label_set
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.evaluation.corruptions import (
    CORRUPTIONS,
    CorruptedImages,
    corrupt,
    seed_of,
)

library = pytest.importorskip("imagecorruptions")
RNG = np.random.default_rng(0)
IMAGE = np.kron(RNG.integers(0, 256, (12, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8)


def test_the_corruptions_are_the_papers() -> None:
    """All 19 of the library without the three that section 4.4 leaves out."""
    left_out = {"zoom_blur", "elastic_transform", "pixelate"}
    assert set(CORRUPTIONS) == set(library.get_corruption_names("all")) - left_out
    assert len(CORRUPTIONS) == 16


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_equal_the_librarys(name) -> None:
    for severity in (1, 4):
        np.random.seed(7)
        function, given = library.corruption_dict[name], {}
        if name in ("glass_blur", "impulse_noise"):  # they draw from generators of their own
            given["seed"] = 7
        from PIL import Image

        expected = np.uint8(function(Image.fromarray(IMAGE), severity, **given))
        found = corrupt(IMAGE, name, severity, 7)
        assert found.dtype == np.uint8 and np.array_equal(found, expected)
        assert not np.array_equal(found, IMAGE)


def test_the_seed_is_of_the_files_name() -> None:
    seed = seed_of("/data/a/frame.png", "snow", 2)
    assert seed == seed_of("b/frame.png", "snow", 2) and 0 <= seed < 2**32
    others = [seed_of("frame.jpg", "snow", 2), seed_of("frame.png", "fog", 2)]
    assert seed not in [*others, seed_of("frame.png", "snow", 3)]


@pytest.mark.parametrize("name", ["gaussian_noise", "glass_blur", "impulse_noise", "frost"])
def test_random_ones_are_repeated_by_their_seed_alone(name) -> None:
    first = corrupt(IMAGE, name, 3, 5)
    np.random.seed(99)
    assert np.array_equal(first, corrupt(IMAGE, name, 3, 5))
    assert not np.array_equal(first, corrupt(IMAGE, name, 3, 6))


def test_numpys_generator_is_left_as_it_was() -> None:
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    corrupt(IMAGE, "snow", 1, 0)
    assert np.random.rand() == expected


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (IMAGE.astype(np.float32), "found float32 of shape (96, 80, 3)"),
        (IMAGE[..., :1], "found uint8 of shape (96, 80, 1)"),
        (IMAGE[:31], "found 31x80 px; corruptions need 32 px"),
    ],
)
def test_other_images_are_refused(image, message) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        corrupt(image, "fog", 1, 0)


class Photos(SegmentationDataset):
    def read_files(self, image_path, label_path):
        image = IMAGE[:20] if "small" in image_path else IMAGE
        return RawSample(image, np.zeros(image.shape[:2], np.uint8), image_path, label_path)


def test_a_corrupted_data_set_keeps_its_labels_and_names_bad_images() -> None:
    paths = [("a/x.png", "a/x_label.png"), ("small.png", None)]
    photos = Photos(paths, [], generic_label_set(2), mode="val")
    with ThreadPoolExecutor(1) as executor:
        corrupted = CorruptedImages(photos, "shot_noise", 2, executor)
        sample = corrupted.read(0)
        expected = corrupt(IMAGE, "shot_noise", 2, seed_of("x.png", "shot_noise", 2))
        assert np.array_equal(sample.image, expected)
        assert sample.label_path == "a/x_label.png" and len(corrupted) == 2
        with pytest.raises(UserError, match="^small.png: found 20x80 px"):
            corrupted.read(1)
