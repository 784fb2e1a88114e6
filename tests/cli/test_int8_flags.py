"""Flags of INT8: which images it is calibrated on and compared on."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddleseg_segformer.cli.int8_flags import add_int8_arguments, quantization_of
from paddleseg_segformer.config import Config, load_config
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.street_scenes.dataset import render_scene

CONFIG = """
train_dataset: {{type: Cityscapes, dataset_root: none}}
val_dataset: {val}
model:
  type: SegFormer
  num_classes: 19
  backbone: {{type: MixVisionTransformer_B0}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "c.yml"
    path.write_text(CONFIG.format(val="{type: Cityscapes, dataset_root: none}"))
    return load_config(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index in range(5):
        write_image(tmp_path / "images" / f"{index}.png", render_scene(index, (64, 64))[0])
    return tmp_path / "images"


def parse(*flags: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_int8_arguments(parser)
    return parser.parse_args([str(flag) for flag in flags])


def test_images_of_a_folder_are_split_between_calibration_and_gate(config, images, caplog) -> None:
    flags = ("--calibration_images", images, "--calibration_size", 3, "--max_miou_drop", 1)
    made = quantization_of(parse(*flags), config, ["int8"])
    calibration, gate = list(made.calibration), list(made.gate.samples)
    assert (len(calibration), len(gate)) == (3, 2)
    assert len({sample.image_path for sample in (*calibration, *gate)}) == 5
    assert all(sample.label is None for sample in gate)
    assert made.gate.max_miou_drop == 1
    assert "compared with float32 by label agreement alone" in caplog.text
    other = quantization_of(parse(*flags, "--int8_seed", 1), config, ["int8"])
    assert other.calibration.indices != made.calibration.indices


def test_images_of_a_folder_are_read_with_the_value_range(config, tmp_path) -> None:
    stored = np.random.default_rng(0).integers(0, 4096, (8, 9, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "x.png"), stored[:, :, ::-1])
    ranged = dataclasses.replace(config, val_dataset={"type": "ADE20K", "value_range": [0, 4095]})
    made = quantization_of(parse("--calibration_images", tmp_path / "x.png"), ranged, ["int8"])
    [sample] = made.calibration
    np.testing.assert_allclose(sample.image, stored / 4095 * 255, atol=1e-4)


def test_few_images_serve_both(config, images) -> None:
    made = quantization_of(parse("--calibration_images", images), config, ["int8"])
    assert len(made.calibration) == len(made.gate.samples) == 5


def test_labelled_images_come_from_the_configs_val_dataset(tmp_path, images) -> None:
    from PIL import Image

    root = tmp_path / "data"
    root.mkdir()
    lines = []
    for index in range(4):
        image, label = render_scene(index, (64, 64))
        write_image(root / f"{index}.png", image)
        Image.fromarray(label).save(root / f"{index}_label.png")
        lines.append(f"{index}.png {index}_label.png")
    (root / "val.txt").write_text("\n".join(lines))
    section = (
        f"{{type: Dataset, dataset_root: {root}, val_path: {root / 'val.txt'}, num_classes: 19, "
        "mode: val}"
    )
    (tmp_path / "c.yml").write_text(CONFIG.format(val=section))
    config = load_config(tmp_path / "c.yml")
    flags = ("--calibration_images", images, "--gate_images", 3)
    gate = quantization_of(parse(*flags), config, ["int8"]).gate
    assert len(list(gate.samples)) == 3
    assert all(sample.label is not None for sample in gate.samples)


@pytest.mark.parametrize(
    ("flags", "formats", "message"),
    [
        (("--gate_images", 3), ["onnx"], "--gate_images has no effect without --format int8"),
        (("--allow_int8_loss",), ["onnx"], "--allow_int8_loss has no effect"),
        (("--calibration_size", 0), ["int8"], "expected 1 or more"),
        (("--max_miou_drop", -1), ["int8"], "found -1, expected 0 or more points"),
        ((), ["int8"], "Or name images with --calibration_images"),
        (
            ("--calibration_images", "nowhere"),
            ["int8"],
            r"nowhere: no such file or folder \(--calibration_images\)",
        ),
    ],
)
def test_wrong_flags_are_one_line(config, flags, formats, message) -> None:
    with pytest.raises(UserError, match=message) as error:
        quantization_of(parse(*flags), config, formats)
    assert "\n" not in str(error.value)


def test_other_formats_need_nothing(config) -> None:
    assert quantization_of(parse(), config, ["onnx", "openvino"]) is None
