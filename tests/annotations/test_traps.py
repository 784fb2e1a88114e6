from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import forms
import numpy as np
import pytest
from PIL import Image

from paddleseg_segformer import UserError
from paddleseg_segformer.annotations import Options, detect, prepare
from paddleseg_segformer.annotations.label_values import LOOK_LABELS
from paddleseg_segformer.annotations.source import spread

pytest.importorskip("pycocotools")


def edit(path: Path, change: Callable) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(root: Path, message: str, **options: object) -> None:
    """Expect one line, of `detect` or `prepare`."""
    with pytest.raises(UserError, match=message) as caught:
        prepare(detect(root, Options(**{"val": 0.34, **options})), root.parent / "out")
    assert "\n" not in str(caught.value)
    assert not (root.parent / "out").exists()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


# --- two readings


def test_two_labels_of_an_image_are_refused_with_both_ways_out(root: Path) -> None:
    forms.write_folders(root)
    shutil.copytree(root / "masks", root / "masks_color")
    refused(root, r"has 2 labels, masks/.*masks_color/.*--labels 'masks/\{stem\}_mask.png' or ")
    detected = detect(root, Options(labels="masks/{stem}_mask.png"))
    assert {str(s.annotation.parent) for s in detected.samples} == {str(root / "masks")}
    assert len(detected.samples) == 3


def test_two_images_of_a_label_are_refused(root: Path) -> None:
    forms.write_folders(root)
    forms.write_images(root / "images", ["third"], ".png")
    refused(root, "third_mask.png: may be the label of .*third.jpg and of .*third.png")


def test_two_forms_in_one_folder_are_refused_until_one_is_named(root: Path) -> None:
    forms.write_coco(root)
    forms.write_cvat(root)
    refused(root, r"several forms. Say which: --format coco \(.*; --format cvat \(")
    assert detect(root, Options(format="cvat")).format == "cvat"


def test_several_coco_files_are_refused_until_one_is_named_or_they_are_sets(root: Path) -> None:
    forms.write_coco(root)
    shutil.copy(root / "instances.json", root / "other.json")
    refused(root, "instances.json and .*other.json: which of them is meant")
    assert len(detect(root / "other.json").samples) == 3
    (root / "other.json").rename(root / "train.json")
    (root / "instances.json").rename(root / "instances_train.json")
    refused(root, "which of them is meant")


def test_palettes_that_give_an_id_two_colours_are_refused(root: Path) -> None:
    forms.write_voc(root)
    label = forms.labels()["third"]
    forms.png(
        label, root / "SegmentationClass" / "third.png", [0, 0, 0, 9, 9, 9, 0, 0, 90, 1, 2, 3]
    )
    refused(root, r"the id 3 is shown as .*--label_values ids or --label_values colors")
    assert detect(root, Options(label_values="ids")).class_map.is_identity


def test_masks_without_a_name_are_told_from_photos_by_what_they_hold(root: Path) -> None:
    forms.write_images(root / "a")
    for name, label in forms.labels().items():
        forms.png(label, root / "b" / f"{name}.png")
    assert {s.annotation.parent.name for s in detect(root).samples} == {"b"}
    shutil.rmtree(root / "b")
    forms.write_images(root / "b", suffix=".png")
    refused(root, "either may be the label. Say which: --labels 'b/{stem}.png'")


def test_levels_of_grey_are_refused_until_they_are_said_to_be_classes(root: Path) -> None:
    forms.write_images(root / "images")
    for name, label in forms.labels().items():
        forms.png(label * np.uint8(80), root / "masks" / f"{name}.png")
    refused(root, r"hold \[0, 80, 160, 240\] alone.*--label_values 0,80,160,240\), or ids")
    prepared = prepare(
        detect(root, Options(val=0.34, label_values=(0, 80, 160, 240))), root.parent / "out"
    )
    for name, label in forms.labels().items():
        stored = Image.open(root.parent / "out" / "labels" / "images" / f"{name}.png")
        np.testing.assert_array_equal(np.asarray(stored), label)
    assert prepared.num_samples == {"train": 2, "val": 1}


# --- what does not fit


def test_orphans_are_counted_and_left_out(root: Path) -> None:
    forms.write_folders(root)
    (root / "masks" / "third_mask.png").unlink()
    (root / "images" / "first one.jpg").unlink()
    detected = detect(root)
    assert len(detected.samples) == 1
    assert any("1 images without label are left out" in line for line in detected.warnings)
    assert any("1 labels without image are left out" in line for line in detected.warnings)
    forms.write_labelme(root.parent / "labelme")
    (root.parent / "labelme" / "third.json").unlink()
    assert "third.jpg" in detect(root.parent / "labelme").warnings[0]


@pytest.mark.parametrize("name", ["coco", "labelme", "cvat", "labelstudio", "folders", "voc"])
def test_another_size_than_the_annotations_is_refused(name: str, root: Path) -> None:
    forms.WRITERS[name](root)
    path = next(path for path in sorted(root.rglob("*.jpg")) if "third" in path.name)
    Image.open(path).resize((50, 30)).save(path)
    refused(root, "40x60 .height x width.*30x50.* Make them equal")


def test_unknown_classes_are_refused(root: Path) -> None:
    forms.write_coco(root)
    edit(root / "instances.json", lambda c: c["annotations"][0].update(category_id=5))
    refused(root, "found the category 5, expected one of")
    forms.write_yolo(root.parent / "yolo")
    with (root.parent / "yolo" / "labels" / "third.txt").open("a") as file:
        file.write("\n7 0 0 1 0 1 1\n")
    refused(root.parent / "yolo", "third.txt, line 2: found the class 7, expected 0 to 2")
    forms.write_cvat(root.parent / "cvat")
    path = root.parent / "cvat" / "annotations.xml"
    path.write_text(path.read_text().replace('label="tree"', 'label="trea"'))
    refused(root.parent / "cvat", "has the label 'trea', .* Did you mean 'tree'")
    forms.write_cvat_masks(root.parent / "masks")
    path = root.parent / "masks" / "labelmap.txt"
    path.write_text(path.read_text().replace("tree:0,0,90", "tree:0,0,91"))
    refused(root.parent / "masks", r"found the colour \(0, 0, 90\)")


@pytest.mark.parametrize("name", ["coco", "labelme", "cvat", "labelstudio"])
def test_files_that_are_cut_off_or_empty_are_refused(name: str, root: Path) -> None:
    forms.WRITERS[name](root)
    path = next(path for path in sorted(root.rglob("*")) if path.suffix in (".json", ".xml"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(root, "not valid (JSON|XML).*cut off")
    path.write_bytes(b"")
    refused(root, "file is empty" if name == "labelme" else "recognised no annotations")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"][0].update(segmentation=[]), "has a box and no segmentation"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), "x and y in turn"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]), "polygon of 2 corners"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5, "x"]]), "pairs of num"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [40, 60], "counts": [9]}),
            "run lengths are of 9 pixels, expected 2400",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [40, 60], "counts": "PQ"}),
            "run lengths are of",
        ),
        (  # 100,000,000 and -99,997,600, which pycocotools would write beyond the image
            lambda c: c["annotations"][0].update(
                segmentation={"size": [40, 60], "counts": "PXh[o2PSZdPM"}
            ),
            "found a run of -99997600 pixels",
        ),
        (  # pycocotools would take 80 bytes for each pixel of the outline
            lambda c: c["annotations"][0].update(segmentation=[[900, 900, -900, -900] * 5000]),
            "10000 corners whose outline is 18000000 px long, expected at most",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [9, 9], "counts": [81]}),
            r"run lengths of \[9, 9\]",
        ),
        (
            lambda c: c["images"][0].pop("height"),
            "not as annotation tools write it .KeyError: 'height'",
        ),
        (lambda c: c["annotations"].clear(), "lists no annotations"),
        (lambda c: c.update(images=3), "expected lists of images"),
        (lambda c: c["annotations"][0].update(image_id=99), "of image 99, which is not listed"),
    ],
)
def test_damaged_coco_is_refused(change: Callable, message: str, root: Path) -> None:
    forms.write_coco(root)
    edit(root / "instances.json", change)
    refused(root, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape_type": "line", "points": [[1, 1], [5, 5]]}, "'line', which has no area"),
        ({"shape_type": "rectangle", "points": [[1, 1]]}, "rectangle of 1 points"),
        ({"shape_type": "circle", "points": [[1, 1], [1, 1]]}, "expected some above 0"),
        ({"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "?"}, "is not base64"),
        ({"points": [[1, 1], [2, float("nan")], [3, 3]]}, "pairs of numbers"),
        ({"points": [[1, 1], [2, 1e9], [3, 3]]}, "px or more outside the image"),
    ],
)
def test_shapes_without_an_area_and_damaged_ones_are_refused(
    change: dict, message: str, root: Path
) -> None:
    forms.write_labelme(root)
    edit(root / "third.json", lambda content: content["shapes"][0].update(change))
    refused(root, message)


def test_yolo_boxes_and_cvat_tracks_are_refused(root: Path) -> None:
    forms.write_yolo(root)
    (root / "labels" / "third.txt").write_text("1 0.5 0.5 0.2 0.2")
    refused(root, "line 1: a box")
    forms.write_cvat(root.parent / "cvat")
    path = root.parent / "cvat" / "annotations.xml"
    path.write_text(path.read_text().replace("</annotations>", "<track/></annotations>"))
    refused(root.parent / "cvat", "tracks of a video. Export the task as 'CVAT for images")
    path.write_text("<!DOCTYPE a [<!ENTITY b 'c'>]>" + path.read_text().partition("?>")[2])
    refused(root.parent / "cvat", "holds a document type")


def test_label_studios_doubtful_tasks_are_refused(root: Path) -> None:
    forms.write_labelstudio(root)
    path = root / "project.json"
    text = path.read_text()
    edit(path, lambda tasks: tasks[0]["annotations"].append(tasks[0]["annotations"][0]))
    refused(root, "task 0 has 2 annotations, expected one, or one that is marked as ground truth")
    edit(path, lambda tasks: tasks[0]["annotations"][1].update(ground_truth=True, result=[]))
    edit(path, lambda tasks: tasks[0]["annotations"][0].update(ground_truth=False))
    assert len(detect(root).samples) == 3
    path.write_text(text)
    edit(path, lambda tasks: tasks[0]["annotations"][0]["result"][0].update(image_rotation=90))
    refused(root, "turned by 90 degrees")
    path.write_text(text)
    edit(path, lambda t: t[1]["annotations"][0]["result"][2]["value"].update(rle=[0, 0, 0, 4]))
    refused(root, "cut off")


def test_lossy_and_smoothed_labels_are_refused(root: Path) -> None:
    forms.write_images(root / "images")
    forms.write_images(root / "masks", suffix=".JPG")
    refused(root, "stored as JPEG|found \\d+ colours")
    shutil.rmtree(root / "masks")
    forms.write_images(root / "masks", suffix=".png")
    refused(root, "found \\d+ colours, expected one for each class. Is it a label")


# --- bits, turns, classes


@pytest.mark.parametrize("high", [255, 65535])
def test_masks_of_8_and_16_bits_become_two_classes(high: int, root: Path) -> None:
    forms.write_images(root / "images")
    for name, label in forms.labels().items():
        kind = np.uint8 if high == 255 else np.uint16
        forms.png((label > 0) * kind(high), root / "masks" / f"{name}.png")
    detected = detect(root, Options(val=0.34))
    assert detected.classes == ("background", "foreground")
    assert any(item.option == "--label_values ids" for item in detected.conclusions)
    prepare(detected, root.parent / "out")
    for name, label in forms.labels().items():
        stored = Image.open(root.parent / "out" / "labels" / "images" / f"{name}.png")
        np.testing.assert_array_equal(np.asarray(stored), label > 0)


def test_ids_of_16_bits_that_are_instances_are_refused(root: Path) -> None:
    forms.write_images(root / "images")
    for name, label in forms.labels().items():
        forms.png(label.astype(np.uint16) * 1000, root / "masks" / f"{name}.png")
    refused(root, r"hold \[0, 1000, 2000, 3000\] alone")
    refused(root, "found 3001 classes, expected 1 to 255", label_values="ids")


def write_turned(root: Path, orientation: int, is_stored: bool) -> np.ndarray:
    """Write an image with EXIF, and a mask of what is seen, or of what is stored."""
    root.mkdir()
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[274] = orientation
    label = np.zeros((20, 30), np.uint8)
    label[:5, :7] = 1
    for name in ("a", "b", "c"):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.jpg", exif=exif)
        mask = label if is_stored else np.rot90(label, -1)  # 6: to be turned clockwise
        forms.png(np.ascontiguousarray(mask), root / f"{name}_mask.png")
    return label


@pytest.mark.parametrize("is_stored", [False, True])
def test_turned_images_are_read_as_their_labels_fit(is_stored: bool, root: Path) -> None:
    from test_forms import labels_of

    label = write_turned(root, 6, is_stored)
    prepared = prepare(detect(root, Options(val=0.34)), root.parent / "out")
    assert prepared.exif_orientation is not is_stored
    for found in labels_of(prepared).values():  # which compares the sizes
        np.testing.assert_array_equal(found, label if is_stored else np.rot90(label, -1))
    refused_way = "turned" if is_stored else "stored"
    with pytest.raises(UserError, match="Say --exif stored or --exif turned"):
        prepare(detect(root, Options(val=0.34, exif=refused_way)), root.parent / "other")


def test_a_turn_that_sizes_do_not_tell_is_said(root: Path) -> None:
    write_turned(root, 3, True)
    lines = detect(root).lines()
    assert any("of 3 the sizes do not tell" in line and "--exif" in line for line in lines)


def test_a_class_that_is_never_labelled_is_warned_of(root: Path) -> None:
    forms.write_coco(root)
    edit(root / "instances.json", lambda c: c["categories"].append({"id": 99, "name": "boat"}))
    prepared = prepare(detect(root, Options(val=0.34)), root.parent / "out")
    assert prepared.classes == ("background", *forms.CLASSES, "boat")
    assert "no label holds: boat" in prepared.warnings


def test_classes_are_merged_renamed_left_out_and_named(root: Path) -> None:
    from test_forms import labels_of

    forms.write_coco(root)
    table = root.parent / "classes.yml"
    table.write_text("car: vehicle\ntree: ignore\n")
    prepared = prepare(detect(root, Options(val=0.34, classes=table)), root.parent / "out")
    assert prepared.classes == ("background", "vehicle", "road")
    ids = {"car": 1, "road": 2, "tree": 255}
    for name, found in labels_of(prepared).items():
        np.testing.assert_array_equal(found, forms.truth(forms.SCENES[name], ids, 0))
    table.write_text("care: vehicle\n")
    with pytest.raises(UserError, match="has no class 'care'. Did you mean 'car'"):
        detect(root, Options(classes=table))
    names = root.parent / "names.txt"
    names.write_text("tree\nroad\ncar\n")
    detected = detect(root, Options(classes=names, background="none"))
    assert detected.classes == ("tree", "road", "car")
    names.write_text("tree\nroad\n")
    with pytest.raises(UserError, match="does not name the class 'car' of the data"):
        detect(root, Options(classes=names))
    forms.write_folders(root.parent / "folders")
    names.write_text("nothing\ncar\nroad\ntree\n")
    assert detect(root.parent / "folders", Options(classes=names)).classes[0] == "nothing"


def test_background_is_concluded_from_what_is_covered_and_can_be_said(root: Path) -> None:
    from test_forms import labels_of

    forms.write_coco(root)
    ids = {name: index for index, name in enumerate(forms.CLASSES)}
    for background, nothing, count in (("none", 255, 3), ("road", 1, 3), ("auto", None, 4)):
        out = root.parent / background
        prepared = prepare(detect(root, Options(val=0.34, background=background)), out)
        assert len(prepared.classes) == count
        if nothing is not None:
            for name, found in labels_of(prepared).items():
                expected = forms.truth(forms.SCENES[name], ids, nothing)
                np.testing.assert_array_equal(found, expected)
    whole = [[0.0, 0.0, 60.0, 0.0, 60.0, 40.0, 0.0, 40.0]]
    edit(
        root / "instances.json",
        lambda c: [item.update(segmentation=whole) for item in c["annotations"]],
    )
    detected = detect(root)
    assert detected.classes == forms.CLASSES and detected.class_map.unlabelled == 255


def test_crowds_lie_below_every_object_and_ignored_categories_do_not_count(root: Path) -> None:
    forms.write_coco(root)

    def change(content: dict) -> None:
        content["annotations"][1].update(iscrowd=1)  # the smaller one
        content["categories"].append({"id": 99, "name": "__ignore__"})
        content["annotations"][-1].update(category_id=99)

    edit(root / "instances.json", change)
    prepare(detect(root, Options(val=0.34)), root.parent / "out")
    ids = {name: index + 1 for index, name in enumerate(forms.CLASSES)}
    for name, scene in (
        ("first one", forms.SCENES["first one"][::-1]),
        ("third", forms.SCENES["third"]),
    ):
        stored = Image.open(root.parent / "out" / "labels" / "images" / f"{name}.png")
        expected = forms.truth(scene, ids | ({"tree": 255} if name == "third" else {}), 0)
        np.testing.assert_array_equal(np.asarray(stored), expected)


def test_other_paths_are_refused(tmp_path: Path) -> None:
    for name, message in (("none", "no such folder"), ("a.zip", "no such folder")):
        with pytest.raises(UserError, match=message):
            detect(tmp_path / name)
    with pytest.raises(UserError, match="recognised no annotations among 0 files"):
        detect(tmp_path)
    forms.write_images(tmp_path / "images")
    with pytest.raises(UserError, match="recognised no annotations among 3 files, 3 of them im"):
        detect(tmp_path)
    with pytest.raises(UserError, match="unknown annotation_format type 'cocoo'. Did you mean"):
        detect(tmp_path, Options(format="cocoo"))


@pytest.mark.parametrize("name", ["label_colors.txt", "class_dict.csv"])
def test_a_table_of_colours_beside_the_labels_names_them(name: str, root: Path) -> None:
    forms.write_colors(root)
    separator, rows = (" ", "{2} {3} {4} {1}") if name.endswith("txt") else (",", "{1},{2},{3},{4}")
    names = ("nothing", *forms.CLASSES)
    lines = [rows.format(0, n, *c) for n, c in zip(names, forms.COLORS, strict=True)]
    lines = ["name,r,g,b", *lines] if separator == "," else lines
    (root / name).write_text("\n".join(lines))
    detected = detect(root, Options(val=0.34))
    assert detected.classes == names and detected.palette == forms.COLORS
    prepare(detected, root.parent / "out")
    for key, label in forms.labels().items():
        stored = Image.open(root.parent / "out" / "labels" / f"{key}.png")
        np.testing.assert_array_equal(np.asarray(stored), label)


def test_a_palette_that_differs_in_any_file_is_found_when_all_are_read(root: Path) -> None:
    names = [f"img {number:03d}" for number in range(60)]
    forms.write_images(root / "images", names)
    palette = [value for color in forms.COLORS for value in color]
    unseen = names[min({*range(60)} - {*spread(60, LOOK_LABELS)})]
    for name in names:
        other = palette[:9] + [1, 2, 3] if name == unseen else palette
        forms.png(forms.labels()["third"], root / "labels" / f"{name}.png", other)
    detect(root)  # it looks at fifty
    refused(root, f"{unseen}.png: the id 3 is shown as|the id 3 is shown as .*{unseen}")
    greys = [0, 0, 0, 2, 2, 2, 1, 1, 1, 3, 3, 3]  # as optimisers of PNG files write them
    forms.png(forms.labels()["third"], root / "labels" / f"{unseen}.png", greys)
    assert prepare(detect(root), root.parent / "other").num_samples["train"] > 40


def test_a_set_that_is_train_and_val_is_refused(root: Path) -> None:
    forms.write_yolo(root)
    path = root / "data.yaml"
    path.write_text(path.read_text() + "val: images\n")
    refused(root, "first one.jpg is in train and in val. Remove it")
    path.write_text("nc: 3\nnames: [car, road, tree]\n")
    assert {sample.set for sample in detect(root).samples} == {""}


def test_a_converted_data_set_below_is_left_out_and_one_is_read_with_its_names(root: Path) -> None:
    forms.write_folders(root)
    names = root.parent / "names.txt"
    names.write_text("nothing\ncar\nroad\ntree\n")
    options = Options(val=0.34, classes=names)
    first = prepare(detect(root, options), root / "own", copy_labels=True)
    assert prepare(detect(root, options), root / "own", copy_labels=True) == first
    again = prepare(detect(root / "own"), root.parent / "again")
    assert (again.classes, again.palette) == (first.classes, first.palette)
    assert again.num_samples == first.num_samples


def test_classes_of_hardly_any_pixels_are_named(root: Path) -> None:
    forms.write_folders(root)
    label = forms.labels()["third"]
    label[0, 0] = 4
    Image.fromarray(np.tile(label, (3, 3))).save(root / "masks" / "third_mask.png")
    image = root / "images" / "third.jpg"
    Image.open(image).resize((180, 120)).save(image)
    found = prepare(detect(root, Options(val=0.34)), root.parent / "out").warnings
    assert not any("fewer than one in" in text for text in found)
    label = np.tile(label, (3, 3))
    label[label == 4] = 0
    label[0, 0] = 4
    Image.fromarray(label).save(root / "masks" / "third_mask.png")
    found = prepare(detect(root, Options(val=0.34)), root.parent / "out").warnings
    assert "fewer than one in 10000 labelled pixels: class_4" in found
