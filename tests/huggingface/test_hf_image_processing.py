from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface import SegformerImageProcessor
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
        ({"images": ["a"]}, "images: found <U1"),
        ({"images": [random_image(8, 8, 3), random_image(8, 9, 3)], "do_resize": False}, "2 diff"),
        ({"images": random_image(8, 8, 3), "size": {"longest_edge": 8}}, "or shortest_edge"),
        ({"images": random_image(8, 8, 3), "resample": 9}, "resample: found 9"),
    ],
)
def test_mistakes_are_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SMALL(**arguments)


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
