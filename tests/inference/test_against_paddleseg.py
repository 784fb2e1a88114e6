"""Labels and logits are those of PaddleSeg's own inference, its flags meaning the same."""

from __future__ import annotations

import cv2
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from paddle import nn

from paddleseg_segformer.inference.pipeline import Pipeline
from paddleseg_segformer.inference.preprocess import Preprocess
from paddleseg_segformer.inference.settings import InferenceSettings

infer = pytest.importorskip("paddleseg.core.infer")


class Network(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        paddle.seed(3)
        self.conv = nn.Conv2D(3, 7, 7, stride=4, padding=3)
        self.eval()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return 4 * self.conv(x)


@pytest.mark.parametrize("is_slide", [False, True], ids=["whole", "slide"])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("scales", [(1.0,), (0.75, 1.0, 1.25)])
def test_augmented_inference(is_slide, flips, scales) -> None:
    network = Network()
    transforms = [{"type": "ResizeByShort", "short_size": 90}, {"type": "Normalize"}]
    preprocess = Preprocess.from_transforms(transforms)
    coarse = np.random.randint(0, 256, (5, 6, 3), np.uint8)
    image = cv2.resize(coarse, (203, 131), interpolation=cv2.INTER_CUBIC)
    resized, _ = preprocess.resize(image)
    x = paddle.to_tensor(preprocess.normalize.apply(resized).transpose(2, 0, 1)[None])
    with paddle.no_grad():
        label, logits = infer.aug_inference(
            lambda x: [F.interpolate(network(x), size=x.shape[2:], mode="bilinear")],
            x,
            [("resize", image.shape[:2])],
            list(scales),
            *flips,
            is_slide,
            stride=(48, 40),
            crop_size=(48, 64),
        )
    settings = InferenceSettings(is_slide, (64, 48), (40, 48), scales, *flips)
    found = Pipeline(network, preprocess, settings)(image)
    np.testing.assert_array_equal(found.labels(), label[0, 0].numpy())
    expected = F.softmax(logits.astype("float32"), axis=1)[0].numpy()
    np.testing.assert_allclose(found.probabilities(), expected, atol=1e-4)
