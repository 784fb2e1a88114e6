from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export.folding import fold


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("head", ["SegFormer", "SegFormerMM"])
def test_folded_head_gives_the_same_logits(small_model, head, align_corners) -> None:
    model = small_model(head, align_corners=align_corners)
    before = {key: value.numpy() for key, value in model.state_dict().items()}
    folded = fold(model)
    for height, width in ((64, 96), (97, 131), (29, 29)):
        x = paddle.randn([2, 3, height, width])
        with paddle.no_grad():
            expected, found = model(x).numpy(), folded(x).numpy()
        assert expected.std() > 0.3
        assert np.abs(found - expected).max() <= 1e-5 * expected.std()
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


def test_folded_head_has_no_batch_norm_and_fewer_weights(small_model) -> None:
    model = small_model()
    folded = fold(model)
    layers = [type(layer) for layer in folded.sublayers()]
    assert nn.BatchNorm2D not in layers
    assert nn.Dropout2D not in layers
    num_head = sum(p.size for p in folded.parameters()) - sum(
        p.size for p in model.backbone.parameters()
    )
    assert num_head == (8 + 16 + 20 + 32) * 16 + 16 + 16 * 5 + 5


def test_only_segformer_is_folded() -> None:
    with pytest.raises(UserError, match="model Linear cannot be exported; expected SegFormer"):
        fold(nn.Linear(2, 2))
