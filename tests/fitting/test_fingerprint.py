"""A data set in numbers, against numbers that NumPy and Pillow give for hand-made files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer.data.audit import audit
from paddleseg_segformer.data.datasets import Dataset
from paddleseg_segformer.fitting import fingerprint as module
from paddleseg_segformer.fitting.fingerprint import fingerprint


def dataset(folder, images, labels, num_classes=3, **options):
    lines = []
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image).save(folder / f"{index}.png")
        Image.fromarray(label).save(folder / f"{index}_label.png")
        lines.append(f"{index}.png {index}_label.png\n")
    (folder / "train.txt").write_text("".join(lines))
    paths = {"dataset_root": str(folder), "train_path": str(folder / "train.txt")}
    return Dataset(mode="train", transforms=[], num_classes=num_classes, **paths, **options)


def test_values_classes_and_objects_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 50 + 10 * i, 3), np.uint8) for i in range(3)]
    labels = [np.zeros(image.shape[:2], np.uint8) for image in images]
    for index, label in enumerate(labels):
        label[2:4, 2:4] = 1  # a smaller object of the class
        label[10 : 20 + index, 5:15] = 1
        label[-4:] = 255
    labels[2][30:34, 30:34] = 2
    data = dataset(tmp_path, images, labels)
    found = fingerprint(data, audit(data), background=0)
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    np.testing.assert_allclose(found.mean, pixels.mean(axis=0), atol=6e-5)
    np.testing.assert_allclose(found.std, pixels.std(axis=0), atol=6e-5)
    assert found.size_hw == (40, 60) and found.num_samples == found.num_looked_at == 3
    counts = [sum(int((label == class_id).sum()) for label in labels) for class_id in range(3)]
    assert list(found.num_pixels) == counts and found.num_images == (3, 3, 1)
    np.testing.assert_allclose(found.shares, np.asarray(counts) / sum(counts))
    # class 1: the middle one of 10, 11 and 12 rows of 10 px; class 2: 4 x 4 px
    assert found.object_px == pytest.approx((np.sqrt(110) + 4) / 2)
    everything = fingerprint(data, audit(data))  # the background is an object like others
    assert everything.object_px == pytest.approx(np.sqrt(110))


def test_constant_channel_can_be_divided_by(tmp_path):
    image, label = np.full((8, 8, 3), 100, np.uint8), np.zeros((8, 8), np.uint8)
    data = dataset(tmp_path, [image], [label])
    assert fingerprint(data, audit(data)).std == (0.001, 0.001, 0.001)


def test_large_labels_are_thinned_and_many_samples_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_OBJECT_PX", 32 * 32)
    monkeypatch.setattr(module, "MAX_SAMPLED", 2)
    label = np.zeros((64, 64), np.uint8)
    label[16:48, 16:48] = 1
    image = np.zeros((64, 64, 3), np.uint8)
    data = dataset(tmp_path, [image] * 4, [label] * 4)
    found = fingerprint(data, audit(data), background=0)
    assert (found.num_samples, found.num_looked_at, found.object_px) == (4, 2, 32.0)


def test_ignored_ids_below_zero_are_no_class(tmp_path):
    label = np.zeros((8, 8), np.uint8)
    label[:4] = 255
    data = dataset(tmp_path, [np.zeros((8, 8, 3), np.uint8)], [label])
    assert fingerprint(data, audit(data), background=0).object_px == 0.0
