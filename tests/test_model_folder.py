"""Models by the path of their weights: each builds, prepares images and predicts as its source."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import paddle
import pytest

import paddleseg_segformer
from paddleseg_segformer import Predictor, load_model
from paddleseg_segformer.cli import main
from paddleseg_segformer.config import load_config
from paddleseg_segformer.converting import prepare, save_model, write
from paddleseg_segformer.data.io import write_label
from paddleseg_segformer.data.labels import LABEL_SETS
from paddleseg_segformer.errors import UserError
from paddleseg_segformer.export import export_model
from paddleseg_segformer.huggingface import (
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)
from paddleseg_segformer.inference.overlay import write_image
from paddleseg_segformer.model_folder import config_of
from paddleseg_segformer.models import BACKBONES, SegFormer, SegFormerMM
from paddleseg_segformer.weights import save_weights

WIDTHS = {"embed_dims": [32, 64, 160, 256], "depths": [1, 1, 1, 1]}
CONFIG = """
model:
  type: SegFormer
  num_classes: 3
  embedding_dim: 16
  backbone: {type: MixVisionTransformer_B0, depths: [1, 1, 1, 1], norm_eps: 1.0e-5}
val_dataset:
  type: Dataset
  num_classes: 3
  classes: [road, sky, tree]
  palette: [[9, 9, 9], [0, 0, 255], [0, 255, 0]]
  transforms: [{type: ResizeByLong, long_size: 64}, {type: Normalize}]
test_config: {is_slide: true, crop_size: [48, 32], stride: [32, 32]}
"""
STREETS = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)


def randomized(model: paddle.nn.Layer) -> paddle.nn.Layer:
    paddle.seed(1)
    with paddle.no_grad():
        for name, tensor in model.state_dict().items():
            noise = paddle.randn(tensor.shape)
            value = noise.abs() + 0.5 if name.endswith("_variance") else tensor + 0.1 * noise
            tensor.set_value(value)
    model.eval()
    return model


def equal(model: paddle.nn.Layer, other: paddle.nn.Layer) -> bool:
    x = paddle.randn([1, 3, 64, 70])
    with paddle.no_grad():
        return bool(paddle.equal_all(model(x), other(x)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model folder."""
    (tmp_path / "config.yml").write_text(CONFIG)
    model = paddleseg_segformer.build_model(load_config(tmp_path / "config.yml"))
    save_model(randomized(model), load_config(tmp_path / "config.yml"), tmp_path / "model")
    return tmp_path / "model"


def test_model_folder_holds_all_that_prediction_needs(folder: Path, tmp_path: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"model.pdparams", "config.yml"}
    assert "optimizer" not in (folder / "config.yml").read_text()
    by_config = Predictor.from_config(tmp_path / "config.yml", folder / "model.pdparams")
    for path in (folder, folder / "model.pdparams"):
        predictor = Predictor.from_pretrained(path)
        assert predictor.settings == by_config.settings and predictor.settings.is_slide
        assert predictor.label_set == by_config.label_set
        assert predictor.label_set.classes == ("road", "sky", "tree")
        np.testing.assert_array_equal(predictor(STREETS).label, by_config(STREETS).label)
        assert equal(load_model(path), by_config.pipeline.network)
    predictor = Predictor.from_pretrained(folder, ["val_dataset.transforms=[]"], is_slide=False)
    assert not predictor.settings.is_slide and not predictor.pipeline.preprocess.sections
    predictor.save_pretrained(tmp_path / "again")
    assert Predictor.from_pretrained(tmp_path / "again").settings.is_slide  # as it was loaded


def test_weights_find_the_yaml_of_their_name(folder: Path, tmp_path: Path) -> None:
    (folder / "model.pdparams").rename(tmp_path / "best.pdparams")
    (folder / "config.yml").rename(tmp_path / "best.yml")
    assert Predictor.from_pretrained(tmp_path / "best.pdparams").settings.is_slide


def test_yaml_without_a_val_dataset_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="config.yml: has no val_dataset"):
        Predictor.from_pretrained(folder, ["val_dataset=null"])


def test_bare_paddle_weights_say_what_is_missing(folder: Path, tmp_path: Path, capsys) -> None:
    (folder / "config.yml").unlink()
    path = folder / "model.pdparams"
    with pytest.raises(UserError, match="nothing beside these weights .* says how images are"):
        Predictor.from_pretrained(path)
    assert load_model(path).num_classes == 3
    write_image(tmp_path / "a.png", STREETS)
    flags = ["--image_path", str(tmp_path / "a.png"), "--save_dir", str(tmp_path / "out")]
    assert main(["predict", "--model_path", str(path), *flags]) == 1
    assert "Give --config, or put the config of their training there" in capsys.readouterr().err


def test_hugging_face_folder_predicts_as_its_classes_do(tmp_path: Path) -> None:
    names = dict(enumerate(LABEL_SETS["cityscapes"].classes))
    config = SegformerConfig(id2label=names, depths=(1, 1, 1, 1), decoder_hidden_size=16)
    model = SegformerForSemanticSegmentation(config)
    randomized(model.model)
    processor = SegformerImageProcessor(
        size={"height": 48, "width": 80}, image_mean=[0.1] * 3, do_reduce_labels=True
    )
    model.save_pretrained(tmp_path / "hf")
    processor.save_pretrained(tmp_path / "hf")
    predictor = Predictor.from_pretrained(tmp_path / "hf")
    with paddle.no_grad():
        outputs = model.eval()(**processor(STREETS))
    expected = processor.post_process_semantic_segmentation(outputs, [STREETS.shape[:2]])[0]
    label = predictor(STREETS).label
    assert len(np.unique(label)) > 3
    assert (label != expected.numpy()).mean() < 2e-3
    assert predictor.label_set.palette == LABEL_SETS["cityscapes"].palette
    predictor.save_pretrained(tmp_path / "own")
    data = load_config(tmp_path / "own" / "config.yml").val_dataset
    assert data is not None and data["reduce_zero_label"]
    again = Predictor.from_pretrained(tmp_path / "own")
    np.testing.assert_array_equal(again(STREETS).label, label)
    predictor.save_pretrained(tmp_path / "back", format="hf")
    back = SegformerForSemanticSegmentation.from_pretrained(tmp_path / "back")
    assert equal(back.model, model.model) and back.config.id2label == names
    read = SegformerImageProcessor.from_pretrained(tmp_path / "back")
    assert read.size == processor.size and read.do_reduce_labels
    np.testing.assert_allclose(read.image_mean, processor.image_mean)


@pytest.mark.parametrize(
    ("to", "model_class", "epsilons"),
    [
        ("nvlabs", SegFormer, {1e-5, 1e-6}),
        ("smp", SegFormer, {1e-5, 1e-6}),
        ("mmseg", SegFormerMM, {1e-6}),
    ],
)
def test_weight_files_of_other_code_bases(
    to: str, model_class: type, epsilons: set[float], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    backbone = BACKBONES["MixVisionTransformer_B0"](depths=(1, 1, 1, 1))
    own = randomized(model_class(19, backbone, 16))
    save_weights(own, tmp_path / "own.pdparams")
    write(prepare(tmp_path / "own.pdparams", to), tmp_path / "theirs.pth")
    predictor = Predictor.from_pretrained(tmp_path / "theirs.pth", is_slide=False)
    network = predictor.pipeline.network
    found = {x._epsilon for x in network.sublayers() if isinstance(x, paddle.nn.LayerNorm)}
    assert found == epsilons
    state = own.state_dict()
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[name].numpy())
    normalize = predictor.pipeline.preprocess.normalize
    assert normalize is not None
    np.testing.assert_allclose(np.ravel(normalize.mean), [0.485, 0.456, 0.406], rtol=1e-6)
    assert predictor(STREETS).label.shape == STREETS.shape[:2]


def test_weights_of_smp_align_corners_wherever_they_go(tmp_path: Path) -> None:
    own = randomized(SegFormer(7, BACKBONES["MixVisionTransformer_B0"](depths=(1, 1, 1, 1)), 16))
    save_weights(own, tmp_path / "own.pdparams")
    write(prepare(tmp_path / "own.pdparams", "smp"), tmp_path / "theirs.safetensors")
    predictor = Predictor.from_pretrained(tmp_path / "theirs.safetensors")
    x = (STREETS / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    logits = own(paddle.to_tensor(x.transpose(2, 0, 1)[None], "float32"))
    resize = paddle.nn.functional.interpolate
    aligned, half = (
        resize(logits, [70, 90], mode="bilinear", align_corners=flag).argmax(axis=1)[0].numpy()
        for flag in (True, False)
    )
    assert (aligned != half).mean() > 0.01
    predictor.save_pretrained(tmp_path / "folder")
    pipeline = predictor.pipeline
    settings = {"preprocess": pipeline.preprocess, "settings": pipeline.settings}
    export_model(own, tmp_path / "export", formats=["paddle"], **settings)
    for other in (
        predictor,
        Predictor.from_pretrained(tmp_path / "folder"),
        Predictor.from_export(tmp_path / "export", device="cpu", backend="paddle"),
    ):
        assert (other(STREETS).label == aligned).mean() > 0.999
    with pytest.raises(UserError, match="output_op argmax: .* Take --output_op none"):
        export_model(own, tmp_path / "labels", output_op="argmax", **settings)
    assert any("aligned corners" in note for note in prepare(tmp_path / "folder", "hf").notes)


def test_classifier_is_loaded_but_predicts_no_labels(tmp_path: Path) -> None:
    config = SegformerConfig(num_labels=5, depths=(1, 1, 1, 1))
    SegformerForImageClassification(config).save_pretrained(tmp_path)
    assert load_model(tmp_path)(paddle.randn([1, 3, 64, 64])).shape == [1, 5]
    with pytest.raises(UserError, match="without a segmentation head"):
        config_of(tmp_path)


def test_a_predictor_without_a_config_cannot_be_saved(folder: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_pretrained(folder)
    bare = Predictor(predictor.pipeline.network, predictor.pipeline.preprocess)
    with pytest.raises(UserError, match="nothing says how to build its network again"):
        bare.save_pretrained(tmp_path / "x")


def test_weights_are_not_written_beside_others(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="holds model.safetensors of other weights"):
        Predictor.from_pretrained(folder).save_pretrained(tmp_path / "hf")


def test_what_a_format_cannot_say_is_logged_or_refused(
    folder: Path, tmp_path: Path, caplog
) -> None:
    predictor = Predictor.from_pretrained(folder)
    with caplog.at_level(logging.WARNING, "paddleseg_segformer"):
        predictor.save_pretrained(tmp_path / "hf", format="hf")
    assert "ResizeByLong" in caplog.text
    with pytest.raises(UserError, match="exactly"):
        predictor.save_pretrained(tmp_path / "mm.pth", format="mmseg")


def test_jobs_need_no_config_beside_a_model(folder: Path, tmp_path: Path, capsys) -> None:
    write_image(tmp_path / "images" / "a.png", STREETS)
    model = ["--model_path", str(folder)]
    flags = ["--image_path", str(tmp_path / "images"), "--save_dir", str(tmp_path / "out")]
    assert main(["predict", *model, *flags]) == 0
    assert (tmp_path / "out" / "pseudo_color_prediction" / "a.png").is_file()
    export = ["--save_dir", str(tmp_path / "export"), "--no-verify"]
    assert main(["export", *model, *export]) == 0
    label = Predictor.from_export(tmp_path / "export")(STREETS).label
    assert (label == Predictor.from_pretrained(folder)(STREETS).label).mean() > 0.999
    write_label(tmp_path / "images" / "a_label.png", np.ones((70, 90), np.uint8))
    (tmp_path / "list.txt").write_text("images/a.png images/a_label.png")
    data = [f"val_dataset.dataset_root={tmp_path}", f"val_dataset.val_path={tmp_path}/list.txt"]
    assert main(["val", *model, "--opts", "val_dataset.mode=val", *data]) == 0
    assert "road" in capsys.readouterr().out
    assert main(["val", *model]) == 1
    assert "val_dataset: Dataset needs mode, dataset_root" in capsys.readouterr().err
    assert main(["export", "--save_dir", str(tmp_path / "none")]) == 1
    assert "--config is missing" in capsys.readouterr().err
