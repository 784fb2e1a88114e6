"""Outputs of prediction: thresholds, polygons read back by other libraries, legends."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_segformer.cli import main
from paddleseg_segformer.cli.prediction_files import RESULTS
from paddleseg_segformer.data.labels import LabelSet
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.overlay import color_label, legend, overlay, with_legend
from paddleseg_segformer.predictor import Predictor

CONFIG = """
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 16
  backbone: {type: MixVisionTransformer, embed_dims: [8, 16, 20, 32], depths: [1, 1, 1, 1]}
val_dataset:
  type: Dataset
  num_classes: 3
  classes: [road, sky, big car]
  transforms: [{type: Normalize}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model folder whose classes all occur, and two images."""
    from paddleseg_segformer.config import load_config
    from paddleseg_segformer.config.building import build_model
    from paddleseg_segformer.weights import save_weights

    root = tmp_path_factory.mktemp("model")
    (root / "config.yml").write_text(CONFIG)
    paddle.seed(3)
    model = build_model(load_config(root / "config.yml"))
    rng = np.random.default_rng(1)
    (root / "images").mkdir()
    for index in range(2):
        image = np.kron(rng.integers(0, 256, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{index}.png")
    model.eval()
    logits = model(paddle.to_tensor(image.transpose(2, 0, 1)[None] / 127.5 - 1, "float32"))
    spread = 3 / logits.std(axis=[0, 2, 3])
    middle = logits.mean(axis=[0, 2, 3])
    model.linear_pred.weight.set_value(model.linear_pred.weight * spread.reshape([-1, 1, 1, 1]))
    model.linear_pred.bias.set_value((model.linear_pred.bias - middle) * spread)
    save_weights(model, root / "model.pdparams")
    return root


@pytest.fixture(scope="module")
def predictor(folder) -> Predictor:
    return Predictor.from_pretrained(folder)


def predict(folder: Path, out: Path, *flags: str) -> int:
    command = ["predict", "--model_path", str(folder), "--image_path", str(folder / "images")]
    return main([*command, "--save_dir", str(out), *flags])


def test_without_the_flag_label_maps_are_written(folder, tmp_path):
    assert predict(folder, tmp_path) == 0
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert found == [f"{RESULTS[0]}/{index}.png" for index in (0, 1)]


def test_all_outputs_fit_the_label_map(folder, predictor, tmp_path):
    pytest.importorskip("rasterio")
    coco_api = pytest.importorskip("pycocotools.coco")
    flags = ("--outputs", "label,overlay,confidence,polygons,legend")
    assert predict(folder, tmp_path, *flags, "--min_confidence", "0.6") == 0
    coco = coco_api.COCO(str(tmp_path / "polygons" / "coco.json"))
    assert [item["file_name"] for item in coco.dataset["images"]] == ["0.png", "1.png"]
    for index in (0, 1):
        prediction = predictor(str(folder / "images" / f"{index}.png"))
        label = np.where(prediction.confidence < 0.6, 255, prediction.label)
        assert len(np.unique(label)) == 4
        saved = np.asarray(Image.open(tmp_path / "pseudo_color_prediction" / f"{index}.png"))
        np.testing.assert_array_equal(saved, label)
        levels = np.asarray(Image.open(tmp_path / "confidence" / f"{index}.png"))
        np.testing.assert_allclose(levels / 255, prediction.confidence, atol=0.5 / 255 + 1e-6)
        from_coco = np.full(label.shape, 255)
        for item in coco.loadAnns(coco.getAnnIds(imgIds=[index + 1])):
            mask = coco.annToMask(item) > 0
            assert mask.sum() == item["area"] and (from_coco[mask] == 255).all()
            rows, columns = np.nonzero(mask)
            x, y, width, height = item["bbox"]
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            assert item["score"] == pytest.approx(prediction.confidence[mask].mean(), rel=1e-4)
            from_coco[mask] = item["category_id"] - 1
        np.testing.assert_array_equal(from_coco, label)
        text = (tmp_path / "polygons" / f"{index}.geojson").read_text()
        np.testing.assert_array_equal(filled(json.loads(text), label.shape), label)
        drawn = np.asarray(Image.open(tmp_path / "added_prediction" / f"{index}.png"))
        assert drawn.shape[1] > label.shape[1]  # the legend is beside it
        np.testing.assert_array_equal(drawn[: label.shape[0], : label.shape[1]][label == 255],
                                      prediction.image[label == 255])  # fmt: skip
    assert (tmp_path / "legend.png").is_file()


def filled(collection: dict, shape: tuple[int, int]) -> np.ndarray:
    """Fill polygons by the even-odd rule at the middles of pixels."""
    label = np.full(shape, 255)
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    for feature in collection["features"]:
        inside = np.zeros(shape, bool)
        for ring in feature["geometry"]["coordinates"]:
            for (x0, y0), (_, y1) in zip(ring, ring[1:], strict=False):
                if y0 != y1:  # edges are upright or level
                    inside ^= (y > min(y0, y1)) & (y < max(y0, y1)) & (x < x0)
        assert inside.sum() == feature["properties"]["area_px"]
        label[inside] = feature["properties"]["class_id"]
    return label


def test_image_and_overlay_side_by_side(folder, predictor, tmp_path):
    flags = ["--model_path", folder, "--image_path", folder / "images", "--save_dir", tmp_path]
    assert main(["predict", *map(str, flags), "--outputs", "side_by_side"]) == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["side_by_side"]
    image = np.asarray(Image.open(folder / "images" / "1.png"))
    expected = np.hstack([image, predictor(image).overlay()])
    np.testing.assert_array_equal(Image.open(tmp_path / "side_by_side" / "1.png"), expected)


def test_thresholds_of_single_classes(folder, predictor, tmp_path):
    flags = ("--outputs", "label", "--min_confidence", "0.4")
    assert predict(folder, tmp_path, *flags, "--class_confidence", "big car=0.9", "0=0.7") == 0
    assert not (tmp_path / "added_prediction").exists()
    for index in (0, 1):
        prediction = predictor(str(folder / "images" / f"{index}.png"))
        least = np.array([0.7, 0.4, 0.9])[prediction.label]
        expected = np.where(prediction.confidence < least, 255, prediction.label)
        saved = np.asarray(Image.open(tmp_path / "pseudo_color_prediction" / f"{index}.png"))
        np.testing.assert_array_equal(saved, expected)
        prediction.mark_unknown([0.7, 0.4, 0.9])
        np.testing.assert_array_equal(prediction.label, expected)
        prediction.mark_unknown([0.7, 0.4, 0.9])
        np.testing.assert_array_equal(prediction.label, expected)
    with pytest.raises(UserError, match="found 2 numbers, expected one, or one for each of the 3"):
        prediction.mark_unknown([0.5, 0.5])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--outputs", "label,polygon"), "found 'polygon'. Did you mean 'polygons'?"),
        (("--class_confidence", "car"), "expected CLASS=MIN with MIN from 0 to 1"),
        (("--class_confidence", "sky=2"), "expected CLASS=MIN with MIN from 0 to 1"),
        (("--class_confidence", "skye=0.5"), "no class 'skye'. Did you mean 'sky'?"),
        (("--image_path", "https://x.org/a.jpg"), "URLs are not fetched. Download it"),
    ],
)
def test_wrong_flags_are_one_line(folder, tmp_path, capsys, flags, said):
    try:
        status = predict(folder, tmp_path, *flags)
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status and said in error and "Traceback" not in error


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK", "1"])
def test_pillow_images_are_predicted_as_the_file_would_be(folder, predictor, tmp_path, mode):
    image = Image.open(folder / "images" / "0.png").convert(mode)
    direct = predictor(image)
    (image.convert("RGB") if mode == "CMYK" else image).save(tmp_path / "same.png")
    from_file = predictor(str(tmp_path / "same.png"))
    np.testing.assert_array_equal(direct.image, from_file.image)
    np.testing.assert_array_equal(direct.label, from_file.label)


def test_pillow_images_are_turned_as_their_exif_says(folder, predictor):
    image = Image.open(folder / "images" / "0.png").copy()
    image.getexif()[0x0112] = 6
    expected = np.rot90(np.asarray(image), -1)
    np.testing.assert_array_equal(predictor(image).image, expected)


def test_urls_are_refused_in_python(predictor):
    with pytest.raises(UserError, match="URLs are not fetched"):
        predictor("https://example.org/street.jpg")


def test_prediction_says_what_it_is_and_saves_its_overlay(folder, predictor, tmp_path):
    prediction = predictor(str(folder / "images" / "0.png"))
    assert repr(prediction) == "<Prediction of 64x96 px, 3 classes, computed when asked for>"
    shares = [f"{(prediction.label == index).mean():.1%}" for index in range(3)]
    prediction.mark_unknown(0.5)
    assert "unknown" in repr(prediction) and "sky" in repr(prediction)
    prediction = predictor(str(folder / "images" / "0.png"))
    _ = prediction.label
    assert all(share in repr(prediction) for share in shares)
    prediction.save_overlay(tmp_path / "plain.png", has_legend=False)
    plain = np.asarray(Image.open(tmp_path / "plain.png"))
    np.testing.assert_array_equal(plain, prediction.overlay())
    prediction.save_overlay(tmp_path / "overlay.png")
    whole = np.asarray(Image.open(tmp_path / "overlay.png"))
    np.testing.assert_array_equal(whole[: len(plain), : plain.shape[1]], plain)
    shown = cv2.imdecode(np.frombuffer(prediction._repr_png_(), np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(shown[:, :, ::-1], whole)


def test_overlay_shows_class_0_and_legend_names_what_is_there():
    label_set = LabelSet("two", ("background", "weed"), ((200, 30, 30), (20, 200, 20)))
    image = np.full((8, 10, 3), 100, np.uint8)
    label = np.zeros((8, 10), np.uint8)
    label[:, 5:] = 255
    drawn = overlay(image, label, label_set)
    assert (drawn[:, :5] == np.rint([0.6 * 100 + 0.4 * c for c in (200, 30, 30)])).all()
    assert (drawn[:, 5:] == 100).all()
    side = with_legend(drawn, label, label_set)[:, 10:]
    colors = {tuple(color) for color in side.reshape(-1, 3).tolist()}
    assert (200, 30, 30) in colors and (20, 200, 20) not in colors
    both = legend(label_set)
    assert both.shape[0] == 2 * legend(label_set, [1]).shape[0]
    assert (color_label(np.array([[255]], np.uint8), label_set) == 0).all()
