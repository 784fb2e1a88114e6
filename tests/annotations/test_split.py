from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import forms
import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations import Options, Prepared, detect, prepare


def scene(seed: int, noise: float = 0) -> np.ndarray:
    """Return an image (32, 48, 3) of blocks; those of one seed are alike, but for noise."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (8, 9, 3)).repeat(4, 0).repeat(6, 1)[:, :48].astype(float)
    return np.clip(image + noise * np.random.default_rng().normal(size=image.shape), 0, 255)


def write(root: Path, images: dict[str, int], classes: dict[str, int] | None = None) -> Path:
    """Write images by name and seed, and labels of one class each."""
    for number, (name, seed) in enumerate(images.items()):
        for folder in ("images", "labels"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(seed, 3).astype(np.uint8)).save(root / "images" / f"{name}.png")
        label = np.zeros((32, 48), np.uint8)
        label[8:16] = 1 if classes is None else classes.get(name, 1)
        label[0, number % 48] = 1
        forms.png(label, root / "labels" / f"{name}.png")
    return root


def table(prepared: Prepared) -> dict[str, dict[str, str]]:
    """Return the lines of `split.csv` by the images' names."""
    with (prepared.root / "split.csv").open(encoding="utf-8") as file:
        return {Path(line["image"]).stem: line for line in csv.DictReader(file)}


def sets(root: Path, out: str = "out", **options: object) -> dict[str, str]:
    prepared = prepare(detect(root, Options(**options)), root.parent / out)
    found = {name: line["set"] for name, line in table(prepared).items()}
    for mode in ("train", "val"):
        lines = (prepared.root / f"{mode}.txt").read_text().splitlines()
        assert len(lines) == sum(value == mode for value in found.values())
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_frames_tiles_and_near_duplicates_are_kept_together(root: Path) -> None:
    images = {f"city_{seed}_{frame:04d}": seed for seed in range(4) for frame in range(5)}
    images |= {f"farm_{x}_{y}": 100 + 3 * x + y for x in range(3) for y in range(3)}
    images |= {
        "one": 200,
        "copy of one": 200,
        **{f"alone {chr(97 + i)}": 300 + i for i in range(9)},
    }
    found = sets(write(root, images), val=0.25)
    groups = defaultdict(set)
    for name, value in found.items():
        groups[name[:6] if name.startswith("city") else name[:4]].add(value)
    for name in ("city_0", "city_1", "city_2", "city_3", "farm"):
        assert len(groups[name]) == 1, name
    assert found["one"] == found["copy of one"]
    assert 0.15 < sum(value == "val" for value in found.values()) / len(found) < 0.35
    rows = table(Prepared.read(root.parent / "out"))
    assert "4 others (frames of one video" in rows["city_0_0000"]["reason"]
    assert "8 others (tiles of one scene)" in rows["farm_0_0"]["reason"]
    assert rows["one"]["group"] == rows["copy of one"]["group"]
    assert rows["alone a"]["reason"] == "drawn, seed 0"


def test_rare_classes_are_in_both_sets_and_shares_are_kept(root: Path) -> None:
    images = {f"img {chr(97 + i // 26)}{chr(97 + i % 26)}": i for i in range(40)}
    names = list(images)
    classes = {names[3]: 2, names[17]: 2, **dict.fromkeys(names[20:30], 3)}
    for seed in range(3):
        found = sets(write(root, images, classes), f"out{seed}", val=0.2, seed=seed)
        assert {found[names[3]], found[names[17]]} == {"train", "val"}
        assert sum(found[name] == "val" for name in names[20:30]) == 2
        assert sum(value == "val" for value in found.values()) == 8


def test_the_split_is_a_function_of_the_seed_and_the_names(root: Path) -> None:
    images = {f"img {chr(97 + i)}": i for i in range(20)}
    first = sets(write(root, images), "a")
    assert sets(root, "b") == first
    assert sets(root, "c", seed=1) != first


def test_one_video_is_cut_into_pieces_with_a_warning(root: Path) -> None:
    images = {f"frame_{number:04d}": 0 for number in range(20)}
    prepared = prepare(detect(write(root, images)), root.parent / "out")
    assert "20 of 20 images belong together" in prepared.warnings[0]
    assert "--val_dir or --val_by" in prepared.warnings[0]
    values = [line["set"] for _, line in sorted(table(prepared).items())]
    assert values.count("val") == 4
    assert sum(a != b for a, b in zip(values, values[1:], strict=False)) <= 2  # one piece


def test_a_table_that_a_person_edited_is_read_back_and_another_one_is_refused(root: Path) -> None:
    images = {f"img {chr(97 + i)}": i for i in range(6)}
    before = sets(write(root, images), val=0.34)
    path = root.parent / "out" / "split.csv"
    line = next(x for x in path.read_text().splitlines() if "img a" in x)
    other = "val" if before["img a"] == "train" else "train"
    path.write_text(
        path.read_text().replace(line, line.replace(f",{before['img a']},", f",{other},"))
    )
    assert sets(root) == before | {"img a": other}
    path.write_text(path.read_text().replace(f",{other},", ",valid,", 1))
    with pytest.raises(UserError, match="found the set 'valid', expected one of train, val, test"):
        sets(root)
    path.write_text("".join(path.read_text().splitlines(True)[:4]).replace(",valid,", ",val,"))
    with pytest.raises(UserError, match="lists 3 images, the data has 6, or others"):
        sets(root)
    assert path.is_file()


def test_validation_images_are_named_by_beginning_folder_or_column(root: Path) -> None:
    images = {
        f"{town}/{town}_{chr(97 + i)}": 10 * j + i for j, town in enumerate("xyz") for i in range(3)
    }
    write(root, images)
    expected = {Path(name).stem: "val" if name.startswith("y") else "train" for name in images}
    assert sets(root, "a", val_by="y_") == expected
    assert sets(root, "b", val_by="images/y/") == expected
    assert sets(root, "c", val_dir=root / "images" / "y") == expected
    lines = [f"{Path(name).name},{'north' if 'y' in name else 'south'}" for name in images]
    (root / "metadata.csv").write_text("image,region\n" + "\n".join(lines))
    assert sets(root, "d", val_by="region=north") == expected
    for options, message in (
        ({"val_by": "w"}, "--val_by w: fits none of 9 images"),
        ({"val_by": "area=north"}, "has no column 'area', it has image, region"),
        ({"val_dir": root / "labels"}, "fits none of 9 images"),
        ({"val": 1.0}, "found 1, expected a share between 0 and 1"),
        ({"val_by": ""} | {"test": 0.9}, "--test: found 0.9, expected a share from 0 to below 0.8"),
        ({"val_by": "y_", "test": 0.1}, "validation images are named already"),
        ({"val_by": "images"}, "9 images, none of them in the train set"),
    ):
        with pytest.raises(UserError, match=message):
            sets(root, "e", **options)


def test_sets_of_folders_and_lists_are_kept_and_a_test_set_is_no_training_data(root: Path) -> None:
    images = {
        f"{part}/{chr(97 + i)}{j}": 10 * j + i
        for j, part in enumerate(("train", "valid", "test"))
        for i in range(3)
    }
    found = sets(write(root, images), "a")
    assert found == {Path(n).stem: {"valid": "val"}.get(n[:5], n.split("/")[0]) for n in images}
    flat = write(root.parent / "flat", {f"img {chr(97 + i)}": i for i in range(6)})
    for name, stems in (("train", "abc"), ("val", "def")):
        lines = [f'"images/img {s}.png" "labels/img {s}.png"' for s in stems]
        (flat / f"{name}.txt").write_text("\n".join(lines))
    assert sets(flat, "b") == {f"img {s}": "train" if s in "abc" else "val" for s in "abcdef"}
    (flat / "val.txt").write_text((flat / "train.txt").read_text())
    with pytest.raises(UserError, match="is in train.txt too|may be the label|have the same"):
        sets(flat, "c")


def test_a_test_set_is_drawn_beside_the_others(root: Path) -> None:
    images = {f"img {chr(97 + i)}": i for i in range(20)}
    found = sets(write(root, images), val=0.2, test=0.1)
    counts = [list(found.values()).count(name) for name in ("train", "val", "test")]
    assert counts == [14, 4, 2]
    lines = (root.parent / "out" / "test.txt").read_text().splitlines()
    assert len(lines) == 2 and all(line.startswith('"') for line in lines)


def test_one_image_cannot_be_split(root: Path) -> None:
    with pytest.raises(UserError, match="1 images, expected two or more to split"):
        sets(write(root, {"a": 0}))


def test_a_column_says_what_stays_together_or_the_sets(root: Path) -> None:
    names = [f"x{letter}" for letter in "abcdefghij"]
    write(root, {name: 10 * index for index, name in enumerate(names)})
    lines = [
        f"{name}.png,p{index % 5},{'test' if index == 9 else 'val' if index > 6 else 'train'},one"
        for index, name in enumerate(names)
    ]
    (root / "metadata.csv").write_text("\n".join(["image,patient,set,same", *lines]))
    found = sets(root, val_by="patient", val=0.4)
    by_patient = [{found[name] for name in names[start::5]} for start in range(5)]
    assert all(len(values) == 1 for values in by_patient)
    assert sorted(found.values()) == ["train"] * 6 + ["val"] * 4
    found = sets(root, "sets", val_by="set")
    assert [found[name] for name in names] == ["train"] * 7 + ["val"] * 2 + ["test"]
    assert list(sets(root, "value", val_by="patient=p3").values()).count("val") == 2
    for column, message in (
        ("same", "--val_by same: is 'one' in all of .*metadata.csv, expected two values"),
        ("city", "--val_by city: fits none of 10 images"),
        ("image=x", "--val_by image=x: fits none of 10 images"),
    ):
        with pytest.raises(UserError, match=message):
            sets(root, "none", val_by=column)
    (root / "metadata.csv").write_text("\n".join(["image,patient", *lines[1:]]))
    with pytest.raises(UserError, match="has no line of .*xa.png, expected one of each image"):
        sets(root, "none", val_by="patient")
