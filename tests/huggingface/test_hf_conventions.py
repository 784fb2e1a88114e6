"""What transformers' own tests ask of any model, config and image processor, asked of these."""

from __future__ import annotations

import copy
import inspect
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegformerModel,
)
from paddleseg_segformer.huggingface.outputs import BatchFeature, LogitsOutput
from paddleseg_segformer.models import attention

SIZES = {
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
    "num_labels": 3,
}
KINDS = [SegformerModel, SegformerForSemanticSegmentation, SegformerForImageClassification]
every_kind = pytest.mark.parametrize("kind", KINDS)
with_head = pytest.mark.parametrize("kind", KINDS[1:])
every_dtype = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "auto"])


def make(kind: type, **fields: Any) -> Any:
    model = kind(SegformerConfig(**{**SIZES, **fields}))
    model.eval()
    return model


def images(count: int = 2) -> paddle.Tensor:
    pixels = np.random.default_rng(count).standard_normal((count, 3, 64, 64))
    return paddle.to_tensor(pixels, "float32")


def labels_for(kind: type, count: int = 2) -> dict[str, paddle.Tensor]:
    """Return labels as a keyword, none for the encoder."""
    if kind is SegformerModel:
        return {}
    shape = [count, 64, 64] if kind is SegformerForSemanticSegmentation else [count]
    return {"labels": paddle.randint(0, 3, shape)}


def tensors(output: Any) -> Iterator[np.ndarray]:
    """Yield the tensors of an output, of tuples in it too."""
    for item in output if isinstance(output, tuple) else output.to_tuple():
        yield from tensors(item) if isinstance(item, tuple) else [item.numpy()]


def assert_equal(found: Any, expected: Any, atol: float = 0.0) -> None:
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


# --- models


@every_kind
def test_the_first_argument_is_the_main_input(kind: type) -> None:
    assert next(iter(inspect.signature(make(kind).forward).parameters)) == "pixel_values"
    assert kind.main_input_name == "pixel_values"


@every_kind
def test_two_calls_give_the_same(kind: type) -> None:
    model = make(kind, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    flags = {"output_hidden_states": True, "output_attentions": True}
    assert_equal(model(images(), **flags), model(images(), **flags))


@every_kind
def test_an_image_gives_the_same_alone_and_in_a_batch(kind: type) -> None:
    model = make(kind, output_hidden_states=True, output_attentions=True)
    batch = images(5)
    for found, expected in zip(tensors(model(batch)), tensors(model(batch[:1])), strict=True):
        np.testing.assert_allclose(found[:1], expected, rtol=1e-4, atol=1e-5)


@every_kind
@pytest.mark.parametrize("has_labels", [False, True])
@pytest.mark.parametrize("has_states", [False, True])
@pytest.mark.parametrize("has_attentions", [False, True])
def test_tuples_hold_what_outputs_hold(kind, has_labels, has_states, has_attentions) -> None:
    model, labels = make(kind), labels_for(kind) if has_labels else {}
    flags = {"output_hidden_states": has_states, "output_attentions": has_attentions}
    as_tuple = model(images(), **labels, **flags, return_dict=False)
    output = model(images(), **labels, **flags)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == len(output) == 1 + sum(
        [bool(labels), has_states, has_attentions]
    )
    assert_equal(as_tuple, output)


@every_kind
def test_states_and_attentions_have_their_sizes_and_attentions_come_last(kind: type) -> None:
    by_call = make(kind)(images(), output_hidden_states=True, output_attentions=True)
    by_config = make(kind, output_hidden_states=True, output_attentions=True)(images())
    for output in (by_call, by_config):
        shapes = [state.shape for state in output.hidden_states]
        assert shapes == [[2, 8, 16, 16], [2, 8, 8, 8], [2, 16, 4, 4], [2, 16, 2, 2]]
        shapes = [weights.shape for weights in output.attentions]
        assert shapes == [[2, 1, 256, 4], [2, 1, 64, 4], [2, 2, 16, 4], [2, 2, 4, 4]]
        assert output[-1] is output.attentions and list(output)[-1] == "attentions"


@every_kind
@pytest.mark.parametrize("is_training", [False, True])
def test_states_and_attentions_get_gradients(kind: type, is_training: bool) -> None:
    model = make(kind, output_hidden_states=True, output_attentions=True, drop_path_rate=0.0)
    if is_training:
        model.train()
    output = model(images())
    kept = [*output.hidden_states, *output.attentions]
    for item in kept:
        item.retain_grads()
    output[0].flatten()[0].backward(retain_graph=True)
    first = [item.grad.numpy().copy() for item in kept]
    assert all(np.abs(gradient).max() > 0 for gradient in first)
    output[0].flatten()[0].backward(retain_graph=True)  # Paddle keeps the last gradient
    again = [item.grad for item in kept]
    for gradients in (again, paddle.grad(output[0].flatten()[0], kept)):
        for item, gradient in zip(gradients, first, strict=True):
            np.testing.assert_allclose(item.numpy(), gradient, rtol=1e-4, atol=1e-8)


def test_gradients_of_attentions_are_what_the_output_changes_by(monkeypatch) -> None:
    """Against the outputs with all weights of the last block moved a little, in float64."""
    model = make(SegformerForSemanticSegmentation, initializer_range=0.2)
    model.to(dtype="float64")
    x = images(1).astype("float64")
    output = model(x, output_attentions=True)
    weights = output.attentions[3]
    weights.retain_grads()
    output.logits.sum().backward()
    change = paddle.randn(weights.shape, "float64")
    plain = attention.attention_weights

    def sum_at(step: float) -> float:
        def moved(q: paddle.Tensor, k: paddle.Tensor) -> paddle.Tensor:
            found = plain(q, k)
            return found + step * change if found.shape == change.shape else found

        monkeypatch.setattr(attention, "attention_weights", moved)
        with paddle.no_grad():
            return float(model(x).logits.sum())

    expected = (sum_at(1e-4) - sum_at(-1e-4)) / 2e-4
    assert abs(expected) > 1e-3
    assert float((weights.grad * change).sum()) == pytest.approx(expected, rel=1e-4)


@with_head
@pytest.mark.parametrize("by", ["call", "config", "none"])
def test_training_gives_every_weight_a_gradient_recomputed_or_not(kind: type, by: str) -> None:
    plain = make(kind, drop_path_rate=0.0, classifier_dropout_prob=0.0)
    model = make(
        kind, drop_path_rate=0.0, classifier_dropout_prob=0.0, gradient_checkpointing=by == "config"
    )
    model.set_state_dict(plain.state_dict())
    if by == "call":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert model.is_gradient_checkpointing is (by != "none")
    labels = labels_for(kind)
    for each in (plain, model):
        each.train()
        each(images(), **labels).loss.backward()
    gradients = {key: item.grad for key, item in model.named_parameters() if not item.stop_gradient}
    assert gradients and all(item is not None for item in gradients.values())
    for key, item in plain.named_parameters():
        if key in gradients:
            np.testing.assert_allclose(gradients[key].numpy(), item.grad.numpy(), atol=1e-5)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels"),
    [
        ("multi_label_classification", 2, np.zeros((2, 2), np.float32)),
        ("single_label_classification", 1, np.zeros(2, np.int64)),
        ("regression", 1, np.zeros(2, np.float32)),
    ],
)
def test_each_problem_type_trains(problem_type: str, num_labels: int, labels: np.ndarray) -> None:
    model = make(SegformerForImageClassification, problem_type=problem_type, num_labels=num_labels)
    model.train()
    loss = model(images(), labels=paddle.to_tensor(labels)).loss
    loss.backward()
    assert loss.shape == [] and float(loss) >= 0
    assert model.classifier.weight.grad is not None


def test_segmentation_of_one_class_has_a_loss() -> None:
    model = make(SegformerForSemanticSegmentation, num_labels=1)
    output = model(images(), labels=paddle.zeros([2, 64, 64], "int64"))
    assert output.logits.shape == [2, 1, 16, 16] and float(output.loss) > 0


@with_head
def test_a_batch_can_be_learnt_by_heart(kind: type) -> None:
    paddle.seed(0)
    model = make(kind, drop_path_rate=0.0, classifier_dropout_prob=0.0, initializer_range=0.1)
    model.train()
    labels = labels_for(kind)
    if kind is SegformerForSemanticSegmentation:  # stripes, which logits of 16x16 can show
        labels = {"labels": (paddle.arange(64) // 22).expand([2, 64, 64])}
    optimizer = paddle.optimizer.Adam(0.01, parameters=model.parameters())
    losses = []
    for _ in range(25):
        loss = model(images(), **labels).loss
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


# --- loading and saving


@every_kind
def test_a_folder_gives_the_same_outputs_saved_once_and_twice(kind: type, tmp_path: Path) -> None:
    model = make(kind)
    expected = model(images())
    for _ in range(2):
        model.save_pretrained(tmp_path)
        files = sorted(path.name for path in tmp_path.iterdir())
        assert files == ["config.json", "model.safetensors"]
        model = kind.from_pretrained(tmp_path)
        assert_equal(model(images()), expected)


@every_kind
def test_files_have_each_weight_once_and_whole(kind: type, tmp_path: Path) -> None:
    model = make(kind)
    model.save_pretrained(tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    assert all(array.flags.c_contiguous and np.isfinite(array).all() for array in arrays.values())
    counts = ("num_batches_tracked", "running_mean", "running_var")
    sizes = sum(array.size for key, array in arrays.items() if not key.endswith(counts))
    assert sizes == model.num_parameters()
    if kind is not SegformerModel:  # the encoder under the prefix of the class
        assert any(key.startswith(f"{kind.base_model_prefix}.") for key in arrays)


@every_kind
def test_models_without_a_folder_take_config_and_weights(kind: type) -> None:
    model = make(kind)
    config = copy.deepcopy(model.config)
    loaded = kind.from_pretrained(None, config=config, state_dict=model.state_dict())
    assert loaded.config == config and not loaded.training
    assert_equal(loaded(images()), model(images()))
    for arguments in ({}, {"config": config}, {"state_dict": model.state_dict()}):
        with pytest.raises(UserError, match="source: found None, which needs both"):
            kind.from_pretrained(None, **arguments)


@with_head
def test_a_head_on_a_bare_encoder_is_named_as_missing(kind, tmp_path: Path, caplog) -> None:
    model = make(kind)
    model.base_model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, "paddleseg_segformer"):
        loaded = kind.from_pretrained(tmp_path, num_labels=3)
    assert "has no such head; it keeps its initial weights" in caplog.text
    x = images()
    for found, expected in zip(loaded.backbone(x), model.backbone(x), strict=True):
        np.testing.assert_array_equal(found.numpy(), expected.numpy())


@with_head
def test_another_number_of_classes_leaves_the_rest_as_it_is(kind: type, tmp_path: Path) -> None:
    model = make(kind)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has 3 classes, the model is to have 42"):
        kind.from_pretrained(tmp_path, num_labels=42)
    loaded = kind.from_pretrained(tmp_path, num_labels=42, ignore_mismatched_sizes=True)
    before, after = model.state_dict(), loaded.state_dict()
    differing = {key for key in before if before[key].shape != after[key].shape}
    assert len(differing) == 2 and all(42 in after[key].shape for key in differing)
    for key in before.keys() - differing:
        np.testing.assert_array_equal(before[key].numpy(), after[key].numpy())
    assert abs(float(loaded.state_dict()[max(differing)].mean())) < 0.01


@every_kind
@every_dtype
def test_number_types_have_an_old_name_and_a_new_one(kind, dtype: str, tmp_path: Path) -> None:
    make(kind).save_pretrained(tmp_path)
    found = kind.from_pretrained(tmp_path, dtype=dtype)
    other = kind.from_pretrained(tmp_path, torch_dtype=dtype)
    expected = getattr(paddle, "float32" if dtype == "auto" else dtype)
    for one, another in zip(found.parameters(), other.parameters(), strict=True):
        assert one.dtype == another.dtype == expected
        assert bool((one == another).all())


@every_kind
def test_weights_that_are_none_of_the_models_are_refused(kind: type, tmp_path: Path) -> None:
    make(kind).save_pretrained(tmp_path)
    save_file({"tensor": np.float32([1, 2])}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="model.safetensors"):
        kind.from_pretrained(tmp_path)


def test_arguments_about_attention_are_accepted_and_lists_of_states_refused(tmp_path) -> None:
    model = make(SegformerModel)
    model.save_pretrained(tmp_path)
    loaded = SegformerModel.from_pretrained(tmp_path, attn_implementation="eager")
    assert_equal(loaded(images()), model(images()))
    with pytest.raises(UserError, match=r"output_hidden_states: found \[0, 2\], expected True or"):
        loaded(images(), output_hidden_states=[0, 2])


def test_hooks_on_parts_that_do_not_run_themselves_are_refused() -> None:
    model = make(SegformerForSemanticSegmentation)
    for part, name in ((model.segformer, "backbone"), (model.decode_head, "model")):
        for register in (part.register_forward_pre_hook, part.register_forward_post_hook):
            with pytest.raises(UserError, match=f"does not run itself.* the model's `{name}`"):
                register(print)
    calls: list[str] = []
    for part in (model.backbone, model.model, model.decode_head.classifier):
        part.register_forward_post_hook(lambda layer, *_: calls.append(type(layer).__name__))
    model(images())
    assert calls == ["MixVisionTransformer", "Conv2D", "SegFormer"]


# --- config

COMMON_FIELDS: dict[str, Any] = {  # of any config of transformers, all to be kept
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "architectures": ["BertModel"],
    "finetuning_task": "translation",
    "id2label": {0: "label"},
    "tokenizer_class": "BertTokenizerFast",
    "prefix": "prefix",
    "pad_token_id": 7,
    "exponential_decay_length_penalty": (5, 1.01),
    "task_specific_params": {"translation": "some_params"},
    "problem_type": "regression",
    "chunk_size_feed_forward": 5,
    "is_decoder": True,
}


@pytest.mark.parametrize("field", COMMON_FIELDS)
def test_config_keeps_fields_of_all_models(field: str, tmp_path: Path) -> None:
    value = COMMON_FIELDS[field]
    config = SegformerConfig(**{field: value})
    assert getattr(config, field) == value
    config.save_pretrained(tmp_path / "sub")
    back = SegformerConfig.from_pretrained(tmp_path, subfolder="sub")
    assert back.to_dict()[field] == (list(value) if isinstance(value, tuple) else value)


def test_config_goes_through_text_files_and_folders(tmp_path: Path) -> None:
    config = SegformerConfig(**SIZES, image_size=64)
    stated = json.loads(config.to_json_string())
    for key in SIZES.keys() - {"num_labels"}:
        assert stated[key] == SIZES[key]
    config.to_json_file(tmp_path / "any.json")
    config.save_pretrained(tmp_path)
    for back in (
        SegformerConfig.from_json_file(tmp_path / "any.json"),
        SegformerConfig.from_pretrained(tmp_path),
        SegformerConfig.from_dict(stated),
        copy.deepcopy(config),
    ):
        assert back.to_dict() == config.to_dict() and back == config
    with pytest.raises(UserError, match="no such file"):
        SegformerConfig.from_pretrained(tmp_path / "none")


def test_config_counts_its_classes_and_says_where_names_differ(caplog) -> None:
    config = SegformerConfig(num_labels=5)
    assert len(config.id2label) == len(config.label2id) == 5
    config.num_labels = 3
    assert len(config.id2label) == len(config.label2id) == 3
    with caplog.at_level(logging.WARNING, "paddleseg_segformer"):
        SegformerConfig(id2label={0: "a"}, label2id={"a": 0})
        assert not caplog.text
        config = SegformerConfig(id2label={0: "a"}, label2id={"b": 0})
    assert "label2id differs from id2label" in caplog.text and config.label2id == {"a": 0}


# --- image processor

KEPT = {"size": {"height": 30, "width": 30}, "do_normalize": True, "image_mean": [0.5, 0.4, 0.3]}


def batch_of(form: str, channels: int = 3) -> list[Any]:
    """Return images of several sizes, none square."""
    rng = np.random.default_rng(0)
    sizes = [(30, 47), (61, 40), (35, 90)]
    arrays = [rng.integers(0, 256, (*size, channels), np.uint8) for size in sizes]
    forms = {
        "pillow": Image.fromarray,
        "numpy": lambda x: x,
        "numpy, channels first": lambda x: x.transpose(2, 0, 1),
        "paddle": lambda x: paddle.to_tensor(np.ascontiguousarray(x.transpose(2, 0, 1))),
    }
    return [forms[form](x) for x in arrays]


@pytest.mark.parametrize("form", ["pillow", "numpy", "numpy, channels first", "paddle"])
def test_processor_takes_one_image_or_many_of_any_size(form: str) -> None:
    processor, batch = SegformerImageProcessor(**KEPT), batch_of(form)
    expected = processor(batch_of("numpy")).pixel_values.numpy()
    assert expected.shape == (3, 3, 30, 30)
    np.testing.assert_array_equal(processor(batch).pixel_values.numpy(), expected)
    one = processor(batch[0])["pixel_values"]
    assert one.shape == [1, 3, 30, 30]
    np.testing.assert_array_equal(one.numpy(), expected[:1])


def test_processor_takes_four_channels_with_a_mean_of_each() -> None:
    processor = SegformerImageProcessor(**KEPT)
    means = {"image_mean": [0.0] * 4, "image_std": [1.0] * 4, "input_data_format": "channels_last"}
    batch = batch_of("numpy", 4)
    assert processor(batch[0], **means).pixel_values.shape == [1, 4, 30, 30]
    assert processor(batch, **means).pixel_values.shape == [3, 4, 30, 30]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_all_forms_of_an_image_become_rgb_on_request(channels: int) -> None:
    rng = np.random.default_rng(channels)
    array = rng.integers(0, 256, (40, 100, channels), np.uint8)
    pillow = Image.fromarray(array[..., 0] if channels == 1 else array)
    batch = [pillow, array, array.transpose(2, 0, 1), paddle.to_tensor(array)]
    processor = SegformerImageProcessor(**KEPT, do_resize=False, do_rescale=False)
    processor.do_normalize = False
    found = processor(batch, do_convert_rgb=True, return_tensors="np").pixel_values
    share = array[..., 3:] / 255 if channels == 4 else 1.0
    expected = np.broadcast_to(share * array[..., :3] + (1 - share) * 255.0, (40, 100, 3))
    for image in found:
        np.testing.assert_allclose(image.transpose(1, 2, 0), expected, atol=1.0)
        np.testing.assert_array_equal(image, found[0])


@pytest.mark.parametrize("form", ["pillow", "numpy", "paddle"])
@pytest.mark.parametrize("is_batch", [False, True])
def test_processor_takes_maps_with_images(form: str, is_batch: bool) -> None:
    processor, batch = SegformerImageProcessor(**KEPT), batch_of(form)
    maps = [
        np.zeros((30, 47), np.int64),
        np.full((61, 40), 255, np.int64),
        np.eye(35, 90, dtype=int),
    ]
    if form == "pillow":
        maps = [Image.fromarray(item.astype(np.uint8)) for item in maps]
    if form == "paddle":
        maps = [paddle.to_tensor(item) for item in maps]
    given = (batch, maps) if is_batch else (batch[0], maps[0])
    features = processor(*given)
    count = 3 if is_batch else 1
    assert features["pixel_values"].shape == [count, 3, 30, 30]
    assert features["labels"].shape == [count, 30, 30] and features.labels.dtype == paddle.int64
    assert 0 <= int(features.labels.min()) <= int(features.labels.max()) <= 255
    processor.do_reduce_labels = True  # as an attribute too
    reduced = processor(*given).labels
    assert len(reduced) == count and int(reduced[0].min()) == int(reduced[0].max()) == 255


def test_processors_keep_settings_of_their_own(tmp_path: Path) -> None:
    one, other = SegformerImageProcessor(), SegformerImageProcessor()
    for changed, kept in ((one, other), (other, one)):
        before = copy.deepcopy(kept.to_dict())
        changed.size["height"] = 1
        changed.image_mean[0] = -1.0
        assert kept.to_dict() == before
        one, other = SegformerImageProcessor(), SegformerImageProcessor()
    given = {"height": 8, "width": 8}
    SegformerImageProcessor(size=given).size["height"] = 9
    assert given["height"] == 8


def test_processor_goes_through_text_files_and_folders(tmp_path: Path) -> None:
    processor = SegformerImageProcessor(**KEPT)
    for key, value in KEPT.items():
        assert getattr(processor, key) == value == json.loads(processor.to_json_string())[key]
    processor.to_json_file(tmp_path / "any.json")
    (path,) = processor.save_pretrained(tmp_path)
    assert json.loads(Path(path).read_text()) == processor.to_dict()
    for back in (
        SegformerImageProcessor.from_json_file(tmp_path / "any.json"),
        SegformerImageProcessor.from_pretrained(tmp_path),
        SegformerImageProcessor.from_dict(KEPT),
    ):
        assert back.to_dict() == processor.to_dict()
    assert SegformerImageProcessor.from_dict(KEPT, do_convert_rgb=False).do_convert_rgb is False


def test_features_move_and_change_their_type() -> None:
    maps = np.zeros((30, 47), np.int64)
    features = SegformerImageProcessor(**KEPT)(batch_of("numpy")[0], maps)
    assert features.to("cpu") is features and features.pixel_values.place.is_cpu_place()
    features.to("cpu", "bfloat16")
    assert features.pixel_values.dtype == paddle.bfloat16 and features.labels.dtype == paddle.int64
    assert features.to(dtype="float16").pixel_values.dtype == paddle.float16
    assert BatchFeature(other="text").to("cpu").other == "text"


def test_maps_and_scores_of_outputs_belong_together() -> None:
    processor = SegformerImageProcessor(**KEPT)
    outputs = LogitsOutput(logits=paddle.randn([3, 5, 30, 30]))
    for sizes, size in ((None, [30, 30]), ([(1, 4)] * 3, [1, 4])):
        maps = processor.post_process_semantic_segmentation(outputs, sizes)
        both = processor.post_process_semantic_segmentation(outputs, sizes, True)
        assert len(maps) == len(both) == 3
        for label, item in zip(maps, both, strict=True):
            assert label.shape == size and item.segmentation_scores.shape == [5, *size]
            assert bool((item.segmentation == label).all())
    with pytest.raises(UserError, match="found 4 sizes for 3 images"):
        processor.post_process_semantic_segmentation(outputs, [(1, 4)] * 4)
