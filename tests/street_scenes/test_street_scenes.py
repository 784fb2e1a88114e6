from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddleseg_segformer.cli import make_dataset
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.street_scenes.canvas import Camera, Id, Mesh, Placed
from paddleseg_segformer.street_scenes.dataset import CITIES, generate, render_scene
from paddleseg_segformer.street_scenes.objects import model
from paddleseg_segformer.street_scenes.street import make_canvas

SMALL_HW = (64, 128)


def digests(folder: Path) -> dict[str, str]:
    """Return the checksum of every file below a folder, by relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("scenes"), 5, 3, SMALL_HW, seed=7)


@pytest.mark.parametrize("size_hw", [(64, 64), (64, 128), (97, 131), (200, 90)])
def test_scene_has_the_asked_size_and_legal_ids(size_hw: tuple[int, int]) -> None:
    image, label = render_scene(3, size_hw)
    assert image.shape == (*size_hw, 3) and image.dtype == np.uint8
    assert label.shape == size_hw and label.dtype == np.uint8
    assert set(np.unique(label)) <= {*range(19), 255}
    assert image.std() > 10


def test_scene_is_a_function_of_its_seed() -> None:
    first, again, other = (render_scene(seed, SMALL_HW) for seed in (11, 11, 12))
    render_scene(99, SMALL_HW)  # what was drawn in between leaves no trace
    for a, b, c in zip(first, again, other, strict=True):
        assert np.array_equal(a, b)
        assert not np.array_equal(a, c)


def test_every_class_occurs_in_a_hundred_scenes() -> None:
    num_scenes = np.zeros(256, int)
    num_pixels = np.zeros(256, np.int64)
    for seed in range(100):
        counts = np.bincount(render_scene((0, 0, seed), SMALL_HW)[1].ravel(), minlength=256)
        num_scenes += counts > 0
        num_pixels += counts
    assert (num_scenes[:19] >= 10).all(), dict(enumerate(num_scenes[:19]))
    share = num_pixels / num_pixels.sum()
    assert share[255] < 0.1
    assert share[:19].max() < 0.5


def test_a_thin_border_is_ignored() -> None:
    label = render_scene(0, (96, 400))[1]
    assert (label[[0, -1]] == 255).all() and (label[:, [0, -1]] == 255).all()
    assert (label[5:-15, 5:-5] != 255).mean() > 0.9


def test_colour_alone_does_not_give_the_class() -> None:
    """The commonest class of each of 512 colours, learned on 40 scenes, errs often on others."""

    def pixels(seeds: range) -> tuple[np.ndarray, np.ndarray]:
        scenes = [render_scene(seed, SMALL_HW) for seed in seeds]
        image, label = (np.stack(arrays) for arrays in zip(*scenes, strict=True))
        color = (image // 32).astype(int) @ [64, 8, 1]
        return color[label < 19], label[label < 19]

    votes = np.zeros((512, 19), int)
    np.add.at(votes, pixels(range(40)), 1)
    color, label = pixels(range(40, 80))
    right = votes.argmax(axis=1)[color] == label
    recall = [right[label == index].mean() for index in range(19) if (label == index).any()]
    assert right.mean() < 0.7
    assert np.mean(recall) < 0.35


def test_larger_scene_shows_the_same_layout() -> None:
    """Sizes in metres are projected, so a scene of twice the size is the same scene, finer."""
    small, large = (render_scene(5, size_hw)[1] for size_hw in ((128, 256), (256, 512)))
    reduced = cv2.resize(large, (256, 128), interpolation=cv2.INTER_NEAREST)
    assert (small == reduced)[4:-4, 4:-4].mean() > 0.9


def test_layout_is_that_of_cityscapes(folder: Path) -> None:
    images = sorted((folder / "leftImg8bit").rglob("*.png"))
    assert len(images) == 8
    assert {path.parent.name for path in images if "train" in path.parts} == set(CITIES)
    for path in images:
        split, city = path.parts[-3:-1]
        name = path.name.replace("_leftImg8bit.png", "_gtFine_labelTrainIds.png")
        label = cv2.imread(str(folder / "gtFine" / split / city / name), cv2.IMREAD_UNCHANGED)
        assert label.shape == SMALL_HW and label.dtype == np.uint8
    image, _ = render_scene((7, 0, 0), SMALL_HW)
    written = cv2.imread(
        str(folder / "leftImg8bit/train/ashford/ashford_000000_000000_leftImg8bit.png")
    )
    assert np.array_equal(written[..., ::-1], image)


def test_cityscapes_dataset_reads_it(folder: Path) -> None:
    from paddleseg_segformer.data.datasets import Cityscapes

    for mode, count in (("train", 5), ("val", 3)):
        dataset = Cityscapes(transforms=[], dataset_root=str(folder), mode=mode)
        assert len(dataset) == count
        sample = dataset.read(0)
        assert sample.image.shape == (*SMALL_HW, 3)
        assert sample.label is not None and sample.label.shape == SMALL_HW


def test_same_parameters_return_at_once_and_others_are_refused(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert generate(folder, 5, 3, SMALL_HW, seed=7) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    with pytest.raises(UserError, match=r"dataset.json.*seed 7 not 8.*choose another"):
        generate(folder, 5, 3, SMALL_HW, seed=8)


def test_marker_says_what_it_is(folder: Path) -> None:
    marker = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert (marker["height"], marker["width"], marker["seed"]) == (*SMALL_HW, 7)
    assert "teaching" in marker["note"]
    assert marker["is_finished"]


def test_worker_processes_write_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path, 5, 3, SMALL_HW, seed=7, num_workers=2)
    assert digests(tmp_path) == digests(folder)


def test_interrupted_run_is_finished_by_the_next_one(folder: Path, tmp_path: Path) -> None:
    def stop_after_two(scenes, count):  # type: ignore[no-untyped-def]
        for index, scene in enumerate(scenes):
            if index == 2:
                raise KeyboardInterrupt
            yield scene

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, 5, 3, SMALL_HW, seed=7, watch=stop_after_two)
    assert not json.loads((tmp_path / "dataset.json").read_text())["is_finished"]
    with pytest.raises(UserError, match="num_train 5 not 6"):
        generate(tmp_path, 6, 3, SMALL_HW, seed=7)
    generate(tmp_path, 5, 3, SMALL_HW, seed=7)
    assert digests(tmp_path) == digests(folder)


def test_foreign_data_set_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit").mkdir()
    with pytest.raises(UserError, match="not made here"):
        generate(tmp_path, 1, 1, SMALL_HW)
    assert [path.name for path in tmp_path.iterdir()] == ["leftImg8bit"]


@pytest.mark.parametrize(
    ("num_train", "num_val", "size_hw", "seed", "message"),
    [
        (1, 1, (32, 128), 0, "found 32x128, expected 64 px"),
        (-1, 1, SMALL_HW, 0, "num_train: found -1"),
        (0, 0, SMALL_HW, 0, "at least one scene"),
        (1, 1, SMALL_HW, -1, "seed: found -1"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_written(
    tmp_path: Path, num_train: int, num_val: int, size_hw: tuple[int, int], seed: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        generate(tmp_path / "new", num_train, num_val, size_hw, seed)
    assert not (tmp_path / "new").exists()


def test_command_line_writes_the_data_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    make_dataset.add_arguments(parser)
    flags = "--num_train 2 --num_val 1 --height 64 --width 96 --seed 4 --num_workers 0"
    make_dataset.run(parser.parse_args([*flags.split(), "--save_dir", str(tmp_path)]))
    assert "2 training, 1 validation" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*_leftImg8bit.png"))) == 3


def test_camera_projects_the_road_ahead() -> None:
    camera = Camera(focal_px=100, center_x_px=64, horizon_px=30, height_m=1.5)
    pixels, depth = camera.project(np.array([[0, 0, 10], [2, 1.5, 10], [0, 0, -5]], np.float32))
    assert np.allclose(pixels[:2], [[64, 45], [84, 30]])
    assert np.allclose(depth, [10, 10, 0.5])  # what is behind is brought to the nearest depth


def test_box_faces_are_seen_from_outside() -> None:
    mesh = Mesh()
    faces = mesh.box((-1, 1, -2, 2), (0, 3), (10, 20, 30), Id.CAR)
    outward = [(0, 0, -1), (1, 0, 0), (0, 0, 1), (-1, 0, 0), (0, 1, 0)]
    for face, direction in zip(faces, outward, strict=True):
        normal = np.cross(face[2] - face[1], face[1] - face[0])
        assert np.allclose(normal / np.linalg.norm(normal), direction)


def test_nearer_object_hides_the_farther_one() -> None:
    canvas = make_canvas(np.random.default_rng(0), (64, 128))
    canvas.label[:] = Id.SKY
    placed = []
    for name, z in (("wall", 30.0), ("car", 15.0)):
        placed.append(Placed(model(name, 0), 0.0, z, 1, z, 1.0))
    alone = canvas._replace(label=canvas.label.copy(), image=canvas.image.copy())
    alone.paint(placed[1:])
    canvas.paint(placed)
    is_car = alone.label == Id.CAR
    assert is_car.any()
    assert np.array_equal(canvas.label == Id.CAR, is_car)
    assert (canvas.label == Id.WALL).any()


def test_turned_object_is_turned_by_180_degrees() -> None:
    canvas = make_canvas(np.random.default_rng(0), (64, 128))
    copy = model("traffic_light", 1)
    turned = copy._replace(points=copy.points * np.array([-1, 1, -1], np.float32))
    labels = []
    for item in (Placed(copy, 2, 20, -1, 20, 1.0), Placed(turned, 2, 20, 1, 20, 1.0)):
        canvas.label[:] = Id.SKY
        canvas.paint([item])
        labels.append(canvas.label.copy())
    assert (labels[0] != Id.SKY).any()
    assert np.array_equal(*labels)
