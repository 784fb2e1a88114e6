from __future__ import annotations

import json
import logging

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface import SegformerFeatureExtractor, SegformerImageProcessor
from paddleseg_segformer.huggingface.outputs import LogitsOutput
from paddleseg_segformer.weights.sidecars.hub_processor import HubProcessor

SMALL = SegformerImageProcessor(size={"height": 24, "width": 32})


def random_image(*shape: int) -> np.ndarray:
    return np.random.randint(0, 256, shape, dtype=np.uint8)


def test_every_kind_of_image_gives_the_same_pixels() -> None:
    image = random_image(40, 56, 3)
    kinds = [image, Image.fromarray(image), image.transpose(2, 0, 1), paddle.to_tensor(image)]
    expected = SMALL(image)["pixel_values"].numpy()
    assert expected.shape == (1, 3, 24, 32) and expected.dtype == np.float32
    for kind in (*kinds, [image], image[None]):
        np.testing.assert_array_equal(SMALL(kind).pixel_values.numpy(), expected)
    grey = random_image(40, 56)
    np.testing.assert_array_equal(
        SMALL(grey).pixel_values.numpy(), SMALL(Image.fromarray(grey)).pixel_values.numpy()
    )


def test_steps_are_switched_off_one_by_one() -> None:
    image = random_image(29, 31, 3)
    plain = {"do_resize": False, "do_rescale": False, "do_normalize": False}
    as_is = SMALL(image, **plain).pixel_values[0].numpy()
    np.testing.assert_array_equal(as_is, image.transpose(2, 0, 1))
    rescaled = SMALL(image, **{**plain, "do_rescale": True, "rescale_factor": 0.5})
    np.testing.assert_allclose(rescaled.pixel_values[0].numpy(), as_is / 2)
    normed = SMALL(image, **{**plain, "do_normalize": True}, image_mean=[1, 2, 3], image_std=4.0)
    expected = (as_is - np.float32([1, 2, 3])[:, None, None]) / 4
    np.testing.assert_allclose(normed.pixel_values[0].numpy(), expected, rtol=1e-6)
    np.testing.assert_array_equal(SMALL.size["height"], 24)  # overrides hold for one call


def test_labels_are_reduced_before_they_are_resized_and_images_never() -> None:
    label = np.array([[0, 1, 2, 150], [254, 255, 0, 7]], np.uint8)
    image = np.full((2, 4, 3), 0, np.uint8)
    processor = SegformerImageProcessor(
        do_resize=False, do_rescale=False, do_normalize=False, reduce_labels=True
    )
    assert processor.do_reduce_labels
    features = processor(image, label)
    assert features.labels.dtype == paddle.int64
    assert features.labels[0].tolist() == [[255, 0, 1, 149], [253, 255, 255, 6]]
    assert float(features.pixel_values.abs().max()) == 0
    kept = processor(image, label, do_reduce_labels=False).labels
    np.testing.assert_array_equal(kept[0].numpy(), label)
    resized = processor(image, label, do_resize=True, size={"height": 4, "width": 8}).labels
    assert set(resized.numpy().ravel().tolist()) == {255, 0, 1, 149, 253, 6}
    assert label[0, 0] == 0  # the caller's map stays as it was


def test_lists_of_images_and_maps() -> None:
    images = [random_image(40, 56, 3), random_image(33, 20, 3)]
    maps = [Image.fromarray(random_image(40, 56)), random_image(33, 20, 1)]
    for one in (maps[1], maps[1][:, :, 0], maps[1].transpose(2, 0, 1)):
        assert SMALL(images[1], one).labels.shape == [1, 24, 32]
    features = SMALL(images, segmentation_maps=maps)
    assert features["pixel_values"].shape == [2, 3, 24, 32]
    assert features["labels"].shape == [2, 24, 32]
    as_arrays = SMALL(images, maps, return_tensors="np")
    assert isinstance(as_arrays.labels, np.ndarray)
    as_lists = SMALL(images, maps, return_tensors=None, do_resize=False)
    assert [item.shape for item in as_lists.labels] == [(40, 56), (33, 20)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": random_image(8, 8, 3), "return_tensors": "pt"}, "found 'pt', expected 'pd'"),
        ({"images": [random_image(8, 8, 3)] * 2, "segmentation_maps": [random_image(8, 8)]}, "1 f"),
        (
            {"images": random_image(8, 8, 3), "segmentation_maps": [random_image(8, 8, 3)]},
            "class ids",
        ),
        ({"images": random_image(8, 8, 3), "segmentation_maps": np.zeros((8, 8))}, "float64"),
        ({"images": ["a"]}, "images: found 'a', expected PIL images"),
        ({"images": "street.jpg"}, "images: found 'street.jpg'.* PIL.Image.open"),
        ({"images": None}, "images: found None"),
        ({"images": np.array([["a"]])}, r"<U1 of shape \(1, 1\)"),
        ({"images": random_image(0, 8, 3)}, r"uint8 of shape \(0, 8, 3\)"),
        ({"images": random_image(8, 8, 3), "image_std": [1.0, 0.0, 1.0]}, "image_std: .* not 0"),
        ({"images": random_image(4, 8, 8)}, r"uint8 of shape \(4, 8, 8\).* input_data_format"),
        ({"images": random_image(8, 8, 3), "image_mean": [0.5, 0.5]}, "image_mean: found 2 numb"),
        ({"images": random_image(8, 8, 3), "image_std": [0.5] * 4}, "image_std: found 4 .* 3 ch"),
        (
            {"images": random_image(6, 8, 3), "segmentation_maps": random_image(6, 8, 3)},
            r"found shape \(6, 8, 3\) for 1 images, expected class ids",
        ),
        ({"images": random_image(8, 8, 3), "data_format": "nchw"}, "data_format: found 'nchw'"),
        ({"images": [random_image(8, 8, 3), random_image(8, 9, 3)], "do_resize": False}, "2 diff"),
        ({"images": random_image(8, 8, 3), "size": {"longest_edge": 8}}, "or shortest_edge"),
        ({"images": random_image(8, 8, 3), "resample": 9}, "resample: found 9"),
    ],
)
def test_mistakes_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SMALL(**arguments)


def test_layouts_of_arrays_are_as_told() -> None:
    image = random_image(3, 40, 3)  # rows or channels first
    told = SMALL(image, input_data_format="channels_last", return_tensors="np").pixel_values
    expected = SMALL(Image.fromarray(image), return_tensors="np").pixel_values
    np.testing.assert_array_equal(told, expected)
    last = SMALL(Image.fromarray(image), data_format="channels_last", return_tensors="np")
    np.testing.assert_array_equal(last.pixel_values, told.transpose(0, 2, 3, 1))
    bands = random_image(4, 24, 32)
    means = {"image_mean": [0.1, 0.2, 0.3, 0.4], "image_std": [1.0] * 4, "do_resize": False}
    found = SMALL(bands, **means).pixel_values[0].numpy()
    expected = bands / 255 - np.array(means["image_mean"])[:, None, None]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_images_of_pillow_stay_as_they_are_on_request() -> None:
    image = Image.fromarray(random_image(8, 8, 4), "RGBA")
    rgb = SMALL(image.convert("RGB")).pixel_values.numpy()
    np.testing.assert_array_equal(SMALL(image).pixel_values.numpy(), rgb)
    np.testing.assert_array_equal(SMALL(image, do_convert_rgb=None).pixel_values.numpy(), rgb)
    with pytest.raises(UserError, match="image_mean: found 3 numbers, .* 4 channels"):
        SMALL(image, do_convert_rgb=False)


def test_lists_in_lists_are_one_batch() -> None:
    images = [random_image(8, 9, 3) for _ in range(3)]
    found = SMALL([images[:1], images[1:]], [[images[0][..., 0]], [x[..., 0] for x in images[1:]]])
    flat = SMALL(images, [x[..., 0] for x in images])
    for name in ("pixel_values", "labels"):
        np.testing.assert_array_equal(found[name].numpy(), flat[name].numpy())


def test_unknown_settings_are_ignored_with_a_warning(caplog) -> None:
    image = random_image(8, 8, 3)
    with caplog.at_level(logging.WARNING, "paddleseg_segformer"):
        processor = SegformerFeatureExtractor(size=16, do_pad=True)
        found = processor(image, crop=3)
    assert "unknown settings are ignored: do_pad" in caplog.text and "crop" in caplog.text
    expected = SegformerImageProcessor(size=[16, 16])(image)
    np.testing.assert_array_equal(found.pixel_values.numpy(), expected.pixel_values.numpy())


def test_settings_as_plain_data(tmp_path) -> None:
    processor = SegformerImageProcessor.from_dict({"size": [8, 9], "other": 1}, do_resize=False)
    assert processor.size == {"height": 8, "width": 9} and not processor.do_resize
    processor.to_json_file(tmp_path / "a.json")
    assert json.loads(processor.to_json_string()) == json.loads((tmp_path / "a.json").read_text())
    assert (
        SegformerImageProcessor.from_json_file(tmp_path / "a.json").to_dict() == processor.to_dict()
    )
    processor.save_pretrained(tmp_path / "sub")
    loaded = SegformerImageProcessor.from_pretrained(
        tmp_path, subfolder="sub", local_files_only=True, do_resize=True
    )
    assert loaded.do_resize


def test_scores_come_with_the_maps_on_request() -> None:
    logits = np.random.randn(2, 5, 8, 10).astype(np.float32)
    outputs = LogitsOutput(logits=paddle.to_tensor(logits))
    for item, expected in zip(
        SMALL.post_process_semantic_segmentation(outputs, return_segmentation_scores=True),
        logits,
        strict=True,
    ):
        np.testing.assert_array_equal(item["segmentation_scores"].numpy(), expected)
        np.testing.assert_array_equal(item.segmentation.numpy(), expected.argmax(0))
    (first, _) = SMALL.post_process_semantic_segmentation(outputs, [(16, 20), (3, 4)], True)
    rows = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
    columns = np.clip((np.arange(20) + 0.5) / 2 - 0.5, 0, 9)
    tall = [[np.interp(rows, range(8), x) for x in plane.T] for plane in logits[0]]  # (K, w, H)
    full = [[np.interp(columns, range(10), x) for x in np.transpose(plane)] for plane in tall]
    np.testing.assert_allclose(first.segmentation_scores.numpy(), full, atol=1e-5)
    assert first.segmentation.shape == [16, 20]


def test_saved_settings_load_back(tmp_path) -> None:
    processor = SegformerImageProcessor(
        size=64, resample=3, do_reduce_labels=True, image_std=[1.0] * 3
    )
    processor.save_pretrained(tmp_path)
    assert SegformerImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    assert SegformerImageProcessor.from_pretrained(tmp_path, do_resize=False).do_resize is False
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert content["image_processor_type"] == "SegformerImageProcessor"
    assert content["size"] == {"height": 64, "width": 64}


def test_settings_of_older_versions_are_read(tmp_path) -> None:
    old = {"feature_extractor_type": "SegformerFeatureExtractor", "size": 48, "reduce_labels": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    processor = SegformerImageProcessor.from_pretrained(tmp_path)
    assert processor.size == {"height": 48, "width": 48} and processor.do_reduce_labels


@pytest.mark.parametrize("text", ["", "[1]", '{"size": {"longest_edge": 3}}'])
def test_damaged_settings_name_the_file(tmp_path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(UserError, match="preprocessor_config.json: "):
        SegformerImageProcessor.from_pretrained(tmp_path)


def test_missing_settings_name_the_file(tmp_path) -> None:
    with pytest.raises(UserError, match="preprocessor_config.json: no such file"):
        SegformerImageProcessor.from_pretrained(tmp_path / "none")


def test_labels_of_outputs_at_other_sizes() -> None:
    logits = paddle.randn([2, 19, 8, 10])
    sizes = [(32, 40), (45, 17)]
    labels = SMALL.post_process_semantic_segmentation(LogitsOutput(logits=logits), sizes)
    for index, (label, size_hw) in enumerate(zip(labels, sizes, strict=True)):
        resized = paddle.nn.functional.interpolate(
            logits[index : index + 1], size_hw, mode="bilinear"
        )
        assert tuple(label.shape) == size_hw and label.dtype == paddle.int64
        assert float((label == resized[0].argmax(0)).astype("float32").mean()) > 0.998
    as_tensor = SMALL.post_process_semantic_segmentation(
        LogitsOutput(logits=logits), paddle.to_tensor(sizes)
    )
    np.testing.assert_array_equal(as_tensor[1].numpy(), labels[1].numpy())


def test_labels_of_outputs_without_sizes_have_the_logits_size() -> None:
    logits = paddle.randn([2, 5, 8, 10])
    labels = SMALL.post_process_semantic_segmentation(LogitsOutput(logits=logits))
    np.testing.assert_array_equal(np.stack(labels), logits.numpy().argmax(1))


def test_sizes_of_another_number_of_images_are_refused() -> None:
    with pytest.raises(UserError, match="found 1 sizes for 2 images"):
        SMALL.post_process_semantic_segmentation(
            LogitsOutput(logits=paddle.zeros([2, 3, 4, 4])), [(8, 8)]
        )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("size", {"height": "512", "width": 512}),
        ("size", [512, 512, 3]),
        ("size", {"longest_edge": 512}),
        ("size", {"height": 10**40, "width": 512}),
        ("resample", {}),
        ("rescale_factor", "1/255"),
        ("image_mean", [0.5, None, 0.5]),
        ("image_std", {"a": 1}),
        ("do_resize", "yes"),
    ],
)
def test_setting_of_the_wrong_kind_in_a_file_is_one_line(tmp_path, key, value):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({key: value}))
    with pytest.raises(UserError, match=rf"preprocessor_config.json: {key}: found .*, expected"):
        SegformerImageProcessor.from_pretrained(tmp_path)


def test_size_as_a_pair_is_height_and_width_as_in_transformers():
    assert HubProcessor(size=[384, 512]).size == {"height": 384, "width": 512}
    transformers = pytest.importorskip("transformers")
    theirs = transformers.SegformerImageProcessor(size=[384, 512]).size
    assert (theirs["height"], theirs["width"]) == (384, 512)
