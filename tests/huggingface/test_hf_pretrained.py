"""Loading and saving: what is taken over, what starts anew, what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import paddle
import pytest
from small_models import HUB_SIZES

from paddleseg_segformer.errors import UserError
from paddleseg_segformer.huggingface import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    SegformerModel,
)
from paddleseg_segformer.models import BACKBONES, SegFormer, SegFormerMM
from paddleseg_segformer.weights import save_weights

CLASSES = {0: "road", 1: "sky", 2: "tree"}
BACKBONE = {"embed_dims": (8, 16, 20, 32), "depths": (1, 1, 1, 1)}


def epsilons(model: paddle.nn.Layer) -> set[float]:
    return {x._epsilon for x in model.sublayers() if isinstance(x, paddle.nn.LayerNorm)}


def equal(model: paddle.nn.Layer, other: paddle.nn.Layer) -> bool:
    own, others = model.state_dict(), other.state_dict()
    return own.keys() == others.keys() and all(
        np.array_equal(own[key].numpy(), others[key].numpy()) for key in own
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a segmentation model of three classes."""
    config = SegformerConfig(**HUB_SIZES, id2label=CLASSES, semantic_loss_ignore_index=9)
    SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "seg")
    return tmp_path / "seg"


def test_round_trip_keeps_weights_and_config(folder: Path, tmp_path: Path) -> None:
    model = SegformerForSemanticSegmentation.from_pretrained(folder)
    assert not model.training and model.config.id2label == CLASSES
    assert model.config.semantic_loss_ignore_index == 9
    assert epsilons(model) == {1e-5}
    model.save_pretrained(tmp_path / "again")
    again = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "again")
    assert equal(model, again) and again.config == model.config
    content = json.loads((tmp_path / "again" / "config.json").read_text())
    assert content["architectures"] == ["SegformerForSemanticSegmentation"]
    assert content["id2label"] == {"0": "road", "1": "sky", "2": "tree"}


def test_other_classes_are_taken_on_request_only(folder: Path) -> None:
    load = SegformerForSemanticSegmentation.from_pretrained
    with pytest.raises(UserError, match="seg: has 3 classes, the model is to have 5"):
        load(folder, num_labels=5)
    model = load(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert model.config.classes[4] == "LABEL_4" and model.model.linear_pred.weight.shape[0] == 5
    assert equal(model.backbone, load(folder).backbone)
    renamed = load(folder, id2label={0: "a", 1: "b", 2: "c"}, label2id={"a": 0, "b": 1, "c": 2})
    assert renamed.config.classes == ["a", "b", "c"]


def test_encoder_goes_from_any_model_to_any_other(folder: Path, tmp_path: Path, caplog) -> None:
    encoder = SegformerModel.from_pretrained(folder)
    encoder.save_pretrained(tmp_path / "encoder")
    with caplog.at_level(logging.WARNING, "paddleseg_segformer"):
        classifier = SegformerForImageClassification.from_pretrained(
            tmp_path / "encoder", num_labels=4
        )
    assert "encoder: has no such head; it keeps its initial weights" in caplog.text
    assert equal(classifier.backbone, encoder.backbone) and classifier.model.num_classes == 4
    classifier.save_pretrained(tmp_path / "classifier")
    model = SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "classifier", id2label=CLASSES
    )
    assert equal(model.backbone, encoder.backbone) and model.model.num_classes == 3


def test_weight_files_of_this_package_keep_their_epsilons(tmp_path: Path) -> None:
    own = SegFormer(3, BACKBONES["MixVisionTransformer_B0"](**BACKBONE), 16)
    save_weights(own, tmp_path / "model.pdparams")
    model = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model.pdparams")
    assert equal(model.model, own) and epsilons(model) == {1e-5, 1e-6}
    assert model.config.hidden_sizes == [8, 16, 20, 32] and model.config.num_labels == 3
    again = SegformerForSemanticSegmentation.from_pretrained(
        tmp_path / "model.pdparams", local_files_only=True, revision="main"
    )
    assert equal(again, model)


def test_encoder_of_any_size_is_loaded(tmp_path: Path) -> None:
    encoder = SegformerModel(SegformerConfig(**HUB_SIZES))
    encoder.save_pretrained(tmp_path)
    assert equal(SegformerModel.from_pretrained(tmp_path), encoder)
    (tmp_path / "config.json").unlink()  # the weights alone show it
    assert equal(SegformerModel.from_pretrained(tmp_path / "model.safetensors"), encoder)


def test_arguments_of_transformers(folder: Path, tmp_path: Path) -> None:
    load = SegformerForSemanticSegmentation.from_pretrained
    model = load(folder, local_files_only=True, use_safetensors=True)
    assert equal(model, load(tmp_path, subfolder="seg"))
    assert SegformerConfig.from_pretrained(tmp_path, subfolder="seg") == model.config
    other = load(folder, config=folder / "config.json", output_attentions=True)
    assert other.config.output_attentions and equal(other, model)
    config = SegformerConfig(**HUB_SIZES, num_labels=3)
    assert load(folder, config=config).config is config
    for dtype in ("float16", "torch.bfloat16", paddle.float64):
        half = load(folder, dtype=dtype)
        assert {str(item.dtype) for item in half.parameters()} == {
            f"paddle.{str(dtype).rpartition('.')[2]}"
        }
    half.save_pretrained(tmp_path / "half")
    assert equal(load(tmp_path / "half"), model)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float32"
    for arguments, message in (
        ({"output_loading_info": True}, "^unknown argument 'output_loading_info'"),
        ({"num_label": 3}, "^unknown argument 'num_label'. Did you mean 'num_labels'"),
        ({"dtype": "int8"}, "^dtype: found 'int8', expected one of float32"),
    ):
        with pytest.raises(UserError, match=message):
            load(folder, **arguments)


def test_weights_of_ones_own(folder: Path, tmp_path: Path) -> None:
    load = SegformerForSemanticSegmentation.from_pretrained
    model = load(folder)
    state = {key: item * 2 for key, item in model.state_dict().items()}
    doubled = load(folder, state_dict=state)
    assert all(
        np.array_equal(doubled.state_dict()[key].numpy(), state[key].numpy()) for key in state
    )
    model.save_pretrained(tmp_path / "doubled", state_dict=state)
    assert equal(load(tmp_path / "doubled"), doubled) and not equal(model, doubled)
    del state["model.linear_pred.bias"]
    for call in (lambda: load(folder, state_dict=state), lambda: model.save_pretrained("a", state)):
        with pytest.raises(
            UserError, match="state_dict: 1 names .* such as model.linear_pred.bias"
        ):
            call()


def test_three_stages_are_named(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "num_encoder_blocks": 3}))
    with pytest.raises(UserError, match="config.json: num_encoder_blocks: found 3, expected 4"):
        SegformerForSemanticSegmentation.from_pretrained(folder)


def test_mmsegmentations_head_is_refused(tmp_path: Path) -> None:
    own = SegFormerMM(3, BACKBONES["MixVisionTransformer_B0"](**BACKBONE), 16)
    save_weights(own, tmp_path / "model.pdparams")
    with pytest.raises(UserError, match="model.pdparams: has mmsegmentation's head"):
        SegformerForSemanticSegmentation.from_pretrained(tmp_path / "model.pdparams")


def test_config_file_mistakes_name_it(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "hidden_act": "relu"}))
    with pytest.raises(UserError, match="config.json: hidden_act"):
        SegformerForSemanticSegmentation.from_pretrained(folder)
    with pytest.raises(UserError, match="config.json: no such file"):
        SegformerConfig.from_pretrained(folder / "nowhere")


@pytest.mark.parametrize(
    "loaded", [SegformerForSemanticSegmentation, SegformerImageProcessor, SegformerConfig]
)
def test_names_on_the_hub_are_told_how_to_get(loaded: type) -> None:
    with pytest.raises(UserError, match="hf download nvidia/segformer-b0 --local-dir FOLDER"):
        loaded.from_pretrained("nvidia/segformer-b0")
