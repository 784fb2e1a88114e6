"""The static page in a real browser: Python's labels, what is drawn, errors in one line."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.deployment.browser import (
    BROWSERS,
    SurfaceResult,
    browser_labels,
    browser_page,
    build_page,
    label_on_page,
    served_page,
    wait_until_ready,
)
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.inference.overlay import overlay, write_image
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.predictor import Predictor
from paddleseg_segformer.street_scenes.dataset import render_scene

pytestmark = pytest.mark.slow

MIN_AGREEMENT = 0.9999
SIZES_HW = ((97, 131), (64, 200), (150, 100))
SLIDE = {"is_slide": True, "crop_size_hw": [64, 72], "stride_hw": [40, 48]}
SIZE_RULES: dict[str, list[dict[str, Any]]] = {
    "Resize": [{"type": "Resize", "target_size": [120, 90]}],
    "Resize keep_ratio": [
        {"type": "Resize", "target_size": [150, 80], "keep_ratio": True, "size_divisor": 32}
    ],
    "ResizeByShort": [{"type": "ResizeByShort", "short_size": 75, "max_size": 140}],
    "ResizeByLong": [{"type": "ResizeByLong", "long_size": 111}],
    "LimitLong": [{"type": "LimitLong", "max_long": 140, "min_long": None}],
    "ResizeKeepRatio": [{"type": "ResizeKeepRatio", "scale": [200, 77]}],
    "AlignedResize": [{"type": "AlignedResize", "scale": [200, 77], "size_divisor": 32}],
    "ResizeToMultiple, Padding": [
        {"type": "ResizeToMultiple", "size_divisor": 32},
        {"type": "Padding", "target_size": [224, 160], "im_padding_value": [1, 50, 99]},
    ],
    "resizes, fractional Padding": [
        {"type": "ResizeByLong", "long_size": 90},
        {"type": "ResizeToMultiple", "size_divisor": 16},
        {"type": "Padding", "target_size": [100, 128], "im_padding_value": 127.5},
    ],
}


@pytest.fixture(scope="session")
def built_page() -> None:
    """Build the page."""
    has_browser = any(map(shutil.which, BROWSERS)) and find_spec("playwright")
    if not (shutil.which("npm") and has_browser and find_spec("onnx")):
        # system packages and a large one of Python that nothing else needs
        pytest.skip("needs npm, chromium, and pip install playwright '.[onnx]'")
    build_page()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"Straße {index}.png" for index in range(len(SIZES_HW))]
    for index, (path, size_hw) in enumerate(zip(paths, SIZES_HW, strict=True)):
        write_image(path, render_scene(index, size_hw)[0])
    return paths


@pytest.fixture(scope="module")
def browser(built_page) -> Iterator[Any]:
    with browser_page() as page:
        yield page.context.browser


@pytest.fixture
def page(browser) -> Iterator[Any]:
    """Return an empty page; it fails on errors in the console and on requests to elsewhere."""
    messages: list[str] = []
    urls: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.on("console", lambda message: messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    yield page
    page.close()
    assert messages == []
    assert urls
    assert [
        url for url in urls if not url.startswith(("http://127.0.0.1:", "blob:", "data:"))
    ] == []


def edit(**changes: Any) -> Any:
    """Return a function that puts size rules and settings into the content of a deploy.yaml."""

    def apply(content: dict[str, Any]) -> None:
        content["preprocess"]["transforms"][:0] = changes.pop("rules", [])
        content["inference"].update(changes)

    return apply


def check_labels(export: Path, images: list[Path], found: list[SurfaceResult]) -> None:
    """Compare the page's label maps with Python's; several classes have to occur."""
    predictor = Predictor.from_export(export, device="cpu", backend="paddle")
    expected = [predictor(path).label for path in images]
    assert [item.label.shape for item in found] == [label.shape for label in expected]
    pairs = zip(found, expected, strict=True)
    same = np.concatenate([(item.label == label).ravel() for item, label in pairs])
    assert len(np.unique(np.concatenate([label.ravel() for label in expected]))) > 2
    assert same.mean() >= MIN_AGREEMENT
    assert all(item.ms["total"] >= item.ms["network"] > 0 for item in found)


def test_labels_equal_pythons(built_page, exported, images) -> None:
    export = exported("SegFormerMM")
    check_labels(export, images, browser_labels(export, images))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        SLIDE,
        {"rules": SIZE_RULES["Resize"], "is_one_step": True},
        {"rules": SIZE_RULES["resizes, fractional Padding"], **SLIDE},
        {"rules": SIZE_RULES["Resize"], "align_corners": True},
    ],
    ids=["whole", "slide", "one step", "slide over padding", "aligned corners"],
)
def test_settings_of_deploy_yaml(settings, exported, images, page) -> None:
    export = exported("SegFormer", edit(**settings))
    with served_page(export) as url:
        page.goto(url)
        wait_until_ready(page)
        check_labels(export, images, [label_on_page(page, path) for path in images])


def test_size_rules_give_pythons_pixels(exported, page) -> None:
    """Bytes are equal, floating-point values up to rounding."""
    with served_page(exported("SegFormer")) as url:
        page.goto(url)
        wait_until_ready(page)
        for rules in SIZE_RULES.values():
            for index, (height, width) in enumerate(SIZES_HW):
                image = render_scene(index, (height, width))[0]
                planes = base64.b64encode(image.transpose(2, 0, 1).tobytes()).decode()
                name, size_hw, text = page.evaluate(
                    """async ([height, width, text, rules]) => {
                        const { applySizeRules } = await import("./size_rules.js");
                        const planes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt());
                        const { image } = applySizeRules({ height, width, planes }, rules);
                        const bytes = new Uint8Array(image.planes.buffer);
                        const letters = Array.from(bytes, (byte) => String.fromCharCode(byte));
                        const type = image.planes.constructor.name;
                        return [type, [image.height, image.width], btoa(letters.join(""))];
                    }""",
                    [height, width, planes, rules],
                )
                dtype = {"Uint8Array": np.uint8, "Float32Array": np.float32}[name]
                found = np.frombuffer(base64.b64decode(text), dtype)
                expected, _ = Preprocess.from_transforms(rules).resize(image)
                result = np.reshape(found, (3, *size_hw)).transpose(1, 2, 0)
                assert result.dtype == expected.dtype
                tolerance = 0 if expected.dtype == np.uint8 else 2e-3
                np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def shown(page: Any) -> np.ndarray:
    """Return the picture on the page, (H, W, 3)."""
    url = page.evaluate("document.getElementById('picture').toDataURL('image/png')")
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def difference(left: np.ndarray, right: np.ndarray) -> int:
    return int(np.abs(left.astype(int) - right.astype(int)).max())


def test_classes_and_opacity_change_the_picture(exported, images, page) -> None:
    export = exported("SegFormer")
    predictor = Predictor.from_export(export, device="cpu", backend="paddle")
    prediction = predictor(images[0])
    with served_page(export) as url:
        page.goto(url)
        wait_until_ready(page)
        label = label_on_page(page, images[0]).label
        assert (
            difference(shown(page), overlay(prediction.image, label, predictor.label_set, 0.6)) <= 1
        )

        names = page.locator("#classes label span:nth-child(3)").all_inner_texts()
        counts = np.bincount(label.ravel(), minlength=predictor.label_set.num_classes)
        order = sorted(np.flatnonzero(counts), key=lambda index: -counts[index])
        assert names == [predictor.label_set.classes[index] for index in order]
        share = page.locator("#classes .share").first.inner_text()
        assert float(share.removesuffix(" %")) == pytest.approx(
            100 * counts.max() / label.size, abs=0.06
        )

        page.get_by_text(names[0], exact=True).click()
        is_hidden = (label == order[0])[:, :, None]
        expected = overlay(prediction.image, label, predictor.label_set, 0.6)
        expected = np.where(is_hidden, prediction.image, expected)
        assert difference(shown(page), expected) <= 1

        page.fill("#opacity", "100")
        expected = np.where(is_hidden, prediction.image, prediction.colors)
        assert difference(shown(page), expected) == 0
        page.click("#show-none")
        assert difference(shown(page), prediction.image) == 0
        page.click("#show-all")
        assert difference(shown(page), prediction.colors) == 0


@pytest.mark.parametrize("temperatures", [None, [1.7], [0.5, 1, 2, 3, 0.7, 1.3, 1.9]])
def test_pointer_tells_class_and_confidence(exported, images, page, temperatures) -> None:
    def calibrate(deploy: dict[str, Any]) -> None:
        if temperatures:
            deploy["inference"]["temperatures"] = temperatures
            deploy["format"] = 6

    export = exported("SegFormer", calibrate)
    predictor = Predictor.from_export(export, device="cpu", backend="paddle")
    prediction = predictor(images[0])
    height, width = prediction.label.shape
    with served_page(export) as url:
        page.goto(url)
        wait_until_ready(page)
        label_on_page(page, images[0])
        before = shown(page)
        page.get_by_text("Confidence").click()
        wait_until_ready(page)
        assert difference(shown(page), before) > 50
        box = page.locator("#picture").bounding_box()
        for row, column in ((10, 20), (50, 70), (90, 120)):
            page.mouse.move(
                box["x"] + (column + 0.5) / width * box["width"],
                box["y"] + (row + 0.5) / height * box["height"],
            )
            name, _, sure = page.inner_text("#hover").partition(", confidence ")
            assert name == predictor.label_set.classes[prediction.label[row, column]]
            expected = 100 * prediction.confidence[row, column]
            assert float(sure.removesuffix(" %")) == pytest.approx(expected, abs=0.8)


def test_kinds_of_image_files(exported, page, tmp_path) -> None:
    """Grey, palette, transparent, 16 bits, gamma, turned by EXIF: Python reads the same pixels."""
    scene = render_scene(1, SIZES_HW[0])[0]
    image = Image.fromarray(scene)
    transparent = np.dstack(
        [
            scene,
            np.repeat([[[0]], [[100]], [[255]]], [20, 37, 40], axis=0)
            .repeat(scene.shape[1], axis=1)
            .astype(np.uint8),
        ]
    )
    gamma = PngInfo()
    gamma.add(b"gAMA", (22222).to_bytes(4, "big"))
    exif = Image.Exif()
    exif[274] = 6  # orientation: turned by a quarter
    image.convert("L").save(tmp_path / "grey.png")
    image.quantize(64).save(tmp_path / "palette.png")
    Image.fromarray(transparent).save(tmp_path / "transparent.png")
    cv2.imwrite(str(tmp_path / "sixteen.png"), scene.astype(np.uint16) * 256)
    image.save(tmp_path / "gamma.png", pnginfo=gamma)
    image.save(tmp_path / "turned.jpg", exif=exif)
    image.save(tmp_path / "lossless.webp", lossless=True)
    paths = sorted(tmp_path.iterdir())
    export = exported("SegFormer")
    with served_page(export) as url:
        page.goto(url)
        wait_until_ready(page)
        for path in paths:
            check_labels(export, [path], [label_on_page(page, path)])


def test_dropped_image_is_predicted(exported, images, page) -> None:
    with served_page(exported("SegFormer")) as url:
        page.goto(url)
        wait_until_ready(page)
        files = page.evaluate_handle(
            """(text) => {
                const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt());
                const files = new DataTransfer();
                files.items.add(new File([bytes], "dropped.png", { type: "image/png" }));
                return files;
            }""",
            base64.b64encode(images[1].read_bytes()).decode(),
        )
        page.dispatch_event("#drop", "drop", {"dataTransfer": files})
        wait_until_ready(page)
        assert shown(page).shape[:2] == SIZES_HW[1]


def test_model_files_and_image_are_chosen_by_hand(exported, images, page, tmp_path) -> None:
    """Wrong files are told in a line, and the right ones then work."""
    export = exported("SegFormer")
    files = [export / "model.onnx", export / "deploy.yaml"]
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(files[0].read_bytes()[:-1] + b"x")
    broken = tmp_path / "broken.png"
    broken.write_bytes(images[0].read_bytes()[:60])
    no_image = tmp_path / "notes.txt"
    no_image.write_text("no image")
    cases = [
        ("#image-file", [images[0]], "No model is loaded"),
        ("#model-files", files[:1], "expected model.onnx and deploy.yaml of one export"),
        ("#model-files", [damaged, files[1]], "model.onnx: damaged, or not the model"),
        ("#model-files", files, None),
        ("#image-file", [broken], "broken.png: cannot be decoded as an image"),
        ("#image-file", [no_image], "notes.txt: cannot be read as an image"),
        ("#image-file", [images[0]], None),
    ]
    with served_page(export) as url:
        page.goto(url.partition("?")[0])
        wait_until_ready(page)
        for field, chosen, message in cases:
            page.set_input_files(field, chosen)
            if message is None:
                wait_until_ready(page)
                assert not page.locator("#error").is_visible()
                continue
            with pytest.raises(UserError, match=message) as error:
                wait_until_ready(page)
            assert "\n" not in str(error.value)
            assert page.locator("#error").is_visible()
        assert shown(page).shape[:2] == SIZES_HW[0]


REFUSED: dict[str, Any] = {
    "found format 99": lambda content: content.update(format=99),
    "AntialiasResize": edit(
        rules=[{"type": "AntialiasResize", "target_size": [64, 64], "resample": "BICUBIC"}]
    ),
    "averages over scales": edit(scales=[0.5, 1.0]),
    "runs onnx": lambda content: content["artefacts"].pop("onnx"),
    "has preprocess.value_range": lambda content: content["preprocess"].update(value_range="data"),
    "--output_op argmax": lambda content: content["output"].update(op="argmax"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_page_cannot_run_is_told(message, exported, page) -> None:
    with served_page(exported("SegFormer", REFUSED[message])) as url:
        page.goto(url)
        with pytest.raises(UserError, match=message) as error:
            wait_until_ready(page)
        assert "\n" not in str(error.value)
