from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn
from small_models import small_segformer

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.models.folded_encoder import FFN_PARTS
from paddleseg_segformer.models.folding import HEAD_WIDTH, fold


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("head", ["SegFormer", "SegFormerMM"])
def test_folded_head_gives_the_same_logits(small_model, rounding, head, align_corners) -> None:
    model = small_model(head, align_corners=align_corners)
    before = {key: value.numpy() for key, value in model.state_dict().items()}
    folded = fold(model)
    for height, width in ((64, 96), (97, 131), (29, 29)):
        x = paddle.randn([2, 3, height, width])
        with paddle.no_grad():
            expected, found = model(x).numpy(), folded(x).numpy()
        assert expected.std() > 0.3
        assert np.abs(found - expected).max() <= rounding(model, x)
    for key, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


@pytest.mark.parametrize(
    ("qkv_bias", "has_query_blocks", "merge"),
    [(False, True, (1, 1, 1, 1)), (True, False, (1, 1, 1, 1)), (True, True, (2, 3, 2, 2))],
)
def test_encoder_and_head_in_parts_give_the_same_maps(
    spread_out, qkv_bias, has_query_blocks, merge
) -> None:
    sizes = {"embed_dims": (8, 20, 20, 32), "depths": (1, 2, 1, 1), "mlp_ratios": (4, 3, 3, 4)}
    sizes["merge"] = merge
    model = small_segformer(width=2 * HEAD_WIDTH + 16, qkv_bias=qkv_bias, **sizes)
    spread_out(model)
    folded = fold(model, has_query_blocks)
    assert len(folded.heads) == 3
    for stage, num_parts in enumerate(FFN_PARTS):
        assert {len(block.mlp.parts) for block in folded.encoder.stages[stage]} == {num_parts}
    for height, width in ((64, 96), (97, 131), (29, 29)):
        x = paddle.randn([2, 3, height, width])
        with paddle.no_grad():
            pairs = zip(model.backbone(x), folded.encoder(x), strict=True)
            for expected, found in [*pairs, (model(x), folded(x))]:
                assert np.abs((found - expected).numpy()).max() <= 1e-5 * float(expected.std())


def test_folded_head_has_no_batch_norm_and_fewer_weights(small_model) -> None:
    model = small_model()
    folded = fold(model)
    layers = [type(layer) for layer in folded.sublayers()]
    assert nn.BatchNorm2D not in layers
    assert nn.Dropout2D not in layers
    num_head = sum(p.size for p in folded.heads.parameters())
    assert num_head == (8 + 16 + 20 + 32) * 16 + 16 + 16 * 5 + 5


def test_only_segformer_is_folded() -> None:
    with pytest.raises(UserError, match="model Linear cannot be exported; expected SegFormer"):
        fold(nn.Linear(2, 2))
