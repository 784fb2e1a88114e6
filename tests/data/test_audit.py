from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from small_datasets import write_cityscapes, write_image

from paddleseg_segformer.cli import check_dataset, main
from paddleseg_segformer.data.audit import audit, audit_transforms
from paddleseg_segformer.data.datasets import Cityscapes, RawSample
from paddleseg_segformer.data.findings import KINDS, Findings
from paddleseg_segformer.data.io import write_label
from paddleseg_segformer.data.similar import difference_hash, find_similar

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
    assert report.findings.of("label-ignored") == [str(label_path(damaged, 5))]
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
    kinds = "file-empty (1), image-unreadable (1), label-size (1), label-id (1), label-color (1)"
    assert f"error: {kinds}: a run would" in err
    report = json.loads(found.read_text())["train_dataset"]
    assert len(report["bad_files"]) == 5 and len(report["class_weights"]) == 19
    assert report["unlabelled"] == [str(label_path(damaged, 5))]
    assert report["repeated"] == report["turned"] == [] and len(report["empty_classes"]) == 0
    assert main(["check_dataset", "--config", str(config), "--split", "val"]) == 1


def test_job_exits_with_0_for_a_sound_data_set(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "data", ["a/s0"], (8, 10))
    config = tmp_path / "config.yml"
    config.write_text(CONFIG.format(root=root))
    assert main(["check_dataset", "--config", str(config)]) == 0


def test_a_finding_has_a_count_and_three_examples() -> None:
    findings = Findings()
    findings.add("image-grey", *(f"file {index}" for index in range(50)))
    findings.add("image-cut", "x.jpg")
    [first, second] = findings.to_list()
    assert (first["kind"], first["severity"], first["count"]) == ("image-cut", "error", 1)
    assert (second["severity"], second["count"], len(second["examples"])) == ("note", 50, 3)
    text = check_dataset.format_findings([first, second])
    assert "file 2" in text and "file 3" not in text and "... and 47 more" in text
    with pytest.raises(KeyError):
        findings.add("no-kind", "x")


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
    assert "error image-in-two-splits (1)" in printed.out
    assert "error: image-in-two-splits (1): a run would" in printed.err


@pytest.mark.parametrize("val", ["", "{type: Normalize, mean: [0.485], std: [0.229]}"])
def test_normalisations_that_differ_are_named(tmp_path: Path, capsys, val: str) -> None:
    assert main(two_splits(tmp_path, val)) == 1
    stated = "train_dataset has Normalize with mean [0.5] and std [0.5], val"
    assert stated in capsys.readouterr().out


@pytest.mark.parametrize("train", ["dtype", None])
def test_value_ranges_that_differ_are_named(tmp_path: Path, capsys, train: str | None) -> None:
    flags = [*two_splits(tmp_path), "--opts", "val_dataset.value_range=[0, 255]"]
    assert main([*flags, *([f"train_dataset.value_range={train}"] if train else [])]) == 1
    found = "value_range dtype" if train else "no value_range"
    printed = capsys.readouterr()
    assert "error: value-range-differs (1)" in printed.err
    assert f"train_dataset has {found}, val_dataset has value_range [0, 255]" in printed.out
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
    assert "warning image-repeated (1)" in printed and "warning image-turned (2)" in printed


def test_one_kind_of_fault_is_listed_once_with_a_count(tmp_path: Path, capsys) -> None:
    root = write_cityscapes(tmp_path / "data", [f"a/s{index}" for index in range(9)], (8, 10))
    for index in range(8):
        write_label(label_path(root, index), np.full((8, 10), 30 + index, np.uint8))
    (tmp_path / "config.yml").write_text(CONFIG.format(root=root))
    assert main(["check_dataset", "--config", str(tmp_path / "config.yml")]) == 1
    printed = capsys.readouterr().out
    assert printed.count("found the class id") == 3
    assert "error label-id (8)" in printed and "... and 5 more" in printed


RNG = np.random.default_rng(0)
SIZE = (32, 48)


class Folder:
    """A data set in the making: images and labels of 32x48 px, and their lists."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lists: dict[str, list[str]] = {"train": [], "val": []}
        root.mkdir()

    def noise(self, size_hw: tuple[int, int] = SIZE) -> np.ndarray:
        return RNG.integers(0, 256, (*size_hw, 3), np.uint8)

    def ids(self, split: str, size_hw: tuple[int, int] = SIZE) -> np.ndarray:
        """Return classes 0 to 2 for training; 0, 1, 3 and none for validation."""
        ids, shares = {
            "train": ([0, 1, 2], [0.9, 0.02, 0.08]),
            "val": ([0, 1, 3, 255], [0.1, 0.2, 0.1, 0.6]),
        }[split]
        return RNG.choice(np.asarray(ids, np.uint8), size_hw, p=shares)

    def add(
        self,
        name: str,
        image: np.ndarray | bytes | Path | None = None,
        label: np.ndarray | bytes | str | None = None,
        split: str = "train",
        **options: object,
    ) -> None:
        """Write an image and its label, arrays or contents, and list them; no path is written."""
        path = self.root / name
        image = self.noise() if image is None else image
        if isinstance(image, bytes):
            path.write_bytes(image)
        elif path.suffix == ".npy":
            np.save(path, image)
        elif isinstance(image, np.ndarray):
            Image.fromarray(image).save(path, **options)
        mask = label if isinstance(label, str) else f"{split}_{name.replace('.', '_')}_label.png"
        if label is None:
            label = self.ids(split)
        if isinstance(label, np.ndarray):
            Image.fromarray(label).save(self.root / mask)
        elif isinstance(label, bytes):
            (self.root / mask).write_bytes(label)
        self.lists[split].append(f"{name} {mask}")

    def findings(
        self,
        num_classes: int = 5,
        train: str = "{type: RandomPaddingCrop, crop_size: [48, 32]}, {type: Normalize}",
        val: str = "{type: Normalize}",
    ) -> tuple[int, dict[str, dict]]:
        """Return the status of the job and what it found, by kind; each kind once."""
        sections = []
        for split, transforms in (("train", train), ("val", val)):
            if self.lists[split]:
                (self.root / f"{split}.txt").write_text("\n".join(self.lists[split]))
                sections.append(
                    f"{split}_dataset: {{type: Dataset, dataset_root: {self.root}, mode: {split}, "
                    f"num_classes: {num_classes}, {split}_path: {self.root / split}.txt, "
                    f"transforms: [{transforms}]}}"
                )
        model = "model: {type: SegFormer, backbone: {type: MixVisionTransformer_B0}}"
        config, report = self.root / "own.yml", self.root / "report.json"
        config.write_text("\n".join(["batch_size: 2", "iters: 1", *sections, model]))
        status = main(["check_dataset", "--config", str(config), "--json", str(report)])
        found = json.loads(report.read_text())["findings"]
        assert len({item["kind"] for item in found}) == len(found)
        order = [item["severity"] for item in found]
        assert order == sorted(order, key=["error", "warning", "note"].index)
        return status, {item["kind"]: item for item in found}


def encoded(image: np.ndarray, suffix: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, suffix, **options)
    return buffer.getvalue()


def folder_of_one_of_each(root: Path) -> Folder:
    """Return a folder with all faults that one data set can have at once."""
    folder = Folder(root)
    for index in range(3):
        folder.add(f"good{index}.png")
    smooth = cv2.resize(folder.noise((4, 6)), SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    folder.add("smooth.png", smooth)
    folder.lists["train"].append(folder.lists["train"][0])
    folder.add("nowhere.png", Path("not written"))
    folder.add("empty.png", b"")
    folder.add("text.png", b"no image")
    folder.add("cut.jpg", encoded(folder.noise(), "JPEG")[:-300])
    folder.add("bands.npy", np.zeros((*SIZE, 4), np.float32))
    folder.add("nan.npy", np.full((*SIZE, 3), np.nan, np.float32))
    folder.add("unit.npy", (folder.noise() / 255).astype(np.float32))
    folder.add("bits.png", cv2.imencode(".png", folder.noise().astype(np.uint16) * 8)[1].tobytes())
    folder.add("label_text.png", label=b"no image")
    folder.add("label_size.png", label=np.zeros((9, 9), np.uint8))
    folder.add("label_id.png", label=np.full(SIZE, 9, np.uint8))
    colors = np.asarray([[128, 0, 0], [0, 128, 0]], np.uint8)
    folder.add("label_color.png", label=colors[np.arange(48) // 36][None].repeat(32, axis=0))
    blocks = np.repeat(np.asarray([0, 0, 2], np.uint8), 16)[None].repeat(32, axis=0)
    folder.add("lossy.png", label=encoded(blocks, "JPEG", quality=100))
    folder.add("ignored.png", label=np.full(SIZE, 255, np.uint8))
    folder.add("constant_label.png", label=np.zeros(SIZE, np.uint8))
    folder.add("other.png", label="train_good1_png_label.png")
    folder.add("copy.png", (root / "good0.png").read_bytes())
    folder.add("good2.bmp")
    exif = Image.Exif()
    exif[0x0112] = 3
    folder.add("turned.png", exif=exif)
    folder.add("small.png", folder.noise((16, 24)), folder.ids("train", (16, 24)))
    folder.add("flat.png", np.full((*SIZE, 3), (9, 120, 33), np.uint8))
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[0, 0] = 0
    folder.add("alpha.png", np.dstack([folder.noise(), alpha]))
    folder.add("grey.png", folder.noise()[:, :, :1].repeat(3, axis=2))
    for name in ("clip_001.png", "clip_003.png"):
        folder.add(name)
    frame = folder.noise()
    for index in range(3):
        frame = frame.copy()
        frame[index] = 255
        folder.add(f"clip_10{index}.png", frame, split="val")
    folder.add("again.png", (root / "good1.png").read_bytes(), split="val")
    folder.add("nearly.png", np.maximum(smooth, 3) - 3, split="val")
    return folder


def test_one_of_each_kind_is_found_once(tmp_path: Path, capsys) -> None:
    found: dict[str, dict] = {}

    def check(folder: Folder, expected_status: int, *kinds: str, **options: object) -> None:
        status, own = folder.findings(**options)
        assert status == expected_status, own
        assert set(kinds) <= own.keys()
        found.update(own)

    main_folder = folder_of_one_of_each(tmp_path / "main")
    val = "{type: Normalize, mean: [0.5], std: [0.05]}"
    status, found = main_folder.findings(val=val)
    assert status == 1
    assert {kind: item["count"] for kind, item in found.items()} == dict.fromkeys(found, 1)
    printed = capsys.readouterr()
    for kind, item in found.items():
        assert printed.out.count(f"{item['severity']} {kind} (1): ") == 1
        assert (f"{kind} (1)" in printed.err) == (item["severity"] == "error")
    assert "label_colors: [[128, 0, 0], [0, 128, 0]]" in printed.out

    twins = Folder(tmp_path / "twins")
    twins.add("a.png", label=np.zeros(SIZE, np.uint8))
    twins.lists["val"] = twins.lists["train"]
    kinds = ("lists-equal", "list-short", "normalize-missing", "train-one-class", "label-constant")
    check(twins, 1, *kinds, train="", val="")

    ignored = Folder(tmp_path / "ignored")
    for name in ("a.png", "b.png"):
        ignored.add(name, label=np.full(SIZE, 255, np.uint8))
    check(ignored, 1, "train-unlabelled")

    binary = Folder(tmp_path / "binary")
    for name in ("a.png", "b.png"):
        binary.add(name, label=RNG.choice(np.asarray([0, 255], np.uint8), SIZE))
    check(binary, 1, "label-binary", num_classes=2)

    sizes = Folder(tmp_path / "sizes")
    sizes.add("a.png")
    sizes.add("b.png", sizes.noise((24, 24)), sizes.ids("train", (24, 24)))
    check(sizes, 1, "sizes-mixed", train="{type: Normalize}", num_classes=3)
    wrong = "{type: Normalize, mean: [0.5, 0.5], std: [1.0]}, {type: RandomHorizontalFlip}"
    check(sizes, 1, "transform-fails", train=wrong, num_classes=3)
    check(main_folder, 1, "value-range-differs", val="{type: Normalize}], value_range: [0, 1")
    sizes.lists["train"].pop()
    check(sizes, 0, "list-short", train="{type: Normalize}", num_classes=3)
    assert found.keys() == KINDS.keys() and len(KINDS) >= 25


def test_lossy_labels_are_named_as_such_whatever_ids_they_hold(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "lossy")
    for index in range(2):
        folder.add(f"{index}.png", label=encoded(folder.noise(), "JPEG"))
    folder.add("2.png", label=encoded(folder.ids("train") * np.uint8(100), "JPEG"))
    folder.add("3.png", label=encoded(folder.noise(), "WEBP"))
    status, found = folder.findings()
    assert (status, found["label-lossy"]["count"]) == (1, 4)
    assert not {"label-id", "label-color"} & found.keys()


def test_one_image_with_two_labels_is_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "twice")
    folder.add("a.png")
    folder.add("b.png")
    folder.lists["train"].append("a.png train_b_png_label.png")
    found = folder.findings(num_classes=3)[1]
    assert found["image-repeated"]["count"] == found["label-repeated"]["count"] == 1


def test_statistics_are_those_of_all_pixels(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "dark")
    images = [RNG.integers(0, 9, (32, 48, 3), np.uint8), RNG.integers(0, 30, (16, 24, 3), np.uint8)]
    for name, image in zip(("a.png", "b.png"), images, strict=True):
        folder.add(name, image, folder.ids("train", image.shape[:2]))
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    train = "{type: RandomPaddingCrop, crop_size: [48, 32]}, {type: Normalize}"
    [item] = folder.findings(num_classes=3, train=train)[1]["normalize-far"]["examples"]
    means, stds = (np.round(values, 3).tolist() for values in (pixels.mean(0), pixels.std(0)))
    assert item == f"train_dataset: the images have mean {means} and std {stds}"


def test_each_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_cityscapes(tmp_path, ["a/s0", "a/s1", "a/s2"], (8, 10))
    dataset, read = Cityscapes([], str(root)), Counter()
    original = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        read[path.name] += 1
        return original(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr("builtins.open", None)  # nothing else opens files
    audit(dataset)
    assert len(read) == 6 and set(read.values()) == {1}


def test_data_sets_that_read_their_own_files_are_audited(tmp_path: Path) -> None:
    class Own(Cityscapes):
        def read_files(self, image_path: str, label_path: str | None) -> RawSample:
            label = np.zeros((8, 10), np.uint8)
            return RawSample(np.full((8, 10, 3), 7, np.uint8), label, image_path, label_path)

    report = audit(Own([], str(write_cityscapes(tmp_path, ["a/s0", "a/s1"], (8, 10)))))
    assert report.num_pixels[0] == 160 and not report.digests
    assert len(report.findings.of("image-constant")) == 2


def test_data_sets_of_the_contract_alone_are_audited(tmp_path: Path) -> None:
    class Data(SimpleNamespace):
        def __len__(self) -> int:
            return 2

    own = Cityscapes([], str(write_cityscapes(tmp_path, ["a/s0", "a/s1"], (8, 10))))
    names = ("samples", "transforms", "normalize", "label_set", "num_classes", "ignore_index")
    names += ("read", "img_channels")
    dataset = Data(**{name: getattr(own, name) for name in names})
    report = audit(dataset)
    audit_transforms(dataset, report, 2, "train_dataset")
    assert report.sizes_hw == {"8x10": 2} and not report.bad_files


def test_similar_images_are_found_as_by_comparing_all_pairs() -> None:
    train = {f"a{index}": int(value) for index, value in enumerate(random_hashes(400))}
    val = {}
    for index, value in enumerate([*random_hashes(200), *list(train.values())[:100]]):
        flips = RNG.choice(64, index % 6, replace=False)
        val[f"b{index}"] = value ^ sum(1 << int(bit) for bit in flips)
    expected = {
        path
        for path, value in val.items()
        if min(bin(value ^ other).count("1") for other in train.values()) <= 3
    }
    assert set(find_similar(train, val)) == expected and len(expected) > 50


def random_hashes(count: int) -> list[int]:
    return [int.from_bytes(RNG.bytes(8), "big") for _ in range(count)]


def test_hash_is_of_steps_in_brightness_from_left_to_right() -> None:
    ramp = np.linspace(0, 255, 90).astype(np.uint8)[None, :, None].repeat(80, axis=0)
    assert difference_hash(ramp.repeat(3, axis=2)) == 2**64 - 1
    assert difference_hash(ramp[:, ::-1].repeat(3, axis=2)) == 0
    assert difference_hash(ramp.repeat(7, axis=2).astype(np.float32)) == 2**64 - 1
    assert difference_hash(np.full((80, 90, 3), 7, np.uint8)) is None
