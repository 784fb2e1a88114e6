"""Effective receptive fields against fields known by hand and finite differences."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest
from paddle import nn
from small_models import small_segformer, spread

from paddleseg_segformer.analysis.receptive_field import MAPS, receptive_fields, side_of
from paddleseg_segformer.cli import main
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models import LinearSegmenter
from paddleseg_segformer.weights import save_weights


class Sums(nn.Layer):
    """Stage i is the sum over 3x3 neighbourhoods, i + 1 times; the head is less than 0."""

    def __init__(self) -> None:
        super().__init__()
        self.feat_channels = (1, 1, 1, 1)
        self.in_channels = 3
        self.kernel = paddle.ones([1, 1, 3, 3])

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        maps = [x.sum(axis=1, keepdim=True)]
        for _ in range(4):
            maps.append(nn.functional.conv2d(maps[-1], self.kernel, padding=1))
        return maps[1:]


class Model(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Sums()
        self.linear_pred = nn.Conv2D(1, 2, 1)

    def decode(self, features: list[paddle.Tensor]) -> paddle.Tensor:
        return self.linear_pred(-features[0])


def test_sums_by_hand() -> None:
    image = np.random.default_rng(0).random((3, 21, 25)).astype(np.float32)
    fields = receptive_fields(Model(), [image, 2 * image], "abs")
    line = np.ones(1)
    for field in fields[:4]:
        line = np.convolve(line, np.ones(3))
        expected = np.zeros((21, 25))
        reach = len(line) // 2
        window = slice(10 - reach, 11 + reach), slice(12 - reach, 13 + reach)
        expected[window] = 3 * np.outer(line, line)  # three colours
        np.testing.assert_allclose(field, expected)
    assert not fields[4].any()  # what a ReLU stops has no field
    # 3x3 ones: a ninth of the mass in 1 px, all in 3 px
    assert side_of(fields[0], (0.1, 0.12, 1)) == [1, 3, 3]
    # ones twice: 3 of 9 columns' weight in the middle: a ninth; 7 of 9 in three: 49 / 81
    assert side_of(fields[1], (0.11, 0.6, 0.61)) == [1, 3, 5]
    assert side_of(fields[4]) == [None] * 4


def test_negative_gradients_count_in_one_of_the_definitions_alone() -> None:
    model = Model()
    model.backbone.kernel[0, 0, 0, 0] = -1.0
    image = np.ones((3, 9, 9), np.float32)
    relu, both = (receptive_fields(model, [image], name)[0] for name in ("relu", "abs"))
    assert (relu.sum(), both.sum()) == (24, 27)


@pytest.mark.parametrize("gradient", ["relu", "abs"])
def test_equals_finite_differences(gradient) -> None:
    paddle.seed(0)
    model = spread(small_segformer(3))
    rng = np.random.default_rng(0)
    image = rng.normal(0, 1, (3, 32, 32)).astype(np.float32)
    fields = receptive_fields(model, [image], gradient)

    seen: list[paddle.Tensor] = []
    model.linear_pred.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def sums(batch: np.ndarray) -> np.ndarray:
        """Return the summed activations at the centres, (N, 5), of images (N, 3, 32, 32)."""
        with paddle.no_grad():
            features = model.backbone(paddle.to_tensor(batch))
            model.decode(features)
        maps = [item.numpy().astype(np.float64) for item in (*features, seen.pop())]
        return np.stack(
            [
                np.maximum(item[:, :, item.shape[2] // 2, item.shape[3] // 2], 0).sum(axis=1)
                for item in maps
            ],
            axis=1,
        )

    step = 1e-2
    places = [(y, x) for y in range(8, 24, 3) for x in range(8, 24, 3)]
    for y, x in places:
        batch = np.repeat(image[None], 6, axis=0)
        for channel in range(3):
            batch[channel, channel, y, x] += step
            batch[channel + 3, channel, y, x] -= step
        values = sums(batch)
        slope = (values[:3] - values[3:]) / (2 * step)  # (colours, maps)
        slope = np.maximum(slope, 0) if gradient == "relu" else abs(slope)
        error = abs(fields[:, y, x] - slope.sum(axis=0)) / fields.max(axis=(1, 2))
        assert error.max() < 0.01


def test_other_models_and_no_images_are_refused() -> None:
    from small_models import small_vit

    image = np.zeros((3, 64, 64), np.float32)
    with pytest.raises(UserError, match="LinearSegmenter: has no four stages"):
        receptive_fields(LinearSegmenter(3, small_vit()), [image])
    with pytest.raises(UserError, match="found no image"):
        receptive_fields(small_segformer(3), [])


CONFIG = """
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 16
  backbone: {type: MixVisionTransformer_B0, embed_dims: [8, 16, 20, 32], depths: [1, 1, 1, 1]}
val_dataset: {type: Dataset, mode: val, num_classes: 3, transforms: [{type: Normalize}]}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder with two images, a config and a model."""
    rng = np.random.default_rng(0)
    for index in range(2):
        image = rng.integers(0, 256, (40, 60, 3)).astype(np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / f"{index}.png"), image)
    (tmp_path / "random.yml").write_text(CONFIG)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.yml").write_text(CONFIG)
    paddle.seed(5)
    save_weights(spread(small_segformer(3)), tmp_path / "model" / "model.pdparams")
    return tmp_path


def test_job(folder, capsys) -> None:
    pytest.importorskip("matplotlib")
    models = [str(folder / "model"), str(folder / "random.yml")]
    flags = ["--image_path", str(folder / "images"), "--size", "64", "--each"]
    assert main(["erf", *models, *flags, "--save_dir", str(folder / "out")]) == 0
    assert "stage 4" in capsys.readouterr().out
    with open(folder / "out" / "erf.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["map"] for row in rows] == [*MAPS, *MAPS]
    content = np.load(folder / "out" / "erf.npz")
    assert content["fields"].shape == (2, 5, 64, 64)
    for row, field in zip(rows, content["fields"].reshape(-1, 64, 64), strict=True):
        side = side_of(field.astype(float), (0.5,))[0]
        assert row["side_50_px"] == ("" if side is None else str(side))
    assert cv2.imread(str(folder / "out" / "erf.png")).shape[1] > 1000
    images = sorted(path.name for path in (folder / "out" / "images").iterdir())
    assert images == ["0.png", "1.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--image_path", "images"], "nowhere: no such model"),
        (["model"], "--image_path is missing"),
        (["model", "--image_path", "images", "--size", "0"], "--size: found 0, expected 1 or more"),
        (["model", "--image_path", "images", "--size", "16"], "MiT needs 29 px or more"),
        (["model", "--image_path", "images", "--save_dir", "random.yml"], "found a file"),
    ],
)
def test_bad_input_is_one_line(folder, arguments, message, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    assert main(["erf", *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
