from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
from small_models import HUB_SIZES

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface import (
    SegformerConfig,
    SegformerDecodeHead,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)
from paddleseg_segformer.huggingface.losses import classification_loss, segmentation_loss

TINY = {**HUB_SIZES, "drop_path_rate": 0.0}


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
    np.testing.assert_allclose(full.logits.numpy(), output.logits.numpy(), atol=1e-6)
    sizes = [[17, 25], [9, 13], [5, 7], [3, 4]]
    assert [state.shape[2:] for state in full.hidden_states] == sizes
    for state, feature in zip(full.hidden_states, model.backbone(x), strict=True):
        np.testing.assert_allclose(state.numpy(), feature.numpy(), atol=1e-5)
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


def test_outputs_are_mappings_of_what_is_there() -> None:
    model = SegformerForSemanticSegmentation(tiny())
    output = model(paddle.randn([1, 3, 32, 32]), output_hidden_states=True)
    assert list(output) == ["logits", "hidden_states"] == list(output.keys())
    assert len(output) == 2 and "logits" in output and "loss" not in output
    assert output.get("loss") is None and output.get("loss", 7) == 7
    assert dict(output.items())["logits"] is output.logits is output[0]
    with pytest.raises(KeyError):
        output["loss"]


@pytest.mark.parametrize(
    "kind", [SegformerModel, SegformerForSemanticSegmentation, SegformerForImageClassification]
)
def test_config_says_what_calls_leave_open(kind: type) -> None:
    config = tiny(output_hidden_states=True, output_attentions=True, return_dict=False)
    model = kind(config)
    model.eval()
    x = paddle.randn([1, 3, 32, 32])
    first, states, attentions = model(x)
    assert (len(states), len(attentions)) == (4, 5)
    assert len(model(x, output_attentions=False)) == 2
    output = model(x, output_hidden_states=False, output_attentions=False, return_dict=True)
    assert output.hidden_states is output.attentions is None
    np.testing.assert_allclose(output[0].numpy(), first.numpy(), atol=1e-5)


def test_parts_are_those_of_the_network() -> None:
    model = SegformerForSemanticSegmentation(tiny(num_labels=3))
    model.eval()
    x = paddle.randn([1, 3, 32, 32])
    states = model.segformer(x, output_hidden_states=True).hidden_states
    logits = model.decode_head(states).numpy()
    np.testing.assert_array_equal(logits, model(x).logits.numpy())
    head = {id(item) for item in model.decode_head.parameters()}
    encoder = {id(item) for item in model.segformer.parameters()}
    assert not head & encoder and head | encoder == {id(item) for item in model.parameters()}
    model.decode_head.classifier = paddle.nn.Conv2D(16, 7, 1)
    assert model(x).logits.shape == [1, 7, 8, 8]
    with pytest.raises(UserError, match="num_labels is 3, but the network has 7"):
        model.save_pretrained("nowhere")
    classifier = SegformerForImageClassification(tiny())
    classifier.classifier = paddle.nn.Linear(32, 6)
    assert classifier(x).logits.shape == [1, 6]
    assert SegformerDecodeHead(tiny(num_labels=4))(states).shape == [1, 4, 8, 8]


def test_facts_about_a_model() -> None:
    model = SegformerForSemanticSegmentation(SegformerConfig(num_labels=150))
    assert model.num_parameters() == 3_752_694  # of B0 in transformers
    for item in model.segformer.parameters():
        item.stop_gradient = True
    assert model.num_parameters(only_trainable=True) == 3_752_694 - model.segformer.num_parameters()
    assert model.num_labels == 150 and model.dtype == paddle.float32
    assert model.device == model.parameters()[0].place
    model.gradient_checkpointing_enable()
    assert model.backbone.use_recompute
    model.gradient_checkpointing_disable()
    assert not model.backbone.use_recompute


def test_new_weights_have_the_deviation_of_the_config() -> None:
    model = SegformerForImageClassification(tiny(initializer_range=0.3, num_labels=90))
    kinds = (paddle.nn.Linear, paddle.nn.Conv2D)
    layers = [layer for layer in model.sublayers() if isinstance(layer, kinds)]
    weights = np.concatenate([layer.weight.numpy().ravel() for layer in layers])
    assert weights.std() == pytest.approx(0.3, rel=0.02) and abs(weights.mean()) < 0.01
    assert all(float(layer.bias.abs().max()) == 0 for layer in layers)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_labels", 5, "num_labels is 5, but the network has 2"),
        ("id2label", {0: "a"}, "num_labels is 1, but the network has 2"),
        ("num_attention_heads", [1, 1, 5, 8], "num_attention_heads is .*, but the network has"),
        ("decoder_hidden_size", 32, "decoder_hidden_size is 32, but the network has 16"),
    ],
)
def test_config_that_left_its_network_is_not_saved(
    field: str, value: object, message: str, tmp_path: Path
) -> None:
    model = SegformerForSemanticSegmentation(tiny())
    setattr(model.config, field, value)
    with pytest.raises(UserError, match=message):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_classes_of_a_config_stay_one() -> None:
    config = SegformerConfig()
    config.id2label = {"0": "road", "1": "sky"}
    assert config.label2id == {"road": 0, "sky": 1} and config.num_labels == 2
    config.num_labels = 2
    assert config.classes == ["road", "sky"]
    config.num_labels = 3
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == config.to_dict()["label2id"] == {f"LABEL_{i}": i for i in range(3)}
    config.label2id = {f"LABEL_{i}": i for i in range(3)}
    for field, value in (
        ("label2id", {"sea": 0}),
        ("id2label", ["sea"]),
        ("id2label", {"sea": "blue"}),
        ("num_labels", "3"),
        ("hidden_act", "relu"),
    ):
        with pytest.raises(UserError, match=f"{field}: "):
            setattr(config, field, value)
    assert config.num_labels == 3


def test_config_keeps_what_else_it_is_given(tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING, "paddleseg_segformer"):
        config = tiny(task="roads", hidden_size=3)
    assert "hidden_size has no effect. Did you mean 'hidden_sizes'?" in caplog.text
    assert "task" not in caplog.text
    config.update({"task": "seas", "num_labels": 4})
    assert json.loads(config.to_json_string()) == json.loads(json.dumps(config.to_dict()))
    config.to_json_file(tmp_path / "any.json")
    back = SegformerConfig.from_json_file(tmp_path / "any.json")
    assert back.task == "seas" and back.num_labels == 4 and back.to_dict()["task"] == "seas"


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
