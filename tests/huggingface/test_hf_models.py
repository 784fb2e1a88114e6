from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from paddleseg_segformer.huggingface.losses import classification_loss, segmentation_loss

TINY = {
    "hidden_sizes": (8, 16, 20, 32),
    "depths": (1, 2, 1, 1),
    "decoder_hidden_size": 16,
    "drop_path_rate": 0.0,
}


def tiny(**fields: object) -> SegformerConfig:
    return SegformerConfig(**{**TINY, **fields})


def test_segmentation_output() -> None:
    model = SegformerForSemanticSegmentation(tiny(num_labels=5))
    model.eval()
    x = paddle.randn([2, 3, 65, 97])
    output = model(x)
    assert output.logits.shape == [2, 5, 17, 25]
    assert output.loss is output.hidden_states is output.attentions is None
    np.testing.assert_array_equal(output.logits.numpy(), model.model(x).numpy())
    labels = paddle.randint(0, 5, [2, 65, 97])
    full = model(pixel_values=x, labels=labels, output_hidden_states=True, output_attentions=True)
    np.testing.assert_array_equal(full.logits.numpy(), output.logits.numpy())
    sizes = [[17, 25], [9, 13], [5, 7], [3, 4]]
    assert [state.shape[2:] for state in full.hidden_states] == sizes
    for state, feature in zip(full.hidden_states, model.backbone(x), strict=True):
        np.testing.assert_array_equal(state.numpy(), feature.numpy())
    assert [item.shape[1] for item in full.attentions] == [1, 2, 2, 5, 8]
    assert full.attentions[1].shape == [2, 2, 9 * 13, 2 * 3]
    for weights in full.attentions:
        np.testing.assert_allclose(weights.sum(-1).numpy(), 1, atol=1e-5)
    assert len(full.to_tuple()) == 4 and full[0] is full.loss is full["loss"]
    assert output[0] is output.logits
    with pytest.raises(KeyError):
        full["logit"]


@pytest.mark.parametrize("is_map", [True, False])
def test_encoder_output(is_map: bool) -> None:
    model = SegformerModel(tiny(reshape_last_stage=is_map))
    model.eval()
    x = paddle.randn([1, 3, 33, 70])
    output = model(x, output_hidden_states=True)
    last = model.backbone(x)[-1]
    expected = last if is_map else last.flatten(2).transpose([0, 2, 1])
    np.testing.assert_array_equal(output.last_hidden_state.numpy(), expected.numpy())
    np.testing.assert_array_equal(output.hidden_states[-1].numpy(), expected.numpy())
    assert output.attentions is None and len(output[1]) == 4


def test_segmentation_keeps_maps_where_the_encoder_would_give_tokens() -> None:
    model = SegformerForSemanticSegmentation(tiny(reshape_last_stage=False))
    model.eval()
    output = model(paddle.randn([1, 3, 40, 90]), output_hidden_states=True)
    assert output.hidden_states[-1].shape == [1, 32, 2, 3]


def test_classifier_output_and_its_losses() -> None:
    model = SegformerForImageClassification(tiny(num_labels=4))
    model.eval()
    x = paddle.randn([3, 3, 64, 64])
    output = model(x, labels=paddle.to_tensor([0, 3, 1]), output_hidden_states=True)
    np.testing.assert_allclose(output.logits.numpy(), model.model(x).numpy(), atol=1e-6)
    expected = F.cross_entropy(output.logits, paddle.to_tensor([0, 3, 1]))
    assert float(output.loss) == pytest.approx(float(expected))
    assert len(output.hidden_states) == 4 and output.attentions is None
    several = paddle.randint(0, 2, [3, 4]).astype("float32")
    expected = F.binary_cross_entropy_with_logits(output.logits, several)
    assert float(model(x, labels=several).loss) == pytest.approx(float(expected))
    assert float(model(x, labels=paddle.to_tensor([0, 3, 1])).loss) == pytest.approx(
        float(output.loss)
    )  # the problem type of one call does not stick


def test_regression_loss_and_unknown_problem_type() -> None:
    logits, labels = paddle.to_tensor([[1.0], [3.0]]), paddle.to_tensor([2.0, 5.0])
    assert float(classification_loss(logits, labels, None)) == pytest.approx(2.5)
    with pytest.raises(UserError, match="Did you mean 'regression'"):
        classification_loss(logits, labels, "regresion")


def test_loss_of_several_classes_is_the_mean_over_valid_pixels() -> None:
    logits = paddle.randn([2, 3, 8, 8])
    labels = np.random.choice([0, 1, 2, 255], (2, 32, 32))
    full = F.interpolate(logits, (32, 32), mode="bilinear").numpy()
    log_p = full - np.log(np.exp(full).sum(1, keepdims=True))
    valid = labels != 255
    picked = np.take_along_axis(log_p, np.where(valid, labels, 0)[:, None], 1)[:, 0]
    found = segmentation_loss(logits, paddle.to_tensor(labels), 255)
    assert float(found) == pytest.approx(-picked[valid].mean(), rel=1e-5)


def test_loss_of_one_class_is_the_mean_over_all_pixels() -> None:
    logits = paddle.randn([2, 1, 8, 8])
    labels = np.random.choice([0, 1, -1, 255], (2, 32, 32))
    full = F.interpolate(logits, (32, 32), mode="bilinear").numpy()[:, 0]
    losses = np.where(labels == 1, np.log1p(np.exp(-full)), np.log1p(np.exp(full)))
    losses[(labels == 255) | (labels == -1)] = 0
    found = segmentation_loss(logits, paddle.to_tensor(labels), 255)
    assert float(found) == pytest.approx(losses.mean(), rel=1e-5)


def test_gradients_flow_from_the_loss() -> None:
    model = SegformerForSemanticSegmentation(tiny(num_labels=3))
    model.train()
    model(paddle.randn([2, 3, 64, 64]), labels=paddle.randint(0, 3, [2, 64, 64])).loss.backward()
    trained = [item for item in model.parameters() if not item.stop_gradient]
    assert trained and all(item.grad is not None for item in trained)


def test_no_class_is_refused() -> None:
    with pytest.raises(UserError, match="num_classes: found 0, expected 1 or more"):
        SegformerForSemanticSegmentation(tiny(num_labels=0))


def test_config_names_classes() -> None:
    config = SegformerConfig(id2label={"1": "sky", "0": "road"})
    assert (config.num_labels, config.classes) == (2, ["road", "sky"])
    assert config.label2id == {"road": 0, "sky": 1}
    assert SegformerConfig().classes == ["LABEL_0", "LABEL_1"]
    assert SegformerConfig.from_section(config.section("SegFormer")).num_labels == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels is 3, but id2label names 1"),
        ({"patch_sizes": [7, 3, 3, 5]}, "patch_sizes: found"),
        ({"hidden_act": "relu"}, "hidden_act: found relu, expected gelu"),
    ],
)
def test_config_mistakes_are_one_line(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SegformerConfig(**fields)
