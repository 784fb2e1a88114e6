from __future__ import annotations

from pathlib import Path

import forms
import numpy as np
import pytest
from PIL import Image
from test_forms import labels_of

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations import Options, detect, prepare
from paddleseg_segformer.data.labels import COCO_STUFF_USED_IDS, LABEL_SETS

# Cityscapes' own table: id -> training id, of what counts
CITYSCAPES = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11,
              25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def stored(low: int, high: int, seed: int) -> np.ndarray:
    """Return a label (H, W) that holds every value of low..high - 1, and 255."""
    label = np.random.default_rng(seed).integers(low, high, (forms.HEIGHT, forms.WIDTH), np.uint8)
    label.ravel()[: high - low] = np.arange(low, high)
    label[-1] = 255
    return label


def write(root: Path, images: str, labels: str, low: int, high: int) -> dict[str, np.ndarray]:
    """Write two samples, one a set; `{}` stands for the set and the name."""
    found = {}
    for index, (folder, name) in enumerate((("train", "a"), ("val", "b"))):
        image = root / images.format(folder, name)
        forms.write_images(image.parent, [image.stem], image.suffix)
        found[image.stem] = stored(low, high, index)
        forms.png(found[image.stem], root / labels.format(folder, name))
    return found


@pytest.mark.parametrize("kind", ["labelTrainIds", "labelIds"])
def test_cityscapes_is_read_with_both_kinds_of_ids(kind: str, root: Path) -> None:
    high = 19 if kind == "labelTrainIds" else 34
    labels = f"gtFine/{{}}/town/{{}}_gtFine_{kind}.png"
    found = write(root, "leftImg8bit/{}/town/{}_leftImg8bit.png", labels, 0, high)
    detected = detect(root)
    assert detected.format == "cityscapes"
    prepared = prepare(detected, root.parent / "out")
    assert prepared.classes == LABEL_SETS["cityscapes"].classes
    assert (root.parent / "out" / "labels").is_dir() is (kind == "labelIds")
    read = labels_of(prepared)
    for name, label in found.items():
        expected = label
        if kind == "labelIds":
            expected = np.vectorize(lambda value: CITYSCAPES.get(value, 255))(label)
        np.testing.assert_array_equal(read[name], expected)


def test_ade_becomes_ids_from_0(root: Path) -> None:
    found = write(root, "images/{}ing/{}.jpg", "annotations/{}ing/{}.png", 0, 151)
    for kind in ("images", "annotations"):
        (root / kind / "valing").rename(root / kind / "validation")
    detected = detect(root)
    assert detected.format == "ade" and detected.classes == LABEL_SETS["ade20k"].classes
    for name, label in labels_of(prepare(detected, root.parent / "out")).items():
        expected = np.where(found[name] == 255, 255, found[name].astype(int) - 1) % 256
        np.testing.assert_array_equal(label, expected)
    forms.png(np.full((40, 60), 200, np.uint8), root / "annotations" / "training" / "a.png")
    with pytest.raises(UserError, match="found the id 200, which ADE20K does not have"):
        prepare(detect(root), root.parent / "other")


@pytest.mark.parametrize("ending", ["", "_labelTrainIds"])
def test_coco_stuff_is_read_with_both_kinds_of_ids(ending: str, root: Path) -> None:
    high = 171 if ending else 182
    found = write(root, "images/{}2017/{}.jpg", f"annotations/{{}}2017/{{}}{ending}.png", 0, high)
    if not ending:  # without the numbers that are never used
        for name, set_name in (("a", "train"), ("b", "val")):
            found[name][~np.isin(found[name], COCO_STUFF_USED_IDS)] = 255
            forms.png(found[name], root / "annotations" / f"{set_name}2017" / f"{name}.png")
    detected = detect(root)
    assert detected.format == "coco_stuff" and len(detected.classes) == 171
    for name, label in labels_of(prepare(detected, root.parent / "out")).items():
        places = {stored: place for place, stored in enumerate(COCO_STUFF_USED_IDS)} | {255: 255}
        expected = found[name] if ending else np.vectorize(places.get)(found[name])
        np.testing.assert_array_equal(label, expected)


def test_vocs_own_images_have_its_classes_and_others_the_names_of_a_file(root: Path) -> None:
    forms.write_voc(root)
    (root / "class_names.txt").write_text("_background_\ncar\nroad\ntree\n")
    assert detect(root).classes == ("_background_", "car", "road", "tree")
    (root / "class_names.txt").unlink()
    for index, name in enumerate(forms.SCENES):
        for path in (*root.glob(f"*/{name}.*"), *root.glob("ImageSets/*/*.txt")):
            new = f"2007_{index:06d}"
            if path.suffix == ".txt":
                path.write_text(path.read_text(encoding="utf-8").replace(name, new))
            else:
                path.rename(path.with_stem(new))
    detected = detect(root)
    assert len(detected.classes) == 21 and detected.classes[15] == "person"
    assert [sample.set for sample in detected.samples] == ["val", "train", "train"]


def test_vocs_lists_and_folders_have_to_fit(root: Path) -> None:
    forms.write_voc(root)
    (root / "SegmentationClassAug").mkdir()
    with pytest.raises(UserError, match="found SegmentationClass and SegmentationClassAug. Say"):
        detect(root)
    options = Options(labels="SegmentationClass/{stem}.png", format="voc")
    assert len(detect(root, options).samples) == 3
    (root / "SegmentationClassAug").rmdir()
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("nobody\n")
    with pytest.raises(UserError, match="nobody is listed in ImageSets, but has no image"):
        detect(root)
    (root / "ImageSets" / "Segmentation" / "val.txt").write_text("")
    assert "1 labelled images are in no list of ImageSets" in detect(root).warnings[0]


def test_colours_of_a_known_data_set_have_its_names(root: Path) -> None:
    forms.write_images(root / "images")
    camvid = LABEL_SETS["camvid"]
    for index, name in enumerate(forms.SCENES):
        label = np.random.default_rng(index).integers(0, 12, (forms.HEIGHT, forms.WIDTH))
        colors = np.array([*camvid.palette, (0, 0, 0)], np.uint8)[label]
        forms.png(colors, root / "labels" / f"{name}_L.png")
    detected = detect(root, Options(val=0.34))
    assert detected.classes == camvid.classes and detected.palette == camvid.palette
    for name, label in labels_of(prepare(detected, root.parent / "out")).items():
        image = np.asarray(Image.open(root / "labels" / f"{name}_L.png")).astype(int)
        expected = [[255 if not p.any() else camvid.palette.index(tuple(p.tolist())) for p in row]
                    for row in image]  # fmt: skip
        np.testing.assert_array_equal(label, expected)


def test_sbds_mat_files_are_vocs_classes(root: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    forms.write_images(root / "img", ["a", "b", "c"])
    (root / "cls").mkdir()
    found = {name: stored(0, 21, index).clip(max=20) for index, name in enumerate("abc")}
    for name, label in found.items():
        content = {"GTcls": {"Boundaries": 0, "Segmentation": label}}
        scipy_io.savemat(root / "cls" / f"{name}.mat", content)
    (root / "train.txt").write_text("a\nb\n")
    (root / "val.txt").write_text("c\n")
    detected = detect(root)
    assert detected.format == "sbd" and detected.classes[15] == "person"
    prepared = prepare(detected, root.parent / "out")
    assert prepared.num_samples == {"train": 2, "val": 1}
    for name, label in labels_of(prepared).items():
        np.testing.assert_array_equal(label, found[name])
    (root / "cls" / "a.mat").write_bytes(b"MATLAB")
    with pytest.raises(UserError, match="a.mat: has no GTcls.Segmentation"):
        prepare(detect(root), root.parent / "other")
