from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_datasets import write_cityscapes, write_image

from paddleseg_segformer.data import DATASETS
from paddleseg_segformer.data.datasets import (
    ADE20K,
    CamVid,
    Cityscapes,
    CocoStuff,
    COCOStuff171,
    COCOStuff182,
    Dataset,
)
from paddleseg_segformer.data.io import write_label
from paddleseg_segformer.data.labels import COCO_STUFF_USED_IDS
from paddleseg_segformer.data.normalize import Normalize
from paddleseg_segformer.data.resize import Resize
from paddleseg_segformer.data.sample_lists import SampleList
from paddleseg_segformer.data.transforms import PhotoMetricDistortion, RandomPaddingCrop
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.image_sources import find_images

pytestmark = pytest.mark.check

LABEL = "gtFine/train/aachen/aachen_000001_gtFine_labelTrainIds.png"
IMAGE = "leftImg8bit/train/aachen/aachen_000001_leftImg8bit.png"
GREY = np.full((4, 6, 3), 100, np.uint8)


def write_pairs(root: Path, images: str, labels: str, ids: np.ndarray, name: str = "x") -> Path:
    """Write one image and its label of `ids` (4, 6)."""
    write_image(root / images / f"{name}.jpg", GREY)
    write_label(root / labels / f"{name}.png", ids)
    return root


def test_cityscapes_pairs_by_name(cityscapes: Path) -> None:
    dataset = Cityscapes([], str(cityscapes))
    assert len(dataset) == 7 and dataset.num_classes == 19
    for index in range(7):
        sample = dataset.read(index)
        name = Path(sample.image_path).name.removesuffix("_leftImg8bit.png")
        assert Path(sample.label_path).name == f"{name}_gtFine_labelTrainIds.png"
        assert sample.image[0, 0].tolist() == [index] * 3 and sample.label[0, 0] == index


def test_relative_root_is_relative_to_the_working_folder(
    cityscapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cityscapes.parent)
    relative = DATASETS["Cityscapes"]([], cityscapes.name)
    absolute = DATASETS["Cityscapes"]([], str(cityscapes))
    assert relative.samples[0][0] == str(Path(absolute.samples[0][0]).relative_to(Path.cwd()))
    np.testing.assert_array_equal(relative.read(0).image, absolute.read(0).image)


@pytest.mark.parametrize(
    ("removed", "partner", "kind"), [(IMAGE, LABEL, "image"), (LABEL, IMAGE, "label")]
)
def test_missing_partner_is_named(cityscapes: Path, removed: str, partner: str, kind: str) -> None:
    (cityscapes / removed).unlink()
    with pytest.raises(UserError, match=f"{partner}: has no {kind}; expected .*{removed}"):
        Cityscapes([], str(cityscapes))


def test_labels_that_were_never_converted_name_the_tool(cityscapes: Path) -> None:
    for path in cityscapes.rglob("*labelTrainIds.png"):
        path.rename(path.with_name(path.name.replace("labelTrainIds", "labelIds")))
    with pytest.raises(UserError, match="7 more|6 more.*csCreateTrainIdLabelImgs"):
        Cityscapes([], str(cityscapes))


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"Dataset", "SegDataset"}))
def test_missing_folder_says_how_to_get_the_data(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder .*[Gg]et "):
        DATASETS[name]([], str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no such"):
        DATASETS[name]([], str(tmp_path))


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"Dataset", "SegDataset"}))
def test_class_attributes_agree_with_the_label_set(name: str) -> None:
    dataset = DATASETS[name]
    assert dataset.label_set.num_classes == dataset.NUM_CLASSES
    assert (dataset.IGNORE_INDEX, dataset.IMG_CHANNELS) == (255, 3)


def test_cityscapes_test_split_needs_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "leftImg8bit/test/bonn/b_leftImg8bit.png", GREY)
    dataset = Cityscapes([], str(tmp_path), mode="test")
    assert dataset.read(0).label is None
    with pytest.raises(UserError, match="has no label"):
        dataset[0, 0]


def test_unknown_mode_is_refused_and_edge_named(cityscapes: Path, caplog) -> None:
    with pytest.raises(UserError, match="Did you mean 'train'"):
        Cityscapes([], str(cityscapes), mode="trian")
    Cityscapes([], str(cityscapes), edge=True)
    assert "Cityscapes: edge is without effect" in caplog.text


def test_ade20k_zero_is_ignored_and_255_stays(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2, 149, 150, 255]] * 4, np.uint8)
    write_pairs(tmp_path, "images/training", "annotations/training", ids)
    label = ADE20K([], str(tmp_path)).read(0).label
    assert label.dtype == np.uint8 and label[0].tolist() == [255, 0, 1, 148, 149, 255]


@pytest.mark.parametrize("wrong", [151, 254])
def test_ade20k_refuses_other_ids(tmp_path: Path, wrong: int) -> None:
    ids = np.full((4, 6), wrong, np.uint8)
    write_pairs(tmp_path, "images/validation", "annotations/validation", ids)
    with pytest.raises(UserError, match=f"x.png: found the class id {wrong}, expected 0 for unl"):
        ADE20K([], str(tmp_path), mode="val").read(0)


def test_coco_stuff_numberings(tmp_path: Path) -> None:
    ids = np.array([[0, 12, 91, 181, 255, 10]] * 4, np.uint8)
    write_pairs(tmp_path, "images/train2017", "annotations/train2017", ids)
    assert COCOStuff182([], str(tmp_path)).read(0).label[0].tolist() == [0, 12, 91, 181, 255, 10]
    label = COCOStuff171([], str(tmp_path)).read(0).label
    assert label[0].tolist() == [0, 11, 80, 170, 255, 10]
    assert [COCO_STUFF_USED_IDS[index] for index in (11, 80, 170)] == [12, 91, 181]
    with pytest.raises(UserError, match="found the class id 181"):
        CocoStuff([], str(tmp_path)).read(0)


def test_coco_stuff_converted_labels_are_noticed(tmp_path: Path) -> None:
    ids = np.full((4, 6), 11, np.uint8)  # never used as published
    write_pairs(tmp_path, "images/val2017", "annotations/val2017", ids)
    with pytest.raises(UserError, match="read by CocoStuff"):
        COCOStuff171([], str(tmp_path), mode="val").read(0)
    assert CocoStuff([], str(tmp_path), mode="val").read(0).label[0, 0] == 11


def test_camvid_reads_its_lists(tmp_path: Path) -> None:
    write_pairs(tmp_path, "images", "labels", np.full((4, 6), 10, np.uint8))
    (tmp_path / "val.txt").write_text("images/x.jpg labels/x.png\r\n\r\n")
    dataset = CamVid([], str(tmp_path), mode="val")
    assert len(dataset) == 1 and dataset.read(0).label[0, 0] == 10
    with pytest.raises(UserError, match="train.txt: no such list file"):
        CamVid([], str(tmp_path))


def test_id_out_of_range_names_file_id_and_classes(cityscapes: Path) -> None:
    write_label(cityscapes / LABEL, np.full((24, 40), 33, np.uint8))
    with pytest.raises(UserError, match=rf"{LABEL}: found the class id 33, .*\(19 classes\)"):
        Cityscapes([], str(cityscapes)).read(1)


def test_size_mismatch_names_both_files(cityscapes: Path) -> None:
    write_label(cityscapes / LABEL, np.zeros((12, 20), np.uint8))
    with pytest.raises(UserError, match=f"{LABEL}: the label is 12x20 .*{IMAGE} is 24x40"):
        Cityscapes([], str(cityscapes)).read(1)


def test_colour_mask_is_refused(cityscapes: Path) -> None:
    Image.fromarray(np.full((24, 40, 3), (9, 0, 0), np.uint8)).save(cityscapes / LABEL)
    with pytest.raises(UserError, match=f"{LABEL}: the label is a colour image"):
        Cityscapes([], str(cityscapes))[1, 0]


def generic(root: Path, lines: str, **arguments: object) -> Dataset:
    """Return the generic data set of a list with these lines."""
    (root / "list.txt").write_text(lines, encoding="utf-8")
    arguments = {"num_classes": 2, "mode": "train", "transforms": [], **arguments}
    path = {f"{arguments['mode']}_path": str(root / "list.txt")}
    return Dataset(dataset_root=str(root), **path, **arguments)


def test_generic_list_with_unicode_names_and_separator(tmp_path: Path) -> None:
    write_pairs(tmp_path, "bilder ö", "маски", np.ones((4, 6), np.uint8), name="字")
    dataset = generic(tmp_path, "bilder ö/字.jpg,маски/字.png\n", separator=",")
    assert dataset.read(0).label.all() and dataset.label_set.classes == ("class_0", "class_1")


def test_generic_ignore_index_beyond_8_bits(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 999, 0, 1, 999]] * 4, np.uint16)
    write_pairs(tmp_path, "", "", ids)
    dataset = generic(tmp_path, "x.jpg x.png", ignore_index=999)
    assert dataset.read(0).label[0].tolist() == [0, 1, 999, 0, 1, 999]
    with pytest.raises(UserError, match=r"found the class id 999, expected 0..1, or 255"):
        generic(tmp_path, "x.jpg x.png").read(0)


def test_generic_labels_that_count_from_one(tmp_path: Path) -> None:
    write_pairs(tmp_path, "", "", np.array([[0, 1, 2, 0, 255, 1]] * 4, np.uint8))
    dataset = generic(tmp_path, "x.jpg x.png", reduce_zero_label=True)
    assert dataset.read(0).label[0].tolist() == [255, 0, 1, 255, 255, 0]
    write_label(tmp_path / "x.png", np.full((4, 6), 3, np.uint8))
    with pytest.raises(UserError, match=r"class id 3, expected 0 for unlabelled, 1..2 for"):
        dataset.read(0)
    with pytest.raises(UserError, match="at most 254 classes"):
        generic(tmp_path, "x.jpg x.png", reduce_zero_label=True, num_classes=255)


def test_generic_bands(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.randint(0, 9, (4, 6, 7)).astype(np.uint16))
    write_label(tmp_path / "x.png", np.zeros((4, 6), np.uint8))
    dataset = generic(tmp_path, "x.npy x.png", img_channels=7)
    image, label, index = dataset[0, 1]
    assert image.shape == (7, 4, 6) and image.dtype == np.float32 and label.shape == (4, 6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "lists no samples"),
        ("a.jpg a.png\n\nb.jpg\nc.jpg c.png", "line 3: found 'b.jpg'"),
        ("a.jpg a.png\nb.jpg b c.png\n", "line 2: found 'b.jpg b c.png'"),
        ("a.jpg,a.png\n", "in double quotes, or set `separator`"),
        ("a.jpg  a.png", "found 'a.jpg␣␣a.png'"),
        ("a.jpg\ta.png\tb.png", r"found 'a.jpg\\ta.png\\tb.png'"),
        ('"a b.png"', "found '\"a b.png\"'"),
        ("# a.jpg a.png\n  # b", "lists no samples"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        generic(tmp_path, lines)


def test_spaces_around_a_line_do_not_matter(tmp_path: Path) -> None:
    samples = generic(tmp_path, "\ufeff a.jpg a.png \r\nb.jpg b.png\r\n  c.jpg c.png").samples
    assert [Path(samples[index][1]).name for index in range(3)] == ["a.png", "b.png", "c.png"]


def test_lists_have_one_form_for_samples_and_predictions(tmp_path: Path) -> None:
    lines = [
        "# image label",
        "a.jpg a.png",
        "  ",
        "b 1.jpg\tb 1.png",
        '"c 1.jpg" "c 1.png"',
        'd.jpg "d 1.png"',
        ' # "e.jpg" e.png',
        '"#f.jpg"\t"f.png"',
        'g".jpg g.png',
    ]
    names = ["a", "b 1", "c 1", "d", "#f", 'g"']
    for name in names:
        (tmp_path / f"{name}.jpg").touch()
    samples = generic(tmp_path, "\r\n".join(lines)).samples
    found = [samples[index] for index in range(len(samples))]
    assert [Path(image).name for image, _ in found] == [f"{name}.jpg" for name in names]
    labels = ["a.png", "b 1.png", "c 1.png", "d 1.png", "f.png", "g.png"]
    assert [Path(label or "").name for _, label in found] == labels
    assert [image.path.name for image in find_images(str(tmp_path / "list.txt"))] == [
        f"{name}.jpg" for name in names
    ]
    commas = generic(tmp_path, '"x,1.jpg",x\t1.png', separator=",").samples
    assert commas[0] == (str(tmp_path / "x,1.jpg"), str(tmp_path / "x\t1.png"))


def test_folders_of_archives_hidden_ones_and_loops_hold_no_samples(cityscapes: Path) -> None:
    for name in ("__MACOSX", ".ipynb_checkpoints"):
        write_image(cityscapes / f"leftImg8bit/train/{name}/x_leftImg8bit.png", GREY)
    (cityscapes / "leftImg8bit/train/loop").symlink_to(cityscapes / "leftImg8bit/train")
    odd = os.fsdecode(b"aachen/\xe4_")
    write_image(cityscapes / "x.png", GREY)
    os.rename(cityscapes / "x.png", cityscapes / f"leftImg8bit/train/{odd}leftImg8bit.png")
    write_label(cityscapes / "y.png", np.zeros((4, 6), np.uint8))
    os.rename(cityscapes / "y.png", cityscapes / f"gtFine/train/{odd}gtFine_labelTrainIds.png")
    dataset = Cityscapes([], str(cityscapes))
    assert len(dataset) == 8
    assert [index for index in range(8) if dataset.read(index).image.shape == (4, 6, 3)] == [4]


def test_test_list_may_lack_labels(tmp_path: Path) -> None:
    samples = generic(tmp_path, "a.jpg\nb.jpg b.png\n", mode="test").samples
    assert samples[0] == (str(tmp_path / "a.jpg"), None)
    assert samples[1][1] == str(tmp_path / "b.png")


def test_missing_list_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mode is 'val', but val_path is missing"):
        Dataset("val", str(tmp_path), [], 2, train_path="list.txt")


def test_a_long_list_is_two_arrays(tmp_path: Path) -> None:
    count = 100_000
    text = b"".join(b"images/%06d.jpg labels/%06d.png\n" % (i, i) for i in range(count))
    samples = SampleList(text, separator=" ", root=tmp_path, source="list", needs_label=True)
    assert len(samples) == count
    assert samples[count - 1][0] == str(tmp_path / "images/099999.jpg")
    assert all(not isinstance(value, (list, dict)) for value in vars(samples).values())


def test_sample_is_a_function_of_index_and_seed(cityscapes: Path) -> None:
    transforms = [RandomPaddingCrop((16, 16)), PhotoMetricDistortion(), Normalize()]
    dataset = Cityscapes(transforms, str(cityscapes))
    first = dataset[2, 5]
    np.random.rand(3)
    random.random()
    assert all(np.array_equal(a, b) for a, b in zip(first, dataset[2, 5], strict=True))
    assert not np.array_equal(first[0], dataset[2, 6][0])


def test_global_random_states_are_left_alone(cityscapes: Path) -> None:
    dataset = Cityscapes([RandomPaddingCrop((16, 16)), PhotoMetricDistortion()], str(cityscapes))
    expected = np.random.RandomState(0).rand(), random.Random(0).random()
    dataset[0, 3]
    assert (np.random.rand(), random.random()) == expected


def test_normalize_at_the_end_is_left_to_the_device(cityscapes: Path) -> None:
    dataset = Cityscapes([RandomPaddingCrop((16, 16)), Normalize()], str(cityscapes))
    image, label, index = dataset[3, 0]
    assert dataset.normalize.mean == (0.5,) and len(dataset.transforms) == 1
    assert image.dtype == np.uint8 and image.shape == (3, 16, 16) and image.flags.c_contiguous
    assert label.shape == (16, 16) and index == 3


def test_normalize_in_the_middle_stays(cityscapes: Path) -> None:
    dataset = Cityscapes([Normalize(), RandomPaddingCrop((16, 16))], str(cityscapes))
    image = dataset[0, 0][0]
    assert dataset.normalize is None
    assert image.dtype == np.float32 and np.abs(image).max() <= 1


def test_float_results_are_rounded_back(cityscapes: Path) -> None:
    dataset = Cityscapes([Resize((20, 12)), _AddFraction()], str(cityscapes))
    image = dataset[0, 0][0]
    expected = Resize((20, 12)).apply(dataset.read(0).image)
    expected = np.clip(np.rint(expected + np.float32(0.75)), 0, 255)
    np.testing.assert_array_equal(image, expected.transpose(2, 0, 1))
    assert image.dtype == np.uint8


def test_foreign_transform_gets_float_and_its_failure_names_the_image(cityscapes: Path) -> None:
    with pytest.raises(RuntimeError, match=rf"{IMAGE}: the transform _Fail failed: KeyError\('x'"):
        Cityscapes([_Fail()], str(cityscapes))[1, 0]


class _AddFraction:
    def __call__(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert data["img"].dtype == np.float32
        data["img"] += np.float32(0.75)
        return data


class _Fail:
    def __call__(self, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return data["x"]


def test_split_without_images_is_refused(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, ["a/b"])
    (tmp_path / "leftImg8bit/val").mkdir()
    (tmp_path / "gtFine/val").mkdir()
    with pytest.raises(UserError, match="val: no images .*_leftImg8bit.png"):
        Cityscapes([], str(tmp_path), mode="val")


def test_training_refuses_values_that_normalize_is_not_for(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", GREY / 255.0)
    write_label(tmp_path / "a.png", np.zeros((4, 6), np.uint8))
    dataset = generic(tmp_path, "a.npy a.png\n", transforms=[Normalize()])
    with pytest.raises(
        UserError, match=r"a.npy: found values in 0.39\d*..0.39\d*, expected 0..255"
    ):
        dataset[0, 0]
    declared = generic(tmp_path, "a.npy a.png\n", transforms=[Normalize()], value_range=[0, 1])
    assert np.allclose(declared[0, 0][0], 100)
