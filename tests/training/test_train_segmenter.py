"""A Segmenter trained by the real loop at a crop that is no multiple of its patches."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddleseg_segformer.data.loader import Batch
from paddleseg_segformer.losses import CrossEntropyLoss
from paddleseg_segformer.models import MaskSegmenter, VisionTransformer
from paddleseg_segformer.training.trainer import Trainer


@pytest.mark.parametrize("is_static", [False, True], ids=["dygraph", "static"])
@pytest.mark.parametrize("pad_input", [False, True])
def test_crop_that_is_no_multiple_of_the_patch_trains(pad_input, is_static) -> None:
    paddle.seed(0)
    backbone = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, pad_input=pad_input
    )
    model = MaskSegmenter(3, backbone, 24, 1, 3)
    if is_static:
        model = paddle.jit.to_static(model, full_graph=True)
    schedule = paddle.optimizer.lr.StepDecay(learning_rate=3e-3, step_size=1000)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters())
    rng = np.random.default_rng(0)
    label = np.zeros((2, 30, 44), np.uint8)
    label[:, :15, :22], label[:, 15:] = 1, 2
    image = (label[:, None] * 100 + rng.integers(0, 40, (2, 3, 30, 44))).astype(np.uint8)
    losses, shapes = [], []
    cross_entropy = CrossEntropyLoss()

    def loss(logits: paddle.Tensor, target: paddle.Tensor) -> paddle.Tensor:
        shapes.append(logits.shape)
        losses.append(cross_entropy(logits, target))
        return losses[-1]

    def batches(start: int):
        while True:
            yield Batch(image, label, [0, 1])

    Trainer(
        model,
        optimizer,
        schedule,
        loss,
        batches,
        lambda x: x.astype("float32") / 127.5 - 1,
        iters=40,
    ).train()
    assert shapes[0] == [2, 3, 30, 44]
    assert float(losses[-1]) < 0.6 * float(losses[0])
