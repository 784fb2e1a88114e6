from __future__ import annotations

import json
from pathlib import Path

import forms
import numpy as np
import pytest
from PIL import Image
from test_forms import labels_of

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations import Options, Prepared, detect, prepare
from paddleseg_segformer.annotations.writers import write_as

pytest.importorskip("pycocotools")


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Return classes with a background, and pixels that do not count."""
    forms.write_coco(tmp_path / "data")
    (tmp_path / "classes.yml").write_text("tree: ignore\n")
    options = Options(val=0.34, classes=tmp_path / "classes.yml")
    return prepare(detect(tmp_path / "data", options), tmp_path / "out")


@pytest.mark.parametrize("form", ["voc", "coco"])
def test_what_is_written_is_read_back(form: str, prepared: Prepared, tmp_path: Path) -> None:
    write_as(prepared, form, tmp_path / form)
    detected = detect(tmp_path / form)
    assert detected.format == form and not detected.warnings
    back = prepare(detected, tmp_path / "back")
    assert (back.classes, back.num_samples) == (prepared.classes, prepared.num_samples)
    found, expected = labels_of(back), labels_of(prepared)
    assert found.keys() == expected.keys()
    for name, label in expected.items():
        assert 255 in label or name == "first one"
        np.testing.assert_array_equal(found[name], label)


def test_pycocotools_reads_what_is_written(prepared: Prepared, tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    write_as(prepared, "coco", tmp_path / "coco")
    expected = labels_of(prepared)
    for path in (tmp_path / "coco" / "annotations").glob("*.json"):
        coco = COCO(str(path))
        for image in coco.loadImgs(coco.getImgIds()):
            label = np.full((image["height"], image["width"]), 77)
            for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
                pixels = coco.annToMask(annotation).astype(bool)
                assert annotation["area"] == pixels.sum()
                category = annotation["category_id"]
                label[pixels] = 255 if category > len(prepared.classes) else category - 1
            stem = Path(image["file_name"]).stem
            np.testing.assert_array_equal(label, expected[stem])
            assert (path.parents[1] / path.stem.split("_")[1] / image["file_name"]).is_file()
        names = [item["name"] for item in json.loads(path.read_text())["categories"]]
        assert names == [*prepared.classes, "__ignore__"]


def test_voc_files_are_palette_images_with_the_classes_colours(
    prepared: Prepared, tmp_path: Path
) -> None:
    write_as(prepared, "voc", tmp_path / "voc")
    image = Image.open(tmp_path / "voc" / "SegmentationClass" / "third.png")
    assert image.mode == "P"
    palette = np.array(image.getpalette()).reshape(-1, 3)[: len(prepared.classes)]
    np.testing.assert_array_equal(palette, prepared.palette)
    with pytest.raises(UserError, match="is not empty"):
        write_as(prepared, "voc", tmp_path / "voc")
