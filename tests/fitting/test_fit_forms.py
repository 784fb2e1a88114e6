"""`fit` on every form of annotations, and on images of other bands and bits."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from own_data import write_data
from PIL import Image

import paddleseg_segformer
from paddleseg_segformer import Predictor

pytest.importorskip("matplotlib")
pytest.importorskip("pycocotools")
from tests.annotations import forms

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", forms.WRITERS)
def test_every_form_is_planned_for(form, model, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    forms.WRITERS[form](root)
    report = paddleseg_segformer.fit(root, model=model, iters=2, val=0.34, dry_run=True)
    assert any(line.startswith("annotations are") for line in report.conclusions)
    assert "\ntrain_dataset:" in report.config_yaml and "\nval_dataset:" in report.config_yaml


def write_tiff(folder, bands, high):
    """Turn the images of `write_data` into TIFF of `bands` with values of 0..`high`, uint16."""
    data = write_data(folder)
    for path in (data / "images").iterdir():
        grey = np.asarray(Image.open(path)).astype(np.float64)
        scaled = np.rint(grey / 255 * high).astype(np.uint16)
        stack = np.concatenate([scaled] * 2, axis=2)[..., :bands]
        tifffile.imwrite(
            path.with_suffix(".tif"), stack, photometric="minisblack", planarconfig="contig"
        )
        path.unlink()
    return data


@pytest.mark.parametrize(("bands", "high"), [(5, 10_000), (3, 4095)])
def test_bands_and_bits_go_from_the_files_to_the_export(bands, high, model, tmp_path):
    data = write_tiff(tmp_path / "data", bands, high)
    report = paddleseg_segformer.fit(
        data, model=model, iters=3, out=tmp_path / "out", export=["paddle"]
    )
    text = "\n".join(report.conclusions)
    assert f"{bands} bands of uint16" in text and "value_range" in report.config_yaml
    image = sorted((data / "images").iterdir())[0]
    exported = Predictor.from_export(report.export, backend="paddle")(image).label
    np.testing.assert_array_equal(exported, report.predictor()(image).label)


def test_masks_of_0_and_255_become_two_classes(model, tmp_path):
    data = write_data(tmp_path / "data", num_classes=2)
    for path in (data / "labels").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    report = paddleseg_segformer.fit(
        data, model=model, iters=2, out=tmp_path / "out", export=["paddle"]
    )
    assert report.metrics.confusion.shape == (2, 2)
    assert report.metrics.confusion.sum() == report.metrics.num_images * 64 * 80
