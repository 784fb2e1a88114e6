"""The C++ programs against Python: the same label maps, the same files, errors in one line."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from paddleseg_segformer.data.io import read_label, write_label
from paddleseg_segformer.files import sha256
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.street_scenes.dataset import render_scene

pytestmark = pytest.mark.slow

MAX_SHARE = 1e-4  # of pixels that may differ: where two classes are equally likely
ENGINES = ("paddle", "openvino")
SIZES_HW = ((97, 131), (64, 200), (150, 100))
SLIDE = {"is_slide": True, "crop_size_hw": [64, 72], "stride_hw": [40, 48]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small images of odd sizes, with a sub-folder."""
    folder = tmp_path_factory.mktemp("images")
    for index, size_hw in enumerate(SIZES_HW):
        name = ("Straße 森.png", "sub/b.jpg", "c.bmp")[index]
        write_image(folder / name, render_scene(index, size_hw)[0])
    return folder


@pytest.fixture
def segment(programs, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a program; results are in `tmp_path / "out"`."""

    def run(
        engine: str, folder: Path, images: Path, *flags: object, reads_onnx: bool = False
    ) -> Any:
        name = "model.onnx" if reads_onnx else "openvino_model.xml"
        is_exported = engine == "paddle" or (folder / name).exists()
        if engine not in programs or (folder.is_dir() and not is_exported):
            # OpenVINO and the converter to it are an extra
            pytest.skip("OpenVINO is missing: pip install 'paddleseg_segformer[openvino]'")
        command = [programs[engine], "--config", folder, "--image_path", images]
        command += ["--save_dir", tmp_path / "out", "--threads", 1, *flags]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    return run


def check_labels(
    folder: Path, images: Path, out: Path, engine: str = "paddle", **overrides: Any
) -> None:
    """Compare label maps with Python's; several classes have to occur."""
    predictor = Predictor.from_export(folder, device="cpu", backend=engine, **overrides)
    paths = sorted(path for path in images.rglob("*") if path.is_file())
    num_pixels = num_different = 0
    classes: set[int] = set()
    for path in paths or [images]:
        name = path.relative_to(images) if paths else Path(path.name)
        expected = predictor(path).label
        found = read_label(out / "pseudo_color_prediction" / name.with_suffix(".png"))
        assert found.shape == expected.shape
        num_pixels += found.size
        num_different += int((found != expected).sum())
        classes |= set(np.unique(expected).tolist())
    assert len(classes) > 3
    assert num_different <= MAX_SHARE * num_pixels


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("SegFormer", "paddle"),
        ("SegFormerMM", "paddle"),
        ("LinearSegmenter", "paddle"),
        ("padded MaskSegmenter", "paddle"),
        ("SegFormer", "openvino"),
        ("SegFormerMM", "openvino"),
        ("LinearSegmenter", "openvino"),
        ("padded MaskSegmenter", "openvino"),
    ],
)
def test_labels_equal_pythons(model, engine, exported, images, segment, tmp_path) -> None:
    for flags, overrides in (
        ([], {}),
        (["--is_slide", "--crop_size", 72, 64, "--stride", 48, 40], SLIDE),
    ):
        done = segment(engine, exported(model), images, *flags)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        check_labels(exported(model), images, tmp_path / "out", engine, **overrides)


@pytest.mark.parametrize("model", ["SegFormer", "LinearSegmenter", "padded MaskSegmenter"])
def test_openvino_runs_an_export_as_onnx_alone(model, exported, images, segment, tmp_path) -> None:
    folder = exported(model, lambda content: content["artefacts"].pop("openvino"))
    for name in ("openvino_model.xml", "openvino_model.bin"):
        (folder / name).rename(tmp_path / name)
    done = segment("openvino", folder, images, "--self_check", reads_onnx=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "labels of the fixture are the model's (" in done.stdout
    check_labels(folder, images, tmp_path / "out", "openvino")


def transforms(*rules: dict[str, Any], **inference: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        content["preprocess"]["transforms"][:0] = rules
        content["inference"].update(inference)

    return edit


SIZE_RULES = {
    "Resize": [{"type": "Resize", "target_size": [120, 90]}],
    "Resize keep_ratio": [
        {"type": "Resize", "target_size": [150, 80], "keep_ratio": True, "size_divisor": 32}
    ],
    "Resize cubic": [{"type": "Resize", "target_size": [90, 120], "interp": "CUBIC"}],
    "Resize area": [{"type": "Resize", "target_size": [70, 50], "interp": "AREA"}],
    "Resize nearest": [{"type": "Resize", "target_size": [70, 150], "interp": "NEAREST"}],
    "Resize lanczos": [{"type": "Resize", "target_size": [90, 120], "interp": "LANCZOS4"}],
    "ResizeByShort": [{"type": "ResizeByShort", "short_size": 75, "max_size": 140}],
    "ResizeByLong": [{"type": "ResizeByLong", "long_size": 111}],
    "LimitLong": [{"type": "LimitLong", "max_long": 140, "min_long": None}],
    "ResizeKeepRatio": [{"type": "ResizeKeepRatio", "scale": [200, 77]}],
    "AlignedResize": [{"type": "AlignedResize", "scale": [200, 77], "size_divisor": 32}],
    "ResizeToMultiple": [{"type": "ResizeToMultiple", "size_divisor": 32}],
    "Padding": [{"type": "Padding", "target_size": [210, 160], "im_padding_value": [1, 50, 99]}],
    "fractional Padding": [
        {"type": "ResizeByLong", "long_size": 90},
        {"type": "ResizeToMultiple", "size_divisor": 16},
        {"type": "Padding", "target_size": [100, 128], "im_padding_value": 127.5},
    ],
    **{
        f"AntialiasResize {name}": [
            {"type": "AntialiasResize", "target_size": [90, 120], "resample": name}
        ]
        for name in ("NEAREST", "BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")
    },
    "AntialiasResizeByShort": [
        {"type": "AntialiasResizeByShort", "short_size": 75, "max_size": None, "resample": "BOX"}
    ],
    "AntialiasResizeByShort limited": [
        {"type": "AntialiasResizeByShort", "short_size": 111, "max_size": 113}
    ],
    "AntialiasResize of floats": [
        {"type": "ResizeByLong", "long_size": 90},
        {"type": "AntialiasResize", "target_size": [64, 70], "resample": "BICUBIC"},
    ],
}


@pytest.mark.parametrize("rules", SIZE_RULES.values(), ids=SIZE_RULES)
def test_size_rules(rules, exported, images, segment, tmp_path) -> None:
    folder = exported("SegFormer", transforms(*rules))
    done = segment("paddle", folder, images)
    assert done.returncode == 0, done.stderr
    check_labels(folder, images, tmp_path / "out")


@pytest.mark.parametrize(
    "edit",
    [
        transforms(SIZE_RULES["ResizeByShort"][0], **SLIDE, window_batch=3),
        transforms(*SIZE_RULES["fractional Padding"], **SLIDE),
        transforms(SIZE_RULES["AntialiasResize BILINEAR"][0], is_one_step=True),
        transforms(SIZE_RULES["ResizeByShort"][0], align_corners=True),
    ],
    ids=["slide after resize", "slide over padding", "one step", "aligned corners"],
)
def test_settings_of_deploy_yaml(edit, exported, images, segment, tmp_path) -> None:
    folder = exported("SegFormer", edit)
    done = segment("paddle", folder, images)
    assert done.returncode == 0, done.stderr
    check_labels(folder, images, tmp_path / "out")


def test_fixed_input_shape(exported, images, segment, tmp_path) -> None:
    """A fixed batch is filled up; another size is told."""

    def fix(content: dict[str, Any]) -> None:
        content["input"]["shape"] = [2, 3, 64, 72]
        content["inference"].update(SLIDE)

    folder = exported("SegFormer", fix)
    done = segment("paddle", folder, images / "c.bmp")
    assert done.returncode == 0, done.stderr
    check_labels(folder, images / "c.bmp", tmp_path / "out")
    done = segment("paddle", folder, images / "c.bmp", "--crop_size", 64, 64)
    assert done.returncode == 1
    assert "found 64x64 px (height x width), but the model was exported for 64x72" in done.stderr


def test_images_of_other_kinds_are_read_as_in_python(exported, segment, tmp_path) -> None:
    image = render_scene(1, (80, 120))[0]
    folder = tmp_path / "images"
    folder.mkdir()
    wide = (image.astype(np.uint16) * 257)[:, :, ::-1]
    cv2.imwrite(str(folder / "16 bit.png"), wide)
    cv2.imwrite(str(folder / "16 bit.tif"), wide)
    cv2.imwrite(str(folder / "grey.png"), image[:, :, 1])
    cv2.imwrite(str(folder / "alpha.png"), np.dstack([image[:, :, ::-1], image[:, :, 0]]))
    Image.fromarray(image).quantize(32).save(folder / "palette.png")
    Image.fromarray(image).save(folder / "webp.webp", lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(image).save(folder / "turned.jpg", exif=turned)
    done = segment("paddle", exported("SegFormer"), folder)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out" / "pseudo_color_prediction"
    shutil.move(folder / "16 bit.tif", folder / "16 bit 2.tif")  # as a suffix would stay
    shutil.move(out / "16 bit.tif.png", out / "16 bit 2.png")
    shutil.move(out / "16 bit.png.png", out / "16 bit.png")
    check_labels(exported("SegFormer"), folder, tmp_path / "out")
    assert read_label(out / "turned.png").shape == (120, 80)


@pytest.mark.parametrize("model", ["one channel", "four channels"])
def test_networks_of_other_channels(model, exported, segment, tmp_path) -> None:
    image = render_scene(2, (90, 70))[0]
    folder = tmp_path / "images"
    folder.mkdir()
    bands = np.dstack([image[:, :, ::-1], image[:, :, 1]])
    if model == "one channel":
        cv2.imwrite(str(folder / "color.png"), image)
    else:
        pages = [Image.fromarray(np.ascontiguousarray(bands[:, :, i])) for i in range(4)]
        pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
        cv2.imwrite(str(folder / "16 bit.png"), bands.astype(np.uint16))
    cv2.imwrite(str(folder / "alpha.png"), bands)
    done = segment("paddle", exported(model), folder)
    assert done.returncode == 0, done.stderr
    check_labels(exported(model), folder, tmp_path / "out")


def test_ids_above_255_are_written_with_16_bits(exported, images, segment, tmp_path) -> None:
    done = segment("paddle", exported("300 classes"), images)
    assert done.returncode == 0, done.stderr
    check_labels(exported("300 classes"), images, tmp_path / "out")
    labels = [read_label(path) for path in (tmp_path / "out").rglob("pseudo*/**/*.png")]
    assert max(label.max() for label in labels) > 255


def test_files_equal_those_of_infer(exported, images, segment, tmp_path) -> None:
    """Names, palette and overlay are what deploy/python/infer.py writes."""
    folder = exported("SegFormer")
    listed = tmp_path / "list.txt"
    shutil.copytree(images, tmp_path / "data")
    listed.write_text("data/Straße 森.png\n\ndata/sub/b.jpg label.png\n", encoding="utf-8")
    done = segment("paddle", folder, listed, "--warmup", 1, "--outputs", "label,overlay")
    assert done.returncode == 0, done.stderr
    for step in ("2 images written", "decode", "preprocess", "network", "upsample+argmax", "write"):
        assert step in done.stdout
    predictor = Predictor.from_export(folder, device="cpu", backend="paddle")
    for name in ("data/Straße 森.png", "data/sub/b.jpg"):
        prediction = predictor(tmp_path / name)
        stem = Path(name).with_suffix(".png")
        with Image.open(tmp_path / "out" / "pseudo_color_prediction" / stem) as file:
            assert file.mode == "P"
            assert (np.asarray(file.convert("RGB")) == prediction.colors).mean() > 1 - 1e-3
        with Image.open(tmp_path / "out" / "added_prediction" / stem) as file:
            assert (np.asarray(file) == prediction.overlay()).mean() > 1 - 1e-3
    assert not list((tmp_path / "out").rglob(".*"))


def test_results_among_the_images_are_not_predicted(exported, images, segment, tmp_path) -> None:
    folder = tmp_path / "out"  # of the results too
    folder.mkdir()
    shutil.copy(images / "c.bmp", folder)
    for _ in range(2):
        done = segment("paddle", exported("SegFormer"), folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert "1 images written" in done.stdout


def test_failed_images_are_reported_and_the_rest_goes_on(
    exported, images, segment, tmp_path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    shutil.copy(images / "c.bmp", folder / "good.bmp")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes((images / "sub" / "b.jpg").read_bytes()[:900])
    np.save(folder / "array.npy", np.zeros((40, 40, 3), np.uint8))
    write_image(folder / "small.png", np.zeros((20, 64, 3), np.uint8))
    write_image(folder / "wide.png", np.zeros((30, 30_000, 3), np.uint8))
    done = segment("paddle", exported("SegFormer"), folder)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith(("failed", "error"))]
    expected = [
        "array.npy: NumPy arrays are not read by this program",
        "broken.png: cannot be decoded as an image",
        "cut.jpg: the JPEG file is cut off",
        "empty.jpg: the file is empty",
        "small.png: image of 20x64 px: the network needs 29 px or more",
        "wide.png: image of 30x30000 px (height x width): more than 8192 px at once",
    ]
    for line, part in zip(lines, expected, strict=False):
        assert part in line
    assert lines[-1] == "error: 6 of 7 images could not be predicted; see above."
    assert len(lines) == 7
    written = (tmp_path / "out" / "pseudo_color_prediction").iterdir()
    assert [path.name for path in written] == ["good.png"]
    done = segment(
        "paddle", exported("SegFormer"), folder / "wide.png", "--is_slide", "--crop_size", 512, 512
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        ("SegFormer", "paddle"),
        ("SegFormer", "openvino"),
        ("padded MaskSegmenter", "openvino"),
        ("300 classes", "paddle"),
        ("one channel", "paddle"),
        ("four channels", "paddle"),
    ],
)
def test_self_check(model, engine, exported, programs) -> None:
    """The fixture is compared on the exported settings, and nothing else is done."""
    if engine not in programs:
        pytest.skip("OpenVINO is missing: pip install 'paddleseg_segformer[openvino]'")
    folder = exported(model, transforms(SIZE_RULES["LimitLong"][0], **SLIDE))
    labels = Predictor.from_export(folder, device="cpu", backend=engine)
    channels = labels.img_channels
    image = folder / ("fixture.png" if channels in (1, 3) else "fixture.tif")
    write_label(folder / "fixture_labels.png", labels(image).label)  # of the edited settings

    def run() -> Any:
        command = [programs[engine], "--config", folder, "--self_check", "--threads", "1"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    content = yaml.safe_load((folder / "deploy.yaml").read_text(encoding="utf-8"))
    content["fixture"]["labels"]["sha256"] = sha256(folder / "fixture_labels.png")
    (folder / "deploy.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    [line] = done.stdout.splitlines()
    assert " of 12707 labels of the fixture are the model's (" in line
    content["preprocess"]["transforms"][-1]["mean"] = [0.1]
    (folder / "deploy.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    done = run()
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "deploy.yaml: self-check failed; " in line


@pytest.mark.parametrize("engine", ENGINES)
def test_damaged_or_missing_model_files(engine, exported, images, segment) -> None:
    folder = exported("SegFormer", lambda content: None)
    name = {"paddle": "model.pdiparams", "openvino": "openvino_model.bin"}[engine]
    assert segment(engine, folder, images).returncode == 0
    content = bytearray((folder / name).read_bytes())
    content[100] ^= 1
    (folder / name).write_bytes(content)
    done = segment(engine, folder, images)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"{name}: the file is damaged or was replaced" in done.stderr
    (folder / name).unlink()
    done = segment(engine, folder, images)
    assert done.returncode == 1
    assert f"{name}: no such file, but deploy.yaml names it" in done.stderr


def test_model_that_paddle_cannot_load(exported, images, segment) -> None:
    """With the right checksum, so that the engine itself has to refuse it."""
    folder = exported("SegFormer", lambda content: None)
    (folder / "model.json").write_bytes(b"{}")
    text = (folder / "deploy.yaml").read_text(encoding="utf-8")
    old = hashlib.sha256((exported("SegFormer") / "model.json").read_bytes()).hexdigest()
    text = text.replace(old, hashlib.sha256(b"{}").hexdigest())
    (folder / "deploy.yaml").write_text(text, encoding="utf-8")
    done = segment("paddle", folder, images)
    assert done.returncode == 1
    assert "model.json: Paddle Inference cannot load it" in done.stderr.splitlines()[-1]


def changed(*keys: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (changed("format", value=99), "format 99, but this program reads formats"),
        (changed("input", "shape", value=[1, 3, "a", 4]), "input.shape: found '[1, 3, a, 4]'"),
        (changed("output", "op", value="argmax"), "exported with --output_op argmax"),
        (changed("palette", value=[[0, 0, 0]]), "found 1 names or colours of classes"),
        (changed("palette", 0, 0, value=256), "palette: found 256, expected numbers in 0..255"),
        (changed("inference", "flip_horizontal", value=True), "scales and flips are not supported"),
        (changed("inference", "flip", value=True), "inference: unknown key 'flip'"),
        (changed("inference", "is_slide", value=True), "a sliding window needs --crop_size"),
        (transforms({"type": "RandomCrop"}), "'RandomCrop' is not supported by this program"),
        (transforms({"type": "LimitLong", "max": 3}), "transforms[0]: unknown key 'max'"),
        (transforms({"type": "Normalize", "mean": [0.5], "std": [0.5]}), "last"),
        (transforms({"type": "Resize", "target_size": [4, 4], "interp": "RANDOM"}), "interp"),
        (changed("classes", value=None), "classes: missing"),
        (changed("artefacts", value={}), "this program runs paddle, which was not exported"),
        (changed("artefacts", "paddle", "files", value=[]), "paddle: found 0 files, expected 2"),
    ],
)
def test_wrong_deploy_yaml_is_one_line(edit, message, exported, images, segment) -> None:
    done = segment("paddle", exported("SegFormer", edit), images)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr


@pytest.mark.parametrize("text", ["", "- a list", "a: [", "\0\0", "format: {}"])
def test_no_deploy_yaml_at_all(text, exported, images, segment) -> None:
    folder = exported("SegFormer", lambda content: None)
    (folder / "deploy.yaml").write_text(text)
    done = segment("paddle", folder, images)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "deploy.yaml: " in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stride", 40, 40], "have no effect without --is_slide"),
        (["--is_slide", "--crop_size", 40, 40, "--stride", 50, 40], "is larger than crop_size"),
        (["--is_slide", "--crop_size", 40], "--crop_size: expected W H"),
        (["--is_slide", "--crop_size", 40, "x"], "--crop_size: found 'x', expected a whole number"),
        (["--outputs", "label,maps"], "--outputs: found 'maps', expected label, overlay or conf"),
        (["--outputs", ""], "--outputs: found nothing"),
        (["--flip_horizontal"], "--flip_horizontal: unknown flag"),
        (["--device", "gpu"], "--device: found 'gpu', but this build offers cpu alone"),
        (["--image_path", "nowhere"], "nowhere: no such file or folder"),
        (["--config", "nowhere"], "nowhere: no such file. Name the folder"),
    ],
)
def test_wrong_flags_are_one_line(flags, message, exported, images, segment) -> None:
    done = segment("paddle", exported("SegFormer"), images, *flags)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_help_lists_the_flags(programs) -> None:
    for program in programs.values():
        done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
        assert "--image_path PATH" in done.stdout


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("temperatures", [None, [1.7], [0.5, 1, 2, 3, 0.7, 1.3, 1.9]])
def test_confidence_and_unknown_pixels_are_pythons(
    engine, temperatures, exported, segment, images, tmp_path
) -> None:
    def calibrate(deploy: dict[str, Any]) -> None:
        if temperatures:
            deploy["inference"]["temperatures"] = temperatures
            deploy["format"] = 6

    folder = exported("SegFormer", calibrate)
    flags = ("--save_confidence", "--min_confidence", 0.3)
    done = segment(engine, folder, images, *flags)
    assert done.returncode == 0, done.stderr
    predictor = Predictor.from_export(folder, device="cpu", backend=engine)
    num_unknown = 0
    for path in sorted(path for path in images.rglob("*") if path.is_file()):
        name = path.relative_to(images).with_suffix(".png")
        prediction = predictor(path)
        found = cv2.imdecode(np.fromfile(tmp_path / "out" / "confidence" / name, np.uint8), -1)
        expected = 255.0 * prediction.confidence
        assert found.shape == expected.shape and expected.std() > 5
        assert abs(found - expected).max() < 1
        label = read_label(tmp_path / "out" / "pseudo_color_prediction" / name)
        is_clear = abs(prediction.confidence - 0.3) > 1e-4
        is_unknown = (prediction.confidence < 0.3) & is_clear
        num_unknown += is_unknown.sum()
        assert (label[is_unknown] == 255).all()
        assert (label[is_clear & ~is_unknown] != 255).all()
    assert num_unknown > 100
