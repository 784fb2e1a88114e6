"""Transforms that mix samples: every pixel has the label it came with, whatever the workers."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from small_datasets import write_cityscapes

from paddleseg_segformer.data import TRANSFORMS
from paddleseg_segformer.data.class_sampling import ClassSampler, class_presence
from paddleseg_segformer.data.datasets import Cityscapes, Dataset
from paddleseg_segformer.data.io import write_label
from paddleseg_segformer.data.loader import TrainSampler, train_loader
from paddleseg_segformer.data.mixing import CopyPaste, CutMix, Mosaic, RareClassCrop
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.data.transforms import RandomHorizontalFlip, RandomPaddingCrop
from paddleseg_segformer.errors import UserError

pytestmark = pytest.mark.check
SIZE = (24, 40)


def sample(value: int, size_hw: tuple[int, int] = SIZE) -> dict:
    """Return a sample of 4 classes; each pixel's value tells sample and class."""
    label = np.random.default_rng(value).integers(0, 4, size_hw).astype(np.uint8)
    label[:2] = 255
    image = np.repeat((10 * value + np.where(label == 255, 9, label))[:, :, None], 3, axis=2)
    return {"img": image.astype(np.uint8), "label": label, "gt_fields": ["label"]}


def mixed(transform, num_others: int, seed: int) -> dict:
    others = iter([sample(value) for value in range(2, 2 + num_others)])
    np.random.seed(seed)
    return transform({**sample(1), "draw_other": lambda: next(others)})


def assert_labels_fit(data: dict, padding: int = 128) -> None:
    """Check that each pixel has the class that its value tells."""
    image, label = data["img"][:, :, 0], data["label"]
    is_empty = image == padding
    assert (label[is_empty] == 255).all()
    told = np.where(image % 10 == 9, 255, image % 10)
    np.testing.assert_array_equal(label[~is_empty], told[~is_empty])


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_takes_one_rectangle_of_another_sample(seed):
    data = mixed(CutMix(prob=1), 1, seed)
    assert_labels_fit(data)
    rows, columns = np.nonzero(data["img"][:, :, 0] // 10 == 2)
    area = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == area[0] * area[1] < SIZE[0] * SIZE[1]


def test_copy_paste_takes_whole_classes_and_nothing_unlabelled():
    data, other = mixed(CopyPaste(prob=1), 1, 0), sample(2)
    assert_labels_fit(data)
    is_pasted = data["img"][:, :, 0] // 10 == 2
    pasted = np.unique(other["label"][is_pasted])
    assert len(pasted) == 2 and 255 not in pasted
    np.testing.assert_array_equal(is_pasted, np.isin(other["label"], pasted))
    only = mixed(CopyPaste(prob=1, class_ids=[3]), 1, 0)
    np.testing.assert_array_equal(only["img"][:, :, 0] // 10 == 2, other["label"] == 3)
    same = mixed(CopyPaste(prob=1, class_ids=[7]), 1, 0)
    np.testing.assert_array_equal(same["img"], sample(1)["img"])


@pytest.mark.parametrize("size_wh", [(40, 24), (30, 20), (100, 90)])
def test_mosaic_joins_four_windows_and_ignores_the_rest(size_wh):
    data = mixed(Mosaic(size_wh, prob=1), 3, 1)
    assert data["label"].shape == size_wh[::-1] == data["img"].shape[:2]
    assert_labels_fit(data)
    owners = data["img"][:, :, 0] // 10
    assert set(np.unique(owners)) - {12} == {1, 2, 3, 4}
    assert (12 in owners) == (size_wh == (100, 90))  # larger than the samples reach
    height, width = owners.shape
    corner = owners[height // 4 - 1, width // 4 - 1], owners[3 * height // 4, 3 * width // 4]
    assert corner in ((1, 4), (12, 12), (1, 12), (12, 4))


def test_rare_class_crop_shows_every_class_alike_and_each_window_of_a_pixel():
    label = np.zeros((40, 60), np.uint8)
    label[30, 7] = 1  # one pixel
    data = {"img": np.repeat(label[:, :, None], 3, 2), "label": label, "gt_fields": ["label"]}
    np.random.seed(0)
    crops = [RareClassCrop((16, 12), prob=1)(dict(data))["label"] for _ in range(600)]
    assert {crop.shape for crop in crops} == {(12, 16)}
    shown = [np.argwhere(crop == 1)[0] for crop in crops if (crop == 1).any()]
    assert 0.45 < len(shown) / len(crops) < 0.62
    rows, columns = np.transpose(shown)
    # rows 28 - 11 .. 28 as far as the image reaches, columns as far as its left edge
    assert set(rows) == set(range(2, 12)) and set(columns) == set(range(8))
    none = [RareClassCrop((16, 12), prob=1, class_ids=[5])(dict(data)) for _ in range(3)]
    assert all(item["label"].shape == (12, 16) for item in none)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    return write_cityscapes(tmp_path, [f"ulm/ulm_{index:06}" for index in range(5)])


def make(root: Path) -> Cityscapes:
    transforms = [
        RandomPaddingCrop((32, 16)),
        Mosaic((24, 20), prob=0.7),
        RareClassCrop((16, 16)),
        RandomHorizontalFlip(),
        CutMix(),
        CopyPaste(),
        Normalize(),
    ]
    return Cityscapes(transforms, str(root))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_a_function_of_seed_and_iteration(cityscapes, num_workers):
    batches = []
    for start, workers in ((0, 0), (2, num_workers)):
        loader = train_loader(make(cityscapes), 2, workers, 7, start_iter=start)
        batches.append(list(islice(loader, 4 - start)))
        loader.close()
    for whole, part in zip(batches[0][2:], batches[1], strict=True):
        np.testing.assert_array_equal(whole.img, part.img)
        np.testing.assert_array_equal(whole.label, part.label)
    assert len({batch.img.tobytes() for batch in batches[0]}) == 4


def test_transforms_travel_to_workers_and_are_known_by_name():
    for name in ("RareClassCrop", "CutMix", "CopyPaste", "Mosaic"):
        assert vars(pickle.loads(pickle.dumps(TRANSFORMS[name]()))).keys()


def test_what_cannot_be_mixed_is_refused(cityscapes, tmp_path):
    with pytest.raises(UserError, match="found images of 24x40 and 10x10 px, expected one size"):
        CutMix(prob=1)({**sample(1), "draw_other": lambda: sample(2, (10, 10))})
    wide = {**sample(2), "img": sample(2)["img"].astype(np.float32)}
    with pytest.raises(UserError, match="uint8 and float32, expected one type"):
        CutMix(prob=1)({**sample(1), "draw_other": lambda: wide})
    with pytest.raises(UserError, match="gives no other samples"):
        Mosaic(prob=1)(sample(1))
    with pytest.raises(UserError, match=r"class_ids is \[19\], expected ids of classes, 0 to 18"):
        Cityscapes([CopyPaste(class_ids=[19])], str(cityscapes))
    with pytest.raises(UserError, match="CutMix: prob is 2, expected 0 to 1"):
        CutMix(prob=2)


@pytest.fixture
def unbalanced(tmp_path: Path) -> Dataset:
    """Twenty samples of class 0, of which one has class 1 too, and none class 2."""
    lines = []
    for index in range(20):
        label = np.zeros((8, 8), np.uint8)
        label[0, 0] = 255
        label[4:, :2] = int(index == 3)
        write_label(tmp_path / f"{index}.png", label)
        lines.append(f"{index}.png {index}.png\n")
    (tmp_path / "train.txt").write_text("".join(lines))
    arguments = {"num_classes": 3, "train_path": str(tmp_path / "train.txt")}
    return Dataset("train", str(tmp_path), [], **arguments)


def test_class_balanced_sampling_draws_classes_alike(unbalanced, caplog):
    presence = class_presence(unbalanced)
    assert "no sample has the class class_2" in caplog.text
    assert presence.sum(axis=0).tolist() == [20, 1, 0] and presence[3, 1]

    def shown(share: float, **more: int) -> list[int]:
        sampler = TrainSampler(20, 4, seed=1, draw=ClassSampler(presence, share), **more)
        return [index for keys in islice(sampler, 100) for index, _ in keys]

    assert 0.45 < shown(1.0).count(3) / 400 < 0.6  # half, and a twentieth of the other half
    assert 0.2 < shown(0.5).count(3) / 400 < 0.37
    assert shown(0.0).count(3) == 20
    assert shown(0.5)[40:] == shown(0.5, start_iter=10)[:360]
    both = [shown(0.5, rank=rank, world_size=2) for rank in (0, 1)]
    joined = [
        index for step in range(50) for rank in both for index in rank[4 * step : 4 * step + 4]
    ]
    assert joined == shown(0.5)


def test_bad_labels_stop_the_count_or_have_no_class(unbalanced, tmp_path):
    (tmp_path / "3.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="3.png"):
        class_presence(unbalanced)
    assert not class_presence(unbalanced, skip_bad=True)[3].any()
