"""Weight files: strict loading, starting weights, safety, and what a mistake says."""

from __future__ import annotations

import pickle
import tarfile

import numpy as np
import paddle
import pytest

from paddleseg_segformer.config import load_config
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.model_folder import build_model
from paddleseg_segformer.models import BACKBONES, MixVisionTransformerClassifier, SegFormer
from paddleseg_segformer.weights import load_pretrained, load_weights, save_weights
from paddleseg_segformer.weights.files.download import Remote
from paddleseg_segformer.weights.files.pickles import read_pickle


def segformer(variant: str = "B0", num_classes: int = 5, width: int = 32) -> SegFormer:
    return SegFormer(num_classes, BACKBONES[f"MixVisionTransformer_{variant}"](), width)


def equal(a: paddle.nn.Layer, b: paddle.nn.Layer, prefix: str = "") -> bool:
    state = b.state_dict()
    return all(
        (value == state[key]).all()
        for key, value in a.state_dict().items()
        if key.startswith(prefix)
    )


@pytest.mark.check
def test_saved_weights_load_back_equal_here_and_in_paddle(tmp_path):
    model, again = segformer(), segformer()
    path = tmp_path / "model.pdparams"
    save_weights(model, path)
    assert not equal(model, again)
    report = load_weights(again, path)
    assert len(report.matched) == len(model.state_dict()) and equal(model, again)
    for name, value in paddle.load(str(path)).items():
        np.testing.assert_array_equal(value.numpy(), model.state_dict()[name].numpy())


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model, path = segformer(), tmp_path / "model.pdparams"
    save_weights(model, path)
    before = path.read_bytes()

    def broken(content, target):
        with open(target, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(paddle, "save", broken)
    with pytest.raises(OSError, match="disk full"):
        save_weights(segformer(), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["model.pdparams"]


def test_another_variants_weights_are_refused_by_name(tmp_path):
    path = tmp_path / "model.pdparams"
    save_weights(segformer("B1"), path)
    with pytest.raises(UserError) as caught:
        load_weights(segformer("B0"), path)
    message = str(caught.value)
    assert "of MixVisionTransformer_B1, embedding_dim 32, 5 classes" in message
    assert "the model is MixVisionTransformer_B0" in message and "model.pdparams" in message


def test_missing_and_unexpected_keys_are_named(tmp_path):
    model = segformer()
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    state["linear_pred.weigth"] = state.pop("linear_pred.weight")
    path = tmp_path / "model.pdparams"
    paddle.save(state, str(path))
    with pytest.raises(
        UserError, match="missing: linear_pred.weight; unexpected: linear_pred.weigth"
    ):
        load_weights(model, path)


def test_classifier_weights_start_a_backbone(tmp_path, caplog):
    """PaddleSeg's ImageNet files hold the backbone's bare keys and the classifier beside them."""
    classifier = MixVisionTransformerClassifier(BACKBONES["MixVisionTransformer_B0"](), 10)
    state = {key.removeprefix("backbone."): value for key, value in classifier.state_dict().items()}
    path = tmp_path / "mix_vision_transformer_b0.pdparams"
    paddle.save(state, str(path))
    model = segformer()
    load_pretrained(model.backbone, str(path))
    assert equal(classifier.backbone, model.backbone)
    assert "left out head.weight" in caplog.text


@pytest.mark.check
def test_other_class_count_keeps_the_new_classifier(tmp_path, caplog):
    source, target = segformer(num_classes=7), segformer(num_classes=3)
    path = tmp_path / "model.pdparams"
    save_weights(source, path)
    before = target.linear_pred.weight.numpy().copy()
    load_pretrained(target, str(path))
    assert equal(target.backbone, source.backbone)
    np.testing.assert_array_equal(target.linear_pred.weight.numpy(), before)
    assert "left out linear_pred.weight" in caplog.text


@pytest.mark.check
def test_whole_models_weights_start_a_backbone(tmp_path):
    source, target = segformer(), BACKBONES["MixVisionTransformer_B0"]()
    path = tmp_path / "model.pdparams"
    save_weights(source, path)
    load_pretrained(target, str(path))
    assert equal(target, source.backbone)


def test_wrong_variant_is_no_start(tmp_path):
    path = tmp_path / "model.pdparams"
    save_weights(segformer("B1"), path)
    with pytest.raises(UserError, match="MixVisionTransformer_B1"):
        load_pretrained(segformer("B0").backbone, str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable weight file: it is empty"),
        (b"\x80\x04 something else", "not a readable Paddle weight file"),
        (pickle.dumps([1, 2]), "expected a dictionary of weights"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "model.pdparams"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_weights(segformer(), path)


def test_other_zip_files_are_refused(tmp_path):
    pytest.importorskip("torch")
    test_other_files_are_refused(
        tmp_path, b"PK\x03\x04 something else", "not a readable PyTorch weight file"
    )


def test_pickle_that_would_run_code_is_refused(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "model.pdparams"
    path.write_bytes(pickle.dumps({"weight": Attack()}))
    with pytest.raises(UserError, match="it would run"):
        read_pickle(path)
    assert not (tmp_path / "ran").exists()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere.pdparams: no such weight file"):
        load_weights(segformer(), tmp_path / "nowhere.pdparams")


URL = "http://127.0.0.1:9/weights/mix_vision_transformer_b0.tar.gz"


def test_unreachable_url_says_where_to_put_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLESEG_SEGFORMER_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_pretrained(segformer().backbone, URL)
    place = Remote.from_url(URL).target
    assert place.is_relative_to(tmp_path) and f"Put the file at {place}" in str(caught.value)


def test_archive_put_there_by_hand_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("PADDLESEG_SEGFORMER_HOME", str(tmp_path))
    source, target = segformer(), segformer()
    save_weights(source.backbone, tmp_path / "model.pdparams")
    place = Remote.from_url(URL).target
    place.parent.mkdir(parents=True)
    with tarfile.open(place, "w:gz") as archive:
        archive.add(tmp_path / "model.pdparams", "mix_vision_transformer_b0/model.pdparams")
    load_pretrained(target.backbone, URL)
    assert equal(target.backbone, source.backbone)


def test_pretrained_is_read_only_when_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("PADDLESEG_SEGFORMER_HOME", str(tmp_path))
    config = load_config("segformer_b0_camvid_480x360", [f"model.backbone.pretrained={URL}"])
    assert build_model(config).num_classes == 11
    with pytest.raises(UserError, match="cannot be fetched"):
        build_model(config, load_pretrained=True)
