from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_datasets import write_cityscapes, write_image

from paddleseg_segformer.cli import check_dataset, main
from paddleseg_segformer.data.audit import AuditReport, audit
from paddleseg_segformer.data.datasets import Cityscapes
from paddleseg_segformer.data.io import write_label

CONFIG = """
batch_size: 1
iters: 1
train_dataset: {{type: Cityscapes, dataset_root: {root}, mode: train, transforms: []}}
model:
  type: SegFormer
  num_classes: 19
  backbone: {{type: MixVisionTransformer_B0}}
"""


def label_path(root: Path, index: int) -> Path:
    return root / f"gtFine/train/a/s{index}_gtFine_labelTrainIds.png"


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Return a data set of eight samples, five of them bad in five ways and one unlabelled."""
    root = write_cityscapes(tmp_path / "data", [f"a/s{index}" for index in range(8)], (8, 10))
    Image.fromarray(np.full((8, 10, 3), (9, 0, 0), np.uint8)).save(label_path(root, 0))
    write_label(label_path(root, 1), np.full((8, 10), 40, np.uint8))
    write_label(label_path(root, 2), np.zeros((4, 5), np.uint8))
    image = root / "leftImg8bit/train/a/s3_leftImg8bit.png"
    image.write_bytes(image.read_bytes()[:60])
    label_path(root, 4).write_bytes(b"")
    write_label(label_path(root, 5), np.full((8, 10), 255, np.uint8))
    return root


def test_each_bad_file_is_named_with_its_fault(damaged: Path) -> None:
    report = audit(Cityscapes([], str(damaged)), num_threads=2)
    faults = ["colour image", "class id 40", "the label is 4x5", "cannot be decoded", "empty"]
    assert report.num_samples == 8 and len(report.bad_files) == 5
    for index, (message, fault) in enumerate(zip(report.bad_files, faults, strict=True)):
        assert f"s{index}_" in message and fault in message
    assert report.unlabelled == [str(label_path(damaged, 5))]
    assert report.sizes_hw == {"8x10": 3}


def test_counts_and_weights_equal_the_definition(tmp_path: Path) -> None:
    labels = [np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)]
    labels[0][0], labels[0][1] = 3, 255
    labels[1][:2] = 7
    for index, label in enumerate(labels):
        write_image(
            tmp_path / f"leftImg8bit/train/a/s{index}_leftImg8bit.png",
            np.zeros((4, 4, 3), np.uint8),
        )
        write_label(label_path(tmp_path, index), label)
    report = audit(Cityscapes([], str(tmp_path)))
    assert (report.num_pixels[0], report.num_pixels[3], report.num_pixels[7]) == (16, 4, 8)
    assert (report.num_images[0], report.num_images[3], report.num_images[7]) == (2, 1, 1)
    assert report.num_ignored_pixels == 4 and len(report.empty_classes) == 16
    frequencies = {0: 16 / 28, 3: 4 / 12, 7: 8 / 16}
    weights = report.class_weights()
    for index, frequency in frequencies.items():
        assert weights[index] == pytest.approx(0.5 / frequency)
    assert weights[1] == 1.0


def test_job_exits_with_1_and_writes_json(
    damaged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(CONFIG.format(root=damaged))
    found = tmp_path / "report.json"
    assert main(["check_dataset", "--config", str(config), "--json", str(found)]) == 1
    out, err = capsys.readouterr()
    assert "train_dataset: 8 samples" in out and "s2_gtFine_labelTrainIds.png: the label" in out
    assert "median frequency balancing" in out
    assert "error: 5 samples cannot be used" in err
    report = json.loads(found.read_text())["train_dataset"]
    assert len(report["bad_files"]) == 5 and len(report["class_weights"]) == 19
    assert main(["check_dataset", "--config", str(config), "--split", "val"]) == 1


def test_job_exits_with_0_for_a_sound_data_set(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "data", ["a/s0"], (8, 10))
    config = tmp_path / "config.yml"
    config.write_text(CONFIG.format(root=root))
    assert main(["check_dataset", "--config", str(config)]) == 0


def test_long_lists_are_shortened() -> None:
    report = AuditReport(["a"], unlabelled=[f"file {index}" for index in range(50)])
    report.num_pixels, report.num_images, report.num_pixels_where_present = [0], [0], [0]
    text = check_dataset.format_report("train_dataset", report)
    assert "file 19" in text and "file 20" not in text and "and 30 more" in text


def test_every_flag_has_help() -> None:
    parser = argparse.ArgumentParser()
    check_dataset.add_arguments(parser)
    assert all(action.help for action in parser._actions)


TWO = CONFIG.replace("transforms: []", "transforms: [{{type: Normalize}}]") + (
    "val_dataset: {{type: Cityscapes, dataset_root: {root}, mode: val, transforms: [{val}]}}\n"
)


def two_splits(tmp_path: Path, val: str = "{type: Normalize, mean: [0.5, 0.5, 0.5]}") -> list[str]:
    """Return the flags of an audit of two data sets whose images differ."""
    for split, seed in (("train", 0), ("val", 9)):
        root = write_cityscapes(tmp_path / "data", ["a/s0", "a/s1"], (8, 10), split)
        for index in range(2):
            pixels = np.random.default_rng(seed + index).integers(0, 255, (8, 10, 3), np.uint8)
            write_image(root / f"leftImg8bit/{split}/a/s{index}_leftImg8bit.png", pixels)
    (tmp_path / "two.yml").write_text(TWO.format(root=root, val=val))
    return ["check_dataset", "--config", str(tmp_path / "two.yml")]


def test_image_in_both_data_sets_is_named(tmp_path: Path, capsys) -> None:
    flags = two_splits(tmp_path)
    assert main(flags) == 0
    images = tmp_path / "data" / "leftImg8bit"
    content = (images / "train/a/s1_leftImg8bit.png").read_bytes()
    (images / "val/a/s0_leftImg8bit.png").write_bytes(content)
    assert main(flags) == 1
    printed = capsys.readouterr()
    assert "images of val_dataset that are in train_dataset: 1" in printed.out
    assert "1 images are in both data sets" in printed.err


@pytest.mark.parametrize("val", ["", "{type: Normalize, mean: [0.485], std: [0.229]}"])
def test_normalisations_that_differ_are_named(tmp_path: Path, capsys, val: str) -> None:
    assert main(two_splits(tmp_path, val)) == 1
    assert (
        "train_dataset has Normalize with mean [0.5] and std [0.5], val" in capsys.readouterr().err
    )


@pytest.mark.parametrize("train", ["dtype", None])
def test_value_ranges_that_differ_are_named(tmp_path: Path, capsys, train: str | None) -> None:
    flags = [*two_splits(tmp_path), "--opts", "val_dataset.value_range=[0, 255]"]
    assert main([*flags, *([f"train_dataset.value_range={train}"] if train else [])]) == 1
    found = "value_range dtype" if train else "no value_range"
    assert (
        f"error: train_dataset has {found}, val_dataset value_range [0, 255]: make them equal."
        in capsys.readouterr().err
    )
    assert main([*flags, "train_dataset.value_range=[0, 255]"]) == 0


def test_values_are_judged_after_the_mapping(tmp_path: Path, capsys) -> None:
    root = write_cityscapes(tmp_path / "data", ["a/s0"], (8, 10))
    image = np.random.default_rng(0).integers(0, 4096, (8, 10, 3)).astype(np.uint16)
    write_image(root / "leftImg8bit/train/a/s0_leftImg8bit.png", image)
    (tmp_path / "config.yml").write_text(CONFIG.format(root=root))
    flags = ["check_dataset", "--config", str(tmp_path / "config.yml")]
    assert main(flags) == 1
    assert "such as value_range: [0, 4095] for 12 bits" in capsys.readouterr().out
    assert main([*flags, "--opts", "train_dataset.value_range=[0, 4095]"]) == 0


def test_repeated_and_turned_images_are_listed(tmp_path: Path, capsys) -> None:
    flags = two_splits(tmp_path)
    images = tmp_path / "data" / "leftImg8bit" / "train" / "a"
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(images / "s0_leftImg8bit.png").save(images / "s0_leftImg8bit.png", exif=exif)
    (images / "s1_leftImg8bit.png").write_bytes((images / "s0_leftImg8bit.png").read_bytes())
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "images that an earlier sample has: 1" in printed
    assert "images turned by their EXIF, beside labels that are not: 2" in printed


def test_one_kind_of_fault_is_listed_once_with_a_count(tmp_path: Path, capsys) -> None:
    root = write_cityscapes(tmp_path / "data", [f"a/s{index}" for index in range(9)], (8, 10))
    for index in range(8):
        write_label(label_path(root, index), np.full((8, 10), 30 + index, np.uint8))
    (tmp_path / "config.yml").write_text(CONFIG.format(root=root))
    assert main(["check_dataset", "--config", str(tmp_path / "config.yml")]) == 1
    printed = capsys.readouterr().out
    assert printed.count("found the class id") == 3
    assert "samples that cannot be used: 8" in printed and "(and 5 more of this kind)" in printed
