"""The image processor against transformers' own: pixels, maps and labels of outputs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddleseg_segformer.huggingface import SegformerImageProcessor
from paddleseg_segformer.huggingface.outputs import LogitsOutput

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
