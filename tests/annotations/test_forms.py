from __future__ import annotations

from pathlib import Path

import forms
import numpy as np
import pytest

from paddleseg_segformer.annotations import Options, Prepared, detect, prepare
from paddleseg_segformer.data.datasets import Dataset

pytest.importorskip("pycocotools")

FORMATS = {"colors": "folders", "binary": "folders"}


def converted(root: Path, out: Path, **options: object) -> Prepared:
    return prepare(detect(root, Options(**{"val": 0.34, **options})), out)


def labels_of(prepared: Prepared) -> dict[str, np.ndarray]:
    """Return the labels as our data set reads them, by the images' names."""
    found = {}
    for mode in ("train", "val"):
        dataset = Dataset(
            transforms=[], **{k: v for k, v in prepared.section(mode).items() if k != "type"}
        )
        for index in range(len(dataset)):
            sample = dataset.read(index)
            assert sample.label is not None
            found[Path(sample.image_path).stem.removeprefix("0a1b2c3d-")] = sample.label
    return found


@pytest.mark.parametrize("name", forms.WRITERS)
def test_every_form_is_recognised_and_gives_the_labels_that_were_drawn(
    name: str, tmp_path: Path
) -> None:
    forms.WRITERS[name](tmp_path / "data")
    detected = detect(tmp_path / "data", Options(val=0.34))
    assert detected.format == FORMATS.get(name, name)
    prepared = prepare(detected, tmp_path / "out")
    found = labels_of(prepared)
    expected = forms.labels()
    names = ["background", *forms.CLASSES]
    if name == "yolo":  # without the mask
        scenes = {
            k: [s for s in v if isinstance(s, forms.Polygon)] for k, v in forms.SCENES.items()
        }
        ids = {c: i + 1 for i, c in enumerate(forms.CLASSES)}
        expected = {key: forms.truth(scene, ids, 0) for key, scene in scenes.items()}
    if name == "folders":
        names = [f"class_{index}" for index in range(4)]
    if name == "voc":
        names = ["background", "class_1", "class_2", "class_3"]
    if name == "colors":  # in the order of their codes
        codes = sorted(range(4), key=lambda i: forms.COLORS[i])
        expected = {key: np.argsort(codes)[label] for key, label in expected.items()}
        names = ["background", "color_00005a", "color_0a141e", "color_c80000"]
    if name == "binary":
        expected = {key: (label > 0) for key, label in expected.items()}
        names = ["background", "foreground"]
    assert list(prepared.classes) == names
    assert found.keys() == expected.keys()
    for key, label in found.items():
        np.testing.assert_array_equal(label, expected[key], err_msg=key)
    assert Prepared.read(tmp_path / "out") == prepared


def test_data_set_in_its_only_folder_is_the_same_data_set(tmp_path: Path) -> None:
    forms.WRITERS["voc"](tmp_path / "data" / "VOCdevkit" / "VOC2012")
    detected = detect(tmp_path / "data", Options())
    assert detected.format == "voc"
    assert detected.root == tmp_path / "data" / "VOCdevkit" / "VOC2012"


def test_images_by_the_names_that_they_had_before_their_upload(tmp_path: Path) -> None:
    forms.WRITERS["labelstudio"](tmp_path)
    for path in (tmp_path / "upload").iterdir():
        path.rename(path.with_name(path.name.removeprefix("0a1b2c3d-")))
    detected = detect(tmp_path, Options())
    assert detected.format == "labelstudio"
    assert len(detected.samples) == len(forms.SCENES) and not detected.warnings


def test_yolo_without_sets_takes_all_images(tmp_path: Path) -> None:
    forms.WRITERS["yolo"](tmp_path)
    names = ", ".join(forms.CLASSES)
    (tmp_path / "data.yaml").write_text(f"nc: {len(forms.CLASSES)}\nnames: [{names}]\n")
    detected = detect(tmp_path, Options())
    assert detected.format == "yolo"
    assert [sample.set for sample in detected.samples] == [""] * len(forms.SCENES)


def test_yolo_without_a_yaml_and_with_lists_of_other_folders(tmp_path: Path) -> None:
    forms.write_yolo(tmp_path / "data")
    expected = labels_of(prepare(detect(tmp_path / "data", Options(val=0.34)), tmp_path / "a"))
    yaml = tmp_path / "data" / "data.yaml"
    text = yaml.read_text(encoding="utf-8")
    lines = "".join(f"data/images/{name}.jpg\n" for name in forms.SCENES)  # as CVAT has them
    (tmp_path / "data" / "train.txt").write_text(lines, encoding="utf-8")
    yaml.write_text(text.replace("train: images", "train: train.txt"), encoding="utf-8")
    detected = detect(tmp_path / "data", Options(val=0.34))
    assert not detected.warnings
    for name, label in labels_of(prepare(detected, tmp_path / "b")).items():
        np.testing.assert_array_equal(label, expected[name])
    yaml.unlink()
    (tmp_path / "data" / "train.txt").unlink()
    (tmp_path / "data" / "classes.txt").write_text("\n".join(forms.CLASSES))  # Label Studio's
    detected = detect(tmp_path / "data", Options(val=0.34))
    assert detected.format == "yolo" and detected.classes == ("background", *forms.CLASSES)
    for name, label in labels_of(prepare(detected, tmp_path / "c")).items():
        np.testing.assert_array_equal(label, expected[name])
