"""The image processor against transformers' own: pixels, maps and labels of outputs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddleseg_segformer.data.resize import AntialiasResizeByShort
from paddleseg_segformer.huggingface import SegformerImageProcessor
from paddleseg_segformer.huggingface.outputs import LogitsOutput
from paddleseg_segformer.inference.preprocess import Preprocess

pytest.importorskip("transformers")
torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def theirs() -> type:
    from transformers.models.segformer.image_processing_pil_segformer import (
        SegformerImageProcessorPil,
    )

    return SegformerImageProcessorPil


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"height": 70, "width": 33}, "resample": 3},
        {"size": {"height": 300, "width": 512}, "resample": 0, "image_mean": [0.5, 0.4, 0.3]},
        {"do_resize": False, "do_reduce_labels": True},
        {"do_rescale": False, "do_normalize": False, "size": {"height": 64, "width": 64}},
        {"size": {"shortest_edge": 97}, "do_reduce_labels": True},
        {"size": {"shortest_edge": 41}, "resample": 3},
        {"size": {"shortest_edge": 512, "longest_edge": 600}},
        {"rescale_factor": 1 / 127.5, "image_std": [0.5, 0.6, 0.7], "do_reduce_labels": True},
    ],
)
def test_pixels_and_maps_are_theirs(theirs: type, settings: dict) -> None:
    image = np.random.randint(0, 256, (97, 131, 3), dtype=np.uint8)
    label = np.random.randint(0, 256, (97, 131), dtype=np.uint8)
    expected = theirs(**settings)(image, label.copy(), return_tensors="np")
    found = SegformerImageProcessor(**settings)(image, label, return_tensors="np")
    np.testing.assert_allclose(found["pixel_values"], expected["pixel_values"], atol=2e-6)
    np.testing.assert_array_equal(found["labels"], expected["labels"])


def test_sizes_that_keep_the_ratio_are_theirs() -> None:
    from transformers.image_transforms import (
        get_resize_output_image_size,
        get_size_with_aspect_ratio,
    )

    rng = np.random.default_rng(0)
    for height, width, short_size, limit in rng.integers(1, 3000, (2000, 4)).tolist():
        limit = max(limit, short_size)
        found = AntialiasResizeByShort(short_size, limit).new_size_hw(height, width)
        expected = get_size_with_aspect_ratio((height, width), short_size, limit)
        assert found == tuple(max(1, side) for side in expected)
        image = np.broadcast_to(np.uint8(0), (3, height, width))
        expected = get_resize_output_image_size(image, short_size, default_to_square=False)
        assert AntialiasResizeByShort(short_size).new_size_hw(height, width) == expected


@pytest.mark.parametrize(
    "size", [512, [48, 80], {"shortest_edge": 50}, {"shortest_edge": 50, "longest_edge": 60}]
)
def test_sizes_in_a_folder_are_read_as_theirs(theirs: type, tmp_path, size) -> None:
    content = {"image_processor_type": "SegformerImageProcessor", "size": size}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    image = np.random.randint(0, 256, (97, 131, 3), dtype=np.uint8)
    expected = theirs.from_pretrained(tmp_path)(image, return_tensors="np")["pixel_values"]
    processor = SegformerImageProcessor.from_pretrained(tmp_path)
    np.testing.assert_allclose(
        processor(image, return_tensors="np")["pixel_values"], expected, 0, 2e-6
    )
    prepared = Preprocess.from_transforms(processor.transforms()).resize(image)[0]
    assert prepared.shape[:2] == expected.shape[2:]


def test_settings_are_exchanged_by_file(theirs: type, tmp_path) -> None:
    settings = {"size": {"height": 48, "width": 80}, "do_reduce_labels": True, "resample": 3}
    theirs(**settings).save_pretrained(tmp_path / "theirs")
    read = SegformerImageProcessor.from_pretrained(tmp_path / "theirs")
    assert (read.size, read.do_reduce_labels, read.resample) == tuple(settings.values())
    read.save_pretrained(tmp_path / "ours")
    back = theirs.from_pretrained(tmp_path / "ours")
    assert (back.size["height"], back.size["width"], back.do_reduce_labels) == (48, 80, True)


@pytest.mark.parametrize("num_classes", [2, 150])
def test_labels_of_outputs_are_theirs(theirs: type, num_classes: int) -> None:
    logits = np.random.randn(2, num_classes, 16, 24).astype(np.float32)
    sizes = [(64, 96), (131, 77)]
    outputs = SimpleNamespace(logits=torch.from_numpy(logits))
    expected = theirs().post_process_semantic_segmentation(outputs, sizes)
    ours = SegformerImageProcessor()
    found = ours.post_process_semantic_segmentation(
        LogitsOutput(logits=paddle.to_tensor(logits)), sizes
    )
    for label, other in zip(found, expected, strict=True):
        assert (label.numpy() != other.numpy()).mean() < 2e-4  # ties within rounding
    expected = theirs().post_process_semantic_segmentation(outputs)
    found = ours.post_process_semantic_segmentation(LogitsOutput(logits=paddle.to_tensor(logits)))
    for label, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(label.numpy(), other.numpy())
